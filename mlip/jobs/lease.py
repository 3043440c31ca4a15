"""One driver per system: who runs the loop, and which jobs of a dead driver are still at work.

Snakemake's own lock knows neither its owner nor the jobs that outlive it. A driver killed with
SIGKILL leaves the lock behind and its cluster jobs running; started again, Snakemake would submit
them a second time onto the same files. A lease names its owner, so that the next driver can tell a
living one from a dead one, and waits for the dead one's jobs before it plans anything.
"""

from __future__ import annotations

import contextlib
import getpass
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from mlip.io.files import FileContentError, read_json, write_json
from mlip.io.partial import modified
from mlip.jobs.processes import find_with, start_ticks
from mlip.jobs.slurm.comments import job_of

FOLDER = Path(".snakemake") / "drivers"
LOCKS = Path(".snakemake") / "locks"
TAKEN_OVER = signal.SIGUSR2  # interrupts a driver, like Ctrl-C, which programs begun in a script's background ignore
TOKEN = "MLIP_DRIVER"  # environment variable of a driver that all its processes inherit
BEAT_SECONDS = 15.0  # a driver on another host shows by this that it is alive; clocks may disagree
SILENCE_SECONDS = 75.0
POLL_SECONDS = 5.0
REPEAT_SECONDS = 300.0  # how often a message about the same wait is repeated

Show = Callable[[str], None]


class DriverRunning(ValueError):
    """Another driver runs this system's loop; the message says which, and what to do."""


@dataclass(frozen=True)
class Driver:
    """Who holds a lease. ``birth``, in the kernel's ticks, tells a process from a later one with the same number."""

    host: str
    boot: str
    pid: int
    birth: str
    user: str
    since: str
    token: str
    executor: str
    beat: int = 0

    @classmethod
    def this(cls, executor: str) -> Driver:
        """The present process, about to run jobs with Snakemake's ``executor``."""
        since = time.strftime("%Y-%m-%d %H:%M:%S")
        process = (os.getpid(), start_ticks(os.getpid()))
        return cls(socket.gethostname(), _boot(), *process, getpass.getuser(), since, secrets.token_hex(8), executor)


@contextlib.contextmanager
def hold(system: str, executor: str, latency: float, show: Show) -> Iterator[Driver]:
    """Be the only driver of ``system`` in the working directory.

    Where an earlier driver died, its lock is released and its jobs, in Slurm or on this machine,
    are waited for before the body starts; then ``latency`` seconds more, because network file
    systems show their files late.

    Raises:
        DriverRunning: when another driver holds the lease and is alive.
    """
    driver = Driver.this(executor)
    path = FOLDER / f"{system}.json"
    dead = _take(path, driver, show)
    stop = threading.Event()
    before = None
    if threading.current_thread() is threading.main_thread():
        before = signal.signal(TAKEN_OVER, signal.default_int_handler)
    heart = threading.Thread(target=_beat, args=(path, driver, stop), daemon=True)
    heart.start()
    try:
        if dead is not None:
            show(f"The last driver of {system} ({_name(dead)}) ended without a word; taking over its lock.")
            _release_locks(f"results/{system}/")
            _wait_while(lambda: _processes_of(dead), "process(es)", "kill", 0, show)
        if shutil.which("squeue") and "slurm" in (executor, dead.executor if dead else ""):
            _wait_while(lambda: _jobs_of(system), "Slurm job(s)", "scancel", latency, show)
        os.environ[TOKEN] = driver.token
        yield driver
    finally:
        stop.set()
        heart.join()
        if before is not None:
            signal.signal(TAKEN_OVER, before)
        if _holder(path).token == driver.token:
            path.unlink(missing_ok=True)


def refuse_if_held(system: str) -> None:
    """A look before anything is written.

    Raises:
        DriverRunning: when a driver on this host runs the loop of ``system``.
    """
    path = FOLDER / f"{system}.json"
    if path.exists() and _alive(_holder(path)):
        raise _refusal(path, _holder(path))


def _take(path: Path, driver: Driver, show: Show) -> Driver | None:
    """Make ``driver`` the holder; returns the dead one whose lease it was, if any."""
    path.parent.mkdir(parents=True, exist_ok=True)
    claim = path.with_name(f".{path.name}.{driver.token}")
    write_json(claim, asdict(driver))
    try:
        while True:
            with contextlib.suppress(FileExistsError):
                os.link(claim, path)  # atomic on network file systems, too
                return None
            holder = _holder(path)
            if _alive(holder) or (holder.host != driver.host and _beats(path, holder, show)):
                raise _refusal(path, holder)
            if _succeed(path, holder, claim):
                return holder
            time.sleep(0.1)
    finally:
        claim.unlink(missing_ok=True)


def _succeed(path: Path, dead: Driver, lease: Path) -> bool:
    """Replace the lease of ``dead`` by ``own``; False when another driver is doing or has done so."""
    claim = path.with_name(f".{path.name}.after-{dead.token}")
    try:
        os.link(lease, claim)
    except FileExistsError:
        made = modified(claim)  # None where its maker has just removed it
        if not _alive(_holder(claim)) and made is not None and time.time() - made > SILENCE_SECONDS:
            claim.unlink(missing_ok=True)  # it died within these few lines
        return False
    try:
        # Only who has the claim may replace this lease, and only while it is still that of the dead.
        if not path.exists() or _holder(path).token != dead.token:
            return False
        claim.replace(path)
        return True
    finally:
        claim.unlink(missing_ok=True)


