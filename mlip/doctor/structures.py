"""Whether the starting structures fit what the configuration wants to do with them, told before anything is run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from mlip.config.system import Config
from mlip.config.walkers import list_all_demands

if TYPE_CHECKING:
    from ase import Atoms


WIDE_GAP = 4.2
"""Å between planes of atoms that no crystal has: 3.4 in graphite and PbI2, 3.1 in xenon."""


class Complaint(NamedTuple):
    """Something that does not fit.

    Attributes:
        name: of the check that finds it.
        fatal: whether the loop would end with it.
    """

    name: str
    fatal: bool
    detail: str
    remedy: str


def find_complaints(config: Config, structures: Sequence[Atoms]) -> list[Complaint]:
    """What cannot be labelled, what may be no bulk, walkers that cannot begin, and kinds of ``prepare`` that nothing
    allows.

    Args:
        config: Configuration of the system.
        structures: Its starting structures, in order.
    """
    return [
        *_complain_of_cells(config, structures),
        *_complain_of_states(config, structures),
        *_complain_of_gaps(config, structures),
        *_complain_of_walkers(config, structures),
        *_complain_of_kinds(config, structures),
        *_complain_of_volumes(config, structures),
    ]


def _complain_of_volumes(config: Config, structures: Sequence[Atoms]) -> list[Complaint]:
    """Structures whose equation of state is asked for and that have no volume."""
    from mlip.loop.prepare_structures import check_compressible
    from mlip.structures.starting import StructureError, name_source

    found = []
    for number in config.assess.eos_structures if config.assess.eos_volumes else ():
        try:
            check_compressible(structures[number], name_source(config.structures[number]))
        except StructureError as error:
            found.append(Complaint("equation of state", True, str(error), "Or leave the structure out."))
    return found


def _complain_of_cells(config: Config, structures: Sequence[Atoms]) -> list[Complaint]:
    from mlip.labels.codes.registry import find_code
    from mlip.labels.importing import LabelError

    code, found = find_code(config.label.calculator), dict[str, Complaint]()
    for atoms in structures:
        try:
            code.check_cell(atoms)
        except LabelError as error:
            found[str(error)] = Complaint("cells", True, str(error), "Write a cell into the structure's file.")
    return list(found.values())


def _complain_of_states(config: Config, structures: Sequence[Atoms]) -> list[Complaint]:
    """Charges, multiplicities and initial moments that the code cannot be told."""
    from mlip.labels.codes.registry import find_code
    from mlip.labels.importing import LabelError
    from mlip.labels.store import decode_structure, encode_structure

    code, found = find_code(config.label.calculator), dict[str, Complaint]()
    try:
        parameters, _ = code.split(config.label.parameters, config.label.profile)
    except LabelError:  # told by the check of the labeller
        return []
    for atoms in structures:
        try:
            code.parameters_for(decode_structure(encode_structure(atoms)), parameters)
        except LabelError as error:
            remedy = "Correct the structure's file or `label`."
            found[str(error)] = Complaint("spin and charge", True, str(error), remedy)
    return list(found.values())


def _complain_of_gaps(config: Config, structures: Sequence[Atoms]) -> list[Complaint]:
    from mlip.structures.kinds import dissect, find_widest_gap
    from mlip.structures.starting import name_source

    complaints = []
    for source, atoms in zip(config.structures, structures, strict=True):
        if not atoms.pbc.all() or dissect(atoms).kind != "bulk":
            continue
        axis, gap = find_widest_gap(atoms)
        if gap > WIDE_GAP:
            detail = f"{name_source(source)} is taken for bulk, but {gap:.1f} Å along {'abc'[axis]} are empty"
            remedy = "If it is a slab or molecule, give it more vacuum: its cell would be strained like a bulk's."
            complaints.append(Complaint("vacuum", False, detail, remedy))
    return complaints


def _complain_of_walkers(config: Config, structures: Sequence[Atoms]) -> list[Complaint]:
    from mlip.structures.kinds import dissect
    from mlip.structures.starting import StructureError, name_source
    from mlip.structures.walkability import check_walkable

    found: dict[str, Complaint] = {}
    anatomies = [dissect(atoms) for atoms in structures]
    for demand in list_all_demands(config):
        number = demand.source_number
        try:
            check_walkable(structures[number], anatomies[number], demand, name_source(config.structures[number]))
        except StructureError as error:
            found[str(error)] = Complaint("walkers", True, str(error), "Change explore.walkers as the message says.")
    return list(found.values())


def _complain_of_kinds(config: Config, structures: Sequence[Atoms]) -> list[Complaint]:
    from mlip.structures.allowed import allow_kinds, find_unmet_kinds
    from mlip.structures.perturbations import Original

    settings = config.prepare
    if not settings.n_structures:
        return []
    originals = [Original.of(atoms) for atoms in structures]
    none = not any(allow_kinds(original, settings, has_phases=bool(settings.phases)) for original in originals)
    sentences = find_unmet_kinds(originals, settings) or (["no kind with a weight is possible"] if none else [])
    remedy = "Set its weight to 0, or add a starting structure that allows it."
    return [Complaint("prepare.kinds", none, sentence, remedy) for sentence in sentences]
