"""Code digests follow meaning, not layout; benchmarks add up."""

from pathlib import Path

import pytest

from mlip.loop import record_provenance as provenance


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
    monkeypatch.setattr(provenance, "PACKAGE", folder)
    clear()
    yield folder
    clear()


def clear() -> None:
    for function in (provenance.code_digest, provenance._tree, provenance._meaning, provenance._imports):
        function.cache_clear()


def digest_after(path: Path, text: str) -> str:
    path.write_text(text)
    clear()
    return provenance.code_digest("mlip.step")


def test_white_space_comments_and_docstrings_do_not_matter(package: Path) -> None:
    before = provenance.code_digest("mlip.step")
    assert digest_after(package / "sub" / "deep.py", '"""Doc."""\n\n# why\nX   =  1\n') == before


def test_types_of_arguments_do_not_matter(package: Path) -> None:
    text = "from .deep import X\n\ndef value(a{}){}:\n    return X\n"
    (package / "sub" / "helper.py").write_text(text.format("", ""))
    clear()
    before = provenance.code_digest("mlip.step")
    (package / "sub" / "helper.py").write_text(text.format(": int", " -> int"))
    clear()
    assert provenance.code_digest("mlip.step") == before


def test_meaning_matters_through_lazy_and_relative_imports(package: Path) -> None:
    before = provenance.code_digest("mlip.step")
    assert digest_after(package / "sub" / "deep.py", "X = 2\n") != before


def test_unrelated_modules_do_not_matter(package: Path) -> None:
    before = provenance.code_digest("mlip.step")
    assert digest_after(package / "other.py", "Y = 2\n") == before


def test_every_step_of_the_workflow_has_code() -> None:
    clear()
    digests = {
        name: provenance.code_digest(f"mlip.{name}")
        for name in ("structures", "labels", "dataset", "training", "exploration", "scoring", "selection", "assessment")
    }
    assert len(set(digests.values())) == len(digests)


def test_benchmark_reads_the_last_run(tmp_path: Path) -> None:
    path = tmp_path / "train.tsv"
    path.write_text("s\th:m:s\tcpu_time\n5.0\t0:00:05\t4.0\n7.5\t0:00:07\t6.5\n")
    assert provenance.read_benchmark(path) == {"wall_seconds": 7.5, "core_seconds": 6.5}
    path.write_text("s\th:m:s\tcpu_time\n0.4\t0:00:00\tNA\n")
    assert provenance.read_benchmark(path) == {"wall_seconds": 0.4, "core_seconds": 0.4}


def test_optional_packages_are_reported_where_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provenance, "OPTIONAL_PACKAGES", ("pytest", "no-such-package"))
    found = provenance.package_versions()
    assert found["pytest"] == pytest.__version__
    assert "no-such-package" not in found
