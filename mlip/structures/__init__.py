"""Starting structures, their geometry and their neighbours.

May import: ``mlip.config`` and ``mlip.io``.
"""
