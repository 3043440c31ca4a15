"""Labels on two MPI ranks: a stand-in for GPAW and its launcher always, the real ones where they are."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

import numpy as np
import pytest
from ase.build import bulk

from mlip.config.label import Label
from mlip.labels.importing import LabelError
from mlip.labels.labeller import Labeller, Outcome
from mlip.labels.process.launcher import mpi_launcher
from tests.workflow.conftest import ROOT, Workflow

# Starts COUNT copies with a rank each and, like mpiexec, ends all when one dies.
LAUNCHER = """
import os, signal, subprocess, sys, tempfile, time
assert sys.argv[1] == "-n"
size = int(sys.argv[2])
common = os.environ | {"FAKE_SIZE": os.environ.get("FAKE_SIZE", str(size)), "FAKE_FOLDER": tempfile.mkdtemp()}
ranks = [subprocess.Popen(sys.argv[3:], env=common | {"FAKE_RANK": str(k)}) for k in range(size)]
signal.signal(signal.SIGTERM, lambda *_: sys.exit(15))
try:
    while any(rank.poll() is None for rank in ranks):
        if any(rank.poll() for rank in ranks):
            sys.exit(1)
        time.sleep(0.05)
finally:
    for rank in ranks:
        rank.kill()
"""
# gpaw.mpi with files for messages; forces are summed over ranks, each of which has a part of them.
FAKE_GPAW = {
    "__init__.py": "from gpaw.calculator import GPAW",
    "__main__.py": "import sys; assert sys.argv[1:3] == ['python', '-c']; sys.argv = sys.argv[3:]; exec(sys.argv[0])",
    "mpi.py": """
import os, time
from pathlib import Path

class World:
    rank, size, count = int(os.environ["FAKE_RANK"]), int(os.environ["FAKE_SIZE"]), 0

world = World()

def broadcast_string(string=None, root=0, *, comm):
    assert (string is None) == (comm.rank != root)
    comm.count += 1
    path = Path(os.environ["FAKE_FOLDER"]) / str(comm.count)
    if comm.rank == root:
        path.with_suffix(".new").write_text(string)
        path.with_suffix(".new").rename(path)
    while not path.exists():
        time.sleep(0.01)
    return path.read_text()
""",
    "calculator.py": """
import os, time
from pathlib import Path
from ase.calculators.emt import EMT
from gpaw.mpi import world

class GPAW(EMT):
    def __init__(self, txt, fail=None):
        super().__init__()
        self.fail = fail
        Path(txt).with_name(f"rank-{world.rank}").touch()
        if "FAKE_EVIDENCE" in os.environ:
            Path(os.environ["FAKE_EVIDENCE"], f"rank-{world.rank}-of-{world.size}").touch()

    def calculate(self, *args, **kwargs):
        if self.fail == "sleep":
            time.sleep(60)
        if self.fail == "die" and world.rank == 1:
            os._exit(3)
        if self.fail == "die":
            time.sleep(60)
        super().calculate(*args, **kwargs)
""",
}


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """A package ``gpaw`` and a launcher that need no MPI."""
    package = tmp_path / "site" / "gpaw"
    package.mkdir(parents=True)
    for name, content in FAKE_GPAW.items():
        (package / name).write_text(content)
    (tmp_path / "launch.py").write_text(LAUNCHER)
    monkeypatch.syspath_prepend(package.parent)
    monkeypatch.setenv("MLIP_MPI", f"{sys.executable} {tmp_path / 'launch.py'} -n 2")
    return tmp_path


def label(folder: Path, timeout: float = 60.0, calculator: str = "gpaw", **parameters: object) -> Outcome:
    settings = Label(
        calculator=calculator, parameters=parameters, timeout_minutes=timeout / 60, escalations=(), reuse_failures=False
    )
    structure = bulk("Cu", cubic=True)
    structure.rattle(0.05, seed=1)
    with Labeller(settings, folder / "store", folder) as labeller:
        return labeller.label(structure)


def left_over(folder: Path) -> list[str]:
    """Processes that still have ``folder`` on their command line or in their environment."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if str(folder).encode() in (process / "cmdline").read_bytes():
                found.append(process.name)
        except OSError:
            continue
    return found


def test_first_rank_answers_for_all(stand_in):
    outcome = label(stand_in)
    assert outcome.status == "ok"
    serial = label(stand_in, calculator="ase.calculators.emt.EMT")
    assert outcome.record["results"]["forces"] == serial.record["results"]["forces"]
    assert left_over(stand_in) == []


@pytest.mark.parametrize(("fail", "status"), [("sleep", "timeout"), ("die", "crashed")])
def test_no_rank_outlives_a_failed_label(stand_in, fail, status):
    outcome = label(stand_in, timeout=4.0, fail=fail)
    assert outcome.status == status
    if status == "timeout":
        assert outcome.record["core_seconds"] == pytest.approx(2 * outcome.record["wall_seconds"])
    assert left_over(stand_in) == []


def test_ranks_end_when_their_job_is_killed(stand_in):
    program = f"""
import sys; sys.path[:] = {sys.path!r}
from pathlib import Path
from tests.integration.test_labels_mpi import label
label(Path({str(stand_in)!r}), fail="sleep")
"""
    job = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT)
    wait_for(lambda: list(stand_in.glob("labels-*/attempt/rank-1")))
    job.kill()
    job.wait()
    wait_for(lambda: not left_over(stand_in))


