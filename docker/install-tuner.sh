#!/bin/sh
# Install the tuner into a virtual environment: install-tuner.sh FOLDER [EXTRAS] [GROUP…]
# The CPU build of torch is taken from where pip looks anyway, or else from $TORCH_CPU_INDEX.
set -eu
venv=$1
extras=${2:-gp}
shift; [ $# -eq 0 ] || shift
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
project=$(dirname -- "$here")
: "${PYTHON:=python3}"
: "${TORCH_CPU_INDEX:=https://download.pytorch.org/whl/cpu}"

[ -x "$venv/bin/python" ] || "$PYTHON" -m venv "$venv"
pip="$venv/bin/python -m pip --disable-pip-version-check --quiet"
$pip install --upgrade "pip>=25.1"

groups=""
for group in "$@"; do groups="$groups --group $project/pyproject.toml:$group"; done
install() { $pip install --constraint "$here/constraints.txt" "$@" --editable "$project[$extras]" $groups; }
install 2>"$venv/install.log" || install --extra-index-url "$TORCH_CPU_INDEX"
