"""The diffusion study on a small Lennard-Jones system, with and without a committee, and what it refuses."""

import math

import numpy as np
import pytest
import xarray as xr
from ase import Atoms, units
from ase.build import bulk
from ase.calculators.calculator import Calculator, all_changes
from pydantic import ValidationError

from mlip.criteria import Criterion
from mlip.io.netcdf import read_netcdf
from mlip.potential import Potential
from mlip.potential.interface import summarise
from mlip.potential.uncertainty import Calibration, Spread
from mlip.studies import load_study
from mlip.studies.diffusion.acquisition import acquire_frames, choose_frames, contributions
from mlip.studies.diffusion.measurement import compare_members
from mlip.studies.diffusion.settings import Settings
from mlip.studies.diffusion.transport import DiffusionError, Estimate
from mlip.studies.interface import Labelled, Measurement, Round, Subject
from mlip.studies.report import write_report
from mlip.studies.steps import gate_criteria, read_measurement, write_measurement

EPSILON, SIGMA = 0.0103235, 3.405  # eV, Å
QUICK = {
    "temperature": 180.0,
    "melt_temperature": 400.0,
    "n_atoms": 32,
    "timestep": 5.0,
    "sample_every": 2,
    "equilibration": 2000.0,
    "decorrelation": 500.0,
    "n_blocks": 6,
    "block_length": 3200.0,
    "n_frames": 12,
    "n_error_samples": 80,
    "member_blocks": 2,
    "relative_error": 0.1,
}


class AllPairs(Calculator):
    """Lennard-Jones in a cube, nearest image, cut and shifted at ``reach`` sigma; wells deeper by ``depth``."""

    implemented_properties = ("energy", "forces", "stress")

    def __init__(self, depth: float = 1.0, reach: float = 1.7):
        super().__init__()
        self.depth, self.reach = depth, reach

    def calculate(self, atoms=None, properties=("energy",), system_changes=tuple(all_changes)):
        super().calculate(atoms, properties, system_changes)
        side, n = atoms.cell[0, 0], len(atoms)
        i, j = np.triu_indices(n, 1)
        d = atoms.positions[i] - atoms.positions[j]
        d -= side * np.rint(d / side)
        square = np.einsum("ij,ij->i", d, d)
        near = square < (self.reach * SIGMA) ** 2
        i, j, d, square = i[near], j[near], d[near], square[near]
        s6, cut = (SIGMA**2 / square) ** 3, self.reach**-6
        well = 4 * EPSILON * self.depth
        pull = (well * (12 * s6 * s6 - 6 * s6) / square)[:, None] * d
        forces = [np.bincount(i, pull[:, c], n) - np.bincount(j, pull[:, c], n) for c in range(3)]
        stress = -(d.T @ pull) / side**3
        energy = float(well * (s6 * s6 - s6 - cut * cut + cut).sum())
        self.results = {
            "energy": energy,
            "free_energy": energy,
            "forces": np.stack(forces, 1),
            "stress": stress[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]],
        }


class Wells(Potential):
    """A committee of Lennard-Jones potentials whose wells differ in depth."""

    species, cutoff = ("Ar",), 1.7 * SIGMA

    def __init__(self, depths):
        self.members = [AllPairs(depth) for depth in depths]
        self.n_members, self.calibration = len(depths), Calibration(force_scale={"Ar": 2.0})

    def predict(self, structures, *, uncertainty=True):
        found = []
        for atoms in structures:
            energies, forces = [], []
            for member in self.members:
                member.calculate(atoms)
                energies.append(member.results["energy"])
                forces.append(member.results["forces"])
            energies, forces = np.array(energies), np.array(forces)
            spread = Spread.of_members(energies, forces)
            found.append(summarise(atoms, self.calibration, energies, forces, np.zeros((3, 3)), spread))
        return found

    def member(self, index):
        return Wells([self.members[index].depth])

    def describe(self, structures):
        return [np.sort(a.get_all_distances(mic=True), axis=1)[:, 1:5] for a in structures]

    def save(self, folder):
        raise NotImplementedError


def argon(side=5.94908) -> Atoms:
    atoms = bulk("Ar", a=side, cubic=True)
    atoms.set_masses([40.0] * len(atoms))
    return atoms


@pytest.fixture(scope="module")
def liquid() -> Measurement:
    study = load_study("diffusion", QUICK | {"viscosity": "stress"})
    return study.measure(Subject(AllPairs(), None, [argon()], seed=1))


@pytest.fixture(scope="module")
def committee() -> Measurement:
    quick = {"n_blocks": 4, "member_blocks": 4, "block_length": 1600.0, "equilibration": 1500.0}
    study, potential = load_study("diffusion", QUICK | quick), Wells([0.4, 1.6])
    return study.measure(Subject(AllPairs(), potential, [argon()], seed=2))


