"""Files: atomic writes, checksums, extended XYZ, NetCDF, and where everything lies under ``results/``.

May import: nothing else of ``mlip``.
"""
