"""Section ``studies`` of the configuration: one key for every study that exists. No heavy imports."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from pydantic import Field, create_model

from mlip.config.base import Section
from mlip.config.study import study_names

if TYPE_CHECKING:

    class Studies(Section):
        """Properties measured with the deployed potential, on request."""

else:

    def _fields() -> dict[str, Any]:
        """A field for each study, described by the first line of its ``Settings``."""
        fields = {}
        for name in study_names():
            model = importlib.import_module(f"mlip.studies.{name}.settings").Settings
            fields[name] = (model, Field(default_factory=model, description=model.__doc__.strip().split("\n")[0]))
        return fields

    Studies = create_model(
        "Studies",
        __base__=Section,
        __module__=__name__,
        __doc__="Properties measured with the deployed potential, on request (docs/studies.md).",
        **_fields(),
    )
