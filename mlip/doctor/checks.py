"""Is this machine ready for the loop, and if not, how is it mended? The checks of ``mlip doctor``.

Every check tries the thing itself, e.g. writes a NetCDF file, rather than looking for its name.
"""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mlip.config.system import Config, load_config
from mlip.config.values import ConfigError
from mlip.doctor.slurm import compare_requests

if TYPE_CHECKING:
    from ase import Atoms

CheckOutcome = Literal["ok", "info", "warn", "fail"]

SET_UP_AGAIN = "Run `make setup`; if it says there is nothing to do, `make distclean setup`."
MIN_PYTHON = (3, 11)
PROFILE = Path("workflow/profiles/slurm/config.yaml")
RULES = Path("workflow/rules")
# A loop of small cells writes some hundred MB; below the first it cannot, below the second not for long.
MIN_FREE_GB, LOW_FREE_GB = 0.5, 5.0
COMMAND_TIMEOUT = 20  # seconds; slurmctld may be slow, or down


@dataclass(frozen=True)
class Check:
    """One finding: ``info`` is neither good nor bad, ``warn`` runs but worse, ``fail`` does not run."""

    name: str
    status: CheckOutcome
    detail: str
    remedy: str = ""


def run_checks(config: Path | None = None, root: Path = Path()) -> list[Check]:
    """Look at everything the loop needs, in the order in which it is needed.

    Args:
        config: A system's configuration; its elements, structures and labeller are then checked too.
        root: Folder of the Snakefile, below which results and labels are written.
    """
    checks = [
        _guarded("Python", check_python),
        _guarded("cores", check_cores),
        _guarded("threads", check_threads),
        _guarded("torch", check_torch),
        _guarded("kernels", check_kernels),
        _guarded("GPAW", check_gpaw),
        _guarded("NetCDF", check_netcdf),
        _guarded("neighbour lists", check_vesin),
        _guarded("Snakemake", check_snakemake),
        _guarded("Slurm", lambda: check_slurm(root / PROFILE, root / RULES)),
        _guarded("results", lambda: check_folder(root / "results")),
        _guarded("label_store", lambda: check_folder(root / "label_store")),
    ]
    return checks + (check_config(config) if config else [])


def render_checks(checks: Sequence[Check]) -> str:
    """A table for the terminal, remedies below what they mend; coloured where colours are shown."""
    from rich.console import Console
    from rich.table import Column, Table
    from rich.text import Text

    marks = {"ok": ("✓", "green"), "info": ("·", "blue"), "warn": ("!", "yellow"), "fail": ("✗", "bold red")}
    table = Table("", "", Column(overflow="fold"), show_header=False, box=None, padding=(0, 1))
    for check in checks:
        mark, style = marks[check.status]
        detail = Text(check.detail)
        if check.remedy:
            detail.append(f"\n→ {check.remedy}", style=style)
        table.add_row(Text(mark, style=style), Text(check.name, style="bold"), detail)
    console = Console(file=io.StringIO(), force_terminal=sys.stdout.isatty(), width=shutil.get_terminal_size().columns)
    with console.capture() as captured:
        console.print(table)
    return captured.get().rstrip()


def _guarded(name: str, check: Callable[[], Check]) -> Check:
    """The check's finding; what it did not foresee is a failure like any other."""
    try:
        return check()
    except Exception as error:  # a doctor that dies of a symptom helps nobody
        return Check(name, "fail", f"{type(error).__name__}: {error}", SET_UP_AGAIN)


def check_python() -> Check:
    """Python's version and whether it is the project's own."""
    version_and_place = f"{sys.version.split()[0]} at {sys.executable}"
    if sys.version_info[:2] < MIN_PYTHON:
        return Check(
            "Python", "fail", version_and_place, "Python 3.11 or newer is needed: make setup PYTHON=/path/to/python3.11"
        )
    return Check("Python", "ok", version_and_place)


def check_cores() -> Check:
    """Cores this process may use, a container's quota included."""
    cores: float = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = Path("/sys/fs/cgroup/cpu.max")
    if quota.is_file():
        limit, period = quota.read_text().split()
        cores = cores if limit == "max" else min(cores, int(limit) / int(period))
    if cores < 2:
        return Check("cores", "warn", f"{cores:g}", "The demo is meant for two cores; it takes twice as long.")
    return Check("cores", "ok", f"{cores:g}")


