"""Run the workflow from the command line, with progress a person can follow."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from mlip.config.system import Config
from mlip.io.files import read_json
from mlip.io.layout import driver_log, output_path
from mlip.jobs.lease import refuse_if_held
from mlip.status.loop import read_status
from mlip.status.text import progress_line

ROOT = Path(__file__).resolve().parents[2]
POLL_SECONDS = 1.0
HEARTBEAT_SECONDS = 60.0
LOG_TAIL = 40


class WorkflowFailed(RuntimeError):
    """Snakemake ended with an error; the message holds the end of its log."""


def run_loop(
    config_file: Path, config: Config, arguments: Sequence[str], *, results: Path, show: Callable[[str], None]
) -> bool:
    """Run Snakemake on ``config_file`` and show a progress line whenever the state changes.

    Args:
        config_file: Configuration given to Snakemake.
        config: The same, validated.
        arguments: Further Snakemake arguments, e.g. ``["--cores", "2"]``.
        results: Folder ``results/<system>``.
        show: Prints a line.

    Returns:
        Whether anything had to be done.

    Raises:
        WorkflowFailed: when Snakemake fails.
        DriverRunning: when this system's loop runs already; nothing is changed then.
    """
    refuse_if_held(config.system)
    for name in (signal.SIGTERM, signal.SIGHUP):  # a closed terminal or a kill end the jobs, too
        signal.signal(name, signal.default_int_handler)
    log = driver_log(results)
    log.parent.mkdir(parents=True, exist_ok=True)
    command = _snakemake(config_file, arguments)
    with log.open("w", encoding="utf-8") as stream:
        # A process group of its own, so that an interruption reaches Snakemake and its jobs once.
        process = subprocess.Popen(
            command, stdout=stream, stderr=subprocess.STDOUT, env=_environment(), start_new_session=True
        )
        try:
            _watch(process, config, results, show)
        finally:
            if process.poll() is None:
                show("interrupted: stopping the running jobs; finished labels are kept")
                os.killpg(process.pid, signal.SIGINT)
                process.wait()
    text = log.read_text(encoding="utf-8", errors="replace")
    if process.returncode:
        raise WorkflowFailed(f"{config_file}: {_explain(text)}\n\nAll that Snakemake said: {log}")
    # With a checkpoint in the plan Snakemake runs the empty rule `all` rather than saying so.
    return re.search(r"^Job \d+: ", text, re.MULTILINE) is not None


def show_plan(config_file: Path, arguments: Sequence[str]) -> int:
    """Let Snakemake print its plan for a dry run; return its exit code."""
    return subprocess.run(_snakemake(config_file, arguments), env=_environment(), check=False).returncode


def _snakemake(config_file: Path, arguments: Sequence[str]) -> list[str]:
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile")]
    return [*command, "--configfile", str(config_file), *arguments]


def _environment() -> dict[str, str]:
    """The caller's environment with this interpreter's programs first, as an activated one has."""
    programs = str(Path(sys.executable).parent)
    return os.environ | {
        "PATH": os.pathsep.join([programs, os.environ.get("PATH", os.defpath)]),
        "PYTHONUNBUFFERED": "1",
    }


def _watch(process: subprocess.Popen[bytes], config: Config, results: Path, show: Callable[[str], None]) -> None:
    last, shown = "", 0.0
    while process.poll() is None:
        began = time.monotonic()
        status = read_status(config, results, costs=False)
        if status.stop_reason is None:  # else it is an end left over from an earlier run, or the table follows
            line = progress_line(status)
            settled = line.rpartition(" · ")[0]  # the forecast ticks; it alone is no news
            if settled != last or time.monotonic() - shown > HEARTBEAT_SECONDS:
                show(line)
                last, shown = settled, time.monotonic()
        with contextlib.suppress(subprocess.TimeoutExpired):
            # A loop of many thousand jobs takes seconds to read: the login node is not ours.
            process.wait(max(POLL_SECONDS, 20 * (time.monotonic() - began)))


def _explain(text: str) -> str:
    """What to tell of a failed run: the last words of each failed step, else of Snakemake itself."""
    words = {}
    for rule, path in re.findall(r"Error in rule (\w+):.*?\n +log: (\S+)", text, re.DOTALL):
        # A step's message for its user is the last paragraph of its log, after the traceback.
        log = Path(path)
        content = log.read_text(encoding="utf-8", errors="replace").strip() if log.is_file() else ""
        words[rule] = f"{rule} failed\n{content.rpartition(chr(10) * 2)[2] or 'without a log'}\n(log: {path})"
    return "\n\n".join(words.values()) or "\n".join(text.rstrip().splitlines()[-LOG_TAIL:])


def read_summary(results: Path) -> dict[str, object]:
    """``summary.json`` of a finished loop."""
    summary: dict[str, object] = read_json(output_path(results, "report_system", "summary.json"))
    return summary
