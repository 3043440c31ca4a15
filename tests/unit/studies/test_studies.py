"""Studies are plug-ins: found by folder, configured, drawn and judged without being named anywhere."""

from __future__ import annotations

import importlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import xarray as xr
from ase import Atoms
from ase.build import bulk

from mlip.config.label import Label
from mlip.config.loop import Collect
from mlip.config.study import StudySettings, study_names
from mlip.config.system import parse_config
from mlip.config.train import Train
from mlip.config.values import ConfigError
from mlip.criteria import Criterion
from mlip.io.extxyz import read_structures
from mlip.io.files import FileContentError
from mlip.io.netcdf import write_netcdf
from mlip.structures.roles import split_of
from mlip.studies import load_study
from mlip.studies.experiments import Need, Task, experiments_of
from mlip.studies.interface import Acquisition, Labelled, Measurement, Quantity, Reference, Study, Subject
from mlip.studies.report import report_study
from mlip.studies.steps import acquire_candidates, gate_criteria, read_round, refer, write_measurement

ROOT = Path(__file__).resolve().parents[3]
MINIMAL = {"system": "x", "structures": [{"bulk": {"name": "Cu"}}]}


class Counting(Study):
    """Measures the number of atoms."""

    name, title = "counting", "Counting"

    def measure(self, subject: Subject) -> Measurement:
        return Measurement(xr.Dataset({"n": ((), float(len(subject.structures[0])), {"units": "1"})}))

    def compare(self, data: xr.Dataset, reference: xr.Dataset) -> list[Criterion]:
        return [Criterion("error of the number", abs(float(data.n - reference.n)), 0.5)]

    def acquire(self, measurement: Measurement, reference: xr.Dataset, potential: object, seed: int) -> Acquisition:
        chosen = [bulk("Cu"), bulk("Ag")]
        chosen[0].info = {"structure_id": "to be replaced", "reason": "far off"}
        return Acquisition(chosen, [{"frame": 0, "score": 1 / 3, "decision": "taken"}])

    def summarise(self, data: xr.Dataset, reference: xr.Dataset) -> list[Quantity]:
        return [Quantity("number", float(data.n), "1", model_error=0.25, reference=float(reference.n))]

    def draw(self, rounds: object, reference: xr.Dataset) -> list:
        return []

    def remarks(self, rounds: object, reference: xr.Dataset) -> list[str]:
        return ["Counted <b>twice</b>."]


def test_every_study_loads_with_its_defaults() -> None:
    assert "eos" in study_names()
    for name in study_names():
        study = load_study(name)
        assert isinstance(study, Study)
        assert study.name == name
        assert isinstance(study.settings, StudySettings)
        assert getattr(parse_config(MINIMAL).studies, name) == study.settings


def test_an_unknown_study_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="no study is called 'eso'"):
        load_study("eso")
    with pytest.raises(ConfigError, match="did you mean `eos`"):
        parse_config(MINIMAL | {"studies": {"eso": {}}})
    with pytest.raises(ConfigError, match=r"assess\.studies"):
        parse_config(MINIMAL | {"assess": {"studies": ["eso"]}})


def test_a_wrong_key_of_a_study_is_explained() -> None:
    with pytest.raises(ConfigError, match="did you mean `rounds`"):
        parse_config(MINIMAL | {"studies": {"eos": {"round": 3}}})


def test_a_new_folder_is_all_that_a_study_needs(tmp_path: Path) -> None:
    """Configuration, schema and command line learn of it by themselves; tests/workflow runs the same study."""
    shutil.copytree(ROOT / "mlip", tmp_path / "mlip", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "tests/data/softness", tmp_path / "mlip/studies/softness")
    program = f"""
from mlip.config.system import Config, parse_config
config = parse_config({MINIMAL!r} | {{"studies": {{"softness": {{"compression": 0.3}}}}}})
assert config.studies.softness.compression == 0.3 and config.studies.softness.rounds == 1
assert "softness" in str(Config.model_json_schema())
from mlip.config.schema import render_reference
assert "Energy that compression costs." in render_reference()
from mlip.cli.app import app
assert "softness" in [command.name for command in app.registered_commands]
from mlip.studies.experiments import experiments_of
parts = experiments_of("softness")["squeezing"].parts(config.studies.softness)
assert [part.name for part in parts] == ["little", "much"]
import sys
assert not {{"torch", "ase", "matplotlib", "xarray"}} & set(sys.modules), "heavy imports"
"""
    command, environment = [sys.executable, "-c", program], os.environ | {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment, check=False)
    assert done.returncode == 0, done.stderr


ONCE_THERE = '"mlip.studies.elastic.stillinger_weber.StillingerWeber"'
"""Keys of labels hold this path, from before it moved."""