def check_threads() -> Check:
    """One thread a process: with more, GPAW takes ten times as long for small cells."""
    threads = os.environ.get("OMP_NUM_THREADS")
    if threads == "1":
        return Check("threads", "ok", "OMP_NUM_THREADS=1")
    if threads is None:
        return Check("threads", "info", "OMP_NUM_THREADS is not set; the loop sets it, by hand you do")
    return Check("threads", "warn", f"OMP_NUM_THREADS={threads}", "export OMP_NUM_THREADS=1")


def check_torch() -> Check:
    """Torch, and a small matrix product on every CUDA device."""
    import torch

    if torch.cuda.is_available():
        names = []
        for index in range(torch.cuda.device_count()):
            (torch.ones(8, 8, device=f"cuda:{index}") @ torch.ones(8, 8, device=f"cuda:{index}")).cpu()
            names.append(torch.cuda.get_device_name(index))
        return Check("torch", "ok", f"{torch.__version__}, CUDA {torch.version.cuda}: {', '.join(names)}")
    if shutil.which("nvidia-smi") and _run("nvidia-smi", "-L").returncode == 0:
        build = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "a build without CUDA"
        remedy = "Install a build of torch that fits the driver (nvidia-smi names its CUDA version): envs/training.yaml"
        return Check("torch", "warn", f"{torch.__version__}, {build}, cannot use this machine's GPU", remedy)
    return Check("torch", "ok", f"{torch.__version__}, CPU only (no GPU on this machine)")


def check_gpaw() -> Check:
    """GPAW, its compiled extension, and its PAW datasets."""
    try:
        import gpaw
    except ImportError as error:
        return Check("GPAW", "warn", f"cannot be imported: {error}", f"Only other labellers work. {SET_UP_AGAIN}")
    try:
        import _gpaw
    except ImportError as error:
        remedy = "Build it anew: .venv/bin/pip uninstall gpaw, then make distclean setup (needs g++ and Python.h)."
        return Check("GPAW", "fail", f"{gpaw.__version__} without its compiled extension: {error}", remedy)
    del _gpaw
    paths = [str(path) for path in gpaw.setup_paths if Path(path).is_dir()]
    if not paths:
        return Check("GPAW", "fail", f"{gpaw.__version__}, no PAW datasets", ".venv/bin/pip install gpaw-data")
    return Check("GPAW", "ok", f"{gpaw.__version__}, compiled; PAW datasets in {', '.join(paths)}")


def check_netcdf() -> Check:
    """A NetCDF file written and read back through xarray."""
    import numpy as np
    import xarray as xr

    values = np.linspace(0.0, 1.0, 5)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "try.nc"
        xr.Dataset({"x": ("frame", values)}).to_netcdf(path, engine="netcdf4")
        with xr.open_dataset(path, engine="netcdf4") as dataset:
            same = np.array_equal(dataset["x"].values, values)
    if not same:
        return Check("NetCDF", "fail", "a file read back differs from what was written", SET_UP_AGAIN)
    return Check("NetCDF", "ok", f"netCDF4 {version('netCDF4')}, xarray {xr.__version__}: written and read back")


def check_kernels() -> Check:
    """The potential's compiled loops; torch does the same without them."""
    from mlip.potential.ace.kernels.loader import find_compiler, load_library

    if load_library() is not None:
        return Check("kernels", "ok", "the potential's loops are compiled")
    remedy = "Install g++ (a GCC module, apt-get install g++) and start again; unset MLIP_KERNELS if it says off."
    detail = "not compiled" if find_compiler() else "not compiled: no C++ compiler found"
    return Check("kernels", "warn", f"{detail}; training takes 1.4 times as long on a CPU", remedy)


def check_vesin() -> Check:
    """The twelve nearest neighbours of an fcc atom, in a cell smaller than the cutoff."""
    import numpy as np
    from vesin import NeighborList

    box = 2.0 * np.array([[0.0, 1, 1], [1, 0, 1], [1, 1, 0]])
    (i,) = NeighborList(cutoff=3.0, full_list=True).compute(np.zeros((1, 3)), box, periodic=True, quantities="i")
    if len(i) != 12:
        return Check("neighbour lists", "fail", f"vesin finds {len(i)} instead of 12 neighbours in fcc", SET_UP_AGAIN)
    return Check("neighbour lists", "ok", f"vesin {version('vesin')}")


