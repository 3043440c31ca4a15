"""CP2K through ``ase.calculators.cp2k.CP2K``, which keeps a ``cp2k_shell`` running."""

from __future__ import annotations

import os
import re
import shlex
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mlip.labels.codes.code import Ladder, Values, read_text
from mlip.labels.codes.kmesh import mesh_for
from mlip.labels.codes.magnetism import find_fixed_occupations
from mlip.labels.codes.program import COMMON_INERT, Program, absolute_words, ase_section, ask_version
from mlip.labels.contents import content_of, folder_at, is_file, normalise
from mlip.labels.importing import LabelError
from mlip.labels.triage import Failure

OUTPUT = "cp2k.out"
UNCONVERGED = re.compile(r"SCF run NOT converged|outer SCF loop FAILED to converge")
CONVERGED = re.compile(r"SCF run converged|outer SCF loop converged")
STARTED = "SCF WAVEFUNCTION OPTIMIZATION"
ABORT = re.compile(r"\[ABORT\].*?\n(.*?)\n\s*\*{20,}", re.DOTALL)
ART = re.compile(r"^ ?\*?\s*(\\___/|\||O/\||/\| \||/ \\|/ +\\|___)?\s*|\s*\*?$")
OF_SETTINGS = re.compile(
    r"not found|does not exist|cannot be opened|unknown|keyword|section|invalid|must"
    r"|not (implemented|available|supported)",
    re.IGNORECASE,
)
FILE_NAMES = re.compile(r"(?im)^\s*(\w*FILE_NAME)\s+(\S+)")
INERT_LINES = re.compile(
    r"(PROJECT(_NAME)?|RUN_TYPE|PRINT_LEVEL|IOLEVEL|WALLTIME|SAVE_MEM|PREFERRED_\w+_LIBRARY)\b", re.IGNORECASE
)
"""Of &GLOBAL: how it runs and what it prints."""
EMPTY = frozenset({"&GLOBAL", "&FORCE_EVAL", "&DFT", "&SCF"})
"""Sections that say nothing when there is nothing in them."""
OT = re.compile(r"&OT\b", re.IGNORECASE)
SHELLS = ("cp2k_shell.psmp", "cp2k_shell", "cp2k_shell.ssmp", "cp2k.psmp -s", "cp2k -s")
FILES = {"basis_set_file": "BASIS_MOLOPT", "potential_file": "POTENTIAL"}

CP2K_LADDER: Ladder = (
    {"max_scf": 200},
    {"max_scf": 300, "mixing": {"METHOD": "BROYDEN_MIXING", "ALPHA": 0.1, "NBROYDEN": 8}},
)


