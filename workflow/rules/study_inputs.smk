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
    """Section ``studies.<study>`` but for what concerns its trainings alone."""
    return settings_of_study(wildcards).model_dump(mode="json", exclude={"train"})


def settings_of_study(wildcards):
    """The section itself."""
    return getattr(CONFIG.studies, wildcards.study)


def structure_files_of_study(wildcards):
    """Files of structures that the loop or the study reads."""
    files = list(dict.fromkeys([*STRUCTURE_FILES, *settings_of_study(wildcards).files()]))
    for missing in (file for file in files if not Path(file).is_file()):
        raise WorkflowError(f"studies.{wildcards.study}: no file {missing}; give a path relative to {Path.cwd()}")
    return files


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


def training_of_study(wildcards):
    """Section ``train``, as it is in the loop's last iteration, with the study's changes."""
    iteration = 0 if settings_of_study(wildcards).without_loop() else last_iteration()
    return {"train": CONFIG.train_of_study(wildcards.study, iteration).model_dump(mode="json")}


def first_round_of_training(wildcards):
    """The round that has the first potential of the study's own: it also gets the labels of the reference."""
    return 0 if settings_of_study(wildcards).without_loop() else 1


def is_deployed(wildcards, number):
    """Whether round ``number`` has the loop's potential and data."""
    return number < first_round_of_training(wildcards)


def assessments_before_study(wildcards):
    """Those of the loop, named so that Snakemake asks again for the last iteration after each of them."""
    if settings_of_study(wildcards).without_loop():
        return []
    return [file_of_step(wildcards, "assess_potential", "assessment.json", iteration=i) for i in iterations(wildcards)]


def reference_to_begin_with(wildcards):
    """The study's reference, where a measurement begins with it."""
    if not settings_of_study(wildcards).measures_from_reference():
        return []
    names = ("reference.nc", "reference.extxyz")
    return [file_of_step(wildcards, "refer_study", name, study=wildcards.study) for name in names]


def file_of_round(wildcards, step, name, before=0, **values):
    """The file called ``name`` that ``step`` of the study writes in the job's round, or in one ``before`` it."""
    number = int(wildcards.round) - before
    return file_of_step(wildcards, step, name, study=wildcards.study, round=number, **values)


def potential_of_round(wildcards, before=0):
    """The potential of a round, or of one ``before`` it; in round 0 the deployed one, or the one before it that saw no
    audit where that was trained on them, for audits are what it is tested on here."""
    if not is_deployed(wildcards, int(wildcards.round) - before):
        return [file_of_round(wildcards, "train_study", name, before) for name in POTENTIAL_FILES]
    if CONFIG.deploy.retrain == "all":
        judged = {"step": "train_committee", "iteration": last_iteration()}
        files = [file_of_step(wildcards, name=name, **judged) for name in POTENTIAL_FILES]
        return files + assessments_before_study(wildcards)
    return [file_of_step(wildcards, "deploy_potential", name) for name in POTENTIAL_FILES]


def data_of_round(wildcards, name, before=0):
    """One file of the data behind the potential of a round, or of one ``before`` it; in round 0 of the loop's last."""
    if is_deployed(wildcards, int(wildcards.round) - before):
        return file_of_step(wildcards, "collect_dataset", name, iteration=iteration_deployed(wildcards))
    return file_of_round(wildcards, "join_labels", name, before)


def training_data_of_round(wildcards):
    """What the potential of a round was trained on."""
    return data_of_round(wildcards, "train.extxyz")


def test_data_of_round(wildcards):
    """What it was not trained on."""
    return data_of_round(wildcards, "test.extxyz")


def dataset_before(wildcards):
    """The data that a round's labels are joined with; none before round 0."""
    if int(wildcards.round) == 0:
        return []
    return [data_of_round(wildcards, name, before=1) for name in DATA_CARRIED_ON]


def candidates_before(wildcards):
    """The structures that a round labels."""
    return file_of_round(wildcards, "acquire_candidates", "candidates.extxyz", before=1)


