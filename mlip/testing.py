"""Laws that every potential must obey, whatever its backend: one function a law, all listed in ``LAWS``.

A law asks a :class:`Case` (a potential with what is known of it) for energies and forces of small structures of its
own, in which two elements of the potential stand; it returns nothing where the law holds and raises
:class:`LawBroken`, with numbers and tolerance, where it does not. Lengths are in Å, energies in eV, forces in eV/Å,
stresses in eV/Å³. docs/potential.md shows how to hold a potential of your own to them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from ase import Atoms
from ase.build import bulk
from ase.data import atomic_numbers
from ase.stress import voigt_6_to_full_3x3_stress

from mlip.potential.interface import Potential


class LawBroken(AssertionError):
    """A potential breaks a law; the message holds what was compared and by how much it differs."""


@dataclass(frozen=True)
class Case:
    """A potential with what is known of it.

    Attributes:
        potential: of at least the two ``elements``.
        isolated: energies of isolated atoms that it was trained with, eV; empty where it has none.
        n_layers: message-passing layers; 0 of a sum over pairs.
        tolerance: what round-off may do to energies (eV, of ten atoms) and forces (eV/Å).
        step: of finite differences (Å). Their error is of the order of step^2 and of tolerance / step.
        switches: distances (Å) of each pair, beside the cutoff, where formulas change; pairs as in ``Au-Cu``.
        elements: two that the structures are made of, in place of copper and gold.
        scale: of all lengths of the structures; 1 puts copper and gold 2.6 Å apart.
    """

    potential: Potential
    isolated: Mapping[str, float]
    n_layers: int = 1
    tolerance: float = 1e-8
    step: float = 1e-4
    switches: Mapping[str, Sequence[float]] = field(default_factory=dict)
    elements: tuple[str, str] = ("Cu", "Au")
    scale: float = 1.0

    @property
    def slope_tolerance(self) -> float:
        """Of central differences (eV/Å): round-off, and third derivatives of up to some 100 eV/Å^3."""
        return self.tolerance / self.step + 100.0 * self.step**2

    def energy(self, atoms: Atoms) -> float:
        """Of ``atoms``, eV."""
        return self.potential.predict([atoms])[0].energy

    def atoms(self, kinds: str, positions: Sequence[Sequence[float]] = ((0, 0, 0),), **more: Any) -> Atoms:
        """Atoms at ``positions`` (Å, scaled): the first element for each ``a`` in ``kinds``, the second for ``b``."""
        symbols = [self.elements["ab".index(kind)] for kind in kinds]
        if "cell" in more:
            more["cell"] = self.scale * np.asarray(more["cell"], dtype=float)
        return Atoms(symbols, self.scale * np.asarray(positions, dtype=float), **more)

    def crystal(self) -> Atoms:
        """:func:`make_crystal` of this case's elements and lengths."""
        return make_crystal(self.elements, self.scale)


def make_crystal(elements: tuple[str, str] = ("Cu", "Au"), scale: float = 1.0) -> Atoms:
    """Eight atoms of a sheared, rattled alloy of ``elements``; unscaled, its cell is 3.7 Å wide, less than a cutoff."""
    atoms = bulk(elements[0], "fcc", a=3.7, cubic=True).repeat((2, 1, 1))
    atoms.numbers[[0, 3, 5]] = atomic_numbers[elements[1]]
    atoms.set_cell(atoms.cell.array + np.array([[0, 0.2, 0], [0, 0, 0.3], [0.1, 0, 0]]), scale_atoms=True)
    atoms.rattle(0.15, seed=5)
    atoms.set_cell(scale * atoms.cell.array, scale_atoms=True)
    return atoms


