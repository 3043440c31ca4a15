"""Which package may import which: pyproject.toml says so for machines, the packages' docstrings for people."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from mlip.config.backends import BACKENDS

ROOT = Path(__file__).parents[2]
LINTER = Path(sys.executable).with_name("lint-imports")
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
CONTRACTS: dict[str, dict[str, Any]] = {contract["id"]: contract for contract in SETTINGS["contracts"]}
LAYERS = [[name.strip() for name in layer.split("|")] for layer in CONTRACTS["layers"]["layers"]]
PACKAGES = sorted(path.parent.name for path in (ROOT / "mlip").glob("*/__init__.py"))


@pytest.fixture(scope="module")
def copied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package and its contracts, to be broken."""
    if not LINTER.is_file():
        pytest.skip("import-linter is not installed here")
    folder = tmp_path_factory.mktemp("copy")
    shutil.copytree(ROOT / "mlip", folder / "mlip", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    return folder


def lint(folder: Path) -> subprocess.CompletedProcess[str]:
    """``lint-imports`` on the package in ``folder``, whichever is installed."""
    program = (
        f"import sys; sys.path.insert(0, {str(folder)!r}); from importlinter.cli import lint_imports_command as run;"
    )
    command = [sys.executable, "-c", f"{program} run(['--no-cache', '--no-logo'])"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def test_every_contract_is_kept(copied: Path) -> None:
    found = lint(copied)
    assert found.returncode == 0, found.stdout
    assert f"{len(CONTRACTS)} kept, 0 broken" in found.stdout


@pytest.mark.parametrize(
    ("contract", "module", "line"),
    [
        ("layers", "labels/guards.py", "import mlip.loop.collect_dataset"),
        ("layers", "config/base.py", "import mlip.io.files"),
        ("acyclic", "io/files.py", "import mlip.io.extxyz"),
        ("config-is-light", "config/values.py", "import numpy"),
        ("study-settings", "studies/eos/settings.py", "import mlip.seeds"),
        ("studies", "studies/eos/study.py", "import mlip.studies.elastic.tables"),
        ("backends", "potential/mace/network.py", "import mlip.potential.ace.size"),
        ("training-backends", "training/mace/trainer.py", "import mlip.training.ace.loss"),
        ("jobs", "jobs/ledger.py", "import ase"),
        ("pictures", "studies/steps.py", "import mlip.studies.eos.figures"),
        ("internals", "loop/score_frames.py", "import mlip.potential.ace.network"),
    ],
)
def test_a_breach_is_noticed_even_for_type_checkers_alone(copied: Path, contract: str, module: str, line: str) -> None:
    path = copied / "mlip" / module
    kept = path.read_text()
    path.write_text(f"{kept}\nfrom typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    {line}\n")
    try:
        found = lint(copied)
    finally:
        path.write_text(kept)
    assert found.returncode == 1
    assert f"{CONTRACTS[contract]['name']} BROKEN" in " ".join(found.stdout.split())


def below(names: set[str]) -> set[str]:
    """Everything in the layers under the lowest of ``names``."""
    lowest = max(k for k, layer in enumerate(LAYERS) if names & set(layer))
    return {name for layer in LAYERS[lowest + 1 :] for name in layer}


@pytest.mark.parametrize("package", PACKAGES)
def test_the_docstring_of_a_package_says_what_its_contracts_allow(package: str) -> None:
    docstring = ast.get_docstring(ast.parse((ROOT / "mlip" / package / "__init__.py").read_text())) or ""
    said = re.search(r"^May import: (.*?)(?:[.;]\s|[.;]$)", docstring, re.DOTALL | re.MULTILINE)
    assert said, f"mlip/{package}/__init__.py: no sentence `May import: ...`"
    phrase = said[1].split(", no ")[0]
    named = set(re.findall(r"``mlip\.(\w+)``", phrase)) - ({package} if "nothing else" in phrase else set())
    allowed = below({package})
    for contract in CONTRACTS.values():
        if contract["type"] == "forbidden" and contract["source_modules"] == [f"mlip.{package}"]:
            allowed -= {name.removeprefix("mlip.") for name in contract["forbidden_modules"]}
    assert (named | below(named) if "and below" in phrase else named) == allowed


def test_lists_of_the_contracts_are_whole() -> None:
    studies = sorted(path.parent.name for path in (ROOT / "mlip" / "studies").glob("*/study.py"))
    assert CONTRACTS["studies"]["modules"] == [f"mlip.studies.{name}" for name in studies]
    for contract, package in (("backends", "potential"), ("training-backends", "training")):
        assert CONTRACTS[contract]["modules"] == [f"mlip.{package}.{name}" for name in BACKENDS]
    assert CONTRACTS["internals"]["protected_modules"] == CONTRACTS["backends"]["modules"]
    forbidden = {name.removeprefix("mlip.") for name in CONTRACTS["study-settings"]["forbidden_modules"]}
    assert below({"studies"}) - {"config"} <= forbidden
