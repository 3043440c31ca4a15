"""An ACE committee on disk."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from mlip.potential.ace.committee import ACEPotential
from mlip.potential.ace.last_layer import LAST_LAYER, LastLayer
from mlip.potential.ace.network import CommitteeNetwork
from mlip.potential.ace.size import Size
from mlip.potential.ace.versions import upgrade
from mlip.potential.atomic_basis import AtomicBasis
from mlip.potential.continuation import Continuation
from mlip.potential.uncertainty import Calibration


def load_ace(description: dict[str, Any], state: dict[str, Tensor], device: str) -> ACEPotential:
    """The ACE committee with this description and these weights."""
    description, state = upgrade(description, state)
    basis, size = dict(description["frame"]), dict(description["size"])
    network = CommitteeNetwork(Size(**(size | {"hidden": tuple(size["hidden"])})), seed=0)
    factor, settings = state.pop(LAST_LAYER, None), description.get("last_layer")
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(f"weights do not fit the description: {error}") from None
    return ACEPotential(
        _read_basis(basis),
        network,
        description["isolated_energies"],
        Calibration.from_json(description["calibration"]),
        device=device,
        details=description.get("details"),
        last_layer=LastLayer(factor, *settings) if factor is not None and settings is not None else None,
    )


def _read_basis(values: dict[str, Any]) -> AtomicBasis:
    stored = values.get("continuation")  # formats before 4 have none
    continuation = None if stored is None else Continuation.from_json(stored)
    return AtomicBasis(**(values | {"species": tuple(values["species"]), "continuation": continuation}))
