"""What was simulated, in words: starting structures, walkers and potential."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from ase import Atoms

from mlip.config.ladder import LADDER
from mlip.config.loop import Explore, Walker
from mlip.config.structures import StartingStructure
from mlip.config.system import Config
from mlip.io.electrons import unusual_state
from mlip.report.page import join_words
from mlip.report.settings import Fact
from mlip.structures.allowed import find_unmet_kinds
from mlip.structures.kinds import Anatomy, dissect
from mlip.structures.perturbations import Original
from mlip.structures.starting import load_starting_structure

ENSEMBLES = {"nvt": "NVT", "npt": "NPT", "npt-flexible": "NPT with flexible cell"}
SUBSCRIPTS = str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉")
NARROW = "\u00a0"
"""A space at which no line breaks."""


class Described(NamedTuple):
    """A starting structure in words; all but the name are empty where its file cannot be read any more."""

    name: str
    formula: str
    n_atoms: int
    kind: str
    cell: str
    periodic: bool
    elements: tuple[str, ...] = ()


def describe_structures(sources: Sequence[StartingStructure]) -> list[Described]:
    """Every starting structure by name, formula, kind and cell."""
    return [describe_structure(source) for source in sources]


def describe_structure(source: StartingStructure) -> Described:
    """Name, formula, atoms, kind and cell of what ``source`` describes."""
    name = name_structure(source)
    try:
        atoms = load_starting_structure(source)
        anatomy = dissect(atoms)
    except (ValueError, OSError):  # StructureError among them
        return Described(name, "", 0, "", "its file cannot be read here any more", periodic=False)
    order = "hill" if "C" in atoms.get_chemical_symbols() else "metal"  # C₆H₅Br, but NaCl
    formula = atoms.get_chemical_formula(mode=order).translate(SUBSCRIPTS)
    cell = describe_cell(atoms, anatomy)
    elements = tuple(sorted(set(atoms.get_chemical_symbols())))
    return Described(name, formula, len(atoms), name_kind(anatomy), cell, anatomy.kind != "molecule", elements)


def list_unmet_kinds(config: Config) -> list[str]:
    """Kinds of ``prepare`` that were asked for in vain; none where the structures cannot be read any more."""
    if not config.prepare.n_structures:
        return []
    try:
        originals = [Original.of(load_starting_structure(source)) for source in config.structures]
    except (ValueError, OSError):  # StructureError among them
        return []
    return find_unmet_kinds(originals, config.prepare)


def name_structure(source: StartingStructure) -> str:
    """Name of the file without folders and number in it, or crystal and lattice; with the supercell."""
    if source.bulk is not None:
        name = " ".join(filter(None, [source.bulk.name, source.bulk.crystalstructure]))
    else:
        name = Path(str(source.file)).name
        number = source.index if source.member is None else f"drawn {source.member}"
        name += f", structure {number}" if number is not None else ""
    return name if source.repeat == (1, 1, 1) else f"{name}, {'×'.join(map(str, source.repeat))}"


def name_kind(anatomy: Anatomy) -> str:
    """Bulk, slab or wire, and of what is finite whether it is one molecule, several, or a cluster."""
    if anatomy.kind != "molecule":
        return anatomy.kind
    return "molecule" if anatomy.lone else "molecules" if len(anatomy.molecules) > 1 else "cluster"


def describe_cell(atoms: Atoms, anatomy: Anatomy) -> str:
    """Lengths in Å and angles in degrees, what is equal said once; vacuum, fixed atoms, moments, charge, spin."""
    parts = []
    if atoms.cell.rank == 3 and atoms.pbc.any():
        lengths, angles = atoms.cell.lengths(), atoms.cell.angles()
        parts.append(_equal("a", "b", "c", [f"{value:.3f}" for value in lengths], " Å"))
        parts.append(_equal("α", "β", "γ", [f"{value:.1f}".removesuffix(".0") for value in angles], "°"))
        empty = [name for name, crosses in zip("abc", anatomy.crosses_vacuum(atoms), strict=True) if crosses]
        parts += [f"vacuum along {join_words(empty)}"] if empty else []
    elif not atoms.pbc.any():
        parts.append("no cell")
    fixed = {int(k) for constraint in atoms.constraints for k in np.ravel(getattr(constraint, "index", []))}
    parts += [f"{len(fixed)} atom{'' if len(fixed) == 1 else 's'} fixed"] if fixed else []
    if atoms.has("initial_magmoms") and atoms.get_initial_magnetic_moments().any():
        parts.append(f"initial moments of {np.sum(atoms.get_initial_magnetic_moments()):.3g} µB in all")
    state = unusual_state(atoms)
    parts += [f"charge {state['charge']:+g} e".replace("-", "−")] if "charge" in state else []
    parts += [f"multiplicity {state['spin']}"] if "spin" in state else []
    return "; ".join(parts)


def _equal(x: str, y: str, z: str, values: Sequence[str], unit: str) -> str:
    if len(set(values)) == 1:
        # On a phone the line breaks before a name.
        return " ".join(f"{name} =" for name in (x, y, z)) + f" {values[0]}{unit}".replace(" ", NARROW)
    return ", ".join(
        f"{name} = {value}{unit}".replace(" ", NARROW) for name, value in zip((x, y, z), values, strict=True)
    )


def summarise_structures(found: Sequence[Described]) -> str:
    """One line for the head of the page: ``Si₈, bulk`` or ``3 starting structures: 2 bulk, 1 slab``."""
    if len(found) == 1:
        return ", ".join(filter(None, [found[0].formula or found[0].name, found[0].kind]))
    kinds = Counter(structure.kind for structure in found if structure.kind)
    listed = ", ".join(f"{count} {kind}" for kind, count in kinds.items())
    return f"{len(found)} starting structures" + (f": {listed}" if listed else "")


def list_elements(species: Sequence[str], found: Sequence[Described]) -> str:
    """The potential's elements, or where its file is gone those of the starting structures."""
    listed = list(species) or sorted({element for structure in found for element in structure.elements})
    return join_words(listed) if listed else "the starting structures"


