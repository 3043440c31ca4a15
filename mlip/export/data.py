"""Labelled structures written for other programs: extended XYZ, DeePMD systems, ASE's database."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.data import atomic_numbers

from mlip.io.extxyz import read_structures, write_structures
from mlip.io.layout import output_path
from mlip.structures.deepmd import write_deepmd
from mlip.structures.labelled import labelled_energy
from mlip.structures.labelled_files import read_labelled_file

SPLITS = ("train", "valid", "test")
SUFFIXES = {"extxyz": ".extxyz", "deepmd": "", "ase-db": ".db"}
"""Of what is written, by the name of the format; DeePMD's is a folder."""
RESERVED = frozenset({"id", "age", "energy", "magmom", "charge", "fmax", "smax", "volume", "mass", "natoms", "formula"})
"""Keys of a database's rows that ASE computes itself."""


class DataExportError(ValueError):
    """Data that cannot be written as asked; the message says why and what to do."""


def export_data(sources: Sequence[Path], out: Path, to: str, *, splits: Sequence[str] = SPLITS) -> list[Path]:
    """Write the labelled structures of ``sources`` into the folder ``out`` and return what was written.

    Args:
        sources: the results folder of one system, whose last data set is taken with its splits; or files of
            labelled structures, of which one set is made.
        out: folder; in it ``train``, ``valid`` and ``test``, or ``data``, with the suffix of the format.
        to: ``extxyz`` (every bit of a label), ``deepmd`` (double precision; no names, no origin) or ``ase-db``.
        splits: those that are taken of a results folder.

    Raises:
        DataExportError: for unknown formats and folders without a data set.
        FileExistsError: rather than write over anything.
    """
    if to not in SUFFIXES:
        raise DataExportError(f"--format {to}: unknown; choose from {', '.join(SUFFIXES)}")
    unknown = [split for split in splits if split not in SPLITS]
    if unknown:
        raise DataExportError(f"--split {unknown[0]}: unknown; choose from {', '.join(SPLITS)}")
    sets = {name: members for name, members in _gather(sources, splits).items() if members}
    if not sets:
        raise DataExportError(f"{', '.join(map(str, sources))}: no labelled structures to write")
    places = {name: out / f"{name}{SUFFIXES[to]}" for name in sets}
    taken = [place for place in places.values() if place.exists()]
    if taken:
        raise FileExistsError(f"{taken[0]}: is there already; give another folder to --out, or remove it")
    out.mkdir(parents=True, exist_ok=True)
    write = {"extxyz": write_structures, "deepmd": write_deepmd, "ase-db": write_database}[to]
    for name, members in sets.items():
        write(places[name], members)
    return list(places.values())


def _gather(sources: Sequence[Path], splits: Sequence[str]) -> dict[str, list[Atoms]]:
    folders = [source for source in sources if source.is_dir() and any(source.glob("iter_*"))]
    if not folders:
        return {"data": [atoms for source in sources for atoms in read_labelled_file(source)]}
    if len(sources) > 1:
        raise DataExportError(f"{folders[0]}: a results folder is exported alone; give it, or files, not both")
    numbers = sorted(int(path.name[5:]) for path in folders[0].glob("iter_*") if path.name[5:].isdigit())
    for number in reversed(numbers):
        place = output_path(folders[0], "collect_dataset", "dataset.json", iteration=number)
        if place.is_file():
            return {split: read_structures(place.parent / f"{split}.extxyz") for split in splits}
    raise DataExportError(f"{folders[0]}: no iteration has collected its labels yet; run the loop further")


def write_database(path: Path, structures: Sequence[Atoms]) -> None:
    """Write ``structures`` as rows of an ASE database with their labels.

    Simple entries of ``info`` become keys to select by; all of them are in the row's ``data``.
    """
    from ase.db import connect

    with connect(str(path), append=False) as database:
        for atoms in structures:
            row = atoms.copy()
            row.set_constraint()
            results = dict(getattr(atoms.calc, "results", None) or {})
            if "energy" in results or "free_energy" in results:
                results["energy"] = labelled_energy(atoms)
                results.pop("free_energy", None)
            row.calc = SinglePointCalculator(row, **results)
            info = {key: _plain(value) for key, value in atoms.info.items()}
            database.write(row, key_value_pairs=_keys(info), data=info)


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else value


def _keys(info: Mapping[str, Any]) -> dict[str, Any]:
    """Entries of ``info`` that may be keys of a database: ASE refuses names of its own, symbols and numbers as text."""
    return {
        key: value
        for key, value in info.items()
        if key.isidentifier()
        and key not in RESERVED
        and key not in atomic_numbers
        and (isinstance(value, int | float) or (isinstance(value, str) and not _is_number(value)))
    }


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return text in ("True", "False")
    return True
