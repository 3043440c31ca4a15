"""The report of a loop: one page for people, one summary for machines.

Imports are kept inside the functions: drawing needs matplotlib, a command line that only
prints the table does not.

May import: ``mlip.loop`` and below.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mlip.report.summary import summary_table

if TYPE_CHECKING:
    from mlip.config.system import Config

__all__ = ["report_system", "summary_table"]


def report_system(
    config: Config,
    root: Path,
    iterations: Sequence[int],
    *,
    out_html: Path,
    out_summary: Path,
    out_selection: Path | None = None,
    figures: Path | None = None,
    reason: str | None = None,
) -> None:
    """Write the report of a loop, its summary and its ledger.

    Args:
        config: Configuration of the system.
        root: ``results/<system>``, where the iterations' files are (docs/design.md).
        iterations: Numbers of the finished iterations.
        out_html: Page written; it needs no other file.
        out_summary: ``summary.json`` written.
        out_selection: Page written of why frames were taken or left, where wanted; beside ``out_html``.
        figures: Folder for the pictures as PNG, where wanted.
        reason: Why the loop ended, where the last assessment does not know it.

    Raises:
        ValueError: without a finished iteration.
    """
    from mlip.io.files import write_atomic, write_json
    from mlip.jobs.ledger import write_ledger
    from mlip.report.figures import build_pictures, write_pictures
    from mlip.report.loop_page import render_page
    from mlip.report.selection_page import render_selection
    from mlip.report.sources import read_loop
    from mlip.report.summary import build_summary

    write_ledger(root)
    loop = read_loop(root, iterations)
    summary = build_summary(config, loop, reason)
    pictures = build_pictures(config, loop)
    write_atomic(out_html, render_page(config, root, loop, summary, pictures))
    write_json(out_summary, summary, checked=True)
    if out_selection is not None:
        write_atomic(out_selection, render_selection(root, loop))
    if figures is not None:
        write_pictures(pictures, figures)
