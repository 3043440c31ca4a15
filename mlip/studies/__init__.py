"""Studies: properties that a potential is for, each closing the loop with an acquisition of its own.

A study is a package in this folder with ``settings.py`` (class ``Settings``) and ``study.py``
(``STUDY``, its class); nothing outside it names it. docs/studies.md says how to add one.

May import: ``mlip.report`` and below, no study another one, and ``settings`` ``mlip.config`` alone.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from mlip.config.study import study_names

if TYPE_CHECKING:
    from mlip.studies.interface import Study


def load_study(name: str, settings: Any = None) -> Study:
    """The study ``name`` with ``settings``: a ``Settings``, plain values of one, or its defaults.

    Raises:
        ValueError: for a name that no study has.
    """
    if name not in study_names():
        raise ValueError(f"no study is called {name!r}; there are {', '.join(study_names())}")
    study: type[Study] = importlib.import_module(f"{__name__}.{name}.study").STUDY
    model = importlib.import_module(f"{__name__}.{name}.settings").Settings
    return study(settings if isinstance(settings, model) else model.model_validate(settings or {}))
