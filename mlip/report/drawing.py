"""How pictures look and how they get onto the page.

A picture is a list of panels. On the page every panel is its own inline SVG, so that a phone
stacks them; its colours are CSS variables, so that it follows light and dark mode. In a
folder of pictures the panels of one picture stand side by side in a PNG.
"""

from __future__ import annotations

import html
import io
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

# Colours for a light page (Okabe & Ito, Color Universal Design, 2008, and greys). On the page
# each becomes the CSS variable of its name, for which the style sheet has a dark variant.
COLOURS = {
    "ink": "#1c2127",
    "muted": "#5d6672",
    "grid": "#e2e6eb",
    "pale": "#b4bcc6",
    "blue": "#0072b2",
    "orange": "#d55e00",
    "green": "#009e73",
    "yellow": "#e69f00",
    "purple": "#a8568b",
}
INK, MUTED, GRID, PALE, BLUE, ORANGE, GREEN, YELLOW, PURPLE = COLOURS.values()
PANEL_INCHES = (4.3, 3.0)
RASTERISE_ABOVE = 600  # points; more would make the page heavy


@dataclass(frozen=True)
class Panel:
    """One pair of axes: what it shows, in words, and the function that draws it."""

    title: str
    alt: str
    draw: Callable[[Axes], None]


@dataclass(frozen=True)
class Picture:
    """A picture of the report: file name, heading, one sentence to read it by, and its panels."""

    name: str
    title: str
    caption: str
    panels: Sequence[Panel]


@contextmanager
def style() -> Iterator[None]:
    """The look of all pictures, for the drawing inside the context only."""
    with mpl.rc_context():
        mpl.rcParams.update(mpl.rcParamsDefault)
        mpl.rcParams.update(
            {
                "svg.fonttype": "none",
                "svg.hashsalt": "report",
                "font.size": 9,
                "axes.titlesize": 9.5,
                "axes.titleweight": "bold",
                "axes.titlelocation": "left",
                "axes.spines.top": False,
                "axes.spines.right": False,
                "axes.edgecolor": PALE,
                "axes.labelcolor": INK,
                "axes.titlecolor": INK,
                "axes.axisbelow": True,
                "axes.grid": True,
                "axes.formatter.use_mathtext": False,
                "grid.color": GRID,
                "grid.linewidth": 0.8,
                "xtick.color": PALE,
                "ytick.color": PALE,
                "xtick.labelcolor": MUTED,
                "ytick.labelcolor": MUTED,
                "xtick.labelsize": 8.5,
                "ytick.labelsize": 8.5,
                "text.color": INK,
                "legend.frameon": False,
                "legend.fontsize": 8.5,
                "lines.linewidth": 1.8,
                "lines.markersize": 5.5,
            }
        )
        yield


def svg(panel: Panel, identity: str) -> str:
    """``panel`` as an inline SVG element; ``identity`` keeps its ids apart from other panels'."""
    with style():
        figure = Figure(figsize=PANEL_INCHES, layout="constrained")
        FigureCanvasSVG(figure)
        panel.draw(figure.add_subplot())
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, dpi=200, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    text = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{identity}-", text)
    text = re.sub(r"(font: (?:bold )?[\d.]+px) [^;\"]*", r"\1 var(--font)", text)
    for name, colour in COLOURS.items():
        text = text.replace(colour, f"var(--{name})")
    head, body = text.split(">", 1)
    view = re.search(r'viewBox="[^"]*"', head)
    attributes = " ".join(
        [
            'xmlns="http://www.w3.org/2000/svg"',
            'xmlns:xlink="http://www.w3.org/1999/xlink"',
            view.group(0) if view else "",
            f'role="img" aria-label="{html.escape(panel.alt, quote=True)}"',
        ]
    )
    return f"<svg {attributes}>{body}"


def png(picture: Picture, path: Path) -> None:
    """Write the panels of ``picture``, side by side, to ``path``."""
    with style():
        width, height = PANEL_INCHES
        figure = Figure(figsize=(width * len(picture.panels), height + 0.2), layout="constrained", facecolor="white")
        FigureCanvasAgg(figure)
        for axes, panel in zip(figure.subplots(1, len(picture.panels), squeeze=False)[0], picture.panels, strict=True):
            panel.draw(axes)
            axes.set_title(panel.title)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=160)


def positive_axis(axes: Axes, values: Sequence[float]) -> None:
    """A y axis for positive ``values``: from zero, or logarithmic when they span much."""
    present = [value for value in values if value > 0]
    if present and max(present) > 12 * min(present):
        axes.set_yscale("log")
        plain_numbers(axes.yaxis)
        axes.margins(y=0.15)
    else:
        axes.set_ylim(0, 1.15 * max(present, default=1.0))


def plain_numbers(axis: Axis) -> None:
    """Label a logarithmic axis with plain numbers at 1, 2 and 5 times each power of ten."""
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(FuncFormatter(lambda value, _: f"{value:g}" if f"{value:e}"[0] in "25" else ""))


def diagonal(axes: Axes, *values: np.ndarray) -> None:
    """The line of equal coordinates over the range of ``values``."""
    ends = np.array([min(np.nanmin(v) for v in values), max(np.nanmax(v) for v in values)])
    axes.plot(ends, ends, color=MUTED, linewidth=1, zorder=0.5)


def note(axes: Axes, text: str) -> None:
    """A short text in the lower right corner."""
    axes.annotate(text, (0.97, 0.05), xycoords="axes fraction", ha="right", color=INK)


def legend_above(axes: Axes) -> None:
    """A legend in one line above ``axes``, so that it covers nothing."""
    n_entries = len(axes.get_legend_handles_labels()[1])
    spacing = {"handlelength": 1.4, "handletextpad": 0.4, "columnspacing": 1.0, "borderaxespad": 0.2, "borderpad": 0.1}
    axes.legend(loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=max(1, n_entries), **spacing)


def limit_line(axes: Axes, value: float, text: str = "", side: str = "right") -> None:
    """A dashed horizontal line at ``value``, named at its right or left end."""
    axes.axhline(value, color=MUTED, linestyle=(0, (4, 3)), linewidth=1)
    if text:
        axes.annotate(
            text,
            (0.995 if side == "right" else 0.005, value),
            xycoords=("axes fraction", "data"),
            xytext=(0, 3),
            textcoords="offset points",
            ha=side,
            fontsize=8.5,
            color=MUTED,
        )
