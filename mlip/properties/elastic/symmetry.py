"""Which elastic constants a crystal has: the symmetry-adapted basis of its 6x6 tensor.

Voigt order xx, yy, zz, yz, xz, xy; strains with engineering shears (J. F. Nye, Physical Properties of
Crystals, ch. VIII).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from ase import Atoms

from mlip.properties.symmetry import PropertyError, find_symmetry

VOIGT = ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))
ENTRIES = [(i, j) for i in range(6) for j in range(i, 6)]


@dataclass(frozen=True)
class TensorBasis:
    """The elastic tensors that symmetry allows.

    Attributes:
        names: independent constants, e.g. C11, C12, C44.
        tensors: C = sum_k c_k tensors[k], where c_k is the entry that ``names[k]`` names; [n, 6, 6].
        crystal_system: by its space group.
    """

    names: tuple[str, ...]
    tensors: np.ndarray
    crystal_system: str

    def tensor(self, constants: np.ndarray) -> np.ndarray:
        """C [6, 6] from independent constants [n]."""
        return np.tensordot(constants, self.tensors, 1)

    def project(self, tensor: np.ndarray) -> np.ndarray:
        """Independent constants [n] of the allowed tensor nearest to ``tensor`` [6, 6]."""
        return np.linalg.lstsq(self.tensors.reshape(len(self.names), -1).T, tensor.ravel(), rcond=None)[0]


def find_basis(structure: Atoms) -> TensorBasis:
    """The basis for ``structure`` in its own Cartesian axes.

    Raises:
        PropertyError: for structures that are not periodic in three directions.
    """
    symmetry = find_symmetry(structure)
    cell = structure.cell.array.T
    rotations = np.unique(np.round([cell @ w @ np.linalg.inv(cell) for w in symmetry.rotations], 10), axis=0)
    bonds = np.array([bond_matrix(r) for r in rotations])
    projected = []
    for i, j in ENTRIES:
        unit = np.zeros((6, 6))
        unit[i, j] = unit[j, i] = 1.0
        projected.append(np.mean(bonds @ unit @ bonds.transpose(0, 2, 1), axis=0))
    rows = np.array([[tensor[entry] for entry in ENTRIES] for tensor in projected])
    left, values, right = np.linalg.svd(rows)
    del left
    allowed = right[: int((values > 1e-6).sum())]  # [n, 21]
    chosen: list[int] = []
    for k in range(len(ENTRIES)):
        if np.linalg.matrix_rank(allowed[:, [*chosen, k]], tol=1e-6) > len(chosen):
            chosen.append(k)
    adapted = np.linalg.solve(allowed[:, chosen], allowed)
    tensors = np.zeros((len(chosen), 6, 6))
    for k, (i, j) in enumerate(ENTRIES):
        tensors[:, i, j] = tensors[:, j, i] = adapted[:, k]
    names = tuple(f"C{ENTRIES[k][0] + 1}{ENTRIES[k][1] + 1}" for k in chosen)
    return TensorBasis(names, np.where(abs(tensors) < 1e-9, 0.0, tensors), crystal_system(symmetry.number))


def bond_matrix(rotation: np.ndarray) -> np.ndarray:
    """M [6, 6] of a rotation [3, 3]: stress in Voigt order turns into M stress, C into M C M^T."""
    columns = []
    for i, j in VOIGT:
        stress = np.zeros((3, 3))
        stress[i, j] = stress[j, i] = 1.0
        turned = rotation @ stress @ rotation.T
        columns.append([turned[a, b] for a, b in VOIGT])
    return np.array(columns).T


def crystal_system(number: int) -> str:
    """Crystal system of a space group."""
    ends = (2, "triclinic"), (15, "monoclinic"), (74, "orthorhombic"), (142, "tetragonal"), (167, "trigonal")
    for last, name in ends:
        if number <= last:
            return name
    return "hexagonal" if number <= 194 else "cubic"


def is_cubic(basis: TensorBasis) -> bool:
    """Whether the constants are C11, C12, C44 along the cubic axes.

    Raises:
        PropertyError: for a cubic crystal whose axes are not along x, y and z.
    """
    if basis.crystal_system != "cubic":
        return False
    c11, c44 = (basis.names.index(name) if name in basis.names else None for name in ("C11", "C44"))
    aligned = c11 is not None and c44 is not None and len(basis.names) == 3
    if not aligned or not np.allclose(basis.tensors[c44].diagonal(), [0, 0, 0, 1, 1, 1], atol=1e-3):
        raise PropertyError("the cubic axes are not along x, y and z; rotate the structure (see ase.build.bulk)")
    return True
