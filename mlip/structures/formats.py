"""What readers of structure files guess in silence: elements, isotopes, settings of space groups, cells that are none.

A file that leaves one of these open is refused, or read as its own words say.
"""

from __future__ import annotations

import functools
import io
import itertools
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols
from ase.io import read
from ase.io.formats import UnknownFileTypeError, filetype
from ase.spacegroup import Spacegroup
from ase.spacegroup.spacegroup import SpacegroupNotFoundError

from mlip.io.dialects import to_ase_text

ISOTOPES = {"D": 2.01410177812, "T": 3.01604928199}
"""Names of hydrogen's isotopes and their masses in u (Atomic Mass Evaluation 2020)."""
TWO_ORIGINS = frozenset({48, 50, 59, 68, 70, 85, 86, 88, 125, 126, 129, 130, 133, 134, 137, 138, 141, 142}
                        | {201, 203, 222, 224, 227, 228})  # fmt: skip
"""Space groups that the International Tables describe from two origins."""
RHOMBOHEDRAL = frozenset({146, 148, 155, 160, 161, 166, 167})
OPERATIONS = re.compile(
    r"^\s*_(symmetry_equiv_pos_as_xyz|space_group_symop[._]operation_xyz)", re.MULTILINE | re.IGNORECASE
)
SETTING = "_symmetry_space_group_setting"


class FormatError(ValueError):
    """A structure file that leaves open what it means; the message says what, and the remedy."""


def read_whole(path: Path, elements: Sequence[str] = ()) -> list[Atoms]:
    """Every structure of ``path``, as ASE reads it where the file leaves it no choice.

    Args:
        path: a structure file.
        elements: those of a POSCAR that names none, in the order of its counts.

    Raises:
        FormatError: when ASE would have to guess, or ``elements`` are not those of the file.
        Exception: whatever ASE raises for a file that it cannot read.
    """
    kind = _kind(path) or ("vasp" if elements else "")
    if elements and kind != "vasp":
        raise FormatError("is no POSCAR, and `elements` are for those that name none; remove them")
    readers: dict[str, Callable[[str], list[Atoms]]] = {
        "vasp": functools.partial(_read_poscar, elements=elements),
        "cif": _read_cif,
        "proteindatabank": _read_pdb,
        "extxyz": _read_xyz,
        "xyz": _read_xyz,
    }
    if kind.startswith("lammps-dump"):
        _check_dump(path)
    try:
        if kind in readers:
            return readers[kind](path.read_text(encoding="utf-8", errors="replace"))
        return _as_list(read(path, index=slice(None), do_not_split_by_at_sign=True))
    except KeyError as error:  # ASE's way to say that it knows no such element; another reader would make up one
        symbol = str(error.args[0]) if error.args else ""
        if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9.+-]{0,6}", symbol):
            raise FormatError(f"{symbol!r} is no chemical element; name real elements") from None
        raise


def _kind(path: Path) -> str:
    if path.suffix in (".xyz", ".extxyz"):
        return "extxyz"
    try:
        return str(filetype(str(path)))
    except UnknownFileTypeError:
        return ""


def _as_list(found: object) -> list[Atoms]:
    if not isinstance(found, list) or not found or not isinstance(found[0], Atoms):
        raise TypeError("the file holds no structure")
    return found


def _read_text(text: str, kind: str) -> list[Atoms]:
    return _as_list(read(io.StringIO(text), index=slice(None), format=kind))


def _read_poscar(text: str, elements: Sequence[str]) -> list[Atoms]:
    lines = text.split("\n")
    labels = lines[5].split() if len(lines) > 6 else []
    if labels and labels[0].isdigit():
        lines.insert(5, " ".join(_fit_elements(elements, labels)))
        text, labels = "\n".join(lines), lines[5].split()
    symbols = [re.split(r"[_/]", label)[0] for label in labels]
    if elements and symbols != list(elements):
        raise FormatError(f"names {' '.join(symbols)}, and `elements` {' '.join(elements)}; remove these")
    wrong = [
        label for label, symbol in zip(labels, symbols, strict=True) if symbol not in {*chemical_symbols[1:], *ISOTOPES}
    ]
    if wrong:
        raise FormatError(f"{wrong[0]!r} is no chemical element; name real elements")
    if not set(symbols) & set(ISOTOPES):
        return _read_text(text, "vasp")
    counts = [int(word) for word in lines[6].split()[: len(symbols)]]
    lines[5] = " ".join("H" if symbol in ISOTOPES else symbol for symbol in symbols)
    structures = _read_text("\n".join(lines), "vasp")
    _set_isotopes(structures[0], np.repeat(symbols, counts).tolist())
    return structures


def _fit_elements(elements: Sequence[str], counts: Sequence[str]) -> Sequence[str]:
    """``elements``, of which there must be one for each of a POSCAR's ``counts`` of atoms."""
    kinds = len(list(itertools.takewhile(str.isdigit, counts)))  # a comment may follow
    if len(elements) == kinds:
        return elements
    told = f", and `elements` name {len(elements)}" if elements else ""
    raise FormatError(
        f"names no elements (a POSCAR of VASP 4, whose {kinds} counts of atoms follow the cell){told}; put a line"
        f" of {kinds} chemical symbols above the counts, or name them in `structures`, e.g."
        f" {{file: POSCAR, elements: [{', '.join(('Mg', 'O', 'Si', 'Al')[:kinds])}]}}"
    )


