"""Whether the files that a loop begins with, beside its structures, are there and fit; told before any label."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

from mlip.config.data import list_inputs
from mlip.config.system import Config
from mlip.doctor.structures import Complaint
from mlip.io.layout import POTENTIAL_FILES


def complain_of_inputs(config: Config, elements: Sequence[str]) -> list[Complaint]:
    """Files of ``data`` that are not there, and a ``train.initial`` that is no potential of ``elements``."""
    return [*_complain_of_data(config), *_complain_of_initial(config, elements)]


def _complain_of_data(config: Config) -> list[Complaint]:
    try:
        list_inputs(config.data)
    except ValueError as error:
        return [Complaint("data", True, str(error), "Correct `data`; `mlip import FILE` says what is in a file.")]
    return []


def _complain_of_initial(config: Config, elements: Sequence[str]) -> list[Complaint]:
    """What training would say only after the first labels."""
    from mlip.potential.files import load_potential

    initial = config.train.initial
    if initial is None:
        return []
    missing = [name for name in POTENTIAL_FILES[:2] if not (Path(initial) / name).is_file()]
    detail = f"train.initial: no file {Path(initial) / missing[0]}" if missing else ""
    if not missing:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                known = load_potential(Path(initial)).species
        except ValueError as error:
            detail = f"train.initial: {error}"
        else:
            if set(known) != set(elements):
                detail = f"train.initial: {initial} knows {', '.join(known)}, the structures hold {', '.join(elements)}"
    remedy = "Name the folder of a potential of the same elements, e.g. results/other/potential, or remove it."
    return [Complaint("train.initial", True, detail, remedy)] if detail else []
