"""Labelled structures that exist already, made data of iteration 0 like the loop's own labels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ase import Atoms

from mlip.config.data import DataSource, find_files
from mlip.config.indexing import parse_index
from mlip.config.label import Guards
from mlip.config.train import Train
from mlip.io.electrons import STATE, ElectronsError, electronic_state
from mlip.io.extxyz import write_structures
from mlip.io.files import write_json
from mlip.labels.guards import check_results, check_structure
from mlip.labels.store import label_key
from mlip.loop.collect_dataset import structure_fault
from mlip.seeds import derive_rng
from mlip.structures.labelled import has_label
from mlip.structures.labelled_files import content_digest, keep_labels, read_labelled_file
from mlip.training.data import TrainingDataError
from mlip.training.label_check import check_labels

MOST_NAMED = 6
"""Unusable structures that a message names."""
FEWEST = 10
"""Structures below which a committee, what it is calibrated on and what tests it cannot be told apart."""


class DataError(ValueError):
    """Existing data that cannot join; the message names file, structure, value and remedy."""


def import_data(
    sources: Sequence[DataSource],
    *,
    guards: Guards,
    train: Train,
    max_failed_fraction: float,
    seed: int,
    alone: bool,
    out_structures: Path,
    out_records: Path,
) -> None:
    """Read, screen and judge the data of ``sources`` and write them in the form of a shard of labels.

    Args:
        sources: section ``data``.
        guards: limits that labels keep to; the energy window is applied when the data set is collected.
        train: of which ``cutoff`` and ``consistency`` are used.
        max_failed_fraction: share of unusable structures of a source above which nothing is taken.
        seed: of the structures drawn where a source has ``sample``.
        alone: whether iteration 0 has nothing else to learn from.
        out_structures: extended XYZ of the usable structures (eV, eV/Å, eV/Å³), with ``structure_id`` FILE:INDEX.
        out_records: JSON with a record for each structure and, for each file, its SHA-256.

    Raises:
        DataError: when a file cannot be read, too many of its structures are unusable, or labels are of a wrong
            unit, sign or of mixed settings.
    """
    usable, records, files = list[Atoms](), list[dict[str, Any]](), list[dict[str, Any]]()
    for number, source in enumerate(sources):
        read, digests = _read_source(source, number, seed)
        files += digests
        screened = [_record(atoms, find_fault(atoms, guards)) for atoms in read]
        _check_faults(screened, source, max_failed_fraction)
        usable += [atoms for atoms, record in zip(read, screened, strict=True) if record["status"] == "ok"]
        records += screened
    n_different = len({atoms.info["label_key"] for atoms in usable})
    if alone and n_different < FEWEST:
        raise DataError(
            f"data: {n_different} different usable structures are too few to begin with; give {FEWEST} or more, or set"
            " prepare.n_structures to 4 or more"
        )
    warnings = _judge(usable, train, seed)
    write_structures(out_structures, usable)
    result = {"iteration": 0, "planned": len(records), "imported": True, "files": files, "records": records}
    result["warnings"] = warnings
    write_json(out_records, result, checked=True)


def _read_source(source: DataSource, number: int, seed: int) -> tuple[list[Atoms], list[dict[str, Any]]]:
    """The structures that ``source`` names, and what its files are."""
    structures, files = list[Atoms](), list[dict[str, Any]]()
    for path in find_files(source):
        digest = content_digest(path)
        members = list(read_file(path, source, digest, number))
        files.append({"file": str(path), "sha256": digest, "settings": source.settings, "structures": len(members)})
        structures += members
    if not structures:
        raise DataError(f"data: {source.file}: index {source.index} names none of its structures; give another index")
    if source.sample is not None and source.sample < len(structures):
        chosen = derive_rng(seed, "import_data", number).choice(len(structures), source.sample, replace=False)
        structures = [structures[k] for k in sorted(chosen.tolist())]
    return structures, files


def read_file(path: Path, source: DataSource, digest: str, number: int) -> Iterator[Atoms]:
    """The structures of one file of ``source`` with their labels and, in ``info``, where they come from.

    Args:
        path: the file, or the folder of DeePMD systems.
        source: of which ``format``, ``index`` and ``block`` are used.
        digest: SHA-256 of the file.
        number: place of ``source`` in ``data``.

    Raises:
        DataError: when the file cannot be read.
    """
    try:
        structures = read_labelled_file(path, source.format)
    except (ValueError, OSError) as error:
        raise DataError(f"data: {error}") from None
    for index in range(len(structures))[parse_index(source.index)]:
        fault = structure_fault(structures[index]) or _state_fault(structures[index]) or _name_fault(structures[index])
        if structures[index].info.get("unconverged"):
            fault = "its SCF did not converge; label it again with more cycles (NELM)"
        atoms = keep_labels(structures[index]) if fault is None else structures[index].copy()
        info = {"structure_id": f"{path}:{index}", "origin": "data", "reason": "existing", "iteration": 0}
        info |= {"data_file": str(path), "data_index": index, "data_sha256": digest, "data_source": number}
        atoms.info = {key: atoms.info[key] for key in STATE if key in atoms.info and fault is None} | info
        atoms.info["core_seconds"] = 0.0
        if source.block > 1:
            atoms.info["data_block"] = f"{digest[:16]}/{index // source.block}"
        atoms.info["label_key"] = _key(atoms) if fault is None else ""
        atoms.info |= {"fault": fault} if fault is not None else {}
        yield atoms


def _state_fault(atoms: Atoms) -> str | None:
    try:
        electronic_state(atoms)
    except ElectronsError as error:
        return str(error)
    return None


def _name_fault(atoms: Atoms) -> str | None:
    """Labels under names that may be anybody's, such as ``REF_energy``, where ASE finds none."""
    for name, word, values in (("energy", "energy", atoms.info), ("forces", "force", atoms.arrays)):
        others = sorted(key for key in values if word in key.lower())
        if others and not has_label(atoms, name):
            return (
                f"has no {name}, but `{others[0]}`; if that is it, call it `{name}` in the file, the other labels"
                " `energy`, `forces`, `stress` (eV/Å³) or `virial` (eV)"
            )
    return None


