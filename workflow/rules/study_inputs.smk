# What the rules of studies take; no rule is defined here.
from mlip.config.study import study_names

STUDY = "results/{system}/studies/{study}"


wildcard_constraints:
    study="|".join(map(re.escape, study_names())),
    round=r"\d{2}",


def study_settings(wildcards):
    return getattr(CONFIG.studies, wildcards.study).model_dump(mode="json")


def study_code(wildcards):
    return code_digest("mlip.studies.steps", f"mlip.studies.{wildcards.study}.study", BACKEND.potential_code)


def final_settings(*names):
    """A params function: the named sections as they are in the loop's last iteration."""

    def select(wildcards):
        current = CONFIG.at_iteration(last_iteration())
        return {name: getattr(current, name).model_dump(mode="json") for name in names}

    return select


def round_folder(wildcards, before=0):
    return f"results/{wildcards.system}/studies/{wildcards.study}/round_{int(wildcards.round) - before:02d}"


def potential_of_round(wildcards, before=0):
    """The potential of a round, or of one ``before`` it; in round 0 the deployed one."""
    first = int(wildcards.round) - before == 0
    folder = f"results/{wildcards.system}/potential" if first else f"{round_folder(wildcards, before)}/potential"
    return [f"{folder}/{name}" for name in POTENTIAL_FILES]


def dataset_of_round(wildcards, before=0):
    """The data behind the potential of a round, or of one ``before`` it; in round 0 the loop's last."""
    names = ("train.extxyz", "valid.extxyz", "test.extxyz", "dataset.json")
    if int(wildcards.round) - before == 0:
        folder = f"results/{wildcards.system}/iter_{last_iteration():02d}/collect_dataset"
    else:
        folder = f"{round_folder(wildcards, before)}/dataset"
    return [f"{folder}/{name}" for name in names]


def weights_before(wildcards):
    """The potential that a round's training starts from; none where the loop starts from scratch."""
    train = CONFIG.at_iteration(last_iteration()).train
    return potential_of_round(wildcards, before=1) if train.restart == "previous" and BACKEND.restarts else []


def study_label_settings(wildcards):
    return label_settings(wildcards) | {"n_shards": CONFIG.label.n_shards}


def study_shards(suffix):
    """An input function: the shards of a round with this suffix."""

    def files(wildcards):
        return [f"{round_folder(wildcards)}/labels/shard_{k:03d}.{suffix}" for k in range(CONFIG.label.n_shards)]

    return files


def rounds_of_study(name):
    """An input function: this file of each of a study's rounds."""

    def files(wildcards):
        n_rounds = study_settings(wildcards)["rounds"]
        folder = f"results/{wildcards.system}/studies/{wildcards.study}"
        return [f"{folder}/round_{k:02d}/{name}" for k in range(n_rounds + 1)]

    return files
