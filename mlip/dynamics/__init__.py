"""Molecular dynamics of any potential: NVE, many replicas at a time, and when a run has exploded.

May import: ``mlip.potential``, ``mlip.calculators`` and below.
"""
