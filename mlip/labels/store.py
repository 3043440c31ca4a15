"""The label store: one finished label a file, addressed by what determines its value."""

from __future__ import annotations

import json
import os
import secrets
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms

from mlip.io.electrons import ElectronsError, electronic_state
from mlip.io.files import sha256_of, write_atomic
from mlip.labels.importing import LabelError

KEY_DECIMALS = 8  # Å; structures that agree to this share a label


def encode_structure(atoms: Atoms) -> dict[str, Any]:
    """What a calculator sees of ``atoms``, as JSON-like values (Å, μB, e).

    Constraints do not belong to it, and of ``info`` only the total ``charge`` and the ``multiplicity``
    (2S + 1), each only where there is one.

    Raises:
        LabelError: when these are no numbers.
    """
    return {
        "numbers": atoms.numbers.tolist(),
        "positions": atoms.positions.tolist(),
        "cell": atoms.cell.array.tolist(),
        "pbc": atoms.pbc.tolist(),
        "magmoms": atoms.get_initial_magnetic_moments().tolist(),
        "charges": atoms.get_initial_charges().tolist(),
    } | _electrons(atoms)


def _electrons(atoms: Atoms) -> dict[str, Any]:
    """Total charge and spin multiplicity."""
    try:
        state = electronic_state(atoms)
    except ElectronsError as error:
        raise LabelError(f"a structure's {error}") from None
    known = {"charge": state["charge"]} if state.get("charge") else {}
    known |= {"multiplicity": state["spin"]} if "spin" in state else {}
    if known.get("multiplicity") == 1 and "charge" not in known and not atoms.get_initial_magnetic_moments().any():
        del known["multiplicity"]  # what every calculator takes for granted
    return known


def decode_structure(values: dict[str, Any]) -> Atoms:
    """Inverse of :func:`encode_structure`."""
    electrons = {name: values[name] for name in ("charge", "multiplicity") if name in values}
    return Atoms(**{name: value for name, value in values.items() if name not in electrons}, info=electrons)


def label_key(atoms: Atoms, identity: dict[str, Any]) -> str:
    """SHA-256 of the structure, rounded to ``KEY_DECIMALS``, and of the settings' ``identity``."""
    structure = encode_structure(atoms)
    for name in ("positions", "cell", "magmoms", "charges"):
        # + 0.0 turns the -0.0 that rounding leaves into 0.0
        structure[name] = (np.round(np.asarray(structure[name], dtype=float), KEY_DECIMALS) + 0.0).tolist()
    return sha256_of([structure, identity])


class LabelStore:
    """Records of finished labels under ``folder``, safe against crashes and concurrent writers."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def path(self, key: str) -> Path:
        """Where the record of ``key`` is or would be."""
        return self.folder / key[:2] / f"{key}.json"

    def log_path(self, key: str) -> Path:
        """Where the log of a failed label is kept."""
        return self.folder / "logs" / f"{key}.txt"

    def get(self, key: str) -> dict[str, Any] | None:
        """The record of ``key``, or None; a damaged one is moved aside with a warning and counts as absent."""
        path = self.path(key)
        try:
            record = json.loads(path.read_bytes())
        except FileNotFoundError:
            return None
        except ValueError:  # JSONDecodeError and UnicodeDecodeError
            record = None
        if isinstance(record, dict):
            checksum = record.pop("checksum", None)
            if record.get("key") == key and checksum == sha256_of(record):
                return record
        self._move_aside(path)
        return None

    def put(self, key: str, record: dict[str, Any]) -> None:
        """Store ``record`` (without NaN) under ``key``, replacing any earlier one."""
        record = {"key": key} | record
        content = json.dumps(record | {"checksum": sha256_of(record)}, ensure_ascii=False) + "\n"
        write_atomic(self.path(key), content)

    def agree(self, settings_id: str, facts: dict[str, str]) -> None:
        """Remember what runs with the settings ``settings_id`` told of themselves, and refuse another answer.

        Args:
            settings_id: of labels that must belong together.
            facts: what only a run can tell, by name, e.g. the program's version.

        Raises:
            LabelError: when an earlier label of these settings had another value.
        """
        for name, value in facts.items():
            path = self.folder / "told" / settings_id / f"{name}.txt"
            if not path.exists():
                write_atomic(path, f"{value}\n")
            first = path.read_text(encoding="utf-8").strip()  # of two writers at once, the last one's for both
            if first != value:
                raise LabelError(
                    f"label: {name} is now {value}, and was {first} in labels of the same settings in {self.folder};"
                    " their keys cannot tell them apart, as only a run tells it. Put the earlier one back, or set"
                    " MLIP_LABEL_STORE to another folder and label everything anew"
                )

    def keep_log(self, key: str, text: str) -> Path:
        """Keep the whole log of a failed label; returns its path."""
        write_atomic(self.log_path(key), text)
        return self.log_path(key)

    def _move_aside(self, path: Path) -> None:
        target = path.with_name(f"{path.name}.corrupt")
        if target.exists():
            target = path.with_name(f"{path.name}.{secrets.token_hex(4)}.corrupt")
        try:
            path.replace(target)
        except FileNotFoundError:  # another process was faster
            return
        warnings.warn(
            f"{path}: damaged label record, moved to {target.name}; the label is computed again", stacklevel=3
        )


def label_store() -> Path:
    """Folder of the label store: ``MLIP_LABEL_STORE``, else ``label_store`` in the working directory.

    Outside ``results/``, so that a cleaned results folder costs no DFT; and no parameter of any
    rule, so that moving the store is no reason to label again.
    """
    return Path(os.environ.get("MLIP_LABEL_STORE", "label_store"))
