"""Backend ``mace``: MACE networks and foundation models, evaluated through mace-torch.

May import: ``mlip.potential``, but no other backend.
"""
