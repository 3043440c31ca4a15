"""What a dry run shows, before any job has run."""

import re
from collections import Counter
from pathlib import Path

import pytest

from mlip.config.study import study_names
from tests.workflow.conftest import ROOT, Workflow

STEPS = {
    "label_structures",
    "collect_dataset",
    "train_committee",
    "explore_walkers",
    "score_frames",
    "select_candidates",
    "assess_potential",
    "record_provenance",
}


def test_fresh_tree_is_planned_to_the_last_allowed_iteration(workflow: Workflow) -> None:
    plan = workflow.plan()
    for iteration in range(workflow.config["max_iterations"]):
        assert {rule for number, rule in plan if number == f"{iteration:02d}"} >= STEPS
    counts = Counter(rule for _, rule in plan)
    assert counts["label_structures"] == 3 * 2
    assert counts["explore_walkers"] == 3 * 2
    assert counts["report_system"] == counts["deploy_potential"] == counts["label_references"] == 1
    assert counts["retrain_committee"] == 0


def test_a_last_training_on_all_labels_is_one_more_job(workflow: Workflow) -> None:
    plain = Counter(workflow.plan())
    workflow.write_config(workflow.config | {"deploy": {"retrain": "all"}})
    assert Counter(workflow.plan()) - plain == Counter({("", "retrain_committee"): 1})


def test_max_iterations_and_command_line_keys_shape_the_plan(workflow: Workflow) -> None:
    plan = workflow.plan("--config", "max_iterations=5")
    assert {number for number, _ in plan} == {"", "00", "01", "02", "03", "04"}


def test_walkers_that_go_on_wait_for_those_before_them(workflow: Workflow) -> None:
    explore = workflow.config["explore"] | {
        "walkers": [{"temperatures": [300], "start": "last"}, {"temperatures": [300], "start": "uncertain"}]
    }
    workflow.write_config(workflow.config | {"explore": explore})
    done = workflow.snakemake("-n")
    reasons = re.findall(
        r"^Job \d+: iter_(\d+) explore_walkers: walker (\d+)\nReason: (.*)$", done.stdout + done.stderr, re.MULTILINE
    )
    inputs = {(iteration, walker): text.partition("updated by another job:")[2] for iteration, walker, text in reasons}
    assert "walker_00.nc" not in inputs["00", "00"]
    assert "candidates" not in inputs["00", "01"]
    for iteration, before in (("01", "00"), ("02", "01")):
        assert f"iter_{before}/explore_walkers/walker_00.nc" in inputs[iteration, "00"]
        assert "candidates" not in inputs[iteration, "00"]
        assert f"iter_{before}/select_candidates/candidates.extxyz" in inputs[iteration, "01"]
        assert "walker_0" not in inputs[iteration, "01"]


def test_walkers_that_climb_wait_for_what_decided_their_rung(workflow: Workflow) -> None:
    groups = [{"temperatures": "ladder"}, {"temperatures": [300], "start": "ideal"}]
    workflow.write_config(workflow.config | {"explore": workflow.config["explore"] | {"walkers": groups}})
    plan = workflow.snakemake("-n", "--printshellcmds").stdout
    inputs = dict(re.findall(r"^Job \d+: iter_(\d+ explore_walkers: walker \d+)\nReason: (.*)$", plan, re.MULTILINE))
    assert len(inputs) == 3 * 4
    jobs = re.findall(r"rule explore_walkers:\n    input: (.*)\n    output: (.*)\n", plan)
    for files, output in jobs:
        iteration, walker = (int(n) for n in re.findall(r"iter_(\d+)/explore_walkers/walker_(\d+)", output)[0])
        climbs = walker < 3 and iteration > 0
        assert (f"iter_{iteration - 1:02d}/assess_potential/ladder.json" in files) == climbs