def _holder(path: Path) -> Driver:
    """Who holds the lease; nobody that could be alive where the file is gone or damaged."""
    try:
        return Driver(**read_json(path))
    except (FileNotFoundError, FileContentError, TypeError):
        return Driver("", "", 0, "", "", "", "", "")


def _alive(holder: Driver) -> bool:
    """Whether the holder is a living process of this host."""
    here = holder.host == socket.gethostname() and holder.boot == _boot()
    return here and holder.pid > 0 and holder.birth == start_ticks(holder.pid) != ""


def _beats(path: Path, holder: Driver, show: Show) -> bool:
    """Whether a holder elsewhere shows a sign of life; it is its count that is looked at, no clock."""
    if not holder.host:
        return False
    show(f"The loop was started by {_name(holder)}. Looking for {SILENCE_SECONDS:.0f} s whether it still runs there.")
    end = time.monotonic() + SILENCE_SECONDS
    while time.monotonic() < end:
        time.sleep(min(POLL_SECONDS, SILENCE_SECONDS / 4))
        if _holder(path) != holder:
            return True
    return False


def _beat(path: Path, driver: Driver, stop: threading.Event) -> None:
    beat = 0
    while not stop.wait(BEAT_SECONDS):
        holder = _holder(path)
        if holder.token and holder.token != driver.token:
            # Held up for so long that another driver took over: that one waits for our jobs.
            os.kill(os.getpid(), TAKEN_OVER)
            return
        beat += 1
        with contextlib.suppress(OSError):  # a full disk must not look like a death
            write_json(path, asdict(driver) | {"beat": beat})


def _refusal(path: Path, holder: Driver) -> DriverRunning:
    system = path.stem
    return DriverRunning(
        f"The loop of {system} is already running in {Path.cwd()}: {_name(holder)}.\n"
        f"Nothing was changed. To follow it: mlip status <config of {system}> --watch. "
        f"To end it, on {holder.host}: kill {holder.pid}; then start this command again."
    )


def _name(driver: Driver) -> str:
    return f"process {driver.pid} of {driver.user} on {driver.host}, since {driver.since}" if driver.host else "unknown"


def _boot() -> str:
    with contextlib.suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return ""


def _release_locks(results: str) -> None:
    """Remove Snakemake's lock on files below ``results``; other systems' locks stay."""
    groups: dict[str, list[Path]] = {}
    for path in LOCKS.glob("*.lock"):
        groups.setdefault(path.name.partition(".")[0], []).append(path)
    for paths in groups.values():
        if any(line.startswith(results) for path in paths for line in path.read_text(encoding="utf-8").splitlines()):
            for path in paths:
                path.unlink(missing_ok=True)


def _processes_of(driver: Driver) -> list[str]:
    """Numbers of the processes that ``driver`` left on this machine, Slurm's jobs excepted."""
    if not driver.token or driver.host != socket.gethostname():
        return []
    return [str(pid) for pid in find_with(TOKEN, driver.token, without="SLURM_JOB_ID")]


def _jobs_of(system: str) -> list[str]:
    """Slurm's numbers of this folder's jobs for ``system`` that have not ended.

    Raises:
        OSError: when Slurm does not answer.
    """
    command = ["squeue", "--noheader", "--user", getpass.getuser(), "--format=%i|%Z|%k"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(f"squeue: {done.stderr.strip()}")
    rows = [line.split("|", 2) for line in done.stdout.splitlines() if line.count("|") >= 2]
    return [number for number, folder, comment in rows if folder == str(Path.cwd()) and job_of(comment, system)]


def _wait_while(find: Callable[[], list[str]], kind: str, remedy: str, latency: float, show: Show) -> None:
    """Until ``find`` finds nothing; says what it waits for whenever that changes."""
    said, when = "", 0.0
    while True:
        try:
            busy = find()
            if not busy:
                break
            message = (
                f"Waiting for {len(busy)} {kind} that an earlier driver left at work. What they finish is used; to end"
                f" them instead: {remedy} {' '.join(busy)}"
            )
        except OSError as error:
            message = (
                f"Slurm does not answer ({error}), so jobs of an earlier driver may still be at work; waiting for it."
                f" To start without: --nolock"
            )
        if message != said or time.monotonic() - when > REPEAT_SECONDS:
            show(message)
            said, when = message, time.monotonic()
        time.sleep(POLL_SECONDS)
    if said:
        show(f"They have ended; going on in {latency:.0f} s.")
        time.sleep(latency)


def freeze(system: str, config: dict[str, object]) -> Path:
    """Write the configuration of a run where its jobs read it, so that an edit waits for the next run."""
    path = (FOLDER / f"{system}.config.json").absolute()
    write_json(path, json.loads(json.dumps(config)))
    return path
