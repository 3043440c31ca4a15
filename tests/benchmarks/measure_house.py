"""The structure of the package in figures: packages, modules, import circles, upward arrows, digests, lengths.

    python tests/benchmarks/measure_house.py [ROOT ...]

A table with a column for each checkout ROOT, this one by default. Text is all it reads: nothing of a checkout
is imported, so that an old one can stand beside a new one.
"""

from __future__ import annotations

import argparse
import ast
import re
from collections.abc import Iterator
from pathlib import Path

LAYERS = (
    ("cli",),
    ("status", "doctor"),
    ("studies",),
    ("report",),
    ("loop",),
    ("labels", "export"),
    ("training",),
    ("properties", "dynamics"),
    ("potential", "calculators"),
    ("jobs",),
    ("structures",),
    ("config", "io", "seeds", "statistics", "criteria"),
)
"""From the top down; held by the contracts of import-linter, counted here for checkouts that have none."""
LONG_FUNCTION = 40


def modules_of(root: Path) -> dict[str, Path]:
    """Every module of ``mlip`` by its dotted name; templates are programs for users."""
    found = {}
    for path in sorted((root / "mlip").rglob("*.py")):
        if "templates" not in path.parts:
            parts = path.relative_to(root).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports_of(tree: ast.Module, modules: dict[str, Path]) -> Iterator[str]:
    """Modules of ``mlip`` that a module names in an import, lazy ones and those for types included."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in modules)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                if name in modules or node.module in modules:
                    yield name if name in modules else node.module


def find_circles(arrows: dict[str, set[str]]) -> list[set[str]]:
    """Strongly connected components of more than one node, by Tarjan's algorithm."""
    order: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    circles = []

    def visit(node: str) -> None:
        order[node] = low[node] = len(order)
        stack.append(node)
        for target in arrows[node]:
            if target not in order:
                visit(target)
                low[node] = min(low[node], low[target])
            elif target in stack:
                low[node] = min(low[node], order[target])
        if low[node] == order[node]:
            circle = set(stack[stack.index(node) :])
            del stack[stack.index(node) :]
            if len(circle) > 1:
                circles.append(circle)

    for node in arrows:
        if node not in order:
            visit(node)
    return circles


def count_upward(arrows: dict[str, set[str]]) -> int:
    """Imports of a package in a higher layer than one's own; modules outside the layers are not counted."""
    rank = {name: number for number, layer in enumerate(LAYERS) for name in layer}

    def layer_of(module: str) -> int | None:
        return rank.get(module.split(".")[1]) if "." in module else None

    pairs = [(layer_of(a), layer_of(b)) for a, targets in arrows.items() for b in targets]
    return sum(a is not None and b is not None and b < a for a, b in pairs)


def length_of(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of a function without its docstring."""
    first = function.body[0]
    documented = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
    doc = (first.end_lineno or 0) - first.lineno + 1 if documented else 0
    return (function.end_lineno or 0) - function.lineno + 1 - doc


def measure(root: Path) -> dict[str, object]:
    """The figures of one checkout."""
    modules = modules_of(root)
    trees = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in modules.items()}
    arrows = {name: set(imports_of(tree, modules)) - {name} for name, tree in trees.items()}
    functions = [
        n for t in trees.values() for n in ast.walk(t) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    classes = [n.name for t in trees.values() for n in ast.walk(t) if isinstance(n, ast.ClassDef)]
    public = [name for name in classes if not name.startswith("_") and name != "Settings"]
    rules = "\n".join(p.read_text(encoding="utf-8") for p in sorted((root / "workflow").rglob("*.smk")))
    blocks = re.findall(r"^(?:use )?(?:rule|checkpoint) .*\n(?:(?:[ \t].*)?\n)*", rules + "\n", re.MULTILINE)
    scripts = sorted((root / "scripts").glob("*.py"))
    lines = [len(path.read_text(encoding="utf-8").splitlines()) for path in modules.values()]
    return {
        "packages at the top": sum(
            path.is_dir() and (path / "__init__.py").exists() for path in (root / "mlip").iterdir()
        ),
        "modules at the top": sum(
            name.count(".") == 1 and path.name != "__init__.py" for name, path in modules.items()
        ),
        "modules": len(modules),
        "import circles": len(find_circles(arrows)),
        "modules in circles": sum(map(len, find_circles(arrows))),
        "arrows upward": count_upward(arrows),
        "lines of mlip": sum(lines),
        "longest module": max(lines),
        "functions above 40 lines": sum(length_of(f) > LONG_FUNCTION for f in functions),
        "class names that exist twice": len({name for name in public if public.count(name) > 1}),
        "rules": len(blocks),
        "lines of rules (.smk)": len(rules.splitlines()),
        "longest rule": max(len([line for line in block.splitlines() if line.strip()]) for block in blocks),
        "lambdas in rules": rules.count("lambda"),
        "scripts": len(scripts),
        "lines of scripts": sum(len(path.read_text(encoding="utf-8").splitlines()) for path in scripts),
    }


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("roots", nargs="*", type=Path, default=[Path(__file__).parents[2]])
    columns = [measure(root) for root in parser.parse_args().roots]
    for name in columns[0]:
        print(f"| {name} | " + " | ".join(str(column[name]) for column in columns) + " |")


if __name__ == "__main__":
    main()
