"""Self-diffusion as a study."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr
from ase import Atoms

from mlip.criteria import Criterion
from mlip.potential import Potential
from mlip.seeds import derive_rng
from mlip.studies.diffusion.acquisition import acquire_frames
from mlip.studies.diffusion.dynamics import prepare_system, run_blocks
from mlip.studies.diffusion.measurement import (
    Transport,
    gather,
    measure_errors,
    size_correction,
)
from mlip.studies.diffusion.remarks import explain_failure, explain_missing_target, list_remarks
from mlip.studies.diffusion.result import add_model_errors, judge_species, tabulate
from mlip.studies.diffusion.transport import AGREEMENT, CM2_PER_S, DiffusionError
from mlip.studies.interface import Acquisition, Labelled, Measurement, Quantity, Round, Study, Subject

if TYPE_CHECKING:
    from mlip.report.drawing import Picture

FORCE_RMSE = "force RMSE on unseen labels, as D demands (eV/Å)"
FORCE_UNCERTAINTY = "force uncertainty in the dynamics, as D demands (eV/Å)"
"""Names of the criteria that are the loop's force target."""


class DiffusionStudy(Study):
    """Self-diffusion coefficients, and the force error that their wanted accuracy allows."""

    name = "diffusion"
    title = "Self-diffusion"

    def measure(self, subject: Subject) -> Measurement:
        """Coefficients by both routes from the first starting structure's dynamics; of a committee, model errors."""
        atoms = prepare_system(subject.structures[0], self.settings)
        transport = self._run(atoms, subject.calculator, subject, "mean")
        if transport.failure or len(transport.temperatures) < 2:
            return Measurement(xr.Dataset(attrs={"failure": transport.failure or "too few blocks"}), transport.frames)
        errors = measure_errors(transport, subject.potential)
        results = judge_species(transport, self.settings, errors)
        potential = subject.potential
        if potential is not None and errors.calibration is not None and self.settings.member_blocks:
            members = self._run_members(atoms, potential, subject)
            results = add_model_errors(results, members, errors.calibration)
        return Measurement(
            tabulate(transport, self.settings, results, size_correction(transport, self.settings)), transport.frames
        )

    def _run(
        self, atoms: Atoms, calculator: object, subject: Subject, name: str, n_blocks: int | None = None
    ) -> Transport:
        rng = derive_rng(subject.seed, "diffusion", name)

        def tell(state: dict[str, object]) -> None:
            subject.progress({"run": name} | state)

        blocks = run_blocks(atoms, calculator, self.settings, rng, n_blocks=n_blocks, progress=tell)
        return gather(atoms, blocks, self.settings)

    def _run_members(self, atoms: Atoms, potential: Potential, subject: Subject) -> list[Transport]:
        from mlip.potential.calculator import MLIPCalculator

        calculators = [MLIPCalculator(potential.member(k), uncertainty=False) for k in range(potential.n_members)]
        return [
            self._run(atoms, calculator, subject, f"member {k}", self.settings.member_blocks)
            for k, calculator in enumerate(calculators)
        ]

    def refer(
        self, structures: Sequence[Atoms], references: Sequence[Atoms], labeller: Labelled, seed: int
    ) -> xr.Dataset:
        """The labeller's own coefficients where ``reference: labeller`` asks for them; a given number; or nothing.

        Raises:
            DiffusionError: when the labeller's dynamics comes apart.
        """
        if self.settings.reference is None:
            return xr.Dataset()
        if self.settings.reference != "labeller":
            symbols = sorted(set(structures[0].get_chemical_symbols()))
            if len(symbols) > 1:
                raise DiffusionError(
                    f"studies.diffusion.reference is one number, but there are "
                    f"{', '.join(symbols)}; use `labeller` or null"
                )
            value = ("species", [self.settings.reference / CM2_PER_S], {"units": "Å²/fs"})
            error = ("species", [0.0], {"units": "Å²/fs"})
            known = {"diffusion": value, "einstein": value, "statistical_error": error}
            return xr.Dataset(known, coords={"species": symbols})
        subject = Subject(labeller.direct(), None, structures, references, seed, labeller.progress)
        data = self.measure(subject).data
        if data.attrs["failure"]:
            raise DiffusionError(f"the labeller's dynamics failed: {data.attrs['failure']}")
        return data

    def compare(self, data: xr.Dataset, reference: xr.Dataset) -> list[Criterion]:
        """The force target that follows from the wanted error of D, model error, agreement and reference."""
        wanted = self.settings.relative_error
        if "diffusion" not in data:
            return [Criterion("diffusion coefficient", None, None, remedy=explain_failure(data, self.settings))]
        criteria = self._force_criteria(data)
        if not np.isnan(data.model_error).all():
            worst = float((data.model_error_bound / abs(data.diffusion)).max())
            criteria.append(Criterion("relative model error of D", _finite(worst), wanted))
        agreement = float(data.discrepancy.max()) if data.decayed.all() else None
        criteria.append(Criterion("difference of Green–Kubo and Einstein over its error", agreement, AGREEMENT))
        if "diffusion" in reference:
            worst = max(self._deviation(data, reference, k) for k in range(data.sizes["species"]))
            criteria.append(
                Criterion(
                    "relative deviation of D from the reference beyond noise, or that noise", _finite(worst), wanted
                )
            )
        return criteria

    def _force_criteria(self, data: xr.Dataset) -> list[Criterion]:
        """Force errors against the smallest target of any species; nothing for a calculator that has no error."""
        target = _finite(float(data.force_error_target.min()))  # of those species that diffuse
        rmse = _finite(float(data.attrs.get("test_force_rmse", math.nan)))
        uncertainty = _finite(float(data.force_uncertainty.max()))
        if target is None:
            # Nothing could pass, whatever the error.
            return [Criterion(FORCE_RMSE, rmse, None, remedy=explain_missing_target(data, self.settings))]
        if uncertainty is None:
            return [] if rmse is None else [Criterion(FORCE_RMSE, rmse, target)]
        remedy = "" if rmse is not None else "no labels are kept from training; raise collect.test_fraction"
        return [
            Criterion(FORCE_RMSE, rmse, target, remedy=remedy),
            Criterion(FORCE_UNCERTAINTY, uncertainty, target),
        ]

    def _deviation(self, data: xr.Dataset, reference: xr.Dataset, k: int) -> float:
        """What of the relative deviation twice the statistical error does not explain, but not less than that error.

        Noise must not pass for agreement.
        """
        measured, other = data.isel(species=k), reference.sel(species=data.species.values[k])
        noise = math.hypot(float(measured.statistical_error), float(other.statistical_error))
        return max(noise, abs(float(measured.diffusion - other.diffusion)) - 2 * noise) / float(other.diffusion)

    def acquire(self, measurement: Measurement, reference: xr.Dataset, potential: Potential, seed: int) -> Acquisition:
        """Frames whose force uncertainty contributes most to the error of D, unlike one another."""
        return acquire_frames(measurement.frames, measurement.data, potential, self.settings.n_labels)

    def summarise(self, data: xr.Dataset, reference: xr.Dataset) -> list[Quantity]:
        """Coefficients with both errors, corrected for size, and the force errors that follow."""
        if "diffusion" not in data:
            return []
        rows: list[Quantity] = []
        for k in range(data.sizes["species"]):
            species = data.isel(species=k)
            rows += [*_coefficient_rows(species, reference), *_force_rows(species)]
        viscosity, temperature = data.attrs["viscosity_mPa_s"], data.temperature.values
        if math.isfinite(viscosity):
            rows.append(Quantity("viscosity", viscosity, "mPa·s", _finite(data.attrs["viscosity_error_mPa_s"])))
        error = float(temperature.std(ddof=1) / math.sqrt(len(temperature)))
        rows.append(Quantity("temperature", float(temperature.mean()), "K", error, None, self.settings.temperature))
        return rows

    def draw(self, rounds: Sequence[Round], reference: xr.Dataset) -> list[Picture]:
        """Correlation functions with fits, blocks, and force errors."""
        from mlip.studies.diffusion.figures import draw_pictures

        return draw_pictures(rounds[-1].data)

    def remarks(self, rounds: Sequence[Round], reference: xr.Dataset) -> list[str]:
        """What the numbers mean, and what is wrong with them."""
        return list_remarks(rounds[-1].data, self.settings)


