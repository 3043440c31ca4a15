"""Potential and labeller are compared on the equation of state of each structure asked for, and the worst counts."""

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator

from mlip.io.netcdf import read_netcdf
from mlip.loop.label_references import scaled_copies
from mlip.properties.eos_agreement import compare_eos

VOLUMES = (-0.08, -0.04, 0.0, 0.04, 0.08)


class Stretched:
    """A potential that is EMT, but for a lattice of ``element`` that is wider by a share."""

    def __init__(self, element: str, wider: float) -> None:
        self.element, self.wider = element, wider

    def predict(self, structures: Sequence[Atoms]) -> list[SimpleNamespace]:
        found = []
        for atoms in structures:
            copy = atoms.copy()
            if str(copy.symbols).startswith(self.element):
                copy.set_cell(copy.cell / (1 + self.wider), scale_atoms=True)
            copy.calc = EMT()
            found.append(SimpleNamespace(energy=copy.get_potential_energy(), energy_std=0.0))
        return found


def references(*elements: str) -> list[Atoms]:
    copies = []
    for number, element in enumerate(elements):
        for atoms in scaled_copies(bulk(element, cubic=True), VOLUMES, number):
            judge = atoms.copy()
            judge.calc = EMT()
            atoms.calc = SinglePointCalculator(atoms, energy=judge.get_potential_energy())
            copies.append(atoms)
    return copies


def test_the_worst_of_several_structures_counts(tmp_path: Path) -> None:
    found = compare_eos(Stretched("Au", 0.01), references("Cu", "Au"), tmp_path / "eos.nc")
    assert found["lattice_constant"]["structure"] == 1
    assert found["lattice_constant"]["relative_error"] == pytest.approx(0.01, rel=1e-2)
    assert found["structures"]["0"]["lattice_constant"]["relative_error"] < 1e-6
    assert found["eos_rmse"] == found["structures"]["1"]["eos_rmse"] > 1e-3
    curves = read_netcdf(tmp_path / "eos.nc")
    assert np.bincount(curves.source.values).tolist() == [5, 5]


def test_one_structure_alone_is_as_before(tmp_path: Path) -> None:
    found = compare_eos(Stretched("Cu", 0.0), references("Cu"), tmp_path / "eos.nc")
    assert set(found) == {"eos_rmse", "lattice_constant", "bulk_modulus"}
    assert found["bulk_modulus"]["relative_error"] < 1e-6
    assert compare_eos(Stretched("Cu", 0.0), [], tmp_path / "none.nc") == {}
    assert read_netcdf(tmp_path / "none.nc").sizes["volume"] == 0
