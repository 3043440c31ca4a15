"""Properties of crystals by any ASE calculator: equations of state, symmetry, elastic constants, compression.

May import: ``mlip.potential``, ``mlip.calculators`` and below.
"""
