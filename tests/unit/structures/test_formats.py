"""Structure files whose elements, masses, constraints or symmetry readers would guess."""

from pathlib import Path

import numpy as np
import pytest
from ase import Atoms

from mlip.config.structures import StartingStructure
from mlip.io.constraints import movable_mask
from mlip.structures.starting import StructureError, load_starting_structure

CELL = "4.2 0 0\n0 4.2 0\n0 0 4.2\n"
SITES = "0 0 0\n.5 .5 0\n.5 0 .5\n0 .5 .5\n.5 .5 .5\n0 0 .5\n0 .5 0\n.5 0 0\n"
BOX = "ITEM: BOX BOUNDS pp pp pp\n0 4.2\n0 4.2\n0 4.2\n"
DUMP = f"ITEM: TIMESTEP\n0\nITEM: NUMBER OF ATOMS\n2\n{BOX}ITEM: ATOMS id type {{}}x y z\n"
LOOP = "loop_\n_atom_site_label\n_atom_site_type_symbol\n_atom_site_fract_x\n_atom_site_fract_y\n_atom_site_fract_z\n"


def cif(group: str, number: int, sites: str, cell: tuple[float, float] = (5.43, 90.0), more: str = "") -> str:
    lengths = "".join(f"_cell_length_{x} {cell[0]}\n" for x in "abc")
    angles = "".join(f"_cell_angle_{x} {cell[1]}\n" for x in ("alpha", "beta", "gamma"))
    return (
        f"data_x\n{lengths}{angles}_space_group_IT_number {number}\n_symmetry_space_group_name_H-M '{group}'\n"
        f"{more}{LOOP}{sites}\n"
    )


SILICON = "Si1 Si 0.125 0.125 0.125"


def load(folder: Path, name: str, text: str) -> Atoms:
    (folder / name).write_text(text)
    return load_starting_structure(StartingStructure(file=str(folder / name)))


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("POSCAR", f"rock salt\n1.0\n{CELL}4 4\nDirect\n{SITES}", "names no elements .*VASP 4"),
        ("a.vasp", f"Mg O run 7\n1.0\n{CELL}4 4\nDirect\n{SITES}", "names no elements .*VASP 4"),
        ("a.vasp", f"x\n1.0\n{CELL}Mg H.75\n4 4\nDirect\n{SITES}", "'H.75' is no chemical element"),
        ("dump.last", DUMP.format("") + "1 1 0 0 0\n2 2 2.1 2.1 2.1\n", "names no elements but types of LAMMPS"),
        ("a.cif", cif("P 1", 1, "Mg1 Mg 0 0 0\nVa1 Va .5 .5 .5"), "'Va' is no chemical element"),
        ("a.pdb", "ATOM      2  CA  ALA A   2       4.000   0.000   0.000  1.00  0.00\nEND\n", "columns 77 and 78"),
        ("a.xyz", "2\nlabels\nO1 0 0 0\nH1 0.76 0.59 0\n", "'O1' is no chemical element"),
        ("a.xyz", "2\nAtoms. Timestep: 0\n1 0 0 0\n2 0.76 0.59 0\n", "'1' is no chemical element"),
        ("a.cif", cif("F d -3 m", 227, SILICON), "space group 227 .*two origins"),
        ("a.cif", cif("P b n m", 62, "Fe1 Fe 0 0 0"), "given as P b n m, with other axes"),
    ],
)
def test_what_readers_would_guess_is_refused(tmp_path, name, text, message):
    with pytest.raises(StructureError, match=rf"{name}: .*{message}"):
        load(tmp_path, name, text)


def test_a_poscar_without_elements_gets_those_of_the_configuration(tmp_path):
    text = f"rock salt\n1.0\n{CELL}4 4\nDirect\n{SITES}"
    for name in ("POSCAR", "an_old_file"):
        (tmp_path / name).write_text(text)
        source = StartingStructure(file=str(tmp_path / name), elements=["Mg", "O"])
        assert load_starting_structure(source).get_chemical_formula() == "Mg4O4"


@pytest.mark.parametrize(
    ("head", "elements", "message"),
    [
        ("4 4\n", None, r"2 counts .*elements: \[Mg, O\]"),
        ("4 4\n", ["Mg"], "2 counts .*`elements` name 1"),
        ("4 4\n", ["Mg", "Ox"], "'Ox' is no chemical element"),
        ("Mg O\n4 4\n", ["O", "Mg"], "names Mg O, and `elements` O Mg"),
    ],
)
def test_elements_that_do_not_fit_a_poscar_are_refused(tmp_path, head, elements, message):
    path = tmp_path / "POSCAR"
    path.write_text(f"rock salt\n1.0\n{CELL}{head}Direct\n{SITES}")
    with pytest.raises(StructureError, match=message):
        load_starting_structure(StartingStructure(file=str(path), elements=elements))


