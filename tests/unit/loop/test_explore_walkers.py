"""Walkers: finished, uncertain or exploded, and never a broken frame kept.

EMT stands in for the committee: the point is when a walker stops, not how atoms move.
"""

from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pandas as pd
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.calculator import all_changes
from ase.calculators.emt import EMT
from ase.io import write

from mlip.config.label import Guards
from mlip.config.loop import Explore, Select
from mlip.config.structures import Bulk, StartingStructure
from mlip.config.walkers import WalkerPlan
from mlip.io.extxyz import read_structures, write_structures
from mlip.io.files import write_json
from mlip.io.netcdf import TrajectoryError, read_netcdf
from mlip.io.trajectory import read_frames, write_trajectory
from mlip.loop.assess_potential import Explored, find_unaudited
from mlip.loop.explore_walkers import WalkerRequest, explore_walker, run_walker
from mlip.loop.score_frames import ScoreRequest, score_frames
from mlip.loop.select_candidates import auditable, screen_frames, select_candidates
from mlip.potential.expected_error import ErrorScale
from mlip.structures.neighbors import find_pairs


class WatchedEMT(EMT):
    """EMT whose uncertainty jumps, or whose energy fails, from a given call on."""

    def __init__(self, uncertain_at: int = 10**9, explode_at: int = 10**9) -> None:
        super().__init__()
        self.fault: Exception | None = None
        self.kick = 0.0
        self.calls, self.uncertain_at, self.explode_at = 0, uncertain_at, explode_at

    def calculate(self, atoms=None, properties=("energy",), system_changes=tuple(all_changes)) -> None:
        assert np.abs(atoms.positions).max() < 1e7, "asked for a broken structure"
        assert np.isfinite(atoms.cell.array).all(), "asked for a broken cell"
        self.calls += 1
        if self.fault and self.calls > 5:
            raise self.fault
        super().calculate(atoms, properties, system_changes)
        if self.kick and self.calls > 5:
            self.results["forces"] = np.full((len(atoms), 3), self.kick)
        self.results["force_uncertainty"] = np.full(len(self.atoms), 9.0 if self.calls > self.uncertain_at else 0.1)
        if self.calls > self.explode_at:
            self.results["energy"] = np.nan


def walk(calculator: EMT, ensemble: str = "nvt", n_steps: int = 60, **plan: float):
    atoms = bulk("Cu", cubic=True)
    atoms.calc = calculator
    source = StartingStructure(bulk=Bulk(name="Cu"))
    values = {"temperature": 300.0, "volume": 0.0, "pressure": 0.0, **plan}
    settings = Explore(n_steps=n_steps, sample_every=10, timestep=2.0, max_uncertainty=1.0)
    walker = WalkerPlan(source=source, ensemble=ensemble, **values)
    return atoms, *run_walker(atoms, walker, settings, np.random.default_rng(3))


def test_finished_walker_has_every_sample() -> None:
    _, frames, reason = walk(WatchedEMT())
    assert reason == "finished"
    assert [f.time for f in frames] == [20.0 * k for k in range(7)]


def test_uncertain_walker_stops_and_keeps_the_frame_that_crossed() -> None:
    _, frames, reason = walk(WatchedEMT(uncertain_at=25))
    assert reason == "uncertain"
    assert frames[-1].force_uncertainty.max() > 1.0
    assert all(f.force_uncertainty.max() <= 1.0 for f in frames[:-1])
    assert frames[-1].time < 60 * 2.0


def test_exploded_walker_keeps_only_sane_frames() -> None:
    _, frames, reason = walk(WatchedEMT(explode_at=25))
    assert reason == "exploded"
    assert frames
    assert all(np.isfinite(f.energy) and np.isfinite(f.atoms.positions).all() for f in frames)
    assert frames[-1].time % 20 != 0, "the last sane frame lies between two samples"


def test_collapsing_crystal_is_an_explosion_not_data() -> None:
    _, frames, reason = walk(WatchedEMT(), temperature=1e6)
    assert reason == "exploded"
    assert all(f.min_distance_ratio >= 0.45 for f in frames)


