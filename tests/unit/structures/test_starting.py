"""Starting structures and their perturbations."""

from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.io import write
from ase.neighborlist import neighbor_list

from mlip.config.loop import Walker
from mlip.config.structures import Bulk, Prepare, StartingStructure
from mlip.config.walkers import list_demands, plan_walkers
from mlip.io.extxyz import read_structures
from mlip.loop.prepare_structures import fingerprint, prepare_structures
from mlip.structures.geometry import min_distance_ratio, scale_volume
from mlip.structures.starting import StructureError, check_structure, load_starting_structure

SILICON = StartingStructure(bulk=Bulk(name="Si"))


def prepared(
    tmp_path: Path,
    sources: list[StartingStructure],
    seed: int = 1,
    ensembles: tuple[str, ...] = ("nvt",),
    **settings: object,
) -> list[Atoms]:
    out = tmp_path / f"candidates-{seed}.extxyz"
    demands = list_demands(plan_walkers(sources, [Walker(ensemble=ensemble) for ensemble in ensembles]))
    prepare_structures(sources, Prepare(**settings), seed=seed, min_ratio=0.6, out=out, demands=demands)
    return read_structures(out)


def test_same_seed_same_structures_and_another_seed_others(tmp_path: Path) -> None:
    first = prepared(tmp_path, [SILICON])
    again = prepared(tmp_path, [SILICON])
    other = prepared(tmp_path, [SILICON], seed=2)
    assert all(np.array_equal(a.positions, b.positions) for a, b in zip(first, again, strict=True))
    assert not np.array_equal(first[-1].positions, other[-1].positions)


def test_count_kinds_and_identity(tmp_path: Path) -> None:
    structures = prepared(tmp_path, [SILICON], n_structures=20)
    assert len(structures) == 20
    assert {a.info["origin"] for a in structures} == {"start", "volume_scan", "strain", "rattle", "vacancy"}
    ids = [a.info["structure_id"] for a in structures]
    assert len(set(ids)) == 20
    assert ids[0] == "iter_00-start-000"
    assert all(i.startswith("iter_00-") for i in ids)
    assert np.allclose(structures[0].positions, load_starting_structure(SILICON).positions)


def test_no_two_prepared_structures_are_alike(tmp_path: Path) -> None:
    prints = np.array([fingerprint(a) for a in prepared(tmp_path, [SILICON], n_structures=30)])
    distances = np.linalg.norm(prints[:, None] - prints[None], axis=2)
    assert distances[~np.eye(len(prints), dtype=bool)].min() > 1e-3


def test_several_sources_share_the_number(tmp_path: Path) -> None:
    sources = [SILICON, StartingStructure(bulk=Bulk(name="NaCl", crystalstructure="rocksalt", a=5.64))]
    structures = prepared(tmp_path, sources, n_structures=11)
    assert sum("Cl" in a.symbols for a in structures) == 5
    assert len(structures) == 11
    starts = [a for a in structures if a.info["origin"] == "start"]
    for start, source in zip(starts, sources, strict=True):
        assert np.allclose(start.positions, load_starting_structure(source).positions)


def test_fewer_structures_than_sources_are_refused(tmp_path: Path) -> None:
    with pytest.raises(StructureError, match=r"prepare\.n_structures \(4\) must be at least .*\(5\)"):
        prepared(tmp_path, [SILICON] * 5, n_structures=4)


def ordered_alloy() -> Atoms:
    """CuAu in its L1_0 order: planes of one element."""
    alloy = bulk("Cu", a=3.9, cubic=True).repeat((2, 2, 2))
    alloy.symbols[np.isclose(alloy.positions[:, 2] % 3.9, 0)] = "Au"
    alloy.set_initial_magnetic_moments(np.where(alloy.symbols == "Au", 0.5, -0.25))
    return alloy


def like_neighbours(atoms: Atoms) -> int:
    """Nearest neighbours of the same element; the L1_0 order has 4 of 12."""
    i, j = neighbor_list("ij", atoms, 3.3)
    return int((atoms.numbers[i] == atoms.numbers[j]).sum())


def test_alloys_are_reordered(tmp_path: Path) -> None:
    path = tmp_path / "alloy.extxyz"
    write(path, ordered_alloy())
    structures = prepared(tmp_path, [StartingStructure(file=str(path))], n_structures=20)
    swapped = [a for a in structures if a.info["origin"] == "swap"]
    assert len(swapped) >= 2
    assert all(a.get_chemical_formula() == "Au16Cu16" for a in swapped)
    assert all(like_neighbours(a) != like_neighbours(ordered_alloy()) for a in swapped)
    assert like_neighbours(structures[0]) == like_neighbours(ordered_alloy())
    for atoms in structures:
        moments = atoms.get_initial_magnetic_moments()
        assert np.array_equal(moments, np.where(atoms.symbols == "Au", 0.5, -0.25)), "a moment belongs to its atom"
    assert len({tuple(fingerprint(a).round(6)) for a in structures}) == 20


