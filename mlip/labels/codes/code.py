"""What labels need to know of the code that computes them; a calculator without a module of its own gets this."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar

from mlip.labels.contents import leaves, normalise, with_contents, without_keys
from mlip.labels.importing import LabelError
from mlip.labels.triage import Failure

Values = dict[str, Any]
Ladder = tuple[Values, ...]

OWN_PLACES = frozenset({"directory", "txt", "atoms"})
"""Parameters that the labeller sets itself: each attempt has a folder of its own."""

MESH_CARD = re.compile(r"\bK_?POINTS\b", re.IGNORECASE)
"""Where input in a program's own words chooses k-points."""
SMALL_PERIOD = 10.0
"""Å, geometric mean of the periods: in larger cells Γ alone may do."""
RUN_KEYS = ("task", "runtyp", "jobtype", "job_type", "calculationmode", "md.numcgsteps", "md.steps")
"""Where codes are told to move atoms, in lower case: NWChem and CASTEP, GAMESS, Q-Chem, Octopus, SIESTA."""
MOVING = re.compile(r"opt|relax|dynamics|saddle|^(go|md|td|ts|irc)$", re.IGNORECASE)


class Code:
    """A calculator that computes inside the worker's process, or one that nothing more is known of.

    Subclasses describe codes. ``parameters`` are always keyword arguments of the ASE calculator,
    ``profile`` says where the program and its data are on this machine.

    Attributes:
        calculators: import paths of the ASE calculators; the first one stands in keys.
        runs_program: whether a program of its own computes: it may use all threads of the job.
        tells_convergence: whether an SCF that did not converge is always noticed.
        profile_keys: what ``label.profile`` may hold.
        inert: parameters, at any depth and in lower case, that never change a label's value.
        outputs: patterns of the code's own outputs; a failure keeps their tails.
        version_pattern: of the program's version, its first group, in one of ``outputs``; None: it is not known.
        numerics: the only parameters that an escalation may change; None: all but known physics.
        takes_moments: whether initial magnetic moments of a structure reach it.
        takes_directions: whether they may be vectors.
        mesh_names: beginnings of parameters (lower case, at any depth) that choose k-points; without any of them
            it takes Γ alone. None where that is not known.
        needs_cell: whether it computes in a box even where nothing is periodic.
    """

    name: ClassVar[str] = "the calculator"
    calculators: ClassVar[tuple[str, ...]] = ()
    runs_program: ClassVar[bool] = False
    tells_convergence: ClassVar[bool] = False
    takes_moments: ClassVar[bool] = True
    takes_directions: ClassVar[bool] = True
    profile_keys: ClassVar[frozenset[str]] = frozenset()
    inert: ClassVar[frozenset[str]] = frozenset()
    outputs: ClassVar[tuple[str, ...]] = ()
    version_pattern: ClassVar[str | None] = None
    numerics: ClassVar[frozenset[str] | None] = None
    mesh_names: ClassVar[tuple[str, ...] | None] = None
    needs_cell: ClassVar[bool] = False

    def split(self, parameters: Values, profile: Values) -> tuple[Values, Values]:
        """Parameters and profile, each with what belongs to it; the same for every way to write them."""
        return dict(parameters), dict(profile)

    def functional(self, parameters: Values, profile: Values) -> str:
        """The functional that the code's files, not its parameters, choose; empty where that is not known."""
        del parameters, profile
        return ""

    def check(self, parameters: Values, profile: Values) -> None:
        """Refuse what cannot work or would corrupt labels silently.

        Raises:
            LabelError: naming the key and the remedy.
        """
        unknown = sorted(set(profile) - self.profile_keys)
        if unknown:
            known = f"{self.name} has {', '.join(sorted(self.profile_keys))}" if self.profile_keys else "it has none"
            raise LabelError(f"label.profile.{unknown[0]}: unknown to {self.name}; {known}")
        reason = "moves atoms: labels are of given positions; remove it"
        refuse(parameters, RUN_KEYS, _moves_atoms, reason)
        refuse(parameters, ("opt", "optgeom"), lambda value: value is not None and not is_false(value), reason)
        reason = "accepts an SCF that did not converge: wrong labels, status ok; remove it"
        refuse(parameters, ("scf.mustconverge", "scfmustconverge"), is_false, reason)
        for key in sorted(OWN_PLACES & set(parameters)):
            raise LabelError(
                f"label.parameters.{key}: set by the labeller itself, a private folder for each attempt; remove it"
            )

    def ladder(self, parameters: Values) -> Ladder:
        """Changes of ``parameters``, each on top of those before it, for an SCF that does not converge."""
        del parameters
        return ()

    def deciding(self, parameters: Values) -> Values:
        """``parameters`` without those that never change a label's value."""
        return without_keys(parameters, self.inert) if self.inert else dict(parameters)

    def identity(self, parameters: Values, profile: Values) -> Values:
        """What of the settings decides labels: ``parameters``, with files by content, and whatever else there is.

        Raises:
            LabelError: when a file that they name is missing.
            TypeError: when ``parameters`` hold a type that JSON does not know.
        """
        del profile
        return {"parameters": with_contents(normalise(self.deciding(parameters)))}

    def element_files(self, symbols: Iterable[str], parameters: Values, profile: Values) -> Values:
        """Content of the files that the code picks by element, for ``symbols``."""
        del symbols, parameters, profile
        return {}

    def with_state(self, parameters: Values, charge: float, multiplicity: int | None) -> Values:
        """``parameters`` for a structure with a total ``charge`` (e) and spin ``multiplicity``.

        Raises:
            LabelError: when the calculator cannot be told.
        """
        del parameters
        state = f"charge {charge:g}" if charge else f"multiplicity {multiplicity}"
        raise LabelError(
            f"label.calculator: the structure carries a {state}, which {self.name} is not told;"
            " remove it from the structure's file, or use a calculator that takes it"
        )

    def parameters_for(self, atoms: Any, parameters: Values) -> Values:
        """``parameters`` for the total ``charge`` and the ``multiplicity`` in ``atoms.info``, and its moments.

        Raises:
            LabelError: when the calculator cannot be told.
        """
        charge, multiplicity = atoms.info.get("charge", 0.0), atoms.info.get("multiplicity")
        if charge or multiplicity is not None:
            parameters = self.with_state(parameters, charge, multiplicity)
        self.check_moments(atoms, parameters)
        return parameters

    def check_moments(self, atoms: Any, parameters: Values) -> None:
        """Refuse initial magnetic moments of ``atoms`` that the code, run with ``parameters``, cannot begin with.

        Raises:
            LabelError: with the remedy.
        """
        del parameters
        moments = atoms.get_initial_magnetic_moments()
        if not moments.any():
            return
        if not self.takes_moments and atoms.info.get("multiplicity") is None:
            raise LabelError(
                f"label.calculator: the structure carries initial magnetic moments, which {self.name} is not told"
                " by ASE; remove them, or write a `multiplicity` into the structure's file"
            )
        if moments.ndim > 1 and self.takes_moments and not self.takes_directions:
            raise LabelError(
                f"structures: the initial magnetic moments of {atoms.get_chemical_formula()} are vectors, and"
                f" {self.name} takes one number for each atom; write their components along z into the structure's file"
            )

    def build(self, factory: Any, parameters: Values, profile: Values, folder: Path, atoms: Any) -> Any:
        """The calculator for ``atoms``, which writes into ``folder`` only."""
        del atoms, profile
        calculator = factory(**parameters)
        place_calculator(calculator, folder)
        return calculator

    def read_failure(self, folder: Path, finished: bool) -> Failure | None:
        """What the code's own outputs in ``folder`` say went wrong; None when they say nothing.

        ``finished``: whether ASE found results.
        """
        del folder, finished
        return None

    def read_program(self, folder: Path) -> str | None:
        """Name and version of the program that wrote the outputs in ``folder``; None where they do not say."""
        for path in (path for pattern in self.outputs for path in sorted(folder.glob(pattern))):
            match = re.search(self.version_pattern, read_head(path)) if self.version_pattern else None
            if match:
                return f"{self.name} {' '.join(match[1].split())}"
        return None

    def files_of(self, calculator: Any, symbols: Iterable[str]) -> Values:
        """Content of the files that ``calculator``, made by a function or class of a user's own, reads for ``symbols``.

        Raises:
            Exception: whatever a calculator that is set up otherwise than ASE's leads to.
        """
        del calculator, symbols
        return {}

    def check_cell(self, atoms: Any) -> None:
        """Refuse ``atoms`` without a cell where the code needs one; its own words would not say so.

        Raises:
            LabelError: with the formula and the remedy.
        """
        if self.needs_cell and atoms.cell.rank < 3:
            raise LabelError(
                f"structures: {atoms.get_chemical_formula()} has no cell, and {self.name} computes in one; write one"
                " into its file, with 5 Å or more of vacuum on each side, e.g. with ASE: atoms.center(vacuum=5)"
            )

    def traps(self, atoms: Any, parameters: Values) -> list[str]:
        """Settings that the code accepts silently and that often give wrong labels: here, Γ alone in a small cell."""
        if self.mesh_names is None or not is_small_cell(atoms):
            return []
        for path, value in leaves(parameters):
            if value is None:
                continue  # `kpts: null` is no mesh
            if any(name.lower().startswith(self.mesh_names) for name in path) or MESH_CARD.search(str(value)):
                return []
        start = f"no `{self.mesh_names[0]}`" if self.mesh_names else f"{self.name} has no k-points"
        return [f"{start}: a small periodic cell is sampled at Γ only"]


