"""Code digests follow meaning, not layout."""

import ast
import json
from pathlib import Path

import pytest

from mlip.config.backends import BACKENDS
from mlip.config.study import study_names
from mlip.io.layout import STEPS
from mlip.jobs import digests
from mlip.jobs.rerun_table import is_stale


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "mlip"
    (folder / "sub").mkdir(parents=True)
    (folder / "__init__.py").write_text("")
    (folder / "step.py").write_text("def run():\n    from mlip.sub import helper\n    return helper.value()\n")
    (folder / "sub" / "__init__.py").write_text("")
    (folder / "sub" / "helper.py").write_text("from .deep import X\n\ndef value():\n    return X\n")
    (folder / "sub" / "deep.py").write_text("X = 1\n")
    (folder / "other.py").write_text("Y = 1\n")
    monkeypatch.setattr(digests, "PACKAGE", folder)
    clear()
    yield folder
    clear()


def clear() -> None:
    for function in (digests.code_digest, digests._tree, digests._meaning, digests._imports):
        function.cache_clear()


def digest_after(path: Path, text: str) -> str:
    path.write_text(text)
    clear()
    return digests.code_digest("mlip.step")


def test_white_space_comments_and_docstrings_do_not_matter(package: Path) -> None:
    before = digests.code_digest("mlip.step")
    assert digest_after(package / "sub" / "deep.py", '"""Doc."""\n\n# why\nX   =  1\n') == before


def test_types_of_arguments_do_not_matter(package: Path) -> None:
    text = "from .deep import X\n\ndef value(a{}){}:\n    return X\n"
    (package / "sub" / "helper.py").write_text(text.format("", ""))
    clear()
    before = digests.code_digest("mlip.step")
    (package / "sub" / "helper.py").write_text(text.format(": int", " -> int"))
    clear()
    assert digests.code_digest("mlip.step") == before


def test_meaning_matters_through_lazy_and_relative_imports(package: Path) -> None:
    before = digests.code_digest("mlip.step")
    assert digest_after(package / "sub" / "deep.py", "X = 2\n") != before


def test_unrelated_modules_do_not_matter(package: Path) -> None:
    before = digests.code_digest("mlip.step")
    assert digest_after(package / "other.py", "Y = 2\n") == before


def test_every_step_of_the_workflow_has_code() -> None:
    clear()
    found = {name: digests.code_digest(f"mlip.loop.{name}") for name in STEPS}
    assert len(set(found.values())) == len(found)


@pytest.mark.parametrize("backend", BACKENDS)
def test_modules_that_steps_name_exist(backend: str) -> None:
    clear()
    for step in digests.STEP_CODE:
        modules = digests.modules_of_step(step, BACKENDS[backend], "eos", "mlip.studies.eos.experiments.experiment")
        assert all(digests._source(module) for module in modules), modules
    assert BACKENDS[backend].training_code in digests.modules_of_step("train_committee", BACKENDS[backend])


def test_imports_for_type_checkers_do_not_matter(package: Path) -> None:
    path = package / "sub" / "helper.py"
    text = "from typing import TYPE_CHECKING\nfrom .deep import X\n{}\ndef value():\n    return X\n"
    before = digest_after(path, text.format(""))
    typed = "if TYPE_CHECKING:\n    from mlip.other import Y\n"
    assert digest_after(path, text.format(typed)) == before
    assert digest_after(package / "other.py", "Y = 2\n") == before
    assert digest_after(path, text.format(f"{typed}else:\n    Y = 3\n")) != before


def test_values_of_the_configuration_do_not_matter_but_code_among_them_does(package: Path) -> None:
    (package / "config").mkdir()
    (package / "config" / "loop.py").write_text("DEFAULT = 1\n")
    (package / "config" / "merging.py").write_text("def merge():\n    return 1\n")
    imports = "from mlip.config.loop import DEFAULT\nfrom mlip.config.merging import merge\n"
    before = digest_after(package / "sub" / "helper.py", f"{imports}\ndef value():\n    return merge()\n")
    assert digest_after(package / "config" / "loop.py", "DEFAULT = 2\n") == before
    assert digest_after(package / "config" / "merging.py", "def merge():\n    return 2\n") != before


def code_of_step(step: str, study: str = "") -> set[str]:
    return set().union(
        *(digests.code_of(*digests.modules_of_step(step, backend, study)) for backend in BACKENDS.values())
    )


