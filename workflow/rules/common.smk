# The configuration, checked, and what follows from it for every rule; no rule is defined here.
import os
import re
import sys
from importlib.util import find_spec
from pathlib import Path

from snakemake.exceptions import WorkflowError
from snakemake.settings.types import DeploymentMethod

# The package beside this workflow, whether or not it is installed in the job's environment.
ROOT = str(Path(workflow.basedir).resolve())
sys.path.insert(0, ROOT)
os.environ.update(PYTHONPATH=os.pathsep.join(filter(None, [ROOT, os.environ.get("PYTHONPATH")])))

from mlip.config.backends import BACKENDS
from mlip.config.data import list_inputs
from mlip.config.system import ConfigError, parse_config
from mlip.io.layout import POTENTIAL_FILES, output_path
from mlip.jobs.digests import modules_of_step, shared_digest
from mlip.jobs.snakemake_internals import lighten_planning, resume_collection

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

STRUCTURE_FILES = list(dict.fromkeys(source.file for source in CONFIG.structures if source.file))
for missing in (file for file in STRUCTURE_FILES if not Path(file).is_file()):
    raise WorkflowError(f"structures: no file {missing}; give a path relative to the working directory {Path.cwd()}")

try:
    DATA_FILES = list_inputs(CONFIG.data)
    DATA_SOURCES = [source.model_dump(mode="json") for source in CONFIG.data]
except ValueError as error:
    raise WorkflowError(str(error)) from None

# Existing data, as import_data leaves them.
DATA_STRUCTURES = ["results/{system}/iter_00/import_data/data.extxyz"] if CONFIG.data else []
# What says that they fit: as far as they tell by themselves and, where some are labelled again, by comparison.
DATA_CHECKED = [
    *(["results/{system}/iter_00/import_data/data.json"] if CONFIG.data else []),
    *(
        ["results/{system}/iter_00/relabel_data/comparison.json"]
        if any(s.settings == "check" for s in CONFIG.data)
        else []
    ),
]

# The studies that convergence waits for.
GATE_STUDIES = CONFIG.assess.studies

STARTING_STRUCTURES = [source.model_dump(mode="json") for source in CONFIG.structures]

INITIAL = CONFIG.train.initial
INITIAL_FILES = [str(Path(INITIAL) / name) for name in POTENTIAL_FILES[:2]] if INITIAL else []
for missing in (file for file in INITIAL_FILES if not Path(file).is_file()):
    raise WorkflowError(
        f"train.initial: no file {missing}; give the folder of a potential, e.g. results/other/potential"
    )
# Of a data set, what the next one begins with.
DATA_CARRIED_ON = ("train.extxyz", "valid.extxyz", "test.extxyz", "dataset.json")


wildcard_constraints:
    system=re.escape(CONFIG.system),
    iteration=r"\d{2,3}",
    shard=r"\d{3}",
    walker=r"\d{2,3}",


def file_of_step(wildcards, step, name, **values):
    """The file called ``name`` that ``step`` writes, for helpers: rules spell theirs. See mlip.io.layout.OUTPUTS."""
    return str(output_path(Path("results", wildcards.system), step, name, **values))


def code_of_step(step, study=""):
    """The digest of what a step depends on, as a parameter: see mlip.jobs.digests.STEP_CODE."""
    return code_digest(*modules_of_step(step, BACKEND, study))


def code_digest(*modules):
    """What code a step depends on, as a parameter: see mlip.jobs.digests.code_digest."""
    return shared_digest(*modules, is_driver=workflow.is_main_process)
