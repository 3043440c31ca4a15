"""Keys of labels outlive moves of modules: nothing that was paid for is paid for again."""

from __future__ import annotations

from importlib import metadata

import pytest
from ase.build import bulk

from mlip.io.files import sha256_of
from mlip.labels import importing
from mlip.labels.identity import settings_identity
from mlip.labels.importing import MOVED, import_calculator
from mlip.labels.store import label_key

PW = {"mode": {"name": "pw", "ecut": 250}, "xc": "PBE", "kpts": {"size": [3, 3, 3], "gamma": True}}
LJ, SW = {"epsilon": 0.01, "sigma": 3.4}, {}
# Computed with the commit b379a28, before the packages: settings, then the label of silicon.
OLD_KEYS = [
    ("gpaw", PW, "60e5461c843e7e41538daf9c9e35f5f3e10c18e78cfa48d93c544d8baaca863e", "2143490c97334704c8b5"),
    ("gpaw.GPAW", {"mode": {"name": "pw", "ecut": 250.0}, "parallel": {"domain": 1}},
     "5ff26545bd98408648da0a985f6ecef3d318e597d347b8bc9a79b2b80f3dfe21", "b919e83198fbe572ae02"),
    ("ase.calculators.emt.EMT", {},
     "70a715de3c5870235593fbb55543a353b0431bdd5b95fa17e4097c9da69e32ff", "721d779faeb59cb7ccc8"),
    ("ase.calculators.lj.LennardJones", {"sigma": 3.4},
     "6e85fa71b46aa1cace246665b48f8a610c5238c4aea0850440ef488464c41f87", "42465bba1b61252590da"),
    *[(path, LJ, "fda2246f1d2136738c237d76e1084b95ff314267f77bd81cca2021c833913128", "fa08112a4c8260c87e5b")
      for path in ("mlip.lennard_jones.LennardJones", "mlip.calculators.lennard_jones.LennardJones")],
    *[(path, SW, "e681d98536b48fadd805f7e684d2e2e403caec7cf83ab0168d7dee08b2db310f", "c5b8d767e0564cae0d3f")
      for path in ("mlip.studies.elastic.stillinger_weber.StillingerWeber",
                   "mlip.calculators.stillinger_weber.StillingerWeber")],
]  # fmt: skip
VERSIONS = {"gpaw": "gpaw 26.7.0, gpaw-data 1.2.1", "ase": "ase 3.29.0", "mlip": "ouroboros 0.1.0"}


@pytest.fixture
def _versions_of_then(monkeypatch):
    """The versions that the old keys hold: another release is another label, and no fault of the keys."""
    monkeypatch.delenv("GPAW_SETUP_PATH", raising=False)

    def version(path: str) -> str:
        return VERSIONS[path.partition(".")[0]]

    monkeypatch.setattr("mlip.labels.identity.calculator_version", version)


@pytest.mark.usefixtures("_versions_of_then")
@pytest.mark.parametrize(("calculator", "parameters", "settings", "label"), OLD_KEYS)
def test_keys_of_before_the_move_stay_valid(calculator, parameters, settings, label):
    identity = settings_identity(calculator, parameters)
    assert sha256_of(identity) == settings
    assert label_key(bulk("Si", a=5.43), identity).startswith(label)


@pytest.mark.usefixtures("_versions_of_then")
def test_the_structure_of_keys_is_that_of_before():
    iron = bulk("Fe", a=2.87)
    iron.set_initial_magnetic_moments([2.2])
    assert label_key(iron, settings_identity("gpaw", PW)).startswith("fefaecd7f4c3307df683")


@pytest.mark.parametrize("path", [*MOVED, *MOVED.values()])
def test_old_and_new_import_paths_give_the_same_calculator(path):
    importing.calculator_version.cache_clear()
    new = MOVED.get(path, path)
    assert import_calculator(path) is import_calculator(new)
    assert importing.calculator_version(path) == importing.calculator_version(new)
    assert importing.calculator_version(path) in (f"ouroboros {metadata.version('ouroboros')}", VERSIONS["mlip"])


def test_charge_and_multiplicity_tell_labels_apart():
    identity = settings_identity("ase.calculators.emt.EMT", {})
    keys = set()
    for info in ({}, {"charge": 1}, {"charge": -1}, {"spin": 3}, {"charge": 1, "multiplicity": 2}):
        atoms = bulk("Si")
        atoms.info |= info
        keys.add(label_key(atoms, identity))
    assert len(keys) == 5
    neutral = bulk("Si")
    neutral.info |= {"charge": 0.0, "spin": 1}
    assert label_key(neutral, identity) == label_key(bulk("Si"), identity)
