"""Walkers on a ladder: where they stand, from where they go on, and what is made of how they end."""

from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.calculator import all_changes
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator

from mlip.config.ladder import Ladder, Rung
from mlip.config.loop import Explore
from mlip.config.structures import Bulk, StartingStructure
from mlip.config.walkers import WalkerPlan
from mlip.dynamics.melting import estimate_melting, is_molten, neighbours_left
from mlip.io.files import write_json
from mlip.io.trajectory import read_frames
from mlip.loop.explore_walkers import WalkerRequest, explore_walker
from mlip.potential import Prediction
from mlip.potential.climbing import climb_ladders, judge_ladder

COPPER = StartingStructure(bulk=Bulk(name="Cu", a=3.61))
TOLD = {"rms_force": {"all": 1.0, "structures": {}}, "uncertainty": {"error_over_expected": {"all": 1.0}}}


class DoubtfulEMT(EMT):
    """EMT that is less sure the farther atoms are from their sites."""

    def calculate(self, atoms=None, properties=("energy",), system_changes=tuple(all_changes)) -> None:
        super().calculate(atoms, properties, system_changes)
        away = np.linalg.norm(atoms.positions[:4] - bulk("Cu", cubic=True, a=3.61).positions, axis=1)
        self.results["force_uncertainty"] = np.full(len(atoms), self.doubt * away.max())

    doubt = 0.0


