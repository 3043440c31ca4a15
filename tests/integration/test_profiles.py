"""Snakemake finds the profiles by itself and does with them what docs/cluster.md says."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
RULES = """
rule train_committee:
    output: "model"
    params: digest=config.get("digest", 1)
    shell: "touch {output}"
"""


@pytest.fixture
def folder(tmp_path):
    """An empty project with this project's profiles."""
    for name in ("profiles", "slurm", "workflow"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "Snakefile").write_text(RULES)
    return tmp_path


def snakemake(folder: Path, *arguments: str) -> str:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("SNAKEMAKE")}
    command = [sys.executable, "-m", "snakemake", *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_space_in_a_rule_reruns_nothing_and_changed_params_do(folder):
    snakemake(folder, "--cores", "1")
    (folder / "Snakefile").write_text(RULES.replace("touch {", "touch  {"))
    assert "Nothing to be done" in snakemake(folder, "--dry-run")
    assert "train_committee" in snakemake(folder, "--dry-run", "--config", "digest=2")


def test_slurm_profile_plans_without_a_cluster(folder):
    output = snakemake(folder, "--profile", "slurm", "--dry-run")
    assert "gres=gpu:1" in output
    assert "runtime=60" in output


def test_slurm_profile_sends_jobs_to_slurm():
    profile = yaml.safe_load((ROOT / "slurm/config.yaml").read_text())
    assert profile["executor"] == "slurm"


def test_default_profile_leaves_the_slurm_profile_its_keys():
    """Snakemake lets the default profile win, key by key: none may be in both."""
    default, slurm = (
        yaml.safe_load((ROOT / f"profiles/{name}/config.yaml").read_text()) for name in ("default", "slurm")
    )
    assert set(default) & set(slurm) == set()
    assert not {"cores", "executor"} & set(default)
