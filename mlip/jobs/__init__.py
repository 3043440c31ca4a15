"""Jobs: what guards, counts and plans them, on one machine or on a cluster.

May import: ``mlip.config`` and ``mlip.io``; no science.
"""
