"""Starting structures: read or built, and checked."""

from __future__ import annotations

import codecs
import math
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.build import bulk

from mlip.config.indexing import parse_index
from mlip.config.structures import StartingStructure
from mlip.io.constraints import movable_mask, set_movable
from mlip.io.dialects import DialectError
from mlip.io.electrons import ElectronsError, describe_state, electronic_state, unusual_state
from mlip.seeds import derive_rng
from mlip.structures.constraints import choose_movable
from mlip.structures.formats import FormatError, read_whole
from mlip.structures.geometry import COINCIDENT, geometry_fault, min_distance_ratio

FULL_OCCUPANCY = 0.999
"""Occupancy from which a site counts as full; files round."""

MAX_ATOMS = 5000
"""Largest structure accepted for DFT labelling; beyond it a plane-wave label is hopeless."""


MAX_FILE_BYTES = 200_000_000
"""Largest structure file that is opened: one of 5000 atoms is far smaller, a trajectory may fill the memory."""


class StructureError(ValueError):
    """A structure that cannot be used; the message names it, the fault and the remedy."""


def load_starting_structure(source: StartingStructure) -> Atoms:
    """The structure that ``source`` describes, repeated as asked, with its masses, constraints, moments and charges.

    Its total charge and multiplicity are in ``info``.

    Atoms are fixed as ``source.fixed`` says, or as the file does.

    Raises:
        StructureError: when the file cannot be read or the structure is not physical.
    """
    atoms = _build_bulk(source) if source.bulk is not None else _read_file(Path(str(source.file)), source)
    check_structure(atoms, name_source(source))
    n_atoms = len(atoms) * math.prod(source.repeat)
    if n_atoms > MAX_ATOMS:
        raise StructureError(
            f"{name_source(source)}: repeat {list(source.repeat)} makes {n_atoms} atoms, more than {MAX_ATOMS}; "
            "repeat less"
        )
    clean = Atoms(atoms.numbers, positions=atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
    if atoms.has("initial_magmoms"):
        clean.set_initial_magnetic_moments(atoms.get_initial_magnetic_moments())
    if atoms.has("initial_charges"):
        clean.set_initial_charges(atoms.get_initial_charges())
    if atoms.has("masses"):
        clean.set_masses(atoms.get_masses())
    clean.info = _electrons(atoms, source)
    _fix(clean, atoms, source)
    return clean.repeat(source.repeat)


def _electrons(atoms: Atoms, source: StartingStructure) -> dict[str, float | int]:
    """Total charge and multiplicity of ``atoms``; a supercell of what has any is refused."""
    try:
        state = electronic_state(atoms)
    except ElectronsError as error:
        raise StructureError(f"{name_source(source)}: {error}") from None
    if math.prod(source.repeat) > 1 and unusual_state(atoms):
        raise StructureError(
            f"{name_source(source)}: repeat {list(source.repeat)} of a structure with {describe_state(state)} has"
            " another charge and spin, which nobody has told; write the supercell with its own into a file"
        )
    return state


def _fix(clean: Atoms, atoms: Atoms, source: StartingStructure) -> None:
    """Fix in ``clean`` what ``source`` says, or else what ``atoms`` were read with."""
    try:
        movable = movable_mask(atoms) if source.fixed is None else choose_movable(atoms, source.fixed)
    except ValueError as error:
        raise StructureError(f"{name_source(source)}: {error}") from None
    if movable is not None and not movable.any():
        raise StructureError(f"{name_source(source)}: every atom is fixed; free some, or there is nothing to explore")
    set_movable(clean, movable)


def name_source(source: StartingStructure) -> str:
    """What messages call ``source``."""
    if source.bulk is not None:
        return f"structures: {source.bulk.name}"
    part = f", {source.member} of a sample of {source.sample}" if source.member is not None else ""
    return f"structures: {source.file}" + (f", index {source.index}" if source.index is not None else "") + part


def _build_bulk(source: StartingStructure) -> Atoms:
    spec = source.bulk
    if spec is None:
        raise StructureError("no bulk crystal given")
    try:
        return bulk(spec.name, crystalstructure=spec.crystalstructure, a=spec.a, cubic=spec.cubic)
    except (ValueError, KeyError, RuntimeError, NotImplementedError) as error:
        raise StructureError(
            f"structures: bulk {spec.name!r} ({spec.crystalstructure or 'default lattice'}) cannot be built: {error}. "
            "Give `crystalstructure` and `a`, or a structure `file`."
        ) from None


def _read_file(path: Path, source: StartingStructure) -> Atoms:
    if not path.is_file():
        raise StructureError(f"structures: no file {path}; give a path relative to the working directory {Path.cwd()}")
    size = path.stat().st_size
    if size == 0:
        raise StructureError(f"structures: {path} is empty; give a file that holds one structure")
    if size > MAX_FILE_BYTES:
        raise StructureError(
            f"structures: {path} has {size / 1e6:.0f} MB, more than any single structure needs (limit"
            f" {MAX_FILE_BYTES / 1e6:.0f} MB); take one structure out of it, or some, into a file of their own"
        )
    _check_encoding(path)
    problems = []
    for reader in (_read_with_ase, _read_with_pymatgen):
        try:
            return reader(path, source)
        except StructureError:
            raise
        except Exception as error:
            # Readers of dozens of formats raise whatever they meet in a broken file.
            problem = f"{reader.__name__.removeprefix('_read_with_')}: {type(error).__name__}: {error}"[:200]
            problems.append("".join(c if c.isprintable() else " " for c in problem))
    raise StructureError(
        f"structures: {path} is not a structure file that ASE or pymatgen reads; repair or convert it\n  "
        + "\n  ".join(problems)
    )


def _check_encoding(path: Path) -> None:
    """Refuse the mark that some editors put before a text: readers take it for a part of the first number or name."""
    with path.open("rb") as stream:
        begin = stream.read(3)
    if begin.startswith((codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise StructureError(f"structures: {path} begins with a byte order mark; save it as UTF-8 without one")


def _read_with_ase(path: Path, source: StartingStructure) -> Atoms:
    if path.suffix in (".xyz", ".extxyz"):
        _check_atom_count(path)
    try:
        images = read_whole(path, source.elements or ())
    except (FormatError, DialectError) as error:
        raise StructureError(f"structures: {path}: {error}") from None
    chosen = _choose(images, path, source)
    _check_occupancy(chosen, path)
    return chosen


def _choose(images: Sequence[Atoms], path: Path, source: StartingStructure) -> Atoms:
    """The one of ``images`` that ``source`` means."""
    if source.index is None and source.sample is None and len(images) > 1:
        raise StructureError(
            f"structures: {path}: {len(images)} structures in one file; split it, or add `index: 0` to take one of"
            ' them, `index: ":10"` or `sample: 10` to start from several. Labelled structures to learn from'
            " belong into `data`"
        )
    allowed = range(len(images))[parse_index(source.index or ":")]
    wanted = 1 if source.sample is None else source.sample
    if len(allowed) < wanted:
        raise StructureError(
            f"{name_source(source)}: the file holds {len(images)} structures, counted from 0; take fewer or others"
        )
    if source.sample is None:
        return images[allowed[0]]
    drawn = derive_rng(source.seed or 0, "starting_structures", str(path)).choice(
        len(allowed), source.sample, replace=False
    )
    return images[allowed[int(sorted(drawn)[source.member or 0])]]


def _check_atom_count(path: Path) -> None:
    """Refuse a first line that is no number of atoms: ASE would look for all of them beyond the end of the file."""
    with path.open("rb") as stream:
        header, n_lines = stream.readline(100).strip(), sum(1 for _ in stream)
    if not header.isdigit() or int(header) > n_lines - 1:
        raise StructureError(
            f"structures: {path} has {n_lines} lines after the first, which should be the number of atoms and is"
            f" {header[:40].decode(errors='replace')!r}; the file is cut short or no XYZ file"
        )


def _check_occupancy(atoms: Atoms, path: Path) -> None:
    """Refuse partly occupied or mixed sites, of which ASE silently makes full ones."""
    sites = atoms.info.get("occupancy", {})
    partial = {symbol for site in sites.values() for symbol, share in site.items() if share < FULL_OCCUPANCY}
    # PDB files keep occupancies per atom, and programs that know none write zero.
    shares = atoms.arrays.get("occupancy", np.ones(len(atoms)))
    partial |= {atoms.symbols[k] for k in np.flatnonzero((shares > 0) & (shares < FULL_OCCUPANCY))}
    if partial:
        raise _partial_occupancy(path, partial)


def _partial_occupancy(path: Path, symbols: Iterable[str]) -> StructureError:
    return StructureError(
        f"structures: {path}: sites of {', '.join(sorted(symbols))} are occupied only partly; "
        "give an ordered supercell in which every site holds one whole atom"
    )


def _read_with_pymatgen(path: Path, source: StartingStructure) -> Atoms:
    from pymatgen.core import Structure
    from pymatgen.io.ase import AseAtomsAdaptor

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        structure = Structure.from_file(str(path))
        if not structure.is_ordered:
            mixed = {str(element) for site in structure if not site.is_ordered for element in site.species.elements}
            raise _partial_occupancy(path, mixed)
        return _choose([AseAtomsAdaptor.get_atoms(structure)], path, source)


def check_structure(atoms: Atoms, name: str) -> None:
    """Refuse structures that no calculator can treat.

    Raises:
        StructureError: for no atoms, too many, unknown elements, non-finite numbers, flat, tiny or
            boundless cells, left-handed cells, coincident atoms, and a multiplicity that the electrons cannot have.
    """
    if len(atoms) == 0:
        raise StructureError(f"{name}: no atoms; give a structure that has some")
    if len(atoms) > MAX_ATOMS:
        raise StructureError(
            f"{name}: {len(atoms)} atoms; labels by DFT are limited to {MAX_ATOMS}. Use a smaller cell"
        )
    if np.any(atoms.numbers < 1) or np.any(atoms.numbers > 118):
        wrong = atoms.numbers[(atoms.numbers < 1) | (atoms.numbers > 118)][0]
        raise StructureError(f"{name}: unknown element (atomic number {wrong}); name real elements")
    fault = geometry_fault(atoms)
    if fault:
        raise StructureError(f"{name}: {fault}")
    _check_initial(atoms, name)
    _check_parity(atoms, name)
    if atoms.pbc.all() and np.linalg.det(atoms.cell.array) < 0:
        raise StructureError(f"{name}: left-handed cell; swap two cell vectors")
    if len(atoms) > 1 and min_distance_ratio(atoms) < COINCIDENT:
        raise StructureError(f"{name}: two atoms (nearly) coincide; remove duplicates or repair the cell")


def _check_initial(atoms: Atoms, name: str) -> None:
    """Refuse initial moments and charges that are no numbers; a calculator would fail on every label."""
    for key, unit in (("initial_magmoms", "µB"), ("initial_charges", "e")):
        values = atoms.arrays.get(key)
        if values is not None and (values.dtype.kind not in "fiub" or not np.isfinite(values).all()):
            raise StructureError(f"{name}: {key} are not all numbers ({unit}); repair or remove them")


def _check_parity(atoms: Atoms, name: str) -> None:
    """Refuse a multiplicity that the number of electrons does not allow; with smearing, a code would label it.

    Singlets of an odd number are refused of finite matter only: of metals `spin=1` says that they are not magnetic.
    """
    try:
        state = electronic_state(atoms)
    except ElectronsError as error:
        raise StructureError(f"{name}: {error}") from None
    charge, spin = state.get("charge", 0), state.get("spin")
    if not isinstance(spin, int) or not isinstance(charge, int) or (spin == 1 and atoms.pbc.any()):
        return
    n_electrons = int(atoms.numbers.sum()) - charge
    if (n_electrons - spin) % 2 == 0:
        raise StructureError(
            f"{name}: spin={spin} is no multiplicity of {atoms.get_chemical_formula()} with charge={charge}, which has"
            f" {n_electrons} electrons; write 2S + 1, one more than there are unpaired electrons, or correct the charge"
        )
