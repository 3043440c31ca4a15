"""Training of backend ``ace``.

May import: ``mlip.training``, but no other backend.
"""