class RareEMT(WatchedEMT):
    """EMT whose uncertainties have a tail, and whose energy falls into a hole on demand."""

    def __init__(self, hole: float = 0.0) -> None:
        super().__init__()
        self.hole = hole

    def calculate(self, atoms=None, properties=("energy",), system_changes=tuple(all_changes)) -> None:
        super().calculate(atoms, properties, system_changes)
        tail = 0.2 + np.random.default_rng(1).exponential(0.12, len(atoms))
        self.results["force_uncertainty"] = tail
        if self.calls > 10:
            self.results["energy"] -= self.hole * len(atoms)


def walk_cells(repeat: int, *, scale: ErrorScale | None, hole: float = 0.0, **settings: object):
    atoms = bulk("Cu", cubic=True) * (repeat, repeat, repeat)
    atoms.calc = RareEMT(hole)
    plan = WalkerPlan(
        source=StartingStructure(bulk=Bulk(name="Cu")), ensemble="nvt", temperature=300, volume=0.0, pressure=0.0
    )
    given = Explore(n_steps=20, sample_every=10, timestep=2.0, **settings)
    frames, reason = run_walker(atoms, plan, given, np.random.default_rng(3), scale=scale)
    return atoms.calc.results["force_uncertainty"].max(), reason, frames


def test_large_cells_stop_no_sooner_than_small_ones() -> None:
    """By the largest uncertainty of an atom, the large cell would stop where the small one goes on."""
    scale = ErrorScale(1.0, rms_force=0.4)
    (small, first, _), (large, second, _) = (walk_cells(n, scale=scale) for n in (1, 4))
    assert large > 1.2 > 1.0 > small
    assert (first, second) == ("finished", "finished")
    assert walk_cells(4, scale=scale, max_uncertainty=1.0)[1] == "uncertain"
    assert [walk_cells(n, scale=ErrorScale(1.0, rms_force=0.1))[1] for n in (1, 4)] == ["uncertain", "uncertain"]
    assert walk_cells(1, scale=ErrorScale(1.0, rms_force=0.1), max_relative_error=None)[1] == "finished"
    assert walk_cells(1, scale=None)[1] == "finished"


def test_limits_are_relative_to_the_forces_of_the_walkers_own_structure(tmp_path) -> None:
    told = {
        "rms_force": {"all": 1.0, "structures": {"0": 2.0, "1": 0.1}},
        "uncertainty": {"error_over_expected": {"all": 0.5, "structures": {"1": 0.7}}},
    }
    write_json(tmp_path / "training.json", told, checked=True)
    uncertainty = np.full(8, 3**0.5)
    found = [ErrorScale.read(tmp_path / "training.json", source) for source in range(3)]
    assert [scale.relative_error(uncertainty) for scale in found] == pytest.approx([0.25, 7.0, 0.5])
    write_json(tmp_path / "training.json", {"n_train": 3}, checked=True)
    assert ErrorScale.read(tmp_path / "training.json", 0) is None


def test_a_hole_in_the_potential_is_an_explosion() -> None:
    assert walk_cells(1, scale=None, hole=4.0)[1] == "finished"
    _, reason, frames = walk_cells(1, scale=None, hole=6.0)
    assert reason == "exploded"
    assert np.ptp([f.energy for f in frames]) < 6.0 * 4


@pytest.mark.parametrize("fault", [RuntimeError("CUDA out of memory"), ValueError("a bug"), MemoryError()])
def test_a_failing_program_is_no_explosion(fault: Exception) -> None:
    calculator = WatchedEMT()
    calculator.fault = fault
    with pytest.raises(type(fault)):
        walk(calculator)


@pytest.mark.parametrize("ensemble", ["nvt", "npt", "npt-flexible"])
@pytest.mark.parametrize("kick", [np.nan, 1e12, 1e200])
def test_broken_structures_never_reach_the_calculator(ensemble: str, kick: float) -> None:
    calculator = WatchedEMT()
    calculator.kick = kick
    _, frames, reason = walk(calculator, ensemble=ensemble)
    assert reason == "exploded"
    assert all(np.isfinite(f.atoms.positions).all() for f in frames)


