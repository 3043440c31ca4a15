"""Second attempts at a label that did not converge: another way to the same solution.

Changes are merged into the parameters key by key, at every depth. Changes that only steer the
SCF are listed in ``ALGORITHMIC``; known physics is refused; whatever is in neither list marks
the label with other settings, so that it is never mixed with the rest.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from mlip.labels.codes.registry import find_code
from mlip.labels.contents import leaves, normalise
from mlip.labels.importing import LabelError

if TYPE_CHECKING:  # the child process has no use for the configuration models
    from mlip.config.label import Label

# How the SCF gets to its solution, never which one; in lower case. Everything below such a key
# counts as well, e.g. `mixer.beta`.
ALGORITHMIC = (
    {"mixer", "maxiter", "eigensolver"}  # GPAW
    | {"electron_maxstep", "mixing_beta", "mixing_mode", "mixing_ndim", "diagonalization", "diago_david_ndim"}  # QE
    | {"nelm", "nelmin", "nelmdl", "amix", "bmix", "amin", "amix_mag", "bmix_mag", "maxmix"}  # VASP
    | {"max_scf", "mixing", "max_scf_cycles", "scf_max_cycles", "max_cycle", "scf_guess"}  # CP2K, CASTEP and others
    | {"sc_iter_limit", "charge_mix_param", "n_max_pulay", "mixer_beta", "maxscciterations"}  # FHI-aims, DFTB+
    | {"max_iterations", "mixer_damping"}  # tblite
)
VASP_ALGORITHMS = frozenset({"normal", "fast", "veryfast", "all", "damped", "conjugate"})  # others, e.g. GW0, do not

PHYSICS = frozenset(
    {"mode", "xc", "gga", "metagga", "input_dft", "functional", "kpts", "kspacing", "k_grid", "gpts", "h", "basis"}
    | {"occupations", "smearing", "width", "sigma", "degauss", "ismear", "charge", "tot_charge", "spinpol", "magmoms"}
    | {"ispin", "nspin", "magmom", "hund", "nbands", "nelect", "ecut", "encut", "ecutwfc", "ecutrho", "cutoff"}
    | {"setups", "pp", "pseudopotentials", "pseudo_dir", "convergence", "conv_thr", "ediff", "symmetry", "ldau", "ivdw"}
)


def difference(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    """Leaves of ``after`` that ``before`` has not, or has with another value, by dotted path."""
    known = dict(leaves(normalise(before)))
    return {".".join(path): value for path, value in leaves(normalise(after)) if known.get(path, known) != value}


def foreign_changes(changed: dict[str, Any]) -> dict[str, Any]:
    """Those of the changed leaves, by dotted path, that may alter a label's value."""
    return {path: value for path, value in changed.items() if not _only_steers(path.split("."), value)}


def check_escalation(calculator: str, escalation: dict[str, Any]) -> None:
    """Refuse changes of what is computed.

    Raises:
        LabelError: naming the key.
    """
    numerics = find_code(calculator).numerics
    if numerics is not None:
        wrong = sorted(set(escalation) - numerics)
    else:
        wrong = [
            ".".join(path)
            for path, value in leaves(escalation)
            if not _only_steers(path, value) and PHYSICS & {key.lower() for key in path}
        ]
    if wrong:
        raise LabelError(
            f"label.escalations: `{wrong[0]}` would change what is computed, so that labels no longer belong together;"
            f" change only how the SCF converges, e.g. {', '.join(sorted(numerics or ('mixing_beta', 'maxiter')))}"
        )


def escalation_ladder(settings: Label, parameters: dict[str, Any]) -> list[dict[str, Any]]:
    """Changes tried one after the other, each on top of those before it, when the SCF does not converge."""
    if settings.escalations is not None:
        return [find_code(settings.calculator).split(step, {})[0] for step in settings.escalations]
    return [dict(step) for step in find_code(settings.calculator).ladder(parameters)]


def _only_steers(path: Iterable[str], value: Any) -> bool:
    keys = {key.lower() for key in path}
    if "algo" in keys:
        return isinstance(value, str) and value.lower() in VASP_ALGORITHMS
    return bool(ALGORITHMIC & keys)
