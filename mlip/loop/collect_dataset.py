"""The cumulative data set: labels collected, screened and given their roles."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms

from mlip.config.loop import Collect
from mlip.io.electrons import SPINS, STATE
from mlip.io.extxyz import read_structures, write_structures
from mlip.io.files import REBUILD, FileContentError, read_json, write_json
from mlip.labels.energy_shifts import read_shifts, shift_energies
from mlip.labels.store import label_key
from mlip.statistics import fit_absolute
from mlip.structures.geometry import COINCIDENT, geometry_fault, min_distance_ratio
from mlip.structures.labelled import has_label, labelled_energy
from mlip.structures.roles import SPLITS, fill_empty_valid, split_new
from mlip.structures.states import find_conflicts

OTHER_ENERGIES = frozenset({"ref_energy", "dft_energy", "reference_energy", "qm_energy", "energy_dft", "energy_ref"})
"""Keys of the labels in files where another potential may have written its own predictions as `energy`."""

SMALLEST_RESIDUAL = 1e-4
"""eV/atom; smaller residuals weigh no more in the fit of energies to compositions."""


class DatasetError(ValueError):
    """Too few labels to go on; the message lists what failed and what to change."""


def read_labelled(path: Path) -> list[Atoms]:
    """Structures of a file that a user gives to train on or to compare with.

    Raises:
        ExtxyzError: when the file is cut short, malformed or changed.
        DatasetError: when it holds none, or one that no potential can be evaluated for; labels are
            judged by :mod:`mlip.training.consistency`.
    """
    structures = read_structures(path)
    if not structures:
        raise DatasetError(f"{path}: holds no structures; give an extended XYZ file with energies and forces")
    for number, atoms in enumerate(structures):
        fault = structure_fault(atoms)
        if fault:
            raise DatasetError(f"{path}: structure {number} ({atoms.get_chemical_formula()}): {fault}")
    return structures


def structure_fault(atoms: Atoms) -> str | None:
    """Why no potential can learn from ``atoms`` or be evaluated for them, with the remedy; None when it can."""
    if len(atoms) == 0:
        return "has no atoms; remove it"
    if atoms.numbers.min() < 1:
        return "atoms of no known element; name real elements"
    fault = geometry_fault(atoms)
    if fault is None and min_distance_ratio(atoms) < COINCIDENT:
        fault = "two atoms (nearly) coincide; remove it or repair the cell"
    results = getattr(atoms.calc, "results", {})
    for name, shape in {"energy": (), "free_energy": (), "forces": (len(atoms), 3), "stress": (6,)}.items():
        values = np.asarray(results.get(name, np.zeros(shape)))
        if values.dtype.kind not in "fiu" or values.shape != shape:
            return (
                f"its {name} is not {' × '.join(map(str, shape)) or 'a'} number{'s' * bool(shape)}; repair or remove it"
            )
    return fault or _ambiguity(atoms)


def _ambiguity(atoms: Atoms) -> str | None:
    """What in the header of ``atoms`` may be meant otherwise than it is read."""
    for key in ("charge", *SPINS):
        value = atoms.info.get(key)
        if value is not None and not isinstance(value, int | float):
            return f"{key}={value} is not a number; write it as one, or remove it"
    for key, value in atoms.info.items():
        if key.lower() in OTHER_ENERGIES and has_label(atoms, "energy") and isinstance(value, int | float):
            energies = {float(v) for k, v in atoms.calc.results.items() if k in ("energy", "free_energy")}
            if all(abs(value - energy) > 1e-3 for energy in energies):
                return (
                    f"{key} {value:.6g} eV is another than its energy {labelled_energy(atoms):.6g} eV; remove the one"
                    " that is not to be learnt, and call the other `energy`, its forces `forces`"
                )
    return None


def collect_dataset(
    shards: Sequence[Path],
    records: Sequence[Path],
    previous: Path | None,
    *,
    iteration: int,
    settings: Collect,
    energy_window: float,
    max_failed_fraction: float,
    out: Path,
    comparison: Path | None = None,
) -> None:
    """Join this iteration's labels with all earlier ones and write train, valid, test and new sets.

    Args:
        shards: Labelled structures of this iteration, one file a shard; existing data are one more.
        records: The shards' label records, in the same order.
        previous: ``collect_dataset`` folder of the previous iteration, or None.
        iteration: Number of this iteration.
        settings: Shares of prepared structures and existing data that are held out.
        energy_window: Largest distance of an energy from the data's median, eV/atom.
        max_failed_fraction: Share of failed labels above which the loop stops.
        out: Folder for ``{train,valid,test,new}.extxyz`` and ``dataset.json``.
        comparison: Of existing data with the labeller, from which their energies' shifts are taken.

    Raises:
        DatasetError: when more than ``max_failed_fraction`` of the labels failed, or all, and when
            labels of different settings or different states of one composition meet.
    """
    labelled = _read_shards(shards, records)
    shift_energies(labelled, read_shifts(comparison))
    existing, of_loop, told = _part_existing(records)
    failures, planned, cost, warnings = _read_records(of_loop)
    labelled, repeated = _without_repeated(labelled)
    warnings |= told | repeated
    n_own = sum("data_source" not in atoms.info for atoms in labelled)
    _check_failures(failures, planned, n_own, max_failed_fraction, nothing=previous is None and not labelled)
    old, earlier = _read_previous(previous)
    earlier_data = [atoms for structures in old.values() for atoms in structures]
    _check_settings([*earlier_data, *labelled])
    _check_states([*earlier_data, *labelled])
    fresh = _without_duplicates(labelled, {atoms.info["label_key"] for atoms in earlier_data})
    new, outliers = screen_energies(fresh, earlier_data, energy_window)
    splits = {split: list(old[split]) for split in SPLITS}
    for split, atoms in zip(split_new(new, old["train"], settings), new, strict=True):
        splits[split].append(atoms)
    fill_empty_valid(splits)
    for split, structures in splits.items():
        write_structures(out / f"{split}.extxyz", structures)
    write_structures(out / "new.extxyz", new)
    summary = _summarise(iteration, splits, new, failures, [*existing, *outliers], planned, cost, earlier)
    write_json(out / "dataset.json", summary | {"warnings": warnings}, checked=True)


def _part_existing(paths: Sequence[Path]) -> tuple[list[dict[str, Any]], list[Path], dict[str, int]]:
    """Records of existing data that cannot be used, the paths of records of the loop's own labels, and warnings."""
    shards = {path: _read_shard(path) for path in paths}
    existing = [path for path, shard in shards.items() if shard.get("imported")]
    unusable = [r | {"existing": True} for path in existing for r in shards[path]["records"] if r["status"] != "ok"]
    warnings = Counter(f"data: {text}" for path in existing for text in shards[path].get("warnings", []))
    return unusable, [path for path in paths if path not in existing], dict(warnings)


