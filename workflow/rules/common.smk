# Validation and helper functions; no rule is defined here.
import os
import re
import sys
from importlib.util import find_spec
from pathlib import Path

from snakemake.exceptions import IncompleteCheckpointException, WorkflowError
from snakemake.settings.types import DeploymentMethod

# The package beside this workflow, whether or not it is installed in the job's environment.
ROOT = str(Path(workflow.basedir).resolve())
sys.path.insert(0, ROOT)
os.environ.update(PYTHONPATH=os.pathsep.join(filter(None, [ROOT, os.environ.get("PYTHONPATH")])))

from mlip.config.backends import BACKENDS
from mlip.config.system import ConfigError, parse_config
from mlip.io.files import read_json
from mlip.jobs.digests import modules_of_step
from mlip.jobs.planning import lighten_planning, resume_collection, shared_digest

lighten_planning()


onstart:
    resume_collection()


try:
    CONFIG = parse_config(config, ", ".join(map(str, workflow.configfiles)))
except ConfigError as error:
    raise WorkflowError(str(error)) from None

# Steps that train or evaluate the potential run in its backend's environment, and when the
# backend's own code changes.
BACKEND = BACKENDS[CONFIG.train.backend]
POTENTIAL_ENVIRONMENT = f"../../envs/{BACKEND.environment}"

if (
    BACKEND.package
    and find_spec(BACKEND.package) is None
    and DeploymentMethod.CONDA not in workflow.deployment_settings.deployment_method
):
    raise WorkflowError(
        "train.backend is mace, but mace-torch is not installed in this environment. `make setup-mace` makes .venv-mace, "
        "which has it: run .venv-mace/bin/mlip run ...; or add --software-deployment-method conda (envs/mace.yaml)"
    )

STRUCTURE_FILES = [source.file for source in CONFIG.structures if source.file]
for missing in (file for file in STRUCTURE_FILES if not Path(file).is_file()):
    raise WorkflowError(f"structures: no file {missing}; give a path relative to the working directory {Path.cwd()}")

POTENTIAL_FILES = ("potential.safetensors", "potential.json", "training.json")


wildcard_constraints:
    system=re.escape(CONFIG.system),
    iteration=r"\d{2,3}",
    shard=r"\d{3}",
    walker=r"\d{2,3}",


def code_of_step(step, study=""):
    """The digest of what a step depends on, as a parameter: see mlip.jobs.digests.STEP_CODE."""
    return code_digest(*modules_of_step(step, BACKEND, study))


def code_digest(*modules):
    """What code a step depends on, as a parameter: see mlip.jobs.digests.code_digest."""
    return shared_digest(*modules, is_driver=workflow.is_main_process)


def settings_at(wildcards):
    """The configuration in force at the job's iteration."""
    return CONFIG.at_iteration(int(wildcards.iteration))


def config_in_force(wildcards):
    """All that shaped this iteration; settings of later iterations and the loop's end did not."""
    return settings_at(wildcards).model_dump(
        mode="json", exclude={"max_iterations", "min_iterations", "overrides", "studies"}
    )


def label_settings(wildcards):
    """What decides a label's value or fate; time limits and bookkeeping are no reason to label again."""
    current = settings_at(wildcards) if hasattr(wildcards, "iteration") else CONFIG
    label = current.label.model_dump(mode="json", include={"calculator", "parameters", "escalations", "guards"})
    label["guards"].pop("energy_window")  # judged when the data set is collected
    return label


def shard_settings(wildcards):
    return label_settings(wildcards) | {"n_shards": settings_at(wildcards).label.n_shards}


def isolated_settings(wildcards):
    names = {"calculator", "parameters", "isolated_atoms", "isolated_atom_parameters"}
    return CONFIG.label.model_dump(mode="json", include=names)


def guards_in_force(wildcards):
    return settings_at(wildcards).label.guards.model_dump(mode="json")


def collect_screens(wildcards):
    """Limits that are applied when labels become data."""
    label = (settings_at(wildcards) if hasattr(wildcards, "iteration") else CONFIG).label
    return {"energy_window": label.guards.energy_window, "max_failed_fraction": label.max_failed_fraction}


def section(*names):
    """A params function: the named sections of the configuration as plain values."""

    def select(wildcards):
        current = settings_at(wildcards) if hasattr(wildcards, "iteration") else CONFIG
        return {name: getattr(current, name).model_dump(mode="json") for name in names}

    return select


def scaled(base):
    """A resources function: ``base`` times the attempt, so that a retry gets more."""

    def scale(wildcards, attempt):
        return base * attempt

    return scale


def previous(wildcards, step, *names):
    """Files of ``step`` one iteration earlier; none at iteration 0."""
    before = int(wildcards.iteration) - 1
    folder = f"results/{wildcards.system}/iter_{before:02d}/{step}"
    return [f"{folder}/{name}" for name in names] if before >= 0 else []


def candidates(wildcards):
    """The structures that an iteration labels."""
    if int(wildcards.iteration) == 0:
        return f"results/{wildcards.system}/iter_00/prepare_structures/candidates.extxyz"
    return previous(wildcards, "select_candidates", "candidates.extxyz")


def previous_candidates(wildcards):
    return previous(wildcards, "select_candidates", "candidates.extxyz")


def previous_assessment(wildcards):
    """No label is computed before the iteration it follows has been found unfinished."""
    return previous(wildcards, "assess_potential", "assessment.json")


def previous_dataset(wildcards):
    return previous(wildcards, "collect_dataset", "train.extxyz", "valid.extxyz", "test.extxyz", "dataset.json")


def previous_potential(wildcards):
    return previous(wildcards, "train_committee", *POTENTIAL_FILES)


def weights_to_start_from(wildcards):
    """The potential that training starts from; none where it starts from scratch."""
    train = settings_at(wildcards).train
    return previous_potential(wildcards) if train.restart == "previous" and BACKEND.restarts else []


def shard_files(suffix):
    """An input function: the shards of an iteration with this suffix."""

    def files(wildcards):
        folder = f"results/{wildcards.system}/iter_{wildcards.iteration}/label_structures"
        return [f"{folder}/shard_{k:03d}.{suffix}" for k in range(settings_at(wildcards).label.n_shards)]

    return files


def walker_files(wildcards):
    folder = f"results/{wildcards.system}/iter_{wildcards.iteration}/explore_walkers"
    return [f"{folder}/walker_{k:02d}.nc" for k in range(settings_at(wildcards).n_walkers)]


def walker_plan(wildcards):
    """What one walker simulates; other walkers' settings do not concern it."""
    from mlip.config.walkers import plan_walkers

    current = settings_at(wildcards)
    return plan_walkers(current.structures, current.explore.walkers)[int(wildcards.walker)].model_dump(mode="json")


def walker_settings(wildcards):
    return settings_at(wildcards).explore.model_dump(mode="json", exclude={"walkers"})


def gate_files(pattern):
    """This file of each study that convergence waits for."""
    return [pattern.replace("{study}", name) for name in CONFIG.assess.studies]


def gate_settings(wildcards):
    return {name: getattr(CONFIG.studies, name).model_dump(mode="json") for name in CONFIG.assess.studies}


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


def final_potential(wildcards):
    folder = f"results/{wildcards.system}/iter_{last_iteration():02d}/train_committee"
    return [f"{folder}/{name}" for name in POTENTIAL_FILES]


def every_iteration(step_file):
    """An input function: this file of each iteration up to the last."""

    def files(wildcards):
        return [f"results/{wildcards.system}/iter_{i:02d}/{step_file}" for i in range(last_iteration() + 1)]

    return files
