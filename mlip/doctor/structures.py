"""Whether the starting structures fit what the configuration wants to do with them, told before anything is run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from mlip.config.system import Config
from mlip.config.walkers import list_all_demands

if TYPE_CHECKING:
    from ase import Atoms


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
    """Walkers that cannot begin in their structures, and kinds of ``prepare`` that none of these allows.

    Args:
        config: Configuration of the system.
        structures: Its starting structures, in order.
    """
    return [*_complain_of_walkers(config, structures), *_complain_of_kinds(config, structures)]


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
