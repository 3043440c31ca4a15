"""Real labels of tblite (xTB): milliseconds each."""

from __future__ import annotations

from pathlib import Path

import pytest
from ase import Atoms
from ase.build import molecule

from mlip.config.label import Label
from mlip.labels.importing import LabelError
from mlip.labels.labeller import Labeller, Outcome

pytestmark = pytest.mark.xtb
pytest.importorskip("tblite.ase", reason="tblite is not installed (extra xtb)")


def label(folder: Path, atoms: Atoms, escalations: tuple | None = None, **parameters) -> Outcome:
    settings = Label(
        calculator="tblite.ase.TBLite", parameters={"method": "GFN2-xTB"} | parameters, escalations=escalations
    )
    with Labeller(settings, folder / "store", folder / "scratch") as labeller:
        return labeller.label(atoms)


def ethanol(**info) -> Atoms:
    atoms = molecule("CH3CH2OH")
    atoms.rattle(0.03, seed=1)
    atoms.info |= {"structure_id": "ethanol"} | info
    return atoms


def test_a_label(tmp_path):
    outcome = label(tmp_path, ethanol())
    assert outcome.status == "ok"
    assert len(outcome.record["results"]["forces"]) == 9
    assert label(tmp_path, ethanol(), verbosity=1).cached, "what it prints is no part of the key"


def test_unconverged_goes_up_the_ladder_and_is_remembered(tmp_path):
    outcome = label(tmp_path, ethanol(), max_iterations=2)
    assert [a["status"] for a in outcome.record["attempts"]] == ["unconverged", "ok"]
    plain = label(tmp_path, ethanol())
    assert outcome.record["results"]["energy"] == pytest.approx(plain.record["results"]["energy"], abs=1e-4)
    assert label(tmp_path / "h", ethanol(), escalations=(), max_iterations=2).status == "unconverged"
    assert label(tmp_path / "h", ethanol(), escalations=(), max_iterations=2).cached


def test_a_wrong_method_is_an_error_of_settings(tmp_path):
    with pytest.raises(LabelError, match="GFN9"):
        label(tmp_path, ethanol(), method="GFN9")
    with pytest.raises(LabelError, match="max_iteration: tblite has no such parameter"):
        label(tmp_path, ethanol(), max_iteration=5)


def test_charge_and_spin_reach_it(tmp_path):
    neutral, ion, triplet = (label(tmp_path, ethanol(**info)) for info in ({}, {"charge": 1, "spin": 2}, {"spin": 3}))
    energies = [outcome.record["results"]["energy"] for outcome in (neutral, ion, triplet)]
    assert energies[1] - energies[0] > 5.0
    assert energies[2] - energies[0] > 1.0
    oxidised = ethanol()
    oxidised.set_initial_charges([1.0] + [0.0] * 8)  # an oxidation state is no charge of the molecule
    assert label(tmp_path, oxidised).record["results"]["energy"] == pytest.approx(energies[0], abs=1e-6)
