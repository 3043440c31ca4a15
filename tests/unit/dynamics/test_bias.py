"""Dynamics drawn to where members disagree: right forces, right distribution, and nothing else changed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ase import Atoms, units
from ase.build import bulk
from ase.calculators.calculator import Calculator, all_changes
from ase.calculators.emt import EMT
from ase.constraints import FixAtoms

from mlip.config.loop import Explore
from mlip.config.structures import Bulk, StartingStructure
from mlip.config.walkers import WalkerPlan
from mlip.dynamics.bias import BiasedBAOAB, bias_forces, limit_bias
from mlip.io.trajectory import Frame, read_frames
from mlip.loop.explore_walkers import WalkerRequest, explore_walker, run_walker
from mlip.potential import load_potential
from tests.unit.conftest import check_bias_slope

STIFFNESSES = np.array([1.6, 2.0, 2.4])
"""eV/Å², of the wells that the members see."""
SPREAD = 0.05


class Wells(Calculator):
    """Each atom bound to the origin; members differ in the stiffness, so that their spread is that of r²."""

    implemented_properties = ("energy", "forces")

    def calculate(self, atoms=None, properties=("energy",), system_changes=tuple(all_changes)) -> None:
        super().calculate(atoms, properties, system_changes)
        r = atoms.positions
        energies, forces = STIFFNESSES / 2 * np.sum(r**2), -STIFFNESSES[:, None, None] * r
        self.results = {"energy": energies.mean(), "forces": forces.mean(0)}
        # What members differ by everywhere must not matter.
        self.results |= {"energy_members": energies + [0.0, 3.0, 7.0], "forces_members": forces}


class DisagreeingEMT(EMT):
    """EMT with members that share its mean and disagree more, the farther atoms are from where they were first."""

    def calculate(self, atoms=None, properties=("energy",), system_changes=tuple(all_changes)) -> None:
        super().calculate(atoms, properties, system_changes)
        if not hasattr(self, "home"):
            self.home = atoms.positions.copy()
        away, sides = atoms.positions - self.home, np.array([-1.0, 0.0, 1.0])
        energies = self.results["energy"] + sides * SPREAD * np.sum(away**2)
        forces = self.results["forces"] - sides[:, None, None] * 2 * SPREAD * away
        self.results |= {"energy_members": energies, "forces_members": forces}
        self.results["force_uncertainty"] = 2 * SPREAD * np.linalg.norm(away, axis=1)


def walk(bias: float, seed: int = 3, n_steps: int = 400, **settings: object) -> tuple[Atoms, list[Frame], str]:
    atoms = bulk("Cu", cubic=True)
    atoms.calc = DisagreeingEMT()
    source = StartingStructure(bulk=Bulk(name="Cu"))
    values = {"temperature": 300.0, "volume": 0.0, "pressure": 0.0, "uncertainty_bias": bias}
    plan = WalkerPlan(source=source, ensemble="nvt", **values)
    given = Explore(n_steps=n_steps, sample_every=10, timestep=2.0, **settings)
    return atoms, *run_walker(atoms, plan, given, np.random.default_rng(seed))


def test_bias_forces_are_the_slope_of_the_bias(potential_folder: Path, alloys: list[Atoms]) -> None:
    check_bias_slope(load_potential(potential_folder), alloys[0])


def test_frames_count_as_a_power_of_the_spread() -> None:
    """In wells, σ goes as Σ r²; of n atoms that becomes (3 n + 2 strength) kB T / k, and by plain dynamics 3 n."""
    temperature, strength, n = 300.0, 6.0, 8
    rng = np.random.default_rng(0)
    atoms = Atoms(f"Cu{n}", positions=np.zeros((n, 3)))
    atoms.calc = Wells()
    dynamics = BiasedBAOAB(
        atoms, 5.0 * units.fs, temperature_K=temperature, T_tau=50 * units.fs, rng=rng, strength=strength
    )
    squares = []
    for _ in range(2000):
        dynamics.run(5)
        squares.append(np.sum(atoms.positions**2))
    unit = units.kB * temperature / STIFFNESSES.mean()
    assert np.mean(squares) == pytest.approx((3 * n + 2 * strength) * unit, rel=0.06)


def test_no_bias_is_plain_dynamics_bit_for_bit() -> None:
    plain, biased = walk(0.0), walk(1e-12)
    np.testing.assert_allclose(plain[0].positions, biased[0].positions, atol=1e-6)
    atoms = bulk("Cu", cubic=True)
    atoms.calc = DisagreeingEMT()
    plan = WalkerPlan(
        source=StartingStructure(bulk=Bulk(name="Cu")), ensemble="nvt", temperature=300.0, volume=0.0, pressure=0.0
    )
    settings = Explore(n_steps=400, sample_every=10, timestep=2.0)
    run_walker(atoms, plan, settings, np.random.default_rng(3))
    np.testing.assert_array_equal(plain[0].positions, atoms.positions)


def test_biased_walkers_find_what_is_uncertain_in_as_many_steps() -> None:
    def uncertainty(bias: float) -> float:
        frames = [frame for seed in range(2) for frame in walk(bias, seed, 300)[1][10:]]
        return float(np.sqrt(np.mean([np.mean(frame.force_uncertainty**2) for frame in frames])))

    assert uncertainty(10.0) > 1.2 * uncertainty(0.0)


def test_what_is_recorded_and_stops_a_walker_is_without_the_bias() -> None:
    _, frames, reason = walk(20.0)
    assert reason == "finished"
    for frame in frames[1::10]:
        frame.atoms.calc = EMT()
        assert frame.energy == pytest.approx(frame.atoms.get_potential_energy(), abs=1e-9)
    largest = max(frame.force_uncertainty.max() for frame in frames)
    _, stopped, reason = walk(20.0, max_uncertainty=0.7 * largest)
    assert reason == "uncertain"
    assert [frame.time for frame in stopped[:2]] == [frame.time for frame in frames[:2]]


def test_a_bias_is_never_larger_than_the_forces() -> None:
    rng = np.random.default_rng(0)
    forces = rng.normal(0, 1, (5, 3))
    small = limit_bias(0.1 * forces[::-1], forces)
    np.testing.assert_array_equal(small, 0.1 * forces[::-1])
    large = limit_bias(100.0 * forces[::-1], forces)
    assert np.mean(large**2) == pytest.approx(np.mean(forces**2))
    np.testing.assert_allclose(large, forces[::-1])
    np.testing.assert_array_equal(limit_bias(forces, np.zeros((5, 3))), 0.0)
    # Members that agree entirely pull nowhere, rather than with 0 / 0.
    np.testing.assert_array_equal(bias_forces(np.ones(3), np.ones((3, 5, 3)), 10.0, 0.05), 0.0)


def test_fixed_atoms_stay() -> None:
    atoms = bulk("Cu", cubic=True)
    atoms.rattle(0.1, seed=1)
    atoms.set_constraint(FixAtoms([0]))
    atoms.calc = DisagreeingEMT()
    atoms.calc.home = bulk("Cu", cubic=True).positions
    before = atoms.positions.copy()
    rng = np.random.default_rng(0)
    BiasedBAOAB(atoms, units.fs, temperature_K=300.0, T_tau=100 * units.fs, rng=rng, strength=20.0).run(20)
    np.testing.assert_array_equal(atoms.positions[0], before[0])
    assert np.abs(atoms.positions - before)[1:].min() > 0


@pytest.mark.parametrize(("energies", "forces"), [(np.ones(1), np.ones((1, 2, 3))), (np.ones(3), np.ones((1, 2, 3)))])
def test_without_members_there_is_no_bias(energies: np.ndarray, forces: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"2 members or more, got \d and 1; set `train.uncertainty: committee`"):
        bias_forces(energies, forces, 1.0, 0.05)


def test_a_walker_of_a_real_committee_that_was_killed_is_the_same_again(potential_folder: Path, tmp_path: Path) -> None:
    """And the next iteration's goes on from where it was."""
    source = StartingStructure(bulk=Bulk(name="Cu", cubic=True))
    values = {"temperature": 600.0, "volume": 0.0, "pressure": 0.0, "uncertainty_bias": 10.0}
    plan = WalkerPlan(source=source, ensemble="nvt", **values)
    settings = Explore(n_steps=40, sample_every=10, timestep=2.0, max_relative_error=None)

    def explore(name: str, plan: WalkerPlan, **request: object) -> Path:
        out = tmp_path / name
        explore_walker(WalkerRequest(potential_folder, plan, settings, out, seed=1, **request))
        return out

    first, again = explore("a.nc", plan, iteration=0, walker=0), explore("b.nc", plan, iteration=0, walker=0)
    (frames, data), (others, _) = read_frames(first), read_frames(again)
    assert (data.attrs["uncertainty_bias"], data.attrs["rung"]) == (10.0, -1)
    np.testing.assert_array_equal(frames[-1].positions, others[-1].positions)
    plain = explore("c.nc", plan.model_copy(update={"uncertainty_bias": 0.0}), iteration=0, walker=0)
    assert np.abs(read_frames(plain)[0][-1].positions - frames[-1].positions).max() > 1e-4
    on = explore("d.nc", plan.model_copy(update={"start": "last"}), iteration=1, walker=0, last=[first])
    (begun, *_), data = read_frames(on)
    assert data.attrs["start_frame"].startswith("iter_00-walker_00-frame_")
    assert any(np.array_equal(begun.positions, frame.positions) for frame in frames)
