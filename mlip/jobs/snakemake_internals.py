"""What the loop takes from inside Snakemake and its Slurm plugin, where they offer no interface for it.

Nothing else in the package reaches there. Another version may have changed any of it: read the functions here
against it and run ``tests/unit/jobs/test_snakemake_internals.py`` before a pin is raised.
"""

from __future__ import annotations

import functools
import gc
import os
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlip.jobs.slurm.submission import BIN

VERSIONS = {
    "snakemake": "9.27.1",
    "snakemake-executor-plugin-slurm": "2.8.0",
    "snakemake-interface-executor-plugins": "9.4.0",
}
"""Those that this module was read against."""


def lighten_planning() -> None:
    """Plan 20 x 100 labels in seven tenths of the CPU time; for this process, before any job is planned.

    A plan is millions of objects that all stay, so that looking for garbage among them finds nothing:
    call :func:`resume_collection` once it stands. Snakemake also looks for the script of each job,
    though the names of ours are those of their rules, and for the arguments of every input function.
    """
    import snakemake.common
    import snakemake.dag
    import snakemake.rules

    gc.disable()
    processor = snakemake.dag.ScriptProcessor
    check, checked = processor.process_job, set()

    def check_once(self: Any, job: Any) -> None:
        if job.rule not in checked:
            checked.add(job.rule)
            check(self, job)

    processor.process_job = check_once
    arguments = functools.cache(snakemake.common.get_function_params)
    snakemake.common.get_function_params = snakemake.rules.get_function_params = arguments


def resume_collection() -> None:
    """Collect garbage again, but not in what has been planned until now."""
    gc.freeze()
    gc.enable()


@dataclass(frozen=True)
class Execution:
    """A run of the workflow that is about to plan its jobs.

    Attributes:
        executor: ``local``, ``slurm``, …
    """

    workflow: Any
    executor: str

    @property
    def latency(self) -> float:
        """Seconds that files of jobs are waited for."""
        return float(self.workflow.execution_settings.latency_wait)

    def give_jobs(self, config: Path) -> None:
        """Let the jobs, which Snakemake runs by calling itself, read this configuration."""
        self.workflow.config_settings.configfiles = [config]


def is_driver(workflow: Any) -> bool:
    """Whether this process plans the workflow, and is not one of its jobs."""
    return bool(workflow.is_main_process)


def guard_execution(workflow: Any, guard: Callable[[Execution], AbstractContextManager[None]]) -> None:
    """Plan and run the jobs of ``workflow`` inside ``guard``, unless this process is one of them.

    Snakemake has hooks for when a run has been planned (``onstart``), none for before. Dry runs, ``--touch`` and
    ``--nolock`` are not guarded.
    """
    if not is_driver(workflow):
        return
    execute = workflow.execute

    def execute_guarded(executor_plugin: Any, *args: Any, **kwargs: Any) -> Any:
        settings = executor_plugin.common_settings
        if settings.dryrun_exec or settings.touch_exec or not workflow.execution_settings.lock:
            return execute(executor_plugin, *args, **kwargs)
        with guard(Execution(workflow, executor_plugin.name)):
            return execute(executor_plugin, *args, **kwargs)

    workflow.execute = execute_guarded


def make_executor_patient() -> None:
    """Let Snakemake's Slurm executor, in this process, outlast outages of slurmctld, and keep to the profile's pace.

    The executor looks for ended jobs at intervals that grow by 10 s up to 180 s while none ends, so that
    the last shard of an iteration, for which everything waits, can end three minutes unnoticed. Here they
    are never longer than ``seconds-between-status-checks``, which the executor itself does not read.
    """
    import snakemake_executor_plugin_slurm as executor
    from snakemake_interface_executor_plugins.executors.remote import RemoteExecutor

    os.environ["PATH"] = os.pathsep.join([str(BIN), os.environ.get("PATH", os.defpath)])
    ask = executor.get_min_job_age
    known = ask()

    def last_known_min_job_age() -> int | None:
        # Without an answer the executor would turn from squeue to sacct, which not every site has.
        nonlocal known
        known = ask() or known
        return known

    executor.get_min_job_age = last_known_min_job_age
    RemoteExecutor.sleep = _sleep_at_most


async def _sleep_at_most(executor: Any) -> None:
    """Wait for the next look at the queue, or until the executor is told to end."""
    import asyncio

    longest = executor.workflow.remote_execution_settings.seconds_between_status_checks
    end = time.monotonic() + min(executor.next_seconds_between_status_checks, longest)
    while executor.wait and (left := end - time.monotonic()) > 0:
        await asyncio.sleep(min(left, 1.0))
