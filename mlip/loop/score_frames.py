"""Scores of explored frames: expected error, novelty and sanity, one row a frame; and their environments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from ase import Atoms

from mlip.active.cost import predict_cost
from mlip.active.environments import EnvironmentTable, Known
from mlip.active.pool import largest_of_frames, measure_to
from mlip.active.tables import ScoredEnvironments
from mlip.config.loop import Carve
from mlip.io.extxyz import read_structures
from mlip.io.files import read_json
from mlip.io.netcdf import write_netcdf
from mlip.io.trajectory import read_frames
from mlip.potential import Potential, load_potential
from mlip.potential.certification import read_error_ratios
from mlip.potential.continuation import nearest_pair_ratios
from mlip.potential.uncertainty import measure_shift
from mlip.structures.carving import choose_shares, find_core
from mlip.structures.cutting import Block, choose_block, cut_block
from mlip.structures.geometry import min_distance_ratio
from mlip.structures.labelled import labelled_energy, mean_squared_forces

UNITS = {
    "time_fs": "fs",
    "temperature": "K",
    "target_temperature": "K",
    "target_pressure": "GPa",
    "energy_per_atom": "eV",
    "energy_above_lowest": "eV",
    "force_uncertainty": "eV/Å",
    "force_uncertainty_mean": "eV/Å",
    "min_distance_ratio": "1",
    "expected_squared_error": "eV²/Å²",
    "label_cost": "core-s",
    "nearest_pair_ratio": "1",
    "novelty": "1",
    "carve_radius": "Å",
}


TEXTS = ("structure_id", "ensemble", "start")
COUNTS = ("walker", "frame", "regular", "source", "rung", "biased", "n_atoms", "n_atoms_explored", "cut_atom")
"""Columns without unit: numbers of walker, frame, starting structure and atoms."""


ENDS = {"source": 0, "rung": -1, "molten": 0, "lindemann_temperature": float("nan"), "uncertainty_bias": 0.0}
"""What a walker's trajectory says of it, and what stands for that where it says nothing."""


@dataclass(frozen=True)
class Batch:
    """The frames of one walker as they would be labelled.

    Attributes:
        structures: Whole frames, or the cells cut out of them.
        uncertainty: Per atom, ``[n_frames, n_atoms]`` eV/Å.
        energies: Of the structures, eV.
        ratios: Shortest distances over the sum of covalent radii.
        atoms: The atom that each is cut around; -1 where frames are whole.
        block: Unit cells that are left of ``repeat``; zeros where frames are whole, or carved.
        share: Of a frame's atoms that the label will have, where a cell is carved out of it.
        radius: Of the sphere around the atom in which the carved cell is as the frame, Å; 0 where none is carved.
    """

    structures: list[Atoms]
    uncertainty: np.ndarray
    energies: np.ndarray
    ratios: np.ndarray
    atoms: np.ndarray
    block: Block = (0, 0, 0)
    share: float = 1.0
    radius: float = 0.0


@dataclass(frozen=True)
class ScoreRequest:
    """What :func:`score_frames` scores, and against what.

    Attributes:
        walkers: Trajectories of this iteration.
        potential: Committee that drove them; its ``training.json`` says how large errors are on held-out data, for
            what it expects, and which uncertainties these have.
        dataset: ``collect_dataset`` folder: novelty is measured against the training set; what is held out is not
            labelled again.
        asked: Structures that earlier iterations wanted labelled; those that failed are not asked for again.
        out: Folder of the tables ``frames.nc`` and ``environments.nc`` written.
        seed: Of the features' projection, and of what is left of too many known environments.
        max_atoms: Most atoms of a label; by default as many as a walker's starting structure has.
        carving: How smaller cells are carved out of frames that would be labelled whole, if they are.
        device: Torch device.
    """

    walkers: Sequence[Path]
    potential: Path
    dataset: Path
    asked: Sequence[Path]
    out: Path
    seed: int
    max_atoms: int | None = None
    carving: Carve | None = None
    device: str = "cpu"


