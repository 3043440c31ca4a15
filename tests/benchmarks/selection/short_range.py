"""Forces and uncertainties below the shortest distances of the data, against what three teachers say.

    python tests/benchmarks/selection/short_range.py [--teachers "EMT Ni-Cu" "Lennard-Jones" "GPAW Si"]
        [--short-range fitted zbl] [--seeds 0 1 2] [--out FOLDER]

Trains on rattled crystals, then predicts crystals with nearer pairs, and the crystal with one pair pushed together.
Writes ``short_range.md`` and, of the first setting and seed, ``short_range.png``: force errors, and errors over sigma,
against the nearest distance of an atom over the shortest one that was trained of the same elements. The first table has
one row per training.
The labels of GPAW are stored in ``tests/data``, those of the others are made anew.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
import warnings
from pathlib import Path
from typing import NamedTuple

import ase.io
import numpy as np
from ase import Atoms
from short_range_teachers import SILICON, TEACHERS, nearest, push

from mlip.config.train import Train
from mlip.loop.train_committee import TrainingRequest, train_committee
from mlip.potential import Potential, load_potential
from mlip.potential.continuation import nearest_pair_ratios
from mlip.potential.zbl import pair_name
from mlip.structures.neighbors import find_pairs

EVERY = (*TEACHERS, "GPAW Si")
BINS = (0.82, 0.85, 0.88, 0.91, 0.94, 0.97, 1.0, 1.05, 1.1, np.inf)
"""Of an atom's nearest distance over the shortest trained one."""
SCAN = np.array([1.2, 1.1, 1.0, 0.94, 0.88, 0.85, 0.82])
STEPS = 600
WORST = (0.85, 1.0)
"""Distances, over the shortest trained one, between which the worst of a scan counts."""
SUMMARY = (
    "# Short range",
    "",
    "Forces in eV/Å. RMS error on validation data and on atoms that have a nearer pair; of the latter also over sigma,",
    "and components within three sigma. Of scans of all pairs: the largest error over the teacher's force at .85 to 1",
    "of the shortest trained distance, and the largest over sigma below 1.",
    "",
    "| teacher | short_range | seed | validation | nearer | nearer / sigma | within 3 | worst scan | over sigma |",
    "|--|--|--:|--:|--:|--:|--:|--:|--:|",
)


class Atomic(NamedTuple):
    """Of all atoms: nearest ratio [n], errors and labels of forces [n, 3], standard deviations [n, 3], eV/Å."""

    ratios: np.ndarray
    errors: np.ndarray
    labels: np.ndarray
    std: np.ndarray


class Scan(NamedTuple):
    """One pair pushed together: its force by the teacher and by us, and sigma, [n], eV/Å."""

    name: str
    ratios: np.ndarray
    true: np.ndarray
    found: np.ndarray
    std: np.ndarray


def label(name: str, seed: int) -> dict[str, list[Atoms]]:
    """Labelled structures to train, to validate, with nearer pairs and, where they are stored, scans."""
    if name not in TEACHERS:
        stored = ase.io.read(SILICON, ":")
        return {
            split: [a for a in stored if a.info["split"] == split] for split in ("train", "valid", "nearer", "scan")
        }
    teacher = TEACHERS[name]
    train, valid = teacher.training_set(60, seed), teacher.training_set(12, seed + 100)
    return {"train": train, "valid": valid, "nearer": teacher.nearer_set(40, seed), "scan": []}


def scan_all(name: str, potential: Potential) -> list[Atoms]:
    """Scans of every pair of elements of a teacher."""
    shortest = potential.shortest_distances.items()
    return [a for pair, d in shortest for a in TEACHERS[name].scan(tuple(pair.split("-")), SCAN * d)]


def atom_ratios(atoms: Atoms, shortest: dict[str, float]) -> np.ndarray:
    """Nearest distance of each atom over the shortest one trained, [n_atoms]."""
    pairs, symbols, ratios = find_pairs(atoms, 5.0), atoms.get_chemical_symbols(), np.full(len(atoms), np.inf)
    known = [shortest[pair_name(symbols[i], symbols[j])] for i, j in zip(pairs.centers, pairs.neighbors, strict=True)]
    np.minimum.at(ratios, pairs.centers, pairs.distances / np.array(known))
    return ratios


def compare(potential: Potential, structures: list[Atoms]) -> Atomic:
    """Errors of ``potential`` on labelled ``structures``, atom by atom."""
    predictions, shortest = potential.predict(structures), potential.shortest_distances
    labels = np.concatenate([a.get_forces() for a in structures])
    return Atomic(
        np.concatenate([atom_ratios(a, shortest) for a in structures]),
        np.concatenate([p.forces for p in predictions]) - labels,
        labels,
        np.concatenate([p.forces_std for p in predictions]),
    )


def push_together(potential: Potential, structures: list[Atoms]) -> list[Scan]:
    """Scans of all pairs of elements in ``structures``."""
    symbols = [pair_name(*(a.symbols[int(k)] for k in a.info["pair"])) for a in structures]
    scans = []
    for name in dict.fromkeys(symbols):
        own = [a for a, symbol in zip(structures, symbols, strict=True) if symbol == name]
        predictions, one = potential.predict(own), int(own[0].info["pair"][0])
        scans.append(
            Scan(
                name,
                np.array([nearest(a) for a in own]) / potential.shortest_distances[name],
                np.array([push(a, a.get_forces()) for a in own]),
                np.array([push(a, p.forces) for a, p in zip(own, predictions, strict=True)]),
                np.array([p.forces_std[one, 0] for p in predictions]),
            )
        )
    return scans


