"""Are energies, forces and stresses of one kind? Looked for before training, in a second.

Forces and stresses are derivatives of the energy. A small linear model fitted to the forces alone
(:mod:`mlip.training.linear`) implies differences of energies and virials; labels regressed on
these have the slope 1 whatever the data, while 27.2, 23.06, -1 or 160.2 name a wrong unit or
sign. Where there are copies of one structure, the work between them tells more, and before the
model (:mod:`mlip.training.work`). Slopes are medians over pairs of structures of one composition
(Theil and Sen), and say something only when the middle half of the pairs agrees. A verdict stops the training; what is
merely odd becomes a warning. When in doubt, nothing is said: a false alarm costs more than a miss.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
from ase import Atoms
from ase.units import Bohr, GPa, Hartree, Ry, kcal, kJ, mol

from mlip.statistics import deviation, fit_absolute
from mlip.structures.labelled import has_label, labelled_energy
from mlip.structures.states import find_conflicts
from mlip.training.data import TrainingDataError
from mlip.training.densities import Dataset
from mlip.training.linear import Implied, imply_labels
from mlip.training.mixed_settings import Groups, list_runs, share_settings, split_energies, split_forces
from mlip.training.sanity import (
    REMEDY,
    check_duplicates,
    check_magnitudes,
    check_neighbours,
    check_placeholders,
    check_twins,
)
from mlip.training.slopes import NORMAL, Slope, pair_slope, work_slope
from mlip.training.work import CopyPairs, Work, fit_work, list_pairs
from mlip.training.work_verdicts import confirm, is_clear, judge_work

MAX_ATOMS = 4000
MIN_STRUCTURES = 8
"""Structures of one composition below which their energies are not compared."""
MIN_TENSORS = 3
"""Independent differences of stress tensors below which they are not compared."""
MIN_SKILL = 0.6
"""Explained share of held-out forces below which the model may not judge."""
SAME_VOLUME = 1.01
"""Ratio of volumes per atom up to which the energies of few crystals compare without a fit in the volume."""
TOLERANCE = 1.5
"""A slope names a unit when it is within this factor."""
VOLUME_GAP = 1.25
"""Ratio of neighbouring volumes per atom from which crystals are of two kinds: a surface, or another phase."""
CERTAIN_OFFSET = 0.1
"""eV/atom from which an offset stops the training. Other functionals and pseudopotentials shift energies by more;
the linear model's own errors may group smaller ones: in published silicon they set 3 of 15 vacancies 0.012 apart."""
CLEAR_SCATTER, CLEAR_SEPARATION = 0.03, 20.0
"""eV/atom by which energies may scatter about a fit that stops the training, or else standard deviations: of right
labels of ten kinds of molecules, two of each, five were set 0.44 apart, at a scatter of 0.047."""
CERTAIN_FACTOR = 1.1
"""Ratio of forces from which mixed ones stop the training."""
MOST_SCATTER = 0.02
"""Of the forces' factors within each group, where the model does not foretell the forces of structures held out."""
MIN_TOTAL = 1.0
"""eV/atom from which on an offset may be a factor."""
OUTLIER, MIN_OUTLIER = 12.0, 0.1
"""An energy is an outlier at this many standard deviations, and eV/atom."""
EXPLAINED = 0.5
"""Share of that, up to which work between structures may contradict an energy that is none."""

ENERGY_UNITS = {
    "energies in Hartree": 1 / Hartree,
    "energies in Rydberg": 1 / Ry,
    "energies in kcal/mol": mol / kcal,
    "energies in kJ/mol": mol / kJ,
    "energies in meV": 1e3,
    "energies with the wrong sign": -1.0,
}
FORCE_UNITS = {
    "forces in Hartree/Bohr": Hartree / Bohr,
    "forces in Rydberg/Bohr": Ry / Bohr,
    "forces in Hartree/Å": Hartree,
    "forces in kcal/mol/Å": kcal / mol,
    "forces in kJ/mol/Å": kJ / mol,
    "forces in meV/Å": 1e-3,
    "forces with the wrong sign (gradients)": -1.0,
}
STRESS_UNITS = {
    f"stresses in {name}{sign}": factor * value
    for sign, factor in (("", 1.0), (" and with the wrong sign", -1.0))
    for name, value in (("GPa", 1 / GPa), ("kbar", 10 / GPa), ("Hartree/Bohr³", Bohr**3 / Hartree))
} | {"stresses with the wrong sign (ASE's is positive under tension)": -1.0}


