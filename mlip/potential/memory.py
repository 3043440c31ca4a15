"""How the process keeps memory that it will ask for again."""

from __future__ import annotations

import ctypes
import os
import sys
from functools import cache

# Of mallopt(3), <malloc.h>.
TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
LARGEST_THRESHOLD = 32 * 1024**2
"""Bytes: the largest value that glibc takes for MMAP_THRESHOLD."""
KEPT = 512 * 1024**2
"""Bytes at most that stay with the process after they were freed."""


@cache
def keep_freed_memory() -> bool:
    """Let glibc keep freed arrays instead of handing them back; whether it does.

    Arrays of some megabytes come from the system anew each time, and its clearing of every page costs more than what
    is computed in them: MD of 512 atoms with a committee of four took 1.6 times as long. Set MALLOC_MMAP_THRESHOLD_
    or run without glibc, and nothing is changed.
    """
    if not sys.platform.startswith("linux") or "MALLOC_MMAP_THRESHOLD_" in os.environ:
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    return bool(mallopt(MMAP_THRESHOLD, LARGEST_THRESHOLD)) and bool(mallopt(TRIM_THRESHOLD, KEPT))
