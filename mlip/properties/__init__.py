"""Properties of crystals by any ASE calculator: equations of state, symmetry, elastic constants, compression.

May import: ``mlip.structures`` and below.
"""
