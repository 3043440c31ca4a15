"""Which kinds of structures ``prepare`` can make of a starting structure, and which are asked for in vain."""

from __future__ import annotations

from collections.abc import Sequence

from mlip.config.structures import Prepare, PrepareKinds
from mlip.io.electrons import unusual_state
from mlip.structures.perturbations import Original

OF_OTHER_ATOMS = ("vacancy", "interstitial", "surface", "cluster", "dimer", "phase")
"""Kinds that consist of other atoms than their starting structure: its charge and spin are not theirs."""

NEEDS = {
    "volume_scan": "a bulk without fixed atoms",
    "strain": "a bulk, slab or wire without fixed atoms",
    "vacancy": "an atom that is not fixed, adsorbed or part of a molecule, and `vacancies: true`",
    "swap": "two elements, of similar size and both metals or both nonmetals, on sites that are not fixed or adsorbed",
    "interstitial": "a bulk without molecules",
    "surface": "a bulk without molecules and fixed atoms",
    "cluster": "a bulk without fixed atoms",
    "close_pair": "a bulk without molecules and fixed atoms",
    "random": "a bulk without molecules and fixed atoms",
    "melt": "a bulk without molecules",
    "phase": "a bulk as first structure",
}
"""What each kind needs of a starting structure; the others need nothing."""


def allow_kinds(original: Original, settings: Prepare, *, has_phases: bool = False) -> set[str]:
    """Kinds that have a weight in ``settings`` and that ``original`` allows.

    Args:
        original: A starting structure.
        settings: Section ``prepare``.
        has_phases: Whether there are other phases of it.
    """
    kind, free, plain = original.anatomy.kind, original.is_free, original.is_plain_bulk
    allowed = {
        "volume_scan": kind == "bulk" and free,
        "strain": kind != "molecule" and free,
        "vacancy": settings.vacancies and len(original.atoms) > 1 and len(original.sites) > 0,
        "swap": bool(settings.kinds.swap) and len(original.swaps) > 0,
        "interstitial": plain,
        "surface": plain and free,
        "cluster": kind == "bulk" and free,
        "close_pair": plain and free,
        "random": plain and free,
        "melt": plain,
        "phase": has_phases and kind == "bulk",
    }
    unusual = bool(unusual_state(original.atoms))
    return {
        name
        for name in PrepareKinds.model_fields
        if getattr(settings.kinds, name) > 0 and allowed.get(name, True) and not (unusual and name in OF_OTHER_ATOMS)
    }


def find_unmet_kinds(originals: Sequence[Original], settings: Prepare) -> list[str]:
    """Sentences: kinds asked for that no starting structure allows, and what each needs.

    Asked for are kinds whose weight is not the default: those that are on anyway go without saying.
    """
    allowed = set().union(
        *(allow_kinds(o, settings, has_phases=bool(settings.phases) and not k) for k, o in enumerate(originals))
    )
    return [
        f"prepare.kinds.{name}: {getattr(settings.kinds, name):g} is left out: it needs {_needs(name, originals)}"
        for name, field in PrepareKinds.model_fields.items()
        if name not in allowed and getattr(settings.kinds, name) not in (0, field.default)
    ]


def _needs(name: str, originals: Sequence[Original]) -> str:
    charged = name in OF_OTHER_ATOMS and any(unusual_state(original.atoms) for original in originals)
    return " and ".join(filter(None, [NEEDS.get(name), "a structure without charge and spin" if charged else None]))
