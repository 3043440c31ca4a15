"""What labels are computed with, in words: code, functional, cutoff or basis, k-points, of any calculator."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import yaml

from mlip.config.label import Label
from mlip.labels.codes.code import leaf
from mlip.labels.codes.registry import OTHER, find_code
from mlip.labels.importing import LabelError
from mlip.report.page import join_words


class Fact(NamedTuple):
    """A line of a table: what, and its value in words."""

    name: str
    value: str


FUNCTIONALS = ("xc", "input_dft", "functional", "metagga", "gga", "method", "orcasimpleinput", "hamiltonian")
CUTOFFS = {"ecut": "eV", "encut": "eV", "ecutwfc": "Ry", "cutoff": "eV", "mesh_cutoff": "eV"}
"""Keys of ASE's calculators in lower case, and their units."""
OF_FILES = "that of the pseudopotentials"
DEFAULT_MESH = "not given: the code's own default, often Γ alone"
BASES = ("basis", "basis_set", "species_dir", "h")
MESHES = ("kpts", "k_grid", "kspacing", "k_grid_density")


def describe_labels(label: Label, *, periodic: bool, versions: dict[str, str]) -> list[Fact]:
    """Code, functional, cutoff or basis and k-points, as far as the settings name them.

    Args:
        label: Section ``label``.
        periodic: Whether any structure is, so that k-points matter.
        versions: Of Python packages, for those that compute labels.
    """
    parameters = label.parameters
    facts = [Fact("code", name_code(label, versions))]
    functional = _find(parameters, *FUNCTIONALS)
    if functional is not None:
        facts.append(Fact("functional", _plain(functional[1])))
    elif parameters.get("pseudopotentials"):
        facts.append(Fact("functional", _functional_of_files(label) or OF_FILES))
    size = describe_size(parameters)
    if size:
        facts.append(Fact("cutoff, basis", size))
    mesh = _find(parameters, *MESHES)
    if mesh is not None:
        facts.append(Fact("k-points", describe_mesh(mesh[0], mesh[1])))
    elif periodic and (size or functional):
        facts.append(Fact("k-points", DEFAULT_MESH))
    return facts


def _functional_of_files(label: Label) -> str:
    """What the code reads from its pseudopotentials, where they are on this machine."""
    code = find_code(label.calculator)
    try:
        return code.functional(*code.split(label.parameters, label.profile))
    except LabelError:  # the settings are wrong, which is not the page's to say
        return ""


def summarise_labels(facts: Sequence[Fact], label: Label | None = None) -> list[str]:
    """What of :func:`describe_labels` belongs to the head of the page; ``label`` names its pseudopotentials."""
    words = {"k-points": "k-points {}"}
    shown = [fact for fact in facts if fact.value != DEFAULT_MESH]
    return [
        _of_files(label) if fact.value == OF_FILES else words.get(fact.name, "{}").format(fact.value) for fact in shown
    ]


def _of_files(label: Label | None) -> str:
    names = label.parameters.get("pseudopotentials") if label else None
    listed = join_words(sorted(set(map(str, names.values())))) if isinstance(names, dict) else ""
    return "functional set by the pseudopotentials" + (f" ({listed})" if listed else "")


def name_code(label: Label, versions: dict[str, str]) -> str:
    """The code's name, its version where it is a package, and ASE's class where that is called otherwise."""
    code, path = find_code(label.calculator), label.calculator
    calculator = path.rpartition(".")[2]
    known = code is not OTHER and not code.name.startswith("the ")
    name = code.name if known else calculator
    version = versions.get(path.partition(".")[0], "")
    version = f" {version}" if version and known and "." not in path else ""
    return f"{name}{version}" if "." not in path or name.lower() == calculator.lower() else f"{name} ({calculator})"


def describe_size(parameters: dict[str, Any]) -> str:
    """Cutoff, basis and grid spacing; empty where none is named."""
    parts = []
    mode = parameters.get("mode")
    mode = mode.get("name") if isinstance(mode, dict) else mode
    if isinstance(mode, str):
        parts.append({"pw": "plane waves", "lcao": "LCAO", "fd": "grid"}.get(mode, mode))
    for key, unit in CUTOFFS.items():
        found = _find(parameters, key)
        if found is not None and found[1] is not None:
            parts.append(f"{_plain(found[1])} {unit}")
            break
    for key in BASES:
        found = _find(parameters, key)
        if found is not None:
            parts.append(f"grid spacing {_plain(found[1])} Å" if key == "h" else f"basis {_plain(found[1])}")
    return ", ".join(parts)


def _find(parameters: dict[str, Any], *names: str) -> tuple[str, Any] | None:
    """The first of ``names``, in lower case, at any depth; a mapping such as ``kpts: {size: ...}`` at the top only."""
    top = next(((key, value) for key, value in parameters.items() if key.lower() in names), None)
    return top or leaf(parameters, *names)


def describe_mesh(path: str, value: Any) -> str:
    """K-points in words, however ASE takes them."""
    key = path.rpartition(".")[2].lower()
    if isinstance(value, dict):
        words = [_mesh(value["size"])] if "size" in value else []
        words += [f"density {value['density']:g} per Å⁻¹"] if "density" in value else []
        words += ["Γ-centred"] if value.get("gamma") else []
        words += [f"{name} {_plain(item)}" for name, item in value.items() if name not in ("size", "density", "gamma")]
        return ", ".join(words)
    if key == "kspacing":
        return f"spacing {_plain(value)} Å⁻¹"
    if value is None:
        return "Γ"
    return _mesh(value) if key != "k_grid_density" else f"density {_plain(value)} per Å⁻¹"


def _mesh(value: Any) -> str:
    if isinstance(value, list | tuple) and value and not isinstance(value[0], list | tuple):
        return "×".join(_plain(item) for item in value)
    return f"{len(value)} listed" if isinstance(value, list | tuple) else _plain(value)


def _plain(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, dict):
        return ", ".join(f"{key} {_plain(item)}" for key, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(_plain(item) for item in value)
    return str(value)


def list_settings(label: Label) -> str:
    """Everything the user wrote of the calculator, as YAML; empty without any."""
    return yaml.safe_dump(label.parameters, sort_keys=False, allow_unicode=True).strip() if label.parameters else ""
