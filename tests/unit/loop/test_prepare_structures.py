"""Iteration 0: what each kind of system gets, and what it never gets."""

from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import add_adsorbate, bulk, fcc111, molecule, mx2, nanotube
from ase.constraints import FixAtoms
from ase.data import covalent_radii
from ase.io import write

from mlip.config.loop import Walker
from mlip.config.structures import Bulk, Fixed, Prepare, PrepareKinds, StartingStructure
from mlip.config.system import load_config
from mlip.config.walkers import list_demands, plan_walkers
from mlip.io.constraints import movable_mask
from mlip.io.extxyz import read_structures
from mlip.loop.prepare_structures import perturb_structure, prepare_structures
from mlip.structures.geometry import min_distance_ratio
from mlip.structures.kinds import dissect
from mlip.structures.starting import StructureError, load_starting_structure

CONFIGS = Path(__file__).parents[3] / "config"

SILICON = {
    # Number of atoms, volume and sum of all absolute coordinates, in Å, of candidates that the demo has labels for.
    "iter_00-start-000": (8, 160.10300699999996, 48.87),
    "iter_00-volume_scan-001": (8, 145.6975826468583, 47.35799327365213),
    "iter_00-volume_scan-003": (8, 152.8192977359628, 48.11737306505967),
    "iter_00-strain-004": (8, 167.53504254333856, 50.29947364450521),
    "iter_00-strain-009": (8, 161.25101836851826, 48.55434250898329),
    "iter_00-rattle-010": (8, 163.82411144835527, 49.69850841136322),
    "iter_00-rattle-016": (8, 168.55602722820348, 50.15830870784834),
    "iter_00-vacancy-017": (7, 160.10300699999996, 48.77585211687248),
    "iter_00-vacancy-019": (7, 160.10300699999996, 39.87749837631333),
}


def only(**weights: float) -> PrepareKinds:
    return PrepareKinds(**{name: weights.get(name, 0.0) for name in PrepareKinds.model_fields})


EVERY = PrepareKinds(**{name: float(name != "phase") for name in PrepareKinds.model_fields})


def perturb(start: Atoms, n_structures: int = 24, seed: int = 1, **settings: object) -> list[Atoms]:
    return perturb_structure(start, Prepare(**settings), n_structures, seed=seed, index=0, min_ratio=0.6)


def of_kind(structures: list[Atoms], kind: str) -> list[Atoms]:
    return [atoms for atoms in structures if atoms.info["origin"] == kind]


def oxygen_on_copper(*, fixed: bool = True) -> Atoms:
    """As people calculate it: periodic in three directions, vacuum above, the two lowest layers fixed."""
    slab = fcc111("Cu", (2, 2, 4), vacuum=7)
    add_adsorbate(slab, "O", 1.2, "fcc")
    slab.pbc = True
    if fixed:
        slab.set_constraint(FixAtoms(mask=slab.get_tags() > 2))
    return slab


def several_waters() -> Atoms:
    rng = np.random.default_rng(2)
    box = Atoms(cell=[6.2] * 3, pbc=True)
    for place in np.ndindex(2, 2, 2):
        water = molecule("H2O")
        water.rotate(float(rng.uniform(0, 360)), "x")
        water.translate(np.array(place) * 3.1)
        box += water
    box.wrap()
    return box


def test_candidates_of_a_plain_crystal_are_those_whose_labels_are_stored(tmp_path: Path) -> None:
    config = load_config(CONFIGS / "silicon.yaml")
    out = tmp_path / "candidates.extxyz"
    prepare_structures(config.structures, config.prepare, seed=config.seed, min_ratio=0.6, out=out)
    found = {atoms.info["structure_id"]: atoms for atoms in read_structures(out)}
    assert len(found) == 20
    for name, (n_atoms, volume, coordinates) in SILICON.items():
        assert len(found[name]) == n_atoms
        assert found[name].get_volume() == pytest.approx(volume, rel=1e-12)
        assert np.abs(found[name].positions).sum() == pytest.approx(coordinates, rel=1e-12)


def test_each_candidate_names_its_starting_structure(tmp_path: Path) -> None:
    sources = [StartingStructure(bulk=Bulk(name=name)) for name in ("Si", "Cu")]
    out = tmp_path / "candidates.extxyz"
    prepare_structures(sources, Prepare(n_structures=8), seed=1, min_ratio=0.6, out=out)
    for atoms in read_structures(out):
        assert atoms.info["source"] == ["Si", "Cu"].index(atoms.get_chemical_symbols()[0])


