"""Snakemake finds the profiles by itself and does with them what docs/cluster.md says."""

import os
import re
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


def test_lines_commented_out_in_the_slurm_profile_work(folder):
    """As a user would: every line that only waits for its comment sign to be removed."""
    text = (ROOT / "slurm/config.yaml").read_text()
    options = re.findall(r"^ *# +([a-z_-]+: .*|  [a-z_]+:$|  +[a-z_]+: .*|[a-z_]+:)$", text, re.MULTILINE)
    assert {"mpi", "tasks", "slurm_account", "slurm-array-jobs"} <= {line.strip().split(":")[0] for line in options}
    active = re.sub(r"^( *)# ((?:  )*[a-z_-]+:(?: .*)?)$", r"\1\2", text, flags=re.MULTILINE)
    profile = yaml.safe_load(active)
    assert profile["set-resources"]["label_structures"]["mpi"] == "srun"
    (folder / "all").mkdir()
    (folder / "all" / "config.yaml").write_text(active)
    (folder / "Snakefile").write_text(RULES.replace("train_committee", "label_structures"))
    output = snakemake(folder, "--profile", "all", "--dry-run")
    assert "mpi=srun" in output
    assert "tasks=16" in output
    assert "runtime=720" in output
