"""Headers of extended XYZ as other programs write them: read as they are meant, or refused with the key's name."""

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT

from mlip.config.structures import StartingStructure
from mlip.io.dialects import to_ase_comment
from mlip.io.extxyz import ExtxyzError, read_structures
from mlip.loop.collect_dataset import DatasetError, read_labelled
from mlip.structures.labelled import labelled_energy, labelled_forces
from mlip.structures.starting import load_starting_structure


def crystal() -> Atoms:
    atoms = bulk("Cu", cubic=True)
    atoms.set_cell(atoms.cell.array @ [[1, 0.02, 0], [0.02, 1.01, -0.01], [0, -0.01, 0.98]], scale_atoms=True)
    atoms.positions += np.random.default_rng(1).normal(0, 0.08, (4, 3))
    atoms.calc = EMT()
    return atoms


def numbers(values: object) -> str:
    return " ".join(repr(float(x)) for x in np.ravel(np.asarray(values)))


CRYSTAL = crystal()
STRESS = CRYSTAL.get_stress(voigt=False)
LATTICE, VIRIAL = numbers(CRYSTAL.cell.array), numbers(-CRYSTAL.get_volume() * STRESS)
ENERGY = float(CRYSTAL.get_potential_energy())
COLUMNS = "Properties=species:S:1:pos:R:3:forces:R:3"


def written(path, comment: str):
    rows = zip(CRYSTAL.positions, CRYSTAL.get_forces(), strict=True)
    body = "".join(f"Cu {numbers(position)} {numbers(force)}\n" for position, force in rows)
    path.write_text(f"4\n{comment}\n{body}")
    return path


@pytest.mark.parametrize(
    "comment",
    [
        f'Lattice="{LATTICE}" {COLUMNS} energy={ENERGY} stress="{numbers(STRESS)}" pbc="T T T"',
        f'lattice="{LATTICE}" energy={ENERGY} virial="{VIRIAL}" {COLUMNS}',
        f'pbc="T T T" lattice="{LATTICE}" Energy={ENERGY} virial="{VIRIAL}" properties=species:S:1:pos:R:3:force:R:3',
        f'Lattice="{LATTICE}" {COLUMNS} energy={ENERGY} virials="{VIRIAL}" PBC="T T T"',
        f'Lattice="{LATTICE}" {COLUMNS} energy={ENERGY} Virial="{VIRIAL}" stress="{numbers(STRESS)}"',
        f'LATTICE = "{LATTICE}" {COLUMNS} energy = {ENERGY} stress = "{STRESS.tolist()}"',
        f'Lattice="{LATTICE}" {COLUMNS} free_energy={ENERGY} energy={ENERGY + 0.3} stress="{numbers(STRESS)}"',
        f'Lattice="{LATTICE}" {COLUMNS} free_energy={ENERGY} stress="{numbers(STRESS)}" note="a = b, lattice=c"',
    ],
)
def test_one_structure_under_many_headers(tmp_path, comment):
    (atoms,) = read_labelled(written(tmp_path / "a.xyz", comment))
    assert atoms.pbc.all()
    np.testing.assert_array_equal(atoms.cell.array, CRYSTAL.cell.array)
    assert labelled_energy(atoms) == ENERGY
    np.testing.assert_array_equal(labelled_forces(atoms), CRYSTAL.get_forces())
    np.testing.assert_allclose(atoms.get_stress(), CRYSTAL.get_stress(), rtol=1e-12)


def test_pbc_in_capitals_makes_no_crystal_of_a_cluster(tmp_path):
    (atoms,) = read_labelled(written(tmp_path / "a.xyz", f'Lattice="{LATTICE}" {COLUMNS} energy=1.0 PBC="F F F"'))
    assert not atoms.pbc.any()


@pytest.mark.parametrize(
    ("comment", "key"),
    [
        (f'Lattice="{LATTICE}" {COLUMNS} energy=1.0 stress="1 2 3 4 5 6"', "stress has 6 numbers"),
        (f'Lattice="{LATTICE}" {COLUMNS} energy=1.0 virial="1 2 3 4 5 6"', "virial has 6 numbers"),
        (f'Lattice="{LATTICE}" {COLUMNS} energy=1.0 virial="{VIRIAL}" stress="{VIRIAL}"', "contradict"),
        (f'{COLUMNS} energy=1.0 virial="{VIRIAL}"', "virial.*Lattice"),
        (f'Lattice="{LATTICE}" lattice="{LATTICE}" {COLUMNS} energy=1.0', "Lattice is there twice"),
        (f'Lattice="{LATTICE}" Properties=species:S:1:force:R:3:forces:R:3', "forces is there twice"),
        ('Lattice="4 0 0 0 4 0 0 0 4" Properties=species:I:1:pos:R:3:forces:R:3', "species holds numbers"),
    ],
)
def test_what_may_be_read_in_two_ways_is_refused(tmp_path, comment, key):
    with pytest.raises(ExtxyzError, match=f"a.xyz, line 2: .*{key}"):
        read_structures(written(tmp_path / "a.xyz", comment))


@pytest.mark.parametrize("extra", ["charge=neutral", 'spin="high"', "REF_energy=-7.0", "dft_energy=-7.0"])
def test_headers_that_contradict_labels_name_file_and_structure(tmp_path, extra):
    path = written(tmp_path / "a.xyz", f'Lattice="{LATTICE}" {COLUMNS} energy=1.0 {extra}')
    with pytest.raises(DatasetError, match=rf"a\.xyz: structure 0 \(Cu4\): {extra.split('=')[0]}"):
        read_labelled(path)


def test_what_the_loop_itself_wrote_is_left_as_it_is():
    line = f'Lattice="{LATTICE}" {COLUMNS} energy="{ENERGY}" structure_id=a pbc="T T T"'
    assert to_ase_comment(line) == line


def test_a_starting_structure_keeps_its_cell(tmp_path):
    path = tmp_path / "a.xyz"
    path.write_text('2\nlattice="3.6 0 0 0 3.6 0 0 0 3.6" pbc="T T T"\nCu 0 0 0\nCu 1.8 1.8 0\n')
    assert load_starting_structure(StartingStructure(file=str(path))).pbc.all()
