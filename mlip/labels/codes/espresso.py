"""Quantum ESPRESSO's pw.x through ``ase.calculators.espresso.Espresso``."""

from __future__ import annotations

import os
import re
import shlex
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mlip.labels.codes.code import Ladder, Values, is_false, read_text, refuse
from mlip.labels.codes.elements import HEADER, content_for
from mlip.labels.codes.espresso_spin import check_occupations, check_spin, check_spin_orbit, remedy_for
from mlip.labels.codes.magnetism import find_fixed_occupations, find_missing_moments
from mlip.labels.codes.program import COMMON_INERT, Program, ase_section
from mlip.labels.contents import folder_at, normalise
from mlip.labels.importing import LabelError
from mlip.labels.triage import Failure

OUTPUT = "espresso.pwo"
BOX = re.compile(r"%{20,}\s*\n(.*?)%{20,}", re.DOTALL)
ROUTINE = re.compile(r"Error in routine\s+(\S+) *\([^)]*\) *:|from (\S+) *: *error")
# The diagonaliser gives up on a bad density: another one, or a slower mixing, gets there.
NUMERICAL = re.compile(r"cholesky|S matrix not positive|diaghg|c_bands|too many bands are not converged", re.IGNORECASE)
STRUCTURAL = re.compile(r"atoms #?.*(overlap|too close)|check_atoms|dynamics|nans? found", re.IGNORECASE)
SYSTEM = re.compile(r"alloc|diropn|davcio|open_buffer|opening file|no space|out of memory|mkdir", re.IGNORECASE)
UNCONVERGED = re.compile(r"convergence NOT achieved[^\n]*")
CONVERGED = "convergence has been achieved"
END = "JOB DONE."
OUT_OF_TIME = "Maximum CPU time exceeded"

ESPRESSO_LADDER: Ladder = (
    {"input_data": {"electrons": {"mixing_beta": 0.3, "electron_maxstep": 200}}},
    {"input_data": {"electrons": {"mixing_beta": 0.1, "mixing_ndim": 12, "electron_maxstep": 400}}},
    {"input_data": {"electrons": {"diagonalization": "cg", "mixing_mode": "local-TF"}}},
)
UPF_FUNCTIONAL = re.compile(
    r"\bfunctional\s*=\s*[\"']([^\"']+)[\"']|^(.*\S)\s+Exchange-Correlation functional", re.MULTILINE
)
NAMED_FUNCTIONALS: dict[tuple[str, ...], tuple[str, ...]] = {
    ("SLA", "PZ", "NOGX", "NOGC"): ("LDA", "(PZ)"),
    ("PZ",): ("LDA", "(PZ)"),
    ("SLA", "PW", "NOGX", "NOGC"): ("LDA", "(PW)"),
    ("SLA", "PW", "PBX", "PBC"): ("PBE",),
    ("SLA", "PW", "PBE", "PBE"): ("PBE",),
    ("SLA", "PW", "PSX", "PSC"): ("PBEsol",),
    ("PBESOL",): ("PBEsol",),
    ("SLA", "PW", "REVX", "PBC"): ("revPBE",),
    ("SLA", "LYP", "B88", "BLYP"): ("BLYP",),
    ("SLA", "PW", "TPSS", "TPSS"): ("TPSS",),
}
"""Of Quantum ESPRESSO's short names (funct.f90) by the parts that they stand for; others are shown as they are."""
OTHER_KEYWORDS = frozenset(
    {"input_data", "pseudopotentials", "kpts", "kspacing", "koffset", "nspin", "additional_cards"}
    | {"crystal_coordinates", "force_ortho"}
)

REFUSED = frozenset({"txt", "atoms", "directory", "label", "restart"})
"""By name, in the base class."""