def test_elements_are_never_swapped(tmp_path: Path) -> None:
    assert not any(a.info["origin"] == "swap" for a in prepared(tmp_path, [SILICON], n_structures=20))


def test_fingerprint_sees_order() -> None:
    ordered = ordered_alloy()
    swapped = ordered.copy()
    copper, gold = (np.flatnonzero(ordered.symbols == symbol)[0] for symbol in ("Cu", "Au"))
    swapped.positions[[copper, gold]] = ordered.positions[[gold, copper]]
    assert np.linalg.norm(fingerprint(swapped) - fingerprint(ordered)) > 1e-3


def test_one_atom_cells_have_no_forces(tmp_path: Path) -> None:
    primitive = {"bulk": Bulk(name="Cu", cubic=False)}
    assert len(load_starting_structure(StartingStructure(**primitive))) == 1
    with pytest.raises(StructureError, match=r"one-atom periodic cell .* use repeat: \[2, 2, 2\]"):
        prepared(tmp_path, [StartingStructure(**primitive)])
    assert len(prepared(tmp_path, [StartingStructure(**primitive, repeat=(2, 2, 2))], n_structures=5)) == 5
    path = tmp_path / "atom.xyz"
    write(path, Atoms("Ar"))
    with pytest.raises(StructureError, match="single atom"):
        prepared(tmp_path, [StartingStructure(file=str(path))])


@pytest.mark.parametrize("ensemble", ["npt", "npt-flexible"])
def test_npt_walkers_need_a_crystal(tmp_path: Path, ensemble: str) -> None:
    path = tmp_path / "water.xyz"
    write(path, molecule("H2O"))
    water = StartingStructure(file=str(path))
    with pytest.raises(StructureError, match=rf"water\.xyz: `{ensemble}` walkers .* `ensemble: nvt`"):
        prepared(tmp_path, [SILICON, water], ensembles=(ensemble, "nvt"))
    assert prepared(tmp_path, [SILICON, water], ensembles=("nvt",))
    assert prepared(tmp_path, [SILICON], ensembles=(ensemble,))


def test_initial_moments_and_charges_survive_loading(tmp_path: Path) -> None:
    path = tmp_path / "iron.traj"
    iron = bulk("Fe", cubic=True)
    iron.set_initial_magnetic_moments([2.2, -2.2])
    iron.set_initial_charges([0.5, -0.5])
    write(path, iron)
    atoms = load_starting_structure(StartingStructure(file=str(path), repeat=(1, 1, 2)))
    assert atoms.get_initial_magnetic_moments().tolist() == [2.2, -2.2] * 2
    assert atoms.get_initial_charges().tolist() == [0.5, -0.5] * 2


CIF = """data_alloy
_cell_length_a 3.6
_cell_length_b 3.6
_cell_length_c 3.6
_cell_angle_alpha 90
_cell_angle_beta 90
_cell_angle_gamma 90
loop_
_atom_site_label
_atom_site_type_symbol
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
_atom_site_occupancy
"""
SITES = {
    "mixed": "A Cu 0 0 0 0.5\nB Au 0 0 0 0.5\nC Cu 0.5 0.5 0.5 1.0\n",
    "empty now and then": "A Cu 0 0 0 0.8\nB Cu 0.5 0.5 0.5 1.0\n",
}


