#!/usr/bin/env bash
# Makes the virtual environment of one rival package beside .venv; each pins what others exclude.
#
#   bash tests/benchmarks/install.sh mace|nequip|nep
#
# PYTHON is the interpreter to build on. pip's own variables (PIP_INDEX_URL, ...) are respected.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

package=${1:?usage: bash tests/benchmarks/install.sh mace|nequip|nep}
python=${PYTHON:-python3}
venv=.venv-$package
export PIP_DISABLE_PIP_VERSION_CHECK=1

case $package in
mace) exec make setup-mace ;; # the environment of `backend: mace`
nequip) requirements=(torch==2.13.0 nequip==0.19.1 vesin==0.6.2) ;;
nep) requirements=(calorine==4.1) ;;
*)
    echo "unknown package '$package': mace, nequip or nep" >&2
    exit 2
    ;;
esac

if [ -f "$venv/installed" ]; then exit 0; fi
[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
# One at a time: torch first, so that nothing pulls in another build of it.
for requirement in "${requirements[@]}"; do
    "$venv/bin/python" -m pip install --no-input -q "$requirement"
done
"$venv/bin/python" -m pip freeze >"$venv/installed"
