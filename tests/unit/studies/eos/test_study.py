"""Equation of state: pressures, fits and acquisition against what they must be."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from ase import Atoms, units
from ase.build import bulk
from ase.calculators import lj

from mlip.calculators.lennard_jones import LennardJones
from mlip.config.label import Label
from mlip.dynamics.replicas import LangevinPlan, one_by_one, run_nvt
from mlip.potential import Potential, load_potential
from mlip.properties.eos import birch_murnaghan
from mlip.properties.symmetry import PropertyError
from mlip.statistics import block_average, detect_equilibration
from mlip.structures.geometry import scale_volume
from mlip.studies.eos.acquisition import apportion, choose_frames, score_states, spread_evenly
from mlip.studies.eos.experiments.experiment import thin_frames
from mlip.studies.eos.isotherms import measure_isotherms, member_pressures, model_error
from mlip.studies.eos.settings import Settings
from mlip.studies.eos.static import fit_static, measure_static, vinet
from mlip.studies.eos.study import EquationOfStateStudy
from mlip.studies.interface import Labelled, Subject
from tests.unit.conftest import label_emt

SIGMA, EPSILON = 3.405, 0.01032  # Å, eV
KELVIN = EPSILON / units.kB


@pytest.fixture(scope="module")
def small_potential(potential_folder: Path) -> Potential:
    return load_potential(potential_folder)


def argon(reduced_density: float, repeat: int) -> Atoms:
    return bulk("Ar", "fcc", (4 / reduced_density) ** (1 / 3) * SIGMA, cubic=True).repeat(repeat)


def test_lennard_jones_is_that_of_ase() -> None:
    atoms = argon(0.8, 2)
    atoms.rattle(0.2, seed=1)
    results = []
    for calculator in (LennardJones(SIGMA, EPSILON), lj.LennardJones(sigma=SIGMA, epsilon=EPSILON, rc=2.5 * SIGMA)):
        atoms.calc = calculator
        results.append(np.concatenate([[atoms.get_potential_energy()], atoms.get_forces().ravel(), atoms.get_stress()]))
    np.testing.assert_allclose(results[0], results[1], rtol=1e-9, atol=1e-12)


def test_virial_is_the_volume_derivative() -> None:
    """Without motion P = -dE/dV; what dynamics samples is that plus the kinetic part."""
    atoms = argon(0.85, 2)
    atoms.rattle(0.15, seed=2)
    evaluate = one_by_one(LennardJones(SIGMA, EPSILON))
    h = 1e-5
    energies = evaluate([scale_volume(atoms, h), scale_volume(atoms, -h)]).energies
    derivative = -(energies[0] - energies[1]) / (2 * h * atoms.get_volume())
    assert -evaluate([atoms]).stresses[0, :3].mean() == pytest.approx(derivative, rel=1e-5)


def test_ideal_gas_limit() -> None:
    """Without interactions the pressure is the kinetic part, ρ k T, within its error."""
    gas = argon(0.3, 2)
    trace = run_nvt(
        [gas], one_by_one(LennardJones(SIGMA, 1e-30)), [300.0], LangevinPlan(5, 0.02, n_steps=4000, sample_every=2),
        rng=np.random.default_rng(0),
    )[0]  # fmt: skip
    expected = len(gas) / gas.get_volume() * units.kB * 300.0
    result = block_average(np.array(trace.pressures))
    assert abs(result.mean - expected) < 4 * result.error
    assert result.error < 0.03 * expected
    assert np.abs(trace.virials).max() < 1e-3 * expected


@pytest.mark.slow
def test_cut_and_shifted_lennard_jones_state_point() -> None:
    """ρ* = 0.75, T* = 1, r_c = 2.5: P* = 0.9897 and E* = -2.9286 (M. P. Allen and D. J. Tildesley, Computer Simulation
    of Liquids, 2nd ed., the examples' GUIDE); and the error of uncorrelated samples is far too small.
    """
    liquid = argon(0.75, 3)
    trace = run_nvt(
        [liquid], one_by_one(LennardJones(SIGMA, EPSILON)), [KELVIN],
        LangevinPlan(8, 0.002, n_steps=9000, sample_every=3), rng=np.random.default_rng(4),
    )[0]  # fmt: skip
    pressures = np.array(trace.pressures) * SIGMA**3 / EPSILON
    result = block_average(pressures[detect_equilibration(pressures).start :])
    energy = np.mean(trace.energies[300:]) / len(liquid) / EPSILON + 1.5
    assert result.converged
    assert 1.7 * result.naive_error < result.error < 0.05
    assert abs(result.mean - 0.9897) < 3 * result.error + 0.02
    assert abs(energy + 2.9286) < 0.03
    assert np.mean(trace.temperatures) == pytest.approx(KELVIN, rel=0.02)


def test_replicas_do_not_know_of_each_other_and_an_explosion_is_told() -> None:
    crystal = argon(1.05, 2)
    broken = crystal.copy()
    broken.positions[0] = broken.positions[1] + 0.01
    replicas = [crystal, broken]
    traces = run_nvt(
        replicas, one_by_one(LennardJones(SIGMA, EPSILON)), [40.0, 40.0],
        LangevinPlan(5, 0.01, n_steps=60, sample_every=5), rng=np.random.default_rng(0),
    )  # fmt: skip
    assert [trace.stable for trace in traces] == [True, False]
    assert len(traces[0].pressures) == 12
    assert np.isfinite(traces[0].pressures).all()


def test_batched_dynamics_is_that_of_single_evaluations(small_potential: Potential) -> None:
    from mlip.dynamics.replicas import batched
    from mlip.potential.calculator import MLIPCalculator

    structures = [bulk("Cu", "fcc", a, cubic=True) for a in (3.6, 3.8)]
    for atoms in structures:
        atoms.rattle(0.1, seed=3)
    one, many = one_by_one(MLIPCalculator(small_potential))(structures), batched(small_potential)(structures)
    np.testing.assert_allclose(one.energies, many.energies, atol=1e-4)
    np.testing.assert_allclose(one.stresses, many.stresses, atol=1e-5)
    assert all(np.allclose(a, b, atol=1e-3) for a, b in zip(one.forces, many.forces, strict=True))


def test_member_pressures_average_to_the_stress_and_their_spread_is_the_model_error(small_potential: Potential) -> None:
    frames = [bulk("Cu", "fcc", 3.7, cubic=True).repeat(2) for _ in range(4)]
    for k, atoms in enumerate(frames):
        atoms.rattle(0.1, seed=k)
    pressures, _ = member_pressures(small_potential, frames)
    stress = [-p.stress[:3].mean() / units.GPa for p in small_potential.predict(frames)]
    np.testing.assert_allclose(pressures.mean(1), stress, rtol=1e-3, atol=1e-3)
    found = model_error(small_potential, frames, 300.0)
    scale = small_potential.calibration.force_scale["Cu"]
    assert found["pressure_model_std_fixed"] == pytest.approx(scale * pressures.mean(0).std(ddof=1))
    # At high temperature the ensemble does not care which member drives it.
    hot = model_error(small_potential, frames, 1e9)
    assert hot["pressure_model_std"] == pytest.approx(hot["pressure_model_std_fixed"], rel=1e-3)


@pytest.mark.parametrize(("form", "function"), [("birch_murnaghan", birch_murnaghan), ("vinet", vinet)])
def test_static_fits_return_what_made_the_data(form: str, function: Callable[..., np.ndarray]) -> None:
    volumes = np.linspace(18, 22.5, 9)
    energies = function(volumes, -5.4, 20.0, 90 * units.GPa, 4.4)
    values, widths = fit_static(volumes, energies, form)
    np.testing.assert_allclose(values, [-5.4, 20.0, 90.0, 4.4], rtol=1e-5)
    assert (widths < 1e-3).all()


def test_intervals_of_the_fit_cover_the_truth_as_often_as_they_claim() -> None:
    volumes, rng, inside = np.linspace(18, 22.5, 9), np.random.default_rng(0), 0
    exact = birch_murnaghan(volumes, 0.0, 20.0, 90 * units.GPa, 4.4)
    for _ in range(200):
        values, widths = fit_static(volumes, exact + rng.normal(scale=1e-4, size=9), "birch_murnaghan")
        inside += abs(values[2] - 90.0) < widths[2]
    assert 180 <= inside <= 199


def test_static_curve_without_a_minimum_has_no_values_and_no_crash() -> None:
    with pytest.raises(PropertyError):
        fit_static(np.linspace(10, 12, 7), np.linspace(0, 1, 7), "vinet")
    frames = [scale_volume(bulk("Cu", cubic=True), x) for x in (0.2, 0.25, 0.3, 0.35, 0.4)]
    from ase.calculators.emt import EMT

    assert np.isnan(measure_static(frames, EMT(), None).static_value).all()


def table(values: dict[str, list[float]]) -> xr.Dataset:
    n = len(next(iter(values.values())))
    grid = {name: (("density", "temperature"), np.array(column, float)[:, None]) for name, column in values.items()}
    return xr.Dataset(grid, coords={"density": np.arange(n, dtype=float) + 1, "temperature": [100.0]})


def test_scores_are_the_formula() -> None:
    data = table({"pressure": [0, 2, 4], "pressure_model_std": [0.4, 0.2, np.nan], "stable": [1, 1, 1]})
    reference = table({"pressure": [0, 1, 4]})
    scores = score_states(data, reference, weight=0.5)
    np.testing.assert_allclose(scores.score.values.ravel(), [0.1**2, 0.05**2 + 0.5 * 0.25**2, 0.0])
    alone = score_states(data, xr.Dataset(), weight=0.5)
    np.testing.assert_allclose(alone.score.values.ravel(), [0.1**2, 0.05**2, 0.0])
    data["stable"][2] = 0
    assert np.isinf(score_states(data, reference, 0.5).score.values[2, 0])


def test_labels_go_where_the_score_is_and_never_beyond_what_there_is() -> None:
    np.testing.assert_array_equal(apportion(np.array([3.0, 1.0, 0.0]), np.array([9, 9, 9]), 8), [6, 2, 0])
    np.testing.assert_array_equal(apportion(np.array([3.0, 1.0, 0.0]), np.array([2, 9, 9]), 8), [2, 6, 0])
    np.testing.assert_array_equal(apportion(np.zeros(2), np.array([9, 9]), 4), [2, 2])
    assert apportion(np.array([np.inf, 1.0]), np.array([9, 9]), 8)[0] >= 7
    assert apportion(np.array([1.0]), np.array([2]), 5).sum() == 2
    assert spread_evenly(10, 2) == [2, 7]
    assert spread_evenly(3, 3) == [0, 1, 2]


def test_candidates_are_real_frames_of_the_chosen_states() -> None:
    data = table({"pressure": [0, 1], "pressure_model_std": [0.0, 0.3], "stable": [1, 1]})
    frames = [Atoms("Ar", info={"density": rho, "temperature": 100.0}) for rho in (1.0, 2.0) for _ in range(5)]
    found = choose_frames(frames, score_states(data, xr.Dataset(), 1.0), 3)
    assert [atoms.info["density"] for atoms in found.candidates] == [2.0] * 3
    assert [row["labelled"] for row in found.decisions] == [0, 3]


SHORT = Settings(
    densities=(0.9, 1.0), temperatures=(80.0,), n_atoms=16, timestep=5, n_steps=400, sample_every=2, n_frames=4
)


def test_measurement_of_a_calculator_has_units_and_both_errors_apart() -> None:
    calculator = LennardJones(SIGMA, EPSILON)
    data, frames = measure_isotherms(argon(1.0, 1), SHORT, calculator, None, seed=3)
    assert all("units" in data[name].attrs for name in data.data_vars)
    assert np.isnan(data.pressure_model_std).all()
    assert (data.pressure_error > data.pressure_naive_error).all()
    assert len(frames) == 8
    assert data.pressure.values[0, 0] < data.pressure.values[1, 0]
    assert frames[0].get_volume() / frames[-1].get_volume() == pytest.approx(1 / 0.9)
    again, _ = measure_isotherms(argon(1.0, 1), SHORT, calculator, None, seed=3)
    xr.testing.assert_identical(data, again)


def test_study_from_measurement_to_page(small_potential: Potential, tmp_path: Path) -> None:
    from mlip.potential.calculator import MLIPCalculator
    from mlip.studies.interface import Round
    from mlip.studies.report import write_report

    copper = bulk("Cu", cubic=True)
    references = [label_emt(scale_volume(copper, x)) for x in (-0.2, -0.1, 0.0, 0.1, 0.2, 0.3)]
    settings = SHORT.model_copy(update={"temperatures": (300.0,), "timestep": 2.0, "n_atoms": 4, "n_labels": 3})
    study = EquationOfStateStudy(settings)
    found = study.measure(Subject(MLIPCalculator(small_potential), small_potential, [copper], references, seed=1))
    reference = study.refer([copper], references, Labelled(Label(), tmp_path), 1)
    assert np.isfinite(found.data.pressure_model_std).all()
    acquired = study.acquire(found, reference, small_potential, 1)
    assert len(acquired.candidates) == 3
    write_report(study, "copper", [Round(0, found.data, study.compare(found.data, reference))], reference, tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert "Birch and Murnaghan" in page
    assert "Every state is 4 atoms for" in page
    # The committee's error counts beside the deviation from a reference, whose own error is shown.
    both = study.compare(found.data, reference.merge(found.data[["pressure", "pressure_error"]]))
    assert {"RMS error of P over its span", "RMS committee error of P over its span"} <= {c.name for c in both}
    first = study.summarise(found.data, reference.merge(found.data[["pressure", "pressure_error"]]))[0]
    assert first.reference_error == first.statistical_error
    assert page.count("<svg") == 5
    names = [c.name for c in study.compare(found.data, reference)]
    assert any("bulk modulus" in name for name in names)


def test_frames_are_thinned_evenly_by_density() -> None:
    frames = [argon(0.7, 1) for _ in range(30)]
    for k, frame in enumerate(frames):
        frame.info |= {"density": 0.9 if k < 20 else 1.1, "place": k}
    assert [f.info["place"] for f in thin_frames(frames, 5)] == [2, 6, 10, 14, 18, 21, 23, 25, 27, 29]


def test_comparison_gives_every_arm_as_many_labels_and_the_same_start(tmp_path: Path) -> None:
    from mlip.config.train import Train
    from mlip.labels.calculator import label_with
    from mlip.studies.eos.experiments.comparison import (
        Plan,
        compare_acquisitions,
        summarise_comparison,
    )

    rng = np.random.default_rng(0)
    frames = []
    for rho in (0.8, 0.9, 1.0):
        for _ in range(10):
            atoms = argon(rho, 1)
            atoms.positions += rng.normal(scale=0.1, size=(4, 3))
            atoms.info["density"] = rho
            frames.append(atoms)
    plan = Plan(n_seeds=2, n_rounds=1, n_labels=3, n_start=3, n_test=2)
    train = Train(cutoff=6.0, n_channels=4, n_radial=4, l_max=1, hidden=(4,), committee_size=2, n_steps=20)
    label = label_with(LennardJones(SIGMA, EPSILON, 6.0))
    data = compare_acquisitions(frames, label, train, plan, seed=1, scratch=tmp_path, isolated={"Ar": 0.0})
    assert (data.labels.sum("density") == data.n_labels).all()
    assert (data.labels.isel(round=0) == np.array([0, 0, 3])).all()
    np.testing.assert_array_equal(data.labels.sel(arm="uniform", round=1), [[1, 1, 4]] * 2)
    first = data.pressure_rmse.isel(round=0)
    assert (first == first.isel(arm=0)).all()
    assert first.isel(seed=0, arm=0) != first.isel(seed=1, arm=0)
    rows = summarise_comparison(data)
    assert [row["ratio"] for row in rows if row["arm"] == "uniform"] == [1.0, 1.0]
    alone = compare_acquisitions(
        frames, label, train, plan, seed=1, scratch=tmp_path, isolated={"Ar": 0.0}, referred=False
    )
    assert list(alone.arm.values) == ["uniform", "uncertainty"]


def test_command_measures_any_calculator_and_agrees_with_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The labeller as the subject: what differs from the reference is statistics alone."""
    import json

    import yaml
    from typer.testing import CliRunner

    from mlip.cli.app import app

    monkeypatch.chdir(tmp_path)
    settings = {
        "densities": [0.9, 1.0, 1.1],
        "n_atoms": 4,
        "n_steps": 300,
        "reference": "dynamics",
        "pressure_error": 1,
    }
    config = {
        "system": "copper",
        "structures": [{"bulk": {"name": "Cu"}}],
        "label": {"calculator": "ase.calculators.emt.EMT"},
        "studies": {"eos": settings | {"pressure_error": 1}},
    }
    Path("config.yaml").write_text(yaml.safe_dump(config))
    arguments = ["eos", "ase.calculators.emt.EMT", "--config", "config.yaml", "--out", "out", "--refer"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    result = json.loads(Path("out/result.json").read_text())
    assert result["passed"]
    values = {q["name"]: q for q in result["quantities"]}
    bulk_modulus = values["static bulk modulus"]
    assert bulk_modulus["value"] == pytest.approx(bulk_modulus["reference"])
    assert bulk_modulus["value"] == pytest.approx(134, abs=10)
    pressure = values["P at ρ/ρ₀ 1.1, 300 K"]
    assert pressure["value"] != pressure["reference"]
    assert pressure["model_error"] is None
    assert CliRunner().invoke(app, ["eos", "no.such.Thing", "--config", "config.yaml", "--out", "x"]).exit_code == 1
