"""Walkers of slabs, of scheduled temperatures, of supercells and of other starts, with EMT in the committee's place."""

from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest
import xarray as xr
from ase import Atoms
from ase.build import add_adsorbate, bulk, fcc111
from ase.calculators.calculator import Calculator, all_changes
from ase.calculators.emt import EMT
from ase.constraints import FixAtoms
from ase.io import write

from mlip.config.label import Guards
from mlip.config.loop import Assess, Explore, Select, Stage
from mlip.config.structures import Bulk, StartingStructure
from mlip.config.walkers import WalkerPlan
from mlip.io.extxyz import read_structures, write_structures
from mlip.io.files import read_table, write_json
from mlip.io.netcdf import read_netcdf, write_netcdf
from mlip.io.trajectory import Frame, read_frames
from mlip.loop.assess_potential import Explored, find_unaudited, list_criteria
from mlip.loop.explore_walkers import WalkerRequest, explore_walker, run_walker
from mlip.loop.score_frames import ScoreRequest, score_frames
from mlip.loop.select_candidates import screen_frames, select_candidates
from mlip.structures.cutting import cut_block
from mlip.structures.kinds import dissect
from mlip.structures.starting import StructureError


@pytest.fixture(autouse=True)
def far_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing here comes too near: no neighbour lists, which would take most of the time."""
    monkeypatch.setattr("mlip.loop.explore_walkers.min_distance_ratio", lambda atoms: 1.0)


COPPER = StartingStructure(bulk=Bulk(name="Cu", a=3.61))


class CertainEMT(EMT):
    """EMT that is never unsure."""

    def calculate(self, atoms=None, properties=("energy",), system_changes=tuple(all_changes)) -> None:
        super().calculate(atoms, properties, system_changes)
        self.results["force_uncertainty"] = 0.1 + 0.01 * np.arange(len(atoms)) / len(atoms)


class EinsteinCrystal(Calculator):
    """Each atom on its own spring (2 eV/Å²), and never unsure: what a thermostat does with it is known exactly."""

    implemented_properties = ("energy", "forces")

    def __init__(self, atoms: Atoms) -> None:
        super().__init__()
        self.sites = atoms.positions.copy()

    def calculate(self, atoms=None, properties=("energy",), system_changes=tuple(all_changes)) -> None:
        super().calculate(atoms, properties, system_changes)
        away = atoms.positions - self.sites
        energy, uncertainty = float((away**2).sum()), np.full(len(atoms), 0.1)
        self.results = {"energy": energy, "forces": -2 * away, "force_uncertainty": uncertainty}


def slab(*, periodic: bool = True, fixed: int = 0, a: float = 3.61, size: int = 2) -> Atoms:
    atoms = fcc111("Cu", size=(size, size, 4), a=a, vacuum=6.0, periodic=periodic)
    if fixed:
        atoms.set_constraint(FixAtoms(mask=atoms.get_tags() > 4 - fixed))
    return atoms


def walk(atoms: Atoms, n_steps: int = 400, timestep: float = 4.0, seed: int = 1, **plan: object) -> list[Frame]:
    atoms.calc = atoms.calc or CertainEMT()
    values = {"ensemble": "nvt", "temperature": 300.0, "volume": 0.0, "pressure": 0.0, **plan}
    settings = Explore(n_steps=n_steps, sample_every=10, timestep=timestep, max_uncertainty=1.0, friction=0.02)
    walker = WalkerPlan(source=COPPER, **values)
    frames, reason = run_walker(atoms, walker, settings, np.random.default_rng(seed))
    assert reason == "finished"
    return frames


def explore(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, plan: WalkerPlan, **options: object) -> tuple:
    monkeypatch.setattr("mlip.potential.calculator.load_calculator", lambda folder, device, precision: CertainEMT())
    settings = Explore(n_steps=20, sample_every=10, timestep=2.0)
    values = {"seed": 1, "iteration": 1, "walker": 0, "out": tmp_path / "walker.nc", **options}
    explore_walker(WalkerRequest(tmp_path, plan, settings, **values))
    return read_frames(values["out"])


def test_half_a_slab_fixed_stays_and_the_rest_has_its_temperature() -> None:
    atoms = slab(fixed=2)
    start = atoms.positions.copy()
    atoms.calc = EinsteinCrystal(atoms)
    frames = walk(atoms, n_steps=2500, temperature=300.0)
    fixed, free = atoms.get_tags() > 2, atoms.get_tags() <= 2
    for frame in frames:
        assert np.array_equal(frame.atoms.positions[fixed], start[fixed])
    assert np.abs(frames[-1].atoms.positions[free] - start[free]).max() > 0.02
    # 24 degrees of freedom for some 100 relaxation times. With all 48 counted it would be 150 K.
    assert np.mean([f.temperature for f in frames[25:]]) == pytest.approx(300, rel=0.12)


@pytest.mark.parametrize("ensemble", ["npt", "npt-flexible"])
@pytest.mark.parametrize("periodic", [True, False])
def test_the_cell_of_a_slab_breathes_in_its_plane_alone(ensemble: str, periodic: bool) -> None:
    atoms = slab(periodic=periodic, a=3.75, size=1)
    cell, pbc = atoms.cell.array.copy(), atoms.pbc.copy()
    frames = walk(atoms, n_steps=500, ensemble=ensemble, temperature=100.0)
    areas = [float(np.linalg.norm(np.cross(f.atoms.cell[0], f.atoms.cell[1]))) for f in frames]
    area = float(np.linalg.norm(np.cross(cell[0], cell[1])))
    for frame in frames:
        assert np.array_equal(frame.atoms.cell.array[2], cell[2])
        assert np.allclose(frame.atoms.cell.array[:2, 2], 0, atol=1e-12)
        assert np.array_equal(frame.atoms.pbc, pbc)
    # Stretched by 4 % each way it shrinks, to less than a crystal of a = 3.61 for its surfaces pull.
    assert np.mean(areas[25:]) == pytest.approx(area * (3.58 / 3.75) ** 2, rel=0.02)
    shape = frames[-1].atoms.cell.array[:2] / np.sqrt(areas[-1] / area)
    assert np.allclose(shape, cell[:2], atol=1e-9) == (ensemble == "npt")
    pressures = [f.pressure for f in frames]
    assert np.isnan(pressures).all() == (not periodic)
    if periodic:
        assert pressures[0] < -1
        assert np.mean(pressures[25:]) == pytest.approx(0, abs=0.4)


def test_fixed_atoms_of_a_breathing_slab_keep_their_fractional_coordinates() -> None:
    atoms = slab(fixed=2, a=3.70)
    start = atoms.get_scaled_positions()[:, :2]
    fixed = atoms.get_tags() > 2
    frames = walk(atoms, ensemble="npt")
    assert frames[-1].atoms.get_volume() < 0.99 * frames[0].atoms.get_volume()
    found = frames[-1].atoms.get_scaled_positions()[:, :2]
    assert np.allclose((found - start + 0.5)[fixed] % 1, 0.5, atol=1e-9)


def test_a_ramp_reaches_its_temperatures_and_pressures() -> None:
    schedule = (Stage(time=0, temperature=50), Stage(time=8000, temperature=450), Stage(time=10000, temperature=100))
    crystal = bulk("Cu", cubic=True).repeat(2)
    crystal.calc = EinsteinCrystal(crystal)
    frames = walk(crystal, n_steps=3000, temperature=50.0, schedule=schedule)
    times, measured = np.array([f.time for f in frames]), np.array([f.temperature for f in frames])
    targets = [f.target_temperature for f in frames]
    assert targets[0] == 50.0
    assert targets[100] == pytest.approx(250.0)
    assert targets[200] == pytest.approx(450.0)
    assert targets[-1] == 100.0
    for begin, end, mean in ((3000, 5000, 250), (7000, 8000, 425), (10600, 12000, 100)):
        assert measured[(times > begin) & (times < end)].mean() == pytest.approx(mean, rel=0.2)


def test_a_scheduled_pressure_is_reached() -> None:
    schedule = (Stage(time=0, pressure=0), Stage(time=1000, pressure=30), Stage(time=1200, pressure=30))
    frames = walk(bulk("Cu", cubic=True), n_steps=600, ensemble="npt", schedule=schedule)
    assert np.mean([f.pressure for f in frames[-20:]]) == pytest.approx(30, rel=0.15)
    assert [frames[k].target_pressure for k in (0, 25, 60)] == pytest.approx([0.0, 30.0, 30.0])
    assert {f.target_temperature for f in frames} == {300.0}


def test_heavier_atoms_are_slower_by_the_root_of_the_mass(tmp_path, monkeypatch) -> None:
    speeds = {}
    for name, mass in (("H", None), ("D", 2.014)):
        atoms = bulk("Cu", cubic=True).repeat(2)
        add = Atoms("H8", positions=bulk("Cu", cubic=True).repeat(2).positions[::4] + [1.8, 0, 0])
        atoms += add
        if mass:
            atoms.set_masses([mass if s == "H" else None for s in atoms.get_chemical_symbols()])
        path = tmp_path / f"{name}.traj"
        write(path, atoms)
        seen = []

        class Speeds(CertainEMT):
            def calculate(self, atoms=None, *arguments, seen=seen) -> None:
                if atoms.get_momenta().any() and not seen:
                    seen.append(atoms.get_velocities()[atoms.symbols == "H"])
                super().calculate(atoms, *arguments)

        monkeypatch.setattr("mlip.potential.calculator.load_calculator", lambda *a, kind=Speeds, **k: kind())
        plan = WalkerPlan(
            source=StartingStructure(file=str(path)), ensemble="nvt", temperature=300.0, volume=0.0, pressure=0.0
        )
        settings = Explore(n_steps=1, sample_every=1, timestep=0.1)
        explore_walker(WalkerRequest(tmp_path, plan, settings, tmp_path / "walker.nc", seed=1, iteration=0, walker=0))
        speeds[name] = float(np.sqrt(np.mean(seen[0] ** 2)))
    # The same random numbers; the drift that is taken from all atoms differs a little.
    assert speeds["H"] / speeds["D"] == pytest.approx(np.sqrt(2.014 / 1.008), rel=0.01)


def test_frames_of_a_slab_have_its_fixed_atoms(tmp_path, monkeypatch) -> None:
    path = tmp_path / "slab.traj"
    write(path, slab(fixed=2))
    plan = WalkerPlan(
        source=StartingStructure(file=str(path)),
        source_number=2,
        ensemble="nvt",
        temperature=300.0,
        volume=0.1,
        pressure=0.0,
        repeat=(2, 1, 1),
    )
    structures, data = explore(tmp_path, monkeypatch, plan)
    assert len(structures[-1]) == 32
    assert structures[-1].constraints[0].index.tolist() == [k for k in range(32) if k % 16 < 8]
    assert int(data.attrs["source"]) == 2
    # The strain of a crystal 10 % larger, in the plane only.
    stretch = np.diag([2 * 1.1 ** (1 / 3), 1.1 ** (1 / 3), 1])
    assert np.allclose(structures[0].cell.array, stretch @ slab().cell.array)
    assert structures[0].cell.array[2, 2] == slab().cell.array[2, 2]


def test_walkers_go_on_from_the_last_frames(tmp_path, monkeypatch) -> None:
    base = {"source": COPPER, "ensemble": "nvt", "temperature": 300.0, "volume": 0.05, "pressure": 0.0}
    first, _ = explore(tmp_path, monkeypatch, WalkerPlan(**base), iteration=0, out=tmp_path / "before.nc")
    plan = WalkerPlan(**base, start="last")
    structures, data = explore(tmp_path, monkeypatch, plan, last=[tmp_path / "before.nc"])
    assert np.array_equal(structures[0].positions, first[-1].positions)
    assert np.array_equal(structures[0].cell.array, first[-1].cell.array)
    assert data.attrs["start"] == "last"
    assert data.attrs["start_frame"] == "iter_00-walker_00-frame_0002"
    ideal, _ = explore(tmp_path, monkeypatch, plan)
    assert not np.array_equal(ideal[0].positions, first[-1].positions)


def test_walkers_start_from_uncertain_frames_of_their_own_structure(tmp_path, monkeypatch) -> None:
    frames = []
    for k, (reason, source, n) in enumerate(
        [("audit", 0, 1), ("uncertain", 1, 1), ("uncertain", 0, 2), ("uncertain", 0, 1)]
    ):
        atoms = bulk("Cu", cubic=True).repeat((n, 1, 1))
        atoms.positions += 0.01 * (k + 1)
        atoms.info = {"structure_id": f"frame-{k}", "reason": reason, "source": source}
        frames.append(atoms)
    write_structures(tmp_path / "candidates.extxyz", frames)
    plan = WalkerPlan(source=COPPER, ensemble="nvt", temperature=300.0, volume=0.0, pressure=0.0, start="uncertain")
    structures, data = explore(tmp_path, monkeypatch, plan, uncertain=[tmp_path / "candidates.extxyz"])
    assert np.array_equal(structures[0].positions, frames[3].positions)
    assert data.attrs["start_frame"] == "frame-3"
    _, data = explore(tmp_path, monkeypatch, plan, uncertain=[])
    assert (data.attrs["start"], data.attrs["start_frame"]) == ("ideal", "")


class FakePotential:
    """EMT in the committee's place when frames are scored; unsure of the atom with the largest force."""

    species = ("Cu",)
    shortest_distances: ClassVar[dict[str, float]] = {}

    def embed(self, structures: list[Atoms]) -> list[np.ndarray]:
        return [np.sort(a.get_all_distances(mic=True), axis=1)[:, 1:3] for a in structures]

    def predict(self, structures: list[Atoms]) -> list[SimpleNamespace]:
        found = []
        for atoms in structures:
            atoms.calc = EMT()
            forces = np.linalg.norm(atoms.get_forces(), axis=1)
            found.append(SimpleNamespace(energy=atoms.get_potential_energy(), force_uncertainty=0.1 + 0.1 * forces))
        return found