@pytest.mark.parametrize("boxed", [True, False])
def test_water_stays_water(boxed: bool) -> None:
    water = molecule("H2O")
    water.center(vacuum=4)
    water.pbc = boxed
    structures = perturb(water)
    assert len(structures) == 24
    assert {atoms.info["origin"] for atoms in structures} == {"start", "rattle"}
    for atoms in structures:
        assert atoms.get_chemical_formula() == "H2O"
        assert np.array_equal(atoms.cell.array, water.cell.array)
        lengths = [atoms.get_distance(0, hydrogen) for hydrogen in (1, 2)]
        assert np.allclose(lengths, 0.97, atol=0.12)


def test_ethanol_keeps_its_bonds_and_turns_its_groups() -> None:
    ethanol = molecule("CH3CH2OH")
    (members,) = dissect(ethanol).molecules
    structures = perturb(ethanol, 40)
    assert len(structures) == 40
    distances = ethanol.get_all_distances()
    bonded = (distances < 1.25 * np.add.outer(*[covalent_radii[ethanol.numbers]] * 2)) & (distances > 0)
    changes = np.array([(atoms.get_all_distances() - distances) for atoms in structures])
    assert np.abs(changes[:, bonded]).max() < 0.15
    assert np.abs(changes[:, ~bonded]).max() > 0.3
    assert all(np.array_equal(dissect(atoms).molecules[0], members) for atoms in structures)


def test_several_molecules_move_against_each_other_and_none_is_broken() -> None:
    box = several_waters()
    before = dissect(box)
    structures = perturb(box, 24, kinds=EVERY)
    kinds = {atoms.info["origin"] for atoms in structures}
    assert kinds == {"start", "volume_scan", "strain", "rattle", "cluster", "dimer", "mode"}
    centres = np.array([(box.positions + before.shifts)[members].mean(axis=0) for members in before.molecules])
    for atoms in structures:
        after = dissect(atoms)
        if atoms.info["origin"] in ("volume_scan", "strain", "rattle", "mode"):
            assert [m.tolist() for m in after.molecules] == [m.tolist() for m in before.molecules]
        if atoms.info["origin"] == "cluster":
            assert len(atoms) == 3 * len(after.molecules)
    for atoms in of_kind(structures, "volume_scan"):
        factor = (atoms.get_volume() / box.get_volume()) ** (1 / 3)
        moved = np.array([atoms.positions[members].mean(axis=0) for members in before.molecules])
        assert np.allclose(moved, centres * factor), "centres scale"
        assert np.allclose([atoms.get_distance(0, h) for h in (1, 2)], 0.9686, atol=1e-3), "molecules do not"
    rattled = of_kind(structures, "rattle")[0]
    apart = np.array([rattled.positions[members].mean(axis=0) for members in before.molecules])
    apart = apart / rattled.cell.lengths()[0] * 6.2 - centres
    assert np.ptp(apart, axis=0).min() > 0.02


def test_a_slab_keeps_its_vacuum_its_fixed_layers_and_its_adsorbate() -> None:
    slab = oxygen_on_copper()
    fixed = slab.constraints[0].index
    structures = perturb(slab)
    assert {atoms.info["origin"] for atoms in structures} == {"start", "rattle", "vacancy"}
    for atoms in structures:
        assert np.array_equal(atoms.cell.array, slab.cell.array)
        assert np.array_equal(atoms.positions[fixed], slab.positions[fixed])
        assert np.array_equal(np.flatnonzero(~movable_mask(atoms).any(axis=1)), fixed)
        assert atoms.symbols[-1] == "O"
        assert atoms.positions[-1, 2] > atoms.positions[:-1, 2].max() + 0.5, "oxygen is on top"
    for atoms in of_kind(structures, "vacancy"):
        assert atoms.get_chemical_formula() == "Cu15O"


def test_a_free_slab_is_strained_in_its_plane_only() -> None:
    slab = oxygen_on_copper(fixed=False)
    strained = of_kind(perturb(slab), "strain")
    assert len(strained) >= 4
    for atoms in strained:
        assert np.allclose(atoms.cell.array[2], slab.cell.array[2])
        assert not np.allclose(atoms.cell.array[:2], slab.cell.array[:2], atol=1e-3)
        assert np.allclose(atoms.cell.array[:2, 2], 0)
        assert np.abs(atoms.positions[:, 2] - slab.positions[:, 2]).max() < 0.2


def test_a_wire_is_strained_along_its_axis_only() -> None:
    tube = nanotube(6, 0)
    tube.center(vacuum=6, axis=(0, 1))
    tube.pbc = True
    lengths = np.array([atoms.cell.lengths() for atoms in of_kind(perturb(tube), "strain")])
    assert np.allclose(lengths[:, :2], tube.cell.lengths()[:2])
    assert np.ptp(lengths[:, 2]) > 0.05