def test_a_cell_that_runs_away_is_an_explosion_before_its_forces_are_asked() -> None:
    calculator = WatchedEMT()
    volumes = []
    calculate = calculator.calculate

    def record(atoms, *args) -> None:
        volumes.append(atoms.get_volume())
        calculate(atoms, *args)

    calculator.calculate = record
    _, _, reason = walk(calculator, ensemble="npt", n_steps=300, pressure=-2000.0)
    assert reason == "exploded"
    assert max(volumes) < 2 * volumes[0]


def test_regular_samples_are_told_from_the_extra_ones() -> None:
    _, frames, reason = walk(WatchedEMT(uncertain_at=25))
    assert reason == "uncertain"
    assert [f.regular for f in frames] == [f.time % 20 == 0 for f in frames]
    assert not all(f.regular for f in frames)


@pytest.mark.parametrize(("limits", "reason", "n_frames"), [((0, 99), "uncertain", 1), ((99, 0), "exploded", 0)])
def test_walkers_that_stop_at_once(limits: tuple[int, int], reason: str, n_frames: int) -> None:
    _, frames, found = walk(WatchedEMT(*limits))
    assert (found, len(frames)) == (reason, n_frames)


class SplitEMT(WatchedEMT):
    """EMT with two members that disagree on how hard it is to leave the sites."""

    def calculate(self, atoms=None, properties=("energy",), system_changes=tuple(all_changes)) -> None:
        super().calculate(atoms, properties, system_changes)
        sides = np.array([-1.0, 1.0])
        self.results["energy_members"] = self.results["energy"] * (1 + 0.01 * sides)
        self.results["forces_members"] = self.results["forces"] * (1 + 0.01 * sides[:, None, None])


class FakePotential:
    """Describes a structure by its distances; enough for novelty."""

    species = ("Cu",)
    shortest_distances: ClassVar[dict[str, float]] = {"Cu-Cu": 2.5}

    def embed(self, structures: list[Atoms]) -> list[np.ndarray]:
        return [np.sort(a.get_all_distances(mic=True), axis=1)[:, 1:] for a in structures]


def explore_and_select(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, calculators: list[EMT], bias: float = 0.0
) -> list[Atoms]:
    """Walkers driven by ``calculators``, the last with a ``bias``, one after the other, then scored and selected."""
    start = bulk("Cu", cubic=True)
    start.set_initial_magnetic_moments([1.5, -1.5, 0.25, 0.0])
    start.set_initial_charges([0.5, -0.5, 0.0, 0.0])
    write(tmp_path / "start.traj", start)
    known = start.copy()
    known.calc = EMT()
    known.get_potential_energy()
    write_structures(tmp_path / "train.extxyz", [known])
    monkeypatch.setattr("mlip.loop.score_frames.load_potential", lambda folder, device, precision: FakePotential())
    usual = {"50": 0.05, "95": 0.15, "99": 0.25}
    write_json(
        tmp_path / "training.json",
        {"uncertainty": {"source": "validation", "shift": {"force_uncertainty": usual}}},
        checked=True,
    )
    plan = WalkerPlan(
        source=StartingStructure(file=str(tmp_path / "start.traj")),
        source_number=2,
        ensemble="nvt",
        temperature=600.0,
        volume=0.02,
        pressure=0.0,
    )
    settings = Explore(n_steps=60, sample_every=10, timestep=2.0, max_uncertainty=1.0)
    walkers = [tmp_path / f"walker_{k:02d}.nc" for k in range(len(calculators))]
    for number, (path, calculator) in enumerate(zip(walkers, calculators, strict=True)):
        monkeypatch.setattr(
            "mlip.potential.calculator.load_calculator", lambda folder, device, precision, calc=calculator: calc
        )
        own = plan.model_copy(update={"uncertainty_bias": bias if path == walkers[-1] else 0.0})
        explore_walker(WalkerRequest(tmp_path, own, settings, path, seed=1, iteration=0, walker=number))
    for name in ("valid", "test"):
        write_structures(tmp_path / f"{name}.extxyz", [])
    score_frames(ScoreRequest(walkers, tmp_path, tmp_path, [], tmp_path, seed=1))
    select_candidates(
        tmp_path,
        walkers,
        settings=Select(n_structures=6, n_audit=2),
        guards=Guards(),
        seed=1,
        iteration=0,
        out=tmp_path / "candidates.extxyz",
        decisions=tmp_path / "decisions.csv",
    )
    return read_structures(tmp_path / "candidates.extxyz")