@pytest.mark.parametrize("graph", ["--dag", "--rulegraph"])
def test_graphs_are_drawn(workflow: Workflow, graph: str) -> None:
    dot = workflow.snakemake(graph).stdout
    assert dot.lstrip().startswith("digraph")
    assert all(step in dot for step in STEPS)


def test_slurm_profile_resolves_from_the_root(workflow: Workflow) -> None:
    done = workflow.snakemake("--profile", "slurm", "-n")
    assert "assess_potential" in done.stdout + done.stderr


def test_demo_configuration_is_the_default() -> None:
    import subprocess
    import sys

    command = [sys.executable, "-m", "snakemake", "-n", "--snakefile", str(ROOT / "Snakefile"), "--rulegraph"]
    assert subprocess.run(command, cwd=ROOT, capture_output=True, check=True).returncode == 0


def test_user_configuration_does_not_inherit_from_the_demo(workflow: Workflow) -> None:
    config = {k: v for k, v in workflow.config.items() if k != "label"}
    workflow.write_config(config)
    text = workflow.snakemake("-n", "results/tiny/iter_00/label_structures/shard_001.json").stdout
    assert "pw" not in text


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"max_iteration": 3}, "max_iteration: unknown key"),
        ({"seed": "random"}, "seed"),
        ({"structures": [{"bulk": {"name": "Cu"}, "file": "x.cif"}]}, "exactly one of"),
    ],
)
def test_bad_configuration_is_explained_and_nothing_is_written(workflow: Workflow, change: dict, expected: str) -> None:
    workflow.write_config(workflow.config | change)
    done = workflow.snakemake("--cores", "1", check=False)
    text = done.stdout + done.stderr
    assert done.returncode != 0
    assert expected in text
    assert "Traceback" not in text
    assert len(text.splitlines()) < 40
    assert not workflow.results.exists()


RULE = re.compile(r"^(?:rule|checkpoint|use rule [\w]+ as) (\w+)(?: with)?:\n(?: .*\n|\n(?= ))+", re.MULTILINE)
ORDER = ["input", "output", "log", "benchmark", "conda", "threads", "resources", "params", "message", "script"]


def rule_files() -> list[Path]:
    return sorted((ROOT / "workflow" / "rules").rglob("*.smk"))


def test_rules_are_small_and_named_like_their_scripts() -> None:
    (written,) = re.findall(r"at most (\d+) lines\s+a rule", (ROOT / "CONTRIBUTING.md").read_text())
    for path in rule_files():
        assert len(path.read_text().splitlines()) < 250
        for found in RULE.finditer(path.read_text()):
            code = [line for line in found.group(0).splitlines() if line.strip() and not line.strip().startswith("#")]
            assert len(code) <= int(written), f"{found.group(1)}: {len(code)} lines"
        for name in re.findall(r"^(?:rule|checkpoint) (\w+):", path.read_text(), re.MULTILINE):
            script = ROOT / "scripts" / f"{name}.py"
            assert script.is_file(), name
            assert len(script.read_text().splitlines()) < 50
            assert re.search(rf'script:\n        "(\.\./)+scripts/{name}\.py"', path.read_text())


def test_rules_have_their_directives_in_one_order() -> None:
    rules = {found.group(1): found.group(0) for path in rule_files() for found in RULE.finditer(path.read_text())}
    assert len(rules) > 15
    for name, body in rules.items():
        directives = re.findall(r"^    (\w+):", body, re.MULTILINE)
        assert directives == [directive for directive in ORDER if directive in directives], name


