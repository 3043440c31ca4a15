"""Code digests follow meaning, not layout."""

from pathlib import Path

import pytest

from mlip.config.backends import BACKENDS
from mlip.io.layout import STEPS
from mlip.jobs import digests


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
        modules = digests.modules_of_step(step, BACKENDS[backend], study="eos")
        assert all(digests._source(module) for module in modules), modules
    assert BACKENDS[backend].training_code in digests.modules_of_step("train_committee", BACKENDS[backend])