def test_frames_nearer_than_the_data_say_so_and_are_worth_a_label(tmp_path, monkeypatch) -> None:
    """Pairs below the shortest trained distance are no reason to call a frame broken."""
    monkeypatch.setattr(FakePotential, "shortest_distances", {"Cu-Cu": 2.7})
    chosen = explore_and_select(tmp_path, monkeypatch, [WatchedEMT()])
    frames = read_netcdf(tmp_path / "frames.nc")
    ratios = dict(zip(frames.structure_id.values.tolist(), frames.nearest_pair_ratio.values.tolist(), strict=True))
    assert len(chosen) == 6
    for atoms in chosen:
        nearest = find_pairs(atoms, 4.0).distances.min()
        assert ratios[atoms.info["structure_id"]] == pytest.approx(nearest / 2.7, rel=1e-4)
        assert nearest < 2.7
    assert not (pd.read_csv(tmp_path / "decisions.csv").decision == "broken").any()


def test_candidates_keep_initial_moments_and_charges(tmp_path, monkeypatch) -> None:
    chosen = explore_and_select(tmp_path, monkeypatch, [WatchedEMT(), WatchedEMT(uncertain_at=35)])
    assert len(chosen) == 6
    for atoms in chosen:
        assert atoms.get_initial_magnetic_moments().tolist() == [1.5, -1.5, 0.25, 0.0]
        assert atoms.get_initial_charges().tolist() == [0.5, -0.5, 0.0, 0.0]
        assert atoms.info["source"] == 2
    audits = [a for a in chosen if a.info["reason"] == "audit"]
    assert len(audits) == 2
    assert all(a.info["time_fs"] > 0 and a.info["time_fs"] % 20 == 0 for a in audits)


def test_structures_without_moments_get_none(tmp_path) -> None:
    atoms, frames, _ = walk(WatchedEMT())
    write_trajectory(tmp_path / "walker.nc", atoms, frames, {"walker": 0})
    structures, _ = read_frames(tmp_path / "walker.nc")
    assert not any(a.has("initial_magmoms") or a.has("initial_charges") for a in structures)


def test_non_collinear_moments_survive(tmp_path) -> None:
    atoms, frames, _ = walk(WatchedEMT())
    moments = np.arange(12.0).reshape(4, 3)
    atoms.set_initial_magnetic_moments(moments)
    write_trajectory(tmp_path / "walker.nc", atoms, frames, {"walker": 0})
    structures, _ = read_frames(tmp_path / "walker.nc")
    assert np.array_equal(structures[-1].get_initial_magnetic_moments(), moments)


def test_walkers_without_frames_are_counted_and_passed_over(tmp_path, monkeypatch) -> None:
    chosen = explore_and_select(tmp_path, monkeypatch, [WatchedEMT(explode_at=0), WatchedEMT()])
    assert len(chosen) == 6
    assert {a.info["walker"] for a in chosen} == {1}
    assert read_netcdf(tmp_path / "frames.nc").attrs["n_exploded"] == 1


