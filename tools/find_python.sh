#!/bin/sh
# Prints the first Python that can make our environment: 3.11 to 3.14 with venv. PYTHON=... forces one.
set -u
check='import ensurepip, sys, venv; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 14))'
tried=""
for python in ${PYTHON:-python3 python3.13 python3.12 python3.11 python3.14 python}; do
    command -v "$python" >/dev/null 2>&1 || continue
    if "$python" -c "$check" >/dev/null 2>&1; then
        command -v "$python"
        exit 0
    fi
    tried="$tried $("$python" --version 2>&1 | tr ' ' '-' | head -n 1)"
done
echo "sim_stream needs Python 3.11 to 3.14 with its venv module; found:${tried:- none}." >&2
echo "Install one (Debian and Ubuntu: apt install python3 python3-venv) or name it: make PYTHON=/path/to/python3.11" >&2
exit 1