def _moves_atoms(value: Any) -> bool:
    if isinstance(value, bool | int | float):
        return bool(value)
    return value is not None and not is_false(value) and (is_true(value) or bool(MOVING.search(str(value))))


def place_calculator(calculator: Any, folder: Path) -> None:
    """Let ``calculator`` write into ``folder``, as text or as a path, whichever it takes."""
    from ase.calculators.genericfileio import GenericFileIOCalculator

    if isinstance(calculator, GenericFileIOCalculator):
        calculator.directory = folder
    elif hasattr(calculator, "directory"):
        calculator.directory = str(folder)


def is_small_cell(atoms: Any) -> bool:
    """Whether matter in ``atoms`` goes on with periods below ``SMALL_PERIOD``; those across vacuum do not count."""
    from ase.cell import Cell

    from mlip.structures.kinds import periodic_axes

    try:
        axes = periodic_axes(atoms)
    except ValueError:  # a broken geometry, which the guards refuse
        axes = atoms.pbc
    periods = Cell(atoms.cell.array * axes[:, None])
    n_periodic = int(axes.sum())
    if n_periodic == 0 or periods.rank < n_periodic:
        return False
    return bool(periods.complete().volume < SMALL_PERIOD**n_periodic)


def leaf(parameters: Values, *names: str) -> tuple[str, Any] | None:
    """The dotted path and value of the first parameter, at any depth, that has one of ``names`` (lower case)."""
    for path, value in leaves(parameters):
        if path[-1].lower() in names:
            return ".".join(path), value
    return None