def check_consistency(
    structures: Sequence[Atoms],
    data: Dataset,
    n_species: int,
    mode: str = "error",
    *,
    valid: Sequence[Atoms] = (),
    valid_data: Dataset | None = None,
) -> list[str]:
    """Warnings about the labels of ``structures``, whose geometry and targets are ``data``, and of ``valid``.

    Args:
        structures: labelled training structures.
        data: the same, as training sees them.
        n_species: elements of the network.
        mode: ``error`` raises for what is certainly wrong, ``warn`` returns it like the rest, and
            ``off`` looks for nothing.
        valid: labelled validation structures, and ``valid_data``.

    Raises:
        TrainingDataError: naming quantity, factor, likely unit and remedy.
    """
    if mode == "off":
        return []
    errors, warnings = _check_set(structures, data, n_species, "train")
    warnings += check_neighbours(structures, data)
    if valid_data is not None:
        more = _check_set(valid, valid_data, n_species, "valid")
        errors, warnings = errors + more[0], warnings + more[1] + check_twins(structures, valid)
    errors += find_conflicts([*structures, *valid])
    if errors and mode == "error":
        raise TrainingDataError("inconsistent data: " + "; ".join(errors) + f". {REMEDY}")
    return errors + warnings


def _check_set(structures: Sequence[Atoms], data: Dataset, n_species: int, name: str) -> tuple[list[str], list[str]]:
    """Errors and warnings about one set of structures."""
    errors, warnings = check_duplicates(structures, name)
    errors += check_magnitudes(structures, data, name) + check_placeholders(structures, name)
    if len(structures) >= MIN_STRUCTURES:
        implied = imply_labels(data, n_species, MAX_ATOMS)
        some = [structures[k] for k in implied.chosen]
        groups = phase_groups(some)
        pairs = list_pairs(some, groups, implied)
        work = fit_work(some, pairs, groups, trusted=implied.skill >= MIN_SKILL)
        judgements = [_judge_labels(some, implied, data, pairs, work, name)]
        if implied.skill >= MIN_SKILL:
            judgements.append(_judge_energies(some, implied, work, name))
        else:  # nothing foretells forces of which every other one is in another unit; their slopes are two all the same
            judgements.append(_judge_force_groups(some, implied, name, MOST_SCATTER))
        for judged in judgements:
            errors, warnings = errors + judged[0], warnings + judged[1]
    return errors, warnings


def phase_groups(structures: Sequence[Atoms], *, formula: bool = False) -> np.ndarray:
    """Number [n] of what each structure is one of: only within such a group do the forces know energy differences.

    No force leads from a crystal to a cluster or a wire: what a model fitted to forces says of their difference is
    a guess. Crystals of one group have equal shares of the elements, or equal formulas where ``formula`` is true, and
    densities without a gap, for slabs and clusters in a box are none; all else has equal formulas and periodicity.
    """
    table: dict[tuple[str, str], int] = {}
    names = []
    for atoms in structures:
        whole = formula or not atoms.pbc.all()
        text = (atoms.symbols.formula if whole else atoms.symbols.formula.reduce()[0]).format("hill")
        names.append((text, str(atoms.pbc)))
    groups = np.array([table.setdefault(name, len(table)) for name in names])
    volumes = np.array([atoms.get_volume() / len(atoms) if atoms.pbc.all() else 1.0 for atoms in structures])
    order = np.lexsort((volumes, groups))
    begins = (np.diff(groups[order]) != 0) | (volumes[order][1:] > VOLUME_GAP * volumes[order][:-1])
    found = np.empty(len(structures), dtype=int)
    found[order] = np.concatenate(([0], np.cumsum(begins)))
    return found


