# What the rules collect their input files over; no rule is defined here.
# For instance, of the iteration before:
#   collect("results/{{system}}/iter_{i}/collect_dataset/train.extxyz", i=iteration_before)
from functools import cache

from snakemake.exceptions import IncompleteCheckpointException

from mlip.io.files import read_json


def is_first_iteration(wildcards):
    return int(wildcards.iteration) == 0


def iteration_before(wildcards):
    """The iteration before the job's; none before the first."""
    return [] if is_first_iteration(wildcards) else [f"{int(wildcards.iteration) - 1:02d}"]


def iterations_before(wildcards):
    """All iterations before the job's."""
    return [f"{number:02d}" for number in range(int(wildcards.iteration))]


def restart_from(wildcards):
    """The iteration whose weights training starts from; none where it starts from scratch."""
    goes_on = settings_at(wildcards).train.restart == "previous" and BACKEND.restarts
    return iteration_before(wildcards) if goes_on else []


def initial_potential(wildcards):
    """The potential of elsewhere that the first training starts from, where there is one."""
    return INITIAL_FILES if is_first_iteration(wildcards) else []


def shards(wildcards):
    """The parts that an iteration's structures are labelled in."""
    return [f"{shard:03d}" for shard in range(CONFIG.n_shards_at(int(wildcards.iteration)))]


def imported(wildcards):
    """The iteration that existing data join: the first, where there are any."""
    return ["00"] if CONFIG.data and is_first_iteration(wildcards) else []


def compared(wildcards):
    """Likewise where some of them are labelled again."""
    return imported(wildcards) if any(source.settings == "check" for source in CONFIG.data) else []


def walkers(wildcards):
    """The walkers that explore in an iteration."""
    return [f"{walker:02d}" for walker in range(settings_at(wildcards).n_walkers)]


@cache
def plans_at(iteration):
    """What each walker of an iteration simulates."""
    from mlip.config.walkers import plans_of

    return plans_of(CONFIG, iteration)


def walkers_continued(wildcards):
    """The walkers of the iteration before whose last frames a walker starts from."""
    from mlip.config.walkers import walkers_before

    if is_first_iteration(wildcards):
        return []
    iteration = int(wildcards.iteration)
    before = walkers_before(int(wildcards.walker), plans_at(iteration), plans_at(iteration - 1))
    return [f"{walker:02d}" for walker in before]


def iteration_of_candidates(wildcards):
    """The iteration whose uncertain frames a walker starts from; none where it starts otherwise."""
    starts_there = plans_at(int(wildcards.iteration))[int(wildcards.walker)].start == "uncertain"
    return iteration_before(wildcards) if starts_there else []


def iteration_of_rungs(wildcards):
    """The iteration after which a walker's rung was decided; none where it climbs no ladder."""
    climbs = plans_at(int(wildcards.iteration))[int(wildcards.walker)].climbs
    return iteration_before(wildcards) if climbs else []


def last_iteration():
    """The iteration that the loop ends with: where it stopped, else the last allowed one."""
    for iteration in range(CONFIG.max_iterations):
        try:
            done = checkpoints.assess_potential.get(system=CONFIG.system, iteration=f"{iteration:02d}")
        except IncompleteCheckpointException:
            # Planned optimistically: Snakemake asks again as soon as the checkpoint has run.
            break
        if read_json(done.output.assessment)["stop"]:
            return iteration
    return CONFIG.max_iterations - 1


def iteration_deployed(wildcards):
    """The iteration that the loop ends with."""
    return f"{last_iteration():02d}"


def potential_to_deploy(wildcards):
    """The files of the last committee, or of the one that was trained once more on all labels."""
    last = {"step": "train_committee", "iteration": last_iteration()}
    source = {"step": "retrain_committee"} if CONFIG.deploy.retrain == "all" else last
    return [file_of_step(wildcards, name=name, **source) for name in POTENTIAL_FILES]


def iterations(wildcards):
    """Every iteration up to the one that the loop ends with."""
    return [f"{iteration:02d}" for iteration in range(last_iteration() + 1)]
