"""Two sources of uncertainty behind one interface: committee and last layer."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from pydantic import ValidationError

from mlip.config.train import Train
from mlip.loop.train_committee import TrainingRequest, train_committee
from mlip.potential import Prediction, load_potential
from mlip.potential.ace.committee import ACEPotential
from mlip.potential.evaluation import evaluate_potential
from mlip.potential.uncertainty import measure_shift
from tests.unit.conftest import label_emt, make_alloy


@pytest.fixture(scope="module")
def single(alloys: list[Atoms], settings: Train, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of one member with a last-layer posterior."""
    folder = tmp_path_factory.mktemp("single")
    alone = Train(**(settings.model_dump() | {"committee_size": 1, "uncertainty": "last_layer"}))
    train_committee(
        TrainingRequest(alloys[:16], alloys[16:], alone, folder, seed=3, isolated_energies={"Au": -0.25, "Cu": 0.5})
    )
    return folder


def test_one_member_needs_the_last_layer() -> None:
    with pytest.raises(ValidationError, match="last_layer"):
        Train(committee_size=1)
    assert Train(committee_size=1, uncertainty="last_layer").committee_size == 1


def test_a_committee_may_take_its_uncertainty_from_the_last_layer(
    alloys: list[Atoms], settings: Train, tmp_path: Path
) -> None:
    pair = Train(**(settings.model_dump() | {"committee_size": 2, "uncertainty": "last_layer", "n_steps": 20}))
    result = train_committee(TrainingRequest(alloys[:16], alloys[16:], pair, tmp_path, seed=3))
    assert "committee" not in result["uncertainty"]
    assert np.isfinite(result["uncertainty"]["last_layer"]["coverage"])


@pytest.mark.parametrize("n_valid", [8, 2])
def test_the_end_of_training_predicts_every_structure_once(
    alloys: list[Atoms], settings: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, n_valid: int
) -> None:
    predict, seen = ACEPotential.predict, list[int]()

    def count(self: ACEPotential, structures: list[Atoms], *, uncertainty: bool = True) -> list[Prediction]:
        seen.extend(id(atoms) for atoms in structures)
        return predict(self, structures, uncertainty=uncertainty)

    short, train, valid = settings.model_copy(update={"n_steps": 5}), alloys[:12], alloys[12 : 12 + n_valid]
    with monkeypatch.context() as patch:
        patch.setattr(ACEPotential, "predict", count)
        result = train_committee(TrainingRequest(train, valid, short, tmp_path, seed=3))
    assert result["uncertainty"]["source"] == ("validation" if n_valid == 8 else "training")
    assert [seen.count(id(atoms)) for atoms in [*train, *valid]] == [1] * (12 + n_valid)
    # The uncertainties that were made of these predictions are those of the potential on disk.
    again = load_potential(tmp_path)
    for name, structures in (("train_errors", train), ("valid_errors", valid)):
        errors = evaluate_potential(again, structures)
        for key in ("force_rmse", "stress_rmse", "coverage", "spearman"):
            assert result[name][key] == pytest.approx(errors[key], rel=1e-6)


def test_single_model_is_calibrated_and_ranks_errors(single: Path) -> None:
    potential = load_potential(single)
    assert potential.n_members == 1
    fresh = [label_emt(make_alloy(seed)) for seed in range(100, 130)]
    predictions = potential.predict(fresh)
    errors = np.concatenate([p.forces - a.get_forces() for p, a in zip(predictions, fresh, strict=True)])
    std = np.concatenate([p.forces_std for p in predictions])
    assert np.isfinite(std).all()
    assert 0.85 < np.mean(np.abs(errors) < 1.96 * std) <= 1.0
    assert std.mean() < 6 * np.sqrt(np.mean(errors**2)), "covers by being useless"
    assert all(p.energy_std > 0 for p in predictions)


@pytest.mark.parametrize("folder", ["single", "potential_folder"])
def test_uncertainty_rises_away_from_the_training_data(
    folder: str, request: pytest.FixtureRequest, alloys: list[Atoms]
) -> None:
    where = request.getfixturevalue(folder)
    potential = load_potential(where)
    reference = json.loads((where / "training.json").read_text())["uncertainty"]["shift"]["raw_force_spread"]
    rng = np.random.default_rng(0)
    hot, strained = [], []
    for atoms in alloys[16:]:
        hotter, wider = atoms.copy(), atoms.copy()
        hotter.positions += rng.normal(0, 0.3, (4, 3))
        wider.set_cell(wider.cell.array * 0.85, scale_atoms=True)
        hot.append(hotter)
        strained.append(wider)
    spread = {
        name: np.concatenate([s.forces for s in potential.spreads(structures)])
        for name, structures in (("valid", alloys[18:]), ("hot", hot), ("strained", strained))
    }
    shares = {name: measure_shift(reference, values) for name, values in spread.items()}
    assert shares["valid"]["95"] <= 0.1
    assert shares["hot"]["95"] > 0.3
    assert shares["strained"]["95"] > 0.3
    assert np.median(spread["hot"]) > 1.5 * np.median(spread["valid"])


def test_last_layer_survives_the_disk(single: Path, alloys: list[Atoms], tmp_path: Path) -> None:
    first = load_potential(single)
    first.save(tmp_path)
    for a, b in zip(first.predict(alloys[:3]), load_potential(tmp_path).predict(alloys[:3]), strict=True):
        np.testing.assert_array_equal(a.forces_std, b.forces_std)
        assert a.energy_std == b.energy_std


def test_files_from_before_the_last_layer_still_load(
    potential_folder: Path, alloys: list[Atoms], tmp_path: Path
) -> None:
    load_potential(potential_folder).save(tmp_path)
    description = json.loads((tmp_path / "potential.json").read_text())
    del description["last_layer"], description["checksum"]
    (tmp_path / "potential.json").write_text(json.dumps(description))
    old, new = load_potential(tmp_path).predict(alloys[:1])[0], load_potential(potential_folder).predict(alloys[:1])[0]
    np.testing.assert_array_equal(old.forces_std, new.forces_std)


def test_both_estimators_are_reported_for_comparison(potential_folder: Path, single: Path) -> None:
    report = json.loads((potential_folder / "training.json").read_text())["uncertainty"]
    assert report["estimator"] == "committee"
    for name in ("committee", "last_layer"):
        assert set(report[name]["elements"]) == {"Au", "Cu"}
        assert 0 < report[name]["coverage"] <= 1
        assert -1 <= report[name]["spearman"] <= 1
    alone = json.loads((single / "training.json").read_text())["uncertainty"]
    assert alone["estimator"] == "last_layer"
    assert "committee" not in alone


def test_spreads_ignore_orientation_and_the_order_of_atoms(single: Path, alloys: list[Atoms]) -> None:
    potential = load_potential(single)
    turned = alloys[0].copy()
    turned.rotate(40, (1, 2, 3), rotate_cell=True)
    order = [2, 0, 3, 1]
    base, other = potential.spreads([alloys[0]])[0], potential.spreads([turned[order]])[0]
    np.testing.assert_allclose(other.forces, base.forces[order], rtol=1e-6)
    assert other.energy == pytest.approx(base.energy, rel=1e-6)