def _key(atoms: Atoms) -> str:
    """The same for one structure with one energy, wherever it comes from; NaN is caught by the guards."""
    energy = atoms.calc.results.get("energy")
    state = {key: atoms.info.get(key) for key in STATE}
    return label_key(atoms, {"existing": repr(energy if energy is None else round(energy, 6)), **state})


def find_fault(atoms: Atoms, guards: Guards) -> str:
    """Why ``atoms``, of :func:`read_file`, cannot be learnt from; empty when they can. Labels have to pass the same."""
    if "fault" in atoms.info:
        return str(atoms.info["fault"])
    for name in ("energy", "forces"):
        if not has_label(atoms, name):
            return f"has no {name}; label it, or leave it out by `index`"
    results = {name: atoms.calc.results.get(name) for name in ("energy", "forces", "stress")}
    return check_structure(atoms, guards) or check_results(results, len(atoms), guards) or ""


def _record(atoms: Atoms, fault: str) -> dict[str, Any]:
    """The entry of a shard's record file."""
    return {
        "structure_id": atoms.info["structure_id"],
        "key": atoms.info["label_key"],
        "status": "rejected" if fault else "ok",
        "reason": fault,
        "attempts": 0,
        "cached": True,
        "core_seconds": 0.0,
        "wall_seconds": 0.0,
        "warnings": [],
    }


def _check_faults(records: Sequence[dict[str, Any]], source: DataSource, allowed: float) -> None:
    faults = [record for record in records if record["status"] != "ok"]
    if len(faults) <= allowed * len(records):
        return
    lines = [f"data: {len(faults)} of {len(records)} structures of {source.file} cannot be used:"]
    lines += [f"  {record['structure_id']}: {record['reason']}" for record in faults[:MOST_NAMED]]
    lines += [f"  ... and {len(faults) - MOST_NAMED} more"] * (len(faults) > MOST_NAMED)
    lines.append(
        f"  That is more than label.max_failed_fraction = {allowed:g}: repair the file, leave them out by `index`, or"
        " widen label.guards if they are right. `mlip import FILE` tells what is in it."
    )
    raise DataError("\n".join(lines))


def _judge(structures: Sequence[Atoms], train: Train, seed: int) -> list[str]:
    """What is odd about the data; stop before any label is paid for where units, signs or settings are wrong."""
    try:
        return check_labels(structures, train, seed)
    except TrainingDataError as error:
        files = Counter(atoms.info["data_file"] for atoms in structures)
        names = ", ".join(f"{name} ({n})" for name, n in files.most_common(MOST_NAMED))
        raise DataError(f"data: {error}\n  in {names}; `mlip import FILE` looks at each alone") from None
