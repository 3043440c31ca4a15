"""Whether two checkouts train the same weights bit for bit, so that the one's benchmark rows are the other's.

    .venv/bin/python tests/benchmarks/compare_training.py results/benchmarks/data OTHER_CHECKOUT

Trains a few steps of silicon, lithium and acetylacetone in each. Where nothing differs, the other's digest may be
listed under `same_training` in config.yaml.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import importlib
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import records
from ase import Atoms

CASES: dict[str, dict[str, Any]] = {
    "Si": {},
    "Li": {"committee_size": 1, "uncertainty": "last_layer"},
    "acac": {"n_layers": 2, "batch_size": 8},
}
N_STRUCTURES, N_STEPS = 60, 30


def train(data: Path) -> dict[str, str]:
    """Digests of the training code and of each case's files."""
    records.single_thread()
    warnings.filterwarnings("ignore", category=UserWarning)
    digests = {"code": _training_code()}
    for name, settings in CASES.items():
        first, valid = (records.read_split(data / name, split)[:N_STRUCTURES] for split in ("train", "valid"))
        with tempfile.TemporaryDirectory() as folder:
            _train(first, valid, settings | {"n_steps": N_STEPS}, Path(folder))
            for path in sorted(Path(folder).glob("potential.*")):
                digests[f"{name} {path.name}"] = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    return digests


def _training_code() -> str:
    """The digest that this checkout's benchmark rows carry."""
    code_digest = _import("code_digest", "mlip.jobs.digests", "mlip.provenance")
    with contextlib.suppress(ImportError):
        modules_of_step = _import("modules_of_step", "mlip.jobs.digests")
        return str(code_digest(*modules_of_step("train_committee", _import("BACKENDS", "mlip.config.backends")["ace"])))
    return str(code_digest("mlip.training"))


def _train(first: Sequence[Atoms], valid: Sequence[Atoms], settings: dict[str, Any], out: Path) -> None:
    """Train as this checkout does it: the other may be from before training took one request."""
    arguments = first, valid, _import("Train", "mlip.config.train", "mlip.config")(**settings), out
    train_committee = _import("train_committee", "mlip.loop.train_committee", "mlip.training")
    if importlib.util.find_spec("mlip.training.request") is None:
        train_committee(*arguments, seed=3)
    else:
        request = importlib.import_module("mlip.training.request").TrainingRequest
        train_committee(request(*arguments, seed=3))


def _import(name: str, *modules: str) -> Any:
    """``name`` from the first of ``modules`` that has it: checkouts keep it in different places."""
    for module in modules:
        with contextlib.suppress(ImportError):
            if hasattr(imported := importlib.import_module(module), name):
                return getattr(imported, name)
    raise ImportError(f"{name} is in none of {', '.join(modules)}; is this a checkout that can be compared?")


def run(checkout: Path, data: Path) -> dict[str, str]:
    """:func:`train` with the package of ``checkout``, in a process of its own."""
    environment = os.environ | {"PYTHONPATH": str(checkout.resolve()), "OMP_NUM_THREADS": "1"}
    # Its own interpreter where it has one: an editable install would lend another checkout's modules to this one.
    python = checkout.resolve() / ".venv" / "bin" / "python"
    command = [str(python) if python.exists() else sys.executable, str(Path(__file__).resolve()), str(data.resolve())]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    digests: dict[str, str] = json.loads(done.stdout.splitlines()[-1])
    return digests


def main() -> None:
    """Print this checkout's digests, or both checkouts' and whether they agree."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder of the data sets, made by prepare_data.py")
    parser.add_argument("other", type=Path, nargs="?", help="another checkout of this repository")
    given = parser.parse_args()
    if given.other is None:
        sys.stdout.write(json.dumps(train(given.data)) + "\n")
        return
    here, there = run(Path(__file__).parents[2], given.data), run(given.other, given.data)
    for name, value in here.items():
        sys.stdout.write(f"{name:28} {value} {there[name]} {'same' if value == there[name] else 'DIFFERENT'}\n")
    if any(value != there[name] for name, value in here.items() if name != "code"):
        sys.exit("these checkouts train different weights")


if __name__ == "__main__":
    main()
