"""The README says only what is true: its files exist, its commands run or at least plan."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.workflow.conftest import ROOT, Workflow

README = (ROOT / "README.md").read_text()
MLIP = [sys.executable, "-m", "mlip.cli.app"]


def console(prefix: str) -> list[str]:
    """Commands in the README's console blocks that start with ``prefix``."""
    blocks = re.findall(r"```console\n(.*?)```", README, re.DOTALL)
    lines = [line[2:].split("   #")[0].split("  #")[0].strip() for b in blocks for line in b.splitlines()]
    return [line for line in lines if line.startswith(prefix)]


def test_linked_files_exist() -> None:
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (ROOT / target).exists(), target


def test_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"\bmake (\w+)", README):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


@pytest.mark.parametrize("command", [c for c in console("snakemake") if "mine" not in c and "-n" in c.split()])
def test_planning_commands_plan(command: str, tmp_path: Path) -> None:
    arguments = [*shlex.split(command)[1:], "--directory", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, "-m", "snakemake", *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "assess_potential" in done.stdout + done.stderr


def test_rerun_targets_are_files_of_the_workflow(workflow: Workflow) -> None:
    workflow.write_config(workflow.config | {"system": "silicon", "max_iterations": 5})
    targets = re.findall(r"--forcerun \$S/(\S+?)`", README)
    assert len(targets) == 2
    for target in targets:
        workflow.snakemake("-n", f"results/silicon/{target}")


def test_cluster_and_own_system_commands_are_documented() -> None:
    assert console("snakemake --profile slurm")
    assert console("mlip run config/mine.yaml")


def test_python_example_is_valid() -> None:
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert blocks
    for block in blocks:
        compile(block, "README.md", "exec")


@pytest.mark.parametrize("name", ["run", "train", "evaluate", "status", "doctor"])
def test_documented_subcommands_exist(name: str) -> None:
    done = subprocess.run([*MLIP, name, "--help"], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert re.search(rf"mlip {name}|mlip/cli/app.py {name}|{name} \[OPTIONS\]", done.stdout)
