#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Print the first Python on PATH that is new enough (3.11), or say in one sentence what to install.
set -eu
for candidate in ${PYTHON-} python3 python3.11 python3.12 python3.13 python3.14; do
    if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
        command -v "$candidate"
        exit 0
    fi
done
echo "first: needs Python 3.11 or later and found none; install one (Debian: apt install python3 python3-venv)" \
    "or name it: make install PYTHON=/path/to/python3.11" >&2
exit 1