def test_liquid_diffuses_by_both_routes(liquid) -> None:
    data = liquid.data
    value = float(data.diffusion[0])
    assert 1e-4 < value < 1e-3  # liquid argon, whatever the cutoff: 1e-5 to 1e-4 cm²/s
    assert float(data.discrepancy[0]) <= 3
    assert data.temperature.mean() == pytest.approx(180, rel=0.25)
    start = data.vacf.values[0, :, 0].mean()
    thermal = units.kB * data.attrs["mean_temperature"] / 40 * units.fs**2 * (1 - 1 / 32)
    assert start == pytest.approx(thermal, rel=0.01)  # equipartition with the centre of mass at rest
    assert float(abs(data.energy_drift).max()) < 1e-3


def test_result_has_units_and_survives_the_disk(liquid, tmp_path) -> None:
    write_measurement(liquid, tmp_path)
    again = read_measurement(tmp_path)
    assert all("units" in v.attrs for v in again.data.data_vars.values())
    assert again.data.diffusion.values == pytest.approx(liquid.data.diffusion.values)
    assert len(again.frames) == QUICK["n_frames"]
    assert {f.info["block"] for f in again.frames} == set(range(QUICK["n_blocks"]))


def test_force_target_is_the_correlated_one_and_follows_from_the_wanted_error(liquid) -> None:
    data = liquid.data
    kt = units.kB * data.attrs["mean_temperature"]
    tau = float(data.error_correlation_time[0])
    assert 20 < tau < 300
    expected = kt * math.sqrt(0.1 / (tau * float(data.diffusion[0])))
    assert float(data.force_error_correlated[0]) == pytest.approx(expected, rel=1e-6)
    white = float(data.force_error_textbook[0])
    assert white == pytest.approx(expected * math.sqrt(tau / 2.5), rel=1e-6)
    target = float(data.force_error_target[0])
    assert target == min(float(data.force_error_correlated[0]), 0.3 * float(data.force_rms[0]))


def test_gate_applies_the_target_to_the_potential_s_error(liquid, tmp_path) -> None:
    target = float(liquid.data.force_error_target[0])
    reference = tmp_path / "reference.nc"
    Measurement(xr.Dataset()).data.to_netcdf(reference)

    def verdict(rmse: float) -> Criterion:
        data = liquid.data.assign_attrs(test_force_rmse=rmse)
        write_measurement(Measurement(data), tmp_path / str(rmse))
        found = gate_criteria({"diffusion": QUICK}, [tmp_path / str(rmse) / "property.nc"], [reference])
        return next(c for c in found if "force RMSE" in c.name)

    assert verdict(0.9 * target).passed
    assert not verdict(1.1 * target).passed
    assert verdict(target).target == pytest.approx(target)
    # A potential without forces, which the textbook's number lets pass at this wanted error.
    zero = float(liquid.data.force_rms[0])
    assert zero < float(liquid.data.force_error_textbook[0])
    assert not verdict(zero).passed


def test_report_shows_curves_and_says_what_the_numbers_mean(liquid, tmp_path) -> None:
    study = load_study("diffusion", QUICK | {"viscosity": "stress"})
    reference = xr.Dataset()
    rounds = [Round(0, liquid.data, study.compare(liquid.data, reference))]
    write_report(study, "argon", rounds, reference, tmp_path)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "without any forces would pass" in page
    assert "they agree" in page
    assert "stress autocorrelation" in page
    assert {p.name for p in (tmp_path / "figures").iterdir()} == {"curves.png", "blocks.png", "forces.png"}


def test_blocks_off_the_temperature_are_said(liquid) -> None:
    rounds = [Round(0, liquid.data, [])]
    said = [
        any(
            "off the" in text
            for text in load_study("diffusion", QUICK | {"temperature": t}).remarks(rounds, xr.Dataset())
        )
        for t in (liquid.data.attrs["mean_temperature"], 400.0)
    ]
    assert said == [False, True]


def test_disagreement_of_the_routes_fails_and_is_said(liquid) -> None:
    study = load_study("diffusion", QUICK)
    broken = liquid.data.assign(discrepancy=liquid.data.discrepancy + 5)
    criterion = next(c for c in study.compare(broken, xr.Dataset()) if "Green" in c.name)
    assert not criterion.passed
    remarks = study.remarks([Round(0, broken, [])], xr.Dataset())
    assert any("DISAGREE" in text for text in remarks)


