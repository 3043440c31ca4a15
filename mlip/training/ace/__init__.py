"""Training of backend ``ace``.

May import: ``mlip.training``, ``mlip.potential`` and below.
"""