def _judge_labels(
    structures: Sequence[Atoms], implied: Implied, data: Dataset, pairs: CopyPairs, work: Work | None, name: str
) -> tuple[list[str], list[str]]:
    """Errors and warnings about units and signs, by work between copies of one structure, else by the model."""
    groups = phase_groups(structures)
    energy = virial = Slope()
    if implied.skill >= MIN_SKILL:
        energy, virial = _energy_slope(structures, implied, groups), _virial_slope(structures, implied, data, groups)
    errors, warnings = judge_work(structures, work, virial)
    if not errors and not is_clear(work):
        modelled = energy.agreed
        if not modelled:  # few structures, or in small cells that are strained
            energy = work_slope(pairs, groups, MIN_STRUCTURES - 1)
        if work is not None:
            energy = confirm(work, energy, work.force.value)
            virial = confirm(work, virial, work.force.value / work.stress.value)
        more = _judge_slopes(structures, energy, virial, modelled=modelled)
        errors, warnings = errors + more[0], warnings + more[1]
    prefix = "" if name == "train" else f"{name}: "
    return [prefix + text for text in errors], [prefix + text for text in warnings]


def _judge_slopes(
    structures: Sequence[Atoms], energy: Slope, virial: Slope, *, modelled: bool
) -> tuple[list[str], list[str]]:
    """Errors and warnings from the slopes of energies and virials."""
    sizes = {len(atoms) for atoms in structures}
    # Both off by one factor: not energies and stresses are in another unit, but the forces they are held against.
    shared = energy.wrong and virial.wrong and 1 / NORMAL < virial.value / energy.value < NORMAL
    verdicts = []
    if energy.wrong:
        candidates = {} if shared else dict(ENERGY_UNITS)
        if len(sizes) == 1 and modelled and not shared and (size := min(sizes)) > 2:
            candidates["energies per atom"] = 1 / size
        if shared or not virial.agreed:
            candidates |= FORCE_UNITS
        if not modelled:
            candidates["stresses with the wrong sign"] = -1.0
        quantity = "energies and stresses against forces" if shared else "energies against forces"
        verdicts.append(_name_unit(quantity, energy.value, candidates))
    if virial.wrong and not shared:
        volume = float(np.median([atoms.get_volume() for atoms in structures if has_label(atoms, "stress")]))
        candidates = STRESS_UNITS | {
            "virials (eV) in place of stresses": -volume,  # minus the volume times the stress
            "negative virials (eV) in place of stresses": volume,
        }
        candidates |= {} if energy.agreed else FORCE_UNITS
        verdicts.append(_name_unit("stresses against forces", virial.value, candidates))
    return [text for text, named in verdicts if named], [text for text, named in verdicts if not named]


def _energy_slope(structures: Sequence[Atoms], implied: Implied, groups: np.ndarray) -> Slope:
    """Slope of the energies per atom; few crystals of different volume say nothing: forces hardly know its part."""
    kept = np.ones(len(structures), dtype=bool)
    for group in np.unique(groups):
        members = groups == group
        few = [structures[k] for k in np.nonzero(members)[0].tolist()] if members.sum() < MIN_STRUCTURES else []
        volumes = [atoms.get_volume() / len(atoms) for atoms in few if atoms.pbc.all()]
        kept[members] = not volumes or max(volumes) < SAME_VOLUME * min(volumes)
    energies, labels = _without_volume(structures, implied, groups)
    return pair_slope(energies[kept], labels[kept], groups[kept], MIN_STRUCTURES - 1)


def _virial_slope(structures: Sequence[Atoms], implied: Implied, data: Dataset, groups: np.ndarray) -> Slope:
    """Slope of the virials per atom of the structures that have one."""
    known = data.has_stress.cpu().numpy()[implied.chosen] > 0
    sizes = np.array([len(atoms) for atoms in structures], dtype=float)
    if not known.any():
        return Slope(*[math.nan] * 3)
    virials, labels = (v[known] / sizes[known][:, None, None] for v in (implied.virials, implied.virial_labels))
    # A component is compared with the same component of structures of the same composition: a group for each.
    tied = np.repeat(groups[known][:, None] * 9, 9, axis=1) + np.arange(9)
    return pair_slope(virials.ravel(), labels.ravel(), tied.ravel(), 9 * MIN_TENSORS)