def refuse(parameters: Values, names: tuple[str, ...], wrong: Any, reason: str) -> None:
    """Raise when one of ``names`` has a value of which ``wrong(value)`` is true.

    Raises:
        LabelError: with the key, the value and ``reason``.
    """
    for path, value in leaves(parameters):
        if path[-1].lower() in names and wrong(value):
            raise LabelError(f"label.parameters.{'.'.join(path)}: {value!r} {reason}")


def read_text(path: Path, most: int = 50_000_000) -> str:
    """The text of an output, its end if it is longer than ``most`` bytes; empty when there is none."""
    try:
        with path.open("rb") as stream:
            stream.seek(max(0, path.stat().st_size - most))
            return stream.read().decode("utf-8", errors="replace")
    except OSError:
        return ""


def read_head(path: Path, most: int = 200_000) -> str:
    """The first ``most`` bytes of an output; empty when there is none."""
    try:
        with path.open("rb") as stream:
            return stream.read(most).decode("utf-8", errors="replace")
    except OSError:
        return ""


def is_true(value: Any) -> bool:
    """Whether ``value`` is true as a program's input has it, e.g. ``.true.``."""
    return str(value).strip(". ").lower() in ("true", "t", "yes", "on", "1")


def is_false(value: Any) -> bool:
    """Whether ``value`` is false as a program's input has it, e.g. ``.false.``."""
    return str(value).strip(". ").lower() in ("false", "f", "no", "off", "0")
