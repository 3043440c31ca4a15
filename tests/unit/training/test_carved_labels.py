"""Of a carved cell only the forces in its core count: in the loss, in checks, errors and splits, and in files."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk

from mlip.config.loop import Collect
from mlip.config.system import parse_config
from mlip.config.train import Train
from mlip.config.values import ConfigError
from mlip.export.data import export_data
from mlip.io.extxyz import read_structures, write_structures
from mlip.labels.labeller import Outcome, attach_label
from mlip.loop.collect_dataset import screen_energies
from mlip.loop.train_committee import TrainingRequest, train_committee
from mlip.potential import load_potential
from mlip.potential.ace.network import CommitteeNetwork
from mlip.potential.evaluation import evaluate_potential
from mlip.potential.parity import tabulate_parity
from mlip.structures.labelled import force_mask, is_carved, mean_squared_forces
from mlip.structures.labelled_files import keep_labels
from mlip.structures.roles import split_of
from mlip.training.ace.loss import compute_loss, measure_errors
from mlip.training.ace.pipeline import prepare_training
from mlip.training.ace.trainer import Trainer
from mlip.training.data import TrainingDataError, check_structures, find_atomic_basis, prepare_pairs
from mlip.training.densities import Dataset, take_batch
from tests.unit.conftest import label_emt

N_CARVED = 4


def carved(atoms: Atoms, trusted: int = 1) -> Atoms:
    """A copy of which ``trusted`` atoms' forces count, and all other labels are nonsense."""
    copy = atoms.copy()
    mask = np.arange(len(atoms)) < trusted
    copy.arrays["force_mask"] = mask
    forces = np.where(mask[:, None], atoms.calc.results["forces"], 7.0)
    copy.calc = type(atoms.calc)(copy, energy=1e4, forces=forces)
    return copy


@pytest.fixture(scope="module")
def settings(settings: Train) -> Train:
    return settings.model_copy(update={"cutoff": 5.0})


@pytest.fixture(scope="module")
def mixed(alloys: list[Atoms]) -> list[Atoms]:
    return [carved(a) if k < N_CARVED else a for k, a in enumerate(alloys[:18])]


@pytest.fixture(scope="module")
def prepared(mixed: list[Atoms], settings: Train) -> tuple[CommitteeNetwork, Dataset]:
    found = prepare_training(TrainingRequest(mixed, [], settings, Path(), 0))
    return found.network, found.data


def loss_of(network: CommitteeNetwork, data: Dataset, settings: Train, chosen: list[int]) -> torch.Tensor:
    weights = torch.ones(network.size.n_members, len(data.rows))
    return compute_loss(network, take_batch(data, chosen, weights, network.size.n_species), settings, 1.0)[0]


def test_labels_that_do_not_count_have_no_gradient(prepared: tuple[CommitteeNetwork, Dataset], settings: Train) -> None:
    network, data = prepared
    forces, energies, virials = (x.clone().requires_grad_() for x in (data.forces, data.energies, data.virials))
    loss = loss_of(network, replace(data, forces=forces, energies=energies, virials=virials), settings, [0, 1, 2, 9])
    of_forces, of_energies, of_virials = torch.autograd.grad(loss, (forces, energies, virials))
    slopes = of_forces.abs().sum(1)
    for k in (0, 1, 2):
        assert (slopes[data.rows[k]] > 0).sum() == 1
        assert (slopes[data.rows[k]] > 0).equal(data.trusted[data.rows[k]] > 0)
    assert (slopes[data.rows[9]] > 0).all()
    assert of_energies[:N_CARVED].tolist() == [0.0] * N_CARVED
    assert not of_virials[:N_CARVED].any()
    assert of_energies[9] != 0
    assert of_virials[9].any()


def test_forces_weigh_by_the_atoms_that_count(prepared: tuple[CommitteeNetwork, Dataset], settings: Train) -> None:
    network, data = prepared
    alone = settings.model_copy(update={"energy_weight": 0.0, "stress_weight": 0.0})
    one, other = (loss_of(network, data, alone, [k]).item() for k in (0, 9))
    both = loss_of(network, data, alone, [0, 9]).item()
    assert both == pytest.approx((1 * one + 4 * other) / 5, rel=1e-5)
    trainer = Trainer(network, data, settings=settings, seed=0, identity="")
    assert [len(rows) for rows in trainer.counted[:5]] == [1, 1, 1, 1, 4]


