"""A study is one folder and one section of the configuration: in a copy of the tree it runs, experiment and all."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from mlip.io.extxyz import read_structures
from mlip.jobs.ledger import read_ledger

from .conftest import ROOT, TINY

CONFIG = {
    "max_iterations": 1,
    "min_iterations": 1,
    "studies": {
        "softness": {"rounds": 4, "n_labels": 3, "train": {"n_steps": 30}, "squeezes": {"gentle": 0.05, "hard": 0.3}}
    },
}


def copied_tree(folder: Path) -> Path:
    """What a run needs of the tree, and the made-up study in it."""
    for name in ("mlip", "scripts", "workflow", "envs"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "Snakefile", folder)
    shutil.copytree(ROOT / "tests" / "data" / "softness", folder / "mlip" / "studies" / "softness")
    return folder


@pytest.mark.slow
def test_a_study_in_a_folder_of_its_own_runs_with_its_experiment(tmp_path: Path) -> None:
    tree, run = copied_tree(tmp_path / "tree"), tmp_path / "run"
    run.mkdir()
    tiny = yaml.safe_load(TINY.read_text())
    config = tiny | CONFIG | {"label": tiny["label"] | {"n_shards": 1}}
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    study = "results/tiny/studies/softness"
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(tree / "Snakefile"), "--cores", "2"]
    command += ["--configfile", str(run / "config.yaml"), "--directory", str(run)]
    environment = os.environ | {"PYTHONPATH": str(tree)}

    def snakemake(*arguments: str) -> str:
        done = subprocess.run(
            [*command, *arguments], cwd=tree, env=environment, capture_output=True, text=True, timeout=500, check=False
        )
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
        return done.stdout + done.stderr

    snakemake(f"{study}/report.html", f"{study}/squeezing/squeezing.md")
    result = json.loads((run / study / "result.json").read_text())
    # Its criteria are met when the labels of a round and the reference's structure train: no more rounds then.
    assert [entry["labels"] for entry in result["rounds"]] == [0, 3]
    assert result["passed"]
    verdicts = [json.loads((run / study / f"round_{k:02d}" / "verdict.json").read_text()) for k in range(2)]
    assert [verdict["stop"] for verdict in verdicts] == [False, True]
    assert not (run / study / "round_02").exists()
    training = json.loads((run / study / "round_01" / "potential" / "training.json").read_text())
    assert training["steps"] <= 30
    reasons = [atoms.info["reason"] for atoms in read_structures(run / study / "round_01" / "dataset" / "train.extxyz")]
    assert (reasons.count("reference"), reasons.count("acquired")) == (1, 3)
    assert "Nothing to be done" in snakemake(f"{study}/report.html")
    assert "cost of compression" in (run / study / "table.md").read_text()
    results = {name: run / study / "squeezing" / name / "result.json" for name in ("gentle", "hard")}
    parts = {name: json.loads(path.read_text()) for name, path in results.items()}
    assert 0 < parts["gentle"]["labeller"] < parts["hard"]["labeller"]
    assert parts["hard"]["elements"] == []  # they are fitted
    assert parts["hard"]["n_training"] > 0
    page = (run / study / "squeezing" / "squeezing.md").read_text()
    assert [line.split(" | ")[0] for line in page.splitlines()[2:]] == ["| gentle", "| hard"]
    costs = read_ledger(run / "results" / "tiny").of_study("softness")
    assert (costs["run_experiment"]["attempts"], costs["measure_study"]["attempts"]) == (2, 2)

    # Another plan of one part: reference (which has the study's settings) and experiment are made again, nothing else.
    config["studies"]["softness"]["squeezes"]["hard"] = 0.25
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    text = snakemake(f"{study}/squeezing/squeezing.md")
    assert "run_experiment: softness, squeezing, hard" in text
    assert set(re.findall(r"^Job \d+: (?:iter_\d+ )?(\w+):", text, re.MULTILINE)) == {
        "refer_study",
        "run_experiment",
        "report_experiment",
    }
    changed = json.loads(results["hard"].read_text())
    assert changed["labeller"] < parts["hard"]["labeller"]
