"""What the tests of faults measured, as a table in docs/faults.md: `make test-slurm FAULTS=1` writes it anew."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "faults.md"
BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"
HEAD = "| row | attempts | labels finished before | lost | computed again |\n|---|---|---|---|---|"


def record(row: int, attempts: list[str], before: dict[Path, int], after: dict[Path, int], twice: set[str]) -> None:
    """Keep what a test saw of a fault, where ``MLIP_FAULTS`` names a folder for it.

    Args:
        row: number in the page's table.
        attempts: how Slurm says that each job or process hit by it ended, in order.
        before: finished labels when it struck, with the time each was written.
        after: the same at the loop's end.
        twice: structures that were computed to the end more than once.
    """
    folder = os.environ.get("MLIP_FAULTS")
    if not folder:
        return
    lost = [path for path in before if path not in after]
    again = [path for path in before if path in after and after[path] != before[path]]
    numbers = {"before": len(before), "lost": len(lost), "again": len(again) + len(twice)}
    Path(folder).mkdir(parents=True, exist_ok=True)
    (Path(folder) / f"{row:02d}.json").write_text(json.dumps({"row": row, "attempts": attempts} | numbers))


def render(measured: list[dict[str, Any]]) -> str:
    """The table of what was measured."""
    lines = [
        f"| {m['row']} | {' → '.join(state.lower().replace('_', ' ') for state in m['attempts'])} "
        f"| {m['before']} | {m['lost']} | {m['again']} |"
        for m in measured
    ]
    return "\n".join([HEAD, *lines])


def main() -> None:
    """Put the records of ``MLIP_FAULTS`` into the page; rows that were not measured keep theirs."""
    text = PAGE.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN)
    old, after = rest.split(END)
    rows = {int(line.split("|")[1]): line for line in old.splitlines() if line.startswith("| ") and "row" not in line}
    for path in Path(os.environ["MLIP_FAULTS"]).glob("*.json"):
        measured = json.loads(path.read_text())
        rows[measured["row"]] = render([measured]).splitlines()[-1]
    table = "\n".join([HEAD, *(rows[row] for row in sorted(rows))])
    PAGE.write_text(f"{before}{BEGIN}\n{table}\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
