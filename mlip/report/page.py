"""What the pages of loops and of studies share: their templates, numbers as text, criteria and pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from mlip.report.drawing import Picture, svg

DASH = "–"


def page_environment(*folders: Path) -> Environment:
    """Templates of this folder, the style sheet among them, and of ``folders``."""
    return Environment(
        loader=FileSystemLoader([Path(__file__).parent, *folders]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def describe_criterion(entry: dict[str, Any]) -> dict[str, Any]:
    """A criterion of an assessment or a study as the texts of its row."""
    value, target, passed = entry.get("value"), entry["target"], bool(entry.get("passed"))
    # Criteria say only whether they passed; from that follows on which side of the target they should be.
    at_least = None not in (value, target) and value != target and (value > target) == passed
    text = percent_text if entry["name"].startswith("relative error") else number_text
    return {
        "name": entry["name"].replace("_", " "),
        "value": text(value),
        "target": DASH if target is None else f"{'≥' if at_least else '≤'} {text(target)}",
        "passed": passed,
        "remedy": entry.get("remedy", ""),
    }


def number_text(value: float | None, digits: int = 3) -> str:
    """``value`` with so many digits; a dash without a value."""
    return DASH if value is None else f"{value:.{digits}g}"


def percent_text(value: float | None) -> str:
    """A share of 1 in per cent."""
    return DASH if value is None else f"{100 * value:.2g} %"


def shift_text(share: float) -> str:
    """A difference as a share of 1, in per cent, with a sign unless it rounds to none."""
    text = f"{100 * share:+.2f}"
    return ("0.00" if float(text) == 0 else text.replace("-", "−")) + " %"


def join_words(words: Sequence[str], last: str = "and") -> str:
    """``a, b and c``."""
    return f" {last} ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))


def embed_picture(picture: Picture) -> dict[str, Any]:
    """A picture with its panels as SVG."""
    panels = [
        {"title": panel.title, "svg": Markup(svg(panel, f"{picture.name}{k}"))}
        for k, panel in enumerate(picture.panels)
    ]
    return {"name": picture.name, "title": picture.title, "caption": picture.caption, "panels": panels}