def test_nothing_outside_a_study_names_it() -> None:
    """At any depth; what all studies share, in ``mlip/studies`` itself, included."""
    modules = [path for path in (ROOT / "mlip").rglob("*.py") if (ROOT / "mlip/studies") not in path.parents[1:]]
    rules = [*(ROOT / "workflow/rules").rglob("*.smk"), *(ROOT / "scripts").rglob("*.py")]
    assert len(modules) > 100
    assert ROOT / "mlip/studies/steps.py" in modules
    for path in [*modules, *rules, ROOT / "Snakefile"]:
        for name in study_names():
            assert f"studies.{name}" not in path.read_text().replace(ONCE_THERE, ""), path


EXPERIMENTS = {
    f"{study}-{name}": (study, experiment)
    for study in study_names()
    for name, experiment in experiments_of(study).items()
}


def test_experiments_are_found_by_their_study() -> None:
    assert {"elastic-ablation", "elastic-influence", "elastic-faults", "eos-comparison"} <= set(EXPERIMENTS)
    assert experiments_of("diffusion") == {}
    with pytest.raises(ValueError, match="no study is called 'eso'"):
        experiments_of("eso")


@pytest.mark.parametrize("key", EXPERIMENTS)
def test_an_experiment_has_parts_pages_and_functions(key: str) -> None:
    study, experiment = EXPERIMENTS[key]
    module = importlib.import_module(experiment.module)
    assert callable(module.run)
    assert callable(module.report)
    settings = load_study(study).settings
    parts = experiment.parts(settings)
    # Jobs on Slurm are told apart by the words between underscores; see mlip.jobs.slurm.comments.
    assert re.fullmatch(r"[a-z]+", experiment.name)
    assert all(re.fullmatch(r"[\w-]+", part.name) for part in parts)
    assert {need for part in parts for need in part.needs} <= set(get_args(Need))
    reported = [name for names in experiment.pages(settings).values() for name in names]
    assert sorted(reported) == sorted(part.name for part in parts)
    json.dumps([part.plan for part in parts])


def test_the_comparison_runs_a_potential_only_where_the_labeller_is_dear() -> None:
    comparison = experiments_of("eos")["comparison"]
    cheap, dear = (
        comparison.parts(load_study("eos", {"reference": name}).settings)[0] for name in ("dynamics", "none")
    )
    assert ("potential" in cheap.needs, "potential" in dear.needs) == (False, True)
    assert (cheap.plan["plan"]["n_test"], dear.plan["plan"]["n_test"]) == (8, 4)


def test_a_part_that_does_not_say_what_it_needs_is_told(tmp_path: Path) -> None:
    task = Task("one", {}, [], Train(), Labelled(Label(), tmp_path), seed=0, folder=tmp_path)
    assert task.potential is None
    with pytest.raises(ValueError, match="part one uses 'reference': name it in the `needs` of its Part"):
        _ = task.reference


def test_a_part_with_no_dataset_does_not_wait_for_the_loop_to_end() -> None:
    faults = experiments_of("elastic")["faults"].parts(load_study("elastic").settings)
    assert [part.needs for part in faults] == [("labels",)] * 3


def test_candidates_carry_who_asked_for_them_and_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mlip.potential.load_potential", lambda *args, **kwargs: None)
    study = Counting(StudySettings())
    write_measurement(Measurement(xr.Dataset({"n": 9.0}), [bulk("Cu")]), tmp_path)
    write_netcdf(tmp_path / "reference.nc", xr.Dataset({"n": 4.0}))
    out, decisions, verdict = (tmp_path / name for name in ("candidates.extxyz", "decisions.csv", "verdict.json"))
    files = {"out": out, "decisions": decisions, "verdict": verdict}
    acquire_candidates(study, tmp_path, tmp_path / "reference.nc", tmp_path, number=2, seed=0, **files)
    infos = [atoms.info for atoms in read_structures(out)]
    assert [info["structure_id"] for info in infos] == ["counting-round_03-000", "counting-round_03-001"]
    assert {info["origin"] for info in infos} == {"counting"}
    assert [info["reason"] for info in infos] == ["far off", "acquired"]
    assert decisions.read_text().split() == ["frame,score,decision", "0,0.333333,taken"]
    decisions.write_text(decisions.read_text().replace("0.333333,", "0.333333"))
    with pytest.raises(FileContentError, match=r"decisions\.csv.*delete it and run again"):
        read_round(study, tmp_path, 0, xr.Dataset())