def _without_repeated(labelled: Sequence[Atoms]) -> tuple[list[Atoms], dict[str, int]]:
    """``labelled`` without existing data that the loop has labelled itself, and a warning with their number."""

    def geometry(atoms: Atoms) -> str:
        return label_key(atoms, {key: atoms.info.get(key) for key in STATE})

    own = {geometry(atoms) for atoms in labelled if "data_source" not in atoms.info}
    kept = [atoms for atoms in labelled if "data_source" not in atoms.info or not own or geometry(atoms) not in own]
    n = len(labelled) - len(kept)
    return kept, {"data: structures that the loop has labelled, too, count once, with its own label": n} if n else {}


def _read_shards(shards: Sequence[Path], records: Sequence[Path]) -> list[Atoms]:
    """The labelled structures, as many as the records say."""
    labelled = []
    for path, record_file in zip(shards, records, strict=True):
        structures = read_structures(path)
        finished = sum(record["status"] == "ok" for record in _read_shard(record_file)["records"])
        if len(structures) != finished:
            raise DatasetError(
                f"{path}: holds {len(structures)} structures where {record_file} names {finished} labels; one of both"
                " is damaged: delete both and run again, finished labels come from the label store"
            )
        labelled += structures
    return labelled


def _read_shard(path: Path) -> dict[str, Any]:
    shard = read_json(path)
    if not isinstance(shard, dict) or not {"planned", "records"} <= set(shard):
        raise FileContentError(f"{path}: no records of labels; {REBUILD}, finished labels come from the label store")
    return shard


