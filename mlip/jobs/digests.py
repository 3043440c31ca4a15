"""Digests of the code that a step depends on."""

from __future__ import annotations

import ast
import functools
import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlip.config.backends import Backend

PACKAGE = Path(__file__).parents[1]
VALUES = "mlip.config"
"""Left out of digests with all below it: what steps take from the configuration arrives as parameters, plans too."""
CODE_AMONG_VALUES = ("mlip.config.merging",)
"""Not left out: steps call it."""
TOLD = "MLIP_CODE_DIGESTS"
"""Environment variable by which a driver tells its jobs the digests that it has computed."""

STEP_CODE: dict[str, tuple[str, ...]] = {
    "import_data": ("mlip.loop.import_data",),
    "relabel_data": ("mlip.loop.relabel_data",),
    "prepare_structures": ("mlip.loop.prepare_structures",),
    "label_references": ("mlip.loop.label_references",),
    "label_isolated_atoms": ("mlip.loop.label_isolated_atoms",),
    "label_structures": ("mlip.loop.label_structures",),
    "collect_dataset": ("mlip.loop.collect_dataset",),
    "train_committee": ("mlip.loop.train_committee", "{backend.training_code}"),
    "explore_walkers": ("mlip.loop.explore_walkers", "{backend.potential_code}"),
    "score_frames": ("mlip.loop.score_frames", "{backend.potential_code}"),
    "select_candidates": ("mlip.loop.select_candidates",),
    "assess_potential": ("mlip.loop.assess_potential", "{backend.potential_code}"),
    "retrain_committee": ("mlip.loop.retrain_committee", "{backend.training_code}"),
    "report_system": ("mlip.report",),
    "refer_study": (
        "mlip.studies.steps",
        "mlip.studies.{study}.study",
        "mlip.labels.calculator",
        "mlip.loop.label_structures",
        "{backend.potential_code}",
    ),
    "measure_study": ("mlip.studies.steps", "mlip.studies.{study}.study", "{backend.potential_code}"),
    "acquire_candidates": ("mlip.studies.steps", "mlip.studies.{study}.study", "{backend.potential_code}"),
    "label_candidates": ("mlip.loop.label_structures",),
    "join_labels": ("mlip.loop.collect_dataset",),
    "train_study": ("mlip.loop.train_committee", "{backend.training_code}"),
    "run_experiment": (
        "mlip.studies.experiments",
        "{experiment}",
        "mlip.labels.calculator",
        "{backend.training_code}",
    ),
    "report_experiment": ("mlip.studies.report", "{experiment}", "mlip.report.drawing"),
    "report_study": ("mlip.studies.report", "mlip.studies.{study}.study", "mlip.report.page"),
}
"""What code makes a step's results, by the name of its rule: these modules and all that they import.

Steps that evaluate or train the potential depend on the code of its backend, too
(:class:`mlip.config.backends.Backend`), those of a study on the study's own, those of an
experiment on its module. Steps without an entry run again only when their files change.
"""


@functools.cache
def code_digest(*modules: str) -> str:
    """Digest of ``modules`` and all that :func:`code_of` finds, blind to layout, comments and types.

    Rules pass it as a parameter: Snakemake then reruns a step when code it depends on changes
    its meaning, and not when a comment, a docstring or white space does.
    """
    digest = hashlib.sha256()
    for name in sorted(code_of(*modules)):
        digest.update(f"{name}:{_meaning(name)}".encode())
    return digest.hexdigest()[:16]


def shared_digest(*modules: str, is_driver: bool) -> str:
    """:func:`code_digest`, which a driver computes and its jobs are told.

    A job on Slurm starts Snakemake twice; to read all of ``mlip`` each time would take longer than what
    is left of the work of the rules' files.
    """
    name, known = " ".join(modules), json.loads(os.environ.get(TOLD, "{}"))
    if not is_driver and name in known:
        return str(known[name])
    digest = code_digest(*modules)
    os.environ[TOLD] = json.dumps(known | {name: digest})
    return digest


def modules_of_step(step: str, backend: Backend, study: str = "", experiment: str = "") -> tuple[str, ...]:
    """The modules that ``step`` (a key of :data:`STEP_CODE`) starts from, for the potential's ``backend``.

    ``study`` is the name of its study, ``experiment`` the module of its experiment, where it has one.
    """
    names = {"backend": backend, "study": study, "experiment": experiment}
    return tuple(module.format(**names) for module in STEP_CODE[step])


def code_of(*modules: str) -> set[str]:
    """``modules`` and every module of ``mlip`` that they import, however late, without :data:`VALUES`.

    Imports for type checkers alone are none. A study has measurement, reference and pictures side by side: its
    imports of labels, and of what draws, count for a step only where one of ``modules`` is of that kind.
    """
    reached: set[str] = set()
    kinds = {_beside(module) for module in modules}
    waiting = list(modules)
    while waiting:
        name = waiting.pop()
        if name in reached or _is_value(name) or _source(name) is None:
            continue
        reached.add(name)
        of_study = name.startswith("mlip.studies.")
        waiting += [other for other in _imports(name) if not of_study or _beside(other) in {None, *kinds}]
    return reached


def _beside(module: str) -> str | None:
    """What a study has beside its measurement and ``module`` is of: ``labels`` or ``pictures``."""
    if f"{module}.".startswith("mlip.labels."):
        return "labels"
    return "pictures" if f"{module}.".startswith("mlip.report.") or module.endswith(".figures") else None


def _is_value(module: str) -> bool:
    return f"{module}.".startswith(f"{VALUES}.") and module not in CODE_AMONG_VALUES


def _source(module: str) -> Path | None:
    path = PACKAGE.parent.joinpath(*module.split("."))
    for candidate in (path.with_suffix(".py"), path / "__init__.py"):
        if candidate.is_file():
            return candidate
    return None


@functools.cache
def _tree(module: str) -> ast.Module:
    path = _source(module)
    if path is None:
        raise ValueError(f"no module {module} in {PACKAGE}")
    tree = ast.parse(path.read_text(encoding="utf-8"))
    tree = ast.fix_missing_locations(_WithoutTypes().visit(tree))
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            _strip_docstring(node)
        if isinstance(node, ast.arg):
            node.annotation = None
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            node.returns = None
    return tree


class _WithoutTypes(ast.NodeTransformer):
    """Leaves out what stands under ``if TYPE_CHECKING``, which never runs."""

    def visit_If(self, node: ast.If) -> ast.AST | list[ast.stmt]:
        self.generic_visit(node)
        return node.orelse if ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING") else node


def _strip_docstring(node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> None:
    kept = [s for s in node.body if not (isinstance(s, ast.Expr) and isinstance(s.value, ast.Constant))]
    node.body = kept or [ast.Pass()]


@functools.cache
def _meaning(module: str) -> str:
    digest = hashlib.sha256(ast.dump(_tree(module)).encode())
    path = _source(module)
    if path is not None and path.name == "__init__.py":
        for compiled in sorted(path.parent.glob("*.cpp")):
            digest.update(compiled.read_bytes())
    return digest.hexdigest()


@functools.cache
def _imports(module: str) -> tuple[str, ...]:
    return tuple(_find_imports(module))


def _find_imports(module: str) -> Iterable[str]:
    path = _source(module)
    package = module if path is not None and path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(_tree(module)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] == "mlip")
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*parents, *([base] if base else [])])
            if base.split(".")[0] == "mlip":
                yield base
                yield from (f"{base}.{alias.name}" for alias in node.names)
