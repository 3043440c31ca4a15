"""Tables and pictures of the benchmark of selection, from the records of all that has been run.

python tests/benchmarks/selection/build_selection.py results/selection --update-docs docs
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from curves import SLACK, at_equal_labels, band, needed, saved, tabulate
from matplotlib.axes import Axes

from mlip.report.drawing import BLUE, GREEN, INK, ORANGE, PURPLE, YELLOW, Panel, Picture, plain_numbers, png

BEGIN, END = "<!-- benchmark: begin -->", "<!-- benchmark: end -->"
COLOURS = {
    "random": INK,
    "log-determinant": BLUE,
    "farthest-mean": GREEN,
    "trust-levels": ORANGE,
    "farthest": PURPLE,
    "clusters": YELLOW,
}
REDUNDANT = ("silicon", "alloy", "mixture", "mixed-sizes")
LOOPS = "loops"
BEST = "log-determinant"
SEEDS = 5
"""That are planned."""
CALIBRATED = (0.8, 1.25)

Records = Sequence[dict[str, Any]]


@dataclass(frozen=True)
class Bar:
    """One thing that selection should do: what was measured (None if nothing was), and whether that is enough.

    ``seeds`` are the fewest and the most that the pools have which count.
    """

    what: str
    bar: str
    measured: str | None
    met: bool = False
    seeds: tuple[int, int] = (SEEDS, SEEDS)

    def row(self) -> str:
        """Of the table."""
        verdict = "not measured" if self.measured is None else "met" if self.met else "**not met**"
        fewest, most = self.seeds
        seeds = f"{fewest}" if fewest == most else f"{fewest} to {most}"
        so_far = f", {seeds} of {SEEDS} seeds a pool" if self.measured and fewest < SEEDS else ""
        return f"| {self.what} | {self.bar} | {self.measured or '–'} | {verdict}{so_far} |"


def read_records(folder: Path, part: str) -> list[dict[str, Any]]:
    """All JSON files below ``folder/part``."""
    return [json.loads(path.read_text()) for path in sorted((folder / part).rglob("*.json"))]


def of_case(records: Records, *cases: str) -> list[dict[str, Any]]:
    """Those of ``cases``, or all where none is given."""
    return [r for r in records if not cases or r["case"] in cases]


def over_cases(records: Records, cases: Sequence[str], base: str) -> list[float]:
    """What :func:`curves.saved` finds for :data:`BEST` in each of ``cases``, one number a case and seed."""
    return [ratio for case in cases for ratio in saved(of_case(records, case), BEST, base)]


def count_seeds(records: Records, cases: Sequence[str]) -> tuple[int, int]:
    """The fewest and the most seeds that ``cases`` have for :data:`BEST`."""
    counts = [sum(r["rule"] == BEST for r in of_case(records, case)) for case in cases] or [0]
    return min(counts), max(counts)


def show_band(values: Sequence[float]) -> str:
    """Median, band and number."""
    middle, low, high = band(values)
    return f"{middle:.2f} ({low:.2f}, {high:.2f}), n = {len(values)}"


def factor_bar(
    what: str, least: float, values: Sequence[float], seeds: tuple[int, int], *, outside_band: bool = False
) -> Bar:
    """A factor that should be ``least`` or more, in the median, or by the lower end of its band."""
    if not values:
        return Bar(what, f"≥ {least:g}", None)
    middle, low, _ = band(values)
    return Bar(what, f"≥ {least:g}", show_band(values), bool((low if outside_band else middle) >= least), seeds)


def list_bars(records: Records, folder: Path) -> list[Bar]:
    """Every bar for which this benchmark has records."""
    cases = sorted({r["case"] for r in records if not r["case"].startswith(LOOPS)})
    mixed, five = (of_case(records, case) for case in ("mixed-sizes", "five-systems"))
    own_end, seeds = "against structure means, labels to own last error", partial(count_seeds, records)
    bars = [
        factor_bar(what, least, over_cases(records, where, base), seeds(where), outside_band=where == [LOOPS])
        for what, least, where, base in (
            ("labels saved against random, redundant pools", 3.5, REDUNDANT, "random"),
            ("labels saved against DP-GEN's scheme, whole loops", 1.5, [LOOPS], "trust-levels"),
            ("the same, pools", 1.5, cases, "trust-levels"),
            ("labels saved against farthest structure means, pools", 1.0, cases, "farthest-mean"),
        )
    ]
    bars.insert(1, homogeneous_bar(records))
    for what, least, values, case in (
        (f"{own_end}, mixed sizes (at least)", 1.5, needed(mixed, BEST, "farthest-mean"), "mixed-sizes"),
        (f"{own_end}, five systems (at least)", 1.5, needed(five, BEST, "farthest-mean"), "five-systems"),
        ("label cost saved by choice of cells", 2, saved(mixed, f"{BEST}, by cost", BEST, "cost"), "mixed-sizes"),
    ):
        bars.append(factor_bar(what, least, values, seeds([case])))
    bars += calibration_bars(records)
    share = folder / "share.json"
    if share.exists():
        part = json.loads(share.read_text())["share"]
        bars.append(Bar("score and select over exploration", "< 5 %", f"{100 * part:.1f} %", part < 0.05))
    return bars


def homogeneous_bar(records: Records) -> Bar:
    """Where there is nothing to choose, a choice must do no harm."""
    what, least = "error over that of random, equal labels, homogeneous liquid", "≤ 1.1"
    worse = [1 / value for value in at_equal_labels(of_case(records, "liquid"), BEST)]
    if not worse:
        return Bar(what, least, None)
    return Bar(what, least, show_band(worse), bool(np.median(worse) <= 1.1), (len(worse), len(worse)))


def calibrations(records: Records, rule: str = BEST) -> dict[tuple[str, int], list[float]]:
    """RMS error over RMS expected error of each case's systems on test frames, one a seed, of the last potentials."""
    found: dict[tuple[str, int], list[float]] = {}
    for record in records:
        if record["rule"] != rule:
            continue
        groups: dict[int, list[dict[str, float]]] = {}
        for entry in record["curve"][-1]["errors"].values():
            groups.setdefault(round(entry["system"]), []).append(entry)
        for system, entries in groups.items():
            error, expected = (np.sqrt(np.mean([e[key] ** 2 for e in entries])) for key in ("rmse", "expected"))
            found.setdefault((record["case"], system), []).append(float(error / expected))
    return found


