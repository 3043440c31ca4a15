"""The ledger: every attempt counts once, from whatever source knows most of it, and none is lost."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from mlip.io.layout import Job, attempts_path, benchmark_path
from mlip.jobs.attempts import Attempt, count_cores, note_attempt, read_attempts
from mlip.jobs.ledger import Cost, forecast_iteration, read_ledger, update_accounts, write_ledger
from mlip.jobs.slurm import queue as slurm

RUN = "0f3b1c2d-1111-4222-8333-123456789abc"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "results" / "silicon"


def log_of(root: Path, name: str) -> Path:
    path = root / "logs" / f"{name}.log"
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def note(root: Path, name: str, *events: dict) -> Path:
    """The attempts of a job as its process would have noted them."""
    path = attempts_path(log_of(root, name))
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as stream:
        stream.writelines(json.dumps(event) + "\n" for event in events)
    return path


def start(time: float = 1000.0, cores: int = 1, gpus: int = 0, **more: object) -> dict:
    return {"event": "start", "time": time, "cores": cores, "gpus": gpus, "host": "n1", "pid": 1} | more


def end(seconds: float, ok: bool = True) -> dict:
    return {"event": "end", "seconds": seconds, "ok": ok}


def write_benchmark(root: Path, job: Job, wall: float, cpu: float | str) -> None:
    path = benchmark_path(root, job)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"s\th:m:s\tcpu_time\n{wall}\t0:00:01\t{cpu}\n")


def account(identity: str, seconds: float, cores: int, gpus: int = 0, **more: str) -> slurm.JobAccount:
    values = {"start": "2026-01-01T00:00:00", "state": "COMPLETED", "comment": ""} | more
    return slurm.JobAccount(identity, values["start"], values["state"], seconds, cores, gpus, values["comment"])


# Attempts ----------------------------------------------------------------------------------------


def test_attempts_of_a_job_are_noted_one_after_the_other(root: Path) -> None:
    log = log_of(root, "iter_01/label_structures-003")
    with pytest.raises(SystemExit), note_attempt(log, 2):
        sys.exit(1)
    with note_attempt(log, 2, {"gpu": 3}):
        pass
    first, second = read_attempts(root)
    assert (first.state, second.state) == ("failed", "done")
    assert first.job == second.job == Job(1, "label_structures", "003")
    assert (first.cores, first.gpus, second.gpus) == (2, 0, 3)
    assert second.began >= first.began > 0


def test_killed_attempt_ends_with_its_last_sign_of_life(root: Path) -> None:
    log = log_of(root, "iter_00/train_committee")
    note(root, "iter_00/train_committee", start(time=1000.0, cores=4))
    log.write_text("step 1\n")
    os.utime(log, (1060.0, 1060.0))
    assert [(a.state, a.seconds) for a in read_attempts(root)] == [("open", 60.0)]
    with note_attempt(log, 4):  # the next one overwrites the log, but not what is known of the first
        log.write_text("")
    first = read_attempts(root)[0]
    assert (first.state, first.seconds) == ("lost", 60.0)
    assert read_ledger(root).of_iteration(0)["train_committee"]["failed_core_seconds"] == 240.0


def test_process_killed_without_a_word_is_noted(root: Path) -> None:
    log = log_of(root, "label_references")
    code = (
        "import os, sys, pathlib; from mlip.jobs.job import log_step\n"
        "with log_step(sys.argv[1], 1): print('begun', flush=True); os.kill(os.getpid(), 9)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(log)], check=False).returncode == -9
    (attempt,) = read_attempts(root)
    assert (attempt.state, attempt.step, attempt.iteration) == ("open", "label_references", None)
    assert log.read_text() == "begun\n"


def test_damaged_notes_spoil_nothing_else(root: Path) -> None:
    path = note(root, "iter_00/score_frames", start(), end(5.0), start(time=2000.0))
    with path.open("a") as stream:
        stream.write('{"event": "end", "sec')
    with note_attempt(log_of(root, "iter_00/score_frames"), 1):
        pass
    assert [a.state for a in read_attempts(root)] == ["done", "lost", "done"]
    for content in (
        "",
        "\x00\xff",
        "[]\n3\nnull\n",
        '{"event": "end"}\n',
        '{"event": "start", "time": "x", "cores": -1}',
    ):
        path.write_text(content, encoding="latin-1")
        assert read_ledger(root).total() == Cost()


def test_full_disk_stops_no_step(root: Path) -> None:
    log = log_of(root, "iter_00/score_frames")
    attempts_path(log).parent.parent.mkdir(parents=True, exist_ok=True)
    attempts_path(log).parent.write_text("a file where the folder should be")
    with note_attempt(log, 1):
        pass
    assert read_attempts(root) == []


def test_log_in_another_place_notes_nothing(tmp_path: Path) -> None:
    with note_attempt(tmp_path / "step.log", 1):
        pass
    assert list(tmp_path.iterdir()) == []


def test_ranks_are_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    assert count_cores(1, {}) == 1
    assert count_cores(4, {"mpi": "mpiexec", "tasks": 4}) == 4
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    assert count_cores(2, {"tasks": 4}) == 8
    assert count_cores(2, {"tasks": 4, "cpus_per_task": 3}) == 12
    assert count_cores(2, {"tasks": 1}) == 2


# The ledger --------------------------------------------------------------------------------------


def test_a_rerun_adds_to_what_was_spent_and_benchmarks_extend_the_last_success(root: Path) -> None:
    job = Job(0, "train_committee")
    note(
        root,
        "iter_00/train_committee",
        start(cores=4, gpus=2),
        end(100.0),
        start(time=5000.0, cores=4, gpus=2),
        end(50.0),
    )
    write_benchmark(root, job, 53.0, 200.0)
    row = read_ledger(root).of_iteration(0)["train_committee"]
    assert (row["core_seconds"], row["gpu_seconds"]) == (4 * 153.0, 2 * 153.0)
    assert (row["attempts"], row["failed"]) == (2, 0)
    os.utime(benchmark_path(root, job), (2000.0, 2000.0))  # of the first success: the second's is not there yet
    assert read_ledger(root).of_iteration(0)["train_committee"]["core_seconds"] == 4 * 150.0


@pytest.mark.parametrize(("wall", "cpu", "expected"), [(10.0, 7.0, 10.0), (10.0, 36.0, 36.0), (0.4, "NA", 0.4)])
def test_benchmarks_alone_count_where_no_attempt_was_noted(
    root: Path, wall: float, cpu: float, expected: float
) -> None:
    jobs = [Job(2, "explore_walkers", "01"), Job(None, "label_references"), Job(None, "label_isolated_atoms")]
    for job in [*jobs, Job(None, "label_elasticity")]:
        write_benchmark(root, job, wall, cpu)
    ledger = read_ledger(root)
    assert ledger.iterations == [None, 2]
    assert list(ledger.of_iteration(None)) == ["label_references", "label_isolated_atoms", "label_elasticity"]
    assert ledger.total() == Cost(4 * expected, 0.0)


@pytest.mark.parametrize("content", ["", "s\n", "s\tcpu_time\nx\ty\n", "\x00", "s\tcpu_time\n-5\tnan\n"])
def test_damaged_benchmarks_count_nothing(root: Path, content: str) -> None:
    write_benchmark(root, Job(0, "score_frames"), 1.0, 1.0)
    benchmark_path(root, Job(0, "score_frames")).write_text(content)
    assert read_ledger(root).total() == Cost()


def test_iterations_up_to_one_are_what_it_had_cost_by_then(root: Path) -> None:
    note(root, "label_references", start(), end(1.0))
    for number in range(3):
        note(root, f"iter_{number:02d}/score_frames", start(), end(10.0**number * 10))
    ledger = read_ledger(root)
    assert [ledger.total(n).core_seconds for n in (0, 1, 2)] == [11.0, 111.0, 1111.0]
    assert ledger.total() == ledger.total(2)


def test_written_ledger_adds_up_and_is_derived(root: Path) -> None:
    note(root, "iter_00/score_frames", start(), end(4.0, ok=False), start(), end(10.0))
    note(root, "iter_01/train_committee", start(gpus=1), end(20.0))
    write_ledger(root)
    first = (root / "ledger.json").read_text()
    content = json.loads(first)
    rows = [row for entry in content["iterations"] for row in entry["steps"].values()]
    assert content["core_seconds"] == sum(row["core_seconds"] for row in rows) == 34.0
    assert content["gpu_seconds"] == sum(row["gpu_seconds"] for row in content["steps"].values()) == 20.0
    assert content["steps"]["score_frames"]["failed_core_seconds"] == 4.0
    (root / "ledger.json").unlink()
    write_ledger(root)
    assert (root / "ledger.json").read_text() == first


# Slurm -------------------------------------------------------------------------------------------


def in_slurm(identity: str) -> dict:
    return {"slurm_job": identity}


def test_accounts_top_up_what_killed_jobs_could_not_note(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = log_of(root, "iter_00/label_structures-000")
    note(root, "iter_00/label_structures-000", start(**in_slurm("11")))
    log.touch()
    os.utime(log, (1010.0, 1010.0))
    note(root, "iter_00/label_structures-001", start(cores=2, **in_slurm("12")), end(100.0))
    note(root, "iter_00/select_candidates", start(), end(3.0))
    asked: list[set[str]] = []
    monkeypatch.setattr(
        "mlip.jobs.ledger.find_runs", lambda jobs, since: asked.append(set(jobs)) or ({RUN} if jobs else set())
    )
    answer = [
        account("11", 90.0, 1, state="OUT_OF_MEMORY"),
        account("12", 105.0, 8, gpus=1),  # a whole node was given
        account("13", 40.0, 1, state="NODE_FAIL", comment="rule_explore_walkers_wildcards_silicon_00_02"),
        account("14", 5.0, 1, state="FAILED"),
        account("15", 0.0, 0, state="CANCELLED"),
    ]
    monkeypatch.setattr(
        "mlip.jobs.ledger.read_accounts", lambda runs, since: answer if runs == {RUN} and since < 1e3 else []
    )
    ledger = write_ledger(root)
    assert asked == [{"11", "12"}]
    steps = ledger.of_iteration(0)
    assert steps["label_structures"]["core_seconds"] == 90.0 + 105.0 * 8
    assert steps["label_structures"]["gpu_seconds"] == 105.0
    assert (steps["explore_walkers"]["core_seconds"], steps["explore_walkers"]["failed"]) == (40.0, 1)
    assert steps["select_candidates"]["core_seconds"] == 3.0
    assert ledger.of_iteration(None)["other jobs"]["core_seconds"] == 5.0
    # Slurm forgets, and may be away: what it once said stays.
    for reply in ([], None):
        monkeypatch.setattr("mlip.jobs.ledger.read_accounts", lambda runs, since, reply=reply: reply)
        assert update_accounts(root) is (reply is not None)
        assert write_ledger(root).total() == ledger.total()
    assert not any(asked[1:])  # what is known is not looked for again


def test_job_that_slurm_queued_again_counts_every_start(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    note(root, "iter_00/score_frames", start(**in_slurm("7")), start(time=2000.0, **in_slurm("7")), end(30.0))
    rows = [account("7", 20.0, 1, state="NODE_FAIL"), account("7", 32.0, 1, start="2026-01-01T01:00:00")]
    monkeypatch.setattr("mlip.jobs.ledger.find_runs", lambda jobs, since: {RUN})
    monkeypatch.setattr("mlip.jobs.ledger.read_accounts", lambda runs, since: rows)
    assert write_ledger(root).total() == Cost(52.0, 0.0)


def fake_program(folder: Path, name: str, body: str, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{body}\n")
    (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)


def test_sacct_is_read_as_it_prints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [
        "11|2026-01-01T00:00:00|OUT_OF_MEMORY|90|2|billing=2,cpu=2,gres/gpu:a100=4,gres/gpu=4,mem=4G,node=1|",
        "12|2026-01-01T00:00:00|CANCELLED by 1000|7|1|cpu=1,gres/gpu:a100=2|rule_a_wildcards_x|y",
        "13|Unknown|PENDING|0|0||",
        "nonsense",
    ]
    answers = "\n".join(f"echo '{line}'" for line in lines)
    # The job's name leads to all jobs of its run; of the job that Snakemake was started in nothing is asked.
    body = f'case "$*" in *--jobs=11,9*) echo {RUN}; echo my_loop;; *--name={RUN}) {answers};; *) exit 1;; esac'
    fake_program(tmp_path / "bin", "sacct", body, monkeypatch)
    runs = slurm.find_runs({"11", "9"}, 0.0)
    assert runs == {RUN}
    jobs = slurm.read_accounts(runs, 0.0)
    assert [(j.id, j.state, j.seconds, j.cores, j.gpus) for j in jobs] == [
        ("11", "OUT_OF_MEMORY", 90.0, 2, 4),
        ("12", "CANCELLED", 7.0, 1, 2),
        ("13", "PENDING", 0.0, 0, 0),
    ]


def test_queue_holds_the_jobs_of_this_loop_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [
        f"1|RUNNING|{RUN}|{tmp_path}|rule_label_structures_wildcards_silicon_00_003",
        f"2|PENDING|{RUN}|{tmp_path}|(null)",
        f"3|PENDING|{RUN}|{tmp_path}|rule_label_structures_wildcards_copper_00_003",
        f"4|RUNNING|{RUN}|/elsewhere|rule_label_structures_wildcards_silicon_00_003",
        f"5|RUNNING|my_loop|{tmp_path}|(null)",
    ]
    fake_program(tmp_path / "bin", "squeue", "\n".join(f"echo '{line}'" for line in lines), monkeypatch)
    assert [job.id for job in slurm.read_queue(tmp_path, "silicon")] == ["1", "2"]
    assert [job.id for job in slurm.read_queue(tmp_path, "silicon", {"4", "5"})] == ["1", "2", "4", "5"]


def test_slurm_that_is_away_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_program(
        tmp_path / "bin", "sacct", "echo 'slurm_persist_conn_open: Connection refused' >&2; exit 1", monkeypatch
    )
    assert slurm.read_accounts({RUN}, 0.0) is None
    fake_program(tmp_path / "bin", "squeue", "exec sleep 60", monkeypatch)
    monkeypatch.setattr(slurm, "TIMEOUT", 0.3)
    assert slurm.read_queue(tmp_path, "silicon") is None
    monkeypatch.setenv("PATH", str(tmp_path))
    assert slurm.find_runs({"1"}, 0.0) is None
    assert slurm.find_runs((), 0.0) == set()
    assert slurm.read_accounts((), 0.0) == []


@pytest.mark.parametrize(
    ("comment", "expected"),
    [
        ("rule_label_structures_wildcards_cu_2_01_003", Job(1, "label_structures", "003")),
        ("rule_train_committee_wildcards_cu_2_01", Job(1, "train_committee")),
        ("rule_label_references_wildcards_cu_2", Job(None, "label_references")),
        ("rule_measure_study_in_loop_wildcards_cu_2_01_eos", Job(1, "measure_study", "eos")),
        ("rule_refer_study_wildcards_cu_2_eos", Job(None, "refer_study", "", "eos")),
        ("rule_train_study_wildcards_cu_2_eos_01", Job(None, "train_study", "01", "eos")),
        ("rule_label_candidates_wildcards_cu_2_eos_01_003", Job(None, "label_candidates", "01-003", "eos")),
        ("rule_label_candidates_wildcards_cu_2_other_01_003", None),
        ("rule_train_committee_wildcards_cu_01", None),
        ("rule_train_committee_wildcards_cu_20_01", None),
        ("rule_run_experiment_wildcards_cu_2_elastic_ablation", Job(None, "run_experiment", "ablation", "elastic")),
        (
            "rule_run_experiment_wildcards_cu_2_elastic_ablation_short-cutoff",
            Job(None, "run_experiment", "ablation-short-cutoff", "elastic"),
        ),
        (
            "rule_run_experiment_wildcards_cu_2_elastic_ablation_short_cutoff",
            Job(None, "run_experiment", "ablation-short_cutoff", "elastic"),
        ),
        ("rule_validate_potential_wildcards_cu_2", Job(None, "validate_potential")),
        ("rule_train_committee_wildcards_cu_2_eos_01", None),  # of a system cu_2_eos
        ("rule_train_committee_wildcards_cu_2_01_02", None),  # of a system cu_2_01
        ("rule_refer_study_wildcards_cu_2_sw_eos", None),
        ("(null)", None),
    ],
)
def test_comments_name_the_job(comment: str, expected: Job | None) -> None:
    assert slurm.job_of(comment, "cu_2") == expected


# Forecast ----------------------------------------------------------------------------------------


def write_shard(root: Path, number: int, seconds: list[float], *, cached: bool = False) -> None:
    records = [{"status": "ok", "core_seconds": 0.9 * s, "wall_seconds": s, "cached": cached} for s in seconds]
    path = root / f"iter_{number:02d}" / "label_structures" / "shard_000.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"records": records}))


def test_next_iteration_is_forecast_from_the_latest(root: Path) -> None:
    note(root, "iter_00/prepare_structures", start(), end(500.0))
    note(root, "iter_00/label_structures-000", start(cores=4), end(1000.0))
    note(root, "iter_00/train_committee", start(gpus=1), end(99.0, ok=False), start(gpus=1), end(40.0))
    write_shard(root, 0, [10.0, 30.0])
    forecast = forecast_iteration(root, read_ledger(root), 0, n_labels=5)
    assert forecast == Cost(5 * 4 * 20.0 + 40.0, 40.0)
    # Labels from the store cost nothing there, but the next ones will.
    note(root, "iter_01/label_structures-000", start(cores=4), end(1.0))
    note(root, "iter_01/train_committee", start(gpus=1), end(60.0))
    write_shard(root, 1, [15.0], cached=True)
    assert forecast_iteration(root, read_ledger(root), 1, n_labels=2) == Cost(2 * 4 * 15.0 + 60.0, 60.0)


def test_reading_the_ledger_loads_nothing_heavy() -> None:
    code = "import sys, mlip.jobs.ledger; print([m for m in ('torch', 'ase', 'numpy', 'rich') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_gpu_used_without_being_asked_for_counts(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = SimpleNamespace(is_initialized=lambda: True)
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda))
    with note_attempt(log_of(root, "iter_00/train_committee"), 1):
        pass
    (attempt,) = read_attempts(root)
    assert isinstance(attempt, Attempt)
    assert attempt.gpus == 1


# Studies -----------------------------------------------------------------------------------------


def test_studies_are_paid_for_beside_the_loop(root: Path) -> None:
    note(root, "iter_00/train_committee", start(cores=2), end(100.0))
    note(root, "iter_00/measure_study-eos", start(), end(7.0))  # convergence waits for it: the loop's own
    note(root, "studies/eos/refer_study", start(), end(30.0))
    note(
        root,
        "studies/eos/round_01/label_candidates-003",
        start(cores=4),
        end(10.0, ok=False),
        start(cores=4),
        end(20.0),
    )
    note(root, "studies/elastic/ablate_elastic-present", start(), end(5.0))
    write_benchmark(root, Job(None, "label_candidates", "01-003", "eos"), 21.0, 50.0)
    write_benchmark(root, Job(None, "train_study", "01", "eos"), 40.0, 38.0)
    ledger = read_ledger(root)
    assert ledger.total() == ledger.total(0) == Cost(207.0)
    assert ledger.of_iteration(None) == {}
    assert ledger.studies == {"elastic": Cost(5.0), "eos": Cost(30.0 + 4 * 31.0 + 40.0)}
    rows = ledger.of_study("eos")
    assert (rows["label_candidates"]["attempts"], rows["label_candidates"]["failed_core_seconds"]) == (2, 40.0)
    written = ledger.as_dict()
    assert written["core_seconds"] == 207.0
    assert set(written["studies"]["eos"]) == {"refer_study", "label_candidates", "train_study"}


def test_the_notes_of_studies_are_where_their_logs_say(root: Path) -> None:
    """The paths are those of workflow/rules/studies.smk."""
    with note_attempt(log_of(root, "studies/eos/round_01/label_candidates-003"), 1):
        pass
    (attempt,) = read_attempts(root)
    assert attempt.job == Job(None, "label_candidates", "01-003", "eos")
    assert benchmark_path(root, attempt.job) == root / "studies/eos/benchmarks/label_candidates-01-003.tsv"