def _read_previous(folder: Path | None) -> tuple[dict[str, list[Atoms]], dict[str, Any]]:
    """Structures by split and summary of the previous iteration, which must agree."""
    if folder is None:
        return {split: [] for split in SPLITS}, {}
    old, summary = (
        {split: read_structures(folder / f"{split}.extxyz") for split in SPLITS},
        read_json(folder / "dataset.json"),
    )
    for split, structures in old.items():
        if len(structures) != summary[split]:
            raise DatasetError(
                f"{folder / split}.extxyz: holds {len(structures)} structures where dataset.json says {summary[split]};"
                f" {REBUILD}, finished labels come from the label store"
            )
    return old, summary


def screen_energies(
    new: Sequence[Atoms], known: Sequence[Atoms], window: float
) -> tuple[list[Atoms], list[dict[str, Any]]]:
    """The structures of ``new`` within ``window`` (eV/atom) of the median, and records of the others.

    Energies count after a robust fit of one energy per element to ``known`` and ``new``, so that
    alloys of different composition are judged alike and an outlier does not tilt the fit.
    """
    if not new:
        return [], []
    residuals = composition_residuals([*new, *known])
    deviation = np.abs(residuals - np.median(residuals))[: len(new)]
    outliers = [
        {
            "structure_id": atoms.info.get("structure_id", "?"),
            "status": "outlier",
            "reason": f"energy {d:.2f} eV/atom from the median, more than label.guards.energy_window ({window})",
            **({"existing": True} if "data_source" in atoms.info else {}),
        }
        for atoms, d in zip(new, deviation, strict=True)
        if d > window
    ]
    return [atoms for atoms, d in zip(new, deviation, strict=True) if d <= window], outliers


def composition_residuals(structures: Sequence[Atoms]) -> np.ndarray:
    """Energy per atom left after fitting one energy per element by least absolute deviations, ``[n]`` eV/atom."""
    elements = sorted({int(z) for atoms in structures for z in atoms.numbers})
    counts = np.array([[np.count_nonzero(atoms.numbers == z) for z in elements] for atoms in structures], float)
    sizes = counts.sum(axis=1)
    energies = np.array([labelled_energy(atoms) for atoms in structures]) / sizes
    fractions = counts / sizes[:, None]
    # Of one element the fit is any value between the two in the middle: begun at the median it stays there.
    offsets = fit_absolute(fractions, energies, residuals=energies - np.median(energies), floor=SMALLEST_RESIDUAL)
    return energies - fractions @ offsets


def _check_settings(structures: Sequence[Atoms]) -> None:
    # Existing data have been declared or found to be of the loop's settings, by whatever name.
    labelled = [atoms for atoms in structures if "data_source" not in atoms.info]
    settings = Counter(str(atoms.info.get("label_settings")) for atoms in labelled)
    if len(settings) > 1:
        told = ", ".join(f"{n} with settings {name[:12]}" for name, n in settings.most_common())
        raise DatasetError(
            f"collect_dataset: labels of different settings do not mix: {told}. The calculator's version, data sets "
            "or parameters have changed since the first labels; go back to the old ones, or label everything anew with "
            "`snakemake --cores N --configfile CONFIG --forcerun label_structures label_references "
            "label_isolated_atoms`."
        )
    _check_programs(labelled)
    _check_files(labelled)


def _check_programs(structures: Sequence[Atoms]) -> None:
    """Refuse labels of several versions of a program that tells its version only when it has run."""
    versions = Counter(str(atoms.info["label_program"]) for atoms in structures if "label_program" in atoms.info)
    if len(versions) > 1:
        told = ", ".join(f"{n} of {name}" for name, n in versions.most_common())
        raise DatasetError(
            f"collect_dataset: labels of different settings do not mix: {told}. Go back to the program of the first"
            " labels, or label everything anew in another label store (MLIP_LABEL_STORE) with `snakemake --cores N"
            " --configfile CONFIG --forcerun label_structures label_references label_isolated_atoms`."
        )


def _check_files(structures: Sequence[Atoms]) -> None:
    """Refuse an element whose file, e.g. its POTCAR, has another content in some labels than in others."""
    digests: dict[str, Counter[str]] = {}
    for atoms in structures:
        for entry in str(atoms.info.get("label_files", "")).split():
            name, _, digest = entry.rpartition(":")
            digests.setdefault(name, Counter())[digest] += 1
    for name, counts in digests.items():
        if len(counts) > 1:
            files = ", ".join(f"{n} with the file {digest}" for digest, n in counts.most_common())
            raise DatasetError(
                f"collect_dataset: labels of different settings do not mix: {name} has several potentials or basis"
                f" files of one name ({files}; the records in the label store hold these SHA-256 as `element_files`)."
                " Put the first one back, or label everything anew with `snakemake --cores N --configfile CONFIG"
                " --forcerun label_structures label_references label_isolated_atoms`."
            )