def steps_that_depend_on(prefix: str) -> set[str]:
    return {
        step
        for step in digests.STEP_CODE
        for study in study_names()
        if any(f"{name}.".startswith(f"{prefix}.") for name in code_of_step(step, study))
    }


def test_how_labels_are_computed_concerns_labels_alone() -> None:
    steps = steps_that_depend_on("mlip.labels.process")
    assert {"label_structures", "label_references", "label_isolated_atoms", "label_candidates", "refer_study"} <= steps
    assert not steps & {"assess_potential", "train_committee", "train_study", "explore_walkers", "score_frames"}
    assert not steps & {"measure_study", "acquire_candidates", "collect_dataset", "select_candidates"}


def test_pictures_concern_pages_alone() -> None:
    assert all(step.startswith("report_") for step in steps_that_depend_on("mlip.report"))
    for study in study_names():
        assert all(step.startswith("report_") for step in steps_that_depend_on(f"mlip.studies.{study}.figures"))
    assert "mlip.studies.eos.figures" in code_of_step("report_study", "eos")


@pytest.mark.parametrize("experiment", ["elastic.experiments.omission", "eos.experiments.experiment"])
def test_pictures_of_an_experiment_concern_its_page_alone(experiment: str) -> None:
    def code(step: str) -> set[str]:
        modules = digests.modules_of_step(step, BACKENDS["ace"], experiment=f"mlip.studies.{experiment}")
        return digests.code_of(*modules)

    ran, reported = code("run_experiment"), code("report_experiment")
    assert not {name for name in ran if name.startswith("mlip.report") or name.endswith(".figures")}
    assert {"mlip.report.drawing", f"mlip.studies.{experiment}"} <= reported
    assert {"mlip.loop.train_committee", "mlip.labels.labeller", f"mlip.studies.{experiment}"} <= ran


def test_no_assessment_depends_on_how_costs_are_counted() -> None:
    assert not {name for name in code_of_step("assess_potential") if name.startswith("mlip.jobs")}


def test_the_loop_s_steps_leave_out_nothing_that_they_import() -> None:
    """Only a study's imports of labels and pictures are left out: of no other step's code."""
    for step, templates in digests.STEP_CODE.items():
        if any("{study}" in template or "{experiment}" in template for template in templates):
            continue
        for name in code_of_step(step):
            missing = [other for other in digests._imports(name) if digests._source(other) is not None]
            assert {other for other in missing if not digests._is_value(other)} <= code_of_step(step)


def test_a_backend_s_code_is_where_its_functions_are() -> None:
    for backend in BACKENDS.values():
        assert backend.load.partition(":")[0] in digests.code_of(backend.potential_code)
        assert backend.train.partition(":")[0] in digests.code_of(backend.training_code)


def test_the_configuration_holds_values_and_no_results() -> None:
    """What a step would call in it had to be part of digests; a property may name or count values."""
    computed = set()
    for path in sorted((digests.PACKAGE / "config").glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef):
                computed |= {f"{node.name}.{part.name}" for part in node.body if _is_property(part)}
    assert computed == {"Config.n_walkers", "Train.radius"}


def _is_property(node: ast.stmt) -> bool:
    return isinstance(node, ast.FunctionDef) and any("property" in ast.unparse(d) for d in node.decorator_list)


def test_the_table_of_what_reruns_what_is_not_stale() -> None:
    assert not is_stale(), "docs/design.md: run python -m mlip.jobs.rerun_table"


@pytest.fixture
def nobody_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(digests.TOLD, "{}")


@pytest.mark.usefixtures("nobody_told")
def test_jobs_are_told_the_digests_of_their_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(digests, "code_digest", lambda *modules: asked.append(modules) or f"digest-{len(asked)}")
    first = digests.shared_digest("mlip.loop.collect_dataset", "mlip.io.extxyz", is_driver=True)
    assert digests.shared_digest("mlip.loop.collect_dataset", "mlip.io.extxyz", is_driver=False) == first == "digest-1"
    assert digests.shared_digest("mlip.loop.collect_dataset", is_driver=False) == "digest-2"  # nobody told it this one
    assert len(asked) == 2


@pytest.mark.usefixtures("nobody_told")
def test_a_driver_started_in_a_job_of_another_computes_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(digests.TOLD, json.dumps({"mlip.loop.collect_dataset": "stale"}))
    assert digests.shared_digest("mlip.loop.collect_dataset", is_driver=True) != "stale"
