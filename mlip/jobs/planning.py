"""Snakemake's planning made lighter where it does the same for every one of thousands of jobs."""

from __future__ import annotations

import functools
import gc
import json
import os
from typing import Any

from mlip.jobs.digests import code_digest

DIGESTS = "MLIP_CODE_DIGESTS"
"""Environment variable by which a driver tells its jobs the digests it has computed."""


def lighten_planning() -> None:
    """Plan 20 000 jobs in two thirds of the time; for this process, before any job is planned.

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


def shared_digest(*modules: str, is_driver: bool) -> str:
    """:func:`mlip.jobs.digests.code_digest`, which a driver computes and its jobs are told.

    A job on Slurm starts Snakemake twice; to read all of ``mlip`` each time would take longer than what
    is left of the work of the rules' files.
    """
    name, known = " ".join(modules), json.loads(os.environ.get(DIGESTS, "{}"))
    if not is_driver and name in known:
        return str(known[name])
    digest = code_digest(*modules)
    os.environ[DIGESTS] = json.dumps(known | {name: digest})
    return digest