class Espresso(Program):
    """pw.x ends with exit status 2 and says so when its SCF does not converge, unless told to go on."""

    name = "pw.x"
    calculators = ("ase.calculators.espresso.Espresso",)
    tells_convergence = True
    takes_directions = False
    mesh_names = ("kpts", "kspacing")
    needs_cell = True
    section = "espresso"
    default_command = "pw.x"
    program_pattern = r"pw\S*\.x"
    version_arguments = ()
    version_pattern = r"Program PWSCF\s+v\.?\s*(\S+)"
    profile_keys = frozenset({"command", "pseudo_dir"})
    outputs = ("CRASH", "espresso.err", OUTPUT)
    inert = COMMON_INERT | {
        "disk_io", "max_seconds", "verbosity", "iprint", "title", "prefix", "outdir", "wfcdir", "pseudo_dir",
        "restart_mode", "tprnfor", "tstress", "wf_collect", "nppstr", "diago_full_acc", "nat", "ntyp", "ibrav",
        "calculation", "nstep", "dt", "forc_conv_thr", "etot_conv_thr", "ions", "cell", "lkpoint_dir", "saverho",
    }  # what ASE writes from the structure, and of dynamics, too  # fmt: skip

    def split(self, parameters: Values, profile: Values) -> tuple[Values, Values]:
        """Namelists as ASE nests them, whichever way they were written."""
        rest, profile = super().split(parameters, profile)
        namelists = _nested(rest)
        rest = {key: value for key, value in rest.items() if key in OTHER_KEYWORDS | REFUSED}
        inner = namelists.get("control", {}).pop("pseudo_dir", None)
        if inner is not None:
            profile = {"pseudo_dir": inner} | profile
        namelists = {name: values for name, values in namelists.items() if values}
        return rest | ({"input_data": namelists} if namelists else {}), profile

    def check(self, parameters: Values, profile: Values) -> None:
        """Refuse what accepts unconverged results, moves atoms or shares a folder."""
        super().check(parameters, profile)
        reason = "accepts an SCF that did not converge: wrong labels, status ok; remove it, labels go up a ladder"
        refuse(parameters, ("scf_must_converge",), is_false, reason)
        reason = "is no single point: labels are `scf` of given positions; remove it"
        refuse(parameters, ("calculation",), lambda value: str(value).lower() != "scf", reason)
        self._check_moments(parameters)
        check_spin(parameters)
        for key in ("outdir", "wfcdir"):
            reason = "would be shared by labels that run at the same time; remove it, each has a private folder"
            refuse(parameters, (key,), lambda _: True, reason)

    @staticmethod
    def _check_moments(parameters: Values) -> None:
        """ASE writes ``starting_magnetization`` of every species itself, over what is there, zero without moments."""
        for key in parameters.get("input_data", {}).get("system", {}):
            if key.startswith("starting_magnetization"):
                raise LabelError(
                    f"label.parameters.input_data.system.{key}: ASE replaces it by the structure's initial magnetic"
                    " moments, by 0 where it has none; write these into the structure's file (initial_magmoms in"
                    " extended XYZ), or set `nspin: 2` with `tot_magnetization`"
                )

    def traps(self, atoms: Any, parameters: Values) -> list[str]:
        """Spin without moments, magnetic elements without spin, and metals with fixed occupations."""
        system = parameters.get("input_data", {}).get("system", {})
        moments = bool(atoms.get_initial_magnetic_moments().any()) or "tot_magnetization" in system
        warnings = super().traps(atoms, parameters)
        if str(system.get("nspin", 1)) == "2" and not moments:
            warnings.append("nspin 2 without initial magnetic moments: pw.x begins, and stays, non-magnetic")
        else:
            warnings += find_missing_moments(atoms, moments)
        given = system.get("occupations")
        if given is None or str(given).strip("'\" ").lower() == "fixed":
            setting = "no `occupations`" if given is None else "occupations fixed"
            warnings += find_fixed_occupations(atoms, setting, "occupations: smearing, and a degauss")
        return warnings

    def ladder(self, parameters: Values) -> Ladder:
        """Slower mixing and more patience; never less of either than the user's own."""
        own = parameters.get("input_data", {}).get("electrons", {})
        steps = []
        for step in ESPRESSO_LADDER:
            changes = dict(step["input_data"]["electrons"])
            if isinstance(own.get("electron_maxstep"), int) and "electron_maxstep" in changes:
                changes["electron_maxstep"] = max(changes["electron_maxstep"], own["electron_maxstep"])
            if isinstance(own.get("mixing_beta"), int | float) and "mixing_beta" in changes:
                changes["mixing_beta"] = min(changes["mixing_beta"], own["mixing_beta"])
            steps.append({"input_data": {"electrons": changes}})
        return tuple(steps)

    def identity(self, parameters: Values, profile: Values) -> Values:
        """Pseudopotentials count by content, found as pw.x finds them."""
        self.program_version(profile)
        names = parameters.get("pseudopotentials") or {}
        if not isinstance(names, dict):
            raise LabelError(f"label.parameters.pseudopotentials: {names!r} is no mapping; write {{Si: Si.UPF}}")
        folder = self.pseudo_dir(parameters, profile)
        files = {symbol: folder / str(name) for symbol, name in names.items()}
        contents = {symbol: _pseudopotential(symbol, path) for symbol, path in files.items()}
        check_spin_orbit(parameters, files)
        identity = super().identity(self._without_names(parameters), profile)
        identity["parameters"] |= normalise({"pseudopotentials": contents})
        return identity

    def functional(self, parameters: Values, profile: Values) -> str:
        """That of the headers of the pseudopotentials, which pw.x takes; empty where one cannot be read."""
        folder = self.pseudo_dir(parameters, profile)
        names = (parameters.get("pseudopotentials") or {}).values()
        found = sorted({read_functional(folder / str(name)) for name in names})
        return ", ".join(found) if all(found) else ""

    @staticmethod
    def _without_names(parameters: Values) -> Values:
        return {key: value for key, value in parameters.items() if key != "pseudopotentials"}

    def pseudo_dir(self, parameters: Values, profile: Values) -> Path:
        """Folder of the pseudopotentials: the profile's, ASE's, pw.x's own, or the one installed beside the program."""
        given = profile.get("pseudo_dir") or ase_section(self.section).get("pseudo_dir")
        given = given or os.environ.get("ESPRESSO_PSEUDO")
        if given:
            return folder_at(given)
        candidates = [Path.home() / "espresso" / "pseudo"]
        for word in [*shlex.split(self.command(profile)), self.default_command]:
            program = shutil.which(word) if re.fullmatch(self.program_pattern, Path(word).name) else None
            if program:
                candidates.append(Path(program).parents[1] / "share" / "espresso" / "pseudo")
        names = [str(name) for name in (parameters.get("pseudopotentials") or {}).values()]
        return next((f for f in candidates if all((f / name).is_file() for name in names)), candidates[0])

    def files_of(self, calculator: Any, symbols: Iterable[str]) -> Values:
        """The pseudopotentials of an ``Espresso`` of a user's own."""
        data = calculator.parameters.get("input_data") or {}  # which ASE has nested when it wrote the input
        given = (data.get("control") or {}).get("pseudo_dir") or data.get("pseudo_dir")
        folder = Path(given or calculator.profile.pseudo_dir)
        names = calculator.parameters.get("pseudopotentials") or {}
        return {symbol: _pseudopotential(symbol, folder / str(names[symbol])) for symbol in symbols if symbol in names}

    def with_state(self, parameters: Values, charge: float, multiplicity: int | None) -> Values:
        """``tot_charge`` and ``tot_magnetization`` of the namelist SYSTEM.

        Raises:
            LabelError: for a multiplicity in a non-collinear run.
        """
        given = parameters.get("input_data", {}).get("system", {}).get("noncolin", False)
        if multiplicity is not None and not is_false(given):
            raise LabelError(
                f"structures: one carries a multiplicity {multiplicity}, which pw.x fixes in collinear runs only;"
                " remove it from the structure's file and write initial_magmoms, or remove noncolin"
            )
        system: Values = {"tot_charge": charge} if charge else {}
        if multiplicity is not None:
            system |= {"nspin": 2, "tot_magnetization": multiplicity - 1}
        data = parameters.get("input_data", {})
        return parameters | {"input_data": data | {"system": data.get("system", {}) | system}}

    def check_moments(self, atoms: Any, parameters: Values) -> None:
        """Also moments with fixed occupations."""
        super().check_moments(atoms, parameters)
        check_occupations(atoms, parameters)

    def build(self, factory: Any, parameters: Values, profile: Values, folder: Path, atoms: Any) -> Any:
        """Energy, forces and stress from one run, everything written into ``folder``."""
        from ase.calculators.espresso import EspressoProfile

        del atoms
        data = {name: dict(values) for name, values in parameters.get("input_data", {}).items()}
        data["control"] = {"outdir": "."} | data.get("control", {}) | {"tprnfor": True, "tstress": True}
        place = EspressoProfile(command=self.command(profile), pseudo_dir=self.pseudo_dir(parameters, profile))
        return factory(**(parameters | {"input_data": data}), profile=place, directory=folder)

    def read_failure(self, folder: Path, finished: bool) -> Failure | None:
        """By the words of pw.x: an SCF that did not converge, a refused input, a crash."""
        text = read_text(folder / OUTPUT)
        unconverged = UNCONVERGED.search(text)
        if unconverged:
            return Failure("unconverged", f"pw.x: {unconverged[0].strip()}")
        box = BOX.search(text) or BOX.search(read_text(folder / "CRASH"))
        if box:
            return _classify(" ".join(box[1].split()))
        if OUT_OF_TIME in text:
            return Failure("timeout", f"pw.x: {OUT_OF_TIME} (max_seconds)")
        if finished and CONVERGED not in text:
            return Failure("crashed", f"pw.x ended, but {OUTPUT} does not say `{CONVERGED}`")
        if finished and END not in text:
            return Failure("crashed", f"{OUTPUT} does not end with `{END}`: it is not whole")
        return None


