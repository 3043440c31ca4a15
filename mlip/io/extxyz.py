"""Extended XYZ in ASE's own keys, at full precision and with strict reading.

ASE writes eight decimals, turns identifiers made of digits into numbers and stops
silently at a blank line. This writer keeps every bit of a float, and this reader
refuses a file that is not whole. Any extended-XYZ reader can read the files.

The format has no checksum. Here each structure ends its comment line with ``checksum=K/N:HASH``:
structure K of the N written together, and the start of the SHA-256 of its text without this entry.
A reader that does not know it takes it for a property of the structure. Where another program has
written the line anew, the entry is no longer the last, or no longer there, and nothing is checked.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ase.io.extxyz
import numpy as np
from ase import Atoms
from ase.stress import voigt_6_to_full_3x3_stress

from mlip.io.constraints import ConstraintError, movable_mask, set_movable
from mlip.io.dialects import DialectError, to_ase_comment
from mlip.io.files import write_atomic

CONFIG_RESULTS = ("energy", "free_energy", "stress")
# A string is written bare only when no reader could take it for a number, a boolean or syntax.
BARE_STRING = re.compile(r"(?!(?:nan|inf|infinity|t|f|true|false)$)[A-Za-z_][A-Za-z0-9_.:+/-]*", re.IGNORECASE)
KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")
WIDTH = re.compile(r"[0-9]{1,6}")
COUNT = re.compile(r"[0-9]{1,12}")  # of atoms; Python refuses to read numbers of thousands of digits
SIGNATURE = re.compile(r"[0-9]{1,9}/[0-9]{1,9}:[0-9a-f]{16}")
PERIODIC = frozenset({"T", "F", "True", "False", "true", "false", "1", "0"})
COLUMN_TYPES = {"f": "R", "i": "I", "u": "I", "b": "L"}


class ExtxyzError(ValueError):
    """A structure file that is cut short or malformed; the message names file and place."""


def write_structures(path: str | Path, structures: Sequence[Atoms]) -> None:
    """Write ``structures`` atomically; no structures give a blank line, to be told from a file that lost its content.

    Results that an attached calculator already holds are kept: energy (eV), forces
    (eV/Å), stress (eV/Å³). Fixed atoms and coordinates are kept in ASE's column ``move_mask``.
    """
    frames = [_signed(_frame(atoms), k + 1, len(structures)) for k, atoms in enumerate(structures)]
    write_atomic(path, "".join(frames) or "\n")


def _signed(frame: str, number: int, total: int) -> str:
    """``frame`` with its checksum at the end of the comment line."""
    header, comment, rows = frame.split("\n", 2)
    return f"{header}\n{comment} checksum={number}/{total}:{_digest(frame)}\n{rows}"


def _digest(frame: str) -> str:
    return hashlib.sha256(frame.encode()).hexdigest()[:16]


def read_structures(path: str | Path) -> list[Atoms]:
    """Read every structure of an extended XYZ file; a blank line stands for none.

    Raises:
        FileNotFoundError: when there is no such file.
        ExtxyzError: when the file is cut short, malformed, or does not match its checksums.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ExtxyzError(f"{path}: not an extended XYZ file ({error}); {_REMEDY}") from None
    return parse_structures(text, path)


def parse_structures(text: str, path: str | Path) -> list[Atoms]:
    """Every structure of the ``text`` of an extended XYZ file that messages call ``path``: see :func:`read_structures`.

    Raises:
        ExtxyzError: when the text is cut short, malformed, or does not match its checksums.
    """
    if text == "\n":
        return []
    frames = _split_frames(text, path)
    _check_sums(frames, path)
    n_frames = len(frames)
    try:
        whole = "".join(frame for frame, _ in frames)
        structures = list(ase.io.extxyz.read_xyz(io.StringIO(whole), index=slice(None)))
    except Exception as error:  # ASE raises many types here: ValueError, KeyError, XYZError, ...
        raise ExtxyzError(f"{path}: malformed extended XYZ ({type(error).__name__}: {error}); {_REMEDY}") from error
    if len(structures) != n_frames:
        raise ExtxyzError(f"{path}: {n_frames} structures announced, {len(structures)} read; {_REMEDY}")
    for atoms in structures:
        if atoms.constraints:  # ASE makes one of every atom
            set_movable(atoms, movable_mask(atoms))
        atoms.info = {
            key: value.item() if isinstance(value, np.generic) else value for key, value in atoms.info.items()
        }
    return structures


