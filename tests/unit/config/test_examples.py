"""Configurations that users copy: those of `config/examples/`, and of the blocks of the pages that show some."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from mlip.config.system import load_config, parse_config
from mlip.doctor.checks import check_config
from mlip.labels.codes.registry import CODES, find_code

ROOT = Path(__file__).parents[3]
EXAMPLES = sorted((ROOT / "config" / "examples").glob("*.yaml"))
RECIPES = (ROOT / "docs" / "recipes.md").read_text()
PAGES = ("labellers.md", "recipes.md", "limits.md")
PROGRAMS = {"qe": "pw.x", "cp2k": "cp2k", "vasp": "srun", "aims": "srun", "abinit": "srun", "siesta": "srun",
            "orca": "/path/to/orca", "dftb": "dftb+"}  # fmt: skip


def blocks(page: str) -> dict[str, str]:
    """The YAML blocks of a page, by the heading that they stand below."""
    found = {}
    for part in re.split(r"^## ", page, flags=re.MULTILINE)[1:]:
        for number, text in enumerate(re.findall(r"```yaml\n(.*?)```", part, re.DOTALL)):
            found[part.splitlines()[0] + (f" {number}" if number else "")] = text
    return found


def test_every_code_has_an_example() -> None:
    shown = {find_code(load_config(path).label.calculator).name for path in EXAMPLES}
    assert {code.name for code in CODES} <= shown


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_examples_name_themselves_and_explain(path: Path) -> None:
    config = load_config(path)
    assert config.system == path.stem
    assert path.read_text().startswith("# ")


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_doctor_says_in_words_what_is_missing(path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """On a machine without any program: the labeller's is named, and how to mend it."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("ASE_CONFIG_PATH", str(tmp_path / "none.ini"))
    configuration, labeller = check_config(path)
    assert configuration.status == "ok"
    program = PROGRAMS.get(path.stem.split("-")[-1])
    if program is not None:
        assert labeller.status == "fail"
        assert f"there is no program `{program}` here" in labeller.detail
    assert not re.match(r"\w+(Error|Exception): ", labeller.detail)
    assert labeller.remedy or labeller.status == "ok"


@pytest.mark.parametrize(("title", "text"), blocks(RECIPES).items(), ids=list(blocks(RECIPES)))
def test_recipes_are_configurations(title: str, text: str) -> None:
    assert parse_config(yaml.safe_load(text), title).structures


def test_recipes_of_files_are_those_files() -> None:
    named = re.findall(r"`(config/examples/\S+\.yaml)`:\n\n```yaml\n(.*?)```", RECIPES, re.DOTALL)
    assert named
    for name, text in named:
        assert load_config(ROOT / name) == parse_config(yaml.safe_load(text), name), name


@pytest.mark.parametrize("page", PAGES)
def test_files_and_keys_that_pages_name_exist(page: str) -> None:
    text = (ROOT / "docs" / page).read_text()
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", text):
        assert (ROOT / "docs" / target).exists(), target
    for name in re.findall(r"`(config/\S+?)`", text):
        assert (ROOT / name).exists(), name
    reference = (ROOT / "config" / "README.md").read_text()
    sections = "prepare|train|explore|select|assess|collect|budget"
    for key in set(re.findall(rf"`((?:{sections})\.[a-z_.\[\]]+)`", text)):
        assert f"`{key}`" in reference, key
