#!/usr/bin/env bash
# Measures on real servers, which it starts and stops (unless they run already), and prints the
# tables. What each measures stands in docs/benchmarks.md.
#
#   scripts/bench.sh [append|bridge|capture|clickhouse|latency|idle_streams|service|webhook ...]   all, where none is named
#
# Sizes are set by the environment, as LEDGER_BENCH_BRIDGE_ROWS=10000; LEDGER_BENCH_SMALL=1 makes
# all of them small, to see that everything runs.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

if [ "${LEDGER_BENCH_SMALL:-}" = 1 ]; then
  export LEDGER_BENCH_APPEND_ROWS=${LEDGER_BENCH_APPEND_ROWS:-1000}
  export LEDGER_BENCH_APPEND_ROUNDS=${LEDGER_BENCH_APPEND_ROUNDS:-1}
  export LEDGER_BENCH_BRIDGE_ROWS=${LEDGER_BENCH_BRIDGE_ROWS:-10000}
  export LEDGER_BENCH_CAPTURE_ROWS=${LEDGER_BENCH_CAPTURE_ROWS:-10000}
  export LEDGER_BENCH_CLICKHOUSE_SECONDS=${LEDGER_BENCH_CLICKHOUSE_SECONDS:-1}
  export LEDGER_BENCH_CLICKHOUSE_STREAMS=${LEDGER_BENCH_CLICKHOUSE_STREAMS:-1000}
  export LEDGER_BENCH_CLICKHOUSE_ENTRIES=${LEDGER_BENCH_CLICKHOUSE_ENTRIES:-50000}
  export LEDGER_BENCH_CLICKHOUSE_READS=${LEDGER_BENCH_CLICKHOUSE_READS:-10}
  export LEDGER_BENCH_LATENCY_RATE=${LEDGER_BENCH_LATENCY_RATE:-50}
  export LEDGER_BENCH_LATENCY_SECONDS=${LEDGER_BENCH_LATENCY_SECONDS:-2}
  export LEDGER_BENCH_IDLE_STREAMS_STREAMS=${LEDGER_BENCH_IDLE_STREAMS_STREAMS:-10,1000}
  export LEDGER_BENCH_IDLE_STREAMS_SECONDS=${LEDGER_BENCH_IDLE_STREAMS_SECONDS:-1}
  export LEDGER_BENCH_IDLE_STREAMS_APPENDS=${LEDGER_BENCH_IDLE_STREAMS_APPENDS:-10}
  export LEDGER_BENCH_SERVICE_CLIENTS=${LEDGER_BENCH_SERVICE_CLIENTS:-4}
  export LEDGER_BENCH_SERVICE_SECONDS=${LEDGER_BENCH_SERVICE_SECONDS:-1}
  export LEDGER_BENCH_SERVICE_ROUNDS=${LEDGER_BENCH_SERVICE_ROUNDS:-1}
  export LEDGER_BENCH_SERVICE_TAILS=${LEDGER_BENCH_SERVICE_TAILS:-20}
  export LEDGER_BENCH_SERVICE_APPENDS=${LEDGER_BENCH_SERVICE_APPENDS:-10}
  export LEDGER_BENCH_SERVICE_IDLE=${LEDGER_BENCH_SERVICE_IDLE:-100}
  export LEDGER_BENCH_WEBHOOK_ENTRIES=${LEDGER_BENCH_WEBHOOK_ENTRIES:-1000}
  export LEDGER_BENCH_WEBHOOK_BATCHES=${LEDGER_BENCH_WEBHOOK_BATCHES:-100}
  export LEDGER_BENCH_WEBHOOK_RECEIVERS=${LEDGER_BENCH_WEBHOOK_RECEIVERS:-1,4}
  export LEDGER_BENCH_WEBHOOK_ROUNDS=${LEDGER_BENCH_WEBHOOK_ROUNDS:-1}
  export LEDGER_BENCH_WEBHOOK_SECONDS=${LEDGER_BENCH_WEBHOOK_SECONDS:-1}
  export LEDGER_BENCH_WEBHOOK_STREAMS=${LEDGER_BENCH_WEBHOOK_STREAMS:-100,1000}
fi

if ! scripts/servers.sh env >/dev/null 2>&1; then
  trap 'scripts/servers.sh stop' EXIT
fi
# Two steps: `eval "$(...)"` alone would hide a failure.
servers=$(scripts/servers.sh start)
eval "$servers"

# Both packages are named every time: their dependencies are then built once, with one set of
# features.
packages=(--locked --all-features --package ledger --package ledger-daemon)
cargo build --release "${packages[@]}" --bins --benches

benches=("$@")
[ ${#benches[@]} -gt 0 ] || benches=(append bridge capture clickhouse latency idle_streams service webhook)
for bench in "${benches[@]}"; do
  cargo bench --quiet "${packages[@]}" --bench "$bench"
done
