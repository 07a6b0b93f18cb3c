#!/bin/bash
# CANN's and NNAL's variables for every engine: the official image sets them in ~/.bashrc, which only a person's shell reads.
for script in /usr/local/Ascend/cann/set_env.sh /usr/local/Ascend/ascend-toolkit/set_env.sh /usr/local/Ascend/nnal/atb/set_env.sh; do
    # shellcheck disable=SC1090
    if [ -f "$script" ]; then source "$script"; fi
done
exec /opt/autotune/venv/bin/autotune "$@"