def calibration_bars(records: Records) -> list[Bar]:
    """Of the systems of loops, and of all pools."""
    bars = []
    found = calibrations(records)
    for what, is_loop in (("whole loops", True), ("pools", False)):
        medians = [float(np.median(v)) for (case, _), v in found.items() if case.startswith(LOOPS) == is_loop]
        title = f"error over expected error of systems, {what}"
        if not medians:
            bars.append(Bar(title, ".8 to 1.25", None))
            continue
        inside = [CALIBRATED[0] <= value <= CALIBRATED[1] for value in medians]
        text = f"{min(medians):.2f} to {max(medians):.2f}; {sum(inside)} of {len(inside)} inside"
        counts = [len(v) for (case, _), v in found.items() if case.startswith(LOOPS) == is_loop]
        bars.append(Bar(title, ".8 to 1.25", text, all(inside), (min(counts), max(counts))))
    return bars


def calibration_table(records: Records) -> str:
    """Error over expected error, of every case and system."""
    lines = ["| pool | system | error over expected error: median (least, largest) | seeds |", "|---|---|---|---|"]
    for (case, system), values in sorted(calibrations(records).items()):
        text = f"{np.median(values):.2f} ({min(values):.2f}, {max(values):.2f})"
        lines.append(f"| {case} | {system} | {text} | {len(values)} |")
    return "\n".join(lines)


