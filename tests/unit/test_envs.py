"""The pins of pyproject.toml, envs/constraints.txt and envs/*.yaml agree with each other."""

import importlib.metadata
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from mlip.config.backends import BACKENDS

ROOT = Path(__file__).parents[2]
ENVIRONMENTS = sorted((ROOT / "envs").glob("*.yaml"))
CONDA_NAMES = {"pytorch": "torch", "pytorch-gpu": "torch", "matplotlib-base": "matplotlib"}
# Pins that differ on purpose; each is explained in its file.
EXCEPTIONS = {("dft.yaml", "gpaw"): "25.7.0"}


def pyproject_groups() -> dict[str, list[Requirement]]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    groups = {"base": project["dependencies"], **project["optional-dependencies"]}
    return {name: [Requirement(line) for line in lines] for name, lines in groups.items()}


def pinned_version(requirement: Requirement) -> str:
    (specifier,) = requirement.specifier
    assert specifier.operator == "==", f"{requirement} is not an exact pin"
    return specifier.version


def pyproject_pins() -> dict[str, str]:
    return {canonicalize_name(r.name): pinned_version(r) for group in pyproject_groups().values() for r in group}


def constraints() -> dict[str, str]:
    lines = (ROOT / "envs/constraints.txt").read_text().splitlines()
    requirements = [Requirement(line) for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(r.name): pinned_version(r) for r in requirements}


def conda_pins(path: Path) -> tuple[dict[str, str], dict[str, str]]:
    """Conda's and pip's pins in an environment file, under their PyPI names."""
    dependencies = yaml.safe_load(path.read_text())["dependencies"]
    conda = [line.split("=") for line in dependencies if isinstance(line, str) and "=" in line]
    pip = [Requirement(line) for item in dependencies if isinstance(item, dict) for line in item["pip"]]
    names = {canonicalize_name(CONDA_NAMES.get(name, name)): version for name, version, *_build in conda}
    return names, {canonicalize_name(r.name): pinned_version(r) for r in pip}


def test_constraints_hold_every_direct_pin():
    pinned = constraints()
    assert {name: pinned.get(name) for name in pyproject_pins()} == pyproject_pins()


def test_constraints_are_free_of_local_versions():
    assert [name for name, version in constraints().items() if Version(version).local] == []


def test_constraints_hold_everything_that_the_direct_dependencies_pull_in():
    pinned, missing, seen = constraints(), set(), set()
    queue = [r for group in pyproject_groups().values() for r in group]
    while queue:
        requirement = queue.pop()
        name = canonicalize_name(requirement.name)
        if (name, *sorted(requirement.extras)) in seen:
            continue
        seen.add((name, *sorted(requirement.extras)))
        try:
            distribution = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        # CUDA's libraries come with torch's build and are pinned by torch itself.
        if name not in pinned and not name.startswith(("nvidia-", "cuda-", "triton")):
            missing.add(name)
        for line in distribution.requires or []:
            child = Requirement(line)
            extras = [{**default_environment(), "extra": extra} for extra in {"", *requirement.extras}]
            if child.marker is None or any(child.marker.evaluate(extra) for extra in extras):
                queue.append(child)
    assert missing == set(), "add them to envs/constraints.txt"


def test_installed_versions_are_the_pinned_ones():
    different = {}
    for name, version in constraints().items():
        try:
            installed = Version(importlib.metadata.version(name)).public
        except importlib.metadata.PackageNotFoundError:
            continue
        if Version(installed) != Version(version):
            different[name] = (installed, version)
    assert different == {}


@pytest.mark.parametrize("path", ENVIRONMENTS, ids=lambda path: path.name)
def test_conda_environment_has_the_pins_of_pyproject(path):
    pins = pyproject_pins()
    for pinned in conda_pins(path):
        for name, version in pinned.items():
            if name != "python":
                assert version == EXCEPTIONS.get((path.name, name), pins.get(name)), f"{path.name}: {name}"


@pytest.mark.parametrize("path", ENVIRONMENTS, ids=lambda path: path.name)
def test_conda_environment_uses_conda_forge_alone_and_pins_all(path):
    environment = yaml.safe_load(path.read_text())
    assert environment["channels"] == ["conda-forge", "nodefaults"]
    unpinned = [line for line in environment["dependencies"] if isinstance(line, str) and "=" not in line]
    assert unpinned == ["pip"]


@pytest.mark.parametrize(("name", "extras"), [("mlip.yaml", ()), ("training.yaml", ()), ("mace.yaml", ("mace",))])
def test_conda_environment_is_complete(name, extras):
    conda, pip = conda_pins(ROOT / "envs" / name)
    base = {canonicalize_name(r.name) for group in ("base", *extras) for r in pyproject_groups()[group]}
    assert (set(conda) | set(pip)) - {"python"} == base
    assert not set(conda) & set(pip)


def test_every_rule_environment_exists():
    """Literal ones, and those of the backends."""
    text = "".join(path.read_text() for path in (ROOT / "workflow/rules").rglob("*.smk"))
    named = set(re.findall(r'"\.\./\.\./envs/(\w+\.yaml)"', text)) | {
        backend.environment for backend in BACKENDS.values()
    }
    assert named == {path.name for path in ENVIRONMENTS}


def test_labels_need_no_more_than_the_dft_environment():
    absent = {"torch", "safetensors", "matplotlib"}
    conda, pip = conda_pins(ROOT / "envs/dft.yaml")
    assert not {canonicalize_name(name) for name in absent} & (set(conda) | set(pip))
    references = (
        "import sys\n"
        "class Absent:\n"  # scipy looks for torch in sys.modules, where None would disturb it
        "    def find_spec(self, name, *_):\n"
        f"        if name.partition('.')[0] in {sorted(absent)}: raise ModuleNotFoundError(name)\n"
        "sys.meta_path.insert(0, Absent())\n"
        "import mlip.studies.steps\n"
        "from mlip.studies import load_study, study_names\n"
        "[load_study(name) for name in study_names()]"
    )
    done = subprocess.run([sys.executable, "-c", references], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    absent |= {"xarray", "netCDF4", "pandas"}  # which only the references of studies take
    code = (
        f"import sys\nsys.modules.update(dict.fromkeys({sorted(absent)}))\n"
        "import mlip.labels, mlip.io.extxyz, mlip.jobs.job\n"
        "from mlip.config.system import StartingStructure\n"
        "from mlip.structures.starting import load_starting_structure\n"
        "load_starting_structure(StartingStructure(bulk={'name': 'Si'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_exceptions_are_still_exceptions():
    pins = pyproject_pins()
    for (file, name), version in EXCEPTIONS.items():
        assert conda_pins(ROOT / "envs" / file)[0][name] == version != pins[name]


def test_pre_commit_runs_the_pinned_tools():
    text = (ROOT / ".pre-commit-config.yaml").read_text()
    pins = pyproject_pins()
    found = dict(re.findall(r"/(ruff|snakefmt)(?:-pre-commit)?\n\s+rev: v?([\d.]+)", text))
    assert found == {name: pins[name] for name in ("ruff", "snakefmt")}