@dataclass(frozen=True)
class Carving:
    """Which frames are carved, and around which atom.

    Attributes:
        settings: Section ``select.carve``.
        radius: Of what must stay as it is around the atom, Å: the core and the potential's cutoff.
    """

    settings: Carve
    radius: float

    def apply(self, batch: Batch, raw: EnvironmentTable, known: Known) -> tuple[Batch, EnvironmentTable]:
        """``batch`` and its environments, of which the core around the least known one is left where it is carved."""
        whole = (batch.atoms < 0).all()
        shares = choose_shares(batch.structures[0], self.radius) if whole else None
        if shares is None or np.prod(shares) > self.settings.max_share:
            return batch, raw
        reduced = known.reduce(raw)
        squared, _ = measure_to(reduced, known.table, known.teaches)
        rows = reduced.rows_of()
        atoms = np.array([reduced.atom[part][np.argmax(squared[part])] for part in rows])
        cores = [find_core(frame, int(a), self.settings.core) for frame, a in zip(batch.structures, atoms, strict=True)]
        first = [part.start for part in raw.rows_of()]
        kept = np.concatenate([start + core for start, core in zip(first, cores, strict=True)])
        return replace(batch, atoms=atoms, share=float(np.prod(shares)), radius=self.radius), raw.take(kept)


def score_frames(request: ScoreRequest) -> None:
    """Score every frame of every walker and write the tables; see docs/design.md for the layout."""
    potential = request.potential
    committee = load_potential(potential, device=request.device, precision="single")
    training = read_structures(request.dataset / "train.extxyz")
    known, names = _embed_known(committee, training, request)
    lowest, ratios = _lowest_energies(training), read_error_ratios(potential / "training.json")
    carving = Carving(request.carving, request.carving.core + committee.cutoff) if request.carving else None
    columns: dict[str, list[np.ndarray]] = {name: [] for name in [*COUNTS, *UNITS, *TEXTS]}
    tables: list[EnvironmentTable] = []
    blocks: list[np.ndarray] = []
    ends: list[Mapping[str, Any]] = []
    atomic: list[np.ndarray] = []
    for path in request.walkers:
        structures, data = read_frames(path)
        ends.append(data.attrs)
        if not structures:
            continue
        if not data.attrs.get("uncertainty_bias", 0.0):
            atomic.append(data.force_uncertainty.values[data.regular.values.astype(bool)].ravel())
        batch = _fit_labels(structures, data, committee, request.max_atoms)
        source = int(data.attrs.get("source", 0))
        raw = _embed(committee, batch.structures, [source] * len(batch.structures))
        batch, raw = carving.apply(batch, raw, known) if carving is not None else (batch, raw)
        tables.append(known.reduce(raw))
        blocks.append(np.tile(batch.block, (len(structures), 1)))
        expected = ratios.get(source, ratios[None]) ** 2 * np.mean(batch.uncertainty**2, axis=1) / 3
        row = _score(batch, data, lowest) | {"expected_squared_error": expected}
        row["label_cost"] = _predict_cost(batch.structures, training, batch.share)
        row["novelty"] = measure_novelty(tables[-1], known)
        row["nearest_pair_ratio"] = nearest_pair_ratios(batch.structures, committee.shortest_distances)
        for name, values in row.items():
            columns[name].append(values)
    shift = _measure_shift(potential / "training.json", atomic)
    table = _table(columns, blocks, ends)
    write_netcdf(
        request.out / "frames.nc", table.assign_attrs({f"above_{name}": share for name, share in shift.items()})
    )
    frames = EnvironmentTable.join(tables) if tables else known.table.take(np.zeros(0, int))
    environments = ScoredEnvironments(frames, known, names, mean_squared_forces(training))
    write_netcdf(request.out / "environments.nc", environments.as_dataset())


