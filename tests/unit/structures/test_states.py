"""Charges, multiplicities and magnetic orders of one composition are told apart, and nothing else is."""

from __future__ import annotations

import pytest
from ase import Atoms
from ase.build import bulk, molecule

from mlip.structures.states import find_conflicts


def iron(*moments: float, repeat: int = 1) -> Atoms:
    atoms = bulk("Fe", cubic=True) * (1, 1, repeat)
    atoms.set_initial_magnetic_moments([moments[k % len(moments)] for k in range(len(atoms))])
    return atoms


def with_info(atoms: Atoms, **info: object) -> Atoms:
    atoms.info |= info
    return atoms


plain = molecule("O2")
plain.set_initial_magnetic_moments(None)


@pytest.mark.parametrize(
    ("structures", "told"),
    [
        ([with_info(bulk("Si"), structure_id="a"), with_info(bulk("Si") * 2, charge=1, structure_id="b")],
         r"Si is there with charge 0 and 1 (a, b)"),
        ([with_info(plain.copy(), spin=1), with_info(plain.copy(), spin=3)], "O2 is there with multiplicity 1 and 3"),
        ([plain.copy(), with_info(plain.copy(), multiplicity=3)], "O2 is there with multiplicity 1 and 3"),
        ([iron(2.2), iron(2.2, -2.2)], "Fe is there with moments of Fe antiparallel and parallel"),
        ([iron(2.2), iron(0.0, repeat=3)], "Fe is there with moments of Fe none and parallel"),
        ([plain.copy(), molecule("O2")], "O2 is there with moments of O none and parallel"),
    ],
)  # fmt: skip
def test_states_of_one_composition(structures, told):
    (conflict,) = find_conflicts(structures)
    assert conflict.startswith(told)
    names = [atoms.info.get("structure_id", f"structure {k}") for k, atoms in enumerate(structures)]
    assert all(name in conflict for name in names)


def test_what_is_no_conflict():
    lone = Atoms("Fe", cell=[12, 12, 12], pbc=True)
    vacancy = bulk("Al", cubic=True)
    del vacancy[0]  # an odd number of electrons
    hydroxide, peroxide = with_info(Atoms("OH", [[0, 0, 0], [0, 0, 0.97]]), charge=-1), molecule("H2O2")
    oxide = bulk("NiO", "rocksalt", a=4.2)
    oxide.set_initial_magnetic_moments([2.0, 0.0])
    for structures in (
        [iron(2.2), iron(-2.4, repeat=2), iron(3.0), lone, with_info(lone.copy(), spin=5)],
        [bulk("Al", cubic=True), vacancy, with_info(bulk("Al", cubic=True), charge=0, spin=1)],
        [hydroxide, peroxide, molecule("O3")],
        [oxide, oxide * 2, bulk("Ni")],
    ):
        assert find_conflicts(structures) == []
