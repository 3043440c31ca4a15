"""Barriers: ends that connect, paths whose answer is known, a verdict that a slid path does not get."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from ase import Atoms, units
from ase.build import bulk, molecule
from ase.calculators.emt import EMT
from ase.io import write
from ase.optimize import BFGS

from mlip.config.label import Label
from mlip.config.structures import StartingStructure
from mlip.config.system import load_config, parse_config
from mlip.config.values import ConfigError
from mlip.labels.calculator import label_with
from mlip.structures.starting import load_starting_structure
from mlip.studies import load_study
from mlip.studies.interface import Labelled, Reference, Round, Subject
from mlip.studies.neb.acquisition import score_images
from mlip.studies.neb.endpoints import PathError, build_ends, check_ends, displacement
from mlip.studies.neb.experiments.comparison import report
from mlip.studies.neb.path import Path as BandPath
from mlip.studies.neb.path import evaluator, find_path, interpolate
from mlip.studies.neb.saddle import log_prefactor, log_rate_std, log_rates, vibrate
from mlip.studies.neb.settings import EndPoints, Settings

ROOT = Path(__file__).resolve().parents[4]
BARRIER = 0.3745  # eV, gold over a bridge of Al(100) with EMT


def gold() -> Atoms:
    return load_starting_structure(StartingStructure(file=str(ROOT / "config/examples/gold-on-aluminium.extxyz")))


def settings(**changes: object) -> dict:
    half = float(gold().cell[0, 0] / 2)
    return {"paths": {"hop": {"hop": {"atoms": [12], "by": [half, 0.0, 0.0]}}}} | changes


@pytest.fixture(scope="module")
def measured() -> xr.Dataset:
    return load_study("neb", settings()).measure(Subject(EMT(), None, [gold()])).data


def test_the_barrier_of_a_known_hop_is_found_with_its_mode_and_rates(measured: xr.Dataset) -> None:
    path = measured.sel(path="hop")
    assert float(path.barrier) == pytest.approx(BARRIER, abs=0.002)
    assert float(path.reverse) == pytest.approx(float(path.barrier), abs=0.002)
    assert int(path.n_imaginary) == 1
    assert float(path.imaginary) < 0
    attempt = float(path.attempt[0])
    assert 0.1 < attempt < 20  # THz: an atom's
    expected = np.log(attempt * 1e12) - float(path.barrier) / (units.kB * 300)
    assert float(path.log_rate.isel(direction=0).sel(temperature=300)) == pytest.approx(expected)
    criteria = load_study("neb", settings()).compare(measured, xr.Dataset())
    assert [c.passed for c in criteria] == [True, True]


def test_an_error_of_the_barrier_becomes_one_of_the_rate() -> None:
    # The factors that the literature gives for 10 and 100 meV at room temperature.
    assert np.exp(log_rate_std(0.010, [300.0]))[0] == pytest.approx(1.47, abs=0.01)
    assert np.exp(log_rate_std(0.100, [300.0]))[0] == pytest.approx(47.8, abs=0.1)
    rng = np.random.default_rng(0)
    sampled = [log_rates(b, 30.0, [300.0])[0] for b in 0.4 + 0.02 * rng.normal(size=4000)]
    assert np.std(sampled) == pytest.approx(log_rate_std(0.02, [300.0])[0], rel=0.05)


def test_vibrations_leave_out_what_moves_as_a_whole() -> None:
    nitrogen = molecule("N2")
    nitrogen.calc = EMT()
    BFGS(nitrogen, logfile=None).run(fmax=1e-4)
    frequencies = vibrate(nitrogen, evaluator(EMT(), None))
    assert frequencies.shape == (1,)
    r, step = nitrogen.get_distance(0, 1), 0.01
    energies = []
    for change in (-step, 0, step):
        atoms = nitrogen.copy()
        atoms.set_distance(0, 1, r + change)
        atoms.calc = EMT()
        energies.append(atoms.get_potential_energy())
    stiffness = (energies[0] - 2 * energies[1] + energies[2]) / step**2
    # In SI units: eV/Å² and the reduced mass.
    omega = np.sqrt(stiffness * 16.02176634 / (nitrogen.get_masses()[0] / 2 * 1.66053907e-27))
    assert frequencies[0] == pytest.approx(omega / (2 * np.pi) * 1e-12, rel=1e-2)


def test_a_prefactor_needs_a_minimum_and_one_way_down() -> None:
    assert log_prefactor(np.array([1.0, 2.0, 3.0]), np.array([-1.0, 2.0, 3.0])) == pytest.approx(np.log(1e12))
    assert np.isnan(log_prefactor(np.array([1.0, 2.0]), np.array([1.0, 2.0])))
    assert np.isnan(log_prefactor(np.array([-1.0, 2.0]), np.array([-1.0, 2.0])))


def test_ends_are_built_by_what_happens() -> None:
    crystal = bulk("Al", cubic=True).repeat(2)
    initial, final = build_ends("v", EndPoints(vacancy={"removed": 0, "moved": 1}), [crystal])
    assert len(initial) == len(final) == len(crystal) - 1
    moved = np.linalg.norm(displacement(initial, final), axis=1)
    assert (moved > 0.1).sum() == 1
    assert moved.max() == pytest.approx(crystal.get_distance(0, 1, mic=True))
    ammonia = molecule("NH3")
    initial, final = build_ends("i", EndPoints(inversion={"atoms": [0], "plane": [1, 2, 3]}), [ammonia])
    heights = [atoms.positions[0, 2] - atoms.positions[1:, 2].mean() for atoms in (initial, final)]
    assert heights[0] == pytest.approx(-heights[1])
    # Constraints come along, without the atom that is missing.
    fixed = gold()
    initial, _ = build_ends("v", EndPoints(vacancy={"removed": 11, "moved": 10}), [fixed])
    assert sorted(initial.constraints[0].index) == [k for k in sorted(fixed.constraints[0].index) if k < 11]


def changed(change: str) -> tuple[Atoms, Atoms]:
    initial = gold()
    final = initial.copy()
    final.set_constraint()
    final.positions[12, 0] += 2.86
    if change == "composition":
        final.symbols[12] = "Ag"
    elif change == "order":
        final = final[[12, *range(12)]]
    elif change == "same":
        final = initial.copy()
        final.positions[12, 0] += final.cell[0, 0]
    elif change == "cell":
        final.set_cell(final.cell * 1.01)
    elif change == "fixed":
        final.positions[0, 0] += 0.3
    elif change == "close":
        final.positions[12] = final.positions[11] + [0.1, 0, 0]
    if change not in ("order", "same", "free"):
        final.set_constraint(initial.constraints)
    if change == "order":
        initial.set_constraint()
    return initial, final


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("composition", "Al12Au and .*Ag.*give ends of one composition"),
        ("order", "atom 0 is Al in one end and Au in the other; write the atoms of both files in the same order"),
        ("same", "both ends are the same: .*give another second end"),
        ("cell", "different cells; relax both in the same cell"),
        ("free", "fix the same in both"),
        ("fixed", "atom 0 is fixed and is not in the same place"),
        ("close", r"two atoms \(nearly\) coincide in the second end"),
    ],
)
def test_ends_that_no_path_connects_are_named_with_the_remedy(change: str, told: str) -> None:
    with pytest.raises(PathError, match=f"studies.neb.paths.hop: .*{told}"):
        check_ends("hop", *changed(change))


def test_ends_that_relax_into_one_are_refused() -> None:
    study = load_study("neb", {"paths": {"hop": {"hop": {"atoms": [12], "by": [0.4, 0.0, 0.0]}}}})
    with pytest.raises(PathError, match=r"both ends are the same after their relaxation.*nearer to the minimum"):
        study.measure(Subject(EMT(), None, [gold()]))


@pytest.mark.parametrize(
    ("paths", "told"),
    [
        ({"a": {}}, "give exactly one of"),
        ({"a": {"initial": {"file": "a.xyz"}}}, "`initial` and `final` need each other"),
        ({"a/b": {"vacancy": {"removed": 0, "moved": 1}}}, "has a name that no file can carry"),
    ],
)
def test_paths_of_the_configuration_are_checked(paths: dict, told: str) -> None:
    values = {"system": "x", "structures": [{"bulk": {"name": "Cu"}}], "studies": {"neb": {"paths": paths}}}
    with pytest.raises(ConfigError, match=told):
        parse_config(values)


def test_numbers_of_atoms_and_structures_are_checked() -> None:
    with pytest.raises(PathError, match=r"no atom 99 in Al12Au; its 13 atoms are counted from 0"):
        build_ends("a", EndPoints(hop={"atoms": [99], "by": [1.0, 0.0, 0.0]}), [gold()])
    with pytest.raises(PathError, match="there is no structure 3"):
        build_ends("a", EndPoints(structure=3, vacancy={"removed": 0, "moved": 1}), [gold()])
    with pytest.raises(PathError, match="there is no path; name one"):
        load_study("neb").measure(Subject(EMT(), None, [gold()]))


def test_ends_may_come_from_files(tmp_path: Path) -> None:
    initial, final = build_ends("hop", Settings(**settings()).paths["hop"], [gold()])
    names = [str(tmp_path / name) for name in ("initial.extxyz", "final.extxyz")]
    for name, atoms in zip(names, (initial, final), strict=True):
        write(name, atoms, columns=["symbols", "positions", "move_mask"])
    given = Settings(paths={"hop": {"initial": {"file": names[0]}, "final": {"file": names[1]}}})
    assert list(given.files()) == names
    found = build_ends("hop", given.paths["hop"], [])
    assert np.abs(found[1].positions - final.positions).max() < 1e-6
    assert len(found[0].constraints[0].index) == 8


def table(energies: list[float], energy_std: list[float], **changes: object) -> xr.Dataset:
    """What a measurement has of one path of five images."""
    values = {
        "residual": 0.01,
        "n_imaginary": 1,
        "label_force": 0.01,
        "label_error": 0.001,
        "top": int(np.argmax(energies)),
    }
    data = xr.Dataset({name: ((), value) for name, value in (values | changes).items() if np.ndim(value) == 0})
    data["energy"], data["energy_std"] = ("image", energies), ("image", energy_std)
    data["force_std"] = ("image", changes.get("force_std", [0.0] * 5))
    data["label_distance"] = ("image", changes.get("label_distance", [0.0, 1.0, 1.0, 1.0, 0.0]))
    return data.expand_dims(path=["hop"])


def test_a_score_is_what_the_equation_says() -> None:
    s = Settings(**settings(force_weight=7.0, focus=0.1))
    data = table([0.0, 0.2, 0.4, 0.3, 0.1], [0.0, 0.1, 0.2, 0.3, 0.1], force_std=[0.0, 0.5, 0.1, 0.2, 0.0]).sel(
        path="hop"
    )
    beta = 1 / (units.kB * 300)
    expected = [np.exp(-2) * (beta**2 * 0.01 + 7 * 0.25), beta**2 * 0.04 + 0.07, np.exp(-1) * (beta**2 * 0.09 + 0.28)]
    assert score_images(data, s)[1:-1] == pytest.approx(expected)
    assert score_images(data, s)[[0, -1]].tolist() == [-np.inf, -np.inf]
    uncertain = s.model_copy(update={"acquisition": "uncertainty"})
    assert int(np.argmax(score_images(data, uncertain))) == 3
    assert int(np.argmax(score_images(data, s.model_copy(update={"acquisition": "top"})))) == 2


def test_a_certain_path_has_its_saddle_labelled_and_a_label_is_not_made_twice() -> None:
    s = Settings(**settings())
    data = table([0.0, 0.2, 0.4, 0.3, 0.1], [0.001] * 5).sel(path="hop")
    assert int(np.argmax(score_images(data, s))) == 2
    known = table([0.0, 0.2, 0.4, 0.3, 0.1], [0.001] * 5, label_distance=[0.0, 1.0, 0.0005, 1.0, 0.0]).sel(path="hop")
    assert score_images(known, s)[2] == -np.inf


def test_a_path_that_slid_onto_an_end_does_not_pass() -> None:
    """Nothing is left to object to, labelled force and uncertainties are zero: it is no barrier all the same."""
    study = load_study("neb", settings())
    slid = table([0.0, -0.3, -0.4, -0.3, -0.1], [0.0] * 5, n_imaginary=-1, label_force=0.0, label_error=0.0)
    failed = [c for c in study.compare(slid, xr.Dataset()) if not c.passed]
    assert [c.name for c in failed] == ["imaginary modes of the saddle, off one"]
    assert "there is no barrier between them. Give ends" in failed[0].remedy
    # A certain potential that knows nothing of the middle has it labelled; one that knows it all ends the rounds.
    assert np.isfinite(score_images(slid.sel(path="hop"), study.settings)[1:-1]).all()
    near = {"n_imaginary": -1, "label_distance": [0.0, 0.05, 0.05, 0.05, 0.0]}
    known = table([0.0, -0.3, -0.4, -0.3, -0.1], [0.0] * 5, **near)
    assert not np.isfinite(score_images(known.sel(path="hop"), study.settings)).any()


@pytest.mark.parametrize(
    "changes",
    [{"label_force": 0.06}, {"label_error": 0.02}, {"n_imaginary": 2}, {"residual": 0.1}, {"label_force": np.nan}],
)
def test_each_condition_can_fail_alone(changes: dict) -> None:
    study, energies = load_study("neb", settings()), [0.0, 0.2, 0.4, 0.3, 0.1]
    assert all(c.passed for c in study.compare(table(energies, [0.01] * 5), xr.Dataset()))
    assert sum(not c.passed for c in study.compare(table(energies, [0.01] * 5, **changes), xr.Dataset())) == 1
    # One uncertain image far from the saddle is enough.
    assert sum(not c.passed for c in study.compare(table(energies, [0.0, 0.06, 0, 0, 0]), xr.Dataset())) == 1


def test_a_reference_brings_the_labels_of_the_relaxation_and_a_measurement_begins_with_it(tmp_path: Path) -> None:
    study = load_study("neb", settings())
    labeller = Labelled(Label(calculator="ase.calculators.emt.EMT"), tmp_path)
    found = study.refer([gold()], (), labeller, 0)
    assert isinstance(found, Reference)
    ends = [a.info.get("end") for a in found.structures]
    assert (ends[0], ends.count("initial"), ends.count("final"), ends[-1]) == ("initial", 1, 1, None)
    assert int(found.data.n_relaxation.sum()) == len(found.structures)
    label = label_with(EMT())
    labelled = [label(atoms) for atoms in found.structures]
    saddle = label(
        find_path(
            interpolate(labelled[0], labelled[ends.index("final")], 5), evaluator(EMT(), None), fmax=0.02, n_steps=100
        ).images[2]
    )
    reference = Reference(found.data, labelled)
    subject = Subject(EMT(), None, [], training=[*labelled, saddle], reference=reference)
    path = study.measure(subject).data.sel(path="hop")
    assert float(path.label_energy) == pytest.approx(BARRIER, abs=0.002)
    assert float(path.label_force) < 0.05  # of the saddle's label, not of the ends', which are at rest, too
    assert float(path.label_error) < 1e-3
    assert int(path.n_labels) == len(labelled) + 1
    without = study.measure(Subject(EMT(), None, [], training=labelled, reference=reference)).data.sel(path="hop")
    assert np.isnan(float(without.label_force))


def test_a_path_whose_top_lies_on_an_end_has_no_saddle() -> None:
    ends = build_ends("hop", Settings(**settings()).paths["hop"], [gold()])
    images = interpolate(*ends, 5)
    images[1] = images[0].copy()
    n = np.array([0.0, 1e-7, -0.2, -0.3, -0.1])
    assert not BandPath(images, n, 0.0).has_saddle(0.1)
    assert BandPath(interpolate(*ends, 5), np.array([0.0, 0.1, 0.3, 0.2, 0.0]), 0.0).has_saddle(0.1)


def test_the_page_draws_and_tells(measured: xr.Dataset, tmp_path: Path) -> None:
    from mlip.report.drawing import png

    study = load_study("neb", settings(temperatures=[300, 500]))
    data = measured.copy(deep=True)
    data["energy_std"] = xr.full_like(data.energy, 0.01)
    rounds = [
        Round(
            k,
            data,
            study.compare(data, xr.Dataset()),
            k,
            [{"path": "hop", "image": "3", "coordinate": "1.4", "energy": "0.37", "decision": "taken"}],
        )
        for k in range(2)
    ]
    for picture in study.draw(rounds, xr.Dataset()):
        png(picture, tmp_path / f"{picture.name}.png")
        assert (tmp_path / f"{picture.name}.png").stat().st_size > 10_000
    texts = " ".join(study.remarks(rounds, xr.Dataset()))
    assert "1 imaginary mode" in texts
    names = [q.name for q in study.summarise(data, xr.Dataset())]
    assert {"hop: barrier", "hop back: barrier", "hop: ln k at 300 K (k in 1/s)"} <= set(names)


def test_the_table_of_the_comparison_tells_who_did_not_get_there() -> None:
    row = {"energy_std": [0.01], "barrier": [0.37], "label_energy": [0.374], "label_force": [0.02]}
    runs = {
        f"barrier-{k}": {"arm": "barrier", "relaxed": 6, "rows": [row | {"labels": n, "passed": n < 12}]}
        for k, n in enumerate((5, 7, 12))
    }
    bands = {
        "labeller": {"arm": "labeller", "bands": [{"path": "hop", "optimiser": "ODE", "calls": 35, "barrier": 0.3745}]}
    }
    text = report(runs | bands).text
    assert "| acquisition `barrier` | 5, 7, >12 | 7 | 0.3700 to 0.3700 | 0.3740 to 0.3740 |" in text
    assert "ODE (hop) | 35 |" in text


@pytest.mark.parametrize("name", ["gold-on-aluminium", "ammonia"])
def test_the_example_configurations_have_ends_that_differ(name: str) -> None:
    config = load_config(ROOT / "config" / f"{name}.yaml")
    structures = [load_starting_structure(source) for source in config.structures]
    for path, ends in config.studies.neb.paths.items():
        build_ends(path, ends, structures)
    assert config.train_of_study("neb", 0).energy_weight == 10.0