def test_committee_has_a_model_error_apart_from_the_statistical_one(committee) -> None:
    data = committee.data
    assert data.attrs["error_time_source"].startswith("deviations")
    # Wells 60 % off: resolved even by so short a run.
    assert float(data.model_error[0]) > 2 * float(data.model_error_noise[0])
    assert float(data.model_error[0]) != float(data.statistical_error[0])
    # The raw spread is 0.6 √2 of the force; the calibration doubles it.
    assert float(data.force_uncertainty[0]) == pytest.approx(
        2 * 0.6 * math.sqrt(2) * float(data.force_rms[0]), rel=0.15
    )
    names = [c.name for c in load_study("diffusion", QUICK).compare(data, xr.Dataset())]
    assert any("force uncertainty" in name for name in names)
    assert any("model error" in name for name in names)


def test_acquisition_takes_the_frames_that_spoil_the_coefficient_most(committee) -> None:
    potential = Wells([0.4, 1.6])
    found = acquire_frames(committee.frames, committee.data, potential, 3)
    assert len(found.candidates) == 3
    shares = [float(row["share_of_relative_error"]) for row in found.decisions]
    assert shares == sorted(shares, reverse=True)
    assert found.decisions[0]["decision"] == "taken"
    assert sum(row["decision"] == "taken" for row in found.decisions) == 3
    assert len({c.info["structure_id"] for c in found.candidates}) == 3


def test_share_of_a_frame_is_its_part_of_the_propagated_error() -> None:
    frames = [Atoms("ArKr"), Atoms("ArKr")]
    std = [np.array([[0.1] * 3, [0.2] * 3]), np.array([[0.3] * 3, [0.0] * 3])]
    assert contributions(frames, std, {"Ar": 2.0, "Kr": 10.0}) == pytest.approx([0.4, 0.18])


def test_duplicates_are_not_taken_twice() -> None:
    descriptors = np.array([[0.0, 0], [0.001, 0], [1, 0], [0, 1], [1, 1]])
    shares = np.array([1.0, 0.99, 0.5, np.nan, 0.4])
    taken, _ = choose_frames(shares, descriptors, 5)
    assert taken[0] == 0
    assert set(taken) == {0, 2, 4}


def test_statistical_noise_is_taken_off_the_members_spread() -> None:
    rng = np.random.default_rng(0)
    found = []
    for _ in range(400):
        true = rng.normal(1.0, 0.3, 6)
        found.append(compare_members([Estimate(t + rng.normal(0, 0.6, 9)) for t in true]))
    assert np.mean([f.value**2 for f in found]) == pytest.approx(0.09, rel=0.15)
    assert np.mean([f.noise**2 for f in found]) == pytest.approx(0.04, rel=0.1)
    same = [compare_members([Estimate(1 + rng.normal(0, 0.6, 9)) for _ in range(6)]) for _ in range(400)]
    assert np.mean([f.value**2 for f in same]) < 0.02  # the raw spread is 0.04
    assert min(f.bound for f in same) > 0.1  # an error that is not resolved is not taken for none
    assert compare_members([Estimate(np.full(4, v)) for v in (1.0, 3.0)], 2.0).value == pytest.approx(2 * math.sqrt(2))


def test_table_shows_what_may_be_claimed_and_the_error_of_the_reference(committee, liquid) -> None:
    study = load_study("diffusion", QUICK)
    unresolved = committee.data.assign(model_error=0 * committee.data.diffusion)
    rows = {row.name: row for row in study.summarise(unresolved, liquid.data)}
    row = rows["D(Ar), Green–Kubo"]
    assert row.model_error == pytest.approx(1e4 * float(committee.data.model_error_bound[0]))
    assert row.reference == pytest.approx(1e4 * float(liquid.data.diffusion[0]))
    assert row.reference_error == pytest.approx(1e4 * float(liquid.data.statistical_error[0]))
    assert rows["D(Ar), Einstein"].reference == pytest.approx(1e4 * float(liquid.data.einstein[0]))


def test_members_that_noise_hides_do_not_pass(committee) -> None:
    study = load_study("diffusion", QUICK)
    noisy = committee.data.assign(
        model_error=0 * committee.data.diffusion, model_error_bound=0.5 * abs(committee.data.diffusion)
    )
    assert not next(c for c in study.compare(noisy, xr.Dataset()) if "model error" in c.name).passed


def test_crystal_has_no_target() -> None:
    study = load_study(
        "diffusion", QUICK | {"temperature": 20.0, "melt_temperature": None, "n_blocks": 4, "block_length": 1500.0}
    )
    data = study.measure(Subject(AllPairs(), None, [argon(5.3)], seed=4)).data
    assert np.isnan(data.force_error_target).all()
    criterion = study.compare(data, xr.Dataset())[0]
    assert (criterion.target, criterion.passed) == (None, False)
    assert "no force target follows: D(Ar)" in criterion.remedy
    assert "is it a solid at 20 K" in criterion.remedy