def _set_isotopes(atoms: Atoms, symbols: Sequence[str]) -> None:
    masses = atoms.get_masses()
    for k, symbol in enumerate(symbols):
        masses[k] = ISOTOPES.get(symbol, masses[k])
    atoms.set_masses(masses)


def _read_xyz(text: str) -> list[Atoms]:
    """Structures under whatever comment lines; the isotopes of hydrogen in the first."""
    lines = to_ase_text(text).split("\n")
    n_atoms = int(lines[0])
    fields = re.search(r'Properties="?([^\s"]+)', lines[1])
    columns = fields.group(1).split(":") if fields else ["species", "S", "1"]
    names = columns[::3]
    place = sum(int(width) for width in columns[2::3][: names.index("species")]) if "species" in names else None
    rows = [line.split() for line in lines[2 : 2 + n_atoms]]
    if place is None or not any(len(row) > place and row[place] in ISOTOPES for row in rows):
        return _read_text("\n".join(lines), "extxyz")
    symbols = [row[place] for row in rows]
    for row in rows:
        row[place] = "H" if row[place] in ISOTOPES else row[place]
    lines[2 : 2 + n_atoms] = [" ".join(row) for row in rows]
    structures = _read_text("\n".join(lines), "extxyz")
    if not structures[0].has("masses"):
        _set_isotopes(structures[0], symbols)
    return structures


def _check_dump(path: Path) -> None:
    with path.open("rb") as stream:
        columns = next((line.decode(errors="replace") for line in stream if line.startswith(b"ITEM: ATOMS")), "")
    if "element" not in columns.split():
        raise FormatError(
            "names no elements but types of LAMMPS; write it anew with `dump_modify ID element SYMBOLS` and the column"
            " `element`"
        )


def _read_pdb(text: str) -> list[Atoms]:
    rows = [line for line in text.split("\n") if line.startswith(("ATOM  ", "HETATM"))]
    if any(not line[76:78].strip() for line in rows):
        raise FormatError(
            "names no elements: columns 77 and 78 are blank, and CA may be calcium or a carbon of a protein; write"
            " chemical symbols there"
        )
    structures = _read_text(text, "proteindatabank")
    for atoms in structures:
        if np.allclose(atoms.cell.cellpar(), [1, 1, 1, 90, 90, 90]):  # how the format says that there is no cell
            atoms.set_cell(None)
            atoms.pbc = False
    return structures


def _read_cif(text: str) -> list[Atoms]:
    return _read_text(text if OPERATIONS.search(text) else _with_setting(text), "cif")


def _with_setting(text: str) -> str:
    """``text`` of a CIF without symmetry operations, with the setting of its space group where there are several.

    Raises:
        FormatError: when the file does not tell which.
    """
    symbol = _tag(text, r"_(?:symmetry_space_group_name_H-M|space_group_name_H-M_alt|space_group[._]name_H-M_alt)")
    number = _group_number(text, symbol)
    remedy = "write the file with its symmetry operations (_space_group_symop_operation_xyz)"
    if number is None or _tag(text, SETTING):
        return text
    if number in RHOMBOHEDRAL:
        angles = [
            float(_tag(text, f"_cell_angle_{name}").partition("(")[0] or 90) for name in ("alpha", "beta", "gamma")
        ]
        hexagonal = np.allclose(angles, [90, 90, 120], atol=0.1)
        return _insert(text, 1 if hexagonal else 2)
    if number in TWO_ORIGINS:
        choice = re.search(r"(?::\s*|\s)([12SZ])\s*$", symbol)
        if choice is None:
            raise FormatError(
                f"space group {number} ({symbol}) is described from two origins, and the file does not say from which;"
                f" {remedy}"
            )
        return _insert(text, 1 if choice.group(1) in "1S" else 2)
    standard = str(Spacegroup(number).symbol)
    if 3 <= number <= 74 and symbol and _short(symbol) != _short(standard):
        raise FormatError(
            f"space group {number} is given as {symbol}, with other axes than the standard {standard}; {remedy}"
        )
    return text


def _group_number(text: str, symbol: str) -> int | None:
    number = _tag(text, r"_(?:space_group_IT_number|symmetry_Int_Tables_number|space_group[._]IT_number)")
    if number.isdigit() and 1 <= int(number) <= 230:
        return int(number)
    try:
        return int(Spacegroup(re.sub(r"\s*:.*$|\s[SZ]$", "", symbol)).no) if symbol else None
    except (SpacegroupNotFoundError, ValueError):
        return None


def _tag(text: str, name: str) -> str:
    """Value of a CIF's entry; empty when there is none."""
    match = re.search(rf"^\s*{name}\s+(?:'([^']*)'|\"([^\"]*)\"|(\S+))", text, re.MULTILINE | re.IGNORECASE)
    value = next((group for group in match.groups() if group is not None), "") if match else ""
    return "" if value in ("?", ".") else value.strip()


def _short(symbol: str) -> str:
    """A Hermann-Mauguin symbol without blanks and the axes that say nothing: ``P 1 21/c 1`` is ``p21/c``."""
    words = [word for word in re.sub(r":.*$", "", symbol).replace("_", "").split() if word != "1"]
    return "".join(words).lower()


def _insert(text: str, setting: int) -> str:
    """``text`` with the setting in its first data block that has a cell."""
    return re.sub(
        r"(?im)^(\s*_cell_length_a\b)", rf"{SETTING} {setting}\n\1", text, count=1, flags=re.MULTILINE | re.IGNORECASE
    )
