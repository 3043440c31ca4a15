"""Where wrong elastic constants come from: the internal relaxation, or the energy of strain itself.

Clamped constants need the energy of a homogeneous strain alone. Relaxed ones need, beside it, the forces that
strain causes and the force constants against which they work: C_relaxed = C_clamped - gap. So clamped right and
relaxed wrong accuses the forces; clamped wrong accuses what the model knows of strain.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import xarray as xr

Place = Literal["nowhere", "internal relaxation", "energy of strain", "both"]


@dataclass(frozen=True)
class ConstantError:
    """Errors of one constant, GPa, and whether they are within the tolerance.

    ``gap`` is that of clamped less relaxed.
    """

    name: str
    clamped: float
    relaxed: float
    gap: float
    clamped_right: bool
    relaxed_right: bool

    @property
    def place(self) -> Place:
        """Where this constant's error arises."""
        if self.clamped_right:
            return "nowhere" if self.relaxed_right else "internal relaxation"
        return "energy of strain" if abs(self.gap) <= 0.5 * abs(self.clamped) else "both"


@dataclass(frozen=True)
class Diagnosis:
    """Errors of every constant, and of the Kleinman parameter and the highest frequency where both sides have them."""

    constants: tuple[ConstantError, ...]
    zeta: tuple[float, float] | None
    frequency: tuple[float, float] | None

    @property
    def worst(self) -> ConstantError:
        """The constant most wrong, in GPa, clamped or relaxed; wrong ones first."""
        wrong = [c for c in self.constants if c.place != "nowhere"] or list(self.constants)
        return max(wrong, key=lambda c: max(abs(c.clamped), abs(c.relaxed)))

    @property
    def place(self) -> Place:
        """Where the errors arise, of all constants together."""
        places = {c.place for c in self.constants} - {"nowhere"}
        if not places:
            return "nowhere"
        return places.pop() if len(places) == 1 else "both"

    def describe(self) -> list[str]:
        """Sentences with numbers."""
        if self.place == "nowhere":
            return ["Every constant is right within the tolerance, clamped and relaxed."]
        texts = [_describe(c) for c in self.constants if c.place != "nowhere"]
        if self.zeta is not None and self.frequency is not None and self.place != "energy of strain":
            (zeta, zeta_true), (top, top_true) = self.zeta, self.frequency
            texts.append(
                f"Internal strain: ζ is {zeta:.3f} (reference {zeta_true:.3f}), the highest frequency {top:.2f} THz "
                f"({top_true:.2f}). The gap goes as their squares: {(zeta / zeta_true) ** 2:.2f} from ζ times "
                f"{(top / top_true) ** 2:.2f} from the frequency."
            )
        return texts


def diagnose(data: xr.Dataset, reference: xr.Dataset, tolerance: float) -> Diagnosis | None:
    """Compare ``data`` with ``reference`` (:func:`mlip.studies.elastic.tables.tabulate`).

    Args:
        data: of the potential.
        reference: of the labeller.
        tolerance: allowed relative error; constants below a tenth of the largest are compared with that tenth.

    Returns:
        None unless both have the same constants, clamped and relaxed.
    """
    for side in (data, reference):
        if "constants" not in side or "relaxed" not in side.state.values:
            return None
    if list(data.constant.values) != list(reference.constant.values):
        return None
    true = reference.constants
    errors = data.constants - true
    allowed = tolerance * abs(true).clip(min=0.1 * float(abs(true).max()))
    right = abs(errors) <= allowed
    constants = []
    for name in data.constant.values:
        clamped, relaxed = (float(errors.sel(constant=name, state=s)) for s in ("clamped", "relaxed"))
        verdicts = [bool(right.sel(constant=name, state=s)) for s in ("clamped", "relaxed")]
        constants.append(ConstantError(str(name), clamped, relaxed, clamped - relaxed, *verdicts))
    zeta = frequency = None
    if "kleinman_zeta" in data and "kleinman_zeta" in reference:
        zeta = float(data.kleinman_zeta), float(reference.kleinman_zeta)
        frequency = float(data.frequency.max()), float(reference.frequency.max())
    return Diagnosis(tuple(constants), zeta, frequency)


def _describe(error: ConstantError) -> str:
    numbers = f"{error.name} is off by {error.clamped:+.1f} GPa clamped and {error.relaxed:+.1f} GPa relaxed"
    if error.place == "internal relaxation":
        return (
            f"{numbers}: strain costs the right energy, but atoms relax wrongly in it. The forces are at fault: "
            "those that strain causes, or the force constants against which they work."
        )
    if error.place == "energy of strain":
        return (
            f"{numbers}, so relaxation adds little: the energy of strain is at fault. Look at the descriptor (cutoff, "
            "angular and radial resolution) and at the strained structures in the training data."
        )
    return (
        f"{numbers}: the energy of strain and the internal relaxation are both at fault (gap off by {error.gap:+.1f})."
    )