def label(atoms: Atoms, source: int) -> Atoms:
    atoms = atoms.copy()
    atoms.calc = EMT()
    atoms.get_forces()
    atoms.info["source"] = source
    return atoms


def score(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, training: list[Atoms], walkers: list[Path], **options: int):
    monkeypatch.setattr("mlip.loop.score_frames.load_potential", lambda *a, **k: FakePotential())
    write_json(tmp_path / "training.json", {}, checked=True)
    for name, structures in (("train", training), ("valid", []), ("test", [])):
        write_structures(tmp_path / f"{name}.extxyz", structures)
    score_frames(ScoreRequest(walkers, tmp_path, tmp_path, [], tmp_path, seed=1, **options))
    return read_netcdf(tmp_path / "frames.nc")


def test_energies_compare_within_a_starting_structure(tmp_path, monkeypatch) -> None:
    trimer = Atoms("Cu3", positions=[[0, 0, 0], [2.4, 0, 0], [1.2, 2.1, 0]])
    write(tmp_path / "trimer.xyz", trimer)
    base = {"ensemble": "nvt", "temperature": 100.0, "volume": 0.0, "pressure": 0.0}
    sources = [COPPER, StartingStructure(file=str(tmp_path / "trimer.xyz"))]
    walkers = [tmp_path / f"walker_{k:02d}.nc" for k in range(2)]
    for number, source in enumerate(sources):
        plan = WalkerPlan(source=source, source_number=number, **base)
        explore(tmp_path, monkeypatch, plan, walker=number, out=walkers[number])
    training = [label(bulk("Cu", cubic=True), 0), label(trimer, 1)]
    gap = training[1].get_potential_energy() / 3 - training[0].get_potential_energy() / 4
    assert gap > 1.2, "the trimer is far above the crystal"
    table = score(tmp_path, monkeypatch, training, walkers)
    above = table.energy_above_lowest.values
    assert (np.abs(above) < 0.1).all()
    assert set(table.source.values[table.walker.values == 1]) == {1}
    assert all(verdict.decision == "open" for verdict in screen_frames(table, Select(min_novelty=0, max_energy=1), 0.5))
    # Labels that do not say what they come from are compared by composition, as they were.
    for atoms in training:
        atoms.info = {}
    above = score(tmp_path, monkeypatch, training, walkers).energy_above_lowest.values
    assert above[table.walker.values == 1].min() > 0.9 * gap


