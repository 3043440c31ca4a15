"""Isolated atoms are neutral, whatever the system's charge."""

import pytest

from mlip.config.label import Label
from mlip.loop.label_isolated_atoms import isolated_parameters


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ({"mode": "fd", "charge": -1}, {"mode": "fd", "hund": True}),
        ({"input_data": {"system": {"tot_charge": 1, "ecutwfc": 30}}}, {"input_data": {"system": {"ecutwfc": 30}}}),
        ({"nelect": 33, "encut": 400}, {"encut": 400}),
    ],
)
def test_the_charge_of_the_system_is_not_that_of_its_atoms(parameters, expected):
    calculator = "gpaw.GPAW" if "mode" in parameters else "ase.calculators.emt.EMT"
    label = Label(calculator=calculator, parameters=parameters)
    assert isolated_parameters(label) == expected
    given = label.model_copy(update={"isolated_atom_parameters": {"charge": 2}})
    assert isolated_parameters(given)["charge"] == 2
