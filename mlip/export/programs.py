"""A potential as a file that torch alone can run: a ``torch.export`` program or a compiled AOTInductor package.

Inputs  species [N] int64, centers [E] int64, neighbors [E] int64, vectors [E, 3] (r_neighbor - r_center, Å);
outputs energies [N] (eV, float64) and d(sum of energies)/d(vectors) [E, 3] (eV/Å), for any N >= 1 and E >= 0.

Neither kind of file that is written here holds a pickle. ``torch.export.load`` itself, however, unpickles
and evaluates whatever a file tells it to, and a compiled package is machine code: load files of others only after
:func:`check_program`, and compiled ones only from people whom you trust.
"""

from __future__ import annotations

import ast
import json
import re
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mlip import __version__
from mlip.export.pairs import PairPotential
from mlip.potential import Potential
from mlip.potential.interface import PotentialFileError

PairProgram = Callable[[Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
METADATA = "potential.json"
OPERATION = re.compile(
    r"torch\.ops\.(aten|prims)\.(?!save|load|from_file)\w+\.\w+"
    r"|_operator\.(add|sub|mul|truediv|floordiv|mod|pow|neg|eq|ne|ge|gt|le|lt|and_|or_|getitem)"
)
SYNTAX = (ast.Expression, ast.BinOp, ast.UnaryOp, ast.BoolOp, ast.Compare, ast.operator, ast.unaryop, ast.boolop,
          ast.cmpop, ast.Constant, ast.Name, ast.Load, ast.Call, ast.keyword, ast.Subscript, ast.Attribute)  # fmt: skip
WORD = re.compile(r"\w{1,40}")
FUNCTIONS = frozenset(
    {"Symbol", "Integer", "Rational", "Add", "Mul", "Pow", "Max", "Min", "Mod", "PythonMod", "FloorDiv", "CleanDiv"}
    | {"CeilToInt", "FloorToInt", "TruncToInt", "IntTrueDiv", "FloatTrueDiv", "ToFloat", "Where", "And", "Or", "Not"}
    | {"Equality", "Eq", "Unequality", "Ne", "GreaterThan", "StrictGreaterThan", "LessThan", "StrictLessThan"}
)
METHODS = frozenset({"size", "stride", "storage_offset"})


def export_program(
    potential: Potential,
    path: Path,
    *,
    compiled: bool = False,
    dtype: torch.dtype = torch.float64,
    device: str = "cpu",
) -> None:
    """Write ``potential`` as a program to ``path`` (``.pt2``).

    Args:
        potential: a trained ACE committee; its mean is exported.
        path: the file to write, in one rename.
        compiled: compile for this processor with the C++ compiler (half a minute, about twice as fast to run).
        dtype: of vectors and gradients; energies are in float64 either way.
        device: where the program will run; it is part of the program.
    """
    path = Path(path)
    if path.suffix != ".pt2":
        raise ValueError(f"{path}: torch wants the suffix .pt2; name the file {path.with_suffix('.pt2').name}")
    program, metadata = trace_potential(potential, dtype, device), describe_program(potential, dtype, device)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        temporary = Path(folder) / path.name
        if compiled:
            from torch._inductor import aoti_compile_and_package

            settings = {"aot_inductor.metadata": {key: _as_text(value) for key, value in metadata.items()}}
            aoti_compile_and_package(program, package_path=str(temporary), inductor_configs=settings)
        else:
            program.example_inputs = None  # they would be the only pickle in the file
            torch.export.save(program, temporary, extra_files={METADATA: json.dumps(metadata)})
        temporary.replace(path)


def describe_program(potential: Potential, dtype: torch.dtype, device: str) -> dict[str, Any]:
    """What a user of the program has to know, kept inside the file."""
    return {
        "mlip_version": __version__,
        "species": list(potential.species),
        "cutoff": potential.cutoff,
        "dtype": str(dtype).removeprefix("torch."),
        "device": device,
        "units": "eV, Angstrom",
    }


def _as_text(value: Any) -> str:
    return " ".join(value) if isinstance(value, list) else str(value)


def trace_potential(potential: Potential, dtype: torch.dtype, device: str) -> torch.export.ExportedProgram:
    """The potential as a graph of tensor operations, with any number of atoms and pairs."""
    from torch.export import Dim

    function = PairPotential(potential, dtype=dtype, device=device)
    example = _example(len(potential.species), dtype, device)
    atoms, pairs = Dim("atoms"), Dim("pairs")
    return torch.export.export(function, example, dynamic_shapes=({0: atoms}, {0: pairs}, {0: pairs}, {0: pairs}))


def _example(n_species: int, dtype: torch.dtype, device: str) -> tuple[Tensor, ...]:
    """A cluster whose number of atoms differs from every other size, lest tracing takes them for the same."""
    n = n_species + 13
    positions = 2.0 * torch.randn(n, 3, generator=torch.Generator().manual_seed(0))
    centers, neighbors = torch.nonzero(~torch.eye(n, dtype=torch.bool)).T.contiguous()
    species, vectors = torch.arange(n) % n_species, (positions[neighbors] - positions[centers]).to(dtype)
    return tuple(t.to(device) for t in (species, centers, neighbors, vectors))


def check_program(path: str | Path) -> None:
    """Refuse a ``torch.export`` file whose loading or running would execute what it says.

    Besides unpickling, torch evaluates the sizes and guards in a file as Python, and looks up the functions
    that it names, ``torch.os.system`` for one. Here sizes may be arithmetic only, and functions tensor operations.

    Raises:
        PotentialFileError: for anything but raw weights, JSON and arithmetic, and for compiled packages.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            for name in names:
                inner = name.split("/", 1)[-1]
                if inner.startswith("data/aotinductor/"):
                    raise PotentialFileError(f"{path} holds machine code; load it only from people whom you trust")
                if inner.startswith("data/sample_inputs/") and archive.getinfo(name).file_size:
                    raise PotentialFileError(f"{path}: {name} is a pickle")
                if inner.startswith("data/") and inner.endswith("_config.json"):
                    _check_payload(archive.read(name), f"{path}: {name}")
                if inner.startswith("models/"):
                    _check_model(json.loads(archive.read(name)), f"{path}: {name}")
    except (OSError, zipfile.BadZipFile, ValueError) as error:
        if isinstance(error, PotentialFileError):
            raise
        raise PotentialFileError(f"{path} cannot be read as an exported program: {error}") from None


def _check_payload(content: bytes, where: str) -> None:
    for name, entry in json.loads(content)["config"].items():
        if entry.get("use_pickle", True):
            raise PotentialFileError(f"{where}: {name} is a pickle")


def _check_model(value: Any, where: str) -> None:
    """Look through a serialised graph for text that torch would evaluate or call."""
    if isinstance(value, list):
        for item in value:
            _check_model(item, where)
    if not isinstance(value, dict):
        return
    expressions = [value["expr_str"]] if "expr_str" in value else []
    for text in [*expressions, *(value.get("guards_code") or [])]:
        if not _is_arithmetic(text):
            raise PotentialFileError(f"{where}: refused, its size or guard {str(text)[:60]!r} is more than arithmetic")
    for node in value.get("nodes") or []:
        if not OPERATION.fullmatch(str(node["target"])):
            raise PotentialFileError(f"{where}: refused, it would call {str(node['target'])[:60]}")
    for item in value.values():
        _check_model(item, where)


def _is_arithmetic(text: str) -> bool:
    try:
        nodes = list(ast.walk(ast.parse(text, mode="eval")))
    except (SyntaxError, RecursionError, TypeError, ValueError):
        return False
    return all(isinstance(node, SYNTAX) and _is_harmless(node) for node in nodes)


def _is_harmless(node: ast.AST) -> bool:
    if isinstance(node, ast.Constant) and isinstance(node.value, str | bytes):
        return isinstance(node.value, str) and WORD.fullmatch(node.value) is not None  # sympy evaluates text, too
    if isinstance(node, ast.Attribute):
        return node.attr in METHODS
    if isinstance(node, ast.Call):
        called = node.func
        return isinstance(called, ast.Attribute) or (isinstance(called, ast.Name) and called.id in FUNCTIONS)
    return True


def load_program(path: str | Path) -> tuple[PairProgram, dict[str, Any]]:
    """The function of a ``torch.export`` file and its metadata, refusing pickles."""
    check_program(path)
    extra = {METADATA: ""}
    program = torch.export.load(path, extra_files=extra)
    return program.module(), json.loads(extra[METADATA])


def load_compiled(path: str | Path) -> tuple[PairProgram, dict[str, Any]]:
    """The function of a compiled package and its metadata. This runs machine code from the file."""
    from torch._inductor import aoti_load_package

    package: Any = aoti_load_package(str(path))
    return package, package.get_metadata()