def test_carbon_monoxide_on_platinum_stays_a_molecule() -> None:
    slab = fcc111("Pt", (2, 2, 3), vacuum=7)
    add_adsorbate(slab, molecule("CO"), 1.8, mol_index=1)
    structures = perturb(slab)
    assert not of_kind(structures, "swap")
    for atoms in structures:
        assert atoms.get_chemical_formula() in ("COPt12", "COPt11")
        assert atoms.get_distance(len(atoms) - 2, len(atoms) - 1) == pytest.approx(1.15, abs=0.1)


def test_outer_atoms_of_a_compound_are_no_adsorbates() -> None:
    layer = mx2("MoS2", size=(2, 2, 1), vacuum=8)
    formulas = {atoms.get_chemical_formula() for atoms in of_kind(perturb(layer, 40), "vacancy")}
    assert formulas == {"Mo3S8", "Mo4S7"}


def test_atoms_swap_between_like_sites_only() -> None:
    alloy = bulk("Cu", cubic=True).repeat(2)
    alloy.symbols[:16] = "Au"
    alloy.set_constraint(FixAtoms([0, 31]))
    for atoms in of_kind(perturb(alloy, kinds=only(swap=1)), "swap"):
        assert atoms.get_chemical_formula() == alloy.get_chemical_formula()
        assert np.array_equal(atoms.positions[[0, 31]], alloy.positions[[0, 31]])
    salt = bulk("NaCl", "rocksalt", 5.64, cubic=True)
    assert len(perturb(salt, kinds=only(swap=1))) == 1
    assert of_kind(perturb(bulk("GaAs", "zincblende", 5.65, cubic=True)), "swap")


def test_every_kind_of_copper() -> None:
    copper = bulk("Cu", cubic=True)
    structures = perturb(copper, 60, kinds=EVERY)
    found = {kind: of_kind(structures, kind) for kind in PrepareKinds.model_fields}
    assert {kind for kind, members in found.items() if not members} == {"swap", "phase"}, "of elements"
    assert all(min_distance_ratio(atoms) >= 0.6 for atoms in structures)
    assert {len(atoms) for atoms in found["interstitial"]} == {5}
    assert {dissect(atoms).kind for atoms in found["surface"]} == {"slab"}
    assert {dissect(atoms).kind for atoms in found["cluster"]} == {"molecule"}
    assert {len(atoms) for atoms in found["random"] + found["melt"] + found["mode"]} == {4}
    again = perturb(copper, 60, kinds=EVERY)
    assert all(np.array_equal(a.positions, b.positions) for a, b in zip(structures, again, strict=True))


def test_dimers_are_short_and_nothing_else_moves() -> None:
    dimers = of_kind(perturb(bulk("Cu", cubic=True).repeat(2), 40, kinds=only(dimer=1)), "dimer")
    alone = [atoms for atoms in dimers if len(atoms) == 2]
    within = [atoms for atoms in dimers if len(atoms) == 32]
    assert alone
    assert within
    ratios = [min_distance_ratio(atoms, 2.0) for atoms in alone]
    assert 0.7 <= min(ratios) < 0.8
    assert max(ratios) > 1.2
    assert min(min_distance_ratio(atoms) for atoms in within) < 0.8
    for atoms in within:
        moved = np.linalg.norm(atoms.positions - bulk("Cu", cubic=True).repeat(2).positions, axis=1)
        assert (moved > 1e-6).sum() == 2


def test_interstitials_of_silicon_are_in_its_voids() -> None:
    """Voids of diamond: tetrahedral ones, 4 atoms at sqrt(3)/4 a, and hexagonal ones, 6 at sqrt(11)/8 a."""
    silicon, found = bulk("Si", cubic=True), set()
    for atoms in of_kind(perturb(silicon, 12, kinds=only(interstitial=1), rattle=(0.001,)), "interstitial"):
        distances = np.sort(atoms.get_distances(8, range(8), mic=True))
        hexagonal = distances[0] < 2.3
        expected = 5.43 * (np.sqrt(11) / 8 if hexagonal else np.sqrt(3) / 4)
        assert np.allclose(distances[: 6 if hexagonal else 4], expected, atol=0.02)
        found.add(bool(hexagonal))
    assert found == {True, False}


