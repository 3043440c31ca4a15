"""What a potential may be used for, as far as its loop can tell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mlip.config.ladder import first_temperature
from mlip.config.system import Config
from mlip.report.loop_figures import USUAL
from mlip.report.page import join_words
from mlip.report.sources import LoopRecord
from mlip.report.system import Described, list_elements

STRANGE = 0.2
"""Share of explored atoms more uncertain than 95 % of the validation atoms from which the page warns of it."""


def describe_scope(config: Config, loop: LoopRecord, found: Sequence[Described], converged: bool) -> list[str]:
    """Sentences: for what, how far it can be trusted there, and where nothing is known."""
    at_last = config.at_iteration(loop.last.number)
    kinds = sorted({structure.kind for structure in found if structure.kind})
    elements = list_elements(loop.species, found)
    where = f" as {join_words(kinds)}" if kinds else ""
    temperatures = _temperatures(at_last, loop.last.assessment.get("ladder") or {})
    span = "–".join(f"{t:.4g}" for t in sorted({temperatures[0], temperatures[-1]}))
    use = f"{elements}{where}, {span} K, in the conditions of the walkers below"
    first = f"For {use}." if converged else f"Not for production yet; meant for {use}."
    return [first, *_trust(at_last, loop), *_borders(found)]


def _temperatures(config: Config, ladder: Mapping[str, Any]) -> list[float]:
    """Of all walkers, from the lowest to the highest, K; of those that climb from the first to the last rung."""
    found: list[float] = []
    for group in config.explore.walkers:
        found += [t for t in group.temperatures if not isinstance(t, str)]  # no ladder
        stages = group.model_dump().get("schedule") or ()
        found += [stage["temperature"] for stage in stages if stage.get("temperature") is not None]
    found += [t for entry in ladder.values() for t in (entry["first"], entry["walked"]["temperature"])]
    return sorted(found) or [first_temperature(config.explore.ladder)]


def _trust(config: Config, loop: LoopRecord) -> list[str]:
    calibration = loop.last.assessment.get("calibration") or {}
    explored = loop.last.assessment.get("exploration") or {}
    sentences = _certificates(loop.last.assessment.get("audit") or {})
    if loop.retrained:
        sentences.append(
            f"The deployed potential was trained once more, on all {loop.retrained['n_structures']} labels,"
            f" {loop.retrained['n_audits']} audits among them: certificate and errors on this page are those of the"
            f" potential before it (iteration {loop.retrained['iteration']}), and nothing has judged the new one."
        )
    if calibration.get("coverage") is not None:
        honest = calibration["coverage"] >= config.assess.min_coverage
        start = "It says where it is unsure" if honest else "It is surer than it should be"
        sentences.append(
            f"{start}: its 95 % intervals held {100 * calibration['coverage']:.0f} % of new force"
            f" errors.{_stops(config)}"
        )
    shift = (explored.get("shift") or {}).get(USUAL)
    if shift is not None and shift > STRANGE:
        sentences.append(
            f"{100 * shift:.0f} % of the atoms that the last walkers met are more uncertain than {USUAL} % of those of"
            " the validation data: in MD, expect larger errors than those above."
        )
    return sentences


def _stops(config: Config) -> str:
    """Where walkers stop because the potential knows too little."""
    largest, share = config.explore.max_uncertainty, config.explore.max_relative_error
    limits = [f"forces_std passes {largest:g} eV/Å"] if largest is not None else []
    if share is not None:
        limits.append(f"the expected error of a frame passes {share:g} times the RMS force of the labels")
    return f" Where {' or '.join(limits)}, stop: so do the walkers." if limits else ""


def _certificates(audit: Mapping[str, Any]) -> list[str]:
    """What the audits certify of each starting structure, or why nothing; earlier versions had none."""
    sentences = []
    for source, found in sorted((audit.get("certificates") or {}).items()):
        of = f"Structure {source}: " if len(audit["certificates"]) > 1 else ""
        if found.get("refused"):
            sentences.append(f"{of}No certificate of the force error: {found['refused']}.")
        elif found.get("upper") is not None:
            sentences.append(
                f"{of}Certified: force RMSE below {found['upper']:.2g} eV/Å per component on the"
                f" {found['n_frames']} frames that its walkers made, with {100 * found['confidence']:g} % confidence at"
                f" all looks together, by {found['n_audits']} audits. Up to {100 * found['unseen']:.0f} % of the frames"
                " might be of a kind that no audit met." + _without_label(found)
            )
    return sentences


def _without_label(found: Mapping[str, Any]) -> str:
    """What audits that failed leave open; earlier versions gave no certificate then."""
    if not found.get("n_failed"):
        return ""
    return (
        f" {found['n_failed']} audits have no label: of frames that the labeller cannot label, up to"
        f" {100 * found.get('unlabelled', 1.0):.0f} % of all, nothing is said."
    )


def _borders(found: Sequence[Described]) -> list[str]:
    """What no kind of starting structure stands for, as a reader is likely to try it."""
    kinds = {structure.kind for structure in found if structure.kind}
    untried = ["other elements"]
    if kinds & {"bulk", "slab", "wire"}:
        untried += ["other phases", *([] if kinds & {"slab", "wire"} else ["surfaces"])]
    if kinds and not kinds & {"bulk", "slab", "wire"}:
        untried += ["other molecules or sizes", "their liquids and solids"]
    elif kinds and "bulk" not in kinds:
        untried.append("the bulk")
    return [f"Untested: {join_words([*untried, 'hotter or denser states'])}. Nowhere better than its labels."]