def test_lint_is_clean() -> None:
    import subprocess
    import sys

    command = [sys.executable, "-m", "snakemake", "--lint", "--snakefile", str(ROOT / "Snakefile")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_starting_structure_may_be_a_file_of_the_working_directory(workflow: Workflow) -> None:
    from ase.build import bulk
    from ase.io import write

    write(Path(workflow.folder) / "my cell.cif", bulk("Cu", cubic=True))
    workflow.write_config(workflow.config | {"structures": [{"file": "my cell.cif"}]})
    target = "results/tiny/iter_00/prepare_structures/candidates.extxyz"
    workflow.snakemake("--cores", "1", target)
    assert (workflow.folder / target).stat().st_size > 0


@pytest.mark.parametrize("restart", ["previous", "scratch"])
def test_earlier_weights_are_an_input_only_where_training_starts_from_them(workflow: Workflow, restart: str) -> None:
    workflow.write_config(workflow.config | {"train": workflow.config["train"] | {"restart": restart}})
    target = "results/tiny/iter_01/train_committee/potential.json"
    text = workflow.snakemake("-n", target).stdout
    reason = re.search(r"iter_01 train_committee:.*\nReason: (.*)", text)
    assert reason is not None
    assert ("iter_00/train_committee/potential.safetensors" in reason.group(1)) == (restart == "previous")


def test_a_study_is_planned_on_request_and_only_then(workflow: Workflow) -> None:
    assert not {rule for _, rule in workflow.plan()} & {"measure_study", "refer_study", "report_study"}
    workflow.write_config(workflow.config | {"studies": {"eos": {"rounds": 2}}})
    counts = Counter(rule for _, rule in workflow.plan("results/tiny/studies/eos/report.html"))
    assert counts["measure_study"] == 3
    assert counts["train_study"] == counts["join_labels"] == counts["acquire_candidates"] == 2
    assert counts["report_study"] == counts["refer_study"] == 1


def test_validation_measures_and_labels_nothing_more(workflow: Workflow) -> None:
    counts = Counter(rule for _, rule in workflow.plan("results/tiny/studies/validation/report.html"))
    assert counts["measure_study"] == counts["refer_study"] == counts["report_study"] == 1
    assert not counts["label_candidates"]


def test_an_experiment_is_planned_in_its_parts(workflow: Workflow) -> None:
    plan = workflow.plan("results/tiny/studies/elastic/ablation/ablation.md")
    counts = Counter(rule for _, rule in plan)
    assert counts["run_experiment"] == 5
    assert counts["report_experiment"] == counts["refer_study"] == 1
    assert counts["collect_dataset"] == workflow.config["max_iterations"]
    faults = Counter(rule for _, rule in workflow.plan("results/tiny/studies/elastic/faults/short_cutoff.md"))
    assert faults == {"run_experiment": 1, "report_experiment": 1}


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("eos/ablation/ablation.md", "study eos has no experiment ablation; it has: comparison"),
        ("elastic/faults/cold_fusion.md", "faults has no page cold_fusion; it has: wrong_labels"),
    ],
)
def test_an_experiment_that_does_not_exist_is_explained(workflow: Workflow, target: str, expected: str) -> None:
    done = workflow.snakemake("-n", f"results/tiny/studies/{target}", check=False)
    assert done.returncode != 0
    assert expected in done.stdout + done.stderr


@pytest.mark.parametrize("study", study_names())
def test_a_study_can_be_part_of_convergence(workflow: Workflow, study: str) -> None:
    workflow.write_config(workflow.config | {"assess": workflow.config["assess"] | {"studies": [study]}})
    counts = Counter(rule for _, rule in workflow.plan())
    assert counts["measure_study"] == workflow.config["max_iterations"]
    assert counts["refer_study"] == 1
    assert not counts["report_study"]


def test_a_folder_that_the_driver_cannot_write_is_explained(workflow: Workflow) -> None:
    (workflow.folder / ".snakemake").mkdir()
    (workflow.folder / ".snakemake" / "drivers").write_text("not a folder")
    done = workflow.snakemake("--cores", "1", check=False)
    assert done.returncode == 1
    assert ".snakemake/drivers: File exists; give another path, a file of this name is there" in done.stderr
    assert "OSError" not in done.stderr
    assert not (workflow.folder / "results").exists()
