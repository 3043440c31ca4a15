"""The house is what docs/design.md and CONTRIBUTING.md say that it is."""

import ast
import importlib
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MODULES = [path for path in sorted((ROOT / "mlip").rglob("*.py")) if "templates" not in path.parts]
DESIGN = (ROOT / "docs/design.md").read_text(encoding="utf-8")


def classes() -> Iterator[tuple[Path, ast.ClassDef]]:
    for path in MODULES:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        yield from ((path, node) for node in ast.walk(tree) if isinstance(node, ast.ClassDef))


def test_the_top_is_short() -> None:
    entries = {
        path.name for path in (ROOT / "mlip").iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()
    }
    modules = {name for name in entries if name.endswith(".py") and not name.startswith("__")}
    assert modules == {"criteria.py", "seeds.py", "statistics.py", "testing.py"}
    assert len(entries - modules) <= 20


def test_steps_are_modules_named_as_their_rules() -> None:
    """``mlip/loop`` holds steps and nothing else."""
    steps = {path.stem for path in (ROOT / "mlip/loop").glob("*.py")} - {"__init__"}
    rules = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "workflow/rules").glob("*.smk"))
    assert steps <= set(re.findall(r"^(?:rule|checkpoint) (\w+):", rules, re.MULTILINE))
    assert steps <= {path.stem for path in (ROOT / "scripts").glob("*.py")}


def test_no_class_name_exists_twice() -> None:
    names = Counter(node.name for _, node in classes() if node.name != "Settings" and not node.name.startswith("_"))
    assert [name for name, count in names.items() if count > 1] == []


def test_attributes_are_described_in_the_docstring_of_their_class() -> None:
    below = [
        f"{path.relative_to(ROOT)}:{second.lineno}"
        for path, node in classes()
        for first, second in zip(node.body, node.body[1:], strict=False)
        if isinstance(first, ast.Assign | ast.AnnAssign)
        and isinstance(second, ast.Expr)
        and isinstance(second.value, ast.Constant)
    ]
    assert below == []


@pytest.mark.parametrize(
    ("file", "function"), re.findall(r"^\| `(mlip/\S+)\.py` \| `([\w.]+)` \|", DESIGN, re.MULTILINE)
)
def test_the_way_of_a_candidate_exists(file: str, function: str) -> None:
    found = importlib.import_module(file.replace("/", "."))
    for name in function.split("."):
        found = getattr(found, name)
    assert callable(found)


@pytest.mark.parametrize("name", sorted(set(re.findall(r"^\| [\w()]+ \| `(mlip\.[\w.]+)`", DESIGN, re.MULTILINE))))
def test_functions_of_the_steps_exist(name: str) -> None:
    module, _, function = name.rpartition(".")
    assert hasattr(importlib.import_module(module), function) or importlib.import_module(name)


def test_unit_tests_lie_as_the_packages_do() -> None:
    folders = {path.parent.relative_to(ROOT / "tests/unit") for path in (ROOT / "tests/unit").rglob("test_*.py")}
    assert [str(folder) for folder in folders if not (ROOT / "mlip" / folder).is_dir()] == []


def test_files_named_in_pages_and_docstrings_exist() -> None:
    """A page that names a module by its old place sends its reader nowhere."""
    texts = [*MODULES, *sorted((ROOT / "docs").glob("*.md")), ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
    named = r"(?<![\w./-])(?:mlip|scripts|workflow|tests|docs|envs)/[\w/-]+\.(?:py|smk|md|yaml|cpp|toml)\b"
    missing = [
        f"{path.relative_to(ROOT)}: {name}"
        for path in texts
        for name in re.findall(named, path.read_text(encoding="utf-8"))
        if not (ROOT / name).exists()
    ]
    assert missing == []
