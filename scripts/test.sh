#!/usr/bin/env bash
# Runs all tests on real servers, which it starts and stops (unless they run already).
#
#   scripts/test.sh [arguments of cargo test]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

if ! scripts/servers.sh env >/dev/null 2>&1; then
  trap 'scripts/servers.sh stop' EXIT
fi
# Two steps: `eval "$(...)"` alone would hide a failure.
servers=$(scripts/servers.sh start)
eval "$servers"

# Tests wait for servers more than they compute.
export RUST_TEST_THREADS=${RUST_TEST_THREADS:-4}

status=0
cargo test --workspace --all-features "$@" || status=$?
for python in "$LEDGER_CLICKHOUSE_PYTHON" "$LEDGER_CLICKHOUSE_OLD_PYTHON"; do
  "$python" tests/servers/test_front.py || status=$?
done
exit "$status"