def test_how_biased_walkers_end_and_where_is_not_held_against_the_potential(tmp_path, monkeypatch) -> None:
    """Nor are they audited, nor missed among the audits; their frames are there to teach."""
    chosen = explore_and_select(tmp_path, monkeypatch, [WatchedEMT(), SplitEMT(uncertain_at=30)], bias=5.0)
    assert {a.info["walker"] for a in chosen if a.info["reason"] == "audit"} == {0}
    assert 1 in {a.info["walker"] for a in chosen if a.info["reason"] == "uncertain"}
    table = read_netcdf(tmp_path / "frames.nc")
    assert [table.attrs[name] for name in ("n_walkers", "n_exploded", "n_uncertain")] == [1, 0, 0]
    assert table.stop_reason.values.tolist() == ["finished", "uncertain"]
    assert set(table.walker.values[table.biased.values == 1]) == {1}
    assert table.attrs["above_99"] == 0.0  # the jump of the biased one is no shift of what the potential meets
    explored = Explored(table, auditable(table, screen_frames(table, Select(), 0.6)))
    assert set(table.walker.values[explored.auditable]) == {0}
    assert find_unaudited(SimpleNamespace(old=None), explored)["walkers"] == []


def test_no_frames_at_all_give_no_candidates(tmp_path, monkeypatch) -> None:
    assert explore_and_select(tmp_path, monkeypatch, [WatchedEMT(explode_at=0), WatchedEMT(explode_at=0)]) == []
    table = read_netcdf(tmp_path / "frames.nc")
    assert table.sizes["candidate"] == 0
    assert (table.attrs["n_walkers"], table.attrs["n_exploded"]) == (2, 2)
    assert len((tmp_path / "decisions.csv").read_text().splitlines()) == 1


def test_shift_counts_atoms_of_planned_frames_above_the_usual(tmp_path, monkeypatch) -> None:
    explore_and_select(tmp_path, monkeypatch, [WatchedEMT(), WatchedEMT(uncertain_at=35)])
    table = read_netcdf(tmp_path / "frames.nc")
    # Planned frames have 0.1 eV/Å at every atom; what the stopped walker kept of its end is no sample.
    assert [table.attrs[f"above_{name}"] for name in ("50", "95", "99")] == [1.0, 0.0, 0.0]
    assert table.force_uncertainty.values.max() == 9.0


def test_npt_finds_the_pressure_it_is_given() -> None:
    _, free, _ = walk(WatchedEMT(), ensemble="npt", n_steps=350)
    _, squeezed, _ = walk(WatchedEMT(), ensemble="npt", n_steps=350, pressure=20.0)

    def volume(frames: list) -> float:
        return float(np.mean([f.atoms.get_volume() for f in frames[-20:]]))

    assert volume(squeezed) < 0.95 * volume(free)
    assert np.mean([f.pressure for f in squeezed[-20:]]) == pytest.approx(20.0, abs=8.0)


def test_same_seed_same_walk() -> None:
    (_, first, _), (_, second, _) = walk(WatchedEMT()), walk(WatchedEMT())
    assert np.array_equal(first[-1].atoms.positions, second[-1].atoms.positions)


def test_trajectory_round_trip_and_damage(tmp_path) -> None:
    atoms, frames, _ = walk(WatchedEMT())
    path = tmp_path / "walker_00.nc"
    write_trajectory(path, atoms, frames, {"walker": 0, "stop_reason": "finished"})
    structures, data = read_frames(path)
    assert np.array_equal(structures[-1].positions, frames[-1].atoms.positions)
    assert data.positions.attrs["units"] == "Å"
    assert data.time.attrs["units"] == "fs"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(TrajectoryError, match="walker_00"):
        read_netcdf(path)
    path.unlink()
    with pytest.raises(TrajectoryError):
        read_netcdf(path)


def test_flipped_bit_never_changes_a_position_silently(tmp_path) -> None:
    atoms, frames, _ = walk(WatchedEMT())
    path = tmp_path / "walker_00.nc"
    write_trajectory(path, atoms, frames, {"walker": 0, "stop_reason": "finished"})
    whole = path.read_bytes()
    expected = np.array([f.atoms.positions for f in frames])
    refused = 0
    for position in range(len(whole) // 4, len(whole), len(whole) // 40):
        damaged = bytearray(whole)
        damaged[position] ^= 0x10
        path.write_bytes(bytes(damaged))
        try:
            structures, _ = read_frames(path)
        except TrajectoryError:
            refused += 1
        else:
            assert np.array_equal([a.positions for a in structures], expected)
    assert refused > 0
