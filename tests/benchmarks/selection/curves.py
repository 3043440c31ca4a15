"""Labels to a target from the records of :mod:`pool_benchmark`: medians, and bootstrap bands over seeds."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

N_BOOTSTRAP = 2000
HEAD = (
    "pool",
    "rule",
    "seeds",
    "labels saved against random (5, 95 %)",
    "atoms",
    "error of random over its own, equal labels",
    "macro error",
    "worst kind",
    "longer training",
    "choosing",
)


def labels_to(curve: Sequence[dict[str, Any]], target: float, key: str = "labels") -> float:
    """Labels (or atoms) at which the macro error first falls to ``target``, interpolated; infinite if it never does."""
    for before, after in itertools.pairwise(curve):
        if before["macro"] <= target:
            return float(before[key])
        if after["macro"] <= target:
            part = (before["macro"] - target) / (before["macro"] - after["macro"])
            return float(before[key] + part * (after[key] - before[key]))
    return float(curve[-1][key]) if curve[-1]["macro"] <= target else np.inf


def ratios(records: Sequence[dict[str, Any]], rule: str, key: str = "labels") -> list[float]:
    """For each seed that has both, labels of random over labels of ``rule``, to what random reaches in the end.

    The target is the largest error of random's last third of points of that seed, which its own noise does not make
    unreachable. A rule that does not get there has the ratio 0.
    """
    of = {(r["rule"], r["seed"]): r["curve"] for r in records}
    found = []
    for (name, seed), curve in of.items():
        if name != rule or ("random", seed) not in of:
            continue
        base = of["random", seed]
        target = max(point["macro"] for point in base[-max(1, len(base) // 3) :])
        mine, others = (labels_to(c, target, key) for c in (curve, base))
        found.append(others / max(mine, 1.0) if np.isfinite(mine) else 0.0)
    return found


def band(values: Sequence[float], seed: int = 0) -> tuple[float, float, float]:
    """Median of ``values`` and the 5 and 95 % quantiles of bootstrapped medians."""
    rng = np.random.default_rng(seed)
    medians = np.median(rng.choice(values, (N_BOOTSTRAP, len(values))), axis=1)
    return float(np.median(values)), float(np.quantile(medians, 0.05)), float(np.quantile(medians, 0.95))


def at_equal_labels(records: Sequence[dict[str, Any]], rule: str) -> list[float]:
    """Macro errors of random over those of ``rule`` at the largest number of labels both have, one a seed."""
    of = {(r["rule"], r["seed"]): {p["labels"]: p["macro"] for p in r["curve"]} for r in records}
    found = []
    for (name, seed), points in of.items():
        base = of.get(("random", seed), {})
        shared = max(points.keys() & base.keys(), default=0)
        if name == rule and shared:
            found.append(base[shared] / points[shared])
    return found


def tabulate(records: Sequence[dict[str, Any]]) -> str:
    """A Markdown table, one row a pool and rule."""
    lines = [f"| {' | '.join(HEAD)} |", "|" + "---|" * len(HEAD)]
    rules = list(dict.fromkeys(r["rule"] for r in records))
    for case in dict.fromkeys(r["case"] for r in records):
        mine = [r for r in records if r["case"] == case]
        for rule in rules:
            lines += _row([*mine], case, rule)
    return "\n".join(lines)


def _row(records: Sequence[dict[str, Any]], case: str, rule: str) -> list[str]:
    own = [r for r in records if r["rule"] == rule]
    labels, atoms, equal = ratios(records, rule), ratios(records, rule, "atoms"), at_equal_labels(records, rule)
    if not labels or not equal:
        return []
    saved, low, high = band(labels)
    last = [r["curve"][-1] for r in own]
    worst = [max(e["rmse"] / e["rms"] for e in p["errors"].values()) for p in last]
    longer = [r["longer"]["macro"] / r["curve"][-1]["macro"] for r in own]
    seconds = [p["select_seconds"] for r in own for p in r["curve"] if "select_seconds" in p]
    cells = [
        case,
        rule,
        str(len(labels)),
        f"{saved:.2f} ({low:.2f}, {high:.2f})",
        f"{np.median(atoms):.2f}",
        f"{np.median(equal):.2f}",
        f"{np.median([p['macro'] for p in last]):.3f} at {last[0]['labels']}",
        f"{np.median(worst):.3f}",
        f"x {np.median(longer):.2f}",
        f"{np.median(seconds):.1f} s",
    ]
    return [f"| {' | '.join(cells)} |"]
