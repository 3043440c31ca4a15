"""Run the real workflow in a folder of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
TINY = ROOT / "tests" / "workflow" / "tiny.yaml"


class Workflow:
    """The workflow with ``folder`` as its working directory and one configuration."""

    def __init__(self, folder: Path, config: dict | None = None) -> None:
        self.folder = folder
        self.config_file = folder / "config.yaml"
        self.write_config(config or yaml.safe_load(TINY.read_text()))

    def write_config(self, config: dict) -> None:
        self.config = config
        self.config_file.write_text(yaml.safe_dump(config))

    @property
    def results(self) -> Path:
        return self.folder / "results" / self.config["system"]

    def snakemake(self, *arguments: str, check: bool = True, **environment: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile")]
        command += ["--directory", str(self.folder), "--configfile", str(self.config_file), *arguments]
        done = subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, env=os.environ | environment, timeout=500, check=False
        )
        if check and done.returncode:
            pytest.fail(f"snakemake {' '.join(arguments)} failed:\n{done.stdout[-4000:]}\n{done.stderr[-6000:]}")
        return done

    def plan(self, *arguments: str) -> list[tuple[str, str]]:
        """Planned jobs as ``(iteration, rule)``; the iteration is empty where a rule has none."""
        done = self.snakemake("-n", *arguments)
        return re.findall(r"^Job \d+: (?:iter_(\d+) )?(\w+):", done.stdout + done.stderr, re.MULTILINE)


@pytest.fixture
def workflow(tmp_path: Path) -> Workflow:
    return Workflow(tmp_path)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Workflow:
    """A loop that has run to its end."""
    loop = Workflow(tmp_path_factory.mktemp("loop"))
    loop.snakemake("--cores", "2")
    return loop
