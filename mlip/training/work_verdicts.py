"""What the work of forces and stresses says of the labels: wrong units and signs, and labels of other structures."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from ase import Atoms

from mlip.training.slopes import Slope
from mlip.training.units import name_faults
from mlip.training.work import Factor, Work

CLEAR, SIGNED, UNRELATED = 0.95, 0.8, 0.5
"""Share of the energy differences' variance that work explains, from which factors tell units, and signs, and below
which energies and forces are not of the same structures. Of 61 right sets the least was 0.85, but for one with energies
0.2 meV/atom apart; with energies exchanged among structures the most was 0.64, with forces 0.68, else below 0.3."""
FEWEST, FEWEST_RELATED = 7, 15
"""Independent structures from which units, and relations, are judged."""
NORMAL, CERTAIN = 1.5, 5.0
"""A factor is off beyond this, by this many standard errors; of 57 right sets that are clear, all were 0.91 to 1.18."""
SIGN_ERRORS, RELATION_ERRORS, LEAST_RELATED = 4.0, 3.0, 0.6
"""Standard errors below zero of a wrong sign; and below what a factor of labels that have to do with energies is."""
LEAST_SPREAD = 1e-3
"""eV/atom by which energies must differ to be compared: less may be the noise of a label."""
ALIKE = 2.0
"""Ratio of a model's slope and a factor of work up to which they do not contradict each other, and up to which a factor
that no unit explains is that of cells so strained that the fit is poor."""
REMEDY = "convert to eV, eV/Å and eV/Å³ before training"


def is_clear(work: Work | None) -> bool:
    """Whether energies rise as forces and stresses work, but for factors."""
    return work is not None and work.explained >= CLEAR and work.n_independent >= FEWEST


def confirm(work: Work | None, slope: Slope, factor: float) -> Slope:
    """``slope``, a model's, where it is near the ``factor`` that ``work`` tells, or where work tells none."""
    told = work is not None and work.explained > UNRELATED and math.isfinite(factor)
    return slope if not told or 1 / ALIKE < slope.value / factor < ALIKE else Slope()


def judge_work(structures: Sequence[Atoms], work: Work | None, virial: Slope) -> tuple[list[str], list[str]]:
    """Errors and warnings about units, signs, the order of components, and what does not belong together.

    Args:
        structures: labelled, those of ``work``.
        work: see :func:`mlip.training.work.fit_work`.
        virial: slope of the virials on those that a model of the forces implies, where pairs are not strained.
    """
    if work is None or work.n_independent < FEWEST:
        return [], []
    if is_clear(work):
        errors, warnings = _judge_factors(structures, work, virial)
    else:
        errors, warnings = _judge_signs(work), []
        warnings += [] if errors else _judge_relation(work)
    if work.order and not errors:
        warnings.append(
            f"stresses are in the order {work.order}: so they work as energies differ; bring their components into"
            " ASE's order, xx yy zz yz xz xy"
        )
    return errors, warnings


def _judge_factors(structures: Sequence[Atoms], work: Work, virial: Slope) -> tuple[list[str], list[str]]:
    """Errors about factors that a unit explains, warnings about others."""
    force, stress = work.force, work.stress
    if force.known and not stress.known and virial.agreed and virial.wrong:
        stress = Factor(force.value / virial.value, 0.0)
    ratio = Factor()
    if force.known and stress.known:
        ratio = Factor(force.value / stress.value, _relative(force, stress))
    told = _describe(force, stress, ratio)
    if not told:
        return [], []
    sizes = {len(atoms) for atoms in structures}
    volume = float(np.median([a.get_volume() for a in structures if a.pbc.all()])) if stress.known else math.nan
    size = sizes.pop() if len(sizes) == 1 else math.nan
    names = name_faults(force, stress, size=size, volume=volume)
    if names:
        return [f"{' and '.join(told)}, as with {' or '.join(names)}; {REMEDY}"], []
    if all(not factor.known or 1 / ALIKE < factor.value < ALIKE for factor in (force, stress)):
        return [], []
    return [], [f"{' and '.join(told)}, which no common unit explains; check units and signs, then {REMEDY}"]


def _describe(force: Factor, stress: Factor, ratio: Factor) -> list[str]:
    """What is off: energies or stresses, both held against the forces, or the forces, which then put both off."""
    off = f": off by a factor of about {force.value:.3g}"
    if _is_off(force) and _is_off(ratio) and not _is_off(stress):
        return [f"energies and stresses against forces{off}"]
    told = [f"energies against forces{off}"] if _is_off(force) else []
    if _is_off(ratio):
        told.append(f"stresses against forces: off by a factor of about {ratio.value:.3g}")
    elif not force.known and _is_off(stress):
        told.append(f"energies against stresses: off by a factor of about {stress.value:.3g}")
    return told


def _relative(first: Factor, second: Factor) -> float:
    """Standard error of the ratio of two factors."""
    share = math.hypot(first.error / first.value, second.error / second.value)
    return abs(first.value / second.value) * share


def _is_off(factor: Factor) -> bool:
    """Whether a factor is certainly not 1."""
    if not factor.known or CERTAIN * factor.error > abs(factor.value):
        return False
    return factor.value < 0 or abs(math.log(factor.value)) > math.log(NORMAL)


def _judge_signs(work: Work) -> list[str]:
    """Errors about wrong signs, which are certain before factors are."""
    if work.explained < SIGNED:
        return []
    names = {"forces": work.force, "stresses": work.stress}
    wrong = [name for name, f in names.items() if f.known and f.value < -SIGN_ERRORS * f.error]
    if not wrong:
        return []
    factors = " and ".join(f"{names[w].value:.2g} ± {names[w].error:.1g} times the work of the {w}" for w in wrong)
    what = "energies" if len(wrong) == 2 or (not work.stress.known and wrong == ["forces"]) else wrong[0]
    text = (
        f"{' and '.join(wrong)} with the wrong sign: energies differ by {factors}, which should be 1; turn the sign of"
        f" the {what} (forces are minus the gradient; ASE's stress is positive under tension)"
    )
    return [text]


def _judge_relation(work: Work) -> list[str]:
    """A warning about energies that know nothing of the forces or stresses, whatever the units of any."""
    if work.n_independent < FEWEST_RELATED or work.spread < LEAST_SPREAD:
        return []
    lost = [
        name
        for name, f in (("forces", work.force), ("stresses", work.stress))
        if f.known and abs(f.value) + RELATION_ERRORS * f.error < LEAST_RELATED
    ]
    if work.explained >= UNRELATED and not lost:
        return []
    name = " and ".join(lost) if lost and work.explained >= UNRELATED else "forces"
    causes = ["frames out of step", "atoms in another order than their forces"]
    causes += ["stresses of another unit or sign in a part of them"] if work.stress.known else []
    share = f"the work of forces and stresses explains {100 * max(0.0, work.explained):.0f} % of energy differences"
    factors = ", ".join(
        f"{f.value:.2g} ± {f.error:.1g} of that of the {which}"
        for which, f in (("forces", work.force), ("stresses", work.stress))
        if f.known
    )
    text = (
        f"energies and {name} do not belong together: {share} ({factors}), which should be nearly all (1 of each);"
        f" look for {', '.join(causes)}"
    )
    return [text]
