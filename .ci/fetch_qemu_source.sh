#!/usr/bin/env bash
# Bring what the tests need of QEMU's sources: the schemas and the front end that judges ours.
#
#   .ci/fetch_qemu_source.sh [FOLDER]      (default: build/qemu-source)
set -euo pipefail
cd "$(dirname "$0")/.."
exec .ci/fetch_source.sh qemu "${1:-build/qemu-source}" \
    '*/VERSION' '*/scripts/qapi' '*/qapi' '*/qga/qapi-schema.json' '*/storage-daemon/qapi'
