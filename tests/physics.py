"""What every potential must obey, whatever its backend: one function a law, all listed in ``CHECKS``.

Structures hold gold and copper. Tolerances are in eV and eV/Å.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk

from mlip.potential import Potential


@dataclass(frozen=True)
class Case:
    """A potential with what is known of it.

    Attributes:
        isolated: energies of isolated atoms that it was trained with, eV.
        n_layers: message-passing layers.
        tolerance: what round-off may do to energies (eV, of ten atoms) and forces (eV/Å).
        step: of finite differences (Å). Their error is of the order of step^2 and of tolerance / step.
        switches: distances (Å) of each pair, beside the cutoff, where formulas change.
    """

    potential: Potential
    isolated: dict[str, float]
    n_layers: int = 1
    tolerance: float = 1e-8
    step: float = 1e-4
    switches: Mapping[str, Sequence[float]] = field(default_factory=dict)

    @property
    def slope_tolerance(self) -> float:
        """Of central differences: round-off, and third derivatives of up to some 100 eV/Å^3."""
        return self.tolerance / self.step + 100.0 * self.step**2

    def energy(self, atoms: Atoms) -> float:
        return self.potential.predict([atoms])[0].energy


def make_crystal() -> Atoms:
    """Eight atoms of a sheared, rattled alloy in a cell smaller than the cutoff."""
    atoms = bulk("Cu", "fcc", a=3.7, cubic=True).repeat((2, 1, 1))
    atoms.numbers[[0, 3, 5]] = 79
    atoms.set_cell(atoms.cell.array + np.array([[0, 0.2, 0], [0, 0, 0.3], [0.1, 0, 0]]), scale_atoms=True)
    atoms.rattle(0.15, seed=5)
    return atoms


def full_stress(voigt: np.ndarray) -> np.ndarray:
    xx, yy, zz, yz, xz, xy = voigt
    return np.array([[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]])


def _check_orthogonal(case: Case, determinant: int) -> None:
    crystal = make_crystal()
    q = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    q *= determinant * np.sign(np.linalg.det(q))
    turned = crystal.copy()
    turned.set_cell(crystal.cell.array @ q.T)
    turned.positions = crystal.positions @ q.T
    before, after = case.potential.predict([crystal, turned])
    exact = {"atol": case.tolerance, "rtol": 0.0}
    np.testing.assert_allclose(after.energy_members, before.energy_members, **exact)
    np.testing.assert_allclose(after.forces_members, before.forces_members @ q.T, **exact)
    np.testing.assert_allclose(after.force_uncertainty, before.force_uncertainty, rtol=1e-6, atol=10 * case.tolerance)
    assert after.energy_std == pytest.approx(before.energy_std, rel=1e-6, abs=10 * case.tolerance)
    np.testing.assert_allclose(full_stress(after.stress), q @ full_stress(before.stress) @ q.T, **exact)
    assert np.abs(before.forces).max() > 0.1


def check_rotation(case: Case) -> None:
    _check_orthogonal(case, 1)


def check_reflection(case: Case) -> None:
    _check_orthogonal(case, -1)


def check_translation_and_wrapping(case: Case) -> None:
    crystal = make_crystal()
    moved = crystal.copy()
    moved.positions += [1.3, -20.1, 7.7]
    moved.wrap()
    before, after = case.potential.predict([crystal, moved])
    np.testing.assert_allclose(after.energy_members, before.energy_members, atol=case.tolerance, rtol=0)
    np.testing.assert_allclose(after.forces_members, before.forces_members, atol=case.tolerance, rtol=0)


def check_permutation(case: Case) -> None:
    crystal = make_crystal()
    order = np.random.default_rng(1).permutation(len(crystal))
    before, after = case.potential.predict([crystal, crystal[order]])
    np.testing.assert_allclose(after.energy_members, before.energy_members, atol=case.tolerance, rtol=0)
    np.testing.assert_allclose(after.forces_members, before.forces_members[:, order], atol=case.tolerance, rtol=0)
    np.testing.assert_allclose(
        after.force_uncertainty, before.force_uncertainty[order], rtol=1e-6, atol=10 * case.tolerance
    )
    other = crystal.copy()
    other.numbers = np.where(crystal.numbers == 29, 79, 29)
    assert abs(case.energy(other) - before.energy) > 100 * case.tolerance, "the elements do not matter"


def check_forces_are_gradients(case: Case) -> None:
    """Of every member, in a crystal and in a molecule."""
    molecule = Atoms("CuAu2Cu", [[0, 0, 0], [2.5, 0.1, 0], [0.2, 2.7, 0.1], [1.9, 1.8, 1.7]])
    for atoms in (make_crystal(), molecule):
        forces = case.potential.predict([atoms])[0].forces_members
        for atom, axis in [(0, 0), (1, 2), (3, 1)]:
            moved = [atoms.copy(), atoms.copy()]
            moved[0].positions[atom, axis] += case.step
            moved[1].positions[atom, axis] -= case.step
            plus, minus = (p.energy_members for p in case.potential.predict(moved))
            slope = (plus - minus) / (2 * case.step)
            np.testing.assert_allclose(forces[:, atom, axis], -slope, atol=case.slope_tolerance, rtol=0)


def check_forces_sum_to_zero(case: Case) -> None:
    crystal = make_crystal()
    molecule = Atoms(crystal.numbers, crystal.positions)
    for prediction in case.potential.predict([crystal, molecule]):
        np.testing.assert_allclose(prediction.forces_members.sum(1), 0.0, atol=10 * case.tolerance)
    torque = np.cross(molecule.positions, prediction.forces).sum(0)
    np.testing.assert_allclose(torque, 0.0, atol=100 * case.tolerance)


def check_stress_is_strain_derivative(case: Case) -> None:
    crystal = make_crystal()
    stress = case.potential.predict([crystal])[0].stress
    for k, (i, j) in enumerate([(0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1)]):
        strained = []
        for sign in (1, -1):
            strain = np.zeros((3, 3))
            strain[i, j] += 0.05 * sign * case.step  # moves atoms of this cell by a few hundredths as much
            strain[j, i] += 0.05 * sign * case.step
            strained.append(crystal.copy())
            strained[-1].set_cell(crystal.cell.array @ (np.eye(3) + strain), scale_atoms=True)
        plus, minus = (p.energy for p in case.potential.predict(strained))
        derivative = (plus - minus) / (0.2 * case.step)
        # A strain derivative is a force times some ten angstroms.
        bound = 10.0 * case.slope_tolerance / crystal.get_volume()
        assert stress[k] == pytest.approx(derivative / crystal.get_volume(), abs=bound)
    assert np.abs(stress).max() > 20 * bound


def check_extensivity(case: Case) -> None:
    crystal = make_crystal()
    single, larger = case.potential.predict([crystal, crystal.repeat((1, 2, 2))])
    np.testing.assert_allclose(larger.energy_members, 4 * single.energy_members, atol=4 * case.tolerance, rtol=0)
    np.testing.assert_allclose(larger.forces[: len(crystal)], single.forces, atol=case.tolerance, rtol=0)
    np.testing.assert_allclose(larger.stress, single.stress, atol=case.tolerance, rtol=0)


def check_batch_equals_single(case: Case) -> None:
    structures = [make_crystal(), Atoms("Au"), bulk("Cu"), Atoms("CuAu", [[0, 0, 0], [2.2, 0, 0]])]
    for together, structure in zip(case.potential.predict(structures), structures, strict=True):
        alone = case.potential.predict([structure])[0]
        np.testing.assert_allclose(together.energy_members, alone.energy_members, atol=case.tolerance, rtol=0)
        np.testing.assert_allclose(together.forces_members, alone.forces_members, atol=case.tolerance, rtol=0)
        assert (together.stress is None) == (alone.stress is None)


def check_open_directions(case: Case) -> None:
    """An open direction equals a periodic one with much vacuum."""
    crystal = make_crystal()
    for pbc in [(True, True, False), (False, False, True), (False, False, False)]:
        open_atoms = Atoms(crystal.numbers, crystal.positions, cell=np.diag([7.5, 7.5, 7.5]), pbc=pbc)
        padded = open_atoms.copy()
        padded.set_cell(np.diag([7.5 if periodic else 60.0 for periodic in pbc]))
        padded.pbc = True
        first, second = case.potential.predict([open_atoms, padded])
        assert first.energy == pytest.approx(second.energy, abs=case.tolerance)
        np.testing.assert_allclose(first.forces, second.forces, atol=case.tolerance, rtol=0)
        assert first.stress is None
        assert second.stress is not None


def check_missing_cell_vector(case: Case) -> None:
    """A slab needs no third cell vector."""
    slab = Atoms("CuAu", [[0, 0, 0], [1.8, 1.8, 1.0]], cell=[[3.7, 0, 0], [0, 3.7, 0], [0, 0, 0]], pbc=(1, 1, 0))
    taller = slab.copy()
    taller.set_cell([[3.7, 0, 0], [0, 3.7, 0], [0, 0, 30.0]])
    assert case.energy(slab) == pytest.approx(case.energy(taller), abs=case.tolerance)


def check_isolated_atoms(case: Case) -> None:
    """They have exactly the energy they were given, no force, no uncertainty, and are approached continuously."""
    for symbol, energy in case.isolated.items():
        prediction = case.potential.predict([Atoms(symbol)])[0]
        assert prediction.energy == pytest.approx(energy, abs=1e-12)
        assert prediction.energy_std == pytest.approx(0.0, abs=1e-12)
        assert not prediction.forces.any()
        assert prediction.stress is None
        apart = case.potential.predict([Atoms([symbol] * 2, [[0, 0, 0], [case.potential.cutoff - 0.01, 0, 0]])])[0]
        assert apart.energy == pytest.approx(2 * energy, abs=1e-4)


def check_far_fragments(case: Case) -> None:
    """Fragments with no neighbours in common add up; they begin to feel each other within the cutoff."""
    first, second = Atoms("CuAu", [[0, 0, 0], [2.5, 0, 0]]), Atoms("Cu3", [[0, 0, 0], [2.4, 0, 0], [0, 2.6, 0]])
    far, near = second.copy(), second.copy()
    far.positions += [2.5 + case.potential.cutoff + 1e-6, 0, 0]
    near.positions += [2.5 + 0.6 * case.potential.cutoff, 0, 0]
    parts = case.potential.predict([first, second])
    together, interacting = case.potential.predict([first + far, first + near])
    energies = sum(p.energy_members for p in parts)
    np.testing.assert_allclose(together.energy_members, energies, atol=case.tolerance, rtol=0)
    forces = np.concatenate([p.forces for p in parts])
    np.testing.assert_allclose(together.forces, forces, atol=case.tolerance, rtol=0)
    assert abs(interacting.energy - energies.mean()) > 1e-3


def check_reach(case: Case) -> None:
    """A force depends on atoms up to two cutoffs away per layer, along a chain, and on none beyond."""
    last = 2 * case.n_layers + 1
    spacing = 0.6 * case.potential.cutoff
    chain = Atoms(["Cu", "Au"] * (last + 1), [[spacing * k, 0, 0] for k in range(2 * (last + 1))])[: last + 1]
    reference, *moved = (p.forces[0] for p in case.potential.predict([chain, *(_bend(chain, k) for k in (last, 2))]))
    np.testing.assert_allclose(moved[0], reference, atol=0.1 * case.tolerance, rtol=0)
    assert np.abs(moved[1] - reference).max() > case.tolerance
    if case.n_layers > 1:  # through messages alone
        beyond = case.potential.predict([_bend(chain, 3)])[0].forces[0]
        assert np.abs(beyond - reference).max() > 1e-10


def _bend(chain: Atoms, atom: int) -> Atoms:
    bent = chain.copy()
    bent.positions[atom] += [0.1, 0.7, 0.3]
    return bent


def curvature_jump(case: Case, path: Callable[[float], Atoms], place: float, step: float) -> np.ndarray:
    """Largest change of dF/dt over ``step`` within ten of them of ``place``, [n_atoms, 3], eV/Å^2."""
    places = place + step * (np.arange(-10, 11) + 0.3)
    forces = np.array([p.forces for p in case.potential.predict([path(t) for t in places])])
    return np.abs(np.diff(forces, n=2, axis=0)).max(0) / step


def check_second_derivatives(case: Case) -> None:
    """They are continuous: with a quarter of the step they change a quarter as much; a jump would stay.

    Looked for where a pair crosses the cutoff, switches and clamps; where an atom leaves the cutoff of a
    cluster; and where it leaves the far end of a chain, whose first atom hears of it through messages alone.
    """
    cutoff = case.potential.cutoff
    corner = Atoms("CuAuCu", [[0, 0, 0], [0, 2.6, 0], [0.3, 0.4, 2.5]])
    chain = Atoms("AuCu", [[-0.55 * cutoff, 0.3, 0], [0, 0, 0]])
    paths: list[tuple[Callable[[float], Atoms], float]] = []
    for pair in ("Cu-Cu", "Au-Cu", "Au-Au"):
        paths += [
            (lambda t, pair=pair: Atoms(pair.split("-"), [[0, 0, 0], [t, 0, 0]]), place)
            for place in (cutoff, *case.switches.get(pair, ()))
        ]
    paths += [(lambda t, rest=rest: rest + Atoms("Au", [[t, 0, 0]]), cutoff) for rest in (corner, chain)]
    for path, place in paths:
        coarse, fine = (curvature_jump(case, path, place, step) for step in (4e-3, 1e-3))
        seen = coarse > max(1e-3 * coarse.max(), 1e-8)
        assert seen.any()
        assert (coarse[seen] / fine[seen]).min() > 2.5, (place, path(place), coarse, fine)


CHECKS: dict[str, Callable[[Case], None]] = {
    name.removeprefix("check_"): function for name, function in list(globals().items()) if name.startswith("check_")
}
NEEDS_DOUBLE = ("second_derivatives",)
"""Laws about differences of forces, which round-off in single precision drowns; the formulas are the same."""
