"""Slurm: its queue and accounts, and submissions that outlast an outage.

May import: ``mlip.io`` and ``mlip.config``.
"""
