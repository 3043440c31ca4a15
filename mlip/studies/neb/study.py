"""Reaction barriers as a study."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from ase import Atoms

from mlip.criteria import Criterion
from mlip.potential import Potential
from mlip.studies.interface import Acquisition, Labelled, Measurement, Quantity, Reference, Round, Study, Subject
from mlip.studies.neb.acquisition import choose_images
from mlip.studies.neb.endpoints import PathError, build_ends, check_distinct, relax_end
from mlip.studies.neb.measurement import measure_path

if TYPE_CHECKING:
    from mlip.report.drawing import Picture

ENDS = ("initial", "final")
NO_BARRIER = (
    "the path is highest at one of its ends: there is no barrier between them. Give ends that lie in minima of their"
    " own, or more images (studies.neb.n_images)"
)
NO_LABEL = "no label lies in the saddle's place yet: allow more rounds (studies.neb.rounds)"


class BarrierStudy(Study):
    """Barriers by nudged elastic bands, forward and back, and their rates."""

    name = "neb"
    title = "Barriers"

    def measure(self, subject: Subject) -> Measurement:
        """Every path between the reference's ends or, without it, between ends that the calculator has relaxed."""
        self._check_paths()
        tables, frames = [], []
        for name in self.settings.paths:
            subject.progress({"path": name})
            ends = self._ends(name, subject)
            table, images = measure_path(ends, subject.calculator, subject.potential, subject.training, self.settings)
            for image in images:
                image.info["path"] = name
            tables.append(table)
            frames += images
        names = xr.DataArray(list(self.settings.paths), dims="path", name="path")
        return Measurement(xr.concat(tables, names, coords="minimal", compat="override", join="exact"), frames)

    def _check_paths(self) -> None:
        if not self.settings.paths:
            raise PathError("studies.neb.paths: there is no path; name one with its ends (docs/neb.md)")

    def _ends(self, name: str, subject: Subject) -> tuple[Atoms, Atoms]:
        known = {a.info.get("end"): a for a in subject.reference.structures if a.info.get("path") == name}
        if set(ENDS) <= set(known):
            return known["initial"], known["final"]
        visited = self._relax(name, subject.structures, subject.calculator)
        return visited[0][-1], visited[1][-1]

    def _relax(self, name: str, structures: Sequence[Atoms], calculator: Any) -> list[list[Atoms]]:
        """Structures that the relaxation of each end went through, the end last."""
        fmax, visited = self.settings.relax_fmax, []
        for which, end in zip(ENDS, build_ends(name, self.settings.paths[name], structures), strict=True):
            visited.append(relax_end(end, calculator, fmax, f"studies.neb.paths.{name}: the {which} end"))
            for atoms in visited[-1]:
                atoms.info = {key: v for key, v in end.info.items() if key in ("charge", "spin")} | {"path": name}
            visited[-1][-1].info["end"] = which
        check_distinct(name, visited[0][-1], visited[1][-1], " after their relaxation")
        return visited

    def refer(
        self, structures: Sequence[Atoms], references: Sequence[Atoms], labeller: Labelled, seed: int
    ) -> Reference:
        """The ends, relaxed with the labeller; where the relaxations went is to train."""
        self._check_paths()
        visited: dict[str, list[list[Atoms]]] = {}
        with labeller.stored(self.settings.max_labels) as calculator:
            for name in self.settings.paths:
                visited[name] = self._relax(name, structures, calculator)
            energies = [[_energy(end[-1], calculator) for end in visited[name]] for name in visited]
            n_labels = calculator.n_requests
        data = {
            "end_energy": (("path", "end"), energies, {"units": "eV"}),
            "n_relaxation": ("path", [sum(map(len, visited[name])) for name in visited], {"units": "1"}),
        }
        table = xr.Dataset(data, {"path": list(visited), "end": list(ENDS)}, {"n_labels": n_labels})
        # The relaxed ends first: of a small data set the last structure is held out, and may be a step on the way.
        return Reference(table, [atoms for both in visited.values() for end in both for atoms in reversed(end)])

    def compare(self, data: xr.Dataset, reference: xr.Dataset) -> list[Criterion]:
        """Of every path: one imaginary mode, a label at the saddle that agrees, certainty all along, band at rest."""
        names = [str(name) for name in data.path.values]
        return [c for name in names for c in self._criteria(data.sel(path=name), f"{name}: " if len(names) > 1 else "")]

    def _criteria(self, data: xr.Dataset, prefix: str) -> list[Criterion]:
        s, n = self.settings, int(data.n_imaginary)
        modes = Criterion(
            f"{prefix}imaginary modes of the saddle, off one",
            float(abs(n - 1)) if n >= 0 else None,
            0.0,
            remedy="" if n >= 0 else NO_BARRIER,
        )
        residual = Criterion(f"{prefix}force of the band (eV/Å)", float(data.residual), s.path_fmax)
        if not np.isfinite(data.energy_std).all():
            return [modes, residual]
        labelled = [
            Criterion(f"{prefix}{text}", _known(data[key]), limit, remedy="" if np.isfinite(data[key]) else NO_LABEL)
            for text, key, limit in (
                ("labelled force at the saddle (eV/Å)", "label_force", s.fmax),
                ("error of the energy there (eV)", "label_error", s.barrier_error),
            )
        ]
        doubt = Criterion(
            f"{prefix}largest uncertainty along the path (eV)", float(data.energy_std.max()), s.energy_std
        )
        return [modes, *labelled, doubt, residual]

    def acquire(self, measurement: Measurement, reference: xr.Dataset, potential: Potential, seed: int) -> Acquisition:
        """Images of the paths whose verdict is still out."""
        tables = {str(name): measurement.data.sel(path=name) for name in measurement.data.path.values}
        done = {name: all(c.passed for c in self._criteria(table, "")) for name, table in tables.items()}
        return choose_images(tables, measurement.frames, done, self.settings)

    def summarise(self, data: xr.Dataset, reference: xr.Dataset) -> list[Quantity]:
        """Barriers and attempt frequencies of both directions, and ln k at every temperature."""
        rows = []
        for name in data.path.values:
            here = data.sel(path=name)
            known = _known(here.label_energy)
            back = None
            if known is not None and "end_energy" in reference and name in reference.path.values:
                first, last = (float(e) for e in reference.end_energy.sel(path=name))
                back = known + first - last
            for k, (way, key, label) in enumerate((("", "barrier", known), (" back", "reverse", back))):
                std = _known(here[f"{key}_std"])
                rows.append(Quantity(f"{name}{way}: barrier", _known(here[key]), "eV", None, std, label))
                attempt = _known(here.attempt.isel(direction=k))
                rows.append(Quantity(f"{name}{way}: attempt frequency", attempt, "THz"))
                for t in here.temperature.values:
                    rate, error = (
                        _known(here[column].isel(direction=k).sel(temperature=t))
                        for column in ("log_rate", "log_rate_std")
                    )
                    rows.append(Quantity(f"{name}{way}: ln k at {t:g} K (k in 1/s)", rate, "", model_error=error))
        return rows

    def draw(self, rounds: Sequence[Round], reference: xr.Dataset) -> list[Picture]:
        """The path with its band and the labels by round, what was uncertain, and ln k with its band."""
        from mlip.studies.neb.figures import draw_barriers

        return draw_barriers(rounds, reference)

    def remarks(self, rounds: Sequence[Round], reference: xr.Dataset) -> list[str]:
        """What the labels cost, what the saddle is, and what the barrier's error does to the rate."""
        data, texts = rounds[-1].data, []
        if "n_relaxation" in reference:
            n = int(reference.n_relaxation.sum())
            texts.append(
                f"The labeller relaxed the ends with {n} calculations, which train; {sum(r.n_labels for r in rounds)}"
                " labels came after them. References of barriers are labels at the saddle."
            )
        texts += [f"{name}: {_describe(data.sel(path=name))}" for name in data.path.values]
        texts.append(
            "Rates are those of harmonic transition-state theory, by vibrations of the ends and the saddle, without"
            " tunnelling and zero-point energy; their errors are those of the barrier alone, Var ln k = β² σ_E²."
        )
        return texts


def _describe(data: xr.Dataset) -> str:
    if int(data.n_imaginary) < 0:
        return f"{NO_BARRIER}."
    n, t = int(data.n_imaginary), float(data.temperature[0])
    text = f"the saddle has {n} imaginary mode{'' if n == 1 else 's'}"
    text += f", of {-float(data.imaginary):.3g}i THz" if n else ""
    if n != 1:
        text += ": it is no transition state. Begin with another path, or let the ends keep the symmetry that it breaks"
    elif not np.isfinite(data.attempt).all():
        text += "; an end is no minimum of the potential, and the rate from there is not known"
    factor = float(np.exp(data.log_rate_std.isel(direction=0, temperature=0)))
    if np.isfinite(factor):
        text += f"; the barrier is known to {float(data.barrier_std) * 1000:.2g} meV,"
        text += f" the rate at {t:g} K to a factor of {factor:.3g}"
    return f"{text}."


def _energy(atoms: Atoms, calculator: Any) -> float:
    copy = atoms.copy()
    copy.calc = calculator
    return float(copy.get_potential_energy())


def _known(value: xr.DataArray) -> float | None:
    number = float(value)
    return number if np.isfinite(number) else None


STUDY = BarrierStudy