def test_frames_of_a_supercell_are_labelled_in_the_starting_structure_s_cell(tmp_path, monkeypatch) -> None:
    plan = WalkerPlan(source=COPPER, ensemble="nvt", temperature=300.0, volume=0.0, pressure=0.0, repeat=(2, 1, 1))
    frames, _ = explore(tmp_path, monkeypatch, plan, iteration=0, out=tmp_path / "walker_00.nc")
    training = [label(bulk("Cu", cubic=True), 0)]
    table = score(tmp_path, monkeypatch, training, [tmp_path / "walker_00.nc"])
    assert table.n_atoms.values.tolist() == [4, 4, 4]
    assert table.n_atoms_explored.values.tolist() == [8, 8, 8]
    assert (table.cut_atom.values == 7).all(), "the most uncertain one of the walker"
    piece = label(cut_block(frames[2], (2, 1, 1), (1, 1, 1), 7), 0)
    assert table.energy_per_atom.values[2] == pytest.approx(piece.get_potential_energy() / 4)
    select = {"guards": Guards(), "seed": 1, "iteration": 0, "decisions": tmp_path / "decisions.csv"}
    settings = Select(n_structures=2, n_audit=1, min_novelty=0)
    out = tmp_path / "candidates.extxyz"
    select_candidates(tmp_path, [tmp_path / "walker_00.nc"], settings=settings, out=out, **select)
    chosen = read_structures(out)
    assert {len(atoms) for atoms in chosen} == {4}
    decisions = read_table(tmp_path / "decisions.csv")
    assert set(decisions["n_atoms"]) == {4}
    assert decisions["reason"].str.endswith("4 of 8 atoms, cut around atom 7").all()
    whole = score(tmp_path, monkeypatch, training, [tmp_path / "walker_00.nc"], max_atoms=8)
    assert whole.n_atoms.values.tolist() == [8, 8, 8]
    assert (whole.cut_atom.values == -1).all()
    small = score(tmp_path, monkeypatch, training, [tmp_path / "walker_00.nc"], max_atoms=3)
    verdicts = screen_frames(small, Select(max_atoms=3), 0.5)
    assert all(
        (verdict.decision, verdict.reason) == ("broken", "too large: 8 atoms that cannot be cut to select.max_atoms 3")
        for verdict in verdicts
    )


