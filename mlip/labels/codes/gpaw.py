"""GPAW: in the worker's process, or on ranks of its own."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mlip.io.files import sha256_of
from mlip.labels.codes.code import Code, Ladder, Values
from mlip.labels.codes.magnetism import find_missing_moments
from mlip.labels.importing import GPAW, LabelError

MIN_ECUT = 50.0  # eV; below, plane waves cannot hold a valence orbital and the eigensolver fails

GPAW_LADDER: Ladder = (
    {"mixer": {"backend": "pulay", "beta": 0.05, "nmaxold": 8, "weight": 100.0}, "maxiter": 400},
    {
        "mixer": {"backend": "pulay", "beta": 0.02, "nmaxold": 8, "weight": 100.0},
        "maxiter": 600,
        "eigensolver": {"name": "dav", "niter": 3},
    },
)


class Gpaw(Code):
    """GPAW raises when its SCF does not converge."""

    name = "GPAW"
    calculators = ("gpaw", GPAW)
    tells_convergence = True
    outputs = ("scf.txt",)
    numerics = frozenset({"mixer", "maxiter", "eigensolver"})
    mesh_names = ("kpts",)
    needs_cell = True

    def check(self, parameters: Values, profile: Values) -> None:
        """Refuse hopeless cutoffs and limits that let unconverged results pass."""
        super().check(parameters, profile)
        mode = parameters.get("mode")
        ecut = mode.get("ecut") if isinstance(mode, dict) else None
        if isinstance(ecut, int | float) and ecut < MIN_ECUT:
            raise LabelError(
                f"label.parameters.mode.ecut: {ecut} eV is below {MIN_ECUT:.0f} eV; is it in eV? 250-600 is usual"
            )
        convergence = parameters.get("convergence")
        if isinstance(convergence, dict) and "maximum iterations" in convergence:
            raise LabelError(
                "label.parameters.convergence: with `maximum iterations`, unconverged results pass for converged;"
                " use `maxiter` instead"
            )

    def ladder(self, parameters: Values) -> Ladder:
        """Smaller mixing and more steps, as far as they fit the user's own mixer and eigensolver."""
        patience = parameters.get("maxiter")
        floor = patience if isinstance(patience, int) else 0
        return tuple(_fitted(step, parameters) | {"maxiter": max(step["maxiter"], floor)} for step in GPAW_LADDER)

    def identity(self, parameters: Values, profile: Values) -> Values:
        """With the PAW setups of ``GPAW_SETUP_PATH``."""
        return super().identity(parameters, profile) | {"setups": setups_fingerprint()}

    def with_state(self, parameters: Values, charge: float, multiplicity: int | None) -> Values:
        """GPAW takes a charge; its spin follows from initial magnetic moments."""
        if multiplicity is not None:
            raise LabelError(
                f"label.calculator: the structure carries a multiplicity {multiplicity}, which GPAW takes as initial"
                " magnetic moments; write these into the structure's file"
            )
        return parameters | {"charge": charge}

    def build(self, factory: Any, parameters: Values, profile: Values, folder: Path, atoms: Any) -> Any:
        """GPAW with its text output in ``folder``."""
        del profile, atoms
        return factory(**parameters, txt=str(folder / "scf.txt"))

    def traps(self, atoms: Any, parameters: Values) -> list[str]:
        """Missing moments, odd electrons, charged cells and Γ alone."""
        return [*_find_traps(atoms, parameters), *super().traps(atoms, parameters)]


def setups_fingerprint() -> str | None:
    """Hash of the names and sizes of GPAW's own PAW setups in ``GPAW_SETUP_PATH``; None without it.

    Those that GPAW finds otherwise belong to the package ``gpaw-data``, whose version is known.
    """
    search_path = os.environ.get("GPAW_SETUP_PATH")
    if search_path is None:
        return None
    folders = [Path(entry) for entry in search_path.split(os.pathsep) if entry]
    return sha256_of([_sizes(folder) for folder in folders])[:16]


def _sizes(folder: Path) -> list[tuple[str, int]]:
    """Name and size of the folder's files. Names, because a folder's order and place say nothing."""
    if not folder.is_dir():
        return []
    return sorted((path.name, path.stat().st_size) for path in folder.iterdir() if path.is_file())


def _fitted(step: Values, parameters: Values) -> Values:
    """``step`` without what would be merged into a mixer or an eigensolver of another kind."""
    kept = {}
    for part, kind in (("mixer", "backend"), ("eigensolver", "name")):
        chosen = parameters.get(part)
        chosen = chosen.get(kind) if isinstance(chosen, dict) else chosen
        if part in step and chosen in (None, step[part][kind]):
            kept[part] = step[part]
    return kept


def _find_traps(atoms: Any, parameters: Values) -> Iterable[str]:
    spin = bool(atoms.get_initial_magnetic_moments().any() or parameters.get("spinpol") or parameters.get("hund"))
    yield from find_missing_moments(atoms, spin)
    charge = parameters.get("charge", 0)
    charge = charge if isinstance(charge, int | float) else 0
    if not spin and round(sum(atoms.numbers) - charge) % 2:
        yield "odd number of electrons without spin polarisation"
    if charge and atoms.pbc.any():
        yield f"periodic cell with charge {charge:g}: a uniform background neutralises it"
