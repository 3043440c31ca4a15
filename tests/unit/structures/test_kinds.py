"""What structures are recognised as, whatever their boundary conditions say."""

import numpy as np
import pytest
from ase import Atoms
from ase.build import (
    add_adsorbate,
    bcc110,
    bulk,
    diamond100,
    diamond111,
    fcc111,
    graphene,
    hcp0001,
    molecule,
    mx2,
    nanotube,
    surface,
)
from ase.spacegroup import crystal

from mlip.structures.kinds import dissect, find_widest_gap


def in_box(atoms: Atoms, vacuum: float = 4.0) -> Atoms:
    atoms.center(vacuum=vacuum)
    atoms.pbc = True
    return atoms


def liquid_water(n_side: int = 2, spacing: float = 3.1) -> Atoms:
    """Water molecules turned at random, cut by the cell."""
    rng = np.random.default_rng(0)
    liquid = Atoms(cell=[n_side * spacing] * 3, pbc=True)
    for place in np.ndindex(n_side, n_side, n_side):
        water = molecule("H2O")
        for axis in "zx":
            water.rotate(float(rng.uniform(0, 360)), axis)
        water.translate(np.array(place) * spacing)
        liquid += water
    liquid.wrap()
    return liquid


def zeolite() -> Atoms:
    """Silica in the framework LTA: pores of 11 Å, windows of 4 Å."""
    sites = [(0, 0.1847, 0.3701), (0, 0.2224, 0.5), (0, 0.2938, 0.2938), (0.1117, 0.1117, 0.3434)]
    return crystal(["Si", "O", "O", "O"], sites, spacegroup=221, cellpar=[11.9] * 3 + [90] * 3)


def graphite() -> Atoms:
    places = [(0, 0, 0), (1 / 3, 2 / 3, 0), (0, 0, 0.5), (2 / 3, 1 / 3, 0.5)]
    return Atoms("C4", cell=[2.46, 2.46, 6.7, 90, 90, 120], scaled_positions=places, pbc=True)


def molybdenite() -> Atoms:
    layers = mx2("MoS2")
    layers.set_cell([3.18, 3.18, 6.15, 90, 90, 120])
    layers.pbc = True
    return layers


def carbon_tube(*, boxed: bool) -> Atoms:
    tube = nanotube(6, 0)
    tube.center(vacuum=6, axis=(0, 1))
    tube.pbc = boxed or (False, False, True)
    return tube


def oblique_slab() -> Atoms:
    """A stepped slab whose third cell vector leans, in a cell of which no face is parallel to it."""
    slab = surface(bulk("Cu", cubic=True), (2, 1, 1), 6, vacuum=8)
    slab.set_cell(np.array([[1, 0, 0], [1, 1, 0], [1, 1, 1]]) @ slab.cell.array)
    slab.pbc = True
    return slab


def full(slab: Atoms) -> Atoms:
    slab.pbc = True
    return slab


BULK = {
    "rocksalt": bulk("NaCl", "rocksalt", 5.64),
    "diamond": bulk("C"),
    "argon, no bonds": bulk("Ar", "fcc", 5.26, cubic=True),
    "caesium, the longest bonds": bulk("Cs"),
    "vacancy": bulk("Cu", cubic=True).repeat(2)[1:],
    "zeolite": zeolite(),
    "graphite": graphite(),
    "MoS2": molybdenite(),
    "liquid": liquid_water(),
}
SLABS = {
    "fcc, open": fcc111("Cu", (2, 2, 4), vacuum=6),
    "fcc, periodic": full(fcc111("Cu", (2, 2, 4), vacuum=6)),
    "graphene, open": graphene(vacuum=8),
    "graphene, periodic": full(graphene(vacuum=8)),
    "oblique": oblique_slab(),
}
WIRES = {"tube, open": carbon_tube(boxed=False), "tube, periodic": carbon_tube(boxed=True)}
MOLECULES = {
    "water": molecule("H2O"),
    "water in a box": in_box(molecule("H2O")),
    "hydrogen in a small box": in_box(molecule("H2"), 2.1),
    "metal cluster in a box": in_box(bulk("Cu", cubic=True).repeat(2)),
}


@pytest.mark.parametrize(
    ("kind", "atoms"),
    [
        pytest.param(kind, atoms, id=f"{kind}: {name}")
        for kind, systems in (("bulk", BULK), ("slab", SLABS), ("wire", WIRES), ("molecule", MOLECULES))
        for name, atoms in systems.items()
    ],
)
def test_kinds(kind: str, atoms: Atoms) -> None:
    assert dissect(atoms).kind == kind


def test_which_cell_vectors_cross_vacuum() -> None:
    slab = SLABS["fcc, periodic"]
    assert dissect(slab).crosses_vacuum(slab).tolist() == [False, False, True]
    tube = WIRES["tube, periodic"]
    assert dissect(tube).crosses_vacuum(tube).tolist() == [True, True, False]
    crystal = BULK["rocksalt"]
    assert not dissect(crystal).crosses_vacuum(crystal).any()


def test_the_projector_of_an_oblique_slab_is_its_plane() -> None:
    slab = oblique_slab()
    normal = np.cross(*(np.array([[1, 0, 0], [-1, 1, 0]]) @ slab.cell.array))
    assert np.allclose(dissect(slab).projector @ normal, 0)
    assert np.isclose(np.trace(dissect(slab).projector), 2)


