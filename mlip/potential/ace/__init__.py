"""Backend ``ace``: an atomic cluster expansion of our own, with analytic derivatives.

May import: ``mlip.potential``, but no other backend.
"""
