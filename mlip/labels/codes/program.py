"""Programs that a calculator starts: their command, their version, and the profile that ASE wants."""

from __future__ import annotations

import functools
import os
import re
import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any, ClassVar

from mlip.labels.codes.code import Code, Values, read_text
from mlip.labels.importing import LabelError
from mlip.labels.triage import Failure

VERSION_SECONDS = 60.0
# SIESTA, Octopus, Elk and NWChem say it at the head of their outputs, in one of these forms.
VERSIONS = r"(?i)(?:siesta version\s*:\s*|\n\s*version\s*:\s*|\belk (?:code )?version\s+|\(NWChem\)\s+)(\S+)"
SIESTA_UNCONVERGED = re.compile(r"SCF_NOT_CONV[^\n]*")
COMMON_INERT = frozenset({"command", "directory", "label", "profile", "txt"})


class Program(Code):
    """A code that runs a program of its own in a folder and reads its files.

    The command is ``label.profile.command``, else that of ASE's configuration file or environment,
    else ``default_command``.

    Attributes:
        section: of ASE's configuration file.
        command_variables: environment variables that hold the command.
        program_pattern: of the program's name in a command that also has a launcher, e.g. ``srun -n 4 pw.x``.
        version_arguments: arguments with which the program prints its version; None when it does not.
    """

    runs_program = True
    profile_keys = frozenset({"command"})
    inert = COMMON_INERT
    section: ClassVar[str] = ""
    default_command: ClassVar[str] = ""
    command_variables: ClassVar[tuple[str, ...]] = ()
    program_pattern: ClassVar[str] = r".*"
    version_arguments: ClassVar[tuple[str, ...] | None] = None

    def split(self, parameters: Values, profile: Values) -> tuple[Values, Values]:
        """A ``profile`` among the parameters, as in ASE's documentation, belongs to the profile."""
        rest = dict(parameters)
        inner = rest.pop("profile", {})
        if not isinstance(inner, dict):
            raise LabelError(
                f"label.parameters.profile: {inner!r} is no mapping; write label.profile: {{command: ...}}"
            )
        if "command" in rest and "command" in self.profile_keys:
            inner = {"command": rest.pop("command")} | inner
        return rest, inner | profile

    def check(self, parameters: Values, profile: Values) -> None:
        """Refuse shared folders, too."""
        super().check(parameters, profile)
        for key in ("label", "restart"):
            if key in parameters:
                raise LabelError(f"label.parameters.{key}: the labeller gives each attempt a private folder; remove it")
        command = profile.get("command", "")
        if not isinstance(command, str):
            raise LabelError(f"label.profile.command: {command!r} is no text; write e.g. `srun {self.default_command}`")

    def command(self, profile: Values) -> str:
        """The command line, with programs that are named by a relative path made absolute."""
        from_ase = ase_section(self.section).get("command", "")
        from_environment = next((os.environ[name] for name in self.command_variables if os.environ.get(name)), "")
        return absolute_words(profile.get("command") or from_environment or from_ase or self.default_command)

    def identity(self, parameters: Values, profile: Values) -> Values:
        """Also the program's version, where it tells it."""
        version = self.program_version(profile)
        return super().identity(parameters, profile) | ({"program": f"{self.name} {version}"} if version else {})

    def program_version(self, profile: Values) -> str | None:
        """What the program says it is; None when it does not.

        Raises:
            LabelError: when there is no such program.
        """
        command = self.command(profile)
        words = shlex.split(command)
        found = [k for k, word in enumerate(words) if re.fullmatch(self.program_pattern, Path(word).name)]
        require_program(words[0] if words else "", command)
        if not found:
            return None
        program = words[found[-1]]
        require_program(program, command)
        if self.version_arguments is None or self.version_pattern is None:
            return None
        alone = ask_version((program, *self.version_arguments), self.version_pattern)
        return alone or ask_version((*words[: found[-1] + 1], *self.version_arguments), self.version_pattern)


