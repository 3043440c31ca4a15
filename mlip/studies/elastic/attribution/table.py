"""What the training data say of wrong constants, as part of the study's data set and in words."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xarray as xr
from ase import Atoms

from mlip.config.train import Train
from mlip.potential.ace.committee import ACEPotential
from mlip.properties.elastic.constants import Elasticity
from mlip.studies.elastic.attribution.causes import GAIN, IMPROVEMENT, expected_gains, relative_error
from mlip.studies.elastic.attribution.influence import attribute
from mlip.studies.elastic.attribution.sensitivity import parameter_sensitivity


def attribution_table(
    potential: ACEPotential, training: Sequence[Atoms], elasticity: Elasticity, frames: Sequence[Atoms]
) -> xr.Dataset:
    """Influence, suspicion, posterior error, expected gain of strained structures, sensitivity to parameters.

    Rows of the fit are weighted as the default ``train`` weights its loss.
    """
    settings = Train()
    attribution = attribute(potential, training, settings, elasticity)
    table = attribution.table(training)
    gains = expected_gains(potential, attribution, frames, settings)
    table["expected_gain"] = (
        ("path", "influenced"),
        np.array(list(gains.values())),
        {"units": "1", "long_name": "posterior error now over that with structures of this path labelled"},
    )
    table["change_without_suspects"] = (
        "influenced",
        attribution.without(attribution.suspects.tolist()),
        {"units": "GPa"},
    )
    sensitivity = parameter_sensitivity(elasticity, potential)
    return table.assign_coords(path=list(gains)).merge(sensitivity)


def suspected_causes(data: xr.Dataset, reference: xr.Dataset) -> list[str]:
    """Sentences on labels and missing strains; where neither is at fault, what to run next."""
    if "influence" not in data:
        return []
    texts = []
    gains = data.expected_gain.max("influenced")
    open_paths = [str(p) for p in gains.path.values if float(gains.sel(path=p)) >= GAIN]
    if open_paths:
        told = ", ".join(f"{p} ({float(gains.sel(path=p)):.1f}-fold)" for p in open_paths)
        texts.append(
            f"Strains are missing in the training data: labels would shrink the posterior error most for {told}."
        )
    suspects = [str(name) for name in data.structure.values[data.suspect.values.astype(bool)]]
    present = data.by_energy.values
    left = relative_error(present + data.change_without_suspects.values.reshape(present.shape), reference)
    error = relative_error(present, reference)
    if suspects and left <= IMPROVEMENT * error:
        texts.append(
            f"Labels that do not fit the others: {', '.join(suspects)}. Without them the last layer's constants would "
            f"be {left:.1%} off (RMS) instead of {error:.1%}: label them again."
        )
    if not texts:
        texts.append(
            "Labels fit each other and strains are covered: what is left is the descriptor or the training. The target "
            "`studies/elastic/ablation/ablation.md` tells them apart."
        )
    return texts
