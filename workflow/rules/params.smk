# What the rules pass to their scripts and ask of a machine; no rule is defined here.
from mlip.labels.codes.registry import deciding_settings


def settings_at(wildcards):
    """The configuration in force at the job's iteration; of jobs that belong to none, the whole loop's."""
    return CONFIG.at_iteration(int(wildcards.iteration)) if hasattr(wildcards, "iteration") else CONFIG


def section(*names):
    """A params function: the named sections of the configuration as plain values."""

    def select(wildcards):
        return {name: getattr(settings_at(wildcards), name).model_dump(mode="json") for name in names}

    return select


def config_in_force(wildcards):
    """All that shaped this iteration; settings of later iterations and the loop's end did not."""
    not_here = {"max_iterations", "min_iterations", "overrides", "deploy", "studies"}
    return settings_at(wildcards).model_dump(mode="json", exclude=not_here)


def label_settings(wildcards):
    """What decides a label's value or fate; time limits and bookkeeping are no reason to label again."""
    names = {"escalations", "guards"}
    settings = settings_at(wildcards).label
    label = deciding_settings(settings) | settings.model_dump(mode="json", include=names)
    label["guards"].pop("energy_window")  # judged when the data set is collected
    return label


def shard_settings(wildcards):
    """Likewise for one shard, whose structures depend on how many there are."""
    return label_settings(wildcards) | {"n_shards": CONFIG.n_shards_at(int(wildcards.iteration))}


def isolated_settings(wildcards):
    """What decides the energies of isolated atoms."""
    names = {"isolated_atoms", "isolated_atom_parameters"}
    return deciding_settings(CONFIG.label) | CONFIG.label.model_dump(mode="json", include=names)


def guards_in_force(wildcards):
    """Limits that a structure has to keep to be labelled."""
    return settings_at(wildcards).label.guards.model_dump(mode="json")


def assessment_settings(wildcards):
    """Criteria and budgets, and what frames an audit may draw."""
    return section("assess", "budget", "select")(wildcards) | {
        "guards": guards_in_force(wildcards),
        "ladder": settings_at(wildcards).explore.ladder.model_dump(mode="json"),
        "min_iterations": CONFIG.min_iterations,
    }


def collect_screens(wildcards):
    """Limits that are applied when labels become data."""
    label = settings_at(wildcards).label
    return {"energy_window": label.guards.energy_window, "max_failed_fraction": label.max_failed_fraction}


def import_screens(wildcards):
    """What existing data have to keep to, as labels have to."""
    label = settings_at(wildcards).label
    return {
        "guards": label.guards.model_dump(mode="json", exclude={"energy_window"}),
        "max_failed_fraction": label.max_failed_fraction,
        "train": settings_at(wildcards).train.model_dump(mode="json", include={"cutoff", "consistency"}),
    }


def walker_plan(wildcards):
    """What one walker simulates; other walkers' settings do not concern it."""
    return plans_at(int(wildcards.iteration))[int(wildcards.walker)].model_dump(mode="json")


def most_atoms(wildcards):
    """Atoms of the largest structure that is labelled."""
    return settings_at(wildcards).select.max_atoms


def carving_settings(wildcards):
    """How cells are carved out of large frames; None where none are."""
    return settings_at(wildcards).select.model_dump(mode="json")["carve"]


def demands_of_walkers(wildcards):
    """What walkers of any iteration ask of the starting structures."""
    from mlip.config.walkers import list_all_demands

    return [demand.model_dump(mode="json") for demand in list_all_demands(CONFIG)]


def walker_settings(wildcards):
    """What all walkers of an iteration have in common."""
    return settings_at(wildcards).explore.model_dump(mode="json", exclude={"walkers"})


def gate_settings(wildcards):
    """Settings of each study that convergence waits for."""
    return {name: getattr(CONFIG.studies, name).model_dump(mode="json") for name in GATE_STUDIES}


def shard_files(suffix):
    """A params function: the shards of an iteration with this suffix."""

    def files(wildcards):
        step, name, iteration = "label_structures", f"shard_{{shard}}.{suffix}", wildcards.iteration
        return [file_of_step(wildcards, step, name, iteration=iteration, shard=shard) for shard in shards(wildcards)]

    return files


def scaled(base):
    """A resources function: ``base`` times the attempt, so that a retry gets more."""

    def scale(wildcards, attempt):
        return base * attempt

    return scale
