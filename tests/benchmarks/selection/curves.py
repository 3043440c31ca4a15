"""Labels to a target from the records of :mod:`pool_benchmark`: medians, and bootstrap bands over seeds."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

N_BOOTSTRAP = 2000
SLACK = 1.1
"""Labels are counted to within a tenth of the last error: near there, curves are flat and the count is noise."""
HEAD = (
    "pool",
    "rule",
    "seeds",
    "labels saved against random (5, 95 %)",
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
    found = []
    for curve, base in _pairs(records, rule, "random"):
        target = max(point["macro"] for point in base[-max(1, len(base) // 3) :])
        mine, others = (labels_to(c, target, key) for c in (curve, base))
        found.append(others / max(mine, 1.0) if np.isfinite(mine) else 0.0)
    return found


def saved(
    records: Sequence[dict[str, Any]], rule: str, base: str, key: str = "labels", slack: float = SLACK
) -> list[float]:
    """For each seed, labels (or ``key``) of ``base`` over labels of ``rule``, to an error that both reach.

    That is ``slack`` times the worse of the two last errors. Where both are there without any label, the ratio is 1.
    """
    found = []
    for curve, other in _pairs(records, rule, base):
        target = slack * max(curve[-1]["macro"], other[-1]["macro"])
        mine, others = (labels_to(c, target, key) for c in (curve, other))
        found.append(max(others, 1.0) / max(mine, 1.0))
    return found


def needed(records: Sequence[dict[str, Any]], rule: str, base: str, slack: float = SLACK) -> list[float]:
    """For each seed, labels of ``base`` over labels of ``rule`` to ``slack`` times the last error of ``rule``.

    Where ``base`` does not get there, it counts as if it did with its last label: then this is a lower bound.
    """
    found = []
    for curve, other in _pairs(records, rule, base):
        target = slack * curve[-1]["macro"]
        others = min(labels_to(other, target), other[-1]["labels"])
        found.append(max(others, 1.0) / max(labels_to(curve, target), 1.0))
    return found


def _pairs(records: Sequence[dict[str, Any]], rule: str, base: str) -> list[tuple[list[Any], list[Any]]]:
    """Curves of ``rule`` and ``base`` of the seeds that have both."""
    of = {(r["rule"], r["seed"]): r["curve"] for r in records}
    return [(of[key], of[base, key[1]]) for key in of if key[0] == rule and (base, key[1]) in of]


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


def tabulate(records: Sequence[dict[str, Any]], slack: float = 1.0) -> str:
    """A Markdown table, one row a pool and rule; ``slack`` as in :func:`saved`."""
    lines = [f"| {' | '.join(HEAD)} |", "|" + "---|" * len(HEAD)]
    rules = list(dict.fromkeys(r["rule"] for r in records))
    for case in dict.fromkeys(r["case"] for r in records):
        mine = [r for r in records if r["case"] == case]
        for rule in rules:
            lines += _row([*mine], case, rule, slack)
    return "\n".join(lines)


def _row(records: Sequence[dict[str, Any]], case: str, rule: str, slack: float) -> list[str]:
    own = [r for r in records if r["rule"] == rule]
    labels, equal = saved(records, rule, "random", slack=slack), at_equal_labels(records, rule)
    if not own:
        return []
    last = [r["curve"][-1] for r in own]
    worst = [max(e["rmse"] / e["rms"] for e in p["errors"].values()) for p in last]
    longer = [r["longer"]["macro"] / r["curve"][-1]["macro"] for r in own if r["longer"]]
    seconds = [p["select_seconds"] for r in own for p in r["curve"] if "select_seconds" in p]
    cells = [
        case,
        rule,
        str(len(own)),
        "{:.2f} ({:.2f}, {:.2f})".format(*band(labels)) if labels else "–",
        f"{np.median(equal):.2f}" if equal else "–",
        f"{np.median([p['macro'] for p in last]):.3f} at {last[0]['labels']}",
        f"{np.median(worst):.3f}",
        f"x {np.median(longer):.2f}" if longer else "–",
        f"{np.median(seconds):.1f} s" if seconds else "–",
    ]
    return [f"| {' | '.join(cells)} |"]
