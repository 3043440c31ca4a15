"""What a driver has found out while planning, told to its jobs."""

from __future__ import annotations

import json
import os

from mlip.jobs.digests import code_digest

DIGESTS = "MLIP_CODE_DIGESTS"
"""Environment variable by which a driver tells its jobs the digests it has computed."""


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