_REMEDY = "repair it; a file of the loop may be deleted, running again rebuilds it"


def _split_frames(text: str, path: str | Path) -> list[tuple[str, str]]:
    """Text of each frame without its checksum, and the checksum; every frame is complete to its last column."""
    if not text.endswith("\n"):
        raise ExtxyzError(f"{path}: empty or cut short, the last line has no end; {_REMEDY}")
    lines = text.rstrip().split("\n")
    frames: list[tuple[str, str]] = []
    position = 0
    while position < len(lines):
        header = lines[position].strip()
        if not COUNT.fullmatch(header):
            raise ExtxyzError(
                f"{path}, line {position + 1}: expected a number of atoms, found {header[:40]!r}; {_REMEDY}"
            )
        end = position + 2 + int(header)
        if end > len(lines):
            raise ExtxyzError(
                f"{path}: cut short, structure {len(frames)} has {header} atoms but the file ends; {_REMEDY}"
            )
        comment, _, entry = lines[position + 1].partition(" checksum=")
        signed = SIGNATURE.fullmatch(entry) is not None
        if not signed:
            comment = _translate(lines[position + 1], f"{path}, line {position + 2}")
        _check_comment(comment, f"{path}, line {position + 2}")
        n_columns = _count_columns(comment)
        for row in range(position + 2, end):
            if len(lines[row].split()) != n_columns:
                raise ExtxyzError(f"{path}, line {row + 1}: expected {n_columns} columns; {_REMEDY}")
        frame = "\n".join([lines[position], comment, *lines[position + 2 : end]]) + "\n"
        frames.append((frame, entry if signed else ""))
        position = end
    return frames


def _translate(comment: str, place: str) -> str:
    """A comment line of another program in ASE's words."""
    try:
        return to_ase_comment(comment)
    except DialectError as error:
        raise ExtxyzError(f"{place}: {error}") from None


def _check_comment(comment: str, place: str) -> None:
    periodic = re.search(r'\bpbc="([^"]*)"', comment)
    if periodic and not all(word in PERIODIC for word in periodic.group(1).split()):
        raise ExtxyzError(f'{place}: pbc="{periodic.group(1)}" is not made of T and F; {_REMEDY}')


def _check_sums(frames: Sequence[tuple[str, str]], path: str | Path) -> None:
    """Refuse structures that were changed, and sets written together of which some are missing."""
    reached = total = 0  # of the set that the structure before belongs to
    for number, (frame, entry) in enumerate(frames):
        place, _, digest = entry.partition(":")
        k, n = map(int, place.split("/")) if place else (0, 0)
        if entry and digest != _digest(frame):
            raise ExtxyzError(f"{path}: structure {number} does not match its checksum, so it was {_EDITED}")
        is_next = (k, n) == (reached + 1, total) if reached < total else k <= 1
        if not is_next:
            raise ExtxyzError(f"{path}: structures are missing before structure {number}, so the file was {_EDITED}")
        reached, total = k, n
    if reached < total:
        raise ExtxyzError(f"{path}: {reached} of {total} structures are there, so the file was {_EDITED}")


_EDITED = (
    "damaged or edited; a file of the loop may be deleted, running again rebuilds it; after an edit on purpose,"
    " remove every `checksum=` entry: sed -i 's/ checksum=[^ ]*$//' FILE"
)