def test_blocks_too_short_for_a_target_are_named(liquid, tmp_path) -> None:
    study = load_study("diffusion", QUICK)
    short = liquid.data.assign(decayed=0 * liquid.data.decayed, force_error_target=np.nan * liquid.data.decayed)
    criterion = study.compare(short, xr.Dataset())[0]
    assert (criterion.target, criterion.passed) == (None, False)
    assert "raise studies.diffusion.block_length (3200 fs)" in criterion.remedy
    assert not write_report(
        study, "argon", [Round(0, short, study.compare(short, xr.Dataset()))], xr.Dataset(), tmp_path
    )
    assert criterion.remedy in (tmp_path / "report.html").read_text()


def test_force_target_without_unseen_labels_does_not_pass(committee) -> None:
    study = load_study("diffusion", QUICK)
    unseen = study.compare(committee.data, xr.Dataset())[0]
    assert (unseen.value, unseen.passed) == (None, False)
    assert "collect.test_fraction" in unseen.remedy


class Exploding(AllPairs):
    """Attraction without end."""

    def calculate(self, atoms=None, properties=("energy",), system_changes=tuple(all_changes)):
        super().calculate(atoms, properties, system_changes)
        self.results["forces"] = self.results["forces"] * -50


def test_dynamics_that_comes_apart_is_a_result_not_a_crash(tmp_path) -> None:
    study = load_study("diffusion", QUICK)
    found = study.measure(Subject(Exploding(), None, [argon()], seed=5))
    assert "came apart" in found.data.attrs["failure"]
    assert "needs labels of this state (180 K" in study.compare(found.data, xr.Dataset())[0].remedy
    write_measurement(found, tmp_path)
    data = read_netcdf(tmp_path / "property.nc")
    criteria = study.compare(data, xr.Dataset())
    assert not any(c.passed for c in criteria)
    rounds = [Round(0, data, criteria)]
    assert study.summarise(data, xr.Dataset()) == [] == study.draw(rounds, xr.Dataset())
    assert "came apart" in study.remarks(rounds, xr.Dataset())[0]


def test_reference_is_compared_beyond_the_noise_which_never_passes_for_agreement(liquid) -> None:
    value, error = float(liquid.data.diffusion[0]), float(liquid.data.statistical_error[0])

    def deviation(factor: float) -> float:
        study = load_study("diffusion", QUICK | {"reference": factor * value * 0.1})
        known = study.refer([argon()], (), None, 0)
        return next(c for c in study.compare(liquid.data, known) if "reference" in c.name).value

    assert deviation(1.0) == pytest.approx(error / value, rel=1e-6)
    assert deviation(2.0) == pytest.approx((value - 2 * error) / (2 * value), rel=1e-6)
    with pytest.raises(DiffusionError, match="Ar, Kr"):
        load_study("diffusion", {"reference": 1e-5}).refer([Atoms("ArKr")], (), None, 0)
    assert not load_study("diffusion").refer([argon()], (), None, 0)


def test_settings_refuse_what_cannot_be_measured() -> None:
    with pytest.raises(ValidationError, match="samples"):
        Settings(block_length=100.0)
    with pytest.raises(ValidationError, match="quarter"):
        Settings(window=5000.0)
    with pytest.raises(ValidationError, match="member_blocks"):
        Settings(member_blocks=1)
    study = load_study("diffusion")
    with pytest.raises(DiffusionError, match="periodic"):
        study.measure(Subject(AllPairs(), None, [Atoms("Ar2")]))


@pytest.mark.slow
def test_argon_diffuses_as_lennard_jones_argon() -> None:
    """D* = 0.079 and RMS force 0.0458 eV/Å at ρ* = 0.75, T* = 0.966, by an independent program, 256 atoms."""
    quick = {"temperature": 0.966 * EPSILON / units.kB, "n_atoms": 108, "block_length": 6000.0, "viscosity": "stress"}
    study = load_study("diffusion", QUICK | quick)
    data = study.measure(Subject(AllPairs(reach=2.5), None, [argon()], seed=7)).data
    reduced = SIGMA * math.sqrt(EPSILON / 40) * units.fs
    # The box of 256 atoms is longer by (256/108)^(1/3): the correction is smaller there by that factor.
    smaller = float(data.size_correction[0]) * (1 - (108 / 256) ** (1 / 3))
    expected = 0.079 * reduced - smaller
    assert abs(float(data.diffusion[0]) - expected) < 3 * float(data.statistical_error[0])
    assert float(data.statistical_error[0]) < 0.1 * expected
    assert float(data.force_rms[0]) == pytest.approx(0.0458, rel=0.05)


def test_labeller_serves_as_reference(tmp_path) -> None:
    class Direct(Labelled):
        def direct(self):
            return AllPairs()

    small = QUICK | {"n_blocks": 4, "block_length": 1000.0, "equilibration": 500.0, "reference": "labeller"}
    known = load_study("diffusion", small).refer([argon()], (), Direct(None, tmp_path), 0)
    assert float(known.diffusion[0]) > 0
