"""Status: what it says in every phase of a loop, and that no half-written file stops it."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))
from synthetic_results import synthetic_config, synthetic_results, write_candidates, write_json

from mlip.jobs.slurm.queue import QueuedJob
from mlip.status.loop import read_status
from mlip.status.studies import read_studies
from mlip.status.text import PAUSE_QUEUE, progress_line, render_status, watch_status


@pytest.fixture
def loop(tmp_path):
    """Two finished iterations of five, and nothing said about stopping."""
    root = tmp_path / "silicon"
    synthetic_results(root, 2)
    path = root / "iter_01" / "assess_potential" / "assessment.json"
    write_json(path, json.loads(path.read_text()) | {"converged": False, "stop": False, "reason": "continue"})
    return root


def states(status, number):
    return {step.name: step.state for step in status.iterations[number].steps}


def test_nothing_yet(tmp_path):
    status = read_status(synthetic_config(), tmp_path / "silicon")
    assert status.current == 0
    assert set(states(status, 0).values()) == {"waiting"}
    assert not {"label_references", "label_isolated_atoms"} & set(states(status, 1))
    assert status.next_steps == ("prepare_structures", "label_references")
    assert status.seconds_left is None
    assert "iter_00 (of 5)" in progress_line(status)


def test_finished_loop_says_why_and_what_remains(tmp_path):
    root = tmp_path / "silicon"
    synthetic_results(root, 3)
    status = read_status(synthetic_config(), root)
    assert (status.current, status.stop_reason, len(status.iterations)) == (2, "converged", 3)
    assert status.next_steps == ("deploy_potential", "report_system")
    assert (status.labels_done, status.labels_planned) == (46, 46)
    assert [f["status"] for f in status.failures] == ["rejected", "unconverged"]
    assert "ended: converged" in progress_line(status)


def test_isolated_atoms_are_a_step_of_their_own(loop):
    (loop / "label_references" / "isolated_atoms.json").unlink()
    status = read_status(synthetic_config(), loop)
    assert (status.current, status.next_steps) == (0, ("label_isolated_atoms",))
    log = loop / "logs" / "label_isolated_atoms.log"
    log.parent.mkdir()
    log.write_text("Traceback (most recent call last):\nLabelError: reference-atom-Si: unconverged\n")
    status = read_status(synthetic_config(), loop)
    assert (states(status, 0)["label_isolated_atoms"], states(status, 0)["label_references"]) == ("failed", "done")
    assert "✗ label_isolated_atoms: LabelError: reference-atom-Si" in render_status(status)


def test_iteration_limit_ends_the_loop(loop):
    status = read_status(synthetic_config(max_iterations=2), loop)
    assert status.stop_reason.startswith("iteration limit")


def test_labels_in_flight_are_counted(loop):
    folder = loop / "iter_02" / "label_structures"
    write_json(folder / "shard_000.json", {"planned": 6, "records": [{"structure_id": "a", "status": "ok"}] * 6})
    write_json(folder / "shard_001.progress.json", {"done": 2, "planned": 5, "failed": 0})
    status = read_status(synthetic_config(), loop)
    assert status.current == 2
    step = next(s for s in status.iterations[2].steps if s.name == "label_structures")
    assert (step.state, step.done, step.planned) == ("started", 1, 2)
    assert (status.iterations[2].labels_done, status.iterations[2].labels_planned) == (8, 11)
    line = progress_line(status)
    assert line.startswith("iter_02 (of 5) label_structures · labels 43/46 · force RMSE 0.22 eV/Å [0.17–0.36]")
    assert "uncertainty" in line
    assert status.next_steps[0] == "label_structures"


def test_candidates_are_the_plan_before_labelling_starts(loop):
    write_candidates(loop / "iter_01" / "select_candidates" / "candidates.extxyz", [f"s{k}" for k in range(7)])
    status = read_status(synthetic_config(), loop)
    assert (status.iterations[2].labels_done, status.iterations[2].labels_planned) == (0, 7)
    path = loop / "iter_01" / "select_candidates" / "candidates.extxyz"
    path.write_text(path.read_text()[:-20])  # cut short while it is written
    assert read_status(synthetic_config(), loop).iterations[2].labels_planned == 6


def test_time_left_follows_the_finished_iterations(loop):
    stamps = {"iter_00/prepare_structures/candidates.extxyz": 1000, "iter_00/assess_potential/assessment.json": 1300}
    for name, stamp in (stamps | {"iter_01/assess_potential/assessment.json": 1400}).items():
        os.utime(loop / name, (stamp, stamp))
    status = read_status(synthetic_config(), loop, now=1440)
    assert status.seconds_left == pytest.approx(3 * 100 - 40)
    assert progress_line(status).endswith("≤ 4 min left")
    assert read_status(synthetic_config(), loop, now=10_000).seconds_left == pytest.approx(200)


def test_failed_step_shows_the_end_of_its_log(loop):
    log = loop / "logs" / "iter_02" / "label_structures-001.log"
    log.parent.mkdir(parents=True)
    log.write_text("done=1\n")
    assert states(read_status(synthetic_config(), loop), 2)["label_structures"] == "started"
    log.write_text("Traceback (most recent call last):\n  ...\nLabelError: no PAW setup for Si; run mlip doctor\n")
    status = read_status(synthetic_config(), loop)
    assert states(status, 2)["label_structures"] == "failed"
    assert "no PAW setup for Si; run mlip doctor" in render_status(status)
    write_json(loop / "iter_02" / "label_structures" / "shard_001.json", {"planned": 0, "records": []})
    assert states(read_status(synthetic_config(), loop), 2)["label_structures"] == "started"


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "null", '{"records": 3, "planned": "x", "failures": {}}', "\x00\xff", '{"audit": 1}']
)
def test_half_written_files_never_stop_it(loop, content):
    for path in loop.rglob("*.json"):
        path.write_text(content, encoding="latin-1")
    running = loop / "iter_02" / "label_structures" / "shard_000.progress.json"
    running.parent.mkdir(parents=True)
    running.write_text(content, encoding="latin-1")
    status = read_status(synthetic_config(), loop)
    assert render_status(status)
    assert status.force_rmse is None


def test_the_error_is_the_one_of_the_report(loop):
    path = loop / "iter_01" / "assess_potential" / "assessment.json"
    audit = {"n_structures": 3, "force_rmse": 0.028, "interval": [0.0, 0.041], "confidence": 0.9}
    fresh = {"n_structures": 9, "force_rmse": 0.19, "interval": [0.0, 0.3], "confidence": 0.9}
    path.write_text(json.dumps(json.loads(path.read_text()) | {"audit": audit, "fresh": fresh, "test": None}))
    status = read_status(synthetic_config(), loop)
    assert "force RMSE 0.19 eV/Å [0–0.3]" in progress_line(status)
    text = " ".join(render_status(status).split())
    assert "error: on 9 newly labelled structures · Errors disagree: 0.028 eV/Å on 3 audit frames" in text


def test_step_done_again_reopens_a_finished_loop(tmp_path):
    root = tmp_path / "silicon"
    synthetic_results(root, 3)
    (root / "iter_01" / "train_committee" / "potential.json").unlink()
    status = read_status(synthetic_config(), root)
    assert (status.current, status.stop_reason, status.next_steps) == (1, None, ("train_committee",))


def note_attempt(root, name, *, seconds=None, ok=True, **start):
    """One more attempt of a job; without ``seconds`` it has not ended."""
    path = root / "ledger" / f"{name}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as stream:
        began = {
            "event": "start",
            "time": 1000.0,
            "cores": 2,
            "gpus": 0,
            "host": socket.gethostname(),
            "pid": os.getpid(),
        }
        stream.write(json.dumps(began | start) + "\n")
        if seconds is not None:
            stream.write(json.dumps({"event": "end", "seconds": seconds, "ok": ok}) + "\n")


def test_jobs_and_costs_follow_from_files(loop):
    note_attempt(loop, "iter_00/train_committee", seconds=1800.0, ok=False)
    note_attempt(loop, "iter_00/train_committee", seconds=1800.0)
    note_attempt(loop, "iter_01/train_committee", seconds=1800.0)
    note_attempt(loop, "iter_02/label_structures-000")  # this very process
    note_attempt(loop, "iter_02/label_structures-001", pid=2**22 + 1)  # no process has this number
    note_attempt(loop, "iter_02/label_structures-002", host="elsewhere")
    config = synthetic_config(budget={"core_hours": 10.0})
    status = read_status(config, loop, now=1900.0)
    jobs = status.jobs
    assert (jobs.queued, jobs.running, jobs.failed, jobs.failed_attempts) == (None, 2, 1, 2)
    assert status.spending.total.core_hours == pytest.approx(3 + 2 * 0.5)
    assert status.spending.by_iteration[2].core_hours == pytest.approx(1.0)
    text = render_status(status)
    assert f"jobs: 2 running · {status.jobs_done} done · 1 failed (failed attempts so far: 2)" in text
    assert "cost: 4 of 10 core-hours, ≤ " in text
    assert "GPU" not in text
    assert read_status(config, loop, costs=False).spending is None


def test_queue_says_what_runs(loop):
    for shard, job in enumerate(("11", "12")):
        note_attempt(loop, f"iter_02/label_structures-{shard:03d}", slurm_job=job)
    note_attempt(loop, "iter_02/label_structures-002", seconds=5.0, ok=False, slurm_job="10")
    comment = "rule_label_structures_wildcards_silicon_02_{:03d}"
    queue = [QueuedJob("11", "RUNNING", comment.format(0)), QueuedJob("13", "PENDING", comment.format(2))]
    jobs = read_status(synthetic_config(), loop, queue=queue).jobs
    # 12 is gone without a word; shard 2 failed, but is tried again.
    assert (jobs.queued, jobs.running, jobs.failed, jobs.failed_attempts) == (1, 1, 1, 2)
    assert "jobs: 1 queued · 1 running" in render_status(read_status(synthetic_config(), loop, queue=queue))


def test_iterations_show_their_errors_and_costs(loop):
    note_attempt(loop, "iter_01/train_committee", seconds=450.0)
    row = next(line for line in render_status(read_status(synthetic_config(), loop)).splitlines() if "iter_01 " in line)
    assert row.split()[-3:] == ["0.22", "0.069", "0.25"]


def test_what_may_come_is_forecast_and_bounded_by_the_budget(loop):
    for number in (0, 1):
        note_attempt(loop, f"iter_{number:02d}/train_committee", seconds=3600.0)
    note_attempt(loop, "iter_02/train_committee", seconds=900.0)
    unbounded = read_status(synthetic_config(), loop).spending.to_come.core_hours
    labels = read_status(synthetic_config(), loop).iterations[2].labels_planned
    shards = [json.loads(path.read_text()) for path in (loop / "iter_01" / "label_structures").glob("shard_???.json")]
    costs = [record["core_seconds"] for shard in shards for record in shard["records"]]
    assert unbounded == pytest.approx(3 * (2.0 + labels * sum(costs) / len(costs) / 3600) - 0.5)
    status = read_status(synthetic_config(budget={"core_hours": 5.0}), loop)
    assert "cost: 4.5 of 5 core-hours, ≤ 0.5 to come" in render_status(status)


def test_studies_are_told_beside_the_loop(loop):
    def line():
        text = render_status(read_status(config, loop))
        return next((row for row in text.splitlines() if row.startswith("study eos")), "")

    config = synthetic_config(studies={"eos": {"rounds": 1}}, label={"n_shards": 2})
    spent = read_status(config, loop).spending.total
    assert line() == ""
    study = loop / "studies" / "eos"
    study.mkdir(parents=True)
    assert line() == "study eos: round 0 of 1 · next: refer_study"
    for name in ("reference.nc", "round_00/property.nc"):
        (study / name).parent.mkdir(exist_ok=True)
        (study / name).touch()
    write_candidates(study / "round_00" / "candidates.extxyz", ["a", "b", "c"])
    labels = study / "round_01" / "labels"
    write_json(labels / "shard_000.json", {"planned": 2, "records": [{"structure_id": "a", "status": "ok"}] * 2})
    note_attempt(loop, "studies/eos/round_01/label_candidates-000", seconds=1800.0, cores=1)
    assert line() == "study eos: round 1 of 1 · labels 2/3 · 0.5 core-hours · next: label_candidates"
    log = loop / "logs" / "studies" / "eos" / "round_01" / "label_candidates-001.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_text("Traceback (most recent call last):\nLabelError: no space left\n")
    assert line().endswith("· ✗ label_candidates: LabelError: no space left")
    write_json(labels / "shard_001.json", {"planned": 1, "records": [{"structure_id": "b", "status": "ok"}]})
    for name in ("dataset/dataset.json", "potential/potential.json", "property.nc", "../report.html"):
        (study / "round_01" / name).parent.mkdir(exist_ok=True)
        (study / "round_01" / name).touch()
    assert line() == "study eos: round 1 of 1 · labels 3/3 · 0.5 core-hours · done"
    assert read_status(config, loop).spending.total == spent


def test_watching_ends_with_the_loop(tmp_path, capsys):
    root = tmp_path / "silicon"
    synthetic_results(root, 3)
    pauses = []

    def pause(seconds):
        pauses.append(seconds)
        if len(pauses) == 2:
            (root / "potential").mkdir()
            (root / "potential" / "potential.json").touch()
            (root / "report.html").touch()
        assert len(pauses) < 3

    watch_status(lambda: read_status(synthetic_config(), root, queue=[]), pause=pause)
    assert pauses == [PAUSE_QUEUE] * 2
    shown = capsys.readouterr().out
    assert shown.count("ended: converged") == 2  # what has not changed is not printed again
    assert "next: deploy_potential, report_system" in shown
    assert "next: nothing" in shown
    assert "\x1b" not in shown


def test_text_stays_short(tmp_path):
    root = tmp_path / "silicon"
    synthetic_results(root, 12)
    (root / "report.html").touch()
    failed = [{"structure_id": f"s{k}", "status": "crashed", "reason": "r" * 300} for k in range(40)]
    write_json(root / "iter_03" / "collect_dataset" / "dataset.json", {"failures": failed})
    status = read_status(synthetic_config(max_iterations=50), root)
    text = render_status(status)
    assert len(status.failures) == 42
    assert len(text.splitlines()) <= 25
    assert max(map(len, text.splitlines())) <= 130
    assert "\n" not in progress_line(status)


def test_reading_status_loads_nothing_heavy():
    heavy = ("torch", "ase", "numpy", "xarray", "matplotlib")
    code = f"import sys, mlip.status.loop, mlip.status.text; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_first_iteration_is_forecast_from_its_labels(loop):
    import os

    (loop / "iter_01").rename(loop.parent / "gone")
    (loop / "iter_00" / "label_structures" / "shard_001.json").unlink()
    (loop / "iter_00" / "assess_potential" / "assessment.json").unlink()
    os.utime(loop / "iter_00" / "prepare_structures" / "candidates.extxyz", (1000, 1000))
    config = synthetic_config()
    status = read_status(config, loop, now=1100.0)
    rate = 100.0 / status.labels_done
    left = status.labels_planned - status.labels_done + (config.max_iterations - 1) * config.select.n_structures
    assert status.seconds_left == pytest.approx(rate * left)


def test_a_study_whose_criteria_are_met_has_no_more_rounds(loop):
    config = synthetic_config(studies={"eos": {"rounds": 4}})
    study = loop / "studies" / "eos"
    for name in ("reference.nc", "round_00/property.nc", "round_00/candidates.extxyz", "round_00/verdict.json"):
        (study / name).parent.mkdir(parents=True, exist_ok=True)
        (study / name).touch()
    assert read_studies(config, loop)[0].rounds == 4  # half written, it says nothing
    write_json(study / "round_00" / "verdict.json", {"stop": False})
    assert read_studies(config, loop)[0].next_step == "label_candidates"
    write_json(study / "round_00" / "verdict.json", {"stop": True})
    ended = read_studies(config, loop)[0]
    assert (ended.round, ended.rounds, ended.next_step) == (0, 0, "report_study")
