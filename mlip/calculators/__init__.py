"""Cheap calculators of our own, which stand in for DFT in tests, demos and studies.

May import: ``mlip.jobs`` and below.
"""