def test_what_the_audit_cannot_vouch_for_is_named_and_keeps_the_loop_going(tmp_path) -> None:
    columns = {
        "walker": [0, 0, 1, 1, 2],
        "regular": [1] * 5,
        "time_fs": [0.0, 20, 0, 20, 0],
        "energy_above_lowest": [0, 0.1, 0, 9, 0],
        "min_distance_ratio": [0.9] * 5,
        "force_uncertainty": [0.1] * 5,
        "novelty": [1.0] * 5,
        "n_atoms": [4] * 5,
    }
    table = xr.Dataset({name: ("candidate", np.array(values, float)) for name, values in columns.items()})
    table["explorer"] = ("explorer", [0, 1, 2])
    table["explorer_source"] = ("explorer", [0, 1, 2])
    table["stop_reason"] = ("explorer", np.array(["finished", "finished", "exploded"], dtype=object))
    write_netcdf(tmp_path / "frames.nc", table)
    audited = bulk("Cu", cubic=True)
    audited.info = {"reason": "audit", "source": 0}
    for name, atoms in (("train", [audited]), ("valid", []), ("test", [])):
        write_structures(tmp_path / f"{name}.extxyz", atoms)
    request = SimpleNamespace(
        frames=tmp_path / "frames.nc", dataset=tmp_path, select=Select(), min_ratio=0.5, old=tmp_path
    )
    found = find_unaudited(request, Explored.read(request))
    assert found == {"walkers": ["walker 1"], "structures": ["structure 1", "structure 2"]}
    errors = {"fresh": None, "audit": None, "calibration": None}
    exploration = {"n_walkers": 3, "n_exploded": 1, "n_uncertain": 0, "unaudited": found}
    criterion = list_criteria(errors, {}, exploration, Assess())[-1]
    assert (criterion.value, criterion.target, criterion.passed) == (3.0, 0.0, False)
    assert criterion.remedy.startswith("walker 1, structure 1, structure 2: ")
    without = list_criteria(errors, {}, exploration, Assess(audit_force_rmse=None))
    assert not any("without an audit" in criterion.name for criterion in without)
    first = SimpleNamespace(**{**vars(request), "old": None})
    assert find_unaudited(first, Explored.read(first))["structures"] == []