@pytest.fixture
def walk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Runs one walker in ``tmp_path`` and reads its trajectory."""
    write_json(tmp_path / "training.json", TOLD, checked=True)

    def run(iteration: int = 1, doubt: float = 0.0, rungs: dict | None = None, **plan: object) -> tuple:
        calculator = DoubtfulEMT()
        calculator.doubt = doubt
        monkeypatch.setattr("mlip.potential.calculator.load_calculator", lambda folder, device, precision: calculator)
        last = plan.pop("last", ())
        ladder = plan.pop("ladder", Ladder())
        values = {"ensemble": "nvt", "temperature": 300.0, "volume": 0.0, "pressure": 0.0, **plan}
        settings = Explore(n_steps=80, sample_every=5, timestep=4.0, ladder=ladder)
        file = None
        if rungs is not None:
            file = tmp_path / "ladder.json"
            write_json(file, {"iteration": iteration - 1, "structures": {"0": rungs}}, checked=True)
        out = tmp_path / f"iter_{iteration}.nc"
        walker = WalkerPlan(source=COPPER, **values)
        explore_walker(
            WalkerRequest(tmp_path, walker, settings, out, seed=1, iteration=iteration, walker=0, last=last, rungs=file)
        )
        structures, data = read_frames(out)
        return out, structures, data

    return run


def test_a_walker_goes_on_from_where_it_was_and_not_from_the_crystal(walk) -> None:
    path, before, _ = walk(iteration=0)
    _, after, data = walk(start="last", last=[path])
    assert data.attrs["start"] == "last"
    assert np.allclose(after[0].positions, before[-1].positions)


def test_a_walker_that_stopped_goes_on_from_frames_that_can_be_trusted(walk) -> None:
    """Its last frame is the one that it stopped at: to begin there is to stop at once."""
    path, before, data = walk(iteration=0, doubt=4.0, temperature=900.0)
    assert data.attrs["stop_reason"] == "uncertain"
    away = [np.linalg.norm(a.positions - before[0].positions, axis=1).max() for a in before]
    _, after, data = walk(start="last", last=[path], doubt=4.0)
    assert data.attrs["start"] == "last"
    assert data.attrs["start_frame"] != f"iter_00-walker_00-frame_{len(before) - 1:04d}"
    begun = np.linalg.norm(after[0].positions - before[0].positions, axis=1).max()
    assert 0 < begun < away[-1]
    _, _, data = walk(start="last", last=[path], doubt=1e3)
    assert data.attrs["start"] == "ideal"


def test_rungs_are_the_potentials_own_until_there_is_a_file(walk) -> None:
    _, _, data = walk(iteration=0, climbs="present")
    assert data.attrs["rung"] == 0
    assert data.attrs["target_temperature"] == 300
    assert 1000 < data.attrs["lindemann_temperature"] < 3000
    rungs = {"rung": 4, "first": 300.0, "top": 4000.0, "length": 0.5}
    _, _, data = walk(climbs="present", rungs=rungs)
    assert data.attrs["target_temperature"] == pytest.approx(300 * 1.5**4)
    assert (data.attrs["rung"], data.attrs["planned_time_fs"]) == (4, 160)
    assert np.isnan(data.attrs["lindemann_temperature"])
    _, _, data = walk(climbs="below", rungs=rungs, iteration=6)
    assert (data.attrs["rung"], data.attrs["planned_time_fs"]) == (2, 320)


def test_rungs_have_pressures_volumes_and_supercells(walk) -> None:
    squeezed, large = Rung(temperature=250, pressure=9, volume=0.05), Rung(temperature=1, repeat=(2, 1, 1))
    ladder = Ladder(rungs=(Rung(temperature=200), squeezed, large))
    path, before, _ = walk(iteration=0, climbs="present", ladder=ladder)
    state = {"rung": 1, "first": 200.0, "top": 200.0}
    _, after, data = walk(climbs="present", ladder=ladder, rungs=state, start="last", last=[path])
    assert after[0].get_volume() == pytest.approx(1.05 * before[0].get_volume())
    fractions = [a.get_scaled_positions(wrap=False) for a in (after[0], before[-1])]
    assert np.allclose(*fractions, atol=1e-6)
    _, _, data = walk(climbs="present", ladder=ladder, rungs=state, ensemble="npt")
    assert data.attrs["target_pressure"] == 9
    _, larger, data = walk(climbs="present", ladder=ladder, rungs=state | {"rung": 2}, start="last", last=[path])
    assert (len(larger[0]), data.attrs["start"]) == (8, "ideal")


def test_walkers_that_go_on_do_not_thin_out_bit_by_bit(walk) -> None:
    path, before, _ = walk(iteration=0, volume=0.9)
    assert before[0].get_volume() == pytest.approx(1.9 * 3.61**3)
    _, after, data = walk(start="last", last=[path])
    assert (data.attrs["start"], after[0].get_volume()) == ("ideal", pytest.approx(3.61**3))


def test_melts_are_told_from_hot_crystals() -> None:
    rng, crystal = np.random.default_rng(0), bulk("Cu", cubic=True) * (3, 3, 3)
    hot, molten, moved = crystal.copy(), crystal.copy(), crystal.copy()
    hot.rattle(0.1 * 2.55, rng=rng)
    molten.rattle(1.5, rng=rng)
    assert not is_molten(neighbours_left(crystal, hot), "bulk")
    assert is_molten(neighbours_left(crystal, molten), "bulk")
    moved.translate([9.0, 2.0, 1.0])
    moved.set_cell(1.05 * moved.cell.array, scale_atoms=True)
    assert neighbours_left(crystal, moved) == 0
    ethanol = molecule("CH3CH2OH")
    turned, broken = ethanol.copy(), ethanol.copy()
    turned.rotate(80, "x")
    broken.positions[-1] += 3.0
    assert not is_molten(neighbours_left(ethanol, turned), "molecule")
    assert is_molten(neighbours_left(ethanol, broken), "molecule")


def test_lindemanns_rule_finds_the_scale_of_melting() -> None:
    gold = bulk("Au", cubic=True, a=4.08) * (2, 2, 2)
    gold.calc = EMT()
    positions = gold.positions.copy()
    assert estimate_melting(gold, np.random.default_rng(1)) == pytest.approx(1337, rel=0.3)
    assert np.array_equal(gold.positions, positions)


def make_table(rungs: list[int], reasons: list[str], expected: float, molten: int = 0) -> xr.Dataset:
    n = len(rungs)
    return xr.Dataset(
        {
            "source": ("candidate", np.zeros(n, int)),
            "rung": ("candidate", rungs),
            "expected_squared_error": ("candidate", np.full(n, expected**2)),
            "explorer_source": ("explorer", np.zeros(n, int)),
            "explorer_rung": ("explorer", rungs),
            "explorer_molten": ("explorer", [int(k < molten) for k in range(n)]),
            "explorer_lindemann_temperature": ("explorer", np.full(n, 1500.0)),
            "stop_reason": ("explorer", np.array(reasons, dtype=object)),
        }
    )


def audit(rung: int, error: float, iteration: int = 1) -> tuple[Atoms, Prediction]:
    """An audit of RMS force 2 eV/Å, labelled in an iteration, and its prediction."""
    atoms = bulk("Cu", cubic=True)
    atoms.calc = SinglePointCalculator(atoms, energy=0.0, forces=np.full((4, 3), 2.0))
    atoms.info |= {"rung": rung, "source": 0, "reason": "audit", "iteration": iteration}
    forces, none = np.full((4, 3), 2.0 - error), np.zeros(4)
    return atoms, Prediction(0.0, forces, None, none[:1], forces[None], 0.0, np.zeros((4, 3)), none)


def judge(tmp_path: Path, table: xr.Dataset, audits: list, before: dict | None = None) -> dict:
    atoms, predictions = [a for a, _ in audits], [p for _, p in audits]
    fit = np.ones(table.sizes["candidate"], bool)
    return climb_ladders(table, fit, atoms, predictions, ladder=Ladder(), before=before or {}, trained=TOLD)


def test_an_iteration_says_where_the_next_one_stands_and_why(tmp_path) -> None:
    first = judge(tmp_path, make_table([0, 0, 0], ["finished"] * 3, 0.2), [])
    assert (first["0"]["rung"], first["0"]["walked"]["temperature"]) == (1, 300)
    assert first["0"]["seen"]["n_walkers"] == 3
    # Walkers below the rung do not hold the others up; those at it do.
    below = judge(tmp_path, make_table([1, 1, 0], ["finished", "finished", "exploded"], 0.2), [], first)
    assert below["0"]["rung"] == 2
    stopped = judge(tmp_path, make_table([1, 1, 0], ["finished", "uncertain", "finished"], 0.2), [], first)
    assert (stopped["0"]["rung"], stopped["0"]["length"]) == (1, 0.5)
    # Audits have the last word: of this rung, or of one below.
    bad = judge(tmp_path, make_table([1, 1], ["finished"] * 2, 0.1), [audit(0, 1.0), audit(0, 1.0)], first)
    assert (bad["0"]["rung"], bad["0"]["seen"]["audited"]) == (1, pytest.approx(0.5))
    mended = [audit(0, 1.0), audit(0, 1.0), audit(1, 0.2), audit(1, 0.2)]
    assert judge(tmp_path, make_table([1, 1], ["finished"] * 2, 0.1), mended, first)["0"]["rung"] == 2
    assert judge(tmp_path, make_table([-1, -1], ["finished"] * 2, 0.1), []) == {}
    # Of the last two iterations: where the first potential went astray, no walker goes any more.
    astray = [audit(1, 3.0, 1), audit(1, 0.2, 2), audit(1, 0.4, 3)]
    latest = judge(tmp_path, make_table([1, 1], ["finished"] * 2, 0.1), astray, first)["0"]["seen"]
    assert (latest["n_audits"], latest["audited"]) == (2, pytest.approx(0.1**0.5 / 2))


def test_the_loop_goes_on_until_the_top_is_reached(tmp_path) -> None:
    first = judge(tmp_path, make_table([0, 0], ["finished"] * 2, 0.2), [])
    (criterion,) = judge_ladder(first)
    assert (criterion.passed, criterion.value) == (False, 1)
    assert "structure 0 at rung 1: climbs" in criterion.remedy
    (criterion,) = judge_ladder(judge(tmp_path, make_table([1, 1], ["finished"] * 2, 0.2, molten=2), [], first))
    assert criterion.passed
    assert judge_ladder({}) == []
