"""Which atoms of a slab lie on it, and which are part of it."""

import numpy as np
import pytest
from ase import Atoms
from ase.build import add_adsorbate, bcc100, bulk, diamond100, fcc100, fcc111, fcc211, surface
from ase.spacegroup import crystal

from mlip.structures.adsorption import find_adsorbed
from mlip.structures.kinds import dissect


def adsorbed(slab: Atoms) -> list[int]:
    slab.pbc = True
    return np.flatnonzero(find_adsorbed(slab, dissect(slab))).tolist()


def copper(*adatoms: str, size: tuple[int, int, int] = (3, 3, 4)) -> Atoms:
    slab = fcc111("Cu", size, vacuum=7)
    for place, symbol in enumerate(adatoms):
        add_adsorbate(slab, symbol, 2.0, "fcc", offset=(place, 0))
    return slab


def magnesia() -> Atoms:
    return surface(bulk("MgO", "rocksalt", a=4.21, cubic=True), (1, 0, 0), 2, vacuum=7, periodic=True).repeat((2, 2, 1))


@pytest.mark.parametrize("adatoms", [("Cu",), ("Au",), ("Cu", "Cu"), ("Cu", "O")])
def test_adatoms_of_metals_lie_on_the_slab(adatoms: tuple[str, ...]) -> None:
    assert adsorbed(copper(*adatoms)) == [36 + place for place in range(len(adatoms))]


def test_an_adatom_is_found_where_the_cell_cuts_the_slab() -> None:
    slab = fcc100("Pt", (3, 3, 4), vacuum=7)
    add_adsorbate(slab, "Pt", 2.0, "hollow")
    slab.pbc = True
    slab.translate([0, 0, -9])
    slab.wrap()
    assert adsorbed(slab) == [36]


def test_a_metal_of_its_own_on_an_oxide_lies_on_it() -> None:
    slab = magnesia()
    add_adsorbate(slab, "Au", 2.3, position=(0, 0))
    assert adsorbed(slab) == [64]


def alumina() -> Atoms:
    sites = [(0, 0, 0.352), (0.306, 0, 0.25)]
    corundum = crystal(["Al", "O"], sites, spacegroup=167, cellpar=[4.76, 4.76, 12.99, 90, 90, 120])
    return surface(corundum, (0, 0, 1), 1, vacuum=6, periodic=True)


def with_vacancy() -> Atoms:
    slab = copper(size=(2, 2, 4))
    del slab[-1]
    return slab


@pytest.mark.parametrize(
    "slab",
    [
        copper(),
        bcc100("Fe", (2, 2, 4), vacuum=7),
        diamond100("Si", (2, 2, 6), vacuum=7),
        fcc211("Cu", (3, 2, 3), vacuum=7),
    ]
    + [magnesia(), alumina(), with_vacancy()],
    ids=lambda slab: str(slab.symbols),
)
def test_the_outer_layers_of_a_slab_are_part_of_it(slab: Atoms) -> None:
    assert not adsorbed(slab)
