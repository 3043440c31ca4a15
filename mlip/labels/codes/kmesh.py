"""Meshes of k-points: by density for every code, and refused where a fixed one is not the same for all cells."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mlip.labels.importing import LabelError

if TYPE_CHECKING:  # rules read this module, and need neither for it
    import numpy as np
    from ase import Atoms

SPACING_RATIO = 1.3
"""Largest ratio of k-point spacings of structures in one set: strains and volumes change it by less, cells by more."""
FINE_SPACING = 0.02
"""2π/Å; below, a mesh counts as converged and its spacing does not matter."""
NAMES = ("kpts", "k_grid", "ngkpt")


def mesh_for(kpts: Any, atoms: Atoms) -> tuple[list[int], bool]:
    """Numbers of k-points along the cell's vectors, and whether Γ must be among them.

    Args:
        kpts: three numbers, or ``{size: ..., density: ..., gamma: ..., even: ...}`` as ASE has it (density in
            points per Å⁻¹ of reciprocal space, 2π included).
        atoms: the structure.
    """
    from ase.calculators.calculator import kpts2sizeandoffsets

    if not isinstance(kpts, dict):
        return [int(n) for n in kpts], False
    size, _ = kpts2sizeandoffsets(atoms=atoms, **kpts)
    return [int(n) for n in size], bool(kpts.get("gamma"))


def fixed_mesh(parameters: dict[str, Any]) -> list[int] | None:
    """The mesh that ``parameters`` give to cells of every size; None when there is none."""
    for name in NAMES:
        kpts = parameters.get(name)
        if isinstance(kpts, dict):
            kpts = kpts.get("size")
        if isinstance(kpts, list | tuple) and len(kpts) == 3 and all(isinstance(n, int | float) for n in kpts):
            return [int(n) for n in kpts]
    return None


def check_mesh(parameters: dict[str, Any], structures: Sequence[Atoms]) -> None:
    """Refuse one fixed mesh for cells of different size, whose energies do not compare.

    Raises:
        LabelError: naming two structures and the meshes that would be equally fine for them.
    """
    import numpy as np

    mesh = fixed_mesh(parameters)
    if mesh is None:
        return
    from mlip.structures.kinds import periodic_axes

    axes = {id(atoms): periodic_axes(atoms) for atoms in structures}  # points along vacuum are all the same
    periodic = [atoms for atoms in structures if axes[id(atoms)].any()]
    if not periodic:
        return
    spacings = [_coarsest(atoms, mesh, axes[id(atoms)]) for atoms in periodic]
    coarse, fine = int(np.argmax(spacings)), int(np.argmin(spacings))
    if spacings[coarse] <= max(FINE_SPACING, SPACING_RATIO * spacings[fine]):
        return
    density = 1.0 / (2 * np.pi * spacings[fine])  # as ASE has it: points per Å⁻¹, 2π included
    lengths, along = _lengths(periodic[coarse]), axes[id(periodic[coarse])]
    equal = [int(np.ceil(length / spacings[fine] - 1e-6)) if goes_on else n
             for length, goes_on, n in zip(lengths, along, mesh, strict=True)]  # fmt: skip
    raise LabelError(
        f"label.parameters.kpts: {mesh} is one mesh for cells of different size, whose labels do not belong together:"
        f" points {spacings[coarse]:.3f} 2π/Å apart for {periodic[coarse].get_chemical_formula()} and"
        f" {spacings[fine]:.3f} for {periodic[fine].get_chemical_formula()}, where {mesh} is as fine as {equal}"
        f" would be for the former; give a density, e.g. kpts: {{density: {density:.1f}}}"
    )


def _lengths(atoms: Atoms) -> np.ndarray:
    """Lengths of the reciprocal vectors, 2π/Å."""
    import numpy as np

    return np.linalg.norm(atoms.cell.reciprocal().array, axis=1)


def _coarsest(atoms: Atoms, mesh: list[int], axes: np.ndarray) -> float:
    """Largest distance between points of ``mesh`` along the vectors ``axes`` (``[3]`` bool), 2π/Å."""
    import numpy as np

    return float((_lengths(atoms) / np.array(mesh))[axes].max())
