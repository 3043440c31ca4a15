"""VASP through ``ase.calculators.vasp.Vasp``."""

from __future__ import annotations

import contextlib
import difflib
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from mlip.labels.codes.code import Ladder, Values, is_false, read_text, refuse
from mlip.labels.codes.elements import content_for
from mlip.labels.codes.kmesh import mesh_for
from mlip.labels.codes.magnetism import find_fixed_occupations, find_missing_moments, is_metal
from mlip.labels.codes.program import COMMON_INERT, Program, ase_section
from mlip.labels.contents import folder_at, leaves
from mlip.labels.importing import LabelError
from mlip.labels.triage import Failure

EDIFF_REACHED = "aborting loop because EDIFF is reached"
UNCONVERGED = re.compile(r"EDIFF was not reached \(unconverged\)|self-consistency was not achieved")
ITERATION = re.compile(r"Iteration\s+\d+\(\s*(\d+)\)")
ERROR_BOX = re.compile(r"\| +E{7}  R     R[^\n]*\n(.*?)(?:-+> +I REFUSE|\n ?-{40,})", re.DOTALL)
"""VASP 5 and 6: `ERROR` in large letters, of which this is the last line, and the words below."""
FATAL = re.compile(
    r"[^\n]*(VERY BAD NEWS|internal error|internal ERROR|fatal error|fatal internal|I REFUSE TO CONTINUE"
    r"|Error reading item|ERROR:|ERROR RSPHER|ERROR EDDIAG|ERROR in subspace rotation|Error EDDDAV"
    r"|LAPACK: Routine ZPOTRF failed|TOO FEW BANDS|not a valid INCAR tag)[^\n]*",
)
NUMERICAL = re.compile(r"EDDDAV|EDDIAG|ZHEGV|ZHEEV|ZPOTRF|PSSYEVX|EDDRMM|BRMIX", re.IGNORECASE)
OF_SETTINGS = re.compile(
    r"INCAR|POTCAR|KPOINTS|TOO FEW BANDS|number of bands is not sufficient|Error reading item|not found", re.IGNORECASE
)
ORDINARY = frozenset({"normal", "fast", "veryfast", "n", "f", "v"})
PP_PATH = "VASP_PP_PATH"
DEFAULT_EDIFF = 1e-4
"""eV."""
COARSE_EDIFF = 1e-5
"""eV; what is larger is told."""

VASP_LADDER: Ladder = (
    {"algo": "Normal", "nelm": 200},
    {"amix": 0.2, "bmix": 0.0001, "amix_mag": 0.8, "bmix_mag": 0.0001, "nelm": 300},
    {"algo": "All", "nelm": 400},
)
"""The second step is linear mixing, which the VASP wiki (AMIX_MAG) has for slabs, magnets and insulators."""
TETRAHEDRA = (-4, -5, -14, -15)
"""ISMEAR of methods that are not variational: VASP warns that ALGO = All tends to fail with them."""