def describe_walkers(explore: Explore, names: Sequence[str]) -> list[Fact]:
    """Groups of walkers and how long each runs."""
    facts = []
    for group in explore.walkers:
        own = f"; up to {_span(group.n_steps * explore.timestep)}" if group.n_steps else ""
        facts.append(Fact(ENSEMBLES.get(group.ensemble, group.ensemble), describe_conditions(group, names) + own))
    who = "other walkers" if any(group.n_steps for group in explore.walkers) else "each walker"
    if all(group.n_steps for group in explore.walkers):
        return [*facts, Fact("time step", f"{explore.timestep:g} fs")]
    span = _span(explore.n_steps * explore.timestep)
    return [*facts, Fact(who, f"up to {span} in steps of {explore.timestep:g} fs")]


def _span(length: float) -> str:
    """``length`` in fs as text."""
    return f"{length / 1000:g} ps" if length >= 1000 else f"{length:g} fs"


def describe_conditions(group: Walker, names: Sequence[str]) -> str:
    """Temperatures, pressures, volumes, schedule and structures of a group of walkers.

    Args:
        group: The group.
        names: Of the starting structures.
    """
    values: Mapping[str, Any] = group.model_dump()
    schedule = values.get("schedule") or ()
    parts = [_schedule(schedule)] if schedule else [_temperatures(group)]
    pressures = values.get("pressures") or [values.get("pressure", 0.0)]
    if values["ensemble"] != "nvt" and not any(stage.get("pressure") is not None for stage in schedule):
        parts.append(f"{_series(pressures)} GPa")
    if any(values["volumes"]):
        parts.append(f"volumes {', '.join(_percent(value) for value in values['volumes'])}")
    if tuple(values.get("repeat") or (1, 1, 1)) != (1, 1, 1):
        parts.append(f"in supercells {'×'.join(map(str, values['repeat']))}")
    if values.get("structures") is not None:
        parts.append(f"of {join_words([names[k] if k < len(names) else str(k) for k in values['structures']])}")
    if values.get("start", "ideal") not in ("ideal", "mixed"):
        parts.append({"last": "from the last frames before"}.get(values["start"], "from uncertain frames before"))
    if values.get("uncertainty_bias"):
        parts.append(f"drawn to where members disagree, as σ to the {values['uncertainty_bias']:g}; no audits")
    return "; ".join(parts)


def _temperatures(group: Walker) -> str:
    return "rungs of the ladder" if group.temperatures == LADDER else f"{_series(group.model_dump()['temperatures'])} K"


def _series(values: Sequence[float]) -> str:
    return ", ".join(f"{value:g}".replace("-", "−") for value in values)


def _percent(value: float) -> str:
    return "unchanged" if value == 0 else f"{100 * value:+g} %".replace("-", "−")


def _schedule(stages: Sequence[Mapping[str, Any]]) -> str:
    parts = []
    for key, unit in (("temperature", "K"), ("pressure", "GPa")):
        values = [stage[key] for stage in stages if stage.get(key) is not None]
        parts += [f"{' → '.join(f'{value:g}' for value in values)} {unit}"] if values else []
    return f"{', '.join(parts)} over {stages[-1]['time'] / 1000:g} ps"


def describe_potential(config: Config, cutoff: float | None) -> list[Fact]:
    """Kind, size and range of the potential; ``cutoff`` in Å as it was resolved, None where that is not known."""
    train = config.train
    made = f"{train.committee_size} members" if train.uncertainty == "committee" else "one model, last-layer posterior"
    radius = cutoff or (None if train.cutoff == "auto" else train.cutoff)
    layers = f", {train.n_layers} message-passing layers" if train.n_layers > 1 else ""
    return [
        Fact(
            "potential", f"{train.backend.upper()}, {made}, cutoff {f'{radius:g} Å' if radius else 'automatic'}{layers}"
        )
    ]
