"""Spin in pw.x: what it refuses without a remedy, and what it drops without a word."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlip.labels.codes.code import Values, is_false, leaves
from mlip.labels.codes.elements import HEADER
from mlip.labels.importing import LabelError

SYSTEM = "label.parameters.input_data.system"
WITH_SPIN_ORBIT = re.compile(
    r"\bhas_so\s*=\s*[\"']\s*\.?T|\brelativistic\s*=\s*[\"']full|Fully-Relativistic", re.IGNORECASE
)
"""In the header of a fully relativistic UPF, the last one in version 1."""
REMEDIES = {
    "smearing is needed": "an odd number of electrons or a metal: set `occupations: smearing` and a `degauss`, or write"
    " the `multiplicity` into the structure's file",
    "need tot_magnetization": "with spin, set `occupations: smearing` and a `degauss`, or `tot_magnetization`",
    "fr-pp": "a pseudopotential is fully relativistic: set `noncolin: true` and `lspinorb: true`, or take scalar ones",
    "gamma_only and noncolin": "give a mesh, e.g. kpts: [1, 1, 1]",
}
"""By words of pw.x, in lower case, that say what is wrong and not what to do."""


def remedy_for(words: str) -> str:
    """What to do about pw.x's ``words``."""
    return next((remedy for said, remedy in REMEDIES.items() if said in words.lower()), "correct them")


def check_spin(parameters: Values) -> None:
    """Refuse settings of spin that contradict each other, or of which ASE and pw.x drop a part.

    Raises:
        LabelError: naming the key and the remedy.
    """
    system = parameters.get("input_data", {}).get("system", {})
    noncollinear, nspin = _is_set(system, "noncolin"), str(system.get("nspin", 1))
    if nspin == "4":
        raise LabelError(f"{SYSTEM}.nspin: with 4, ASE writes no moments; write noncolin: true in its place")
    if _is_set(system, "lspinorb") and not noncollinear:
        raise LabelError(f"{SYSTEM}.lspinorb: pw.x has spin-orbit coupling in non-collinear runs; add noncolin: true")
    if not noncollinear:
        return
    if nspin != "1":
        raise LabelError(f"{SYSTEM}.nspin: {nspin} is collinear and contradicts noncolin: true; remove one of them")
    if "tot_magnetization" in system:
        raise LabelError(f"{SYSTEM}.tot_magnetization: pw.x fixes it in collinear runs only; remove it or noncolin")
    if not _has_mesh(parameters):
        raise LabelError("label.parameters.kpts: missing; pw.x's Γ trick is collinear: give kpts: [1, 1, 1] or more")


def check_occupations(atoms: Any, parameters: Values) -> None:
    """Refuse spin with fixed occupations and no total magnetization: pw.x stops, and ASE gives moments by itself.

    Raises:
        LabelError: with the formula and the remedies.
    """
    system = parameters.get("input_data", {}).get("system", {})
    moments = bool(atoms.get_initial_magnetic_moments().any())
    fixed = str(system.get("occupations", "fixed")).strip("'\" ").lower() == "fixed"
    if _is_set(system, "noncolin") or not fixed or "tot_magnetization" in system:
        return
    if not moments and str(system.get("nspin", 1)) != "2":
        return
    cause = "has initial magnetic moments, as ASE gives them to some molecules and metals by itself"
    remove = "; or remove `initial_magmoms` from it (spin-paired)" if moments else ""
    raise LabelError(
        f"structures: {atoms.get_chemical_formula()} {cause if moments else 'is computed with nspin 2'}, and pw.x with"
        " fixed occupations wants to know their sum: write the `multiplicity` (2S + 1) into the structure's file, or"
        f" set occupations: smearing and a degauss{remove}"
    )


def check_spin_orbit(parameters: Values, files: Mapping[str, Path]) -> None:
    """Refuse ``lspinorb`` with scalar relativistic pseudopotentials alone: pw.x labels without the coupling, silently.

    Args:
        parameters: of the calculator.
        files: the pseudopotentials by element.

    Raises:
        LabelError: naming the files.
    """
    if not _is_set(parameters.get("input_data", {}).get("system", {}), "lspinorb") or not files:
        return
    if not any(WITH_SPIN_ORBIT.search(_head(path)) for path in files.values()):
        names = ", ".join(path.name for path in files.values())
        raise LabelError(
            f"{SYSTEM}.lspinorb: {names}: no fully relativistic pseudopotential, so that nothing of spin-orbit coupling"
            " would be in the labels; name one (often called `rel`), or remove lspinorb"
        )


def _is_set(system: Values, key: str) -> bool:
    return key in system and not is_false(system[key])


def _has_mesh(parameters: Values) -> bool:
    cards = any(re.search(r"K_POINTS(?!.*gamma)", str(value), re.IGNORECASE) for _, value in leaves(parameters))
    return cards or parameters.get("kpts") is not None or parameters.get("kspacing") is not None


def _head(path: Path) -> str:
    with path.open(encoding="utf-8", errors="replace") as stream:
        return stream.read(HEADER)