def check_snakemake() -> Check:
    """Snakemake and its Slurm executor."""
    versions = f"{version('snakemake')}"
    try:
        versions += f", Slurm executor {version('snakemake-executor-plugin-slurm')}"
    except PackageNotFoundError:
        return Check("Snakemake", "warn", f"{versions} without the Slurm executor", SET_UP_AGAIN)
    return Check("Snakemake", "ok", versions)


def check_slurm(profile: Path, rules: Path = RULES) -> Check:
    """Slurm's commands answer, and it has the partitions, GPUs, memory and time that ``profile`` and ``rules`` need."""
    missing = [command for command in ("sbatch", "sinfo", "squeue") if shutil.which(command) is None]
    if len(missing) == 3:
        return Check("Slurm", "info", "not on this machine")
    if missing:
        return Check("Slurm", "fail", f"{', '.join(missing)} not found", "Load the site's Slurm module.")
    partitions, problem = compare_requests(profile, rules, _run)
    if problem is not None:
        return Check("Slurm", "fail" if problem.fatal else "warn", problem.detail, problem.remedy)
    return Check("Slurm", "ok", f"partitions: {', '.join(partitions)}; every rule's request fits")


def _run(*command: str) -> subprocess.CompletedProcess[str]:
    """The finished command; one that is missing or does not answer has a non-zero return code."""
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=COMMAND_TIMEOUT, check=False)
    except FileNotFoundError:
        return subprocess.CompletedProcess(command, 127, "", f"{command[0]} not found")
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(command, 124, "", f"no answer in {COMMAND_TIMEOUT} s")


def check_folder(folder: Path) -> Check:
    """``folder``, or where it will be made, can be written and has room."""
    existing = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    try:
        with tempfile.NamedTemporaryFile(dir=existing, prefix=".doctor-") as file:
            file.write(b"x")
            file.flush()
    except OSError as error:
        return Check(
            folder.name, "fail", f"{existing}: {error.strerror}", f"Make {existing} writable, or link it elsewhere."
        )
    free = shutil.disk_usage(existing).free / 1e9
    detail = f"writable, {free:.1f} GB free"
    if free < LOW_FREE_GB:
        status: CheckOutcome = "fail" if free < MIN_FREE_GB else "warn"
        return Check(folder.name, status, detail, f"Free some space, or make {folder.name}/ a link to a larger disk.")
    return Check(folder.name, "ok", detail)


def check_config(path: Path) -> list[Check]:
    """The configuration is valid, its structures can be read and its labeller knows their elements."""
    from mlip.structures.starting import StructureError, load_starting_structure

    try:
        config = load_config(path)
        structures = [load_starting_structure(source) for source in config.structures]
    except (ConfigError, StructureError) as error:
        return [Check("configuration", "fail", str(error), f"Edit {path}.")]
    elements = sorted({symbol for atoms in structures for symbol in atoms.get_chemical_symbols()})
    sizes = ", ".join(f"{atoms.get_chemical_formula()}" for atoms in structures)
    valid = Check("configuration", "ok", f"{path}: {config.system}, starting from {sizes}")
    checks = [valid, *_check_structures(config, structures, elements)]
    checks.append(_guarded("labeller", lambda: check_labeller(config, elements)))
    checks += _check_traps(config, structures)
    if len(structures) > 1:
        checks.append(_guarded("k-points", lambda: check_k_points(config, structures)))
    return checks + ([_guarded("MACE", check_mace)] if config.train.backend == "mace" else [])


def _check_structures(config: Config, structures: Sequence[Atoms], elements: Sequence[str]) -> list[Check]:
    """What walkers, ``prepare`` and ``train`` cannot do with the starting structures; nothing where all fits."""
    from mlip.doctor.inputs import complain_of_inputs
    from mlip.doctor.structures import find_complaints

    try:
        complaints = [*find_complaints(config, structures), *complain_of_inputs(config, elements)]
    except ValueError as error:  # StructureError among them
        return [Check("structures", "fail", str(error), "Correct `structures` as the message says.")]
    return [Check(c.name, "fail" if c.fatal else "warn", c.detail, c.remedy) for c in complaints]


