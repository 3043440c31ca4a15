"""The results tree is spelled twice, in the rules for who reads them and in mlip.io.layout for the rest: both agree."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from mlip.io.layout import DIGITS, OUTPUTS, STEPS, STUDY_STEPS, attempts_path, benchmark_path, job_at, output_path
from tests.workflow.conftest import ROOT, TINY

LIST_RULES = """
import json, sys
from pathlib import Path
from snakemake.api import SnakemakeApi
from snakemake.settings.types import ConfigSettings, OutputSettings, ResourceSettings

with SnakemakeApi(OutputSettings(quiet={"all"})) as api:
    snakefile, settings = Path(sys.argv[1]), ConfigSettings(configfiles=[Path(sys.argv[2])])
    workflow = api.workflow(ResourceSettings(), config_settings=settings, snakefile=snakefile)._workflow
    rules = {r.name: [list(map(str, files)) for files in (r.output, r.log, r.benchmark and [r.benchmark] or [])]
             for r in workflow.rules}
print(json.dumps(rules))
"""
ROOT_OF_SYSTEM = "results/{system}/"


@pytest.fixture(scope="module")
def rules() -> dict[str, list[list[str]]]:
    """Outputs, logs and benchmarks of every rule, as the rules spell them."""
    command = [sys.executable, "-c", LIST_RULES, str(ROOT / "Snakefile"), str(TINY)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    return {name: [list(map(_without_constraints, paths)) for paths in lists] for name, lists in found.items()}


def _without_constraints(path: str) -> str:
    """Snakemake writes the constraints of wildcards into their braces: ``{round,\\d{2}}``."""
    return re.sub(r"\{(\w+),(?:[^{}]|\{[^{}]*\})*\}", r"{\1}", path)


@pytest.mark.parametrize("step", OUTPUTS)
def test_outputs_are_those_of_the_rule(step: str, rules: dict[str, list[list[str]]]) -> None:
    outputs = rules[step][0]
    assert outputs == [ROOT_OF_SYSTEM + template for template in OUTPUTS[step]]


def test_every_step_has_its_place() -> None:
    assert {*STEPS, *STUDY_STEPS} <= set(OUTPUTS)


def test_notes_and_benchmarks_are_found_from_the_log(rules: dict[str, list[list[str]]]) -> None:
    values = {"system": "si", "study": "eos", "experiment": "ablation", "part": "few_radial", "page": "ablation"}
    values |= {name: f"{7:0{digits}d}" for name, digits in DIGITS.items()} | {"variant": "present", "fault": "noise"}
    root, seen = Path("results/si"), 0
    for name, (_, logs, benchmarks) in rules.items():
        if not benchmarks:
            continue
        log, benchmark = (Path(paths[0].format(**values)) for paths in (logs, benchmarks))
        notes = attempts_path(log)
        assert notes is not None, name
        job = job_at(notes)
        assert job == job_at(log)
        assert job.step == name.removesuffix("_in_loop"), name
        assert benchmark_path(root, job) == benchmark, name
        seen += 1
    assert seen > len(STEPS)


def test_unknown_files_and_missing_wildcards_are_refused() -> None:
    root = Path("results/si")
    path = output_path(root, "label_structures", "shard_{shard}.json", iteration=3, shard=12)
    assert path == root / "iter_03/label_structures/shard_012.json"
    with pytest.raises(ValueError, match=r"label_structures writes no shard\.json, only .*shard_\{shard\}\.json"):
        output_path(root, "label_structures", "shard.json", iteration=3)
    with pytest.raises(ValueError, match=r"no value for the wildcard 'shard'"):
        output_path(root, "label_structures", "shard_{shard}.json", iteration=3)
