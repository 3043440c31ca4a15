"""A whole loop, run once, and what a user does with it afterwards.

EMT stands in for DFT: these tests look at files, plans and identities, not at physics.
"""

from __future__ import annotations

import csv
import hashlib
import json
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from mlip import load_calculator
from mlip.io.extxyz import read_structures
from tests.workflow.conftest import ROOT, Workflow


def read_json(path: Path) -> dict:
    return json.loads(path.read_text())


AFTERWARDS = ("deploy_potential", "report_system")


def records(loop: Workflow, iteration: int) -> list[dict]:
    folder = loop.results / f"iter_{iteration:02d}" / "label_structures"
    return [r for path in sorted(folder.glob("shard_???.json")) for r in read_json(path)["records"]]


def iterations(plan: list[tuple[str, str]]) -> set[str]:
    return {number for number, _ in plan} - {""}


def test_products_are_where_the_readme_says(finished: Workflow) -> None:
    summary = read_json(finished.results / "summary.json")
    assert summary["converged"] is True
    assert summary["iterations"] == 2
    assert summary["labels"] == 15
    assert summary["failed_labels"] == 0
    assert summary["a0"] > 0
    assert summary["B0"] > 0
    low, high = summary["force_rmse_interval"]
    assert low <= summary["force_rmse"] <= high
    assert summary["core_seconds"]["train_committee"] > 0
    page = (finished.results / "report.html").read_text()
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert len(list((finished.results / "figures").glob("*.png"))) >= 5


def test_convergence_ends_the_run_before_the_last_allowed_iteration(finished: Workflow) -> None:
    assert not (finished.results / "iter_02").exists()
    # 15 candidates and 7 reference volumes, one of which is the unperturbed crystal of iteration 0.
    assert len(list((finished.folder / "label_store").glob("??/*.json"))) == 15 + 7 - 1


def test_deployed_potential_is_an_ase_calculator(finished: Workflow) -> None:
    from ase.build import bulk

    atoms = bulk("Cu", cubic=True)
    atoms.rattle(0.05, seed=1)
    atoms.calc = load_calculator(finished.results / "potential")
    assert np.isfinite(atoms.get_potential_energy())
    assert atoms.get_forces().shape == (4, 3)
    assert atoms.get_stress().shape == (6,)
    assert atoms.calc.results["forces_std"].shape == (4, 3)
    assert atoms.calc.results["energy_std"] >= 0


def test_the_deployed_potential_may_be_trained_on_all_labels_and_says_so(finished: Workflow, tmp_path: Path) -> None:
    loop = copy_of(finished, tmp_path)
    loop.write_config(loop.config | {"deploy": {"retrain": "all"}})
    # Nothing that the loop has done is done again.
    assert Counter(loop.plan()) == Counter({("", rule): 1 for rule in ("retrain_committee", *AFTERWARDS)})
    loop.snakemake("--cores", "2")
    before, after = loop.results / "iter_01" / "train_committee", loop.results / "potential"
    parts = [loop.results / "iter_01" / "collect_dataset" / f"{part}.extxyz" for part in ("train", "valid", "test")]
    n_structures, n_audits = sum(len(read_structures(part)) for part in parts), len(read_structures(parts[2]))
    trained, told = (read_json(folder / "training.json") for folder in (before, after))
    assert (told["n_train"], told["n_valid"], told["n_audits"]) == (n_structures, 0, 0)
    assert n_structures > trained["n_train"]
    assert told["steps"] == trained["steps"]
    assert told["calibration"] == trained["calibration"]
    assert told["retrained"]["n_audits"] == n_audits == 2
    assert read_json(after / "potential.json")["details"]["retrained"] == told["retrained"]
    weights = [(folder / "potential.safetensors").read_bytes() for folder in (before, after)]
    assert weights[0] != weights[1]
    load_calculator(after)
    assert read_json(loop.results / "summary.json")["retrained"]["iteration"] == 1
    assert f"on all {n_structures} labels, 2 audits among them" in (loop.results / "report.html").read_text()
    assert loop.plan() == []
    # And back.
    loop.write_config(finished.config)
    assert Counter(loop.plan()) == Counter({("", rule): 1 for rule in AFTERWARDS})