class Cp2k(Program):
    """CP2K prints that its SCF did not converge and returns energy and forces all the same.

    Besides ASE's parameters there are ``kpts`` (a mesh, or ``{density: ...}``) and ``mixing``
    (keywords of the section MIXING), which go into ``inp``.
    """

    name = "CP2K"
    calculators = ("ase.calculators.cp2k.CP2K",)
    tells_convergence = True
    mesh_names = ("kpts",)
    needs_cell = True
    takes_moments = False
    section = "cp2k"
    program_pattern = r"cp2k\S*"
    version_arguments = ("--version",)
    version_pattern = r"CP2K version (\S+)"
    profile_keys = frozenset({"command", "data_dir"})
    outputs = (OUTPUT,)
    inert = COMMON_INERT | {"debug", "print_level", "auto_write", "set_pos_file"}

    def command(self, profile: Values) -> str:
        """A command that starts CP2K's shell: ``-s`` is added where it is missing."""
        given = profile.get("command") or ase_section(self.section).get("cp2k_shell")
        given = given or os.environ.get("ASE_CP2K_COMMAND")
        given = given or next((shell for shell in SHELLS if shutil.which(shell.split()[0])), SHELLS[0])
        words = shlex.split(given)
        if "-s" not in words and "--shell" not in words and "cp2k_shell" not in given:
            given += " -s"
        return absolute_words(given)

    def check(self, parameters: Values, profile: Values) -> None:
        """Refuse what accepts unconverged results or moves atoms."""
        super().check(parameters, profile)
        text = str(parameters.get("inp", ""))
        if re.search(r"IGNORE_CONVERGENCE_FAILURE(?!\s+(\.?F|NO|OFF))", text, re.IGNORECASE):
            raise LabelError(
                "label.parameters.inp: IGNORE_CONVERGENCE_FAILURE accepts an SCF that did not converge; remove it"
            )
        for run in re.findall(r"^\s*(?:RUN_TYPE|PROGRAM_NAME)\s+(\S+)", text, re.IGNORECASE | re.MULTILINE):
            if run.upper() not in ("ENERGY", "ENERGY_FORCE", "NONE", "CP2K"):
                raise LabelError(f"label.parameters.inp: RUN_TYPE {run} is no single point; remove it")

    def traps(self, atoms: Any, parameters: Values) -> list[str]:
        """Metals without smearing; OT has none."""
        text = str(parameters.get("inp", ""))
        setting = "&OT" if OT.search(text) else "no &SMEAR"
        smeared = re.search(r"&SMEAR\b(?!\s+(\.?F|NO|OFF))", text, re.IGNORECASE)
        remedy = "&SMEAR and ADDED_MOS in the section SCF of `inp`"
        return super().traps(atoms, parameters) + ([] if smeared else find_fixed_occupations(atoms, setting, remedy))

    def ladder(self, parameters: Values) -> Ladder:
        """More steps, then slower mixing; with orbital transformation, which has none, more steps only."""
        own = parameters.get("max_scf")
        floor = own if isinstance(own, int) else 0
        steps = [step | {"max_scf": max(step["max_scf"], floor)} for step in CP2K_LADDER]
        if OT.search(str(parameters.get("inp", ""))):
            steps = [{"max_scf": step["max_scf"]} for step in steps]
        return tuple(steps)

    def identity(self, parameters: Values, profile: Values) -> Values:
        """Files of basis sets, potentials and other data count by content, found as CP2K finds them."""
        self.program_version(profile)  # asked first: without the program, nothing is found
        named = {key: parameters.get(key, default) for key, default in FILES.items()}
        found: Values = {key: content_of(self._data_file(f"label.parameters.{key}", str(name), profile))
                 for key, name in named.items() if name}  # fmt: skip
        rest = {key: value for key, value in parameters.items() if key not in FILES and key != "inp"}
        identity = super().identity(rest, profile)
        text = str(parameters.get("inp", ""))
        inner = {match[2]: content_of(self._data_file("label.parameters.inp", match[2], profile))
                 for match in FILE_NAMES.finditer(text)}  # fmt: skip
        lines = [" ".join(line.split("!")[0].split()) for line in text.splitlines()]
        deciding = _deciding_lines([line for line in lines if line])
        found |= {"inp": deciding} if deciding else {}
        identity["parameters"] |= normalise(found)
        return identity | ({"inp_files": inner} if inner else {})

    def _data_file(self, key: str, name: str, profile: Values) -> Path:
        folder = self.data_dir(profile)
        for path in (Path(name), folder / name):
            if path.is_file():
                return path
        raise LabelError(f"{key}: there is no file {name} here or in {folder}; correct it, or set CP2K_DATA_DIR")

    def data_dir(self, profile: Values) -> Path:
        """Folder of CP2K's data: the profile's, the environment's, or the one that it was built with."""
        given = profile.get("data_dir") or os.environ.get("CP2K_DATA_DIR")
        if given:
            return folder_at(given)
        for word in shlex.split(self.command(profile)):
            program = shutil.which(word) if re.fullmatch(self.program_pattern, Path(word).name) else None
            if program:
                built = ask_version((program, "--version"), r'__DATA_DIR="([^"\n]+)"')
                share = Path(program).parents[1] / "share" / "cp2k"
                candidates = [Path(built)] if built else []
                return next((f for f in [*candidates, share / "data", share] if f.is_dir()), share)
        return Path("/usr/share/cp2k")

    def files_of(self, calculator: Any, symbols: Iterable[str]) -> Values:
        """Basis sets and potentials of a ``CP2K`` of a user's own: files of all elements."""
        del symbols
        named = {key: calculator.parameters.get(key, default) for key, default in FILES.items()}
        return {key: content_of(self._data_file(key, str(name), {})) for key, name in named.items() if name}

    def with_state(self, parameters: Values, charge: float, multiplicity: int | None) -> Values:
        """``charge``, and ``multiplicity`` with unrestricted spins."""
        if charge != int(charge):
            raise LabelError(f"the structure carries a charge of {charge:g}, and CP2K takes whole ones; correct it")
        given = re.search(r"^\s*(CHARGE|MULTIPLICITY)\b", str(parameters.get("inp", "")), re.IGNORECASE | re.MULTILINE)
        if given:
            raise LabelError(
                f"label.parameters.inp: {given[1]} stands here for all structures, and this one carries a charge"
                f" {charge:g} and multiplicity {multiplicity or 1} of its own; remove it from `inp`, or from the file"
            )
        spin = {} if multiplicity is None else {"multiplicity": multiplicity, "uks": multiplicity != 1}
        return parameters | {"charge": int(charge)} | spin

    def build(self, factory: Any, parameters: Values, profile: Values, folder: Path, atoms: Any) -> Any:
        """CP2K's shell in ``folder``; names in its input are short that way, as it needs them."""
        rest = {key: value for key, value in parameters.items() if key not in ("kpts", "mixing", "inp")}
        for key in FILES:
            if isinstance(rest.get(key), str) and is_file(rest[key]):
                rest[key] = str(Path(rest[key]).absolute())
        if str(rest.get("print_level", "LOW")).upper() == "SILENT":
            rest["print_level"] = "LOW"  # else nobody could tell whether the SCF converged
        rest["inp"] = self._input(parameters, atoms)
        if "data_dir" in profile:
            os.environ["CP2K_DATA_DIR"] = str(self.data_dir(profile))
        command = self.command(profile)
        os.chdir(folder)
        return factory(**rest, label="cp2k", command=command)

    @staticmethod
    def _input(parameters: Values, atoms: Any) -> str:
        """``inp`` with k-points and mixing, files by absolute path, and no second MAX_SCF."""
        from ase.calculators.cp2k import parse_input

        text = FILE_NAMES.sub(
            lambda m: f"{m[1]} {Path(m[2]).absolute() if is_file(m[2]) else m[2]}", str(parameters.get("inp", ""))
        )
        root = parse_input(text)
        if parameters.get("max_scf"):
            scf = root.get_subsection("FORCE_EVAL/DFT/SCF")
            scf.keywords = [line for line in scf.keywords if line.split()[0].upper() != "MAX_SCF"]
        if parameters.get("kpts") is not None:
            mesh = " ".join(str(n) for n in _monkhorst_pack(parameters["kpts"], atoms))
            root.add_keyword("FORCE_EVAL/DFT/KPOINTS", f"SCHEME MONKHORST-PACK {mesh}")
        for key, value in (parameters.get("mixing") or {}).items():
            section = root.get_subsection("FORCE_EVAL/DFT/SCF/MIXING")
            section.keywords = [line for line in section.keywords if line.split()[0].upper() != key.upper()]
            section.keywords.append(f"{key} {value}")
        return "\n".join(root.write())

    def read_failure(self, folder: Path, finished: bool) -> Failure | None:
        """By the words of CP2K: an SCF that did not converge, or why it stopped."""
        text = read_text(folder / OUTPUT)
        unconverged = UNCONVERGED.search(text)
        if unconverged:
            return Failure("unconverged", f"CP2K: {unconverged[0]}")
        abort = ABORT.search(text)
        if abort:
            words = " ".join(" ".join(ART.sub("", line) for line in abort[1].splitlines()).split())
            if OF_SETTINGS.search(words):
                return Failure("config_error", f"label.parameters: CP2K refuses them; correct them (CP2K: {words})")
            return Failure("crashed", f"CP2K: {words}")
        if finished and (STARTED in text or not text) and not CONVERGED.search(text):
            return Failure("unconverged", f"CP2K: {OUTPUT} does not say that the SCF run converged")
        return None


def _deciding_lines(lines: list[str]) -> list[str]:
    """``lines`` of an input without what they print, where, and for how long; sections that this empties go, too."""
    kept: list[str] = []
    printing = 0  # sections deep
    for line in lines:
        words = line.split()
        if printing or words[0].upper() == "&PRINT":
            printing += -1 if words[0].upper().startswith("&END") else line.startswith("&")
        elif words[0].upper().startswith("&END") and kept and kept[-1].upper() in EMPTY:
            kept.pop()
        elif not INERT_LINES.match(line):
            kept.append(line)
    return kept


def _monkhorst_pack(kpts: Any, atoms: Any) -> list[int]:
    size, gamma = mesh_for(kpts, atoms)
    if gamma and any(n % 2 == 0 for n in size):
        raise LabelError(
            f"label.parameters.kpts: {size} with Γ is no mesh of CP2K's MONKHORST-PACK; use odd numbers, leave `gamma`"
            " out, or write &KPOINTS into `inp`"
        )
    return size
