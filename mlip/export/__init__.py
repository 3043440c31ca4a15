"""Ways to run a trained potential outside this package: TorchSim, LAMMPS and exported programs.

May import: ``mlip.training`` and below; of a potential its internals, which it writes for other programs.
"""