def tabulate(atomic: Atomic, scans: list[Scan]) -> list[str]:
    """Markdown of one teacher."""
    lines = [
        "| nearest / trained | atoms | label RMS | error RMS | error / sigma | within 3 sigma |",
        "|--|--:|--:|--:|--:|--:|",
    ]
    for low, high in itertools.pairwise(BINS):
        chosen = (atomic.ratios >= low) & (atomic.ratios < high)
        if chosen.any():
            errors, std = atomic.errors[chosen], atomic.std[chosen]
            rms = [np.sqrt((x**2).mean()) for x in (atomic.labels[chosen], errors, errors / std)]
            inside = 100 * (np.abs(errors) <= 3 * std).mean()
            numbers = f"{rms[0]:.3g} | {rms[1]:.3g} | {rms[2]:.2f} | {inside:.1f} %"
            lines.append(f"| {low:.2f} to {high:.2f} | {chosen.sum()} | {numbers} |")
    for scan in scans:
        lines += ["", f"| {scan.name} | teacher | potential | sigma |", "|--|--:|--:|--:|"]
        rows = zip(*scan[1:], strict=True)
        lines += [f"| {ratio:.2f} | {true:.3g} | {found:.3g} | {std:.2g} |" for ratio, true, found, std in rows]
    return lines


def draw(found: dict[str, list[Scan]], path: Path) -> None:
    """Force against distance: teacher, potential, three sigma."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(1, len(found), figsize=(4 * len(found), 3.6), squeeze=False, layout="constrained")
    for axes, (name, scans) in zip(panels[0], found.items(), strict=True):
        for k, scan in enumerate(scans):
            axes.plot(scan.ratios, scan.true, "o", color=f"C{k}", label=f"{scan.name}, teacher")
            axes.plot(scan.ratios, scan.found, "-", color=f"C{k}", label="potential")
            axes.fill_between(
                scan.ratios, scan.found - 3 * scan.std, scan.found + 3 * scan.std, color=f"C{k}", alpha=0.15
            )
        axes.axvline(1.0, color="0.6", lw=0.8)
        axes.set(title=name, xlabel="distance / shortest trained", ylabel="force on the pair (eV/Å)", yscale="log")
        axes.legend(fontsize=7)
    figure.savefig(path, dpi=130)


def train(name: str, data: dict[str, list[Atoms]], short_range: str, seed: int) -> Potential:
    """What a teacher's data make with a setting of ``train.short_range``."""
    settings = Train.model_validate(
        {"n_steps": STEPS, "n_channels": 16, "hidden": (16, 16), "short_range": short_range}
    )
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        train_committee(TrainingRequest(data["train"], data["valid"], settings, Path(folder), seed=seed))
        return load_potential(folder)


def summarize(valid: Atomic, nearer: Atomic, scans: list[Scan]) -> str:
    """Cells of one training: errors on validation data, on atoms with nearer pairs, and the worst of the scans."""
    deep = nearer.ratios < 1.0
    squares = [valid.errors**2, nearer.errors[deep] ** 2, (nearer.errors[deep] / nearer.std[deep]) ** 2]
    rms = [f"{np.sqrt(x.mean()):.3g}" for x in squares]
    inside = 100 * (np.abs(nearer.errors[deep]) <= 3 * nearer.std[deep]).mean()
    force, blind = [], []
    for scan in scans:
        missed, slack = np.abs(scan.found - scan.true), 1e-3  # of round-off
        chosen = (scan.ratios > WORST[0] - slack) & (scan.ratios < WORST[1] + slack)
        force.append((missed / scan.true)[chosen].max())
        blind.append((missed / scan.std)[chosen & (scan.ratios < 1.0 - slack)].max())
    return " | ".join([*rms, f"{inside:.1f} %", f"{100 * max(force):.0f} %", f"{max(blind):.2f}"])


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teachers", nargs="+", default=EVERY, choices=EVERY)
    parser.add_argument("--short-range", nargs="+", default=["fitted"], choices=["fitted", "zbl"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks/short_range"))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    rows, details = list(SUMMARY), list[str]()
    drawn: dict[str, list[Scan]] = {}
    for name, short_range, seed in itertools.product(options.teachers, options.short_range, options.seeds):
        data = label(name, seed)
        potential = train(name, data, short_range, seed)
        check_nearer(data["nearer"], potential)
        scans = push_together(potential, data["scan"] or scan_all(name, potential))
        valid, nearer = (compare(potential, data[split]) for split in ("valid", "nearer"))
        rows.append(f"| {name} | {short_range} | {seed} | {summarize(valid, nearer, scans)} |")
        both = Atomic(*(np.concatenate(of) for of in zip(nearer, valid, strict=True)))
        details += [f"## {name}, {short_range}, seed {seed}", "", *tabulate(both, scans), ""]
        drawn.setdefault(name, scans)
        (options.out / "short_range.md").write_text("\n".join([*rows, "", *details]))
    draw(drawn, options.out / "short_range.png")
    print("\n".join([*rows, "", *details]))


def check_nearer(structures: list[Atoms], potential: Potential) -> None:
    """Refuse test structures that hold nothing nearer than the training data."""
    ratios = nearest_pair_ratios(structures, potential.shortest_distances)
    if not (ratios < 1.0).all():
        raise ValueError(f"a nearest distance of {ratios.max():.3f} times the shortest trained one is not below it")


if __name__ == "__main__":
    main()