def test_molecules_have_no_pressure_to_be_held_at(tmp_path, monkeypatch) -> None:
    path = tmp_path / "trimer.xyz"
    write(path, Atoms("Cu3", positions=[[0, 0, 0], [2.4, 0, 0], [0, 2.4, 0]]))
    plan = WalkerPlan(
        source=StartingStructure(file=str(path)), ensemble="npt", temperature=300.0, volume=0.0, pressure=0.0
    )
    with pytest.raises(
        StructureError, match=r"trimer\.xyz: `npt` walkers need .* `ensemble: nvt`, .* without number 0"
    ) as error:
        explore(tmp_path, monkeypatch, plan)
    assert "explore: {walkers: [{ensemble: nvt, temperatures: ladder}]}" in str(error.value)


def test_an_adsorbate_does_not_make_a_slab_something_else() -> None:
    atoms = slab(fixed=2)
    add_adsorbate(atoms, "O", 1.3, "fcc")
    assert dissect(atoms).kind == "slab"
    assert np.allclose(dissect(atoms).projector, np.diag([1, 1, 0]))


def test_a_walker_runs_as_long_as_its_group_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = WalkerPlan(source=COPPER, ensemble="nvt", temperature=300.0, volume=0.0, pressure=0.0, n_steps=30)
    told: list[dict] = []
    frames, data = explore(tmp_path, monkeypatch, plan, progress=told.append)
    assert (len(frames), data.attrs["planned_time_fs"]) == (4, 60.0)
    assert told[-1]["n_steps"] == 30
