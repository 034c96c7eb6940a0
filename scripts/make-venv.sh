#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Make the virtual environment FOLDER and put uv into it from its hash-checked LOCK: make-venv.sh FOLDER LOCK
set -eu
folder=$1
lock=$2
python=$("$(dirname "$0")/find-python.sh")

if ! "$folder/bin/python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null ||
    ! "$folder/bin/python" -m pip --version >/dev/null 2>&1; then
    if ! "$python" -c 'import ensurepip' 2>/dev/null; then
        version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
        echo "first: $python cannot make a virtual environment (no ensurepip);" \
            "install it (Debian: apt install python$version-venv) and run make again" >&2
        exit 1
    fi
    echo "first: making $folder with $("$python" -V)"
    "$python" -m venv --clear "$folder"
fi
echo "first: installing uv"
"$folder/bin/python" -m pip install -qq --disable-pip-version-check --no-deps --require-hashes --no-compile -r "$lock"