def weights_before(wildcards):
    """The potential that a round's training starts from; none where it starts from scratch."""
    goes_on = training_of_study(wildcards)["train"]["restart"] == "previous" and BACKEND.restarts
    return potential_of_round(wildcards, before=1) if goes_on and int(wildcards.round) else []


def study_label_settings(wildcards):
    """What decides the labels of a shard."""
    return label_settings(wildcards) | {"n_shards": CONFIG.label.n_shards}


def study_shards(suffix):
    """An input function: the shards of a round with this suffix, and once what the reference brings."""

    def files(wildcards):
        name, number = f"shard_{{shard}}.{suffix}", int(wildcards.round)
        shards = range(CONFIG.label.n_shards if number else 0)
        reference = [file_of_step(wildcards, "refer_study", f"reference.{suffix}", study=wildcards.study)]
        return [file_of_round(wildcards, "label_candidates", name, shard=k) for k in shards] + (
            reference if number == first_round_of_training(wildcards) else []
        )

    return files


def files_of_rounds(wildcards, step, name, n_rounds):
    """This file of each of the study's first ``n_rounds`` rounds."""
    study = wildcards.study
    return [file_of_step(wildcards, step, name, study=study, round=number) for number in range(n_rounds)]


def last_round(wildcards):
    """The round that the study ends with: where its criteria were met, else the last allowed one."""
    allowed = settings_of_study(wildcards).rounds
    for number in range(allowed):
        try:
            values = {"system": CONFIG.system, "study": wildcards.study, "round": f"{number:02d}"}
            done = checkpoints.acquire_candidates.get(**values)
        except IncompleteCheckpointException:
            # Planned optimistically, like the loop's iterations.
            break
        if read_json(done.output.verdict)["stop"]:
            return number
    return allowed


def properties_of_study(wildcards):
    """What every round measured, round 0 included."""
    return files_of_rounds(wildcards, "measure_study", "property.nc", last_round(wildcards) + 1)


def decisions_of_study(wildcards):
    """Those of every round that was followed by another one, or might have been."""
    n_rounds = min(last_round(wildcards) + 1, settings_of_study(wildcards).rounds)
    return files_of_rounds(wildcards, "acquire_candidates", "decisions.csv", n_rounds)


def experiment_of(wildcards):
    """The experiment as its study declares it."""
    experiments = EXPERIMENTS[wildcards.study]
    if wildcards.experiment not in experiments:
        names = ", ".join(experiments) or "none"
        raise WorkflowError(f"study {wildcards.study} has no experiment {wildcards.experiment}; it has: {names}")
    return experiments[wildcards.experiment]


def part_of(wildcards):
    """The part of an experiment as the configuration shapes it."""
    parts = {part.name: part for part in experiment_of(wildcards).parts(getattr(CONFIG.studies, wildcards.study))}
    if wildcards.part not in parts:
        raise WorkflowError(f"{wildcards.experiment} has no part {wildcards.part}; it has: {', '.join(parts)}")
    return parts[wildcards.part]


def inputs_of_part(wildcards):
    """What a part of an experiment needs, each under its name."""
    needs = part_of(wildcards).needs
    data = {"step": "collect_dataset", "iteration": iteration_deployed(wildcards)}
    files = {
        "dataset": [file_of_step(wildcards, name=name, **data) for name in ("train.extxyz", "valid.extxyz")],
        "isolated_atoms": [file_of_step(wildcards, "label_isolated_atoms", "isolated_atoms.json")],
        "potential": [file_of_step(wildcards, "deploy_potential", name) for name in POTENTIAL_FILES],
        "reference": [file_of_step(wildcards, "refer_study", "reference.nc", study=wildcards.study)],
    }
    needed = {need: files[need] for need in needs if need in files}
    if "dataset" in needed:
        # Named so that Snakemake asks again for the last iteration after each assessment.
        needed["assessments"] = [
            file_of_step(wildcards, "assess_potential", "assessment.json", iteration=i) for i in iterations(wildcards)
        ]
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