def test_a_candidate_is_followed_by_name_from_frame_to_training_set(finished: Workflow) -> None:
    first = finished.results / "iter_00"
    chosen = read_structures(first / "select_candidates" / "candidates.extxyz")
    with (first / "select_candidates" / "decisions.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    taken = {row["structure_id"]: row for row in rows if row["decision"] != "left"}
    assert {a.info["structure_id"] for a in chosen} == set(taken)
    assert all(row["reason"] for row in rows)
    labelled = {r["structure_id"]: r for r in records(finished, 1)}
    assert set(labelled) == set(taken)
    dataset = finished.results / "iter_01" / "collect_dataset"
    data = [a for split in ("train", "valid", "test") for a in read_structures(dataset / f"{split}.extxyz")]
    known = {a.info["structure_id"]: a for a in data}
    for identity, row in taken.items():
        info = known[identity].info
        assert (info["walker"], info["frame"]) == (int(row["walker"]), int(row["frame"]))
        assert info["reason"] == row["decision"]
        assert info["label_key"] == labelled[identity]["key"]
        assert info["iteration"] == 1
        assert info["core_seconds"] >= 0


def test_provenance_names_code_data_and_cost(finished: Workflow) -> None:
    provenance = read_json(finished.results / "iter_01" / "provenance.json")
    assert provenance["seed"] == 7
    assert provenance["packages"]["torch"].startswith("2.13")
    assert set(provenance["files"]) >= {"label_structures", "train_committee", "explore_walkers", "assess_potential"}
    assert all(len(digest) == 64 for files in provenance["files"].values() for digest in files.values())
    assert set(provenance["steps"]) >= {"label_structures", "train_committee", "explore_walkers", "assess_potential"}


def test_ledger_agrees_with_summary_and_assessment(finished: Workflow) -> None:
    ledger = read_json(finished.results / "ledger.json")
    summary = read_json(finished.results / "summary.json")
    assert summary["ledger"] == ledger
    assert [entry["iteration"] for entry in ledger["iterations"]] == [None, 0, 1]
    expected = {"label_structures": 2, "train_committee": 1, "explore_walkers": 2, "assess_potential": 1}
    for entry in ledger["iterations"][1:]:
        assert {step: entry["steps"][step]["attempts"] for step in expected} == expected
    assert all(row["failed"] == 0 for row in ledger["steps"].values())
    # A benchmark begins a little earlier than the attempt that its job notes.
    benchmark = (finished.results / "iter_01" / "benchmarks" / "train_committee.tsv").read_text()
    wall = float(benchmark.splitlines()[1].split()[0])
    assert ledger["iterations"][2]["steps"]["train_committee"]["core_seconds"] == pytest.approx(wall, abs=1.0)
    spent = [assessment["spent"]["core_hours"] * 3600 for assessment in summary["history"]]
    assert 0 < spent[0] < spent[1] < ledger["core_seconds"]
    assert summary["history"][0]["next"]["core_hours"] > 0
    assert summary["history"][0]["next"]["labels"] == 5


def copy_of(loop: Workflow, folder: Path, **changes: object) -> Workflow:
    """The loop with all its files and Snakemake's memory of them, in another folder."""
    shutil.copytree(loop.folder, folder, dirs_exist_ok=True)
    return Workflow(folder, loop.config | changes)


def files_per_iteration(loop: Workflow) -> Counter[str]:
    files = [path.relative_to(loop.results) for path in loop.results.rglob("*") if path.is_file()]
    return Counter(part for path in files for part in path.parts if part.startswith("iter_"))


def n_frames(loop: Workflow) -> int:
    with xr.open_dataset(loop.results / "iter_00" / "explore_walkers" / "walker_00.nc") as walker:
        return walker.sizes["frame"]


def test_file_count_is_independent_of_the_trajectories_length(finished: Workflow, tmp_path: Path) -> None:
    explore = finished.config["explore"] | {"n_steps": 300, "sample_every": 2}
    loop = copy_of(finished, tmp_path, explore=explore)
    loop.snakemake("--cores", "2", "results/tiny/iter_00/provenance.json")
    assert n_frames(loop) > 3 * n_frames(finished)
    # About 20 outputs; and a log, a benchmark and a list of attempts for each of 12 jobs.
    assert files_per_iteration(loop)["iter_00"] == files_per_iteration(finished)["iter_00"] < 75


def test_budget_ends_the_loop_and_a_larger_one_goes_on_without_labels_or_training(
    finished: Workflow, tmp_path: Path
) -> None:
    loop = copy_of(finished, tmp_path, budget={"core_hours": 1e-6})
    loop.snakemake("--cores", "2")
    summary = read_json(loop.results / "summary.json")
    assert (summary["iterations"], summary["converged"]) == (1, False)
    assert summary["reason"].startswith("budget: ")
    assert "of 1e-06 core-hours used" in summary["reason"]
    spent = summary["history"][0]["spent"]["core_hours"]
    loop.write_config(loop.config | {"budget": {"core_hours": 10 * spent}})
    loop.snakemake("--cores", "2")
    summary = read_json(loop.results / "summary.json")
    assert (summary["iterations"], summary["converged"]) == (2, True)
    # The third iteration, planned while the first decision was being taken again, was never begun.
    assert not (loop.results / "iter_02").exists()
    steps = read_json(loop.results / "ledger.json")["steps"]
    before = read_json(finished.results / "ledger.json")["steps"]
    assert steps["assess_potential"]["attempts"] > before["assess_potential"]["attempts"]
    for step in ("label_structures", "label_references", "train_committee", "explore_walkers"):
        assert steps[step] == before[step]


def test_second_run_has_nothing_to_do(finished: Workflow) -> None:
    assert finished.plan() == []
    assert finished.plan("--config", "max_iterations=9") == []


def test_white_space_and_comments_rerun_nothing(finished: Workflow) -> None:
    (ROOT / "scripts" / "train_committee.py").touch()
    assert finished.plan() == []


def test_retraining_one_iteration_plans_it_and_its_descendants(finished: Workflow) -> None:
    plan = finished.plan("--forcerun", "results/tiny/iter_01/train_committee/potential.safetensors")
    assert iterations(plan) == {"01", "02"}
    assert {rule for number, rule in plan if number == "01"} == {
        "train_committee",
        "explore_walkers",
        "score_frames",
        "select_candidates",
        "assess_potential",
        "record_provenance",
    }


def test_relabelling_a_shard_plans_it_and_its_descendants(finished: Workflow) -> None:
    plan = finished.plan("--forcerun", "results/tiny/iter_01/label_structures/shard_001.json")
    assert [rule for number, rule in plan if number == "01"].count("label_structures") == 1
    assert "00" not in iterations(plan)
    assert ("01", "train_committee") in plan


def plan_with(loop: Workflow, **changes: dict) -> list[tuple[str, str]]:
    """The plan after changing sections of the configuration, which is put back afterwards."""
    original = dict(loop.config)
    try:
        loop.write_config(original | changes)
        return loop.plan()
    finally:
        loop.write_config(original)


def test_training_starts_from_the_iteration_before(finished: Workflow) -> None:
    weights = finished.results / "iter_00" / "train_committee" / "potential.safetensors"
    second = read_json(finished.results / "iter_01" / "train_committee" / "training.json")
    assert second["previous"] == hashlib.sha256(weights.read_bytes()).hexdigest()
    assert read_json(finished.results / "iter_00" / "train_committee" / "training.json")["previous"] is None


def test_another_way_to_restart_labels_nothing_again(finished: Workflow) -> None:
    plan = plan_with(finished, train=finished.config["train"] | {"restart": "scratch"})
    assert ("01", "train_committee") in plan
    assert not {"prepare_structures", "label_references", "label_isolated_atoms"} & {rule for _, rule in plan}
    assert "label_structures" not in {rule for number, rule in plan if number == "00"}
    assert "collect_dataset" not in {rule for number, rule in plan if number == "00"}


def test_new_selection_from_an_iteration_on_leaves_earlier_ones_alone(finished: Workflow) -> None:
    plan = plan_with(finished, overrides=[{"from_iteration": 1, "select": {"n_structures": 4}}])
    assert iterations(plan) == {"01", "02"}
    assert {rule for number, rule in plan if number == "01"} == {
        "select_candidates",
        "assess_potential",
        "record_provenance",
    }


@pytest.mark.parametrize(
    "changes",
    [
        {"assess": {"force_rmse": 99.0}},
        {"budget": {"labels": 1000, "core_hours": 10.0, "gpu_hours": 1.0}},
        {"min_iterations": 1},
    ],
    ids=["targets", "budget", "min_iterations"],
)
def test_new_stopping_rules_assess_again_and_compute_nothing(finished: Workflow, changes: dict) -> None:
    if "assess" in changes:
        changes = {"assess": finished.config["assess"] | changes["assess"]}
    plan = plan_with(finished, **changes)
    assert plan
    assert {rule for number, rule in plan if number in ("00", "01")} <= {"assess_potential", "record_provenance"}


def test_bookkeeping_of_labels_is_no_reason_to_label_or_train(finished: Workflow) -> None:
    label = finished.config["label"]
    plan = plan_with(finished, label=label | {"timeout_minutes": 7.0, "reuse_failures": False})
    assert {rule for _, rule in plan} <= {"record_provenance", "report_system"}


def test_other_reference_volumes_train_nothing(finished: Workflow) -> None:
    volumes = [-0.06, -0.03, 0.0, 0.03, 0.06]
    plan = plan_with(finished, assess=finished.config["assess"] | {"eos_volumes": volumes})
    rules = {rule for number, rule in plan if number in ("", "00", "01")}
    assert "label_references" in rules
    assert not {"label_structures", "label_isolated_atoms", "train_committee", "explore_walkers"} & rules


@pytest.fixture(scope="module")
def repeated(finished: Workflow, tmp_path_factory: pytest.TempPathFactory) -> Workflow:
    """The same loop in another folder, with the first one's label store."""
    loop = Workflow(tmp_path_factory.mktemp("again"), finished.config)
    loop.snakemake("--cores", "2", MLIP_LABEL_STORE=str(finished.folder / "label_store"))
    return loop


def test_same_seed_selects_the_same_structures(finished: Workflow, repeated: Workflow) -> None:
    name = Path("select_candidates") / "candidates.extxyz"
    for iteration in ("iter_00", "iter_01"):
        first = (finished.results / iteration / name).read_text()
        assert first
        assert (repeated.results / iteration / name).read_text() == first


def test_finished_labels_are_never_computed_again(repeated: Workflow) -> None:
    for iteration in (0, 1):
        assert all(record["cached"] for record in records(repeated, iteration))
        assert all(record["core_seconds"] > 0 for record in records(repeated, iteration))


def test_damaged_data_set_stops_the_step_that_reads_it(repeated: Workflow) -> None:
    path = repeated.results / "iter_01" / "collect_dataset" / "train.extxyz"
    text = path.read_text()
    path.write_text(text[: len(text) // 2])
    shutil.rmtree(repeated.results / "iter_01" / "train_committee")
    done = repeated.snakemake(
        "--cores", "1", "--retries", "0", "results/tiny/iter_01/train_committee/potential.json", check=False
    )
    assert done.returncode != 0
    assert "train.extxyz" in done.stdout + done.stderr
    assert "cut short" in done.stdout + done.stderr
