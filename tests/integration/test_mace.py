"""Backend mace: same interface, files and loop as our own potential. Run by .venv-mace/bin/python -m pytest."""

from __future__ import annotations

import json
import os
import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from ase import Atoms
from ase.build import bulk
from ase.calculators.singlepoint import SinglePointCalculator

from mlip.config.train import Mace, Train
from mlip.loop.train_committee import TrainingRequest, train_committee
from mlip.potential import PotentialFileError, UnknownSpeciesError, load_potential
from mlip.training.data import TrainingDataError
from tests.integration.published_models import fetch_model
from tests.unit.conftest import check_bias_slope, label_emt, make_alloy
from tests.workflow.conftest import TINY, Workflow

pytestmark = [
    pytest.mark.mace,
    pytest.mark.skipif(find_spec("mace") is None, reason="mace-torch is not installed here (make setup-mace)"),
]

SIZE: dict[str, Any] = {"hidden_irreps": "4x0e", "num_interactions": 1, "correlation": 2, "max_ell": 1}
SMALL = Train(
    backend="mace", cutoff=4.0, committee_size=2, n_steps=12, batch_size=2, checkpoint_every=4, mace=Mace(**SIZE)
)


@pytest.fixture(scope="module")
def alloys() -> list[Atoms]:
    return [label_emt(make_alloy(seed)) for seed in range(10)]


