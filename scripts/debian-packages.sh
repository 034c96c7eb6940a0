#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Install the Debian packages that the tests need, where that is possible: as root on Debian or Ubuntu.
set -eu
missing=""
need() { # COMMAND-OR-FILE PACKAGE
    [ -e "$1" ] || command -v "$1" >/dev/null 2>&1 || missing="$missing $2"
}

found=""
for initdb in /usr/lib/postgresql/*/bin/initdb; do
    [ -x "$initdb" ] && found=$initdb
done
[ -n "$found" ] || command -v initdb >/dev/null 2>&1 || missing="$missing postgresql"
need curl curl
need slurmctld slurm-wlm
need ip iproute2
need node nodejs
need npm npm
need ch-run charliecloud
need /usr/sbin/sshd openssh-server
need ssh openssh-client
[ -n "$missing" ] || exit 0

if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null 2>&1; then
    echo "first: not installed, so the tests that need them will be skipped (install them as root):$missing"
    exit 0
fi
echo "first: installing Debian packages:$missing"
export DEBIAN_FRONTEND=noninteractive
# No cluster of PostgreSQL's own: the tests start theirs in a temporary folder.
case $missing in
*postgresql*)
    if [ ! -e /etc/postgresql-common/createcluster.conf ]; then
        mkdir -p /etc/postgresql-common
        echo "create_main_cluster = false" >/etc/postgresql-common/createcluster.conf
    fi
    ;;
esac
# shellcheck disable=SC2086 # a list of names
apt-get install -y -qq --no-install-recommends $missing >/dev/null 2>&1 ||
    { apt-get update -qq >/dev/null && apt-get install -y -qq --no-install-recommends $missing >/dev/null; }
