"""Walkers of slabs, of scheduled temperatures, of supercells and of other starts, with EMT in the committee's place."""

from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import add_adsorbate, bulk, fcc111
from ase.calculators.calculator import Calculator, all_changes
from ase.calculators.emt import EMT
from ase.constraints import FixAtoms
from ase.io import write

from mlip.config.loop import Explore, Stage
from mlip.config.structures import Bulk, StartingStructure
from mlip.config.walkers import WalkerPlan
from mlip.io.extxyz import write_structures
from mlip.io.trajectory import Frame, read_frames
from mlip.loop.explore_walkers import explore_walker, run_walker
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
    explore_walker(tmp_path, plan, settings, **values)
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
        explore_walker(tmp_path, plan, settings, seed=1, iteration=0, walker=0, out=tmp_path / "walker.nc")
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


def test_molecules_have_no_pressure_to_be_held_at(tmp_path, monkeypatch) -> None:
    path = tmp_path / "trimer.xyz"
    write(path, Atoms("Cu3", positions=[[0, 0, 0], [2.4, 0, 0], [0, 2.4, 0]]))
    plan = WalkerPlan(
        source=StartingStructure(file=str(path)), ensemble="npt", temperature=300.0, volume=0.0, pressure=0.0
    )
    with pytest.raises(
        StructureError, match=r"trimer\.xyz: `npt` walkers need .* `ensemble: nvt`, .* without number 0"
    ):
        explore(tmp_path, monkeypatch, plan)


def test_an_adsorbate_does_not_make_a_slab_something_else() -> None:
    atoms = slab(fixed=2)
    add_adsorbate(atoms, "O", 1.3, "fcc")
    assert dissect(atoms).kind == "slab"
    assert np.allclose(dissect(atoms).projector, np.diag([1, 1, 0]))