def read_functional(path: Path) -> str:
    """The functional in the header of a pseudopotential in UPF; empty where there is no such file or line.

    The format names it as one word, or as the names of exchange, correlation and their gradient corrections.
    """
    try:
        with path.open(encoding="utf-8", errors="replace") as stream:
            found = UPF_FUNCTIONAL.search(stream.read(HEADER))
    except OSError:
        return ""
    words = tuple((found[1] or found[2]).upper().split()) if found else ()
    return " ".join(NAMED_FUNCTIONALS.get(words[:4], words))


def _classify(words: str) -> Failure:
    reason = f"pw.x: {words[:600]}"
    if NUMERICAL.search(words):
        return Failure("unconverged", reason)
    if STRUCTURAL.search(words):
        return Failure("rejected", reason)
    if SYSTEM.search(words):
        return Failure("crashed", reason)
    return Failure(
        "config_error", f"label.parameters and label.profile: pw.x refuses them; {remedy_for(words)} ({reason})"
    )


def _pseudopotential(symbol: str, path: Path) -> dict[str, str]:
    if not path.is_file():
        raise LabelError(
            f"label.parameters.pseudopotentials.{symbol}: there is no file {path}; correct the name, or set"
            " label.profile: {pseudo_dir: ...}"
        )
    return content_for(symbol, path, f"label.parameters.pseudopotentials.{symbol}")