def _embed_known(committee: Potential, training: Sequence[Atoms], request: ScoreRequest) -> tuple[Known, list[str]]:
    """Environments of all that has been labelled, or could not be, and the structures' names."""
    held_out = [a for name in ("valid", "test") for a in read_structures(request.dataset / f"{name}.extxyz")]
    labelled = {str(a.info.get("structure_id")) for a in [*training, *held_out]}
    failed = [a for path in request.asked for a in read_structures(path) if a.info["structure_id"] not in labelled]
    structures = [a for a in [*training, *held_out, *failed] if set(a.symbols) <= set(committee.species)]
    systems = [int(a.info.get("source", 0)) for a in structures]
    teaches = np.arange(len(structures)) < len(training)
    known = Known.of(_embed(committee, structures, systems), teaches, seed=request.seed)
    return known, [str(a.info.get("structure_id", "?")) for a in structures]


def _embed(committee: Potential, structures: Sequence[Atoms], systems: Sequence[int]) -> EnvironmentTable:
    return EnvironmentTable.of(committee.embed(list(structures)), [a.numbers for a in structures], systems)


def _predict_cost(structures: Sequence[Atoms], known: Sequence[Atoms], share: float) -> np.ndarray:
    """Core-seconds of each label, [n_structures]; all electrons count, for what a code leaves out is in proportion.

    ``share`` of the structures' atoms is labelled.
    """
    sizes, seconds = [a.numbers.sum() for a in known], [a.info.get("core_seconds", 0.0) for a in known]
    wanted = share * np.array([a.numbers.sum() for a in structures])
    return predict_cost(wanted, np.array(sizes), np.array(seconds))


def measure_novelty(frames: EnvironmentTable, known: Known) -> np.ndarray:
    """Distance of each frame's least known environment from the nearest that was trained on, [n_frames].

    In spreads of its starting structure's and element's known environments, so that neither the size of the cell nor
    what else is in the training set matters.
    """
    squared, _ = measure_to(frames, known.table, known.teaches)
    return np.sqrt(largest_of_frames(frames, squared))


def _fit_labels(structures: list[Atoms], data: xr.Dataset, committee: Potential, max_atoms: int | None) -> Batch:
    """The frames of a walker, cut to a size that can be labelled where they are larger and a supercell."""
    uncertainty = data.force_uncertainty.values
    repeat = [int(n) for n in np.atleast_1d(data.attrs.get("repeat", (1, 1, 1)))]
    block = choose_block(structures[0], repeat, _limit(data, max_atoms))
    if len(structures[0]) <= _limit(data, max_atoms) or block is None:
        whole = np.full(len(structures), -1)
        return Batch(structures, uncertainty, data.energy.values, data.min_distance_ratio.values, whole)
    atoms = uncertainty.argmax(axis=1)
    pieces = [cut_block(frame, repeat, block, int(atom)) for frame, atom in zip(structures, atoms, strict=True)]
    predictions = committee.predict(pieces)
    return Batch(
        pieces,
        np.array([p.force_uncertainty for p in predictions]),
        np.array([p.energy for p in predictions]),
        np.array([min_distance_ratio(piece) for piece in pieces]),
        atoms,
        block,
    )


def _limit(data: xr.Dataset, max_atoms: int | None) -> int:
    """Most atoms of a label of this walker's frames."""
    cells = int(np.prod(data.attrs.get("repeat", 1)))
    return max_atoms or data.sizes["atom"] // cells


