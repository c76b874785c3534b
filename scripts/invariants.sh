#!/usr/bin/env bash
# Checks the invariants of ARCHITECTURE.md that a tool can check.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
status=0

fail() {
  echo "invariant broken: $*" >&2
  status=1
}

# Who may depend on which crate of the workspace, on normal edges.
allowed() {
  case $1 in
    ledger-core) echo "" ;;
    ledger-layout) echo "ledger-core" ;;
    ledger-sources | ledger-sinks) echo "ledger-core ledger-layout" ;;
    ledger-bridge | ledger-server) echo "ledger-core" ;;
  esac
}
for package in ledger-core ledger-layout ledger-sources ledger-sinks ledger-bridge ledger-server; do
  tree=$(cargo tree --locked --quiet --package "$package" --all-features --edges normal \
    --depth 1 --prefix none --format '{p}')
  while read -r name _; do
    case $name in
      "$package" | "") ;;
      ledger | ledger-*)
        [[ " $(allowed "$package") " == *" $name "* ]] || fail "$package depends on $name"
        ;;
      sqlx* | mongodb | clickhouse)
        [[ $package =~ ^ledger-(core|bridge|server)$ ]] &&
          fail "$package knows a database: $name"
        ;;
      clap | anyhow | marked-yaml | serde_yaml* | serde_norway)
        fail "$package depends on $name, which only the daemon may"
        ;;
    esac
  done <<<"$tree"
done

# Neither core, bridge nor server names a backend in code (comments may).
if grep -rniE --include='*.rs' '(sqlite|postgres|mongo|clickhouse)' core/src bridge/src server/src |
  grep -vE ':[0-9]+:\s*(//|//!|///)' | grep -vE '^core/src/[a-z_/]+\.rs:[0-9]+:.*//.*(sqlite|postgres|mongo|clickhouse)'; then
  fail "core, bridge or server names a backend"
fi

# Every backend has the same file names for the same things.
same() {
  local folder=$1 files=$2 backend file
  shift 2
  for backend in "$@"; do
    for file in $files; do
      [[ -f $folder/src/$backend/$file.rs ]] || fail "$folder/src/$backend lacks $file.rs"
    done
  done
}
same layout "config schema cursors error" sqlite postgres mongodb clickhouse
same layout "contents rows" sqlite postgres mongodb clickhouse
same layout "hooks" sqlite postgres mongodb
same sources "store append read labels search changes snapshot consumers dead_letters" \
  sqlite postgres mongodb clickhouse
same sources "group" sqlite postgres clickhouse
same sources "transaction" sqlite postgres mongodb
same sinks "sink replica" sqlite postgres mongodb clickhouse
same sinks "apply" sqlite postgres mongodb

exit "$status"
