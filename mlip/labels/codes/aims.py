"""FHI-aims through ``ase.calculators.aims.Aims``."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mlip.labels.codes.code import Ladder, Values, is_false, read_text, refuse
from mlip.labels.codes.elements import content_for
from mlip.labels.codes.kmesh import mesh_for
from mlip.labels.codes.program import COMMON_INERT, Program, ase_section
from mlip.labels.contents import folder_at
from mlip.labels.importing import LabelError
from mlip.labels.triage import Failure

OUTPUT = "aims.out"
UNCONVERGED = re.compile(r"SELF-CONSISTENCY CYCLE DID NOT CONVERGE|scf_solver: SCF cycle not converged")
CONVERGED = "Self-consistency cycle converged."
END = "Have a nice day."
STARRED = re.compile(r"^ *\*+ *(\w[^\n]*)", re.MULTILINE)
LAST_WORDS = 4000  # characters; before, lines with stars are warnings that it went on after
OF_SETTINGS = re.compile(r"keyword|control\.in|species|unknown|not known|syntax|missing|conflict", re.IGNORECASE)

ASKED_FOR = frozenset({"compute_forces", "compute_analytical_stress"})
"""By this module, whatever the settings say: without them there is no label."""

AIMS_LADDER: Ladder = (
    {"sc_iter_limit": 300, "charge_mix_param": 0.1},
    {"sc_iter_limit": 600, "charge_mix_param": 0.02, "n_max_pulay": 10},
)


class Aims(Program):
    """FHI-aims says whether its self-consistency cycle converged."""

    name = "FHI-aims"
    calculators = ("ase.calculators.aims.Aims",)
    tells_convergence = True
    takes_directions = False
    mesh_names = ("k_grid", "kpts")
    section = "aims"
    default_command = "aims.x"
    program_pattern = r"aims\S*"
    version_arguments = ()
    version_pattern = r"FHI-aims version\s*:\s*(\S+)"
    profile_keys = frozenset({"command", "species_dir"})
    outputs = ("aims.err", OUTPUT)
    inert = COMMON_INERT | {
        "species_dir", "output_level", "walltime", "use_local_index", "load_balancing", "compute_forces",
        "compute_analytical_stress", "restart_write_only", "wf_prefix", "output", "xml_file", "check_stacksize",
        "check_cpu_consistency",
    }  # fmt: skip

    def check(self, parameters: Values, profile: Values) -> None:
        """Refuse what accepts unconverged results or moves atoms."""
        super().check(parameters, profile)
        reason = "goes on with an SCF that did not converge; remove it"
        refuse(parameters, ("postprocess_anyway",), lambda value: not is_false(value), reason)
        reason = "moves atoms: labels are of given positions; remove it"
        refuse(parameters, ("relax_geometry", "md_run"), lambda value: value is not None, reason)

    def ladder(self, parameters: Values) -> Ladder:
        """More steps and slower mixing."""
        own = parameters.get("sc_iter_limit")
        floor = own if isinstance(own, int) else 0
        return tuple(step | {"sc_iter_limit": max(step["sc_iter_limit"], floor)} for step in AIMS_LADDER)

    def species_dir(self, parameters: Values, profile: Values) -> Path | None:
        """Folder of the species' defaults: the settings', ASE's, or the environment's."""
        given = parameters.get("species_dir") or profile.get("species_dir")
        given = given or ase_section(self.section).get("default_species_directory")
        given = given or os.environ.get("AIMS_SPECIES_DIR")
        return folder_at(given) if given else None

    def element_files(self, symbols: Iterable[str], parameters: Values, profile: Values) -> Values:
        """Contents of the species' defaults."""
        folder = self.species_dir(parameters, profile)
        if folder is None:
            raise LabelError("label.profile.species_dir: missing; name a folder of species_defaults, e.g. .../light")
        found = {}
        for symbol in symbols:
            paths = sorted(folder.glob(f"*_{symbol}_default"))
            if not paths:
                raise LabelError(f"label.profile.species_dir: {folder} has no defaults for {symbol}; correct it")
            found[symbol] = content_for(symbol, paths[0], "label.profile.species_dir")
        return found

    def files_of(self, calculator: Any, symbols: Iterable[str]) -> Values:
        """The species' defaults of an ``Aims`` of a user's own."""
        given = getattr(calculator.profile, "default_species_directory", None)
        return self.element_files(symbols, dict(calculator.parameters), {"species_dir": given} if given else {})

    def with_state(self, parameters: Values, charge: float, multiplicity: int | None) -> Values:
        """``charge`` and ``fixed_spin_moment``."""
        spin = {} if multiplicity is None else {"spin": "collinear", "fixed_spin_moment": multiplicity - 1}
        return parameters | ({"charge": charge} if charge else {}) | spin

    def build(self, factory: Any, parameters: Values, profile: Values, folder: Path, atoms: Any) -> Any:
        """Energy, forces and, in crystals, the stress."""
        from ase.calculators.aims import AimsProfile

        chosen = {key: value for key, value in parameters.items() if key.lower() not in ASKED_FOR}
        chosen |= {"species_dir": str(self.species_dir(parameters, profile)), "compute_forces": True}
        if atoms.pbc.all():
            chosen |= {"compute_analytical_stress": True}
        if isinstance(chosen.get("kpts"), dict):
            chosen["k_grid"] = mesh_for(chosen.pop("kpts"), atoms)[0]
        return factory(**chosen, profile=AimsProfile(command=self.command(profile)), directory=folder)

    def read_failure(self, folder: Path, finished: bool) -> Failure | None:
        """By the words of FHI-aims, whatever the exit code."""
        text = read_text(folder / OUTPUT)
        if UNCONVERGED.search(text):
            return Failure("unconverged", f"FHI-aims: {UNCONVERGED.search(text)[0]}")  # type: ignore[index]
        if CONVERGED in text and END in text:
            return None
        errors = STARRED.findall(text[-LAST_WORDS:])
        if errors:
            words = "; ".join(" ".join(line.split()) for line in errors[-4:])
            if OF_SETTINGS.search(words):
                return Failure("config_error", f"label.parameters: FHI-aims refuses them ({words})")
            return Failure("crashed", f"FHI-aims: {words}")
        return Failure("crashed", f"FHI-aims: {OUTPUT} does not end with `{END}`") if finished else None