@pytest.fixture(scope="module")
def trained(alloys: list[Atoms], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("mace")
    train_committee(TrainingRequest(alloys[:7], alloys[7:], SMALL, out, seed=3))
    return out


def test_bias_forces_are_the_slope_of_the_bias(trained: Path, alloys: list[Atoms]) -> None:
    check_bias_slope(load_potential(trained), alloys[0])


def save_foundation(path: Path, *, numbers: tuple[int, ...] = (13, 29, 79), heads: tuple[str, ...] = ()) -> Any:
    """What mace-torch writes: a whole module, pickled."""
    from mlip.potential.mace.network import require_mace

    modules = require_mace()
    from e3nn.o3 import Irreps

    n = max(1, len(heads))
    torch.manual_seed(0)
    model = modules.ScaleShiftMACE(
        atomic_inter_scale=np.linspace(0.7, 0.9, n) if n > 1 else 0.7,
        atomic_inter_shift=np.linspace(0.1, 0.3, n) if n > 1 else 0.1,
        atomic_energies=np.arange(n * len(numbers), dtype=float).reshape(n, -1),
        r_max=4.5,
        num_bessel=5,
        num_polynomial_cutoff=5,
        max_ell=2,
        interaction_cls=modules.interaction_classes["RealAgnosticDensityResidualInteractionBlock"],
        interaction_cls_first=modules.interaction_classes["RealAgnosticDensityInteractionBlock"],
        num_interactions=2,
        num_elements=len(numbers),
        hidden_irreps=Irreps("4x0e + 4x1o"),
        MLP_irreps=Irreps("6x0e"),
        avg_num_neighbors=12.0,
        atomic_numbers=list(numbers),
        correlation=2,
        gate=torch.nn.functional.silu,
        distance_transform="Agnesi",
        pair_repulsion=True,
        heads=list(heads) or None,
    ).double()
    # Earlier versions of mace-torch saved these two, of no effect; MACE-OMAT-0 has them.
    model.pair_repulsion_fn.register_buffer("r_max", torch.tensor(4.5))
    model.pair_repulsion_fn.cutoff = model.radial_embedding.cutoff_fn
    torch.save(model, path)
    return model


def apply_network(network: Any, structures: list[Atoms], head: int = 0) -> dict[str, Any]:
    """What mace-torch's ``network`` makes of ``structures``."""
    from mlip.potential.mace.network import join_graphs, make_graph

    numbers = network.atomic_numbers.tolist()
    graphs = [make_graph(atoms, numbers, float(network.r_max)) for atoms in structures]
    output: dict[str, Any] = network(join_graphs(graphs, len(numbers), head, "cpu", torch.float64))
    return output


def test_training_writes_what_every_backend_writes(trained: Path, alloys: list[Atoms]) -> None:
    training = json.loads((trained / "training.json").read_text())
    assert training["settings"]["backend"] == "mace"
    assert [entry["step"] for entry in training["history"]] == [4, 8, 12]
    assert training["calibration"]["coverage"] is not None
    assert training["train_errors"]["n_structures"] == 7
    assert training["uncertainty"]["committee"]["n_atoms"] > 0
    description = json.loads((trained / "potential.json").read_text())
    assert description["backend"] == "mace"
    first, second = load_potential(trained).predict(alloys[:1])[0].energy_members
    assert first != second


def test_validation_errors_are_those_of_what_training_returns(trained: Path, alloys: list[Atoms]) -> None:
    last = json.loads((trained / "training.json").read_text())["history"][-1]
    errors = [
        (p.forces - atoms.get_forces())
        for p, atoms in zip(load_potential(trained).predict(alloys[7:]), alloys[7:], strict=True)
    ]
    # Training is in single precision, evaluation in double.
    assert last["valid_force_rmse"] == pytest.approx(1e3 * np.sqrt(np.square(errors).mean()), rel=1e-3)
    assert last["valid_energy_rmse"] > 0.0


def test_loading_gives_back_what_was_saved(trained: Path, alloys: list[Atoms], tmp_path: Path) -> None:
    first = load_potential(trained)
    first.save(tmp_path)
    second = load_potential(tmp_path)
    assert (tmp_path / "potential.safetensors").read_bytes() == (trained / "potential.safetensors").read_bytes()
    for a, b in zip(first.predict(alloys[:2]), second.predict(alloys[:2]), strict=True):
        np.testing.assert_array_equal(a.energy_members, b.energy_members)
        np.testing.assert_array_equal(a.forces_members, b.forces_members)
        np.testing.assert_array_equal(a.forces_std, b.forces_std)


def test_damaged_weights_and_other_code_are_noticed(trained: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(trained, tmp_path / "copy"))
    description = json.loads((folder / "potential.json").read_text())
    altered = description | {"architecture": description["architecture"] | {"avg_num_neighbors": 3.0}}
    del altered["checksum"]
    (folder / "potential.json").write_text(json.dumps(altered))
    with pytest.raises(PotentialFileError, match="incompatible version"):
        load_potential(folder)
    altered["architecture"]["max_ell"] = 2
    (folder / "potential.json").write_text(json.dumps(altered))
    with pytest.raises(PotentialFileError, match="do not fit"):
        load_potential(folder)


def test_forces_and_stress_are_derivatives_of_the_energy(trained: Path, alloys: list[Atoms]) -> None:
    potential, step = load_potential(trained), 1e-4
    atoms = alloys[0]
    moved = []
    for sign in (1, -1):
        one = atoms.copy()
        one.positions[2, 1] += sign * step
        moved.append(one)
        for k, m in ((0, 0), (1, 2)):
            strain = np.zeros((3, 3))
            strain[k, m] += sign * step / 2
            strain[m, k] += sign * step / 2
            one = atoms.copy()
            one.set_cell(atoms.cell.array @ (np.eye(3) + strain), scale_atoms=True)
            moved.append(one)
    energies = np.array([p.energy_members for p in potential.predict(moved)])
    slopes = (energies[:3] - energies[3:]) / (2 * step)
    exact = potential.predict([atoms])[0]
    np.testing.assert_allclose(slopes[0], -exact.forces_members[:, 2, 1], atol=1e-6)
    np.testing.assert_allclose(slopes[1:].mean(1) / atoms.get_volume(), exact.stress[[0, 3]], atol=1e-7)


def test_rotation_inversion_translation_and_permutation(trained: Path, alloys: list[Atoms]) -> None:
    potential, atoms = load_potential(trained), alloys[1]
    rng = np.random.default_rng(0)
    matrix = -np.linalg.qr(rng.normal(size=(3, 3)))[0]
    order = rng.permutation(len(atoms))
    other = Atoms(
        atoms.numbers[order],
        positions=(atoms.positions[order] + [0.3, -1.0, 2.0]) @ matrix.T,
        cell=atoms.cell.array @ matrix.T,
        pbc=True,
    )
    a, b = potential.predict([atoms, other])
    np.testing.assert_allclose(a.energy_members, b.energy_members, atol=1e-9)
    np.testing.assert_allclose(a.forces_members[:, order] @ matrix.T, b.forces_members, atol=1e-9)
    first, second = potential.describe([atoms, other])
    np.testing.assert_allclose(first[order], second, atol=1e-8)
    first, second = potential.embed([atoms, other])
    assert first.dtype == np.float32
    np.testing.assert_allclose(first[order], second, atol=1e-5)


def test_energies_are_extensive_and_atoms_alone_have_their_own(trained: Path, alloys: list[Atoms]) -> None:
    potential = load_potential(trained)
    lone, once, twice = potential.predict([Atoms("Au", positions=[[0, 0, 0]]), alloys[0], alloys[0].repeat((2, 1, 1))])
    description = json.loads((trained / "potential.json").read_text())
    assert lone.energy == pytest.approx(description["isolated_energies"]["Au"], abs=1e-12)
    assert lone.stress is None
    assert np.array_equal(lone.forces, np.zeros((1, 3)))
    np.testing.assert_allclose(twice.energy_members, 2 * once.energy_members, rtol=1e-12)
    with pytest.raises(UnknownSpeciesError, match="Ag"):
        potential.predict([bulk("Ag")])


def test_a_stopped_training_continues_to_the_same_end(trained: Path, alloys: list[Atoms], tmp_path: Path) -> None:
    class Stopped(Exception):
        pass

    def stop_at_the_end(entry: dict[str, Any]) -> None:
        if entry["step"] == 12:
            raise Stopped

    checkpoint = tmp_path / "checkpoint"
    with pytest.raises(Stopped):
        train_committee(
            TrainingRequest(
                alloys[:7], alloys[7:], SMALL, tmp_path, seed=3, checkpoint=checkpoint, progress=stop_at_the_end
            )
        )
    assert checkpoint.exists()
    seen: list[int] = []
    train_committee(
        TrainingRequest(
            alloys[:7],
            alloys[7:],
            SMALL,
            tmp_path,
            seed=3,
            checkpoint=checkpoint,
            progress=lambda entry: seen.append(entry["step"]),
        )
    )
    assert seen == [12]
    assert not checkpoint.exists()
    a, b = (load_potential(folder).predict(alloys[:1])[0] for folder in (trained, tmp_path))
    np.testing.assert_allclose(a.forces_members, b.forces_members, atol=1e-6)


def test_an_iteration_goes_on_from_the_previous_one(trained: Path, alloys: list[Atoms], tmp_path: Path) -> None:
    settings = SMALL.model_copy(update={"restart_fraction": 0.25, "checkpoint_every": 1})
    result = train_committee(
        TrainingRequest(alloys[:8], alloys[8:], settings, tmp_path / "on", seed=3, previous=trained)
    )
    assert result["steps"] == 3
    assert result["previous"] is not None
    before = json.loads((trained / "training.json").read_text())["history"][-1]
    assert result["history"][-1]["energy_rmse"] < 1.5 * before["energy_rmse"]
    other = settings.model_copy(update={"mace": SMALL.mace.model_copy(update={"hidden_irreps": "2x0e"}), "n_steps": 2})
    with pytest.warns(UserWarning, match="architecture"):
        result = train_committee(
            TrainingRequest(alloys[:8], alloys[8:], other, tmp_path / "anew", seed=3, previous=trained)
        )
    assert result["previous"] is None
    assert result["steps"] == 2


def test_inconsistent_labels_stop_the_training(alloys: list[Atoms], tmp_path: Path) -> None:
    twin = alloys[0].copy()
    energy = alloys[0].get_potential_energy() + 1.0
    twin.calc = SinglePointCalculator(twin, energy=energy, forces=alloys[0].get_forces())
    with pytest.raises(TrainingDataError, match=r"one geometry with two labels.*train\.consistency"):
        train_committee(TrainingRequest([*alloys[:7], twin], alloys[7:], SMALL, tmp_path, seed=3))
    assert not list(tmp_path.iterdir())
    settings = SMALL.model_copy(update={"consistency": "warn", "n_steps": 1})
    with pytest.warns(UserWarning, match="one geometry with two labels"):
        result = train_committee(TrainingRequest([*alloys[:7], twin], alloys[7:], settings, tmp_path, seed=3))
    assert len(result["warnings"]) == 1


def test_several_processes_are_refused(alloys: list[Atoms], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("RANK", "0"), ("WORLD_SIZE", "2")):
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match="one process, and torchrun started 2"):
        train_committee(TrainingRequest(alloys[:7], alloys[7:], SMALL, tmp_path, seed=3))


