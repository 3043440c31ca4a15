"""What a label costs, predicted from those that were paid for."""

from __future__ import annotations

import numpy as np

EXPONENT = 2.0
"""Of a label's cost in the number of its electrons, where the labels so far have one size: between linear and cubic."""
RANGE = (1.0, 3.0)
"""Within which a fitted exponent is believed."""
LEAST_RATIO = 1.5
"""Of the largest to the smallest number of electrons from which an exponent can be fitted."""


def predict_cost(
    n_electrons: np.ndarray, known_electrons: np.ndarray, known_seconds: np.ndarray, exponent: float = EXPONENT
) -> np.ndarray:
    """Core-seconds of labels with ``n_electrons`` [n], from earlier ones [n_known]; without any, in units of their own.

    A power law c = a N^p through the medians: p is the slope of log c over log N where sizes differ enough, within
    ``RANGE``, else ``exponent``. Labels that cost nothing (from a store of elsewhere) do not count.
    """
    sizes, seconds = np.asarray(known_electrons, float), np.asarray(known_seconds, float)
    paid = np.isfinite(seconds) & (seconds > 0) & (sizes > 0)
    sizes, seconds = sizes[paid], seconds[paid]
    if len(sizes) > 2 and sizes.max() >= LEAST_RATIO * sizes.min():
        exponent = float(np.clip(np.polyfit(np.log(sizes), np.log(seconds), 1)[0], *RANGE))
    scale = float(np.median(seconds / sizes**exponent)) if len(sizes) else 1.0
    return np.asarray(scale * np.asarray(n_electrons, float) ** exponent)