def _check_states(structures: Sequence[Atoms]) -> None:
    conflicts = find_conflicts(structures)
    if conflicts:
        raise DatasetError(
            "collect_dataset: " + "; ".join(conflicts[:3]) + ". Correct charge, spin and initial moments in the files"
            " of `structures` or `data`, or leave one state out."
        )


def _read_records(paths: Sequence[Path]) -> tuple[list[dict[str, Any]], int, dict[str, float], dict[str, int]]:
    failures, planned = [], 0
    warnings: Counter[str] = Counter()
    cost = {"core_seconds": 0.0, "wall_seconds": 0.0}
    for path in paths:
        shard = _read_shard(path)
        planned += shard["planned"]
        failed = [record["status"] for record in shard["records"] if record["status"] != "ok"]
        if failed and len(failed) == shard["planned"]:
            reasons = ", ".join(f"{n} {status}" for status, n in sorted(Counter(failed).items()))
            warnings[f"{path.stem}: every label failed ({reasons})"] += len(failed)
        for record in shard["records"]:
            for name in cost:
                cost[name] += record[name]
            if record["status"] != "ok":
                failures.append({**record, "shard_file": str(path)})
            for warning in record.get("warnings", []):
                warnings[warning] += 1
    return failures, planned, cost, dict(warnings)


def _check_failures(
    failures: Sequence[Mapping[str, Any]], planned: int, n_ok: int, allowed: float, *, nothing: bool
) -> None:
    if planned and not n_ok:
        problem = f"all {planned} labels of this iteration failed"
    elif planned and len(failures) / planned > allowed:
        problem = f"{len(failures)} of {planned} labels failed, more than label.max_failed_fraction = {allowed}"
    elif nothing:
        problem = "there is nothing to train on: iteration 0 has no structures"
    else:
        return
    counts = Counter(f["status"] for f in failures)
    lines = [f"collect_dataset: {problem} (" + ", ".join(f"{n} {s}" for s, n in sorted(counts.items())) + ")"]
    lines += [f"  {f['structure_id']}: {f['status']}: {f['reason']}" for f in list(failures)[:4]]
    if len(failures) > 4:
        lines.append(f"  ... and {len(failures) - 4} more")
    shards = " ".join(sorted({f["shard_file"] for f in failures}))
    lines.append(
        "  Finished labels are kept. Mend the cause (SCF settings, time limit, guards) in the configuration and run"
    )
    lines.append("  again, or, when the machine was to blame, label once more with")
    lines.append(f"    snakemake --cores N --configfile CONFIG --forcerun {shards}")
    lines.append("  Only what failed is computed anew. Raising label.max_failed_fraction goes on without it.")
    raise DatasetError("\n".join(lines))


def _without_duplicates(structures: Sequence[Atoms], known: set[str]) -> list[Atoms]:
    fresh: dict[str, Atoms] = {}
    for atoms in structures:
        if atoms.info["label_key"] not in known:
            fresh.setdefault(atoms.info["label_key"], atoms)
    return list(fresh.values())


def _summarise(
    iteration: int,
    splits: Mapping[str, Sequence[Atoms]],
    new: Sequence[Atoms],
    failures: list[dict[str, Any]],
    unusable: list[dict[str, Any]],
    planned: int,
    cost: Mapping[str, float],
    earlier: Mapping[str, Any],
) -> dict[str, Any]:
    tagged = [{**record, "iteration": iteration} for record in failures + unusable]
    n_failed = sum(not record.get("existing") for record in tagged)  # of labels that the loop has paid for
    return {
        "iteration": iteration,
        **{split: len(structures) for split, structures in splits.items()},
        "labels_new": planned,
        "usable_new": len(new),
        "failed_new": n_failed,
        "labels_total": planned + earlier.get("labels_total", 0),
        "failed_total": n_failed + earlier.get("failed_total", 0),
        "core_seconds": cost["core_seconds"] + earlier.get("core_seconds", 0.0),
        "wall_seconds": cost["wall_seconds"] + earlier.get("wall_seconds", 0.0),
        "origins": dict(Counter(str(a.info.get("origin", "?")) for s in splits.values() for a in s)),
        "failures": tagged + list(earlier.get("failures", [])),
    }
