"""What scoring leaves for selection, as columns of plain arrays: names and shapes that any table can hold."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from mlip.active.environments import EnvironmentTable, Known, Metric
from mlip.active.pool import Pool, share_quotas


def environment_columns(table: EnvironmentTable) -> dict[str, np.ndarray]:
    """``environment_values`` [n_rows, n_features] and the other columns [n_rows] of ``table``."""
    return {f"environment_{name}": getattr(table, name) for name in EnvironmentTable.columns()}


def known_columns(known: Known) -> dict[str, np.ndarray]:
    """``known_*``: the table, what teaches, factors and origins by species, units by group, the projection.

    The projection has no columns where there is none.
    """
    metric, species = known.metric, sorted(known.factor)
    n_features = len(metric.origin[species[0]])
    projection = np.zeros((n_features, 0), np.float32) if metric.projection is None else metric.projection
    return {f"known_{name}": getattr(known.table, name) for name in EnvironmentTable.columns()} | {
        "known_teaches": known.teaches,
        "known_elements": np.array(species),
        "known_origins": np.array([metric.origin[s] for s in species]),
        "known_factors": np.array([known.factor[s] for s in species]),
        "known_groups": np.array([*metric.unit]),
        "known_units": np.array([*metric.unit.values()]),
        "known_projection": projection,
    }


def read_known(columns: Mapping[str, np.ndarray]) -> Known:
    """Inverse of :func:`known_columns`."""
    elements = [int(s) for s in columns["known_elements"]]
    groups = [(int(system), int(species)) for system, species in columns["known_groups"]]
    projection = np.asarray(columns["known_projection"])
    metric = Metric(
        dict(zip(elements, columns["known_origins"], strict=True)),
        dict(zip(groups, np.asarray(columns["known_units"]).tolist(), strict=True)),
        projection if projection.shape[1] else None,
    )
    table = EnvironmentTable(**{name: np.asarray(columns[f"known_{name}"]) for name in EnvironmentTable.columns()})
    factors = dict(zip(elements, columns["known_factors"], strict=True))
    return Known(metric, table, np.asarray(columns["known_teaches"], bool), factors)


def read_pool(
    columns: Mapping[str, np.ndarray],
    usable: np.ndarray,
    n: int,
    *,
    squared_force: Mapping[int, float] | None = None,
) -> Pool:
    """The pool of a table of scored frames, with quotas for a batch of ``n``.

    Args:
        columns: those of :func:`environment_columns` and :func:`known_columns`; ``expected_error``, the calibrated RMS
            error of a force component of each frame, and ``force_uncertainty``, its atoms' largest (eV/Å); ``cost`` of
            each label, in any unit. For the rules of old also ``descriptor`` [n_frames, n_descriptors] and
            ``known_descriptor``.
        usable: frames that may be labelled, [n_frames]: sane ones that no audit has drawn.
        n: size of the batch.
        squared_force: mean squared force component of each system's labels, (eV/Å)².
    """
    table = EnvironmentTable(
        **{name: np.asarray(columns[f"environment_{name}"]) for name in EnvironmentTable.columns()}
    )
    pool = Pool(
        table,
        read_known(columns),
        np.square(columns["expected_error"]),
        np.asarray(columns["force_uncertainty"], float),
        np.asarray(columns["cost"], float),
        np.asarray(usable, bool),
        squared_force=squared_force or {},
        means=columns.get("descriptor"),
        known_means=columns.get("known_descriptor"),
    )
    return pool.limited(share_quotas(pool, n))