def _volume_powers(structures: Sequence[Atoms]) -> np.ndarray:
    """1, v and v^2 [n, 3] of the scaled volume per atom; 1 alone for few structures.

    In a small periodic cell the forces hardly know how the energy depends on the volume.
    """
    volumes = np.array([atoms.get_volume() / len(atoms) if atoms.pbc.all() else 0.0 for atoms in structures])
    scaled = (volumes - volumes.mean()) / max(float(volumes.std()), 1e-9)
    return scaled[:, None] ** np.arange(3 if len(structures) >= MIN_STRUCTURES else 1)


def _without_volume(structures: Sequence[Atoms], implied: Implied, groups: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Implied and labelled energies [n] (eV/atom) less a parabola in the volume per group."""
    pair = np.stack((implied.energies, implied.labels), 1) / np.array([[len(atoms)] for atoms in structures])
    for group in np.unique(groups):
        members = np.nonzero(groups == group)[0]
        powers = _volume_powers([structures[k] for k in members.tolist()])
        pair[members] -= powers @ np.linalg.lstsq(powers, pair[members], rcond=None)[0]
    return pair[:, 0], pair[:, 1]


def _name_unit(quantity: str, slope: float, candidates: dict[str, float]) -> tuple[str, bool]:
    """Message about ``slope``, and whether a unit explains it."""
    distance = {name: abs(math.log(slope / factor)) for name, factor in candidates.items() if slope / factor > 0}
    near = sorted((name for name, d in distance.items() if d < math.log(TOLERANCE)), key=distance.__getitem__)[:3]
    start = f"{quantity}: off by a factor of about {slope:.3g}"
    if not near:
        return f"{start}, which no common unit explains; check units, signs and the order of the atoms", False
    exact = " or ".join(f"{name} (factor {candidates[name]:.4g})" for name in near)
    return f"{start}, as with {exact}; convert to eV, eV/Å and eV/Å³ before training", True


def _judge_groups(
    structures: Sequence[Atoms], implied: Implied, work: Work | None, name: str
) -> tuple[list[str], list[str]]:
    """Errors and warnings about two groups of structures that were labelled with different settings."""
    energies = split_energies(structures, implied)
    errors, warnings = list[str](), list[str]()
    if energies is not None and work is not None:
        # Work that leads from one group to the other knows of no offset: a site or phase that the model misjudges.
        energies = energies if not abs(work.offset(energies.minority)) < EXPLAINED * abs(energies.offset) else None
    if energies is not None:
        clear = energies.scatter <= CLEAR_SCATTER or abs(energies.offset) >= CLEAR_SEPARATION * energies.scatter
        clear &= abs(energies.offset) >= CERTAIN_OFFSET and not share_settings(structures, energies.minority)
        told = errors if clear else warnings
        told.append(
            f"the energies of {_count(structures, implied, energies.minority, name)} differ by"
            f" {energies.offset:+.3g} eV/atom from what their forces and the other structures say, which scatter by"
            f" {energies.scatter:.2g}, as with mixed settings{_ratio(structures, energies)}; label them again with one"
            " functional, basis and k-point density, or leave them out"
        )
    more = _judge_force_groups(structures, implied, name)
    return errors + more[0], warnings + more[1]


def _judge_force_groups(
    structures: Sequence[Atoms], implied: Implied, name: str, most_scatter: float = math.inf
) -> tuple[list[str], list[str]]:
    """An error or a warning about two groups of structures whose forces are a factor apart, each this tight."""
    forces = split_forces(implied)
    if forces is None or forces.scatter > most_scatter:
        return [], []
    text = (
        f"the forces of {_count(structures, implied, forces.minority, name)} are {math.exp(forces.offset):.3g} times"
        f" what the other structures say, with a scatter of {100 * forces.scatter:.2g} %, as with mixed units or"
        " settings; bring them to eV/Å, label them again, or leave them out"
    )
    certain = abs(forces.offset) >= math.log(CERTAIN_FACTOR) and not share_settings(structures, forces.minority)
    return ([text], []) if certain else ([], [text])


def _count(structures: Sequence[Atoms], implied: Implied, minority: np.ndarray, name: str) -> str:
    """How many and which structures a message is about; neighbours in the file as a range."""
    members = implied.chosen[minority].tolist()
    runs = [f"{name}[{first}]" + (f" to [{last}]" if last > first else "") for first, last in list_runs(members)]
    shown = ", ".join(runs[:5]) + (", …" if len(runs) > 5 else "")
    formulas = Counter(structures[int(k)].get_chemical_formula() for k in np.nonzero(minority)[0])
    kinds = ", ".join(formula for formula, _ in formulas.most_common(3)) + (", …" if len(formulas) > 3 else "")
    return f"{len(members)} of {len(minority)} structures ({shown}; {kinds})"


def _ratio(structures: Sequence[Atoms], groups: Groups) -> str:
    """The offset as a factor, where energies count from far enough for one to be meant."""
    energies = np.array([labelled_energy(atoms) / len(atoms) for atoms in structures])
    mean = float(np.median(energies[groups.minority]))
    other = mean - groups.offset
    return f" or units (a factor of {mean / other:.3g})" if abs(other) > MIN_TOTAL and mean / other > 0 else ""


def _judge_energies(
    structures: Sequence[Atoms], implied: Implied, work: Work | None, name: str
) -> tuple[list[str], list[str]]:
    """Errors and warnings from what the implied energies and forces leave over: mixed settings and outliers."""
    errors, warnings = _judge_groups(structures, implied, work, name)
    if not errors + warnings:
        warnings = _find_outliers(structures, implied, work, name)
    return errors, warnings + _judge_forces(structures, implied, name)


def _find_outliers(structures: Sequence[Atoms], implied: Implied, work: Work | None, name: str) -> list[str]:
    """A warning about energies off the fit to the others, unless the work of their own forces leads to them."""
    warnings = []
    # Of one formula each: what an element's energy is by itself drops out.
    groups = phase_groups(structures, formula=True)
    for group in np.unique(groups):
        members = np.nonzero(groups == group)[0]
        residuals = _energy_residuals([structures[k] for k in members.tolist()], implied, members)
        if residuals is None:
            continue
        limit = max(OUTLIER * deviation(residuals), MIN_OUTLIER)
        away = np.abs(residuals - np.median(residuals))
        # A strained structure's energy is a guess of the model's, and right where work from others leads to it.
        far = [k for k, x in zip(members.tolist(), away, strict=True) if x > limit and not _explains(work, k, x)]
        # Many far ones are a model that does not fit, not labels that are wrong.
        if 0 < len(far) <= max(2, 0.03 * len(members)):
            warnings.append(f"unusual energies: {_list(implied, far, name)}; look at these labels")
    return warnings


def _explains(work: Work | None, index: int, away: float) -> bool:
    """Whether work leads from other structures to the energy of one that is ``away`` (eV/atom) from the model's."""
    return work is not None and work.contradiction(index) < max(EXPLAINED * away, 0.5 * MIN_OUTLIER)


def _energy_residuals(structures: Sequence[Atoms], implied: Implied, members: np.ndarray) -> np.ndarray | None:
    """Energies [n] (eV/atom) of the ``members`` [n] less a fit to the implied ones; None where that says nothing.

    The fit is a slope, for the model is crude, and a parabola in the volume, of which forces know little; by least
    absolute deviations, so that a shifted group keeps its shift.
    """
    if len(members) < MIN_STRUCTURES:
        return None
    sizes = np.array([len(atoms) for atoms in structures], dtype=float)
    design = np.column_stack((implied.energies[members] / sizes, _volume_powers(structures)))
    labels = implied.labels[members] / sizes
    coefficients = fit_absolute(design, labels)
    if not 1 / NORMAL < coefficients[0] < NORMAL:
        return None  # a wrong unit, which the slopes tell
    residuals: np.ndarray = labels - design @ coefficients
    return residuals


def _judge_forces(structures: Sequence[Atoms], implied: Implied, name: str) -> list[str]:
    """A warning about the few structures whose forces the model misses though it fits the others."""
    misfit = implied.force_misfit
    odd = np.nonzero(misfit > max(0.9, 6 * float(np.median(misfit))))[0]
    if not 0 < len(odd) <= max(2, 0.03 * len(structures)):
        return []
    return [f"forces unlike those of the other structures: {_list(implied, odd, name)}; look at these labels"]


def _list(implied: Implied, members: Iterable[int], name: str) -> str:
    indices = [f"{name}[{implied.chosen[k]}]" for k in members]
    return ", ".join(indices[:5]) + (", …" if len(indices) > 5 else "")
