"""What to label and when to stop, as numbers: no atoms, no files.

May import: ``mlip.statistics`` and ``mlip.seeds``.
"""