def expect_close(name: str, value: Any, expected: Any, *, atol: float, rtol: float = 0.0) -> None:
    """Raise :class:`LawBroken` unless all of ``value`` is within ``atol + rtol |expected|`` of ``expected``."""
    value, expected = np.asarray(value, dtype=float), np.asarray(expected, dtype=float)
    if value.shape != expected.shape and expected.ndim:
        raise LawBroken(f"{name}: shape {value.shape}, expected {expected.shape}")
    expected = np.broadcast_to(expected, value.shape)
    wrong = ~np.isclose(value, expected, rtol=rtol, atol=atol, equal_nan=True)
    if wrong.any():
        distance = np.where(wrong, np.nan_to_num(np.abs(value - expected), nan=np.inf), -1.0)
        place = np.unravel_index(np.argmax(distance), distance.shape)
        raise LawBroken(
            f"{name}: {value[place]:.10g} where {expected[place]:.10g} is expected, {distance[place]:.3g} apart "
            f"(index {tuple(map(int, place))}, the worst of {int(wrong.sum())} wrong among {wrong.size}); "
            f"tolerance {atol:.3g}" + (f" + {rtol:.3g} of the value" if rtol else "")
        )


def expect_above(name: str, value: float, bound: float) -> None:
    """Raise :class:`LawBroken` unless ``value`` is larger than ``bound``."""
    if not value > bound:
        raise LawBroken(f"{name}: {value:.6g} where more than {bound:.6g} is expected")


def expect_true(name: str, holds: bool) -> None:
    """Raise :class:`LawBroken` with ``name``, which says what is wrong, unless it ``holds``."""
    if not holds:
        raise LawBroken(name)


def _check_orthogonal(case: Case, determinant: int) -> None:
    crystal = case.crystal()
    q = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    q *= determinant * np.sign(np.linalg.det(q))
    turned = crystal.copy()
    turned.set_cell(crystal.cell.array @ q.T)
    turned.positions = crystal.positions @ q.T
    before, after = case.potential.predict([crystal, turned])
    tolerance = case.tolerance
    expect_close("energies of the members (eV)", after.energy_members, before.energy_members, atol=tolerance)
    expect_close("forces of the members (eV/Å)", after.forces_members, before.forces_members @ q.T, atol=tolerance)
    uncertain = {"rtol": 1e-6, "atol": 10 * tolerance}
    expect_close("force uncertainties (eV/Å)", after.force_uncertainty, before.force_uncertainty, **uncertain)
    expect_close("energy uncertainty (eV)", after.energy_std, before.energy_std, **uncertain)
    stress, turned_stress = (voigt_6_to_full_3x3_stress(p.stress) for p in (before, after))
    expect_close("stress (eV/Å³)", turned_stress, q @ stress @ q.T, atol=tolerance)
    expect_above("largest force (eV/Å), for forces to turn", np.abs(before.forces).max(), 0.1)


def check_rotation(case: Case) -> None:
    """Forces and stress turn with the structure; energies and uncertainties stay."""
    _check_orthogonal(case, 1)


def check_reflection(case: Case) -> None:
    """The same of a mirror image."""
    _check_orthogonal(case, -1)


def check_translation_and_wrapping(case: Case) -> None:
    """Neither moves of all atoms nor their choice of periodic image matters."""
    crystal = case.crystal()
    moved = crystal.copy()
    moved.positions += [1.3, -20.1, 7.7]
    moved.wrap()
    before, after = case.potential.predict([crystal, moved])
    expect_close("energies of the members (eV)", after.energy_members, before.energy_members, atol=case.tolerance)
    expect_close("forces of the members (eV/Å)", after.forces_members, before.forces_members, atol=case.tolerance)


def check_permutation(case: Case) -> None:
    """The order of the atoms does not matter; their elements do."""
    crystal = case.crystal()
    order = np.random.default_rng(1).permutation(len(crystal))
    before, after = case.potential.predict([crystal, crystal[order]])
    expect_close("energies of the members (eV)", after.energy_members, before.energy_members, atol=case.tolerance)
    forces = before.forces_members[:, order]
    expect_close("forces of the members (eV/Å)", after.forces_members, forces, atol=case.tolerance)
    uncertain = {"rtol": 1e-6, "atol": 10 * case.tolerance}
    expect_close("force uncertainties (eV/Å)", after.force_uncertainty, before.force_uncertainty[order], **uncertain)
    first, second = (atomic_numbers[element] for element in case.elements)
    other = crystal.copy()
    other.numbers = np.where(crystal.numbers == first, second, first)
    change = abs(case.energy(other) - before.energy)
    expect_above("change of the energy (eV) when the elements change places", change, 100 * case.tolerance)