def test_random_structures_have_the_density_and_keep_their_distances() -> None:
    alloy = bulk("Cu", cubic=True).repeat(2)
    alloy.symbols[:16] = "Au"
    found = of_kind(perturb(alloy, 8, kinds=only(random=1), max_strain=0.0), "random")
    assert len(found) == 7
    for atoms in found:
        assert atoms.get_chemical_formula() == alloy.get_chemical_formula()
        assert 0.9 <= atoms.get_volume() / alloy.get_volume() <= 1.1
        assert min_distance_ratio(atoms) > 0.8


def test_other_phases_come_at_the_same_density(tmp_path: Path) -> None:
    sources = [StartingStructure(bulk=Bulk(name="Si"))]
    tin = StartingStructure(bulk=Bulk(name="Si", crystalstructure="fcc", a=4.0))
    out = tmp_path / "candidates.extxyz"
    settings = Prepare(n_structures=6, kinds=only(phase=1), phases=(tin,), volume_range=(-0.02, 0.02))
    prepare_structures(sources, settings, seed=1, min_ratio=0.6, out=out)
    phases = of_kind(read_structures(out), "phase")
    assert len(phases) == 5
    for atoms in phases:
        assert len(atoms) == 4
        assert atoms.get_volume() / 4 == pytest.approx(5.43**3 / 8, rel=0.03)
    wrong = settings.model_copy(update={"phases": (StartingStructure(bulk=Bulk(name="Ge")),)})
    with pytest.raises(StructureError, match=r"prepare\.phases: .* Ge is Ge, not Si"):
        prepare_structures(sources, wrong, seed=1, min_ratio=0.6, out=out)


def test_weights_are_needed_and_phases_are_named() -> None:
    with pytest.raises(ValueError, match="every weight is 0"):
        only()
    with pytest.raises(ValueError, match=r"`kinds\.phase` and `phases` need each other"):
        Prepare(kinds={"phase": 1})


@pytest.mark.parametrize(
    ("fixed", "expected"),
    [
        (Fixed(layers=2), range(8)),
        (Fixed(below=8.0), range(4)),
        (Fixed(indices=(3, 16)), (3, 16)),
        (Fixed(layers=0), ()),
    ],
)
def test_configuration_fixes_in_place_of_the_file(tmp_path: Path, fixed: Fixed, expected: range) -> None:
    slab = oxygen_on_copper()
    slab.positions[:, 2] += slab.cell[2, 2] / 2
    slab.wrap()
    if fixed.below is not None:
        slab = oxygen_on_copper()
    path = tmp_path / "slab.vasp"
    write(path, slab, direct=True)
    atoms = load_starting_structure(StartingStructure(file=str(path), fixed=fixed))
    movable = movable_mask(atoms)
    found = [] if movable is None else np.flatnonzero(~movable.any(axis=1)).tolist()
    assert found == list(expected)


@pytest.mark.parametrize(
    ("fixed", "message"),
    [
        (Fixed(layers=9), r"fixed\.layers: 9 of 5 layers"),
        (Fixed(below=1.0), r"fixed\.below: no atom lies below 1\.0 Å; the lowest is at 7\.00 Å"),
        (Fixed(indices=(17,)), r"fixed\.indices: no atom 17"),
        (Fixed(below=100.0), "every atom is fixed"),
    ],
)
def test_what_cannot_be_fixed_is_refused(tmp_path: Path, fixed: Fixed, message: str) -> None:
    path = tmp_path / "slab.extxyz"
    write(path, oxygen_on_copper())
    with pytest.raises(StructureError, match=message):
        load_starting_structure(StartingStructure(file=str(path), fixed=fixed))


def test_fixed_atoms_travel_to_the_labels(tmp_path: Path) -> None:
    path, out = tmp_path / "slab.vasp", tmp_path / "candidates.extxyz"
    write(path, oxygen_on_copper(), direct=True)
    source = StartingStructure(file=str(path), repeat=(1, 2, 1))
    prepare_structures([source], Prepare(n_structures=4), seed=1, min_ratio=0.6, out=out)
    assert "move_mask:L:1" in out.read_text()
    for atoms in read_structures(out):
        assert (~movable_mask(atoms).any(axis=1)).sum() == 16