STUDY = DiffusionStudy


def _coefficient_rows(data: xr.Dataset, reference: xr.Dataset) -> list[Quantity]:
    symbol, unit = str(data.species.values), "10⁻⁵ cm²/s"
    known = reference.sel(species=symbol) if "diffusion" in reference else xr.Dataset()

    def scaled(name: str, table: xr.Dataset = data) -> float | None:
        return _finite(float(table[name]) * CM2_PER_S * 1e5) if name in table else None

    def total(table: xr.Dataset) -> float:
        return math.hypot(scaled("statistical_error", table) or 0.0, scaled("size_correction_error", table) or 0.0)

    # A spread of the members within the noise does not count as no error.
    model, rows = scaled("model_error_bound"), []
    for title, name, error in (
        ("Green–Kubo", "diffusion", "statistical_error"),
        ("Einstein", "einstein", "einstein_error"),
    ):
        true = scaled(name, known), scaled(error, known) or None
        rows.append(Quantity(f"D({symbol}), {title}", scaled(name), unit, scaled(error), model, *true))
    if math.isfinite(float(data.size_correction)):
        infinite = scaled("diffusion_infinite", known)
        true = infinite, None if infinite is None else total(known)
        value = scaled("diffusion_infinite")
        rows.append(Quantity(f"D({symbol}), infinite system", value, unit, total(data), model, *true))
    return rows


def _force_rows(data: xr.Dataset) -> list[Quantity]:
    symbol, rows = str(data.species.values), []
    names = {
        "force_error_textbook": "allowed force RMSE, errors new at each step",
        "force_error_correlated": "allowed force RMSE, errors as lasting as measured",
        "force_rms": "RMS force",
        "force_error_target": "force target",
        "force_uncertainty": "force uncertainty in the dynamics",
    }
    for name, text in names.items():
        if name != "force_uncertainty" or math.isfinite(float(data[name])):
            rows.append(Quantity(f"{symbol}: {text}", _finite(float(data[name])), "eV/Å"))
    rows.append(Quantity(f"{symbol}: correlation time of the error", _finite(float(data.error_correlation_time)), "fs"))
    return rows


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
