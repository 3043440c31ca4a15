"""Random numbers derived from the one seed of the configuration."""

from __future__ import annotations

import hashlib

import numpy as np


def derive_seed(seed: int, *names: str | int) -> int:
    """A 63-bit seed for the purpose that ``names`` spell, independent of every other purpose.

    Hashing instead of counting keeps a walker's numbers unchanged when another is added.
    """
    text = "/".join([str(seed), *(str(name) for name in names)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def derive_rng(seed: int, *names: str | int) -> np.random.Generator:
    """A generator seeded by :func:`derive_seed`."""
    return np.random.default_rng(derive_seed(seed, *names))
