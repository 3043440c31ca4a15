"""Training of backend ``mace``.

May import: ``mlip.training``, but no other backend.
"""