def check_forces_are_gradients(case: Case) -> None:
    """Of every member, in a crystal and in a molecule."""
    molecule = case.atoms("abba", [[0, 0, 0], [2.5, 0.1, 0], [0.2, 2.7, 0.1], [1.9, 1.8, 1.7]])
    for atoms in (case.crystal(), molecule):
        forces = case.potential.predict([atoms])[0].forces_members
        for atom, axis in [(0, 0), (1, 2), (3, 1)]:
            moved = [atoms.copy(), atoms.copy()]
            moved[0].positions[atom, axis] += case.step
            moved[1].positions[atom, axis] -= case.step
            plus, minus = (p.energy_members for p in case.potential.predict(moved))
            slope = (plus - minus) / (2 * case.step)
            name = f"force {'xyz'[axis]} (eV/Å) on atom {atom} of {atoms.symbols}, of the members"
            expect_close(name, forces[:, atom, axis], -slope, atol=case.slope_tolerance)


def check_forces_sum_to_zero(case: Case) -> None:
    """In a crystal and a molecule; the molecule has no torque, either."""
    crystal = case.crystal()
    molecule = Atoms(crystal.numbers, crystal.positions)
    for prediction in case.potential.predict([crystal, molecule]):
        expect_close("sum of the forces (eV/Å)", prediction.forces_members.sum(1), 0.0, atol=10 * case.tolerance)
    torque = np.cross(molecule.positions, prediction.forces).sum(0)
    expect_close("torque (eV)", torque, 0.0, atol=100 * case.tolerance)


def check_stress_is_strain_derivative(case: Case) -> None:
    """Of the energy per volume, in ASE's sign and order."""
    crystal = case.crystal()
    stress = case.potential.predict([crystal])[0].stress
    if stress is None:
        raise LawBroken("no stress of a crystal")
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
        expect_close(
            f"stress {['xx', 'yy', 'zz', 'yz', 'xz', 'xy'][k]} (eV/Å³)",
            stress[k],
            derivative / crystal.get_volume(),
            atol=bound,
        )
    expect_above("largest stress (eV/Å³)", np.abs(stress).max(), 20 * bound)


def check_extensivity(case: Case) -> None:
    """Four cells have four times the energy, and the same forces and stress."""
    crystal = case.crystal()
    single, larger = case.potential.predict([crystal, crystal.repeat((1, 2, 2))])
    expect_close(
        "energies of four cells (eV)", larger.energy_members, 4 * single.energy_members, atol=4 * case.tolerance
    )
    expect_close("forces (eV/Å)", larger.forces[: len(crystal)], single.forces, atol=case.tolerance)
    expect_close("stress (eV/Å³)", larger.stress, single.stress, atol=case.tolerance)


def check_batch_equals_single(case: Case) -> None:
    """What is predicted beside a structure does not matter to it."""
    primitive = bulk(case.elements[0], "fcc", a=3.61 * case.scale)
    structures = [case.crystal(), case.atoms("b"), primitive, case.atoms("ab", [[0, 0, 0], [2.2, 0, 0]])]
    for together, structure in zip(case.potential.predict(structures), structures, strict=True):
        alone = case.potential.predict([structure])[0]
        name = f"of {structure.symbols} in a batch"
        expect_close(f"energies (eV) {name}", together.energy_members, alone.energy_members, atol=case.tolerance)
        expect_close(f"forces (eV/Å) {name}", together.forces_members, alone.forces_members, atol=case.tolerance)
        expect_true(f"{name}, there is a stress, or alone", (together.stress is None) == (alone.stress is None))


