"""Comment lines of extended XYZ as other programs write them, in ASE's words.

Readers tell keys apart by case and drop what they do not know without a word: GPUMD's ``lattice`` makes a
cluster of a crystal, ``PBC="F F F"`` a crystal of a cluster, and virials are not learnt from. Here keys
get the spelling that ASE reads, a virial becomes a stress, and what may be read in two ways is refused.
"""

from __future__ import annotations

import re

import numpy as np

ENTRY = re.compile(
    r"""(?P<key>[^\s="'\[\]{}]+)\s*=\s*(?P<value>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'|\{[^}]*\}|\[[^\]]*\]|\S*)"""
)
KEYS = {key.lower(): key for key in ("Lattice", "Properties", "pbc", "energy", "free_energy", "stress", "virial")} | {
    "virials": "virial"
}
"""What ASE, or this module, calls the keys that programs spell in other ways."""
COLUMNS = {
    **dict.fromkeys(("species", "symbols", "element", "elements"), "species"),
    **dict.fromkeys(("pos", "position", "positions"), "pos"),
    **dict.fromkeys(("force", "forces"), "forces"),
    **dict.fromkeys(("mass", "masses"), "masses"),
    "z": "Z",
}
"""The same for columns; a name that is none of these stays as it is."""
SAME_STRESS = 1e-3
"""Relative difference (of the largest component) below which a stress and a virial say the same."""


class DialectError(ValueError):
    """A comment line that may be read in more than one way; the message names the key and the remedy."""


def to_ase_comment(comment: str) -> str:
    """``comment`` with the keys and columns that ASE reads.

    ``virial`` and ``virials`` (eV, minus volume times stress, as GAP, DeePMD and GPUMD write it) become ``stress``.

    Raises:
        DialectError: for a key that is there twice, a stress or virial that is not nine numbers, a virial of a
            structure without a cell, and a stress and a virial that contradict each other.
    """
    parts, values, end = [], dict[str, str](), 0
    for match in ENTRY.finditer(comment):
        key, value = match["key"], match["value"]
        name = KEYS.get(key.lower(), key)
        if name in values and name in KEYS.values():
            raise DialectError(f"{name} is there twice, as {key!r}, too; remove one of both")
        values[name] = value
        parts += [comment[end : match.start()], f"{name}={_value(name, value)}" if name != "virial" else ""]
        end = match.end()
    stress = _read_stress(values)
    if stress is not None and "virial" in values:
        numbers = " ".join(repr(float(x)) for x in stress.ravel())
        parts += [] if "stress" in values else [f' stress="{numbers}" ']
    return "".join([*parts, comment[end:]])


def to_ase_text(text: str) -> str:
    """``text`` of an XYZ file with every comment line as :func:`to_ase_comment` has it; left alone where it is none."""
    lines, position = text.split("\n"), 0
    while position + 1 < len(lines) and re.fullmatch(r"\s*[0-9]{1,12}\s*", lines[position]):
        if "=" in lines[position + 1]:
            lines[position + 1] = to_ase_comment(lines[position + 1])
        position += 2 + int(lines[position])
    return "\n".join(lines)


def _value(name: str, value: str) -> str:
    if name == "Properties":
        return _columns(value)
    if name in ("Lattice", "stress"):
        return f'"{" ".join(_words(value))}"'
    return value


def _words(value: str) -> list[str]:
    return re.sub(r"""["'\[\]{},]""", " ", value).split()


def _columns(value: str) -> str:
    """The value of ``Properties`` with ASE's names of columns."""
    fields = value.strip("\"'").split(":")
    names = [COLUMNS.get(name.lower(), name) for name in fields[::3]]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise DialectError(f"column {twice[0]} is there twice in Properties={value}; remove one of both")
    for name, kind in zip(names, fields[1::3], strict=False):
        if name == "species" and kind != "S":
            raise DialectError(
                f"Properties={value}: column species holds numbers; write chemical symbols (species:S:1),"
                " or call it Z if they are atomic numbers"
            )
    fields[::3] = names
    return ":".join(fields)


def _read_stress(values: dict[str, str]) -> np.ndarray | None:
    """Stress [3, 3] (eV/Å³) of a header's entries ``values``, from a virial where need be; None without either."""
    stress = _tensor(values, "stress")
    virial = _tensor(values, "virial")
    if virial is None:
        return stress
    cell = _tensor(values, "Lattice")
    volume = abs(float(np.linalg.det(cell))) if cell is not None else 0.0
    if volume <= 0:
        raise DialectError("virial: no stress can be had of it without a Lattice; add the cell, or remove the virial")
    implied = -virial / volume
    if stress is not None and np.abs(stress - implied).max() > SAME_STRESS * max(np.abs(implied).max(), 1e-4):
        raise DialectError(
            f"stress and virial contradict each other: {stress.ravel()[0]:.4g} eV/Å³ for xx, and {implied[0, 0]:.4g}"
            " from -virial/volume; remove the wrong one"
        )
    return implied


def _tensor(entries: dict[str, str], name: str) -> np.ndarray | None:
    if name not in entries:
        return None
    words = _words(entries[name])
    try:
        values = np.array([float(word) for word in words])
    except ValueError:
        raise DialectError(f"{name}={entries[name][:60]} is not made of numbers; repair or remove it") from None
    if len(values) != 9:
        raise DialectError(
            f"{name} has {len(values)} numbers; write all 9 (xx xy xz yx yy yz zx zy zz), as programs do not agree"
            " on the order of six"
        )
    return values.reshape(3, 3)