def test_elements_are_for_files_that_name_none(tmp_path):
    (tmp_path / "a.xyz").write_text("1\n\nAr 0 0 0\n")
    with pytest.raises(StructureError, match="is no POSCAR"):
        load_starting_structure(StartingStructure(file=str(tmp_path / "a.xyz"), elements=["Ar"]))
    with pytest.raises(ValueError, match="`elements` are those of a POSCAR"):
        StartingStructure(bulk={"name": "Si"}, elements=["Si"])


@pytest.mark.parametrize(
    ("text", "formula"),
    [
        (cif("F d -3 m :2", 227, SILICON), "Si8"),
        (cif("F d -3 m :1", 227, SILICON), "Si16"),
        (cif("F d -3 m Z", 227, SILICON), "Si8"),
        (cif("F d -3 m", 227, SILICON, more="_symmetry_space_group_setting 2\n"), "Si8"),
        (cif("R -3 m", 166, "Bi1 Bi .234 .234 .234", (4.7459, 57.2)), "Bi2"),
        (cif("F m -3 m", 225, "Mg1 Mg 0 0 0\nO1 O .5 .5 .5", (4.2, 90.0)), "Mg4O4"),
    ],
)
def test_settings_that_a_file_tells_are_kept(tmp_path, text, formula):
    assert load(tmp_path, "a.cif", text).get_chemical_formula() == formula


def test_files_that_name_elements_are_read(tmp_path):
    atoms = load(tmp_path, "dump.last", DUMP.format("element ") + "1 1 Mg 0 0 0\n2 2 O 2.1 2.1 2.1\n")
    assert atoms.get_chemical_formula() == "MgO"
    assert (
        load(tmp_path, "a.vasp", f"x\n1.0\n{CELL}Mg_pv O/4d5e\n4 4\nDirect\n{SITES}").get_chemical_formula() == "Mg4O4"
    )


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.vasp", "x\n1.0\n10 0 0\n0 10 0\n0 0 10\nO D\n1 2\nCartesian\n5 5 5\n5.76 5.59 5\n4.24 5.59 5\n"),
        ("a.xyz", "3\nheavy water\nO 0 0 0\nD 0.76 0.59 0\nD -0.76 0.59 0\n"),
        ("a.xyz", '3\nProperties=pos:R:3:species:S:1 pbc="F F F"\n0 0 0 O\n0.76 0.59 0 D\n-0.76 0.59 0 D\n'),
        ("a.extxyz", "3\nProperties=species:S:1:pos:R:3:mass:R:1\nO 0 0 0 16\nH .8 .6 0 2.014\nH -.8 .6 0 2.014\n"),
    ],
)  # fmt: skip
def test_heavy_water_is_heavy(tmp_path, name, text):
    atoms = load(tmp_path, name, text)
    assert atoms.get_chemical_formula() == "H2O"
    np.testing.assert_allclose(atoms.get_masses(), [15.999, 2.014, 2.014], atol=1e-3)


def test_selective_dynamics_and_repeats(tmp_path):
    flags = ["F F F", "F F F", "T T F", *["T T T"] * 5]
    sites = "".join(f"{site} {flag}\n" for site, flag in zip(SITES.split("\n"), flags, strict=False))
    (tmp_path / "a.vasp").write_text(f"x\n1.0\n{CELL}Mg O\n4 4\nSelective dynamics\nDirect\n{sites}")
    atoms = load_starting_structure(StartingStructure(file=str(tmp_path / "a.vasp"), repeat=(1, 1, 2)))
    movable = np.ones((8, 3), dtype=bool)
    movable[:2], movable[2, 2] = False, False
    np.testing.assert_array_equal(movable_mask(atoms), np.tile(movable, (2, 1)))


def test_a_cell_that_a_pdb_file_only_pretends_to_have(tmp_path):
    row = "ATOM      1  O   HOH A   1       0.000   0.000   0.000  1.00  0.00           O\n"
    cell = "CRYST1    1.000    1.000    1.000  90.00  90.00  90.00 P 1           1\n"
    assert not load(tmp_path, "a.pdb", f"{cell}{row}END\n").pbc.any()
