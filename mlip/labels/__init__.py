"""Labels: energies, forces and stresses from any ASE calculator, stored by content.

Every label runs in a child process, so that a crash or a hang of the DFT code costs one
label; every finished label is stored at once, so that nothing is computed twice.

May import: ``mlip.training`` and below.
"""