def _count_columns(comment: str) -> int:
    match = re.search(r'Properties="?([^\s"]+)', comment)
    widths = match.group(1).split(":")[2::3] if match else ["4"]
    return sum(int(width) if WIDTH.fullmatch(width) else 0 for width in widths)


def _frame(atoms: Atoms) -> str:
    results = _finished_results(atoms)
    columns: list[tuple[str, str, np.ndarray]] = [("pos", "R", atoms.positions)]
    movable = _movable(atoms)
    if movable is not None:
        columns.append(("move_mask", "L", movable if (movable != movable[:, :1]).any() else movable[:, 0]))
    for name, array in atoms.arrays.items():
        if name not in ("numbers", "positions", "forces", "move_mask"):
            if array.dtype.kind not in COLUMN_TYPES:
                raise ValueError(f"cannot write the per-atom array {name!r} of type {array.dtype}; remove it first")
            columns.append((name, COLUMN_TYPES[array.dtype.kind], array))
    if "forces" in results:
        columns.append(("forces", "R", np.asarray(results["forces"], dtype=float)))
    columns = [(name, kind, array.reshape(len(atoms), -1)) for name, kind, array in columns if len(atoms)]
    properties = ":".join(["species:S:1"] + [f"{name}:{kind}:{array.shape[1]}" for name, kind, array in columns])
    lines = [str(len(atoms)), _comment(atoms, results, properties)]
    for i, symbol in enumerate(atoms.get_chemical_symbols()):
        lines.append(" ".join([symbol] + [_number(x) for _, _, array in columns for x in array[i].tolist()]))
    return "\n".join(lines) + "\n"


def _movable(atoms: Atoms) -> np.ndarray | None:
    try:
        return movable_mask(atoms)
    except ConstraintError as error:
        warnings.warn(f"written without its constraints: {error}", stacklevel=4)
        return None


def _comment(atoms: Atoms, results: dict[str, Any], properties: str) -> str:
    parts = []
    if atoms.cell.array.any():
        parts.append(f'Lattice="{" ".join(_number(x) for x in atoms.cell.array.ravel().tolist())}"')
    parts.append(f"Properties={properties}")
    for key in CONFIG_RESULTS:
        if results.get(key) is not None:
            value = voigt_6_to_full_3x3_stress(results[key]).ravel() if key == "stress" else [results[key]]
            parts.append(f'{key}="{" ".join(_number(float(x)) for x in value)}"')
    for key, item in atoms.info.items():
        if key in CONFIG_RESULTS:
            raise ValueError(
                f"atoms.info[{key!r}] would shadow the label of the same name; attach it as a calculator result"
            )
        if not isinstance(key, str) or not KEY.fullmatch(key):
            raise ValueError(f"atoms.info key {key!r} cannot be written; use letters, digits, '_', '.' and '-'")
        parts.append(f"{key}={_info_value(item)}")
    parts.append(f'pbc="{" ".join("T" if periodic else "F" for periodic in atoms.pbc)}"')
    return " ".join(parts)


def _finished_results(atoms: Atoms) -> dict[str, Any]:
    """Results that the calculator holds for exactly this structure; nothing is computed."""
    results = dict(getattr(atoms.calc, "results", None) or {})
    changed = atoms.calc.check_state(atoms) if results and hasattr(atoms.calc, "check_state") else []
    return {} if changed else results


def _number(value: float | int | bool) -> str:
    return ("T" if value else "F") if isinstance(value, bool) else repr(value)


def _info_value(value: Any) -> str:
    """``value`` as text that comes back as the same value."""
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, bool | int | float):
        return _number(value)
    if isinstance(value, str) and BARE_STRING.fullmatch(value):
        return value
    encoded = "_JSON " + json.dumps(value, ensure_ascii=False).replace("\u0085", "\\u0085")
    return '"' + encoded.replace("\\", "\\\\").replace('"', '\\"') + '"'
