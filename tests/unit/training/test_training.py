"""Training: it learns, it repeats itself, it survives being killed, it refuses bad data."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import read, write

from mlip.config.train import Train
from mlip.loop.train_committee import TrainingRequest, train_committee
from mlip.potential import load_potential
from mlip.potential.evaluation import evaluate_potential
from mlip.training.batches import assign_members, choose_batch, learning_rate_factor
from mlip.training.data import TrainingDataError
from tests.unit.conftest import label_emt


def weights(folder: Path) -> bytes:
    return (folder / "potential.safetensors").read_bytes()


def test_training_beats_a_constant_by_far(potential_folder: Path, alloys: list[Atoms]) -> None:
    errors = evaluate_potential(load_potential(potential_folder), alloys[18:])
    typical = np.sqrt(np.mean(np.concatenate([a.get_forces() for a in alloys[18:]]) ** 2))
    assert errors["force_rmse"] < 0.3 * 1e3 * typical
    spread = np.std([a.get_potential_energy() / len(a) for a in alloys[18:]])
    assert errors["energy_rmse"] < 0.5 * 1e3 * spread
    assert errors["n_structures"] == 6
    assert errors["n_atoms"] == 24


def test_results_are_described(potential_folder: Path, settings: Train) -> None:
    result = json.loads((potential_folder / "training.json").read_text())
    assert result["settings"] == settings.model_dump(mode="json") | {"cutoff": result["settings"]["cutoff"]}
    assert 5.0 <= result["settings"]["cutoff"] <= 7.0, "auto is resolved"
    assert [entry["step"] for entry in result["history"]] == [40, 80, 120]
    assert result["history"][-1]["force_rmse"] < result["history"][0]["force_rmse"]
    for name in ("energy_rmse", "force_rmse"):
        assert result["history"][-1][f"valid_{name}"] == pytest.approx(result["valid_errors"][name], rel=1e-3)
    description = json.loads((potential_folder / "potential.json").read_text())
    assert description["species"] == ["Au", "Cu"]
    assert set(description["frame"]["shortest"]) == {"Au-Au", "Au-Cu", "Cu-Cu"}


def test_same_seed_same_weights_other_seed_others(alloys: list[Atoms], settings: Train, tmp_path: Path) -> None:
    quick = settings.model_copy(update={"n_steps": 12})
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        train_committee(TrainingRequest(alloys[:8], [], quick, tmp_path / name, seed=seed))
    assert weights(tmp_path / "a") == weights(tmp_path / "b") != weights(tmp_path / "c")


VICTIM = """
import sys, time, torch
from pathlib import Path
torch.set_num_threads(1)
from ase.io import read
from mlip.config.train import Train
from mlip.loop.train_committee import TrainingRequest, train_committee
folder = Path(sys.argv[1])
settings = Train.model_validate_json((folder / "settings.json").read_text())
train = read(folder / "train.extxyz", ":")
train_committee(TrainingRequest(train, [], settings, folder / "killed", seed=5, checkpoint=folder / "checkpoint",
                                progress=lambda entry: time.sleep(0.5)))
