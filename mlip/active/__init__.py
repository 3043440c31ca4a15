"""What to label and when to stop, as numbers: no atoms, no files.

May import: ``mlip.config``, ``mlip.io``, ``mlip.seeds``, ``mlip.statistics`` and ``mlip.criteria``.
"""
