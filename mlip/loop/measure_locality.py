"""Whether the labeller's forces decay: those in a carved cell against those in a larger one, before any cell is carved.

A carved cell's forces are those of the large cell only as far as the labeller does not see its boundary. Charges,
dipoles and metals' electrons reach farther than any potential's cutoff. So for each starting structure whose frames
could be carved, a rattled copy is carved twice around one atom, the second time larger, and both are labelled.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms

from mlip.config.label import Label
from mlip.config.loop import Carve
from mlip.config.structures import StartingStructure
from mlip.config.walkers import Demand
from mlip.io.files import write_json
from mlip.jobs.progress import Progress
from mlip.labels.labeller import Labeller, Outcome
from mlip.labels.progress import report_label
from mlip.seeds import derive_rng
from mlip.structures.carving import CarvedCell, carve, choose_shares
from mlip.structures.labelled import FORCE_MASK
from mlip.structures.starting import load_starting_structure

GROWTH, STEP = 3.0, 1.0
"""Å by which the radius of the larger cell is larger at least, and by which it grows until that cell is another."""
RATTLE = 0.05
"""Displacements over the typical radius of an atom's place (the cube root of its volume): as in a hot crystal."""


def list_large_cells(
    sources: Sequence[StartingStructure], demands: Sequence[Demand], max_atoms: int | None
) -> list[tuple[int, Atoms]]:
    """Of each starting structure the largest cell that walkers explore and that would be labelled whole."""
    cells = []
    for number, source in enumerate(sources):
        structure = load_starting_structure(source)
        limit = max_atoms or len(structure)
        repeats = [(1, 1, 1), *(demand.repeat for demand in demands if demand.source_number == number)]
        fitting = [repeat for repeat in repeats if np.prod(repeat) * len(structure) <= limit]
        cells.append((number, structure.repeat(max(fitting, key=np.prod, default=(1, 1, 1)))))
    return cells


def measure_locality(
    structures: Sequence[tuple[int, Atoms]],
    settings: Label,
    carving: Carve,
    *,
    cutoff: float,
    seed: int,
    store: Path,
    out: Path,
    scratch: Path | None = None,
    progress: Progress | None = None,
) -> None:
    """Write what the test found of each starting structure.

    Args:
        structures: Number of each starting structure and the largest cell of it that walkers explore and that would
            be labelled whole.
        settings: Section ``label``.
        carving: Radius of the core, largest share, tolerance.
        cutoff: Of the potential, Å.
        seed: Of the configuration.
        store: Folder of the label store.
        out: JSON with, by number: ``passed`` and ``reason``, and where labels were made ``difference`` and
            ``rms_force`` (eV/Å, RMS over the core's components), ``relative``, ``n_core``, ``n_atoms`` of both cells.
        scratch: Folder for files of running calculations.
        progress: Called after each label.

    Raises:
        LabelError: when the settings are at fault; a label that fails makes the test fail.
    """
    radius, found = carving.core + cutoff, {}
    pairs = {number: carve_twice(atoms, carving, radius, seed, number) for number, atoms in structures}
    planned = sum(len(pair) for pair in pairs.values() if not isinstance(pair, str))
    done = 0
    with Labeller(settings, store, scratch) as labeller:
        for number, pair in pairs.items():
            if isinstance(pair, str):
                found[str(number)] = {"passed": False, "reason": pair}
                continue
            outcomes = []
            for atoms in pair:
                outcomes.append(labeller.label(atoms))
                done += 1
                report_label(progress, done, planned, atoms.info["structure_id"], outcomes[-1])
            found[str(number)] = judge(pair, outcomes, carving.tolerance)
    write_json(out, {"radius": radius, "core": carving.core, "structures": found}, checked=True)


def carve_twice(atoms: Atoms, carving: Carve, radius: float, seed: int, number: int) -> tuple[Atoms, Atoms] | str:
    """A rattled copy of ``atoms`` carved with ``radius``, and larger, or whole; or why it cannot be carved."""
    shares = choose_shares(atoms, radius)
    share = float(np.prod(shares)) if shares else 1.0
    if share > carving.max_share:
        return (
            f"cells of {len(atoms)} atoms leave {share:.0%} of them around a sphere of {radius:.1f} Å, more than"
            f" select.carve.max_share {carving.max_share:.0%}"
        )
    rng, whole = derive_rng(seed, "measure_locality", number), atoms.copy()
    whole.positions += rng.normal(0, RATTLE * (atoms.get_volume() / len(atoms)) ** (1 / 3), whole.positions.shape)
    atom, larger = int(rng.integers(len(atoms))), radius + GROWTH
    while (wide := choose_shares(atoms, larger)) == shares:
        larger += STEP
    small = carve(whole, atom, core=carving.core, radius=radius, shares=shares)
    large = carve(whole, atom, core=carving.core, radius=larger, shares=wide) if wide else None
    if small is None:
        raise ValueError(f"starting structure {number}: no cell was carved of shares {shares}; report this")
    return _named(small.atoms, number, "small"), _named(large.atoms if large else _whole(whole, small), number, "large")


def _whole(atoms: Atoms, small: CarvedCell) -> Atoms:
    """The large cell with the core of ``small``."""
    mask = np.zeros(len(atoms), bool)
    mask[small.origin[small.atoms.arrays[FORCE_MASK]]] = True
    whole = atoms.copy()
    whole.arrays[FORCE_MASK] = mask
    return whole


def _named(atoms: Atoms, number: int, name: str) -> Atoms:
    atoms.info |= {"structure_id": f"locality-{number}-{name}", "source": number}
    return atoms


def judge(pair: Sequence[Atoms], outcomes: Sequence[Outcome], tolerance: float) -> dict[str, Any]:
    """Whether the forces on the core agree in both cells; the cores list the same atoms in one order."""
    failed = [f"{o.status}: {o.reason}" for o in outcomes if o.status != "ok"]
    if failed:
        return {"passed": False, "reason": f"a label of the test failed ({failed[0]})"}
    small, large = (
        np.asarray(outcome.record["results"]["forces"])[atoms.arrays[FORCE_MASK]]
        for atoms, outcome in zip(pair, outcomes, strict=True)
    )
    difference, force = float(np.sqrt(np.mean((small - large) ** 2))), float(np.sqrt(np.mean(large**2)))
    relative = difference / max(force, 1e-12)
    sizes = [len(atoms) for atoms in pair]
    text = (
        f"forces on {len(small)} atoms in cells of {sizes[0]} and {sizes[1]} differ by {difference:.3g} of"
        f" {force:.3g} eV/Å (RMS), {relative:.1%} where select.carve.tolerance is {tolerance:.1%}"
    )
    numbers = {"difference": difference, "rms_force": force, "relative": relative}
    return {"passed": relative <= tolerance, "reason": text, **numbers, "n_core": len(small), "n_atoms": sizes}
