"""Starting structures, their geometry and their neighbours.

May import: ``mlip.config``, ``mlip.io``, ``mlip.seeds``, ``mlip.statistics`` and ``mlip.criteria``.
"""