def check_open_directions(case: Case) -> None:
    """An open direction equals a periodic one with much vacuum."""
    crystal = case.crystal()
    for pbc in [(True, True, False), (False, False, True), (False, False, False)]:
        open_atoms = Atoms(crystal.numbers, crystal.positions, cell=case.scale * np.diag([7.5, 7.5, 7.5]), pbc=pbc)
        padded = open_atoms.copy()
        padded.set_cell(case.scale * np.diag([7.5 if periodic else 60.0 for periodic in pbc]))
        padded.pbc = True
        first, second = case.potential.predict([open_atoms, padded])
        expect_close(f"energy (eV) with periods {pbc}", first.energy, second.energy, atol=case.tolerance, rtol=1e-6)
        expect_close(f"forces (eV/Å) with periods {pbc}", first.forces, second.forces, atol=case.tolerance)
        expect_true(f"there is a stress with periods {pbc}, where no volume is", first.stress is None)
        expect_true("there is no stress with three periods", second.stress is not None)


def check_missing_cell_vector(case: Case) -> None:
    """A slab needs no third cell vector."""
    cell = [[3.7, 0, 0], [0, 3.7, 0], [0, 0, 0]]
    slab = case.atoms("ab", [[0, 0, 0], [1.8, 1.8, 1.0]], cell=cell, pbc=(1, 1, 0))
    taller = slab.copy()
    taller.set_cell(case.scale * np.array([[3.7, 0, 0], [0, 3.7, 0], [0, 0, 30.0]]))
    expect_close("energy of a slab (eV)", case.energy(slab), case.energy(taller), atol=case.tolerance, rtol=1e-6)


def check_isolated_atoms(case: Case) -> None:
    """They have exactly the energy they were given, no force, no uncertainty, and are approached continuously."""
    for symbol, energy in case.isolated.items():
        prediction = case.potential.predict([Atoms(symbol)])[0]
        expect_close(f"energy of {symbol} alone (eV)", prediction.energy, energy, atol=1e-12, rtol=1e-6)
        expect_close(f"its uncertainty (eV) for {symbol} alone", prediction.energy_std, 0.0, atol=1e-12)
        expect_true(f"there is a force on {symbol} alone: {prediction.forces}", not prediction.forces.any())
        expect_true(f"there is a stress of {symbol} alone", prediction.stress is None)
        apart = case.potential.predict([Atoms([symbol] * 2, [[0, 0, 0], [case.potential.cutoff - 0.01, 0, 0]])])[0]
        name = f"energy of two {symbol} 0.01 Å within the cutoff (eV)"
        expect_close(name, apart.energy, 2 * energy, atol=1e-4, rtol=1e-6)


def check_far_fragments(case: Case) -> None:
    """Fragments with no neighbours in common add up; they begin to feel each other within the cutoff."""
    first = case.atoms("ab", [[0, 0, 0], [2.5, 0, 0]])
    second = case.atoms("aaa", [[0, 0, 0], [2.4, 0, 0], [0, 2.6, 0]])
    far, near = second.copy(), second.copy()
    far.positions += [2.5 * case.scale + case.potential.cutoff + 1e-6, 0, 0]
    near.positions += [2.5 * case.scale + 0.6 * case.potential.cutoff, 0, 0]
    parts = case.potential.predict([first, second])
    together, interacting = case.potential.predict([first + far, first + near])
    energies = np.sum([p.energy_members for p in parts], axis=0)
    expect_close("energies of far fragments (eV)", together.energy_members, energies, atol=case.tolerance)
    forces = np.concatenate([p.forces for p in parts])
    expect_close("forces of far fragments (eV/Å)", together.forces, forces, atol=case.tolerance)
    change = abs(interacting.energy - energies.mean())
    expect_above("change of the energy (eV) within the cutoff", change, 1e-3)


