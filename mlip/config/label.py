"""Section ``label`` of the configuration; :mod:`mlip.config.system` holds the others."""

from __future__ import annotations

import re
import sys
from typing import Any, Literal

from pydantic import Field, field_validator

from mlip.config.base import Fraction, Positive, Section
from mlip.config.values import find_number_text


class Guards(Section):
    """Checks that a structure must pass before DFT, and a label before it is data."""

    min_distance_factor: Positive = Field(
        0.6, le=1.2, description="Shortest allowed distance over the sum of covalent radii."
    )
    max_force: Positive = Field(30.0, description="Largest allowed force on an atom, eV/Å.")
    max_force_sum: Positive = Field(0.05, description="Largest allowed norm of the summed forces per atom, eV/Å.")
    energy_window: Positive = Field(
        5.0, description="Largest allowed distance of an energy from the data's median, composition aside, eV/atom."
    )


class Label(Section):
    """The labeller: any ASE calculator, GPAW by default."""

    calculator: str = Field(
        "gpaw",
        description="`gpaw`, or the import path of an ASE calculator, e.g. `ase.calculators.emt.EMT`. Label jobs"
        " import and call it: run only configurations that you trust as you trust a script.",
    )
    parameters: dict[str, Any] = Field(
        default_factory=dict, description="Keyword arguments of the calculator. For GPAW: `mode`, `xc`, `kpts`, …"
    )
    profile: dict[str, Any] = Field(
        default_factory=dict,
        description="Where the program and its data are on this machine, e.g. `{command: srun pw.x, pseudo_dir: ...}`;"
        " left out: ASE's configuration file, the environment, or the program on PATH. Data count by content, the"
        " command not at all.",
    )
    escalations: tuple[dict[str, Any], ...] | None = Field(
        None,
        description="Settings merged in, one after the other, when the SCF does not converge; left out: the code's"
        " own ladder, which GPAW, pw.x, CP2K, VASP, FHI-aims and tblite have.",
    )
    isolated_atoms: Literal["fit", "compute"] | dict[str, float] = Field(
        "fit",
        description="Isolated atoms' energies: `compute` them, `fit` them to the data, or give them in eV per symbol.",
    )
    isolated_atom_parameters: dict[str, Any] = Field(
        default_factory=dict, description="Settings merged in for isolated atoms, e.g. `{hund: true}`."
    )
    reuse_failures: bool = Field(
        True, description="Remember rejected and unconverged structures instead of computing them again."
    )
    timeout_minutes: Positive = Field(
        60.0, description="Longest time of one label before it is stopped and classified."
    )
    max_failed_fraction: Fraction = Field(0.3, description="Failed labels of an iteration above which the loop stops.")
    stress_agreement: Positive = Field(
        1.0,
        description="Largest distance of the references' stress from the slope of their energies, GPa, beyond its"
        " error. Raise it to accept what a small cutoff does.",
    )
    n_shards: int = Field(
        2, ge=1, le=1000, description="Label jobs per iteration; structures are dealt to them in turn."
    )
    guards: Guards = Field(default_factory=Guards, description="Sanity checks.")

    @field_validator("parameters", "profile", "isolated_atom_parameters", "escalations")
    @classmethod
    def _numbers_are_numbers(cls, value: Any) -> Any:
        number_text = find_number_text(value)
        if number_text:
            raise ValueError(f"{number_text} is text to YAML; write a number with a decimal point, e.g. 1.0e-6")
        return value

    @field_validator("calculator")
    @classmethod
    def _import_path(cls, value: str) -> str:
        if value != "gpaw" and not re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+", value):
            raise ValueError(f"{value!r} is neither `gpaw` nor an import path such as `ase.calculators.emt.EMT`")
        if value.partition(".")[0] in sys.stdlib_module_names:
            raise ValueError(
                f"{value!r} belongs to Python itself; give an ASE calculator, e.g. `ase.calculators.emt.EMT`"
            )
        return value
