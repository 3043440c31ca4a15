"""``sbatch`` that outlasts an outage of slurmctld. Snakemake's executor calls it in place of Slurm's.

Snakemake counts a submission that fails as a failed attempt of the job, and three of them pass
within a minute; and where the reply is lost, but not the request, it would submit the job twice.
"""

from __future__ import annotations

import getpass
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

BIN = Path(__file__).resolve().parents[3] / "workflow" / "bin"
POLL_SECONDS = 15.0
PATIENCE_SECONDS = 24 * 3600.0
# Slurm's words for "nobody answers"; anything else is about the job, and the user's to mend.
OUTAGES = (
    "Unable to contact slurm controller",
    "Socket timed out",
    "Connection refused",
    "Connection timed out",
    "Zero Bytes were transmitted",
    "standby mode",
    "temporarily unable",
)


def submit(arguments: list[str], script: bytes) -> subprocess.CompletedProcess[bytes]:
    """Submit as Slurm's ``sbatch`` would; as long as slurmctld does not answer, wait for it."""
    program = _real("sbatch")
    end = time.monotonic() + PATIENCE_SECONDS
    while True:
        done = subprocess.run([program, *arguments], input=script, capture_output=True, check=False)
        message = done.stderr.decode(errors="replace")
        if done.returncode == 0 or not any(words in message for words in OUTAGES) or time.monotonic() > end:
            return done
        number = _arrived(arguments, end)
        if number:
            return subprocess.CompletedProcess(arguments, 0, f"{number}\n".encode(), b"")


def _arrived(arguments: list[str], end: float) -> str:
    """Number of the job where the request had arrived before the failure; asked once slurmctld answers again."""
    name, comment = (arguments[arguments.index(option) + 1] for option in ("--job-name", "--comment"))
    command = [_real("squeue"), "--noheader", "--user", getpass.getuser(), "--name", name, "--format=%i|%k"]
    while True:
        time.sleep(POLL_SECONDS)
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode == 0:
            rows = [line.partition("|") for line in done.stdout.splitlines()]
            return next((number for number, _, text in rows if text == comment), "")
        if time.monotonic() > end:
            return ""


def _real(program: str) -> str:
    """Slurm's own program, not the one of :data:`BIN`."""
    folders = [folder for folder in os.environ.get("PATH", os.defpath).split(os.pathsep) if Path(folder) != BIN]
    return shutil.which(program, path=os.pathsep.join(folders)) or program


def main() -> int:
    """The command line of ``workflow/bin/sbatch``."""
    done = submit(sys.argv[1:], b"" if sys.stdin is None or sys.stdin.isatty() else sys.stdin.buffer.read())
    sys.stdout.buffer.write(done.stdout)
    sys.stderr.buffer.write(done.stderr)
    return done.returncode


if __name__ == "__main__":
    raise SystemExit(main())
