"""Diagnosis, influence of training structures, and faults that are found, named and mended."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase.build import bulk

from mlip.calculators.stillinger_weber import StillingerWeber
from mlip.config.train import Train
from mlip.io.files import write_json
from mlip.labels.calculator import label_with
from mlip.potential.ace.committee import ACEPotential
from mlip.potential.calculator import MLIPCalculator
from mlip.potential.uncertainty import rank_correlation
from mlip.properties.elastic.constants import fit_energies
from mlip.properties.elastic.strains import sample_path
from mlip.seeds import derive_rng
from mlip.studies import load_study
from mlip.studies.elastic.attribution import causes
from mlip.studies.elastic.attribution.causes import fit_readout, measure_potential, measure_reference, relative_error
from mlip.studies.elastic.attribution.diagnosis import diagnose
from mlip.studies.elastic.attribution.influence import attribute, screen_labels
from mlip.studies.elastic.attribution.sensitivity import parameter_sensitivity
from mlip.studies.elastic.attribution.table import suspected_causes
from mlip.studies.elastic.experiments import demonstration
from mlip.studies.elastic.experiments.ablation import verdict
from mlip.studies.elastic.experiments.demonstration import demonstrate_fault
from mlip.studies.elastic.experiments.mending import mend, plant_fault, training_structures
from mlip.studies.elastic.experiments.omission import Repeated, omit_structures, record
from mlip.studies.experiments import experiments_of
from mlip.studies.interface import Round, Subject
from mlip.studies.report import report_experiment, write_report
from mlip.training.ace.readout import build_readout, evaluate_columns, last_weights, with_last_weights

SETTINGS = Train(cutoff=4.0, n_channels=10, hidden=(8,), committee_size=2, consistency="off")
SIGNED = [-0.012, -0.008, -0.004, 0.0, 0.004, 0.008, 0.012]
CRYSTAL = bulk("Si", a=5.431)
CUBE = bulk("Si", a=5.431, cubic=True)
LABEL, MISLABEL = label_with(StillingerWeber()), label_with(StillingerWeber(10.0))


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def reference():
    return measure_reference(StillingerWeber(), CRYSTAL)


@pytest.fixture(scope="module")
def training():
    return [LABEL(a) for a in training_structures(CUBE, 24, seed=1)]


@pytest.fixture(scope="module")
def potential(training) -> ACEPotential:
    return fit_readout(training, SETTINGS, seed=1)


@pytest.fixture(scope="module")
def measured(potential):
    return measure_potential(potential, CRYSTAL)[0]


@pytest.fixture(scope="module")
def attribution(potential, training, measured):
    return attribute(potential, training, SETTINGS, measured)


# The last layer as a linear model


def test_columns_and_weights_make_the_potential(potential, training) -> None:
    for member in range(2):
        columns = evaluate_columns(potential, training[:3], member)
        weights = np.concatenate(([1.0], last_weights(potential, member)))
        for k, prediction in enumerate(potential.predict(training[:3])):
            assert columns.energies[k] @ weights == pytest.approx(prediction.energy_members[member], abs=1e-8)
            assert columns.forces[k] @ weights == pytest.approx(prediction.forces_members[member], abs=1e-8)
    mean = np.mean(
        [
            evaluate_columns(potential, training[:1], m).virials[0]
            @ np.concatenate(([1.0], last_weights(potential, m)))
            for m in range(2)
        ],
        axis=0,
    )
    stress = potential.predict(training[:1])[0].stress * training[0].get_volume()
    assert mean[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]] == pytest.approx(stress, abs=1e-8)


def test_leaving_out_in_closed_form_is_a_refit(attribution) -> None:
    readout = attribution.readouts[0]
    everything = np.arange(readout.n_structures)
    exact = readout.leave_out()
    plain = readout.leave_out(exact=False)
    for k in (0, 7, 23):
        refit = readout.refit(np.delete(everything, k)) - readout.weights
        assert exact[k] == pytest.approx(refit, abs=1e-4 * np.abs(refit).max())
        assert np.abs(plain[k] - refit).max() > 1e-2 * np.abs(refit).max()


def test_expected_gain_is_that_of_a_refit(attribution, potential, training) -> None:
    readout, gradient = attribution.readouts[0], attribution.gradients[0]
    more = build_readout(potential, [*training, *training[:2]], SETTINGS, 0)
    rows = readout.rows[readout.owner < 2]
    before = np.einsum("nd,de,ne->n", gradient, readout.inverse, gradient)
    inverse = np.linalg.inv(more.rows.T @ more.rows + readout.ridge * np.eye(len(gradient[0])))
    after = np.einsum("nd,de,ne->n", gradient, inverse, gradient)
    assert readout.expected_gain(gradient, rows) == pytest.approx(np.sqrt(before / after), rel=1e-3)


# Influence on constants


def test_influence_predicts_constants_of_refitted_potentials(attribution, potential) -> None:
    """Crystal relaxed and strained anew each time, so that the shift of the volume is in it."""
    row = attribution.influenced.index("C44 relaxed")
    predicted, everything = attribution.influence[row], np.arange(attribution.influence.shape[1])

    def value(kept) -> float:
        refitted = with_last_weights(potential, [r.refit(kept) for r in attribution.readouts])
        return measure_potential(refitted, CRYSTAL)[1].ravel()[row]

    whole = value(everything)
    chosen = np.argsort(predicted)[[0, 6, 12, 18, -1]]
    found = np.array([value(np.delete(everything, k)) - whole for k in chosen])
    assert rank_correlation(predicted[chosen], found) > 0.9
    assert predicted[chosen] == pytest.approx(found, rel=0.25, abs=0.1)


def test_plain_influence_ranks_almost_like_the_exact_one(attribution) -> None:
    for exact, plain in zip(attribution.influence, attribution.plain, strict=True):
        assert rank_correlation(exact, plain) > 0.6


def test_complete_right_data_hold_no_suspect(attribution) -> None:
    assert len(attribution.suspects) == 0


def test_wrong_labels_are_suspect_even_when_there_are_many(potential, training) -> None:
    wrong = sorted(derive_rng(3, "wrong").choice(24, 5, replace=False).tolist())
    mixed = [MISLABEL(a) if k in wrong else a for k, a in enumerate(training)]
    readouts = [build_readout(potential, mixed, SETTINGS, m, from_scratch=True) for m in range(2)]
    suspicion = screen_labels(readouts, mixed)[1]
    assert set(np.argsort(-suspicion)[:4].tolist()) <= set(wrong)
    assert all(suspicion[k] < 5 for k in range(24) if k not in wrong)


def test_sensitivity_is_a_derivative(potential, measured) -> None:
    table = parameter_sensitivity(measured, potential)
    step = 1e-3
    values = []
    for sign in (1, -1):
        scaled = with_last_weights(potential, [(1 + sign * step) * last_weights(potential, m) for m in range(2)])
        calculator = MLIPCalculator(scaled, uncertainty=False)
        paths = [own.path for own in measured.samples["clamped"]]
        samples = [sample_path(measured.crystal, calculator, p, SIGNED, None) for p in paths]
        energies = [own.energies for own in samples]
        volume = measured.crystal.get_volume()
        values.append(fit_energies(measured.basis, paths, energies, samples, volume).values[2])
    along = abs(values[0] - values[1]) / (2 * step)  # sum of theta dC/dtheta over the last layer
    last = [float(table.sensitivity.sel(constant="C44", group=name)) for name in ("linear", "output")]
    n_weights = 2 * potential.size.n_last
    assert 0 < along < np.sqrt(n_weights) * np.hypot(*last)
    assert along > 0.02 * np.hypot(*last)
    degrees = [str(g) for g in table.group.values if str(g).startswith("mix l=")]
    assert len(degrees) == SETTINGS.l_max + 1
    assert not any(p.requires_grad for p in potential.network.parameters())


# Diagnosis


def shifted(table, clamped=0.0, relaxed=0.0):
    changed = table.copy(deep=True)
    changed["constants"].loc[{"constant": "C44", "state": "clamped"}] += clamped
    changed["constants"].loc[{"constant": "C44", "state": "relaxed"}] += relaxed
    return changed


@pytest.mark.parametrize(
    ("clamped", "relaxed", "place"),
    [
        (1.0, -1.0, "nowhere"),
        (2.0, 20.0, "internal relaxation"),
        (25.0, 24.0, "energy of strain"),
        (25.0, 1.0, "both"),
        (-25.0, 20.0, "both"),
    ],
)
def test_diagnosis_tells_forces_from_strain_energy(reference, clamped, relaxed, place) -> None:
    found = diagnose(shifted(reference, clamped, relaxed), reference, 0.1)
    assert found.place == place
    if place != "nowhere":
        assert found.worst.name == "C44"
        assert "C44 is off by" in found.describe()[0]


def test_wrong_internal_forces_are_diagnosed_in_a_real_potential(reference) -> None:
    """An extra spring between the sublattices changes no clamped constant."""

    class Stiff(StillingerWeber):
        def calculate(self, *args, **kwargs):
            super().calculate(*args, **kwargs)
            apart = self.atoms.get_scaled_positions()[1] - self.atoms.get_scaled_positions()[0]
            shift = (apart - np.round(apart - 0.25) - 0.25) @ self.atoms.cell.array
            self.results["energy"] += 0.5 * 10 * shift @ shift
            self.results["free_energy"] = self.results["energy"]
            self.results["forces"] = self.results["forces"] + 10 * np.array([shift, -shift])

    data = measure_reference(Stiff(), CRYSTAL)
    found = diagnose(data, reference, 0.1)
    assert found.place == "internal relaxation"
    assert [c.name for c in found.constants if c.place != "nowhere"] == ["C44"]
    assert found.frequency[0] > found.frequency[1] + 1
    assert found.zeta[0] < found.zeta[1] - 0.05


# Leaving structures out


EXPERIMENTS = experiments_of("elastic")


def test_omission_repeats_a_training_but_for_the_structure(training, tmp_path) -> None:
    quick = SETTINGS.model_copy(update={"n_steps": 60})
    run = Repeated(training[:10], quick, 3)
    again = Repeated(training[:10], quick, 3)
    same, other = (r.from_scratch(None).predict(training[-1:])[0].energy for r in (run, again))
    assert same == other
    assert abs(run.from_scratch(4).predict(training[-1:])[0].energy - same) > 1e-6
    found = omit_structures(training[:10], quick, CRYSTAL, n=4, seeds=[3, 4])
    assert found.measured["training from scratch"].shape == (2, 4)
    assert found.correlation("refit of the last layer")[0] > 0.7
    result = tmp_path / "result.json"
    write_json(result, record(found, training[:10]), checked=True)
    report_experiment(EXPERIMENTS["influence"], {"influence": result}, tmp_path / "influence.md", tmp_path)
    assert "C44 relaxed of 4 of 10" in (tmp_path / "influence.md").read_text()
    assert (tmp_path / "influence.png").is_file()


# Faults


@pytest.mark.parametrize("fault", ["wrong_labels", "short_cutoff", "missing_shear"])
def test_planted_faults_are_found_named_and_mended(fault, tmp_path) -> None:
    planted, found, constants = demonstrate_fault(
        fault,
        CUBE,
        SETTINGS,
        StillingerWeber(),
        StillingerWeber(10.0),
        fit=lambda data, own: fit_readout(data, own, 1),
        n_labels=10,
        seed=1,
    )
    write_json(tmp_path / "result.json", demonstration.record(fault, planted, found, constants), checked=True)
    page = tmp_path / f"{fault}.md"
    report_experiment(EXPERIMENTS["faults"], {fault: tmp_path / "result.json"}, page, tmp_path)
    name = {"wrong_labels": "wrong labels", "short_cutoff": "descriptor", "missing_shear": "missing strains"}[fault]
    assert found.cause.name == name, found.cause
    assert found.error_after < 0.6 * found.error_before
    wrong = plant_fault(fault, CUBE, 30, SETTINGS, LABEL, MISLABEL, 1)[2]
    assert wrong == planted
    assert set(found.cause.suspects) <= set(wrong)
    assert found.n_labels <= 10
    assert (tmp_path / f"{fault}.md").read_text().startswith(f"# Planted: {fault.replace('_', ' ')}")
    if fault == "short_cutoff":
        assert found.settings.radius > 3
    if fault == "missing_shear":
        assert "monoclinic" in found.cause.paths


@pytest.mark.parametrize(("gain", "name"), [(3.2, "descriptor"), (9.0, "missing strains")])
def test_open_constants_are_the_descriptor_s_fault_where_another_one_helps(gain, name, reference, monkeypatch) -> None:
    training, settings, _ = plant_fault("short_cutoff", CUBE, 24, SETTINGS, LABEL, MISLABEL, 1)
    monkeypatch.setattr(causes, "expected_gains", lambda *_: {"monoclinic": np.full(6, gain)})
    found = mend(training, settings, CRYSTAL, reference, LABEL, lambda data, own: fit_readout(data, own, 1), seed=1)
    assert found.cause.name == name


def test_ablation_names_a_descriptor_only_when_it_helps() -> None:
    present = {"variant": "present", "error": 0.3, "change": {}}
    longer = {"variant": "long", "error": 0.1, "change": {"cutoff": 6.0}}
    assert "cutoff" in verdict([present, longer])
    assert "not what is wrong" in verdict([present, longer | {"error": 0.28}])
    assert "no crystal" in verdict([present | {"error": None}, longer])


# The study


def test_study_measures_attributes_acquires_and_reports(potential, training, reference, tmp_path) -> None:
    study = load_study("elastic", {"n_labels": 6, "tolerance": 0.01})
    subject = Subject(MLIPCalculator(potential, uncertainty=False), potential, [CRYSTAL], training=training, seed=1)
    found = study.measure(subject)
    data = found.data
    assert data.constants.attrs["units"] == "GPa"
    assert data.influence.dims == ("influenced", "structure")
    assert float(data.model_error.min()) > 0
    assert relative_error(data.by_energy.values, reference) < 0.3
    assert suspected_causes(data, reference)
    chosen = study.acquire(found, reference, potential, 1)
    assert len(chosen.candidates) == 6
    assert {row["decision"] for row in chosen.decisions} == {"taken", "left"}
    criteria = study.compare(data, reference)
    assert len(criteria) == 8
    committee = next(c for c in criteria if "committee" in c.name)
    assert committee.value == pytest.approx(float((data.model_error / data.constants).max()))
    assert any("members differ in" in text for text in study.remarks([Round(0, data, criteria)], reference))
    assert not all(c.passed for c in criteria)
    write_report(study, "silicon", [Round(0, data, criteria)], reference, tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert "Influence of the training structures" in page
    assert (tmp_path / "figures" / "strain_energy.png").stat().st_size > 1000


def test_acquisition_prefers_the_path_that_is_wrong(potential, reference, measured) -> None:
    study = load_study("elastic", {"n_labels": 4})
    found = study.measure(Subject(StillingerWeber(), None, [CRYSTAL], seed=2))
    wrong = found.data.copy(deep=True)
    wrong["energy_density"].loc[{"path": "monoclinic"}] *= 1.5
    chosen = study.acquire(type(found)(wrong, found.frames), reference, potential, 1)
    assert [a.info["path"] for a in chosen.candidates].count("monoclinic") >= 3
