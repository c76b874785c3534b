#!/usr/bin/env bash
# Runs the replication suite for every pair of a source and a sink, and writes docs/matrix.md where
# everything passed. `scripts/servers.sh start` must have started the servers, or it does so itself.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

if ! scripts/servers.sh env >/dev/null 2>&1; then
  trap 'scripts/servers.sh stop' EXIT
fi
servers=$(scripts/servers.sh start)
eval "$servers"

said=$(mktemp)
status=0
cargo test --package ledger --test main --all-features -- \
  replication:: --skip the_page_is_what_the_run_said --test-threads "${RUST_TEST_THREADS:-4}" |
  tee "$said" || status=$?
sed -n 's/^test \(replication::[a-z0-9_:]*\) \.\.\. ok$/\1/p' "$said" >"$said.passed"
LEDGER_MATRIX="$said.passed" cargo test --quiet --package ledger --test main \
  --all-features -- the_page_is_what_the_run_said || status=$?
rm -f "$said" "$said.passed"
exit "$status"
