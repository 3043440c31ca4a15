"""Which units labels are in, from how they work: what each unit makes of energies, forces and stresses."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ase.units import Bohr, GPa, Hartree, Ry, kcal, kJ, mol

from mlip.training.work import Factor

NEAR, NEAREST, ERRORS = 1.5, 1.15, 4.0
"""A factor names a unit when it is within so many standard errors, at least and at most these factors: of right labels,
those of work were 0.91 to 1.18, with their errors."""
MOST_NAMED = 3


@dataclass(frozen=True)
class Fault:
    """What labels are that are read ``energy``, ``forces`` and ``stress`` times what they should be."""

    name: str
    energy: float = 1.0
    forces: float = 1.0
    stress: float = 1.0

    @property
    def factors(self) -> tuple[float, float]:
        """Of the work of forces, and of that of stresses, in energy differences."""
        return self.energy / self.forces, self.energy / self.stress


_ENERGIES = {"Hartree": 1 / Hartree, "Rydberg": 1 / Ry, "kcal/mol": mol / kcal, "kJ/mol": mol / kJ, "meV": 1e3}
_ATOMIC = {"Hartree": 1 / Hartree, "Rydberg": 1 / Ry}
_STRESSES = {"GPa": 1 / GPa, "kbar": 10 / GPa, "Hartree/Bohr³": Bohr**3 / Hartree, "Rydberg/Bohr³": Bohr**3 / Ry}

FAULTS = [
    *(Fault(f"energies in {unit}", energy=factor) for unit, factor in _ENERGIES.items()),
    Fault("energies with the wrong sign", energy=-1.0),
    *(Fault(f"forces in {unit}/Å", forces=factor) for unit, factor in _ENERGIES.items()),
    *(Fault(f"forces in {unit}/Bohr", forces=Bohr * factor) for unit, factor in _ATOMIC.items()),
    Fault("forces in eV/Bohr", forces=Bohr),
    Fault("forces of eV/Å that were taken for eV/Bohr", forces=1 / Bohr),
    Fault("forces with the wrong sign (gradients)", forces=-1.0),
    *(Fault(f"energies in {unit}, forces in {unit}/Å", factor, factor) for unit, factor in _ENERGIES.items()),
    *(Fault(f"energies in {unit}, forces in {unit}/Bohr", f, Bohr * f) for unit, f in _ATOMIC.items()),
    *(
        Fault(f"energies in {unit}, forces in {unit}/Bohr, stresses in {unit}/Bohr³", f, Bohr * f, Bohr**3 * f)
        for unit, f in _ATOMIC.items()
    ),
    Fault("positions and cells in Bohr", forces=1 / Bohr, stress=1 / Bohr**3),
    *(Fault(f"stresses in {unit}", stress=factor) for unit, factor in _STRESSES.items()),
    *(Fault(f"stresses in {unit} and with the wrong sign", stress=-factor) for unit, factor in _STRESSES.items()),
    Fault("stresses with the wrong sign (ASE's is positive under tension)", stress=-1.0),
]
"""All that is common, the simplest first."""


def name_faults(force: Factor, stress: Factor, *, size: float = math.nan, volume: float = math.nan) -> list[str]:
    """Names of what explains the factors of the work of forces and of stresses, the nearest first; of both, if known.

    Args:
        force: factor of the work of forces in energy differences.
        stress: the same of stresses.
        size: atoms of every structure, where they are alike; else NaN.
        volume: typical volume, Å³, that takes virials for stresses; or NaN.
    """
    known = list(FAULTS)
    if size > 2:
        known.append(Fault("energies per atom", energy=1 / size))
    if volume > 0:
        # A virial is minus the volume times the stress.
        known += [
            Fault(f"{sign}virials (eV) in place of stresses", stress=v)
            for sign, v in (("", -volume), ("negative ", volume))
        ]
        known += [
            Fault(f"stresses in {unit} in place of virials (eV){sign}", stress=v)
            for unit in ("GPa", "kbar")
            for sign, v in (
                (", positive under pressure", _STRESSES[unit] / volume),
                (", positive under tension", -_STRESSES[unit] / volume),
            )
        ]
    found = list[tuple[float, int, str]]()
    for fault in known:
        pairs = [(f, told) for f, told in zip((force, stress), fault.factors, strict=True) if f.known]
        distance = max((_distance(f, told) for f, told in pairs), default=math.inf)
        if distance < 1.0 and any(abs(told - 1.0) > 1e-6 for _, told in pairs):
            found.append((round(distance, 1), len(found), f"{fault.name}{_tell(fault)}"))
    return [name for _, _, name in sorted(found)[:MOST_NAMED]]


def _distance(factor: Factor, told: float) -> float:
    """How far a factor is from what a fault makes of it, over what may be."""
    if factor.value / told <= 0:
        return math.inf
    near = min(math.log(NEAR), max(math.log(NEAREST), ERRORS * abs(factor.error / factor.value)))
    return abs(math.log(factor.value / told)) / near


def _tell(fault: Fault) -> str:
    """The factors of a fault that are not 1."""
    factors = dict.fromkeys(f"{f:.4g}" for f in (fault.energy, fault.forces, fault.stress) if f != 1.0)
    return f" (factor {', '.join(factors)})"