class AnyProgram(Program):
    """A program without a module of its own, e.g. Octopus, Elk or ONETEP through ASE's calculators."""

    name = "the program"
    profile_keys = frozenset()
    outputs = ("*.err", "*.out", "*.log", "INFO.OUT", "log")
    version_pattern = VERSIONS

    def check(self, parameters: Values, profile: Values) -> None:
        """Nothing is known of its profile: ASE's class says what is wrong."""
        Code.check(self, parameters, {})
        if profile and "command" not in profile:
            raise LabelError("label.profile: `command` is missing; write e.g. {command: srun octopus}")

    def identity(self, parameters: Values, profile: Values) -> Values:
        """Without a version: it is not known how to ask, and read after the run."""
        words = absolute_words(profile.get("command", "")).split()
        if words:
            require_program(words[0], profile["command"])
        return Code.identity(self, parameters, profile)

    def read_failure(self, folder: Path, finished: bool) -> Failure | None:
        """Of SIESTA, which goes on with an SCF that did not converge where `SCF.MustConverge` is false."""
        del finished
        texts = (read_text(path) for path in sorted(folder.glob("*.out")))
        found = next((match for match in map(SIESTA_UNCONVERGED.search, texts) if match), None)
        return Failure("unconverged", " ".join(found[0].split())) if found else None

    def split(self, parameters: Values, profile: Values) -> tuple[Values, Values]:
        """A ``profile`` among the parameters belongs to the profile."""
        rest = dict(parameters)
        inner = rest.pop("profile", {})
        return rest, (inner if isinstance(inner, dict) else {}) | profile

    def build(self, factory: Any, parameters: Values, profile: Values, folder: Path, atoms: Any) -> Any:
        """With the profile's class that stands beside the calculator's, e.g. ``OctopusProfile``."""
        del atoms
        extra: Values = {}
        if profile and hasattr(factory, "fileio_rules") and factory.fileio_rules is None:  # an older form, with a shell
            extra = {"command": absolute_words(profile["command"])}
        elif profile:
            extra = {"profile": make_profile(factory, profile)}
        return factory(**parameters, **extra, directory=folder)


def make_profile(factory: Any, profile: Values) -> Any:
    """ASE's profile object of a calculator class.

    Raises:
        LabelError: when ASE has none, or it refuses a key.
    """
    import importlib

    from ase.calculators.calculator import StandardProfile
    from ase.calculators.genericfileio import GenericFileIOCalculator

    values = profile | {"command": absolute_words(profile["command"])}
    module = importlib.import_module(factory.__module__)
    if not (isinstance(factory, type) and issubclass(factory, GenericFileIOCalculator)):
        return StandardProfile(values.pop("command"), values)
    names = [name for name in vars(module) if name.lower() == f"{factory.__name__}profile".lower()]
    if not names:
        raise LabelError(f"label.profile: {factory.__name__} has none; use ASE's configuration file")
    try:
        return getattr(module, names[0])(**values)
    except TypeError as error:
        raise LabelError(f"label.profile: {factory.__name__} refuses it: {error}") from None


def require_program(program: str, command: str) -> None:
    """Refuse a command whose program is not there.

    Raises:
        LabelError: naming both.
    """
    if "$" in command or "=" in program:  # for a shell to find out
        return
    if not program or shutil.which(program) is None:
        raise LabelError(
            f"label.profile.command: there is no program `{program}` here (command `{command}`); load its module, or"
            " set label.profile: {command: ...}"
        )


@functools.cache
def ask_version(command: tuple[str, ...], pattern: str) -> str | None:
    """What matches ``pattern`` in what ``command`` prints; None when it prints nothing like it."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            done = subprocess.run(
                command, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, timeout=VERSION_SECONDS, check=False
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
    match = re.search(pattern, (done.stdout + done.stderr).decode("utf-8", errors="replace"))
    return match[1] if match else None


def absolute_words(command: str) -> str:
    """``command`` with words that are relative paths of files made absolute: programs run in other folders."""
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise LabelError(f"label.profile.command: {command!r} cannot be read ({error}); balance its quotes") from None
    if any(character in command for character in "$`<>|;&*"):  # a shell's own words
        return command
    return shlex.join(str(Path(word).absolute()) if "/" in word and Path(word).is_file() else word for word in words)


def ase_section(name: str) -> dict[str, str]:
    """The section ``name`` of ASE's configuration file, which ``ASE_CONFIG_PATH`` names; empty without one."""
    from ase.config import Config

    parser = Config.read().parser
    return dict(parser[name]) if name and parser.has_section(name) else {}
