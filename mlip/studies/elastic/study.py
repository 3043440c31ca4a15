"""Elastic constants as a study."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeGuard

import numpy as np
import xarray as xr
from ase import Atoms

from mlip.config.backends import BACKENDS
from mlip.criteria import Criterion
from mlip.potential import Potential
from mlip.properties.elastic.constants import measure_elasticity
from mlip.studies.elastic.acquisition import choose_strained, offer_strained
from mlip.studies.elastic.attribution.diagnosis import diagnose
from mlip.studies.elastic.equilibrium import find_equilibrium
from mlip.studies.elastic.tables import tabulate
from mlip.studies.interface import Acquisition, Labelled, Measurement, Quantity, Round, Study, Subject

if TYPE_CHECKING:
    from mlip.potential.ace.committee import ACEPotential
    from mlip.report.drawing import Picture


ROUND_OFF = 1e-9


class ElasticStudy(Study):
    """Elastic constants of the first starting structure."""

    name = "elastic"
    title = "Elastic constants"

    def measure(self, subject: Subject) -> Measurement:
        """Constants at the calculator's own equilibrium; frames are strained structures for the acquisition."""
        subject.progress({"part": "equilibrium"})
        crystal = find_equilibrium(subject.structures[0], subject.calculator)
        subject.progress({"part": "strains"})
        elasticity = measure_elasticity(
            crystal,
            subject.calculator,
            amplitudes=self.settings.amplitudes,
            fmax=self.settings.fmax,
            potential=subject.potential,
        )
        paths = [samples.path for samples in elasticity.samples["clamped"]]
        frames = offer_strained(crystal, paths, self.settings.acquire_strain, self.settings.rattle, subject.seed)
        data = tabulate(elasticity)
        potential = subject.potential if self.settings.attribute and subject.training else None
        if potential is not None and _has_last_layer(potential):
            # Not on top: references are computed where there is no torch.
            from mlip.studies.elastic.attribution.table import attribution_table

            subject.progress({"part": "attribution"})
            data = data.merge(attribution_table(potential, subject.training, elasticity, frames))
        return Measurement(data, frames)

    def refer(
        self, structures: Sequence[Atoms], references: Sequence[Atoms], labeller: Labelled, seed: int
    ) -> xr.Dataset:
        """The labeller's own constants, at its own equilibrium volume; every structure goes through the label store."""
        with labeller.stored(self.settings.max_labels) as calculator:
            crystal = find_equilibrium(
                structures[0], calculator, references, by_energy=True, fmax=self.settings.reference_fmax
            )
            crystal.info = {"structure_id": "elastic-reference"}
            elasticity = measure_elasticity(
                crystal, calculator, amplitudes=self.settings.amplitudes, fmax=self.settings.reference_fmax
            )
        return tabulate(elasticity)

    def compare(self, data: xr.Dataset, reference: xr.Dataset) -> list[Criterion]:
        """Relative error of every constant, that by the committee, and whether energies and stresses tell the same."""
        criteria = []
        if "constants" in reference:
            scale = abs(reference.constants).clip(min=0.1 * float(abs(reference.constants).max()))
            errors = abs(data.constants - reference.constants) / scale
            for state in errors.state.values:
                for name in errors.constant.values:
                    error = float(errors.sel(state=state, constant=name))
                    criteria.append(Criterion(f"relative error of {name} {state}", error, self.settings.tolerance))
        committee = worst_member_spread(data)
        if committee is not None:
            criteria.append(Criterion("largest relative committee error", committee[1], self.settings.tolerance))
        difference = disagreement(data)
        if difference is not None:
            name = "difference between energies and stresses"
            criteria.append(Criterion(name, difference, self.settings.agreement))
        return criteria

    def acquire(self, measurement: Measurement, reference: xr.Dataset, potential: Potential, seed: int) -> Acquisition:
        """Strained structures along the paths where the constants are most wrong or most uncertain."""
        return choose_strained(measurement, reference, potential, self.settings.n_labels)

    def summarise(self, data: xr.Dataset, reference: xr.Dataset) -> list[Quantity]:
        """Constants of both states, Kleinman's parameter, the highest frequency of the cell."""
        rows = []
        for state in data.state.values:
            for name in data.constant.values:
                place = {"state": state, "constant": name}
                value, error = (float(data[key].sel(place)) for key in ("constants", "fit_error"))
                model = float(data.model_error.sel(place)) if "model_error" in data else None
                true = float(reference.constants.sel(place)) if _has(reference, state, name) else None
                # As many terms as amplitudes leave no error but round-off.
                fit_error = _known(error) if error > ROUND_OFF * abs(value) else None
                rows.append(Quantity(f"{name} {state}", value, "GPa", fit_error, model, true))
        for key, name, unit in (("kleinman_zeta", "Kleinman's ζ", ""), ("frequency", "highest frequency", "THz")):
            if key in data:
                true = float(reference[key].max()) if key in reference else None
                rows.append(Quantity(name, float(data[key].max()), unit, reference=true))
        return rows

    def draw(self, rounds: Sequence[Round], reference: xr.Dataset) -> list[Picture]:
        """Energy over strain, constants of all rounds, influence of the training structures."""
        from mlip.studies.elastic.figures import draw_elasticity

        return draw_elasticity(rounds, reference)

    def remarks(self, rounds: Sequence[Round], reference: xr.Dataset) -> list[str]:
        """The diagnosis, what the errors are, and how energies and stresses agree, the reference's too."""
        data = rounds[-1].data
        diagnosis = diagnose(data, reference, self.settings.tolerance)
        texts = [] if diagnosis is None else diagnosis.describe()
        if diagnosis is not None and diagnosis.place != "nowhere":
            from mlip.studies.elastic.attribution.table import suspected_causes

            texts += suspected_causes(data, reference)
        committee = worst_member_spread(data)
        if committee is not None and committee[1] > self.settings.tolerance:
            texts.append(
                f"The committee's members differ in {committee[0]} by {committee[1]:.0%}, more than the allowed "
                f"{self.settings.tolerance:.0%}: where the mean is right, that is no more than luck. Train longer, or "
                "label more structures strained along that path."
            )
        for table, name in ((data, "Constants"), (reference, "The reference's own constants")):
            difference = disagreement(table)
            if difference is not None:
                verdict = "agree" if difference <= self.settings.agreement else "do NOT agree"
                texts.append(
                    f"{name} from energies and from stresses {verdict}: they differ by {difference:.1%} at most "
                    f"(allowed: {self.settings.agreement:.1%})."
                )
        return [*texts, "Nothing is sampled here: the statistical error is that of the fits over the strains."]