def _score(batch: Batch, data: xr.Dataset, lowest: Mapping[EnergyScale, float]) -> dict[str, np.ndarray]:
    """A value per frame for each column but expected error and novelty."""
    n, first = len(batch.structures), batch.structures[0]
    source = int(data.attrs.get("source", 0))
    per_atom = batch.energies / len(first)
    composition = _composition(first)
    # Labels of earlier versions do not say what they come from.
    reference = lowest.get((source, composition), lowest.get((None, composition), per_atom[0]))
    identity = data.attrs["structure_id"]
    return {
        "structure_id": np.array([f"{identity}-frame_{k:04d}" for k in range(n)], dtype=object),
        "ensemble": np.full(n, str(data.attrs["ensemble"]), dtype=object),
        "start": np.full(n, str(data.attrs.get("start", "ideal")), dtype=object),
        "walker": np.full(n, int(data.attrs["walker"])),
        "frame": np.arange(n),
        "regular": data.regular.values,
        "source": np.full(n, source),
        "rung": np.full(n, int(data.attrs.get("rung", -1))),
        "biased": np.full(n, int(data.attrs.get("uncertainty_bias", 0.0) > 0)),
        "n_atoms": np.full(n, round(batch.share * len(first))),
        "n_atoms_explored": np.full(n, data.sizes["atom"]),
        "cut_atom": batch.atoms,
        "carve_radius": np.full(n, batch.radius),
        "time_fs": data.time.values,
        "temperature": data.temperature.values,
        "target_temperature": data.target_temperature.values,
        "target_pressure": data.target_pressure.values,
        "energy_per_atom": per_atom,
        "energy_above_lowest": per_atom - reference,
        "force_uncertainty": batch.uncertainty.max(axis=1),
        "force_uncertainty_mean": batch.uncertainty.mean(axis=1),
        "min_distance_ratio": batch.ratios,
    }


def _measure_shift(training: Path, uncertainties: Sequence[np.ndarray]) -> dict[str, float]:
    """Shares above the validation data's quantiles; empty without frames, or where too little data was held out."""
    known = read_json(training).get("uncertainty", {})  # earlier versions wrote none
    if known.get("source") != "validation" or not sum(map(len, uncertainties)):
        return {}
    return measure_shift(known["shift"]["force_uncertainty"], np.concatenate(uncertainties))


EnergyScale = tuple[int | None, tuple[tuple[str, float], ...]]
"""Starting structure (None where unknown) and composition, within which energies per atom compare."""


def _composition(atoms: Atoms) -> tuple[tuple[str, float], ...]:
    symbols = atoms.get_chemical_symbols()
    return tuple((symbol, round(symbols.count(symbol) / len(symbols), 3)) for symbol in sorted(set(symbols)))


def _lowest_energies(known: Sequence[Atoms]) -> dict[EnergyScale, float]:
    """Lowest labelled energy per atom, eV, of each starting structure and composition.

    Energies of different compositions do not compare, nor those of a crystal and of a molecule of the same atoms.
    """
    lowest: dict[EnergyScale, float] = {}
    for atoms in known:
        energy, key = labelled_energy(atoms) / len(atoms), (atoms.info.get("source"), _composition(atoms))
        lowest[key] = min(energy, lowest.get(key, energy))
    return lowest


def _table(
    columns: dict[str, list[np.ndarray]],
    blocks: Sequence[np.ndarray],
    ends: Sequence[Mapping[str, Any]],
) -> xr.Dataset:
    empty = {name: np.zeros(0, dtype=object if name in TEXTS else float) for name in columns}
    joined = {name: np.concatenate(parts) if parts else empty[name] for name, parts in columns.items()}
    reasons = [str(end["stop_reason"]) for end in ends]
    # What becomes of a walker that is pushed says nothing of the potential's own dynamics.
    plain = [reason for end, reason in zip(ends, reasons, strict=True) if not end.get("uncertainty_bias", 0.0)]
    table = xr.Dataset(
        {
            **{name: ("candidate", joined[name], {} if name in TEXTS else _unit(name)) for name in joined},
            "explorer": ("explorer", np.array([end["walker"] for end in ends], dtype=int)),
            **{f"explorer_{name}": ("explorer", [end.get(name, none) for end in ends]) for name, none in ENDS.items()},
            "stop_reason": ("explorer", np.array(reasons, dtype=object)),
        },
        attrs={
            "n_walkers": len(plain),
            "n_exploded": plain.count("exploded"),
            "n_uncertain": plain.count("uncertain"),
        },
    )
    table["block"] = (("candidate", "cell_vector"), np.concatenate(blocks) if blocks else np.zeros((0, 3), dtype=int))
    return table


def _unit(name: str) -> dict[str, str]:
    return {"units": UNITS.get(name, "1")}
