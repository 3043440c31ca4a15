"""Molecular dynamics in LAMMPS from Python, where no C++ compiler is at hand: fix external, one process."""

from ase.build import bulk
from ase.io import write

from mlip.export.lammps import attach_potential, open_lammps
from mlip.potential import load_potential

potential = load_potential("@POTENTIAL@")
elements = "@ELEMENTS@".split()
atoms = bulk(elements[0], cubic=True).repeat(2)
write("structure.data", atoms, format="lammps-data", specorder=elements, masses=True)
lmp = open_lammps()
lmp.commands_string("units metal\nboundary p p p\nread_data structure.data")
attach_potential(lmp, potential, elements)
lmp.commands_string("velocity all create 600 1\nfix 1 all nve\ntimestep 0.001\nthermo 10\nrun 100")