def _nested(parameters: Values) -> dict[str, Values]:
    """All namelists of ``parameters``, by name, in lower case, from nested and flat keys.

    Raises:
        LabelError: for a key that belongs to no namelist.
    """
    from ase.io.espresso_namelist.keys import ALL_KEYS

    sections: dict[str, Values] = {}
    flat = {key: value for key, value in parameters.items() if key not in OTHER_KEYWORDS}
    for key, value in (parameters.get("input_data") or {}).items():
        if isinstance(value, dict):
            _check_namelist(key)
            sections.setdefault(key.lower(), {}).update({name.lower(): item for name, item in value.items()})
        else:
            flat[key] = value
    for key, value in flat.items():
        if key in REFUSED:
            continue
        plain = key.lower().partition("(")[0]
        home = next((name for name, known in ALL_KEYS["pw"].items() if plain in known), None)
        if home is None:
            raise LabelError(
                f"label.parameters.{key}: pw.x has no such setting, and ASE would drop it; correct its name, or write"
                f" it into its namelist, e.g. input_data: {{system: {{{key}: ...}}}}"
            )
        sections.setdefault(home, {})[key.lower()] = value
    return sections


def _check_namelist(name: str) -> None:
    from ase.io.espresso_namelist.keys import ALL_KEYS

    known = sorted(ALL_KEYS["pw"])
    if name.lower() not in known:
        raise LabelError(
            f"label.parameters.input_data.{name}: pw.x has no such namelist, and ASE would drop it; it has"
            f" {', '.join(known)}"
        )
