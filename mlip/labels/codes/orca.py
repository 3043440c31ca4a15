"""ORCA through ``ase.calculators.orca.ORCA``."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mlip.labels.codes.code import Values, read_text
from mlip.labels.codes.program import COMMON_INERT, Program
from mlip.labels.importing import LabelError
from mlip.labels.triage import Failure

OUTPUT = "orca.out"
UNCONVERGED = re.compile(
    r"SCF NOT CONVERGED[^\n]*|Wavefunction (?:is )?not fully converged|SCF is NOT converged|SCF.{0,20}did not converge",
    re.IGNORECASE,
)
END = "ORCA TERMINATED NORMALLY"
ERROR = re.compile(
    r"[^\n]*(INPUT ERROR|UNRECOGNIZED|FATAL ERROR|aborting the run|error termination)[^\n]*", re.IGNORECASE
)
OF_SETTINGS = re.compile(r"INPUT ERROR|UNRECOGNIZED|basis|keyword|not available|not found", re.IGNORECASE)
INERT_BLOCKS = re.compile(r"%(?:pal|output)\b.*?\bend\b|%maxcore\s+\d+", re.IGNORECASE | re.DOTALL)
ACCEPTS_UNCONVERGED = re.compile(r"ConvForced\s+(false|0)|IgnoreConv|NoConvForced", re.IGNORECASE)
MOVES = re.compile(r"(?<!\S)([\w-]*opt(?:ts|h)?|md|l-md|neb\S*|irc|scan(?:ts)?|goat\S*)(?!\S)", re.IGNORECASE)
INERT_WORDS = re.compile(r"(?<!\S)(pal\d+|\w*print|engrad)(?!\S)", re.IGNORECASE)


class Orca(Program):
    """ORCA says whether its SCF converged."""

    name = "ORCA"
    calculators = ("ase.calculators.orca.ORCA",)
    tells_convergence = True
    takes_moments = False
    section = "orca"
    default_command = "orca"
    program_pattern = r"orca\S*"
    version_arguments = ("does_not_exist",)
    version_pattern = r"Program Version\s+(\S+)"
    outputs = ("orca.err", OUTPUT)
    inert = COMMON_INERT

    def check(self, parameters: Values, profile: Values) -> None:
        """Refuse what accepts unconverged results or moves atoms."""
        super().check(parameters, profile)
        words, blocks = str(parameters.get("orcasimpleinput", "")), str(parameters.get("orcablocks", ""))
        forced = ACCEPTS_UNCONVERGED.search(f"{words}\n{blocks}")
        if forced:
            raise LabelError(f"label.parameters: `{forced[0]}` accepts an SCF that did not converge; remove it")
        moves = MOVES.search(words)
        if moves:
            raise LabelError(f"label.parameters.orcasimpleinput: `{moves[0]}` moves atoms; remove it")

    def deciding(self, parameters: Values) -> Values:
        """Without numbers of processes and memory, which stand among the blocks."""
        rest = super().deciding(parameters)
        for key, pattern in (("orcablocks", INERT_BLOCKS), ("orcasimpleinput", INERT_WORDS)):
            if key in rest:
                rest[key] = " ".join(pattern.sub(" ", str(rest[key])).split())
        return {key: value for key, value in rest.items() if value != "" or key != "orcablocks"}

    def with_state(self, parameters: Values, charge: float, multiplicity: int | None) -> Values:
        """``charge`` and ``mult``.

        Raises:
            LabelError: for a charge that is not whole.
        """
        if charge != int(charge):
            raise LabelError(f"the structure carries a charge of {charge:g}, and ORCA takes whole ones; correct it")
        return parameters | {"charge": int(charge)} | ({} if multiplicity is None else {"mult": multiplicity})

    def build(self, factory: Any, parameters: Values, profile: Values, folder: Path, atoms: Any) -> Any:
        """Energy and forces from one run (``EnGrad``)."""
        from ase.calculators.orca import OrcaProfile

        del atoms
        words = str(parameters.get("orcasimpleinput", "B3LYP def2-TZVP"))
        words += "" if re.search(r"\bengrad\b", words, re.IGNORECASE) else " EnGrad"
        place = OrcaProfile(command=self.command(profile))
        return factory(**(parameters | {"orcasimpleinput": words}), profile=place, directory=folder)

    def read_failure(self, folder: Path, finished: bool) -> Failure | None:
        """By the words of ORCA, whatever the exit code."""
        text = read_text(folder / OUTPUT)
        unconverged = UNCONVERGED.search(text)
        if unconverged:
            return Failure("unconverged", f"ORCA: {' '.join(unconverged[0].split())}")
        if END in text:
            return None
        errors = [" ".join(match[0].split()) for match in ERROR.finditer(text)]
        if errors:
            words = "; ".join(errors[:3])
            if OF_SETTINGS.search(words):
                return Failure("config_error", f"label.parameters: ORCA refuses them; correct them (ORCA: {words})")
            return Failure("crashed", f"ORCA: {words}")
        return Failure("crashed", f"ORCA: {OUTPUT} does not say `{END}`") if finished else None