def _check_traps(config: Config, structures: Sequence[Atoms]) -> list[Check]:
    """Settings of labels that a code accepts silently and that often are wrong; nothing where there are none."""
    from mlip.labels.codes.registry import find_code
    from mlip.labels.guards import find_traps
    from mlip.labels.importing import LabelError

    label = config.label
    try:
        parameters, _ = find_code(label.calculator).split(label.parameters, label.profile)
    except LabelError:  # told by the check of the labeller
        return []
    found = {trap: None for atoms in structures for trap in find_traps(atoms, label.calculator, parameters)}
    return [Check("label settings", "warn", "; ".join(found), "Correct `label.parameters`.")] if found else []


def check_k_points(config: Config, structures: Sequence[Atoms]) -> Check:
    """Labels of starting structures of different size compare: no fixed mesh for all of them."""
    from mlip.labels.codes.kmesh import check_mesh
    from mlip.labels.importing import LabelError

    try:
        check_mesh(config.label.parameters, structures)
    except LabelError as error:
        return Check("k-points", "fail", str(error), "Give a density of k-points instead of a mesh.")
    return Check("k-points", "ok", "as fine for every starting structure, as far as `label.parameters` say")


def check_mace() -> Check:
    """mace-torch can be imported here, beside the e3nn that it pins."""
    from mlip.potential.mace.network import MissingBackendError, require_mace

    remedy = "make setup-mace (with GPAW: make setup-mace DFT=1), then .venv-mace/bin/mlip in place of .venv/bin/mlip"
    try:
        require_mace()
    except MissingBackendError:
        return Check("MACE", "fail", f"backend mace, but mace-torch is not installed beside {sys.executable}", remedy)
    except Exception as error:
        return Check("MACE", "fail", f"mace-torch cannot be imported: {type(error).__name__}: {error}", remedy)
    versions = f"mace-torch {version('mace-torch')}, e3nn {version('e3nn')}"
    try:
        return Check("MACE", "ok", f"{versions}, cuequivariance-torch {version('cuequivariance-torch')}")
    except PackageNotFoundError:
        return Check("MACE", "ok", f"{versions}; without cuequivariance-torch, which makes it faster on GPUs")


def check_labeller(config: Config, elements: Sequence[str]) -> Check:
    """The calculator can be imported, its program and its files for each of ``elements`` are there."""
    if config.label.calculator == "gpaw":
        return _check_datasets(config.label.parameters, elements)
    from mlip.labels.codes.registry import find_code
    from mlip.labels.identity import settings_identity
    from mlip.labels.importing import LabelError, import_calculator
    from mlip.labels.refusals import check_settings

    label, code = config.label, find_code(config.label.calculator)
    try:
        import_calculator(label.calculator)
        check_settings(label)
        program = settings_identity(label.calculator, label.parameters, label.profile).get("program", "")
        code.element_files(elements, *code.split(label.parameters, label.profile))
    except LabelError as error:
        return Check("labeller", "fail", str(error), "Correct `label` as the message says.")
    labeller = f"{label.calculator}, {program}" if program else label.calculator
    if code.runs_program and not code.tells_convergence:
        remedy = "Look at the outputs of some labels."
        return Check(
            "labeller", "warn", f"{labeller}: whether its SCF converged cannot be read from its outputs", remedy
        )
    return Check("labeller", "ok", labeller)


def _check_datasets(parameters: dict[str, Any], elements: Sequence[str]) -> Check:
    from gpaw.setup_data import SetupData
    from gpaw.xc import XC

    functional = XC(parameters.get("xc", "LDA")).get_setup_name()
    setups = parameters.get("setups", "paw")
    missing = []
    for symbol in elements:
        kind = setups.get(symbol, setups.get("default", "paw")) if isinstance(setups, dict) else setups
        try:
            SetupData(symbol, functional, kind)
        except FileNotFoundError:
            missing.append(symbol)
    if missing:
        remedy = "Choose another functional, or add the dataset to a folder named in GPAW_SETUP_PATH."
        return Check("labeller", "fail", f"GPAW has no {functional} dataset for {', '.join(missing)}", remedy)
    return Check("labeller", "ok", f"GPAW, {functional} datasets for {', '.join(elements)}")