@pytest.mark.parametrize("sites", list(SITES))
@pytest.mark.parametrize("reader", ["ase", "pymatgen"])
def test_partial_occupancy_is_refused(tmp_path: Path, sites: str, reader: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "alloy.cif"
    path.write_text(CIF + SITES[sites])
    if reader == "pymatgen":
        monkeypatch.setattr("mlip.structures.starting._read_with_ase", failing_reader)
    with pytest.raises(StructureError, match=r"alloy\.cif: sites of .*Cu.* occupied only partly.*ordered supercell"):
        load_starting_structure(StartingStructure(file=str(path)))


def failing_reader(path: Path) -> Atoms:
    raise ValueError("not for me")


failing_reader.__name__ = "_read_with_ase"


def test_full_occupancy_is_accepted(tmp_path: Path) -> None:
    path = tmp_path / "copper.cif"
    path.write_text(CIF + "A Cu 0 0 0 1.0\nB Cu 0.5 0.5 0.5 1.0\n")
    assert len(load_starting_structure(StartingStructure(file=str(path)))) == 2


@pytest.mark.parametrize("name", ["many.cif", "many.extxyz", "many.traj"])
def test_files_of_several_structures_are_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    write(path, [bulk("Si", cubic=True)] * 3)
    with pytest.raises(StructureError, match=rf"{name}: 3 structures in one file; split it"):
        load_starting_structure(StartingStructure(file=str(path)))


def test_molecules_are_rattled_not_strained(tmp_path: Path) -> None:
    path = tmp_path / "water.xyz"
    write(path, molecule("H2O"))
    structures = prepared(tmp_path, [StartingStructure(file=str(path))], n_structures=8, vacancies=False)
    assert {a.info["origin"] for a in structures} == {"start", "rattle"}
    assert not any(a.pbc.any() for a in structures)


def test_guard_keeps_atoms_apart(tmp_path: Path) -> None:
    structures = prepared(tmp_path, [SILICON], rattle=(0.5, 0.8))
    assert min(min_distance_ratio(a) for a in structures) >= 0.6


@pytest.mark.parametrize("name", ["si.cif", "POSCAR", "si.xsf", "si.extxyz"])
def test_formats_of_ase_and_pymatgen(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    write(path, bulk("Si", cubic=True), format="vasp" if name == "POSCAR" else None)
    atoms = load_starting_structure(StartingStructure(file=str(path), repeat=(2, 1, 1)))
    assert len(atoms) == 16
    assert atoms.pbc.all()


def test_pymatgen_reads_what_ase_does_not(tmp_path: Path) -> None:
    from pymatgen.core import Lattice, Structure

    path = tmp_path / "si.json"
    Structure(Lattice.cubic(4.0), ["Po"], [[0, 0, 0]]).to(str(path))
    assert load_starting_structure(StartingStructure(file=str(path))).get_chemical_formula() == "Po"


def broken_structures() -> dict[str, Atoms]:
    silicon = bulk("Si", cubic=True)
    nan, flat, left, twin = silicon.copy(), silicon.copy(), silicon.copy(), silicon.copy()
    nan.positions[0, 0] = np.nan
    flat.cell[2] = flat.cell[1]
    left.set_cell(left.cell.array[[1, 0, 2]])
    twin.positions[1] = twin.positions[0] + 0.01
    huge = Atoms("Cu" * 10_000, positions=np.arange(30_000).reshape(-1, 3) * 2.0)
    return {"NaN": nan, "linearly dependent": flat, "left-handed": left, "coincide": twin, "10000 atoms": huge}


@pytest.mark.parametrize("problem", list(broken_structures()))
def test_broken_structures_are_named(tmp_path: Path, problem: str) -> None:
    path = tmp_path / "broken.traj"
    write(path, broken_structures()[problem])
    with pytest.raises(StructureError, match=problem) as caught:
        load_starting_structure(StartingStructure(file=str(path)))
    assert "broken.traj" in str(caught.value)


@pytest.mark.parametrize(("content", "expected"), [(b"", "empty"), (b"\x00\xff junk" * 50, "not a structure file")])
def test_files_that_hold_no_structure(tmp_path: Path, content: bytes, expected: str) -> None:
    path = tmp_path / "junk.cif"
    path.write_bytes(content)
    with pytest.raises(StructureError, match=expected):
        load_starting_structure(StartingStructure(file=str(path)))


def test_missing_file_and_unknown_crystal() -> None:
    with pytest.raises(StructureError, match="no file"):
        load_starting_structure(StartingStructure(file="nowhere.cif"))
    with pytest.raises(StructureError, match="cannot be built"):
        load_starting_structure(StartingStructure(bulk=Bulk(name="Xx")))


def test_scale_volume_is_relative() -> None:
    silicon = bulk("Si", cubic=True)
    assert scale_volume(silicon, 0.1).get_volume() == pytest.approx(1.1 * silicon.get_volume())


def _five(folder: Path) -> Path:
    """A file of five crystals of different lattice constants."""
    from ase.io import write

    write(folder / "five.extxyz", [bulk("Si", a=5.4 + 0.01 * k) for k in range(5)])
    return folder / "five.extxyz"


def _volumes(values: dict) -> list[float]:
    """Numbers in the file of the starting structures that a configuration names."""
    from mlip.config.system import parse_config

    config = parse_config({"system": "x", "structures": [values]})
    volumes = [load_starting_structure(source).get_volume() for source in config.structures]
    return [round(((4 * volume) ** (1 / 3) - 5.4) / 0.01) for volume in volumes]


@pytest.mark.parametrize(
    ("chosen", "wanted"),
    [({"index": 3}, [3]), ({"index": -1}, [4]), ({"index": ":2"}, [0, 1]), ({"index": "1:5:2"}, [1, 3])],
)
def test_structures_of_a_file_are_taken_by_number(tmp_path: Path, chosen: dict, wanted: list[int]) -> None:
    assert _volumes({"file": str(_five(tmp_path)), **chosen}) == wanted


def test_a_sample_of_a_file_is_the_same_each_time(tmp_path: Path) -> None:
    path = str(_five(tmp_path))
    drawn = _volumes({"file": path, "sample": 3})
    assert drawn == _volumes({"file": path, "sample": 3})
    assert len(set(drawn)) == 3
    assert set(_volumes({"file": path, "sample": 2, "index": "3:"})) == {3, 4}


def test_a_sample_is_drawn_by_the_seed_of_the_configuration(tmp_path: Path) -> None:
    from mlip.config.system import parse_config

    def drawn(whole: int, **more: object) -> list[float]:
        source = {"file": str(_five(tmp_path)), "sample": 2, **more}
        config = parse_config({"system": "x", "seed": whole, "structures": [source]})
        # What rules hand on to jobs draws the same.
        sources = [StartingStructure(**source.model_dump(mode="json")) for source in config.structures]
        return [load_starting_structure(source).get_volume() for source in sources]

    assert len({tuple(drawn(seed)) for seed in range(8)}) > 1
    assert drawn(3) == drawn(3)
    assert drawn(3, seed=5) == drawn(5)


def test_without_a_sample_the_seed_changes_no_job(tmp_path: Path) -> None:
    from mlip.config.system import parse_config

    source = {"file": str(_five(tmp_path)), "index": ":2"}
    entries = [parse_config({"system": "x", "seed": k, "structures": [source]}).model_dump() for k in (0, 1)]
    assert entries[0]["structures"] == entries[1]["structures"]
    assert "seed" not in entries[0]["structures"][0]


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        ({"index": ":"}, "does not say how many structures it takes; name the end"),
        ({"index": "-3:"}, "does not say how many"),
        ({"index": ":1000"}, r"1000 starting structures of .*: at most 100; take fewer"),
        ({"index": "first"}, "'first' is no index"),
    ],
)
def test_the_number_of_starting_structures_is_known_and_bounded(tmp_path: Path, chosen: dict, message: str) -> None:
    from mlip.config.system import ConfigError

    with pytest.raises(ConfigError, match=message):
        _volumes({"file": str(_five(tmp_path)), **chosen})


