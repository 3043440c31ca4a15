"""Ways to run a trained potential outside this package: TorchSim, LAMMPS and exported programs."""
