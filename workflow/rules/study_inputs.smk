# What the rules of studies take; no rule is defined here.
from mlip.config.study import study_names
from mlip.studies.experiments import experiments_of

EXPERIMENTS = {study: experiments_of(study) for study in study_names()}


wildcard_constraints:
    study="|".join(map(re.escape, study_names())),
    round=r"\d{2}",
    experiment="|".join(sorted(set().union(*EXPERIMENTS.values()))),
    part=r"[\w-]+",
    page=r"[\w-]+",


def study_settings(wildcards):
    """Section ``studies.<study>``."""
    return getattr(CONFIG.studies, wildcards.study).model_dump(mode="json")


def code_of_study(step):
    """A params function: the digest of what a step of the study depends on."""

    def code(wildcards):
        return code_of_step(step, wildcards.study)

    return code


def final_settings(*names):
    """A params function: the named sections as they are in the loop's last iteration."""

    def select(wildcards):
        current = CONFIG.at_iteration(last_iteration())
        return {name: getattr(current, name).model_dump(mode="json") for name in names}

    return select


def round_folder(wildcards, before=0):
    """Folder of a round, or of one ``before`` it."""
    return f"results/{wildcards.system}/studies/{wildcards.study}/round_{int(wildcards.round) - before:02d}"


def potential_of_round(wildcards, before=0):
    """The potential of a round, or of one ``before`` it; in round 0 the deployed one."""
    first = int(wildcards.round) - before == 0
    folder = f"results/{wildcards.system}/potential" if first else f"{round_folder(wildcards, before)}/potential"
    return [f"{folder}/{name}" for name in POTENTIAL_FILES]


def dataset_of_round(wildcards, before=0):
    """The data behind the potential of a round, or of one ``before`` it; in round 0 the loop's last."""
    if int(wildcards.round) - before == 0:
        folder = f"results/{wildcards.system}/iter_{iteration_deployed(wildcards)}/collect_dataset"
    else:
        folder = f"{round_folder(wildcards, before)}/dataset"
    return [f"{folder}/{name}" for name in DATASET_FILES]


def training_data_of_round(wildcards):
    """What the potential of a round was trained on."""
    return dataset_of_round(wildcards)[0]


def test_data_of_round(wildcards):
    """What it was not trained on."""
    return dataset_of_round(wildcards)[2]


def dataset_before(wildcards):
    """The data that a round's labels are joined with."""
    return dataset_of_round(wildcards, before=1)


def candidates_before(wildcards):
    """The structures that a round labels."""
    return f"{round_folder(wildcards, before=1)}/candidates.extxyz"


def weights_before(wildcards):
    """The potential that a round's training starts from; none where the loop starts from scratch."""
    train = CONFIG.at_iteration(last_iteration()).train
    return potential_of_round(wildcards, before=1) if train.restart == "previous" and BACKEND.restarts else []


def study_label_settings(wildcards):
    """What decides the labels of a shard."""
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


def decisions_of_study(wildcards):
    """Those of every round but the last, which chooses nothing."""
    return rounds_of_study("decisions.csv")(wildcards)[:-1]


def experiment_of(wildcards):
    """The experiment as its study declares it."""
    found = EXPERIMENTS[wildcards.study].get(wildcards.experiment)
    if found is None:
        names = ", ".join(EXPERIMENTS[wildcards.study]) or "none"
        raise WorkflowError(f"study {wildcards.study} has no experiment {wildcards.experiment}; it has: {names}")
    return found


def part_of(wildcards):
    """The part of an experiment as the configuration shapes it."""
    parts = {part.name: part for part in experiment_of(wildcards).parts(getattr(CONFIG.studies, wildcards.study))}
    if wildcards.part not in parts:
        raise WorkflowError(f"{wildcards.experiment} has no part {wildcards.part}; it has: {', '.join(parts)}")
    return parts[wildcards.part]


def inputs_of_part(wildcards):
    """What a part of an experiment needs, each under its name."""
    needs, results = part_of(wildcards).needs, f"results/{wildcards.system}"
    dataset = f"{results}/iter_{iteration_deployed(wildcards)}/collect_dataset"
    files = {
        "dataset": [f"{dataset}/train.extxyz", f"{dataset}/valid.extxyz"],
        "isolated_atoms": [f"{results}/label_references/isolated_atoms.json"],
        "potential": [f"{results}/potential/{name}" for name in POTENTIAL_FILES],
        "reference": [f"{results}/studies/{wildcards.study}/reference.nc"],
    }
    needed = {need: files[need] for need in needs if need in files}
    if "dataset" in needed:
        # Named so that Snakemake asks again for the last iteration after each assessment.
        needed["assessments"] = [f"{results}/iter_{i}/assess_potential/assessment.json" for i in iterations(wildcards)]
    return needed


def settings_of_part(wildcards):
    """What a part of an experiment depends on beside its files."""
    part = part_of(wildcards)
    train = final_settings("train")(wildcards) if "dataset" in part.needs else section("train")(wildcards)
    return train | {"plan": part.plan, "label": label_settings(wildcards) if "labels" in part.needs else None}


def results_of_page(wildcards):
    """The results of the parts that a page of an experiment reports."""
    folder = f"results/{wildcards.system}/studies/{wildcards.study}/{wildcards.experiment}"
    pages = experiment_of(wildcards).pages(getattr(CONFIG.studies, wildcards.study))
    if wildcards.page not in pages:
        raise WorkflowError(f"{wildcards.experiment} has no page {wildcards.page}; it has: {', '.join(pages)}")
    return [f"{folder}/{part}/result.json" for part in pages[wildcards.page]]


def code_of_experiment(step):
    """A params function: the digest of what a step of an experiment depends on."""

    def code(wildcards):
        return code_digest(*modules_of_step(step, BACKEND, wildcards.study, experiment_of(wildcards).module))

    return code
