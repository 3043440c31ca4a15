"""Files of labelled structures, in whatever format another program has written them."""

from __future__ import annotations

import gzip
import hashlib
import warnings
import zlib
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import read
from ase.io.formats import UnknownFileTypeError, filetype

from mlip.io.electrons import electronic_state
from mlip.io.extxyz import parse_structures, read_structures
from mlip.io.files import sha256_file
from mlip.structures.deepmd import find_systems, read_deepmd
from mlip.structures.labelled import has_label, labelled_energy, labelled_forces, labelled_stress
from mlip.structures.vasp_files import unconverged_steps

XYZ = (".xyz", ".extxyz")
KEPT_ARRAYS = ("initial_magmoms", "initial_charges")
"""What of each atom decides a label's value."""


class LabelledFileError(ValueError):
    """A file that yields no labelled structures; the message names it and the remedy."""


def find_format(path: Path, given: str | None = None) -> str:
    """Name of the format of ``path``: ``extxyz``, ``deepmd/npy``, or what ASE calls it."""
    if given is not None:
        return given
    if path.is_dir():
        return "deepmd/npy" if find_systems(path) else "folder"
    if path.with_suffix("" if path.suffix == ".gz" else path.suffix).suffix in XYZ:
        return "extxyz"
    try:
        return str(filetype(str(path)))
    except (UnknownFileTypeError, OSError, UnicodeDecodeError) as error:
        raise LabelledFileError(f"{path}: of no format that ASE knows ({error}); name it by `format`") from None


def read_labelled_file(path: Path, given: str | None = None) -> list[Atoms]:
    """Every structure in ``path``, with what labels there are as ASE results; extended XYZ is read strictly.

    Those of VASP whose SCF did not converge have ``info["unconverged"]``.

    Args:
        path: a file, or the folder of DeePMD systems.
        given: ASE's name of the format, where name and content of the file do not tell.

    Raises:
        LabelledFileError, ExtxyzError or DeepmdError: all ValueErrors, naming the file and what is wrong with it.
        FileNotFoundError: when there is nothing.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file; give a path relative to the working directory {Path.cwd()}")
    kind = find_format(path, given)
    if kind == "deepmd/npy":
        return read_deepmd(path)
    if kind == "extxyz":
        return _read_packed(path) if path.suffix == ".gz" else read_structures(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of formats without labels, which are told structure by structure
            images = read(path, index=slice(None), format=given, do_not_split_by_at_sign=True)
    except Exception as error:  # readers of dozens of formats raise whatever they meet
        raise LabelledFileError(
            f"{path}: cannot be read as {kind} ({type(error).__name__}: {str(error)[:200]}); repair it, or name another"
            " `format`"
        ) from None
    if not isinstance(images, list) or not images or not all(isinstance(atoms, Atoms) for atoms in images):
        raise LabelledFileError(f"{path}: holds no structures, read as {kind}; name another `format`")
    for number in unconverged_steps(path, kind):
        if number < len(images):
            images[number].info["unconverged"] = True
    return images


def _read_packed(path: Path) -> list[Atoms]:
    try:
        text = gzip.decompress(path.read_bytes()).decode("utf-8")
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise LabelledFileError(f"{path}: cannot be unpacked ({error}); copy it again") from None
    return parse_structures(text, path)


def content_digest(path: Path) -> str:
    """SHA-256 of a file, or of all files of a folder with their places in it."""
    if not path.is_dir():
        return sha256_file(path)
    digest = hashlib.sha256()
    for member in sorted(p for p in path.rglob("*") if p.is_file()):
        digest.update(f"{member.relative_to(path)}:{sha256_file(member)}\n".encode())
    return digest.hexdigest()


def keep_labels(atoms: Atoms) -> Atoms:
    """What decides a label's value, and the label: energy (eV) that the forces (eV/Å) belong to, stress (eV/Å³).

    Constraints, velocities and whatever else the file says are left out, and a stress unless all is periodic.
    """
    clean = Atoms(atoms.numbers, positions=atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
    for name in KEPT_ARRAYS:
        if name in atoms.arrays:
            clean.set_array(name, np.asarray(atoms.arrays[name], dtype=float))
    clean.info = dict(electronic_state(atoms))
    results: dict[str, float | np.ndarray] = {}
    if has_label(atoms, "energy"):
        results["energy"] = float(labelled_energy(atoms))
    if has_label(atoms, "forces"):
        results["forces"] = labelled_forces(atoms)
    if has_label(atoms, "stress") and atoms.pbc.all():
        results["stress"] = labelled_stress(atoms)
    clean.calc = SinglePointCalculator(clean, **results)
    return clean