def test_structures_beyond_the_end_of_the_file_are_named(tmp_path: Path) -> None:
    path = str(_five(tmp_path))
    with pytest.raises(StructureError, match=r"five\.extxyz, index 5: the file holds 5 structures, counted from 0"):
        _volumes({"file": path, "index": ":6"})
    with pytest.raises(StructureError, match="of a sample of 6: the file holds 5"):
        _volumes({"file": path, "sample": 6})
    with pytest.raises(StructureError, match=r"5 structures in one file; split it, or add `index: 0`"):
        _volumes({"file": path})


@pytest.mark.parametrize(
    ("formula", "state", "periodic", "refused"),
    [
        ("O2", {"spin": 2}, False, True),  # two unpaired electrons are meant, whose multiplicity is 3
        ("O2", {"spin": 2}, True, True),
        ("O2", {"spin": 3}, False, False),
        ("O2", {"spin": 2, "charge": 1}, False, False),
        ("O2", {"spin": 1, "charge": -1}, False, True),
        ("O2", {"multiplicity": 2}, False, True),
        ("O2", {"charge": 1}, False, False),  # no multiplicity: the code's own choice
        ("O2", {"spin": 2, "charge": 0.5}, False, False),
        ("NO", {"spin": 1}, False, True),
        ("NO", {"spin": 1}, True, False),  # of a metal it says that it is not magnetic
    ],
)
def test_a_multiplicity_that_the_electrons_cannot_have_is_refused(formula, state, periodic, refused):
    """Codes with smearing label it all the same."""
    atoms = Atoms(formula, [[0, 0, 0], [0, 0, 1.2]], cell=[6, 6, 6], pbc=periodic, info=state)
    if not refused:
        check_structure(atoms, "x")
        return
    with pytest.raises(StructureError, match=r"is no multiplicity of .* electrons; write 2S"):
        check_structure(atoms, "x")
