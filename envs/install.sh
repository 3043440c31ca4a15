#!/usr/bin/env bash
# Makes .venv with everything the pipeline needs (`make setup`): no root, no MPI, no libxc. Or makes
# .venv-mace (`make setup-mace`), the same with mace-torch, and without GPAW unless DFT is set.
#
#   bash envs/install.sh STAMP
#
# STAMP lies in the folder to make. PYTHON is the interpreter to build on, GPAW_CXX the C++ compiler, GPAW_MPI an MPI's
# C++ compiler (1: mpicxx) for a GPAW that can spread a label over several cores. pip's own variables
# (PIP_INDEX_URL, PIP_EXTRA_INDEX_URL, ...) are respected: torch's CPU-only wheels, which are
# smaller, come from an index given there. STAMP is written last, so a broken set-up is resumed.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

stamp=${1:?usage: bash envs/install.sh STAMP}
venv=${stamp%%/*}
extras=(dft)
if [ "$venv" = .venv-mace ]; then extras=(mace ${DFT:+dft}); fi
PATH=${PATH//"$PWD/.venv/bin:"/} # never build an environment with another's Python
PATH=${PATH//"$PWD/.venv-mace/bin:"/}
python=${PYTHON:-python3}
compiler=${GPAW_CXX:-g++}
# GPAW with MPI on request: GPAW_MPI is the MPI's C++ compiler, or 1 for the one called mpicxx.
if [ "${GPAW_MPI:-}" = 1 ]; then GPAW_MPI=mpicxx; fi
export GPAW_MPI=${GPAW_MPI:-}
compiler=${GPAW_MPI:-$compiler}
log=$venv/install.log

fail() {
    printf '\nSet-up stopped: %s\n' "$1" >&2
    shift
    printf '  %s\n' "$@" >&2
    exit 1
}

check_machine() {
    local version include
    version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) ||
        fail "no Python found as '$python'." "Install Python 3.11 or newer, or name one: make setup PYTHON=/path/to/python3"
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
        fail "'$python' is Python $version; 3.11 or newer is needed." "Name a newer one: make setup PYTHON=python3.12"
    "$python" -c 'import venv, ensurepip' 2>/dev/null ||
        fail "'$python' cannot make virtual environments." "On Debian or Ubuntu: apt-get install python3-venv"
    if [[ " ${extras[*]} " != *" dft "* ]]; then return; fi
    command -v "$compiler" >/dev/null ||
        fail "no C++ compiler found as '$compiler'; GPAW is compiled during set-up." \
            "On Debian or Ubuntu: apt-get install g++. On a cluster: load a GCC module, or make setup GPAW_CXX=/path/to/g++"
    include=$("$python" -c 'import sysconfig; print(sysconfig.get_path("include"))')
    [ -f "$include/Python.h" ] ||
        fail "Python's headers are missing ($include/Python.h)." \
            "On Debian or Ubuntu: apt-get install python3-dev. Or use a Python that brings them (conda, pyenv, uv)."
}

# A virtual environment knows its own path, so one that was moved or copied is made anew.
make_venv() {
    if [ -x "$venv/bin/python" ] && [ "$(cat "$venv/location" 2>/dev/null)" = "$PWD" ] &&
        "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
        return
    fi
    "$python" -m venv --clear "$venv"
    printf '%s\n' "$PWD" >"$venv/location"
}

requirements() { # the given groups of pyproject.toml: "base" or an extra
    "$venv/bin/python" - "$@" <<'PYTHON'
import sys, tomllib
project = tomllib.load(open("pyproject.toml", "rb"))["project"]
groups = {"base": project["dependencies"], **project["optional-dependencies"]}
print("\n".join(line for name in sys.argv[1:] for line in groups[name]))
PYTHON
}

pip_install() {
    "$venv/bin/python" -m pip install --no-input --progress-bar off "$@"
}

step() { # step LABEL COMMAND...: the command's output goes to the log, its progress to the terminal
    local label=$1 started=$SECONDS status=0
    shift
    printf '== %s\n' "$label" >>"$log"
    printf '  %-58s' "$label"
    "$@" >>"$log" 2>&1 &
    local job=$!
    trap 'kill "$job" 2>/dev/null; exit 130' INT TERM # a job in the background ignores Ctrl-C itself
    if [ -t 1 ]; then
        while kill -0 "$job" 2>/dev/null; do
            printf '\r  %-58s%4d s' "$label" $((SECONDS - started))
            sleep 1
        done
        printf '\r  %-58s' "$label"
    fi
    wait "$job" || status=$?
    trap - INT TERM
    printf '%4d s%s\n' $((SECONDS - started)) "$([ "$status" = 0 ] || echo '  failed')"
    if [ "$status" != 0 ]; then
        printf '\nThe last lines of %s:\n' "$log" >&2
        tail -n 25 "$log" >&2
        fail "'$label' failed." "Mend the cause and run 'make setup' again; it goes on from here."
    fi
}

check_gpaw() { # the compiled extension and the PAW datasets, not only the name
    "$venv/bin/python" -c 'import _gpaw; from gpaw.setup_data import SetupData; SetupData("Si", "PBE")'
}

compile_kernels() { # of the potential; without a compiler torch does the same, slower
    "$venv/bin/python" -c 'import mlip.potential.ace.kernels.loader as kernels; print(kernels.load_library())'
}

check_mace() { # read as the package reads it, without switching torch's safe loading off
    "$venv/bin/python" -c 'import mlip.potential.mace.network as m; m.require_mace()'
}

check_machine
exec 9<envs/install.sh
if command -v flock >/dev/null; then flock 9; fi # two set-ups of one tree take turns
if [ -f "$stamp" ]; then exit 0; fi

# The pins hold for what packages need to be built, too.
export PIP_CONSTRAINT=envs/constraints.txt PIP_BUILD_CONSTRAINT=envs/constraints.txt
export PIP_DISABLE_PIP_VERSION_CHECK=1 OMP_NUM_THREADS=1
started=$SECONDS
echo "Setting up $venv with $("$python" --version) (log: $log)"
make_venv
rm -f "$venv"/installed-*
: >"$log"
requirements base dev >"$venv/requirements.txt"
torch=$(requirements base | grep '^torch==')

step "[1/4] $torch (the largest download)" pip_install "$torch"
step "[2/4] Snakemake, ASE, pymatgen, xarray and others" pip_install -r "$venv/requirements.txt"
for extra in "${extras[@]}"; do
    requirements "$extra" >"$venv/requirements.txt"
    if [ "$extra" = dft ]; then
        # GPAW: g++ also for the .c files, which hold C++; never from pip's cache, where a build
        # with other options may lie.
        GPAW_CONFIG=$PWD/envs/gpaw_siteconfig.py CC=$compiler CXX=$compiler GPAW_CXX=$compiler \
            step "[3/4] GPAW, compiled with $compiler" pip_install --no-cache-dir -r "$venv/requirements.txt"
        step "      ... and tried" check_gpaw
    else
        step "[3/4] mace-torch" pip_install -r "$venv/requirements.txt"
        step "      ... and tried" check_mace
    fi
done
step "[4/4] Ouroboros itself" pip_install --no-deps --editable .
CXX=$compiler step "      ... and its kernels" compile_kernels

date -u '+%Y-%m-%dT%H:%M:%SZ' >"$stamp"
echo "Set-up done in $((SECONDS - started)) s."
