"""Minimum-energy paths: images between two ends, pushed together by a climbing-image nudged elastic band.

G. Henkelman, B. P. Uberuaga and H. Jónsson, J. Chem. Phys. 113, 9901 (2000); tangents of G. Henkelman and H. Jónsson,
ibid. 9978; the first path by image dependent pair potentials, S. Smidstrup et al., J. Chem. Phys. 140, 214106 (2014).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.mep import NEB
from ase.mep.neb import NEBOptimizer

from mlip.potential import Potential
from mlip.structures.geometry import min_distance_ratio
from mlip.studies.neb.endpoints import displacement

Evaluate = Callable[[Sequence[Atoms]], list[tuple[float, np.ndarray]]]
"""Energy (eV) and forces [n_atoms, 3] (eV/Å) on all atoms, of each of some structures."""
CLOSEST = 0.7
"""Distance of two atoms over the sum of their covalent radii that no image comes to."""
CLIMB_FROM = 5.0
"""Force over the last one at which the highest image begins to climb."""


def evaluator(calculator: Any, potential: Potential | None) -> Evaluate:
    """All structures at once by a potential, one by one by any other ASE calculator."""

    def by_potential(structures: Sequence[Atoms]) -> list[tuple[float, np.ndarray]]:
        predictions = [] if potential is None else potential.predict(structures, uncertainty=False)
        return [(p.energy, p.forces) for p in predictions]

    def by_calculator(structures: Sequence[Atoms]) -> list[tuple[float, np.ndarray]]:
        results = []
        for atoms in structures:
            copy = atoms.copy()
            copy.calc = calculator
            results.append((float(copy.get_potential_energy()), copy.get_forces(apply_constraint=False)))
        return results

    return by_calculator if potential is None else by_potential


class Band(NEB):
    """ASE's band, whose images are evaluated together."""

    def __init__(self, images: Sequence[Atoms], evaluate: Evaluate, *, climb: bool) -> None:
        super().__init__(list(images), climb=climb, method="improvedtangent", allow_shared_calculator=True)
        self._evaluate = evaluate
        self._attach([self.images[0], self.images[-1]])

    def _attach(self, images: Sequence[Atoms]) -> None:
        for atoms, (energy, forces) in zip(images, self._evaluate(images), strict=True):
            atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=forces)

    def get_forces(self) -> np.ndarray:
        """Forces of the band on the images between its ends, [n_images - 2, n_atoms, 3] flattened, eV/Å."""
        self._attach(self.images[1:-1])
        return np.asarray(super().get_forces())


@dataclass(frozen=True)
class Path:
    """A band at rest, or as far as it came.

    Attributes:
        images: with both ends.
        energies: [n_images], eV.
        residual: largest force of the band on an atom, eV/Å.
    """

    images: list[Atoms]
    energies: np.ndarray
    residual: float

    @property
    def top(self) -> int:
        """The highest image; an end where the path has no barrier."""
        return int(np.argmax(self.energies))

    def has_saddle(self, apart: float) -> bool:
        """Whether the highest image lies between the ends, with an atom farther than ``apart`` (Å) from each of them.

        A path that slid onto an end may have its highest image there, at rest and with a label.
        """
        ways = [np.linalg.norm(displacement(self.images[self.top], self.images[k]), axis=1).max() for k in (0, -1)]
        return min(ways) > apart

    def coordinates(self) -> np.ndarray:
        """Length of the way to each image, [n_images], Å."""
        steps = [np.linalg.norm(displacement(a, b)) for a, b in zip(self.images, self.images[1:], strict=False)]
        return np.concatenate([[0.0], np.cumsum(steps)])

    def tangents(self) -> np.ndarray:
        """Unit vectors along the path, [n_images, n_atoms, 3], by central differences; one-sided at the ends."""
        last = len(self.images) - 1
        pairs = [(max(k - 1, 0), min(k + 1, last)) for k in range(last + 1)]
        vectors = np.array([displacement(self.images[a], self.images[b]) for a, b in pairs])
        return np.asarray(vectors / np.linalg.norm(vectors, axis=(1, 2), keepdims=True).clip(min=1e-12))


def interpolate(initial: Atoms, final: Atoms, n_images: int) -> list[Atoms]:
    """Images between two ends, by image dependent pair potentials, each atom the shortest way."""
    images = [initial.copy() for _ in range(n_images - 1)] + [final.copy()]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        NEB(images, allow_shared_calculator=True).interpolate(method="idpp", mic=bool(initial.pbc.any()))
    for image in images:
        image.calc = None
    return images


def find_path(images: Sequence[Atoms], evaluate: Evaluate, *, fmax: float, n_steps: int) -> Path:
    """The minimum-energy path from the guess ``images`` on; ends stay.

    The band comes to ``CLIMB_FROM`` times ``fmax`` (eV/Å) before its highest image climbs to the saddle. Where it
    runs into atoms, as on a potential that has not seen the path, the guess stands.
    """
    guess, images = images, [image.copy() for image in images]
    for climb, limit in ((False, CLIMB_FROM * fmax), (True, fmax)):
        NEBOptimizer(Band(images, evaluate, climb=climb), logfile=None).run(fmax=limit, steps=n_steps)
    if not all(np.isfinite(a.positions).all() and min_distance_ratio(a) > CLOSEST for a in images):
        images = [image.copy() for image in guess]
    band = Band(images, evaluate, climb=True)
    band.get_forces()
    energies = np.array([image.calc.results["energy"] for image in images])
    for image in images:
        image.calc = None
    return Path(images, energies, float(band.get_residual()))
