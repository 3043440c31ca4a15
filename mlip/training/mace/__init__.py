"""Training of backend ``mace``.

May import: ``mlip.training``, of its siblings :mod:`mlip.training.ace.data` only.
"""