def test_nonsense_at_the_seam_changes_no_error_and_no_training(
    alloys: list[Atoms], mixed: list[Atoms], prepared: tuple[CommitteeNetwork, Dataset], settings: Train, tmp_path: Path
) -> None:
    network, data = prepared
    assert measure_errors(network, data, 4)["force"] < 7.0
    quick = settings.model_copy(update={"n_steps": 20, "consistency": "error"})
    result = train_committee(TrainingRequest(mixed, alloys[18:], quick, tmp_path, seed=3))
    assert result["n_train"] == 18
    assert result["train_errors"]["n_structures"] == 14
    assert result["rms_force"]["all"] < 3.0
    potential = load_potential(tmp_path)
    errors = evaluate_potential(potential, [*mixed[:N_CARVED], alloys[20]])
    assert errors["n_atoms"] == N_CARVED + 4
    assert errors["energy_rmse"] == pytest.approx(evaluate_potential(potential, [alloys[20]])["energy_rmse"])
    parity = tabulate_parity(mixed[3:6], potential.predict(mixed[3:6]))
    assert dict(parity.sizes) == {"atom_sample": 9, "space": 3, "structure": 2}
    assert float(abs(parity.energy_true).max()) < 100
    assert mean_squared_forces(mixed[:1])[0] == pytest.approx(np.mean(alloys[0].calc.results["forces"][0] ** 2))


def test_what_is_close_at_a_seam_is_not_the_shortest_known_distance(settings: Train) -> None:
    whole, close = label_emt(bulk("Cu", "fcc", a=3.6, cubic=True)), bulk("Cu", "fcc", a=3.6, cubic=True)
    close.positions[3] = close.positions[2] + [0.9, 0, 0]
    close.calc = whole.calc
    sets = {"open": [whole, close], "carved": [whole, carved(close)]}
    shortest = {
        name: find_atomic_basis(s, prepare_pairs(s, 5.0), settings).shortest["Cu-Cu"] for name, s in sets.items()
    }
    assert shortest["open"] == pytest.approx(0.9)
    assert shortest["carved"] > 1.2


def test_a_training_set_needs_whole_structures_and_masks_of_truth_values(alloys: list[Atoms], settings: Train) -> None:
    with pytest.raises(TrainingDataError, match="all 3 training structures are carved cells"):
        prepare_training(TrainingRequest([carved(a) for a in alloys[:3]], [], settings, Path(), 0))
    for mask in (np.ones(4), np.zeros(4, bool)):
        broken = carved(alloys[0])
        broken.arrays["force_mask"] = mask
        with pytest.raises(TrainingDataError, match="not made of T and F, one T at least"):
            check_structures([broken], "train")


def test_the_mask_goes_from_the_candidate_to_the_data_set_and_its_exports(alloys: list[Atoms], tmp_path: Path) -> None:
    candidate = carved(alloys[0])
    candidate.calc = None
    results = {"energy": 1e4, "forces": np.zeros((4, 3)).tolist(), "stress": [0.0] * 6}
    record = {"results": results, "core_seconds": 1.0}
    labelled = attach_label(candidate, Outcome("key", "settings", "ok", "", False, record), 1)
    assert set(labelled.calc.results) == {"energy", "forces"}
    labelled.info["reason"] = "uncertain"
    write_structures(tmp_path / "data.extxyz", [labelled, alloys[1]])
    first, second = read_structures(tmp_path / "data.extxyz")
    assert force_mask(first).tolist() == [True, False, False, False]
    assert first.arrays["force_mask"].dtype == bool
    assert is_carved(keep_labels(first))
    assert not is_carved(second)
    (out,) = export_data([tmp_path / "data.extxyz"], tmp_path / "xyz", "extxyz")
    assert [is_carved(a) for a in read_structures(out)] == [True, False]
    with pytest.warns(UserWarning, match="1 carved cells of data are left out"):
        export_data([tmp_path / "data.extxyz"], tmp_path / "db", "ase-db")


def test_carved_cells_always_train_and_no_energy_screens_them(alloys: list[Atoms]) -> None:
    cells = [carved(a) for a in alloys[:6]]
    for k, atoms in enumerate(cells):
        atoms.info |= {"data_block": f"block-{k}"}
    assert {split_of(atoms, Collect(valid_fraction=0.49, test_fraction=0.49)) for atoms in cells} == {"train"}
    kept, outliers = screen_energies([*cells, *alloys[6:]], [], window=5.0)
    assert len(kept) == len(alloys)
    assert outliers == []


def test_a_backend_that_cannot_leave_forces_out_is_refused() -> None:
    values = {
        "system": "cu",
        "structures": [{"bulk": {"name": "Cu", "crystalstructure": "fcc", "a": 3.6}}],
        "select": {"carve": {"learn": "core"}},
    }
    assert parse_config(values).select.carve is not None
    with pytest.raises(ConfigError, match=r"select\.carve\.learn: backend mace .* set train\.backend: ace"):
        parse_config(values | {"train": {"backend": "mace"}})
    with pytest.raises(ConfigError, match="measured once"):
        parse_config(values | {"overrides": [{"from_iteration": 1, "select": {"carve": None}}]})
