"""A foundation model as its authors published it, from a package that carries it; nothing of it is executed."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

PACKAGE = "janus-core==0.7.0"
"""Its source distribution holds models for its own tests, the only place on PyPI with MACE-MP-0 (small, MIT licence;
Batatia et al., arXiv:2401.00096)."""
MEMBER = "janus_core-0.7.0/tests/models/mace_mp_small.model"
DIGEST = "2ddb079cee0e131eaaf6912ba581b394551ead283e95c99cfe78c605d10b5736"


def fetch_model(cache: Path) -> Path:
    """MACE-MP-0 small in ``cache``, downloaded (54 MB) where it is not there yet; skips the test without a network."""
    path = cache / Path(MEMBER).name
    if not path.is_file():
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:"]
        command += ["--dest", str(cache), PACKAGE]
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=300)
        archive = cache / (MEMBER.partition("/")[0] + ".tar.gz")
        if done.returncode or not archive.is_file():
            pytest.skip(f"{PACKAGE} cannot be downloaded here: {done.stderr.strip()[-200:]}")
        with tarfile.open(archive) as packed:
            content = packed.extractfile(MEMBER)
            if content is None:
                raise FileNotFoundError(f"{archive} has no {MEMBER}")
            path.write_bytes(content.read())
        archive.unlink()
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != DIGEST:
        path.unlink()
        raise ValueError(f"{PACKAGE}: {MEMBER} has the SHA-256 {found}, not {DIGEST}")
    return path
