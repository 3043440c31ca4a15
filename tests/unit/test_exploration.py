"""Walkers: finished, uncertain or exploded, and never a broken frame kept.

EMT stands in for the committee: the point is when a walker stops, not how atoms move.
"""

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.calculator import all_changes
from ase.calculators.emt import EMT

from mlip.config import Bulk, Explore, StartingStructure
from mlip.exploration import run_walker
from mlip.trajectory import TrajectoryError, read_frames, read_netcdf, write_trajectory
from mlip.walkers import WalkerPlan


class WatchedEMT(EMT):
    """EMT whose uncertainty jumps, or whose energy fails, from a given call on."""

    def __init__(self, uncertain_at: int = 10**9, explode_at: int = 10**9) -> None:
        super().__init__()
        self.calls, self.uncertain_at, self.explode_at = 0, uncertain_at, explode_at

    def calculate(self, atoms=None, properties=("energy",), system_changes=tuple(all_changes)) -> None:
        super().calculate(atoms, properties, system_changes)
        self.calls += 1
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