@pytest.mark.parametrize(("n", "chosen", "stop"), [(4.0, 2, True), (9.0, 2, False), (9.0, 0, True)])
def test_rounds_end_when_the_criteria_are_met_or_nothing_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, n: float, chosen: int, stop: bool
) -> None:
    class Choosing(Counting):
        def acquire(self, measurement: Measurement, reference: xr.Dataset, potential: object, seed: int) -> Acquisition:
            return Acquisition([bulk("Cu")] * chosen, [{"frame": k} for k in range(2)])

    monkeypatch.setattr("mlip.potential.load_potential", lambda *args, **kwargs: None)
    write_measurement(Measurement(xr.Dataset({"n": n})), tmp_path)
    write_netcdf(tmp_path / "reference.nc", xr.Dataset({"n": 4.0}))
    out, decisions, verdict = (tmp_path / name for name in ("candidates.extxyz", "decisions.csv", "verdict.json"))
    files = {"out": out, "decisions": decisions, "verdict": verdict}
    study = Choosing(StudySettings())
    acquire_candidates(study, tmp_path, tmp_path / "reference.nc", tmp_path, number=0, seed=0, **files)
    decided = json.loads(verdict.read_text())
    assert decided["stop"] == stop
    assert decided["criteria"][0]["passed"] == (n == 4.0)
    assert len(read_structures(out)) == (0 if n == 4.0 else chosen)
    assert len(read_round(study, tmp_path, 0, xr.Dataset({"n": 4.0})).decisions) == (0 if n == 4.0 else 2)


def test_structures_of_a_reference_are_named_and_train(tmp_path: Path) -> None:
    class Referring(Counting):
        def refer(self, *arguments: object) -> Reference:
            return Reference(xr.Dataset({"n": 4.0}), [bulk("Cu")])

    found = refer(Referring(StudySettings()), [], [], Labelled(Label(), tmp_path), 0)
    atoms = found.structures[0]
    assert (atoms.info["structure_id"], atoms.info["origin"]) == ("counting-reference-000", "counting")
    atoms.info["label_key"] = "0"
    assert {split_of(atoms, Collect(valid_fraction=v, test_fraction=0.5 - v)) for v in (0.1, 0.4)} == {"train"}
    assert not refer(Counting(StudySettings()), [], [], Labelled(Label(), tmp_path), 0).structures


def test_a_study_trains_with_settings_of_its_own() -> None:
    values = MINIMAL | {"train": {"n_steps": 50}, "studies": {"eos": {"train": {"energy_weight": 10.0}}}}
    config = parse_config(values)
    assert config.train_of_study("eos", 0) == config.train.model_copy(update={"energy_weight": 10.0})
    assert config.train_of_study("elastic", 0) == config.train


@pytest.mark.parametrize(
    ("train", "told"),
    [
        ({"energy_wait": 1.0}, r"studies\.eos\.train\.energy_wait"),
        ({"n_steps": -1}, r"studies\.eos\.train\.n_steps"),
        ({"backend": "mace"}, r"studies\.eos\.train\.backend cannot change"),
        ({"learning_rate": "1e-3"}, r"is text to YAML"),
    ],
)
def test_wrong_training_settings_of_a_study_are_explained(train: dict, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        parse_config(MINIMAL | {"studies": {"eos": {"train": train}}})


def test_report_shows_both_errors_rounds_and_remarks(tmp_path: Path) -> None:
    write_netcdf(tmp_path / "reference.nc", xr.Dataset({"n": 4.0}))
    for k, n in enumerate((6.0, 4.0)):
        write_measurement(Measurement(xr.Dataset({"n": n})), tmp_path / f"round_{k:02d}")
    assert report_study(Counting(StudySettings()), "copper", tmp_path, n_rounds=1, out=tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert "0.25" in page
    assert "Counted &lt;b&gt;twice" in page
    assert not report_study(Counting(StudySettings()), "copper", tmp_path, n_rounds=0, out=tmp_path)


def test_gate_judges_each_study_by_its_own_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mlip.studies.steps.load_study", lambda name, settings: Counting(StudySettings()))
    for name, n in (("reference.nc", 4.0), ("good.nc", 4.0), ("bad.nc", 7.0)):
        write_netcdf(tmp_path / name, xr.Dataset({"n": n}))
    references = [tmp_path / "reference.nc"] * 2
    found = gate_criteria({"a": {}, "b": {}}, [tmp_path / "good.nc", tmp_path / "bad.nc"], references)
    assert [(c.name, c.passed) for c in found] == [("a: error of the number", True), ("b: error of the number", False)]


def test_measurement_survives_its_files(tmp_path: Path) -> None:
    from mlip.studies.steps import read_measurement

    frame = Atoms("Ar", cell=[5, 5, 5], pbc=True, info={"density": 0.7})
    write_measurement(Measurement(xr.Dataset({"p": ("t", np.arange(3.0), {"units": "GPa"})}), [frame]), tmp_path)
    again = read_measurement(tmp_path)
    assert again.data.p.attrs["units"] == "GPa"
    assert again.frames[0].info["density"] == 0.7