"""


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Sums of floats depend on the number of threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("one_thread")
def test_killed_training_continues_to_the_same_weights(alloys: list[Atoms], settings: Train, tmp_path: Path) -> None:
    quick = settings.model_copy(update={"n_steps": 40, "checkpoint_every": 5})
    (tmp_path / "settings.json").write_text(quick.model_dump_json())
    write(tmp_path / "train.extxyz", alloys[:8])
    victim = subprocess.Popen([sys.executable, "-c", VICTIM, str(tmp_path)])
    train = read(tmp_path / "train.extxyz", ":")
    train_committee(TrainingRequest(train, [], quick, tmp_path / "whole", seed=5))
    checkpoint = tmp_path / "checkpoint"
    deadline = time.monotonic() + 120
    while not checkpoint.exists() and victim.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    victim.kill()
    assert victim.wait() == -9
    assert checkpoint.exists()
    assert not (tmp_path / "killed").exists()
    seen: list[int] = []
    result = train_committee(
        TrainingRequest(
            train,
            [],
            quick,
            tmp_path / "killed",
            seed=5,
            checkpoint=checkpoint,
            progress=lambda entry: seen.append(entry["step"]),
        )
    )
    assert 0 < len(seen) < 8, "the run began anew, or had nothing left to do"
    assert [entry["step"] for entry in result["history"]] == list(range(5, 45, 5))
    assert weights(tmp_path / "killed") == weights(tmp_path / "whole")
    assert not checkpoint.exists()


@pytest.mark.parametrize("damage", ["truncated", "flipped", "foreign"])
def test_unusable_checkpoints_are_ignored_with_a_warning(
    alloys: list[Atoms], settings: Train, tmp_path: Path, damage: str
) -> None:
    class Stop(Exception):
        pass

    def stop(entry: dict[str, object]) -> None:
        if entry["step"] == 8:
            raise Stop

    quick = settings.model_copy(update={"n_steps": 12, "checkpoint_every": 4})
    path = tmp_path / "checkpoint"
    with pytest.raises(Stop):
        train_committee(TrainingRequest(alloys[:8], [], quick, tmp_path / "a", seed=1, checkpoint=path, progress=stop))
    content = bytearray(path.read_bytes())
    if damage == "truncated":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "flipped":
        content[-50] ^= 4
        path.write_bytes(content)
    seed = 2 if damage == "foreign" else 1
    with pytest.warns(UserWarning, match="belongs to other" if damage == "foreign" else "damaged"):
        train_committee(TrainingRequest(alloys[:8], [], quick, tmp_path / "a", seed=seed, checkpoint=path))
    train_committee(TrainingRequest(alloys[:8], [], quick, tmp_path / "b", seed=seed))
    assert weights(tmp_path / "a") == weights(tmp_path / "b")


def relabel(atoms: Atoms, **results: object) -> Atoms:
    copy = atoms.copy()
    copy.calc = SinglePointCalculator(copy, **results)
    return copy


def test_bad_data_are_refused_by_name(alloys: list[Atoms], settings: Train, tmp_path: Path) -> None:
    good = alloys[0]
    energy, forces = good.get_potential_energy(), good.get_forces()
    broken = forces.copy()
    broken[0, 0] = np.nan
    iron = Atoms("Fe2", [[0, 0, 0], [0, 0, 2.2]])
    cases: list[tuple[list[Atoms], list[Atoms], dict[str, float] | None, str]] = [
        ([], [], None, "empty"),
        ([good, relabel(good, energy=energy)], [], None, r"train\[1\].*no forces"),
        ([relabel(good, energy=energy, forces=broken)], [], None, r"train\[0\].*forces is NaN"),
        ([relabel(good, energy=np.inf, forces=forces)], [], None, "energy is NaN or infinite"),
        ([good.copy()], [], None, "no energy"),
        ([good], [relabel(iron, energy=0.0, forces=np.zeros((2, 3)))], None, r"valid\[0\].*Fe"),
        ([good], [], {"H": 1.0}, "isolated atom for"),
        ([good], [], {"Cu": np.nan, "Au": 0.0}, "isolated atom for Cu"),
        ([good, relabel(Atoms(), energy=0.0, forces=np.zeros((0, 3)))], [], None, r"train\[1\].*no atoms"),
        (
            [good, relabel(Atoms("Cu2", np.zeros((2, 3))), energy=0.0, forces=np.zeros((2, 3)))],
            [],
            None,
            "at one place",
        ),
    ]
    for train, valid, isolated, message in cases:
        with pytest.raises(TrainingDataError, match=message):
            train_committee(TrainingRequest(train, valid, settings, tmp_path, seed=0, isolated_energies=isolated))


def test_structures_without_stress_can_be_trained_on(alloys: list[Atoms], settings: Train, tmp_path: Path) -> None:
    plain = [relabel(a, energy=a.get_potential_energy(), forces=a.get_forces()) for a in alloys[:6]]
    molecule = Atoms("CuAu", [[0, 0, 0], [2.5, 0, 0]])
    plain.append(relabel(molecule, energy=1.0, forces=np.zeros((2, 3))))
    quick = settings.model_copy(update={"n_steps": 5})
    result = train_committee(TrainingRequest(plain, [], quick, tmp_path, seed=0))
    assert result["train_errors"]["stress_rmse"] is None
    assert result["calibration"]["source"] == "training"


def test_one_structure_of_one_atom_is_enough_to_run(settings: Train, tmp_path: Path) -> None:
    atom = relabel(Atoms("Ar", cell=[20, 20, 20], pbc=True), energy=-1.5, forces=np.zeros((1, 3)))
    quick = settings.model_copy(update={"n_steps": 3})
    train_committee(TrainingRequest([atom], [], quick, tmp_path, seed=0, isolated_energies={"Ar": -1.5}))
    assert load_potential(tmp_path).predict([atom])[0].energy == -1.5


def test_a_lone_atom_among_the_data_sets_its_energy(alloys: list[Atoms], settings: Train, tmp_path: Path) -> None:
    lone = relabel(Atoms("Cu", cell=[20, 20, 20], pbc=True), energy=7.5, forces=np.zeros((1, 3)))
    train_committee(
        TrainingRequest([*alloys[:6], lone], [], settings.model_copy(update={"n_steps": 3}), tmp_path, seed=0)
    )
    assert load_potential(tmp_path).predict([lone])[0].energy == pytest.approx(7.5, abs=1e-12)


def test_one_wrong_energy_does_not_rule_the_fit(alloys: list[Atoms], settings: Train, tmp_path: Path) -> None:
    wrong = relabel(alloys[3], energy=alloys[3].get_potential_energy() + 40.0, forces=alloys[3].get_forces())
    kept = settings.model_copy(update={"consistency": "off"})
    errors = []
    for name, third in (("right", alloys[3]), ("wrong", wrong)):
        train_committee(
            TrainingRequest([*alloys[:3], third, *alloys[4:18]], alloys[18:], kept, tmp_path / name, seed=3)
        )
        errors.append(evaluate_potential(load_potential(tmp_path / name), alloys[18:]))
    assert errors[1]["energy_rmse"] < 2.0 * errors[0]["energy_rmse"]
    assert errors[1]["force_rmse"] < 1.3 * errors[0]["force_rmse"]


def test_a_stress_label_that_is_not_a_number_counts_as_none(
    alloys: list[Atoms], settings: Train, tmp_path: Path
) -> None:
    a = alloys[0]
    unknown = relabel(a, energy=a.get_potential_energy(), forces=a.get_forces(), stress=np.full(6, np.nan))
    result = train_committee(
        TrainingRequest([unknown], [], settings.model_copy(update={"n_steps": 3}), tmp_path, seed=0)
    )
    assert result["train_errors"]["stress_rmse"] is None


def test_perfect_crystals_alone_give_no_exploding_potential(settings: Train, tmp_path: Path) -> None:
    """What vanishes by symmetry in all the data must not be amplified where it does not."""
    crystals = [label_emt(bulk("Cu", cubic=True, a=a)) for a in np.linspace(3.3, 4.0, 16)]
    with pytest.warns(UserWarning, match="not calibrated"):
        result = train_committee(TrainingRequest(crystals, [], settings, tmp_path, seed=0))
    assert result["calibration"]["source"] == "none"
    rattled = bulk("Cu", cubic=True, a=3.6)
    rattled.positions += np.random.default_rng(0).normal(0, 0.12, (4, 3))
    forces = load_potential(tmp_path).predict([rattled])[0].forces
    assert np.abs(forces).max() < 5.0 * np.abs(label_emt(rattled).get_forces()).max()


def test_symmetric_validation_structures_do_not_switch_uncertainty_off(
    alloys: list[Atoms], settings: Train, tmp_path: Path
) -> None:
    perfect = [label_emt(bulk("Cu", cubic=True, a=a) * 2) for a in (3.5, 3.6, 3.7)]
    result = train_committee(TrainingRequest(alloys[:12], perfect, settings, tmp_path, seed=0))
    assert result["calibration"]["source"] == "training"
    assert evaluate_potential(load_potential(tmp_path), alloys[18:])["coverage"] > 0.7


def test_time_limit_ends_training(alloys: list[Atoms], settings: Train, tmp_path: Path) -> None:
    endless = settings.model_copy(update={"n_steps": 10**6})
    result = train_committee(TrainingRequest(alloys[:8], [], endless, tmp_path, seed=0, max_seconds=1.0))
    assert 1.0 <= result["training_seconds"] < 3.0
    assert result["history"][-1]["step"] == result["steps"]


def test_divergence_is_reported(alloys: list[Atoms], settings: Train, tmp_path: Path) -> None:
    hot = settings.model_copy(update={"n_steps": 40, "learning_rate": 1e30, "checkpoint_every": 5})
    with pytest.raises(FloatingPointError, match="learning_rate"):
        train_committee(TrainingRequest(alloys[:8], [], hot, tmp_path, seed=0))


def test_batches_cover_the_data_once_an_epoch() -> None:
    batches = [choose_batch(10, 3, step, seed=4) for step in range(3)]
    assert len({k for batch in batches for k in batch}) == 9
    assert batches != [choose_batch(10, 3, step, seed=5) for step in range(3)]
    assert choose_batch(2, 8, 0, seed=0) == [0, 1]


def test_every_structure_is_left_out_by_one_member() -> None:
    left_out = assign_members(20, 4, seed=0) < 1.0
    assert (left_out.sum(0) == 1).all()
    assert (left_out.sum(1) == 5).all()


def test_learning_rate_rises_and_anneals_to_zero() -> None:
    values = [learning_rate_factor(f) for f in np.linspace(0, 1, 101)]
    assert max(values) == pytest.approx(1.0, abs=0.01)
    assert values[0] < 0.2
    assert values[-1] == pytest.approx(0.0, abs=1e-12)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")
@pytest.mark.gpu
def test_training_on_cuda_gives_a_cpu_potential(alloys: list[Atoms], settings: Train, tmp_path: Path) -> None:
    train_committee(TrainingRequest(alloys[:18], alloys[18:], settings, tmp_path, seed=0, device="cuda"))
    errors = evaluate_potential(load_potential(tmp_path), alloys[18:])
    assert np.isfinite(errors["force_rmse"])
