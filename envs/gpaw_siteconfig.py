"""How GPAW's C++ extension is built: a C++ compiler and Python's headers are enough.

Named in GPAW_CONFIG while pip builds GPAW (`make setup`). MPI and BLAS are left out on purpose:
the pipeline runs one label per core, and a half-installed MPI (a wrapper without headers) is the
commonest reason for a failed build. GPAW_MPI, the name of an MPI C++ compiler, adds MPI for labels
on several cores. FFTW (faster by a third on larger cells) and libxc (needed for
SCAN and hybrids only) are used where their headers are found.
"""

import os
from pathlib import Path

compiler = os.environ.get("GPAW_MPI") or os.environ.get("GPAW_CXX", "g++")
mpi = bool(os.environ.get("GPAW_MPI"))
noblas = True
libraries = []

if Path("/usr/include/fftw3.h").exists():
    fftw = True
    libraries.append("fftw3")

nolibxc = not Path("/usr/include/xc.h").exists()
if not nolibxc:
    libraries.append("xc")