def md_table(records: Records) -> str:
    """Failures of dynamics per nanosecond, of every case and rule."""
    lines = ["| pool | rule | seeds | ns | failures | per ns |", "|---|---|---|---|---|---|"]
    for case, rule in dict.fromkeys((r["case"], r["rule"]) for r in records):
        own = [r for r in records if (r["case"], r["rule"]) == (case, rule)]
        time, failed = (sum(kind[key] for r in own for kind in r["kinds"].values()) for key in ("ns", "failures"))
        per = f"{failed / time:.1f}" if failed else f"< {3 / time:.0f}"  # 95 % bound of a Poisson count of none
        lines.append(f"| {case} | {rule} | {len(own)} | {time:.2f} | {failed:.0f} | {per} |")
    return "\n".join(lines)


def draw_curves(axes: Axes, records: Records) -> None:
    """Macro error against labels: medians over seeds, and every seed as a thin line."""
    for rule, colour in COLOURS.items():
        own = [r["curve"] for r in records if r["rule"] == rule]
        for curve in own:
            axes.plot([p["labels"] for p in curve], [p["macro"] for p in curve], color=colour, lw=0.5, alpha=0.5)
        if own:
            labels = [p["labels"] for p in min(own, key=len)]
            middle = np.median([[p["macro"] for p in curve[: len(labels)]] for curve in own], axis=0)
            axes.plot(labels, middle, color=colour, marker="o", markersize=3, label=rule)
    axes.set_yscale("log")
    plain_numbers(axes.yaxis)
    axes.set_xlabel("chosen labels")
    axes.set_ylabel("RMSE over RMS force")
    axes.legend(fontsize=7)


def draw_pictures(records: Records, folder: Path) -> list[str]:
    """Write the pictures; returns their file names."""
    cases = list(dict.fromkeys(r["case"] for r in records))
    names = []
    for name, shown in (
        ("selection_pools", [case for case in cases if not case.startswith(LOOPS)]),
        ("selection_loops", [case for case in cases if case == LOOPS]),
    ):
        panels = [Panel(case, "", partial(draw_curves, records=of_case(records, case))) for case in shown]
        for part in range(0, len(panels), 3):
            names.append(f"{name}_{part // 3}.png")
            png(Picture(names[-1][:-4], "", "", panels[part : part + 3]), folder / names[-1])
    return names


def build_markdown(folder: Path, records: Records, pictures: Sequence[str]) -> str:
    """What goes between the markers."""
    pools = [r for r in records if not r["case"].startswith(LOOPS)]
    parts = [
        "\n".join(["| what | bar | measured | |", "|---|---|---|---|", *(b.row() for b in list_bars(records, folder))])
    ]
    parts += [f"![Error against labels](images/{name})" for name in pictures]
    parts += ["**Pools**", tabulate(pools, SLACK)]
    if loops := of_case(records, LOOPS):
        parts += ["**Whole loops**", tabulate(loops, SLACK)]
    parts += ["**Calibration**, of `log-determinant`'s last potentials on test frames", calibration_table(records)]
    if dynamics := read_records(folder, "md"):
        parts += ["**Dynamics** with the potentials of 32 labels", md_table(dynamics)]
    return "\n\n".join(parts) + "\n"


def update_docs(text: str, page: Path) -> None:
    """Put ``text`` between the markers of ``page``.

    Raises:
        ValueError: where the page has no such markers.
    """
    old = page.read_text(encoding="utf-8")
    if BEGIN not in old or END not in old:
        raise ValueError(f"{page} lacks the lines {BEGIN} and {END}, between which the tables go")
    head, _, rest = old.partition(BEGIN)
    page.write_text(f"{head}{BEGIN}\n\n{text}\n{END}{rest.partition(END)[2]}", encoding="utf-8")


def main() -> None:
    """Write ``report/`` below the records, and refresh the documentation where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="of the records")
    parser.add_argument("--update-docs", type=Path, help="refresh selection.md and its pictures in this folder")
    given = parser.parse_args()
    records = read_records(given.folder, "runs")
    images = (given.update_docs or given.folder / "report") / "images"
    images.mkdir(parents=True, exist_ok=True)
    text = build_markdown(given.folder, records, draw_pictures(records, images))
    if given.update_docs is None:
        (given.folder / "report" / "selection.md").write_text(text, encoding="utf-8")
    else:
        update_docs(text, given.update_docs / "selection.md")


if __name__ == "__main__":
    main()