def wait_for(condition, seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.1)


def test_ranks_that_do_not_find_each_other_are_explained(stand_in, monkeypatch):
    monkeypatch.setenv("FAKE_SIZE", "1")
    with pytest.raises(LabelError, match="do not find each other"):
        label(stand_in)


def test_missing_launcher_is_explained(stand_in, monkeypatch):
    monkeypatch.setenv("MLIP_MPI", "no-such-launcher -n 2")
    with pytest.raises(LabelError, match="no-such-launcher"):
        label(stand_in)


def test_calculators_with_programs_of_their_own_are_started_once(stand_in, monkeypatch):
    monkeypatch.setenv("MLIP_MPI", "no-such-launcher -n 2")
    assert label(stand_in, calculator="ase.calculators.emt.EMT").status == "ok"


@pytest.mark.parametrize(
    ("resources", "launcher"),
    [
        ({"mem_mb": 1000, "tasks": 4}, ""),
        ({"mpi": "srun", "tasks": 4}, "srun -n 4"),
        ({"mpi": "srun --mpi=pmix", "tasks_per_node": 8, "nodes": 2}, "srun --mpi=pmix -n 16"),
    ],
)
def test_launcher_of_a_jobs_resources(resources, launcher):
    assert mpi_launcher(resources) == launcher


def test_launcher_without_a_number_of_ranks_is_an_error():
    with pytest.raises(ValueError, match="tasks: 4"):
        mpi_launcher({"mpi": "srun"})


def test_rules_resources_reach_the_label(stand_in):
    """The loop's own rule, with `mpi` and `tasks` as a profile would set them."""
    loop = Workflow(stand_in)
    loop.write_config(loop.config | {"label": {"calculator": "gpaw", "n_shards": 1}})
    command = os.environ["MLIP_MPI"].removesuffix(" -n 2")
    loop.snakemake(
        *("--cores", "1", "results/tiny/iter_00/label_structures/shard_000.extxyz"),
        *("--set-resources", f"label_structures:mpi='{command}'", "label_structures:tasks=2"),
        PYTHONPATH=str(stand_in / "site"),
        MLIP_MPI="",
        FAKE_EVIDENCE=str(stand_in / "site"),
    )
    assert {path.name for path in (stand_in / "site").glob("rank-*")} == {"rank-0-of-2", "rank-1-of-2"}


@pytest.fixture(scope="module")
def gpaw_with_mpi(tmp_path_factory: pytest.TempPathFactory) -> Path | None:
    """Folder of a GPAW with MPI, built on request; None where the installed one has it."""
    spec = importlib.util.find_spec("_gpaw")
    if spec is None or spec.origin is None:
        pytest.skip("GPAW is not installed")
    if b"MPI_Comm_rank" in Path(spec.origin).read_bytes():
        return None
    wrapper = shutil.which("mpicxx", path=f"{sysconfig.get_path('scripts')}:{os.environ['PATH']}")
    if not os.environ.get("MLIP_TEST_MPI") or wrapper is None:
        pytest.skip("GPAW has no MPI; MLIP_TEST_MPI=1 and an mpicxx make the test build one (minutes)")
    folder = Path(os.environ.get("MLIP_TEST_MPI_FOLDER") or tmp_path_factory.mktemp("gpaw"))
    if not (folder / "gpaw").is_dir():
        options = {"GPAW_CONFIG": str(ROOT / "envs/gpaw_siteconfig.py"), "GPAW_MPI": wrapper}
        options |= dict.fromkeys(("CC", "CXX", "GPAW_CXX"), wrapper)
        options |= dict.fromkeys(("PIP_CONSTRAINT", "PIP_BUILD_CONSTRAINT"), str(ROOT / "envs/constraints.txt"))
        command = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-cache-dir"]
        command += ["--target", str(folder), "gpaw"]
        subprocess.run(command, env=os.environ | options, check=True)
    return folder


@pytest.mark.gpaw
@pytest.mark.slow
def test_two_ranks_of_gpaw_give_the_label_of_one(gpaw_with_mpi, tmp_path, monkeypatch):
    if gpaw_with_mpi is not None:
        monkeypatch.syspath_prepend(gpaw_with_mpi)
    monkeypatch.setenv("PATH", f"{sysconfig.get_path('scripts')}:{os.environ['PATH']}")
    structure = bulk("Si", cubic=True)
    structure.rattle(0.05, seed=1)
    parameters = {"mode": {"name": "pw", "ecut": 200}, "xc": "PBE", "kpts": {"size": [2, 2, 2]}}
    settings = Label(calculator="gpaw", parameters=parameters)
    outcomes = []
    for launcher in ("", "mpiexec -n 2"):
        monkeypatch.setenv("MLIP_MPI", launcher)
        with Labeller(settings, tmp_path / f"store{len(outcomes)}") as labeller:
            outcomes.append(labeller.label(structure))
    serial, parallel = (outcome.record["results"] for outcome in outcomes)
    assert outcomes[0].key == outcomes[1].key
    assert parallel["energy"] == pytest.approx(serial["energy"], abs=1e-8)
    np.testing.assert_allclose(parallel["forces"], serial["forces"], atol=1e-8)
    np.testing.assert_allclose(parallel["stress"], serial["stress"], atol=1e-10)