class Vasp(Program):
    """VASP ends with exit code 0 after many errors, and after an SCF that did not converge."""

    name = "VASP"
    calculators = ("ase.calculators.vasp.Vasp", "ase.calculators.vasp.vasp.Vasp")
    tells_convergence = True
    mesh_names = ("kpts", "kspacing")
    needs_cell = True
    default_command = "vasp_std"
    version_pattern = r"(?:\A|\n) *vasp\.(\d\S*)"
    program_pattern = r"vasp\S*"
    command_variables = ("ASE_VASP_COMMAND", "VASP_COMMAND")
    profile_keys = frozenset({"command", "pp_path"})
    outputs = ("vasp.out", "OUTCAR")
    inert = COMMON_INERT | {
        "ncore", "npar", "kpar", "nsim", "lplane", "lscalu", "lscalapack", "lscaaware", "lwave", "lcharg", "lvtot",
        "lvhar", "lelf", "laechg", "nwrite", "ncore_in_image1", "nthreads_hi", "nthreads_mu", "system", "lasync",
        "nsw", "isif", "ibrion", "potim", "ediffg", "istart", "lorbit", "nedos", "emin", "emax", "nblock", "kblock",
    }  # fmt: skip

    def check(self, parameters: Values, profile: Values) -> None:
        """Refuse unknown tags, which VASP does not read, and what is no single point."""
        super().check(parameters, profile)
        known = known_keys()
        for key in parameters:
            if key.lower() not in known:
                near = difflib.get_close_matches(key.lower(), known, 1)
                raise LabelError(
                    f"label.parameters.{key}: no INCAR tag or setting that ASE knows"
                    + (f"; is `{near[0]}` meant?" if near else ";")
                    + f" A tag that it does not know goes into custom: {{{key.upper()}: ...}}"
                )
        refuse(
            parameters, ("nsw",), lambda n: n not in (0, None), "moves atoms: labels are of given positions; remove it"
        )
        reason = "computes vibrations, a response to a field or a path: labels are of given positions; remove it"
        refuse(parameters, ("ibrion",), lambda n: n in (5, 6, 7, 8, 40, 44), reason)
        reason = "puts a machine-learned force field in the place of DFT; remove it"
        refuse(parameters, ("ml_lmlff",), lambda value: not is_false(value), reason)
        refuse(parameters, ("icharg",), lambda n: n >= 10, "keeps the density fixed, unconverged; remove it")
        refuse(parameters, ("isif",), lambda n: n in (0, 1), "leaves out the stress, or half of it; remove it, it is 2")

    def command(self, profile: Values) -> str:
        """Also ``VASP_SCRIPT``, a Python script that starts VASP."""
        script = os.environ.get("VASP_SCRIPT") or ase_section("environment").get("vasp_script")
        given = ase_section("environment")
        inner = next((given[name.lower()] for name in self.command_variables if name.lower() in given), None)
        if not profile.get("command") and not any(os.environ.get(name) for name in self.command_variables):
            profile = {"command": inner or (f"python {script}" if script else self.default_command)}
        return super().command(profile)

    def traps(self, atoms: Any, parameters: Values) -> list[str]:
        """A coarse EDIFF, smearing that does not fit, and magnetic elements without spin."""
        values = {path[-1].lower(): value for path, value in leaves(parameters)}
        warnings = super().traps(atoms, parameters)
        ediff = values.get("ediff") or DEFAULT_EDIFF
        if isinstance(ediff, int | float) and ediff > COARSE_EDIFF:
            warnings.append(f"ediff {ediff:g} eV leaves noise in the forces; 1.0e-6 is usual for labels")
        smearing = values.get("ismear")
        if smearing == -5 and is_metal(atoms):
            warnings.append("ismear -5: forces and stresses of metals are not derivatives of the energy; use 1 or 0")
        if smearing in (-2, -3):
            warnings += find_fixed_occupations(atoms, f"ismear {smearing}", "ismear: 1, and a sigma")
        has_spin = values.get("ispin") == 2 or bool(values.get("lsorbit") or values.get("lnoncollinear"))
        return warnings + find_missing_moments(atoms, has_spin or bool(atoms.get_initial_magnetic_moments().any()))

    def ladder(self, parameters: Values) -> Ladder:
        """Blocked Davidson, weaker mixing, then all bands at once; an algorithm for other than plain SCF is kept."""
        own = parameters.get("nelm")
        floor = own if isinstance(own, int) else 0
        steps = [step | {"nelm": max(step["nelm"], floor)} for step in VASP_LADDER]
        if str(parameters.get("algo", "normal")).lower() not in ORDINARY:
            return ({"nelm": steps[-1]["nelm"]},)
        if parameters.get("ismear") in TETRAHEDRA:
            return tuple(steps[:-1])
        return tuple(steps)

    def element_files(self, symbols: Iterable[str], parameters: Values, profile: Values) -> Values:
        """Contents of the POTCARs, chosen by ASE."""
        from ase import Atoms
        from ase.calculators.vasp.create_input import GenerateVaspInput, get_pp_setup

        with self._pp_path(profile):
            made = GenerateVaspInput()
            made.set(**{key: value for key, value in parameters.items() if key not in ("kpts", "txt")})
            try:
                made.check_xc()
                setups, _ = get_pp_setup(made.input_params["setups"])
                found = {s: made._build_pp_list(Atoms(s), setups=setups, special_setups=())[0] for s in symbols}
            except (RuntimeError, ValueError, KeyError) as error:
                words = " ".join(str(error).split())
                raise LabelError(
                    f"label.parameters.setups: no POTCAR below {os.environ.get(PP_PATH, PP_PATH)} ({words});"
                    " set label.profile: {pp_path: ...}"
                ) from None
        return {symbol: content_for(symbol, Path(path), "label.profile.pp_path") for symbol, path in found.items()}

    def files_of(self, calculator: Any, symbols: Iterable[str]) -> Values:
        """The POTCARs that a ``Vasp`` of a user's own has put together."""
        kinds = [symbol for symbol, _ in calculator.symbol_count]
        found = dict(zip(kinds, calculator.ppp_list, strict=True))
        return {symbol: content_for(symbol, Path(found[symbol]), "VASP_PP_PATH") for symbol in symbols}

    @contextlib.contextmanager
    def _pp_path(self, profile: Values) -> Iterator[None]:
        before = os.environ.get(PP_PATH)
        if "pp_path" in profile:
            os.environ[PP_PATH] = str(folder_at(profile["pp_path"]))
        try:
            yield
        finally:
            os.environ.pop(PP_PATH, None)
            os.environ |= {PP_PATH: before} if before is not None else {}

    def with_state(self, parameters: Values, charge: float, multiplicity: int | None) -> Values:
        """ASE's ``charge``, from which it finds NELECT, and ``nupdown``."""
        spin = {} if multiplicity is None else {"ispin": 2, "nupdown": multiplicity - 1}
        return parameters | ({"charge": charge} if charge else {}) | spin

    def check_moments(self, atoms: Any, parameters: Values) -> None:
        """Three numbers for each atom in non-collinear runs, one in others: ASE writes MAGMOM as they are."""
        super().check_moments(atoms, parameters)
        moments = atoms.get_initial_magnetic_moments()
        values = {path[-1].lower(): value for path, value in leaves(parameters)}
        told = any(name in values and not is_false(values[name]) for name in ("lnoncollinear", "lsorbit"))
        if not moments.any() or told == (moments.ndim > 1):
            return
        have, want = ("one number", "three") if told else ("three numbers", "one")
        raise LabelError(
            f"structures: the initial magnetic moments of {atoms.get_chemical_formula()} have {have} for each atom, and"
            f" VASP reads {want} {'with' if told else 'without'} lnoncollinear or lsorbit; correct one of them"
        )

    def build(self, factory: Any, parameters: Values, profile: Values, folder: Path, atoms: Any) -> Any:
        """Energy, forces and stress, without files that nobody reads."""
        if "pp_path" in profile:
            os.environ[PP_PATH] = str(folder_at(profile["pp_path"]))
        chosen: Values = {"isif": 2, "lwave": False, "lcharg": False} | parameters
        if isinstance(chosen.get("kpts"), dict):
            size, gamma = mesh_for(chosen["kpts"], atoms)
            chosen |= {"kpts": size} | ({"gamma": True} if gamma else {})
        return factory(**chosen, command=self.command(profile), directory=str(folder))

    def read_failure(self, folder: Path, finished: bool) -> Failure | None:
        """By the words in OUTCAR and on standard output, whatever the exit code."""
        outcar, printed = read_text(folder / "OUTCAR"), read_text(folder / "vasp.out")
        words = find_error(printed) or find_error(outcar)
        if words:
            if NUMERICAL.search(words):
                return Failure("unconverged", f"VASP: {words}")
            if OF_SETTINGS.search(words):
                return Failure("config_error", f"label.parameters: VASP refuses them; correct them (VASP: {words})")
            return Failure("crashed", f"VASP: {words}")
        steps = ITERATION.findall(outcar)
        if UNCONVERGED.search(outcar) or (finished and EDIFF_REACHED not in outcar):
            return Failure("unconverged", f"VASP: EDIFF was not reached in {steps[-1] if steps else '?'} steps (NELM)")
        return None


def find_error(text: str) -> str | None:
    """VASP's words for why it gave up, on one line; None when there are none."""
    box = ERROR_BOX.search(text)
    if box and box[1].strip(" |\n"):
        return " ".join(" ".join(line.strip(" |") for line in box[1].splitlines()).split())[:600]
    fatal = FATAL.search(text)
    return " ".join(fatal[0].strip(" |*\n").split()) if fatal else None


def known_keys() -> set[str]:
    """All keyword arguments of ASE's ``Vasp``, in lower case."""
    from ase.calculators.vasp.create_input import GenerateVaspInput

    made = GenerateVaspInput()
    kinds = ("float", "exp", "string", "int", "bool", "list_int", "list_bool", "list_float", "special", "dict", "input")
    named = {str(key).lower() for kind in kinds for key in getattr(made, f"{kind}_params")}
    return named | {"custom", "txt", "directory", "label", "restart", "atoms", "command"}
