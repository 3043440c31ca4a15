"""Electronic states of one composition: a potential that sees nuclei alone learns the average of several."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from ase import Atoms

from mlip.io.electrons import electronic_state
from mlip.structures.geometry import is_lone

MOMENT = 0.05
"""μB, mean size of an element's initial moments below which there are none."""
PARALLEL, ANTIPARALLEL = 0.8, 0.2
"""Net moment over the mean size of an element's moments: above the one and below the other the order is clear."""


def find_conflicts(structures: Sequence[Atoms]) -> list[str]:
    """Compositions that occur in several states, each with both states and the remedy.

    Compared are the total charge, the multiplicity (without one, the lowest that the number of electrons allows), and
    the order of the initial magnetic moments of each element: none, parallel or antiparallel. Crystals are of one
    composition with equal shares of the elements, all else with equal formulas, and so is everything where the
    multiplicity, that of all electrons together, is compared. Isolated atoms are left out of comparisons of spins.
    """
    states: dict[tuple[str, str], dict[str, str]] = {}
    for index, atoms in enumerate(structures):
        name = str(atoms.info.get("structure_id", f"structure {index}"))
        for quantity, value in _states(atoms):
            composition = _composition(atoms, whole=quantity == "multiplicity" or not atoms.pbc.all())
            states.setdefault((composition, quantity), {}).setdefault(value, name)
    return [
        f"{composition} is there with {quantity} {' and '.join(sorted(names))}"
        f" ({', '.join(names[value] for value in sorted(names))}), which the potential cannot tell apart; train one"
        " potential for each"
        for (composition, quantity), names in states.items()
        if len(names) > 1
    ]


def _composition(atoms: Atoms, whole: bool) -> str:
    formula = atoms.symbols.formula
    return (formula if whole else formula.reduce()[0]).format("hill")


def _states(atoms: Atoms) -> Iterable[tuple[str, str]]:
    state = electronic_state(atoms)
    charge, spin = state.get("charge", 0), state.get("spin")
    yield "charge", f"{charge:g}"
    if is_lone(atoms):
        return
    moments = atoms.get_initial_magnetic_moments()
    if moments.ndim == 1 and not (np.abs(moments) > MOMENT).any():
        lowest = 1 + round(float(atoms.numbers.sum() - charge)) % 2
        yield "multiplicity", f"{lowest if spin is None else spin:g}"
    if spin is None and moments.ndim == 1:
        yield from _orders(atoms, moments)


def _orders(atoms: Atoms, moments: np.ndarray) -> Iterable[tuple[str, str]]:
    """The order of each element's moments [n_atoms] (μB), where it is clear."""
    for symbol in sorted(set(atoms.symbols)):
        of_element = moments[atoms.symbols == symbol]
        size, net = float(np.abs(of_element).mean()), abs(float(of_element.mean()))
        if size < MOMENT:
            yield f"moments of {symbol}", "none"
        elif net > PARALLEL * size:
            yield f"moments of {symbol}", "parallel"
        elif net < ANTIPARALLEL * size:
            yield f"moments of {symbol}", "antiparallel"


def typical_moments(atoms: Atoms, numbers: Sequence[int]) -> np.ndarray | None:
    """Initial moments, ``[n]`` or ``[n, 3]`` μB, for new atoms of ``numbers`` as their elements have them in ``atoms``.

    Each is the largest of its element; where these are antiparallel, every other new atom's points the other way, so
    that the order is that of ``atoms``. None where ``atoms`` have no moments.
    """
    moments = np.asarray(atoms.get_initial_magnetic_moments(), float)
    if not np.abs(moments).max(initial=0.0) > MOMENT:
        return None
    found: list[np.ndarray] = []
    for place, number in enumerate(numbers):
        of_element = moments[atoms.numbers == number]
        sizes = np.linalg.norm(of_element.reshape(len(of_element), -1), axis=1)
        opposed = np.linalg.norm(of_element.mean(axis=0)) < ANTIPARALLEL * sizes.mean()
        turned = opposed and list(numbers[:place]).count(number) % 2 == 1
        found.append(of_element[sizes.argmax()] * (-1 if turned else 1))
    return np.array(found)