@pytest.mark.parametrize("heads", [(), ("small", "large")])
def test_a_foundation_model_is_read_without_executing_it(
    alloys: list[Atoms], tmp_path: Path, heads: tuple[str, ...]
) -> None:
    from mlip.potential.mace.foundation import read_foundation, reduce_elements

    model = save_foundation(tmp_path / "foundation.model", heads=heads)
    head = len(heads) - 1 if heads else 0
    foundation = read_foundation(tmp_path / "foundation.model")
    assert foundation.find_head(heads[head] if heads else None) == head
    if heads:
        with pytest.raises(PotentialFileError, match="small, large"):
            foundation.find_head(None)
    reduced = reduce_elements(foundation, [29, 79])
    assert reduced.architecture.atomic_numbers == ((13, 29, 79) if heads else (29, 79))
    energies = []
    for network in (model, foundation.network(), reduced.network()):
        output = apply_network(network, alloys[:3], head)
        energies.append(output["interaction_energy"].detach().numpy())
    np.testing.assert_allclose(energies[1:], [energies[0]] * 2, atol=1e-10)
    with pytest.raises(PotentialFileError, match="does not know Si"):
        reduce_elements(foundation, [14])


def test_fine_tuning_starts_from_the_foundation_model(alloys: list[Atoms], tmp_path: Path) -> None:
    path = tmp_path / "foundation.model"
    save_foundation(path)
    mace = Mace(foundation_model=str(path), learning_rate=1e-9)
    train_committee(
        TrainingRequest(
            alloys[:7], alloys[7:], SMALL.model_copy(update={"mace": mace, "n_steps": 1}), tmp_path / "tuned", seed=1
        )
    )
    potential = load_potential(tmp_path / "tuned")
    assert potential.cutoff == 4.5
    from mlip.potential.mace.foundation import read_foundation

    output = apply_network(read_foundation(path).network(), alloys[:7])
    # Members begin with readouts a few per cent apart, and nothing has been learned at this rate.
    wanted = np.split(output["forces"].detach().numpy(), 7)
    for prediction, forces in zip(potential.predict(alloys[:7]), wanted, strict=True):
        np.testing.assert_allclose(prediction.forces, forces, atol=0.3 * np.abs(forces).max())
        assert prediction.forces_members[0] == pytest.approx(forces, abs=0.5 * np.abs(forces).max())
        assert not np.array_equal(*prediction.forces_members)
    # Energies of isolated atoms were fitted to what the foundation model leaves: the mean error is small.
    errors = [p.energy - a.get_potential_energy() for p, a in zip(potential.predict(alloys), alloys, strict=True)]
    assert abs(np.mean(errors)) / 4 < 0.3


