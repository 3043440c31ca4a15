"""The potential that a loop's first training starts from: used, moved to the labels' zero of energy, or refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator

from mlip.config.system import ConfigError, parse_config
from mlip.config.train import Train
from mlip.io.extxyz import write_structures
from mlip.io.files import write_json
from mlip.loop.train_committee import TrainingFiles, train_from_files
from mlip.potential import load_potential
from mlip.potential.evaluation import evaluate_potential
from mlip.training.data import TrainingDataError

SMALL = Train(n_steps=120, l_max=2, n_channels=8, committee_size=2, cutoff=4.0)


def coppers(offset: float, symbol: str = "Cu") -> list[Atoms]:
    """Labels of EMT whose energies count from ``offset`` eV an atom."""
    found = []
    for k in range(16):
        atoms = bulk(symbol, cubic=True, a=3.55 + 0.01 * k)
        atoms.rattle(0.08, seed=k)
        atoms.calc = EMT()
        energy, forces, stress = atoms.get_potential_energy(), atoms.get_forces(), atoms.get_stress()
        atoms.calc = SinglePointCalculator(atoms, energy=energy + offset * len(atoms), forces=forces, stress=stress)
        found.append(atoms)
    return found


def train(folder: Path, structures: list[Atoms], settings: Train, initial: Path | None = None) -> Path:
    write_structures(folder / "train.extxyz", structures[3:])
    write_structures(folder / "valid.extxyz", structures[:3])
    write_structures(folder / "test.extxyz", [])
    write_json(folder / "isolated.json", {})
    files = [folder / name for name in ("train.extxyz", "valid.extxyz", "test.extxyz", "isolated.json")]
    train_from_files(TrainingFiles(*files, folder / "potential", initial=initial), settings, seed=1, device="cpu")
    return folder / "potential"


@pytest.fixture(scope="module")
def earlier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(tmp_path_factory.mktemp("earlier"), coppers(0.0), SMALL)


@pytest.mark.parametrize("offset", [0.0, -3.0])
def test_training_starts_from_the_named_potential(tmp_path: Path, earlier: Path, offset: float) -> None:
    """After a step it is as good as the earlier one, also where the new labels count from elsewhere."""
    short = SMALL.model_copy(update={"n_steps": 3, "restart_fraction": 0.3, "restart": "scratch"})
    begun = train(tmp_path, coppers(offset), short, initial=earlier)
    before = evaluate_potential(load_potential(earlier), coppers(0.0))
    after = evaluate_potential(load_potential(begun), coppers(offset))
    assert after["force_rmse"] < 1.5 * before["force_rmse"]
    assert after["energy_rmse"] < 30  # meV/atom, of labels that were 3 eV/atom away
    afresh = evaluate_potential(load_potential(train(tmp_path / "afresh", coppers(offset), short)), coppers(offset))
    assert afresh["force_rmse"] > 2 * after["force_rmse"]


@pytest.mark.parametrize(
    ("structures", "changed", "message"),
    [
        (coppers(0.0, "Al"), {}, "it knows Cu, the data hold Al"),
        (coppers(0.0), {"n_channels": 4}, "it differs in n_channels"),
    ],
)
def test_a_potential_that_does_not_fit_is_refused(
    tmp_path: Path, earlier: Path, structures: list[Atoms], changed: dict, message: str
) -> None:
    with pytest.raises(TrainingDataError, match=rf"train\.initial: .*{message}.*leave `initial` out"):
        train(tmp_path, structures, SMALL.model_copy(update=changed), initial=earlier)


def test_mace_has_foundation_models_instead() -> None:
    values = {"system": "x", "structures": [{"bulk": {"name": "Cu"}}]}
    with pytest.raises(ConfigError, match=r"backend mace starts from mace\.foundation_model"):
        parse_config(values | {"train": {"backend": "mace", "initial": "other"}})
