"""What a file of labelled structures holds, and whether it fits a configuration: ``mlip import``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.units import GPa

from mlip.config.data import DataSource
from mlip.config.label import Guards
from mlip.config.system import Config
from mlip.config.train import Train
from mlip.io.dialects import ENTRY
from mlip.labels.store import label_key
from mlip.loop.import_data import find_fault, read_file
from mlip.structures.labelled import has_label, labelled_energy, labelled_forces, labelled_stress
from mlip.structures.labelled_files import content_digest, find_format, read_labelled_file
from mlip.structures.starting import load_starting_structure
from mlip.training.label_check import check_labels

MOST_LISTED = 6
"""Entries of a list that are shown."""
SETTINGS = ("encut", "gga", "xc", "prec", "ismear", "sigma", "ediff", "ispin", "kspacing", "ecutwfc", "mode", "kpts")
"""Parameters, in lower case, that a file may tell of the calculation, as far as ASE reads them."""


def inspect_data(path: Path, given: str | None = None, config: Config | None = None) -> dict[str, Any]:
    """What is in ``path``, as JSON-like values; see :func:`render_inspection` for their units.

    Args:
        path: a file, or the folder of DeePMD systems.
        given: ASE's name of its format.
        config: a configuration that it might join; whose guards it is held against.

    Raises:
        DataError: when the file cannot be read.
    """
    source = DataSource(file=str(path), settings="same", format=given)
    digest = content_digest(path) if path.exists() else ""
    structures = list(read_file(path, source, digest, 0))
    guards = config.label.guards if config is not None else Guards()
    faults = {k: fault for k, atoms in enumerate(structures) if (fault := find_fault(atoms, guards))}
    usable = [atoms for k, atoms in enumerate(structures) if k not in faults]
    found = {
        "file": str(path),
        "format": find_format(path, given),
        "sha256": digest,
        "structures": len(structures),
        "usable": len(usable),
        **_describe(structures),
        "labels": {name: sum(has_label(a, name) for a in structures) for name in ("energy", "forces", "stress")}
        | _find_ranges(usable),
        "keys": _find_keys(path),
        "told_settings": _told_settings(path, given),
        "duplicates": len(usable) - len({label_key(atoms, {}) for atoms in usable}),
        "unusable": [f"{path}:{k}: {fault}" for k, fault in faults.items()],
        "suspicious": _find_suspicions(usable),
    }
    if config is not None:
        problems = find_misfits(found, config)
        found["fits"] = {"system": config.system, "problems": problems}
    return found


def _describe(structures: Sequence[Atoms]) -> dict[str, Any]:
    formulas = Counter(atoms.get_chemical_formula() for atoms in structures)
    volumes = [atoms.get_volume() / len(atoms) for atoms in structures if atoms.pbc.all() and len(atoms)]
    elements = Counter(symbol for atoms in structures for symbol in atoms.symbols)
    return {
        "formulas": dict(formulas.most_common()),
        "elements": dict(sorted(elements.items())),
        "atoms": [min(map(len, structures)), max(map(len, structures))] if structures else [],
        "periodic_directions": dict(sorted(Counter(str(int(atoms.pbc.sum())) for atoms in structures).items())),
        "volume_per_atom": [min(volumes), max(volumes)] if volumes else [],
        "charges": sorted({float(atoms.info["charge"]) for atoms in structures if "charge" in atoms.info}),
        "spins": sorted({float(atoms.info["spin"]) for atoms in structures if "spin" in atoms.info}),
        "magnetic": sum("initial_magmoms" in atoms.arrays for atoms in structures),
    }


def _find_ranges(usable: Sequence[Atoms]) -> dict[str, Any]:
    """Smallest and largest labels of the usable structures."""
    energies = [labelled_energy(atoms) / len(atoms) for atoms in usable]
    pressures = [float(-labelled_stress(a)[:3].mean() / GPa) for a in usable if has_label(a, "stress")]
    forces = [float(np.linalg.norm(labelled_forces(atoms), axis=1).max()) for atoms in usable]
    return {
        "energy_per_atom": [min(energies), max(energies)] if energies else [],
        "largest_force": [max(forces)] if forces else [],
        "pressure_gpa": [min(pressures), max(pressures)] if pressures else [],
    }


def _find_keys(path: Path) -> list[str]:
    """Keys and columns of the first header of an XYZ file, as it spells them; of other formats there are none."""
    if path.is_dir() or path.suffix not in (".xyz", ".extxyz"):
        return []
    with path.open(encoding="utf-8", errors="replace") as stream:
        stream.readline()
        comment = stream.readline()
    found = {match["key"]: match["value"] for match in ENTRY.finditer(comment)}
    columns = next((v.strip("\"'").split(":")[::3] for k, v in found.items() if k.lower() == "properties"), [])
    return [*found, *(f"Properties:{column}" for column in columns)]


def _told_settings(path: Path, given: str | None) -> dict[str, Any]:
    """Parameters of the calculation of the first structure, where its format keeps them and ASE reads them."""
    calculator = read_labelled_file(path, given)[0].calc
    parameters = {str(k).lower(): v for k, v in (getattr(calculator, "parameters", None) or {}).items()}
    return {key: parameters[key] for key in SETTINGS if isinstance(parameters.get(key), str | int | float | bool)}


def _find_suspicions(usable: Sequence[Atoms]) -> list[str]:
    """What a training would say of the labels: units, signs, mixed settings, outliers."""
    try:
        return check_labels(usable, Train(consistency="warn"))
    except ValueError as error:
        return [str(error)]


def find_misfits(found: dict[str, Any], config: Config) -> list[str]:
    """Why a file, of which ``found`` is known, cannot join the loop of ``config``, with remedies."""
    problems = []
    n_bad = found["structures"] - found["usable"]
    if n_bad > config.label.max_failed_fraction * found["structures"]:
        problems.append(
            f"{n_bad} of {found['structures']} structures cannot be used, more than label.max_failed_fraction ="
            f" {config.label.max_failed_fraction:g}"
        )
    known = {symbol for source in config.structures for symbol in load_starting_structure(source).symbols}
    foreign = sorted(set(found["elements"]) - known)
    if foreign:
        problems.append(
            f"{', '.join(foreign)} in no starting structure: nothing would explore it; add a structure with it, or"
            " take by `index` what is without"
        )
    given = config.label.isolated_atoms
    missing = sorted(set(found["elements"]) - set(given)) if isinstance(given, dict) else []
    if missing:
        problems.append(f"label.isolated_atoms has no energy for {', '.join(missing)}; add it, or use `fit`")
    return problems + [f"{text} (train.consistency: {config.train.consistency})" for text in found["suspicious"]]


def clean_structures(path: Path, given: str | None = None) -> list[Atoms]:
    """The usable structures of ``path`` with their labels and charge or spin alone, to be written anew."""
    source = DataSource(file=str(path), settings="same", format=given)
    usable = [atoms for atoms in read_file(path, source, content_digest(path), 0) if not find_fault(atoms, Guards())]
    for atoms in usable:
        atoms.info = {key: value for key, value in atoms.info.items() if key in ("charge", "spin")}
    return usable


def render_inspection(found: dict[str, Any]) -> str:
    """``found`` as lines for a person: eV, Å, GPa."""
    labels, n = found["labels"], found["structures"]
    sizes = f"{found['structures']} structures, {found['usable']} usable"
    lines = [f"{found['file']}: {found['format']}, {sizes}, sha256 {found['sha256'][:12]}"]
    lines.append(f"  formulas    {_list([f'{name} ({count})' for name, count in found['formulas'].items()])}")
    lines.append(f"  elements    {', '.join(found['elements'])}; {_range(found['atoms'])} atoms a structure")
    kinds = {"0": "not periodic", "1": "wires", "2": "slabs", "3": "periodic"}
    cells = ", ".join(f"{count} {kinds[key]}" for key, count in found["periodic_directions"].items())
    lines.append(f"  cells       {cells}" + _with_unit(found["volume_per_atom"], "Å³/atom"))
    lines.append(f"  energy      {labels['energy']} of {n}" + _with_unit(labels["energy_per_atom"], "eV/atom"))
    lines.append(f"  forces      {labels['forces']} of {n}" + _with_unit(labels["largest_force"], "eV/Å at most"))
    lines.append(f"  stress      {labels['stress']} of {n}" + _with_unit(labels["pressure_gpa"], "GPa of pressure"))
    for name, text in (
        ("keys", ", ".join(found["keys"])),
        ("settings", ", ".join(f"{key} {value}" for key, value in found["told_settings"].items())),
        ("charge", ", ".join(f"{value:g}" for value in found["charges"])),
        ("spin", ", ".join(f"{value:g}" for value in found["spins"])),
        ("moments", f"{found['magnetic']} structures" if found["magnetic"] else ""),
        ("duplicates", f"{found['duplicates']} structures" if found["duplicates"] else "none"),
    ):
        lines += [f"  {name:11s} {text}"] if text else []
    for name in ("unusable", "suspicious"):
        lines += [f"  {name:11s} {text}" for text in found[name][:MOST_LISTED]]
        lines += [f"  {'':11s} … and {len(found[name]) - MOST_LISTED} more"] * (len(found[name]) > MOST_LISTED)
    if "fits" in found:
        problems = found["fits"]["problems"]
        lines.append(f"  fits        {found['fits']['system']}: {'no' if problems else 'yes, as far as this can tell'}")
        lines += [f"  {'':11s} {text}" for text in problems]
        if not problems:
            lines.append(f"  {'':11s} data: [{{file: {found['file']}, settings: check}}]")
    return "\n".join(lines)


def _list(texts: Sequence[str]) -> str:
    return ", ".join(texts[:MOST_LISTED]) + (f", … ({len(texts)} in all)" if len(texts) > MOST_LISTED else "")


def _range(values: Sequence[float]) -> str:
    return " to ".join(dict.fromkeys(f"{value:.4g}" for value in values))


def _with_unit(values: Sequence[float], unit: str) -> str:
    return f"; {_range(values)} {unit}" if values else ""
