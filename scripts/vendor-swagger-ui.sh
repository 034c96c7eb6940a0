#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Puts the files of /api/docs in place from npm's swagger-ui-dist: scripts/vendor-swagger-ui.sh 5.35.0
set -eu
version=${1:?which version}
cd "$(dirname "$0")/.."
target=$PWD/src/firstkit/apps/api/swagger_ui
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
npm pack --silent "swagger-ui-dist@$version" >/dev/null
tar xf swagger-ui-dist-*.tgz
for file in swagger-ui-bundle.js swagger-ui.css; do
    sed '/^\/[*\/]# sourceMappingURL=/d' "package/$file" | gzip -9 -n > "$target/$file.gz"
done
cp package/LICENSE package/NOTICE package/swagger-ui-bundle.js.LICENSE.txt "$target/"
printf '%s\n' "$version" > "$target/VERSION"
