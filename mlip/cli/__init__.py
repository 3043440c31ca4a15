"""The command line: ``mlip`` and what drives Snakemake.

May import: ``mlip.status``, ``mlip.doctor``, ``mlip.testing`` and below.
"""
