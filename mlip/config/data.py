"""Section ``data`` of the configuration: labelled structures that exist already."""

from __future__ import annotations

import glob
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator, model_validator

from mlip.config.base import Positive, Section
from mlip.config.indexing import check_index


class DataCheck(Section):
    """How `settings: check` judges data: some are labelled again, with the settings of `label`, and compared."""

    n_structures: int = Field(5, ge=2, le=1000, description="Structures of each entry labelled again.")
    energy: Positive = Field(0.005, description="Largest allowed difference of an energy, eV/atom.")
    force_rmse: Positive = Field(0.05, description="Largest allowed RMSE of the forces, eV/Å.")
    stress: Positive = Field(1.0, description="Largest allowed difference of a stress component, GPa.")


class DataSource(Section):
    """Labelled structures of an earlier project, which join iteration 0 like labels of the loop (docs/data.md)."""

    file: str = Field(
        description="File, or folder of DeePMD systems, relative to the working directory; `*`, `**` as in a shell."
    )
    settings: Literal["same", "check"] = Field(
        description="`same`: you declare that they were labelled with the settings of `label`. `check`: some are"
        " labelled again and compared."
    )
    format: str | None = Field(None, description="ASE's name of the format, where file name and content do not tell.")
    index: str = Field(":", description="Structures taken of each file, as in Python: `0`, `:100`, `-200:`, `::10`.")
    sample: int | None = Field(
        None, ge=1, description="Structures drawn at random, over all files of the entry, by `seed`."
    )
    block: int = Field(
        1, ge=1, description="Neighbours in a file that go to one split together, e.g. 50 for frames of a trajectory."
    )
    shift_energies: bool = Field(
        False,
        description="With `check`: data whose energies differ by a constant for each element, as between all-electron"
        " codes and pseudopotentials, are moved by it.",
    )
    check: DataCheck = Field(default_factory=DataCheck, description="Limits of `settings: check`.")

    @model_validator(mode="before")
    @classmethod
    def _a_mapping(cls, value: object) -> object:
        if isinstance(value, str):
            raise ValueError(f"{value!r} alone does not say how it was labelled; write {_example(value)}")
        return value

    @field_validator("index", mode="before")
    @classmethod
    def _slice(cls, value: object) -> str:
        return check_index(value)

    @model_validator(mode="after")
    def _shift_is_known(self) -> DataSource:
        if self.shift_energies and self.settings != "check":
            raise ValueError("shift_energies needs `settings: check`: structures labelled again tell the shift")
        return self


def _example(file: str) -> str:
    return f"data: [{{file: {file}, settings: same}}], or `settings: check` to have some of them labelled again"


def check_is_list(value: object) -> None:
    """Refuse a file name, or one entry, where ``data`` is a list of entries.

    Raises:
        ValueError: showing how to write it.
    """
    if isinstance(value, str):
        raise ValueError(f"a list of files is expected: {_example(value)}")
    if isinstance(value, dict):
        raise ValueError(f"a list of files is expected: {_example(str(value.get('file', 'mine.extxyz')))}")


def find_files(source: DataSource) -> list[Path]:
    """The files, or folders of DeePMD systems, that ``source`` names, sorted; of a name without wildcards, itself."""
    if not glob.has_magic(source.file):
        return [Path(source.file)]
    path = Path(source.file)
    return sorted(Path(path.anchor).glob(str(path.relative_to(path.anchor))))


def list_inputs(sources: Sequence[DataSource]) -> list[str]:
    """Every file behind ``sources``, also those within folders, for a rule to depend on.

    Raises:
        ValueError: for what is not there, and for a file that two entries name.
    """
    source_of: dict[str, str] = {}
    for source in sources:
        paths = find_files(source)
        if not paths or not all(path.exists() for path in paths):
            raise ValueError(f"data: no file {source.file}; give a path relative to the working directory {Path.cwd()}")
        for path in paths:
            members = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
            for member in map(str, members):
                if member in source_of:
                    raise ValueError(
                        f"data: {member} belongs to {source_of[member]} and to {source.file}; name it once"
                    )
                source_of[member] = source.file
    return list(source_of)
