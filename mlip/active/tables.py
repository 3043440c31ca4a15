"""The environments of a pool as a table for a file, so that choosing and explaining need no potential."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr

from mlip.active.environments import EnvironmentTable, Known, Metric

COLUMNS = ("values", "frame", "atom", "species", "system", "unit")


@dataclass(frozen=True)
class ScoredEnvironments:
    """What selection sees of the explored frames.

    Attributes:
        frames: of the explored frames, reduced.
        known: those of labelled structures and of structures that could not be labelled.
        names: identity of each known structure, by its number in ``known.table.frame``.
        squared_force: mean squared force component of each system's training labels, (eV/Å)².
    """

    frames: EnvironmentTable
    known: Known
    names: Sequence[str]
    squared_force: Mapping[int, float]

    def as_dataset(self) -> xr.Dataset:
        """Dimensions ``environment``, ``known``, ``feature``, ``species`` and ``known_structure``."""
        columns = {}
        for prefix, dimension, table in (("", "environment", self.frames), ("known_", "known", self.known.table)):
            for name in COLUMNS:
                dims = (dimension, "feature") if name == "values" else (dimension,)
                columns[prefix + name] = (dims, getattr(table, name))
        numbers = sorted(self.known.factor)
        n = self.known.table.values.shape[1]
        factors = np.stack([self.known.factor[z] for z in numbers]) if numbers else np.zeros((0, n, n))
        return xr.Dataset(
            {
                **columns,
                "known_teaches": ("known", self.known.teaches.astype(int)),
                "factor": (("number", "feature", "other_feature"), factors),
                "factor_species": ("number", np.array(numbers, dtype=int)),
                "force_system": ("force_number", np.array([*self.squared_force], dtype=int)),
                "squared_force": ("force_number", np.array([*self.squared_force.values()], dtype=float)),
                "known_name": ("known_structure", np.array(list(self.names), dtype=object)),
            }
        )

    @classmethod
    def from_dataset(cls, data: xr.Dataset) -> ScoredEnvironments:
        """Inverse of :meth:`as_dataset`, but for the metric, in which everything is measured already."""
        frames, table = (
            EnvironmentTable(**{name: data[prefix + name].values for name in COLUMNS}) for prefix in ("", "known_")
        )
        factors = dict(zip(data.factor_species.values.tolist(), data.factor.values, strict=True))
        known = Known(Metric({}, {}), table, data.known_teaches.values.astype(bool), factors)
        forces = dict(zip(data.force_system.values.tolist(), data.squared_force.values.tolist(), strict=True))
        return cls(frames, known, [str(name) for name in data.known_name.values], forces)
