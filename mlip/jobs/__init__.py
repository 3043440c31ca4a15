"""Jobs: what guards, counts and plans them, on one machine or on a cluster.

May import: ``mlip.io`` and ``mlip.config``; no science.
"""