def test_a_published_foundation_model_is_read_and_fine_tuned(
    alloys: list[Atoms], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    from mlip.potential.mace.foundation import read_foundation, reduce_elements

    path = fetch_model(Path(request.config.cache.mkdir("foundation")))
    foundation = read_foundation(path)
    assert len(foundation.architecture.atomic_numbers) == 89
    # Its publisher's file, of the digest checked above, is what mace-torch itself loads by running it.
    original = torch.load(path, map_location="cpu", weights_only=False).double()
    networks = (original, foundation.network(), reduce_elements(foundation, [29, 79]).network())
    outputs = [apply_network(network, alloys[:2]) for network in networks]
    for output in outputs[1:]:
        for name in ("interaction_energy", "forces"):
            wanted = outputs[0][name].detach().numpy()
            np.testing.assert_allclose(output[name].detach().numpy(), wanted, atol=1e-10)

    settings = SMALL.model_copy(update={"mace": Mace(foundation_model=str(path)), "n_steps": 30})
    train_committee(TrainingRequest(alloys[:7], alloys[7:], settings, tmp_path, seed=3))
    held_out, tuned = alloys[7:], load_potential(tmp_path).predict(alloys[7:])
    labels = np.concatenate([atoms.get_forces() for atoms in held_out])
    before = apply_network(foundation.network(), held_out)["forces"].detach().numpy() - labels
    after = np.concatenate([prediction.forces for prediction in tuned]) - labels
    assert np.square(after).mean() < 0.25 * np.square(before).mean()


class Malicious:
    """Pickled inside a model, it would make a file when loaded without care."""

    def __init__(self, target: Path) -> None:
        self.target = str(target)

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self.target,)


