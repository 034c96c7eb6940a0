#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Run a command with pip's own settings told to uv, which does not read them: uv-env.sh PYTHON COMMAND [ARG…]
# A site that has a mirror has told pip about it. What uv was told directly (UV_*) wins. Nothing is written anywhere.
set -eu
python=$1
shift
settings=$("$python" -m pip config list 2>/dev/null || true)

setting() { # the value pip would use: environment, then a section of its files
    printf '%s\n' "$settings" | sed -n "s/^\(:env:\.\|install\.\|global\.\)$1='\(.*\)'\$/\2/p" | head -n 1
}

if [ -z "${UV_DEFAULT_INDEX-}" ] && [ -z "${UV_INDEX_URL-}" ]; then
    value=$(setting index-url)
    [ -z "$value" ] || export UV_DEFAULT_INDEX="$value"
fi
if [ -z "${UV_FIND_LINKS-}" ]; then
    value=$(setting find-links | tr ' ' ',')
    [ -z "$value" ] || export UV_FIND_LINKS="$value"
fi
if [ -z "${UV_INSECURE_HOST-}" ]; then
    value=$(setting trusted-host)
    [ -z "$value" ] || export UV_INSECURE_HOST="$value"
fi
if [ -z "${SSL_CERT_FILE-}" ]; then
    value=$(setting cert)
    [ -z "$value" ] || export SSL_CERT_FILE="$value"
fi
if [ -z "${UV_HTTP_TIMEOUT-}" ]; then
    value=$(setting default-timeout)
    [ -z "$value" ] || export UV_HTTP_TIMEOUT="$value"
fi
exec "$@"