def check_reach(case: Case) -> None:
    """A force depends on atoms up to two cutoffs away per layer (of pairs: one), along a chain, and on none beyond."""
    near, last = (2, 2 * case.n_layers + 1) if case.n_layers else (1, 2)
    spacing = 0.6 * case.potential.cutoff
    symbols = [*case.elements] * (last + 1)
    chain = Atoms(symbols, [[spacing * k, 0, 0] for k in range(2 * (last + 1))])[: last + 1]
    reference, *moved = (p.forces[0] for p in case.potential.predict([chain, *(_bend(chain, k) for k in (last, near))]))
    expect_close("force (eV/Å) on the first atom of a chain", moved[0], reference, atol=0.1 * case.tolerance)
    change = np.abs(moved[1] - reference).max()
    expect_above(f"change of that force (eV/Å) when atom {near} moves", change, case.tolerance)
    if case.n_layers > 1:  # through messages alone
        beyond = case.potential.predict([_bend(chain, 3)])[0].forces[0]
        expect_above("change of that force (eV/Å) by messages", np.abs(beyond - reference).max(), 1e-10)


def _bend(chain: Atoms, atom: int) -> Atoms:
    bent = chain.copy()
    bent.positions[atom] += [0.1, 0.7, 0.3]
    return bent


def curvature_jump(case: Case, path: Callable[[float], Atoms], place: float, step: float) -> np.ndarray:
    """Largest change of dF/dt over ``step`` within ten of them of ``place``, [n_atoms, 3], eV/Å^2."""
    places = place + step * (np.arange(-10, 11) + 0.3)
    forces = np.array([p.forces for p in case.potential.predict([path(t) for t in places])])
    return np.abs(np.diff(forces, n=2, axis=0)).max(0) / step


def _pull_apart(rest: Atoms, symbol: str) -> Callable[[float], Atoms]:
    """``rest`` with an atom ``symbol`` at a distance (Å) along x."""
    return lambda distance: rest + Atoms(symbol, [[distance, 0, 0]])


def _paths(case: Case) -> list[tuple[Callable[[float], Atoms], float]]:
    """Structures by a distance (Å), and the distances where their formulas change."""
    cutoff = case.potential.cutoff
    first, second = case.elements
    corner = case.atoms("aba", [[0, 0, 0], [0, 2.6, 0], [0.3, 0.4, 2.5]])
    chain = Atoms([second, first], [[-0.55 * cutoff, 0.3, 0], [0, 0, 0]])
    paths = []
    for pair in ((first, first), sorted(case.elements), (second, second)):
        path = _pull_apart(Atoms(pair[0]), pair[1])
        paths += [(path, place) for place in (cutoff, *case.switches.get("-".join(pair), ()))]
    return paths + [(_pull_apart(rest, second), cutoff) for rest in (corner, chain)]


def check_second_derivatives(case: Case) -> None:
    """They are continuous: with a quarter of the step they change a quarter as much; a jump would stay.

    Looked for where a pair crosses the cutoff, switches and clamps; where an atom leaves the cutoff of a
    cluster; and where it leaves the far end of a chain, whose first atom hears of it through messages alone.
    """
    for path, place in _paths(case):
        coarse, fine = (curvature_jump(case, path, place, step) for step in (4e-3, 1e-3))
        seen = coarse > max(1e-3 * coarse.max(), 1e-8)
        name = f"at {place:.4f} Å of {path(place).symbols}"
        expect_true(f"{name}: no force changes, {coarse.max():.3g} eV/Å² at most", bool(seen.any()))
        ratio = (coarse[seen] / fine[seen]).min()
        expect_above(f"{name}: change of dF/dr (eV/Å²) by 4e-3 Å over that by 1e-3 Å", ratio, 2.5)


LAWS: dict[str, Callable[[Case], None]] = {
    name.removeprefix("check_"): function for name, function in list(globals().items()) if name.startswith("check_")
}
"""Every law by its name."""
NEEDS_DOUBLE = ("second_derivatives",)
"""Laws about differences of forces, which round-off in single precision drowns; the formulas are the same."""


def broken_laws(case: Case, *, single: bool = False) -> dict[str, str]:
    """What ``case`` breaks: by the law's name, how; ``single`` leaves out :data:`NEEDS_DOUBLE`."""
    broken = {}
    for name, law in LAWS.items():
        if single and name in NEEDS_DOUBLE:
            continue
        try:
            law(case)
        except LawBroken as error:
            broken[name] = str(error)
    return broken