def test_a_malicious_foundation_model_is_refused(tmp_path: Path) -> None:
    from mlip.potential.mace.foundation import read_foundation

    harm, path = tmp_path / "harm", tmp_path / "foundation.model"
    model = save_foundation(path)
    model.extra = Malicious(harm)
    torch.save(model, path)
    with pytest.raises(PotentialFileError, match=r"refused.*mkdir"):
        read_foundation(path)
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(PotentialFileError, match="not a file of torch"):
        read_foundation(path)
    torch.save({"weights": torch.zeros(3)}, path)
    with pytest.raises(PotentialFileError, match="not a ScaleShiftMACE"):
        read_foundation(path)
    assert not harm.exists()


def test_importing_mace_leaves_safe_loading_on(tmp_path: Path) -> None:
    from mlip.potential.mace.network import require_mace

    require_mace()
    torch.save(Malicious(tmp_path / "harm"), tmp_path / "file.pt")
    with pytest.raises(Exception, match="mkdir"):
        torch.load(tmp_path / "file.pt")  # without weights_only, whose default is what matters
    assert not (tmp_path / "harm").exists()


@pytest.mark.skipif(find_spec("cuequivariance_torch") is None, reason="cuequivariance-torch is not installed here")
def test_cuequivariance_changes_no_force_and_no_weight(trained: Path, alloys: list[Atoms]) -> None:
    from mlip.potential.mace.network import (
        Architecture,
        build_network,
        convert_network,
        join_graphs,
        make_graph,
        uses_cueq,
    )

    assert uses_cueq("cuda:1", True) == (find_spec("cuequivariance_ops_torch") is not None)
    assert not uses_cueq("cuda", False)
    assert not uses_cueq("cpu", True)
    network = build_network(Architecture((29, 79), 4.0, "4x0e + 4x1o", 2, 3, 2, 5, 12.0), seed=1)
    graphs = [make_graph(atoms, (29, 79), 4.0) for atoms in alloys[:3]]
    before = {name: tensor.clone() for name, tensor in network.named_parameters()}
    forces = []
    for module in (None, "mace.cli.convert_e3nn_cueq", "mace.cli.convert_cueq_e3nn"):
        network = convert_network(network, module, "cpu") if module else network
        output = network(join_graphs(graphs, 2, 0, "cpu", torch.float64))
        forces.append(output["forces"].detach().numpy())
    np.testing.assert_allclose(forces[1:], [forces[0]] * 2, rtol=1e-9, atol=1e-12 * np.abs(forces[0]).max())
    for name, tensor in network.named_parameters():
        torch.testing.assert_close(tensor, before[name])
    if torch.cuda.is_available():
        a, b = (load_potential(trained, device=device).predict(alloys[:2])[0] for device in ("cpu", "cuda"))
        np.testing.assert_allclose(a.forces_members, b.forces_members, atol=1e-5)


@pytest.mark.slow
def test_the_loop_runs_with_mace(tmp_path: Path) -> None:
    config = yaml.safe_load(TINY.read_text())
    config["train"] = SMALL.model_dump(mode="json", include={"backend", "cutoff", "committee_size", "batch_size"})
    config["train"] |= {"n_steps": 10, "mace": SIZE}
    # A potential that knows next to nothing must neither stop its walker nor discard all that it sees.
    config["label"]["n_shards"] = 1
    config["explore"] = {"walkers": [{"temperatures": [300]}], "n_steps": 10, "sample_every": 2, "max_uncertainty": 1e6}
    config["select"] |= {"max_energy": 1e6}
    config["assess"] |= {"eos_volumes": []}  # nor has it to have a minimum
    loop = Workflow(tmp_path, config)
    loop.snakemake("--cores", "2")
    summary = json.loads((loop.results / "summary.json").read_text())
    assert summary["iterations"] == 2
    description = json.loads((loop.results / "potential/potential.json").read_text())
    assert description["backend"] == "mace"
    assert load_potential(loop.results / "potential").species == ("Cu",)
    assert loop.plan() == []


def test_fewer_than_two_members_are_refused() -> None:
    with pytest.raises(ValueError, match="committee of 2"):
        Train(backend="mace", committee_size=1, uncertainty="last_layer")