@pytest.mark.parametrize("ensemble", ["npt", "npt-flexible"])
def test_pressure_on_vacuum_is_refused(tmp_path: Path, ensemble: str) -> None:
    path, out = tmp_path / "slab.vasp", tmp_path / "candidates.extxyz"
    write(path, oxygen_on_copper(fixed=False))
    sources = [StartingStructure(bulk=Bulk(name="Cu")), StartingStructure(file=str(path))]

    def prepare(**walker: object) -> None:
        demands = list_demands(plan_walkers(sources, [Walker(ensemble=ensemble, **walker)]))
        prepare_structures(sources, Prepare(n_structures=4), seed=1, min_ratio=0.6, out=out, demands=demands)

    with pytest.raises(StructureError, match=r"slab\.vasp: .* pressure other than 0 on this slab, .* without number 1"):
        prepare(pressures=(0.0, 20.0))
    with pytest.raises(StructureError, match=r"repeat \[1, 1, 2\] goes across the vacuum of this slab; .* number 3"):
        prepare(repeat=(1, 1, 2))
    prepare(pressures=(0.0, 20.0), structures=(0,))
    prepare(repeat=(2, 2, 1))


def test_a_supercell_of_walkers_that_is_a_mistake_is_refused_before_any_label(tmp_path: Path) -> None:
    sources = [StartingStructure(bulk=Bulk(name="Cu"))]

    def prepare(**walker: object) -> None:
        demands = list_demands(plan_walkers(sources, [Walker(**walker)]))
        out = tmp_path / "candidates.extxyz"
        prepare_structures(sources, Prepare(n_structures=4), seed=1, min_ratio=0.6, out=out, demands=demands)

    with pytest.raises(StructureError, match=r"repeat \[30, 30, 30\] makes 108000 atoms .* 1.1 GB .* `max_atoms`"):
        prepare(repeat=(30, 30, 30))
    prepare(repeat=(30, 30, 30), max_atoms=200_000)


def test_an_equation_of_state_of_a_molecule_is_refused_with_the_remedy(tmp_path: Path) -> None:
    water = molecule("H2O")
    water.center(vacuum=4)
    water.pbc = True
    path, out = tmp_path / "water.extxyz", tmp_path / "candidates.extxyz"
    write(path, water)
    sources = [StartingStructure(file=str(path))]
    with pytest.raises(StructureError, match=r"a molecule has no volume .* assess: \{eos_volumes: \[\]\}"):
        prepare_structures(sources, Prepare(), seed=1, min_ratio=0.6, out=out, compressed=[0])
    assert not out.exists()


def test_a_kind_that_no_structure_allows_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path, out = tmp_path / "slab.vasp", tmp_path / "candidates.extxyz"
    write(path, oxygen_on_copper())
    sources = [StartingStructure(file=str(path))]

    def prepare(kinds: PrepareKinds, *more: StartingStructure) -> None:
        prepare_structures([*sources, *more], Prepare(n_structures=6, kinds=kinds), seed=1, min_ratio=0.6, out=out)

    prepare(PrepareKinds())
    assert not caplog.text  # what is on by default goes without saying
    prepare(PrepareKinds(surface=1))
    assert "prepare.kinds.surface: 1 is left out: it needs a bulk without molecules and fixed atoms" in caplog.text
    caplog.clear()
    prepare(PrepareKinds(surface=1), StartingStructure(bulk=Bulk(name="Cu")))
    assert not caplog.text
    with pytest.raises(StructureError, match=r"any of the kinds wanted: prepare\.kinds\.surface: 1 .* needs a bulk"):
        prepare(only(surface=1))


@pytest.mark.parametrize("signs", [(1, 1), (1, -1)])
def test_new_atoms_of_a_magnet_have_the_moments_of_their_element(signs: tuple[int, int]) -> None:
    iron = bulk("Fe", cubic=True)
    iron.set_initial_magnetic_moments([2.2 * sign for sign in signs])
    iron = iron.repeat(2)
    found = perturb(iron, 40, kinds=only(dimer=1, interstitial=1, surface=1, cluster=1, vacancy=0))
    for atoms in found:
        np.testing.assert_allclose(np.abs(atoms.get_initial_magnetic_moments()), 2.2)
    pairs = [atoms.get_initial_magnetic_moments() for atoms in found if len(atoms) == 2]
    assert pairs
    assert all(np.prod(np.sign(moments)) == np.prod(signs) for moments in pairs)


def test_close_pairs_are_near_enough_to_teach_and_far_enough_for_a_label() -> None:
    silicon = bulk("Si", cubic=True)
    pairs = of_kind(perturb(silicon, 12, kinds=only(close_pair=1)), "close_pair")
    assert len(pairs) >= 8
    ratios = [min_distance_ratio(atoms) for atoms in pairs]
    assert min(ratios) >= 0.75 - 1e-9
    assert max(ratios) <= 0.9 + 1e-9
    for atoms in pairs:
        assert (np.linalg.norm(atoms.positions - silicon.positions, axis=1) > 1e-6).sum() == 2
    assert not of_kind(perturb(molecule("H2O"), 6, kinds=only(close_pair=1, rattle=1)), "close_pair")
