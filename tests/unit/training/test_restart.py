"""Training from the weights of the previous iteration."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator

from mlip.config.train import Train
from mlip.jobs.resources import count_gpus
from mlip.loop.train_committee import TrainingRequest, train_committee
from mlip.potential import load_potential
from mlip.potential.evaluation import evaluate_potential
from mlip.training.batches import assign_members
from mlip.training.launch import training_command
from tests.unit.conftest import label_emt

ENERGIES = {"Au": -0.25, "Cu": 0.5}


def test_a_short_training_keeps_and_improves_earlier_weights(
    potential_folder: Path, alloys: list[Atoms], settings: Train, tmp_path: Path
) -> None:
    # Thirty steps at the test settings' tall learning rate can as well lead away.
    short = settings.model_copy(update={"restart_fraction": 0.25, "learning_rate": 0.004})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = train_committee(
            TrainingRequest(
                alloys[:20], alloys[20:], short, tmp_path, seed=3, isolated_energies=ENERGIES, previous=potential_folder
            )
        )
    assert result["steps"] == 30
    assert len(result["previous"]) == 64
    before = evaluate_potential(load_potential(potential_folder), alloys[:20])
    after = evaluate_potential(load_potential(tmp_path), alloys[:20])
    assert after["force_rmse"] < before["force_rmse"]
    alone = train_committee(TrainingRequest(
        alloys[:20], alloys[20:], short.model_copy(update={"n_steps": 30}), tmp_path / "alone", seed=3,
        isolated_energies=ENERGIES))  # fmt: skip
    assert result["valid_errors"]["force_rmse"] < 0.8 * alone["valid_errors"]["force_rmse"]


def test_statistics_stay_and_other_isolated_atoms_change_no_energy(
    potential_folder: Path, alloys: list[Atoms], settings: Train, tmp_path: Path
) -> None:
    """With a learning rate of almost nothing the potential must be the earlier one."""
    still = settings.model_copy(update={"learning_rate": 1e-12, "restart_fraction": 0.05})
    train_committee(
        TrainingRequest(
            alloys[:18],
            [],
            still,
            tmp_path,
            seed=9,
            isolated_energies={"Au": -0.15, "Cu": 0.2},
            previous=potential_folder,
        )
    )
    old, new = load_potential(potential_folder), load_potential(tmp_path)
    for a, b in zip(old.predict(alloys[18:]), new.predict(alloys[18:]), strict=True):
        assert b.energy == pytest.approx(a.energy, abs=2e-3)
        np.testing.assert_allclose(b.forces, a.forces, atol=2e-3)


def test_scratch_ignores_the_previous_potential(
    potential_folder: Path, alloys: list[Atoms], settings: Train, tmp_path: Path
) -> None:
    quick = settings.model_copy(update={"n_steps": 6, "restart": "scratch"})
    for name, previous in (("with", potential_folder), ("without", None)):
        result = train_committee(TrainingRequest(alloys[:8], [], quick, tmp_path / name, seed=1, previous=previous))
        assert result["previous"] is None
        assert result["steps"] == 6
    contents = [(tmp_path / name / "potential.safetensors").read_bytes() for name in ("with", "without")]
    assert contents[0] == contents[1]


def test_what_does_not_fit_is_trained_from_scratch_with_a_warning(
    potential_folder: Path, alloys: list[Atoms], settings: Train, tmp_path: Path
) -> None:
    quick = settings.model_copy(update={"n_steps": 4})
    copper = []
    for atoms in alloys[:6]:
        atoms = atoms.copy()
        atoms.numbers[:] = 29
        copper.append(label_emt(atoms))
    # A pair nearer than the earlier potential was told of would move its radial functions under its weights.
    nearer = alloys[0].copy()
    pair = "-".join(sorted(nearer.get_chemical_symbols()[:2]))
    nearer.set_distance(0, 1, 0.85 * load_potential(potential_folder).basis.shortest[pair], mic=True)
    cases = [
        ([*alloys[:8], label_emt(nearer)], quick, potential_folder, "come as near as"),
        (alloys[:8], quick.model_copy(update={"n_channels": 6}), potential_folder, "n_channels"),
        (copper, quick, potential_folder, "it knows Au, Cu, the data hold Cu"),
        (alloys[:8], quick, tmp_path / "nowhere", "cannot be read"),
    ]
    for data, own, previous, message in cases:
        with pytest.warns(UserWarning, match=message):
            result = train_committee(TrainingRequest(data, [], own, tmp_path / "out", seed=1, previous=previous))
        assert result["previous"] is None
        assert result["steps"] == 4


def test_members_leave_out_the_same_structures_in_every_iteration() -> None:
    keys = [f"structure {k}" for k in range(60)]
    first, second = assign_members(40, 4, 0, keys[:40]), assign_members(60, 4, 0, keys)
    assert torch.equal(first, second[:, :40])
    assert ((second < 1).sum(0) == 1).all()
    assert (second < 1).sum(1).min() > 5
    assert not torch.equal(first, assign_members(40, 4, 1, keys[:40]))


def test_gpus_are_counted_from_any_way_of_asking() -> None:
    cases = [({}, 0), ({"gpus": 4}, 4), ({"gpu": 2}, 2), ({"gres": "gpu:3"}, 3), ({"gres": "gpu:a100:2"}, 2)]
    cases += [({"gres": "gpu"}, 1), ({"gres": "scratch:5,gpu:h100:8"}, 8), ({"gres": "scratch:5"}, 0)]
    for resources, expected in cases:
        assert count_gpus(resources) == expected


def test_the_launch_command_names_every_file() -> None:
    paths = {name: Path(f"/data/{name}") for name in ("train", "valid", "settings", "out", "isolated", "previous")}
    command = training_command(4, **paths, seed=7, device="cuda")
    assert command[command.index("--nproc-per-node") + 1] == "4"
    assert command[command.index("-m", 3) + 1] == "mlip"
    assert all(str(path) in command for path in paths.values())
    assert json.dumps(command)


@pytest.mark.parametrize("given", [False, True])
def test_labels_whose_zero_of_energy_moved_are_learnt_from_there(
    potential_folder: Path, alloys: list[Atoms], settings: Train, tmp_path: Path, given: bool
) -> None:
    moved = {"Au": -3.0, "Cu": 2.0}

    def move(atoms: Atoms) -> Atoms:
        results = dict(atoms.calc.results)
        results["energy"] += sum(moved[s] for s in atoms.symbols)
        copy = atoms.copy()
        copy.calc = SinglePointCalculator(copy, **results)
        return copy

    data = [move(atoms) for atoms in alloys]
    isolated = {s: ENERGIES[s] + moved[s] for s in moved} if given else None
    still = settings.model_copy(update={"learning_rate": 1e-12, "restart_fraction": 0.05})
    with pytest.warns(UserWarning, match="zero of energy.*Au -[23]"):
        train_committee(TrainingRequest(
            data[:18], [], still, tmp_path, seed=9, isolated_energies=isolated, previous=potential_folder))  # fmt: skip
    before = evaluate_potential(load_potential(potential_folder), alloys[18:])
    after = evaluate_potential(load_potential(tmp_path), data[18:])
    assert after["energy_rmse"] < before["energy_rmse"] + 100
    assert after["force_rmse"] == pytest.approx(before["force_rmse"], rel=1e-3)