def worst_member_spread(data: xr.Dataset) -> tuple[str, float] | None:
    """Constant and state where the committee's standard deviation over the constant is largest, and that ratio.

    None without a committee. Constants below a tenth of the largest are compared with that tenth.
    """
    if "model_error" not in data:
        return None
    ratio = data.model_error / abs(data.constants).clip(min=0.1 * float(abs(data.constants).max()))
    place = ratio.argmax(...)
    worst = ratio.isel(place)
    return f"{worst.constant.item()} {worst.state.item()}", float(worst)


def disagreement(data: xr.Dataset) -> float | None:
    """Largest difference between constants from energies and from stresses over the constant; None without stress.

    Constants below a tenth of the largest are compared with that tenth.
    """
    if "by_energy" not in data:
        return None
    scale = abs(data.by_energy).clip(min=0.1 * float(abs(data.by_energy).max()))
    difference = float((abs(data.by_energy - data.by_stress) / scale).max(skipna=False))
    return difference if np.isfinite(difference) else None


def _has(reference: xr.Dataset, state: str, name: str) -> bool:
    return "constants" in reference and state in reference.state.values and name in reference.constant.values


def _known(value: float) -> float | None:
    return value if np.isfinite(value) else None


def _has_last_layer(potential: Potential) -> TypeGuard[ACEPotential]:
    """Whether errors can be traced to labels: members are linear in their last layer."""
    return potential.backend in BACKENDS and BACKENDS[potential.backend].last_layer


STUDY = ElasticStudy