def test_molecules_cut_by_the_cell_are_made_whole() -> None:
    liquid = liquid_water()
    anatomy = dissect(liquid)
    assert [len(members) for members in anatomy.molecules] == [3] * 8
    assert not anatomy.lone
    whole = liquid.positions + anatomy.shifts
    cut = 0
    for members in anatomy.molecules:
        assert liquid[members].get_chemical_formula() == "H2O"
        oxygen, *hydrogens = whole[members]
        assert np.allclose(np.linalg.norm(hydrogens - oxygen, axis=1), 0.9686, atol=1e-3)
        cut += bool(np.abs(anatomy.shifts[members]).any())
    assert cut, "the cell was to cut some"


def test_molecules_on_metals_and_molecular_ions_count_and_metals_do_not() -> None:
    metal = fcc111("Pt", (2, 2, 3), vacuum=7)
    add_adsorbate(metal, molecule("CO"), 1.8, mol_index=1)
    assert [members.tolist() for members in dissect(metal).molecules] == [[12, 13]]
    sites = [(0, 0, 0), (0, 0, 0.25), (0.2578, 0, 0.25)]
    calcite = crystal(["Ca", "C", "O"], sites, spacegroup=167, cellpar=[4.99, 4.99, 17.06, 90, 90, 120])
    assert [len(members) for members in dissect(calcite).molecules] == [4] * 6
    assert dissect(calcite).kind == "bulk"
    assert not dissect(MOLECULES["metal cluster in a box"]).molecules
    assert not dissect(zeolite()).molecules


def test_a_lone_molecule_is_told_from_several() -> None:
    assert dissect(MOLECULES["water in a box"]).lone
    pair = molecule("H2O") + Atoms("Ar", positions=[(3.5, 0, 0)])
    assert not dissect(pair).lone


def thin(slab: Atoms, gap: float = 5.0) -> Atoms:
    slab.pbc = True
    slab.center(vacuum=gap / 2, axis=2)
    return slab


ROCKSALT = {"MgO": 4.21, "NaCl": 5.64}


@pytest.mark.parametrize(
    "slab",
    [fcc111(name, (2, 2, 4)) for name in ("Al", "Cu", "Pt", "Pb")]
    + [bcc110("Fe", (2, 2, 4)), hcp0001("Ti", (2, 2, 4)), diamond111("Si", (2, 2, 4)), diamond100("Si", (2, 2, 6))]
    + [surface(bulk(name, "rocksalt", a=a, cubic=True), (1, 0, 0), 2) for name, a in ROCKSALT.items()],
    ids=lambda slab: str(slab.symbols),
)
def test_five_angstroms_between_planes_make_a_slab(slab: Atoms) -> None:
    assert dissect(thin(slab)).kind == "slab"


def crystal_of(symbols: list[str], places: list, group: int, *cell: float) -> Atoms:
    return crystal(symbols, places, spacegroup=group, cellpar=list(cell))


@pytest.mark.parametrize(
    "solid",
    [
        crystal_of(["As"], [(0, 0, 0.227)], 166, 3.76, 3.76, 10.55, 90, 90, 120),
        crystal_of(["Bi"], [(0, 0, 0.234)], 166, 4.55, 4.55, 11.86, 90, 90, 120),
        crystal_of(["Te"], [(0.2636, 0, 1 / 3)], 152, 4.457, 4.457, 5.929, 90, 90, 120),
        crystal_of(["Sn", "O"], [(0, 0.5, 0.2383), (0, 0, 0)], 129, 3.80, 3.80, 4.84, 90, 90, 90),
        crystal_of(["Pb", "O"], [(0, 0.5, 0.2345), (0, 0, 0)], 129, 3.975, 3.975, 5.023, 90, 90, 90),
        crystal_of(["Pb", "I"], [(0, 0, 0), (1 / 3, 2 / 3, 0.265)], 164, 4.557, 4.557, 6.979, 90, 90, 120),
        crystal_of(["Sn", "Se"], [(0.118, 0.25, 0.103), (0.855, 0.25, 0.479)], 62, 11.5, 4.15, 4.44, 90, 90, 90),
        crystal_of(["Ca", "N"], [(0, 0, 0.268), (0, 0, 0)], 166, 3.62, 3.62, 19.1, 90, 90, 120),
        *(bulk(name, a=1.26 * a, cubic=True) for name, a in (("Cu", 3.61), ("Si", 5.43), ("Cs", 6.14))),
        bulk("LiH", "rocksalt", a=1.26 * 4.08, cubic=True),
    ],
    ids=lambda solid: str(solid.symbols),
)
def test_layered_and_stretched_crystals_remain_bulk(solid: Atoms) -> None:
    assert dissect(solid).kind == "bulk"
    assert find_widest_gap(solid)[1] < 4.2


def test_the_widest_gap_is_found_where_the_cell_cuts_the_layer() -> None:
    layer = thin(mx2(size=(2, 2, 1)), gap=5.0)
    layer.translate([0, 0, 3.7])
    layer.wrap()
    assert dissect(layer).kind == "bulk"  # sulphur that faces sulphur: nobody can tell
    axis, gap = find_widest_gap(layer)
    assert (axis, gap) == (2, pytest.approx(5.0))
