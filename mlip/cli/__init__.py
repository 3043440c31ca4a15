"""The command line: ``mlip`` and what drives Snakemake.

May import: everything.
"""
