"""The configuration of a system: typed, strict, documented, and free of heavy imports.

May import: nothing else of ``mlip``, nor torch, nor ASE; studies' settings are found by folder.
"""
