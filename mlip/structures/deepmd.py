"""Labelled structures as DeePMD keeps them: folders of NumPy arrays, one system a folder.

A system has ``type.raw`` (the type of each atom), ``type_map.raw`` (the symbol of each type), ``nopbc`` where it is
not periodic, and ``set.000``, ``set.001``, … with ``coord`` [n, 3 N] and ``box`` [n, 9] (Å), ``energy`` [n] (eV),
``force`` [n, 3 N] (eV/Å) and ``virial`` [n, 9] (eV), row-major. A virial is minus the volume times ASE's stress:
positive under pressure (DeePMD-kit's manual, "Data"; https://docs.deepmodeling.com/projects/deepmd).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.data import chemical_symbols
from ase.stress import full_3x3_to_voigt_6_stress

from mlip.structures.labelled import has_label, labelled_energy, labelled_forces, labelled_stress

TYPES = "type.raw"
LARGEST_SET = 5000
"""Structures in a set: DeePMD loads one at a time."""


class DeepmdError(ValueError):
    """A folder that is no whole DeePMD system, or structures that none can hold; the message says which and why."""


def find_systems(folder: Path) -> list[Path]:
    """The systems in ``folder``, which may be one itself, sorted."""
    return sorted(path.parent for path in folder.rglob(TYPES))


def read_deepmd(folder: Path) -> list[Atoms]:
    """All structures of the systems in ``folder``, with what labels there are as ASE results.

    Raises:
        DeepmdError: naming the file that is missing or does not fit.
    """
    systems = find_systems(folder)
    if not systems:
        raise DeepmdError(f"{folder}: no {TYPES} in it; give the folder of a DeePMD system, or one that holds some")
    return [atoms for system in systems for atoms in _read_system(system)]


def _read_system(system: Path) -> Iterator[Atoms]:
    symbols = np.array(_read_symbols(system))
    types = np.array(_words(system / TYPES), dtype=int)
    sets = sorted(system.glob("set.*"))
    if not sets:
        raise DeepmdError(f"{system}: no folder set.000; give a system in the format deepmd/npy")
    for folder in sets:
        coordinates = _read_array(folder / "coord.npy")
        n = len(coordinates)
        kinds = np.tile(types, (n, 1))
        if (folder / "real_atom_types.npy").is_file():  # systems of several compositions, filled up with -1
            kinds = _read_array(folder / "real_atom_types.npy", n).astype(int)
        size, highest = kinds.shape[1], int(kinds.max(initial=0))
        if highest >= len(symbols) or coordinates.size != 3 * n * size:
            raise DeepmdError(
                f"{folder}: coord.npy has {coordinates.size // max(n, 1)} columns where {TYPES} has {size} atoms of"
                f" types up to {highest}, and type_map.raw {len(symbols)} symbols; copy the system again"
            )
        yield from _read_set(folder, symbols, kinds, coordinates.reshape(n, -1, 3), (system / "nopbc").exists())


def _read_set(
    folder: Path, symbols: np.ndarray, kinds: np.ndarray, coordinates: np.ndarray, alone: bool
) -> Iterator[Atoms]:
    """Structures of one set: ``kinds`` [n, N], ``coordinates`` [n, N, 3]; not periodic where ``alone``."""
    n, size = kinds.shape
    boxes = None if alone else _read_array(folder / "box.npy", n).reshape(n, 3, 3)
    known = {
        name: _read_array(folder / f"{name}.npy", n)
        for name in ("energy", "force", "virial")
        if (folder / f"{name}.npy").is_file()
    }
    for k in range(n):
        real = kinds[k] >= 0
        box = None if boxes is None else boxes[k]
        atoms = Atoms(list(symbols[kinds[k][real]]), coordinates[k][real], cell=box, pbc=box is not None)
        results = {}
        if "energy" in known:
            results["energy"] = float(known["energy"][k].reshape(-1)[0])
        if "force" in known:
            results["forces"] = known["force"][k].reshape(size, 3)[real]
        if "virial" in known and box is not None:
            stress = -known["virial"][k].reshape(3, 3) / atoms.get_volume()
            results["stress"] = full_3x3_to_voigt_6_stress((stress + stress.T) / 2)
        atoms.calc = SinglePointCalculator(atoms, **results)
        yield atoms


def _read_symbols(system: Path) -> list[str]:
    path = system / "type_map.raw"
    if not path.is_file():
        raise DeepmdError(f"{path}: missing; write it, a chemical symbol for each type number, such as `Li O`")
    symbols = _words(path)
    unknown = [symbol for symbol in symbols if symbol not in chemical_symbols[1:]]
    if unknown:
        raise DeepmdError(f"{path}: {unknown[0]!r} is no chemical symbol; name real elements")
    return symbols


def _words(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").split()


def _read_array(path: Path, n: int | None = None) -> np.ndarray:
    """The array [n, …] in ``path`` in double precision."""
    if not path.is_file():
        raise DeepmdError(f"{path}: missing; copy the whole system again")
    try:
        values = np.load(path, allow_pickle=False).astype(np.float64)
    except (ValueError, EOFError, OSError) as error:
        raise DeepmdError(f"{path}: no array of numbers ({error}); copy the system again") from None
    if n is not None and len(values) != n:
        raise DeepmdError(f"{path}: {len(values)} structures where coord.npy has {n}; copy the system again")
    return values


def write_deepmd(folder: Path, structures: Sequence[Atoms]) -> list[Path]:
    """Write ``structures`` as systems, one for each formula, and return their folders.

    Structures with and without stress, and those that are not periodic, are systems of their own. Within a system
    atoms are sorted by element. Energies are those that the forces belong to.

    Raises:
        DeepmdError: for a structure that is periodic in one or two directions only, and without energy or forces.
        FileExistsError: when ``folder`` holds something.
    """
    if folder.exists() and any(folder.iterdir()):
        raise FileExistsError(f"{folder}: holds files already; give a new folder")
    groups: dict[str, list[Atoms]] = {}
    for number, atoms in enumerate(structures):
        groups.setdefault(_system_name(atoms, number), []).append(atoms)
    symbols = sorted({symbol for atoms in structures for symbol in atoms.symbols})
    for name, members in groups.items():
        _write_system(folder / name, members, symbols)
    return [folder / name for name in groups]


def _system_name(atoms: Atoms, number: int) -> str:
    formula = atoms.get_chemical_formula()
    if atoms.pbc.any() and not atoms.pbc.all():
        raise DeepmdError(
            f"structure {number} ({formula}): DeePMD knows no periodicity in {int(atoms.pbc.sum())} of 3 directions;"
            " write extended XYZ, or make it periodic with vacuum"
        )
    for name in ("energy", "forces"):
        if not has_label(atoms, name):
            raise DeepmdError(f"structure {number} ({formula}): has no {name}; write labelled structures only")
    if not atoms.pbc.any():
        return f"{formula}-isolated"
    return formula if has_label(atoms, "stress") else f"{formula}-no_virial"


def _write_system(folder: Path, members: Sequence[Atoms], symbols: Sequence[str]) -> None:
    orders = [np.argsort([symbols.index(s) for s in atoms.symbols], kind="stable") for atoms in members]
    types = [symbols.index(members[0].symbols[int(k)]) for k in orders[0]]
    folder.mkdir(parents=True)
    (folder / TYPES).write_text("".join(f"{t}\n" for t in types), encoding="utf-8")
    (folder / "type_map.raw").write_text("".join(f"{s}\n" for s in symbols), encoding="utf-8")
    if not members[0].pbc.any():
        (folder / "nopbc").touch()
    columns = {
        "coord": [atoms.positions[order].ravel() for atoms, order in zip(members, orders, strict=True)],
        "box": [atoms.cell.array.ravel() for atoms in members],
        "energy": [labelled_energy(atoms) for atoms in members],
        "force": [labelled_forces(atoms)[order].ravel() for atoms, order in zip(members, orders, strict=True)],
    }
    if has_label(members[0], "stress") and members[0].pbc.all():
        columns["virial"] = [-atoms.get_volume() * labelled_stress(atoms, voigt=False).ravel() for atoms in members]
    for number, begin in enumerate(range(0, len(members), LARGEST_SET)):
        place = folder / f"set.{number:03d}"
        place.mkdir()
        for name, values in columns.items():
            np.save(place / f"{name}.npy", np.array(values[begin : begin + LARGEST_SET], dtype=np.float64))
