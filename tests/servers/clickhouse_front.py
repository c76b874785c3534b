"""ClickHouse's HTTP interface over the ClickHouse engine as a library.

No registry holds a ClickHouse server, but PyPI holds the engine itself. This
front listens on a loopback port and answers as the server would, so that the
tests drive the real engine through an ordinary HTTP client.

    python clickhouse_front.py --path DATA --port N [--port-file F] [--password P]

The interpreter chooses the engine: one that can import `chdb-core` 26.9 runs
today's ClickHouse, one that can import `chdb` 3.1.2 runs ClickHouse 24.8.4.1.
The two differ in what they can do, see `ManySessions` and `OneSession`.

What it cannot do: the function input(), external tables, zstd bodies, asynchronous
inserts (every insert is answered after its commit, whatever `async_insert` says), and
KILL QUERY for another request.
"""

import argparse
import base64
import contextlib
import hmac
import json
import os
import re
import shutil
import signal
import socket
import struct
import sys
import threading
import time
import traceback
import types
import urllib.parse
import uuid
import zlib

os.environ.setdefault("TZ", "UTC")

# The 24.8 wheel imports two large data-frame packages that no query here uses.
for _name in ("pyarrow", "pandas"):
    try:
        __import__(_name)
    except ImportError:
        sys.modules[_name] = types.ModuleType(_name)

import lz4.block  # noqa: E402
import lz4.frame  # noqa: E402
from chdb.session import Session  # noqa: E402
from clickhouse_cityhash.cityhash import CityHash128  # noqa: E402

MAX_HEAD = 1 << 20  # request line and headers
MAX_QUERY = 64 << 20  # query text that is not insert data
APPEND_BYTES = 1 << 20  # insert data is handed to the engine in pieces of this size
FRAME_BYTES = 1 << 20  # uncompressed size of a compressed response block

# URL parameters with a meaning of their own; every other one is a setting.
NOT_SETTINGS = {
    "query", "database", "default_format", "user", "password", "quota_key",
    "query_id", "session_id", "session_timeout", "session_check", "stacktrace",
    "compress", "decompress", "buffer_size", "wait_end_of_query", "role",
    "client_protocol_version", "close_session",
}

HTTP_STATUS_OF = {
    **dict.fromkeys(("REQUIRED_PASSWORD",), 401),
    **dict.fromkeys(("UNKNOWN_USER", "WRONG_PASSWORD", "AUTHENTICATION_FAILED"), 403),
    **dict.fromkeys(
        ("UNKNOWN_TABLE", "UNKNOWN_FUNCTION", "UNKNOWN_IDENTIFIER", "UNKNOWN_TYPE",
         "UNKNOWN_STORAGE", "UNKNOWN_DATABASE", "UNKNOWN_SETTING", "UNKNOWN_FORMAT",
         "UNKNOWN_DIRECTION_OF_SORTING", "UNKNOWN_AGGREGATE_FUNCTION",
         "UNKNOWN_DATABASE_ENGINE", "UNKNOWN_TYPE_OF_QUERY", "NO_ELEMENTS_IN_CONFIG"), 404),
    **dict.fromkeys(
        ("BAD_ARGUMENTS", "CANNOT_COMPILE_REGEXP", "CANNOT_PARSE_TEXT",
         "CANNOT_PARSE_ESCAPE_SEQUENCE", "CANNOT_PARSE_QUOTED_STRING",
         "CANNOT_PARSE_DATE", "CANNOT_PARSE_DATETIME", "CANNOT_PARSE_NUMBER",
         "CANNOT_PARSE_DOMAIN_VALUE_FROM_STRING", "CANNOT_PARSE_IPV4",
         "CANNOT_PARSE_IPV6", "CANNOT_PARSE_UUID", "CANNOT_PARSE_INPUT_ASSERTION_FAILED",
         "CANNOT_PARSE_BOOL", "DUPLICATE_COLUMN", "ILLEGAL_COLUMN", "SYNTAX_ERROR",
         "UNKNOWN_ELEMENT_IN_AST", "TOO_DEEP_AST", "TOO_BIG_AST",
         "UNEXPECTED_AST_STRUCTURE", "INCORRECT_DATA", "TYPE_MISMATCH",
         "VALUE_IS_OUT_OF_RANGE_OF_DATA_TYPE"), 400),
    **dict.fromkeys(("TIMEOUT_EXCEEDED",), 408),
    **dict.fromkeys(("QUERY_IS_TOO_LARGE",), 413),
    **dict.fromkeys(("NOT_IMPLEMENTED",), 501),
    **dict.fromkeys(("SOCKET_TIMEOUT", "CANNOT_SCHEDULE_TASK"), 503),
}

REASONS = {
    200: "OK", 400: "Bad Request", 401: "Unauthorized", 403: "Forbidden", 404: "Not Found",
    408: "Request Timeout", 411: "Length Required", 413: "Request Entity Too Large",
    431: "Request Header Fields Too Large", 500: "Internal Server Error",
    501: "Not Implemented", 503: "Service Unavailable",
}


class ServerError(Exception):
    """An error in the server's own words: `Code: 60. DB::Exception: ... (UNKNOWN_TABLE)`."""

    def __init__(self, code, name, message):
        super().__init__(message)
        self.code, self.name, self.message = code, name, message

    @property
    def status(self):
        return HTTP_STATUS_OF.get(self.name, 500)

    def text(self, version):
        return (f"Code: {self.code}. DB::Exception: {self.message} ({self.name}) "
                f"(version {version} (official build))\n")

    @classmethod
    def of(cls, error):
        """Reads the engine's error out of what its Python binding raised."""
        if isinstance(error, cls):
            return error
        text = str(error)
        found = re.search(r"Code: (\d+)\. DB::Exception: ", text)
        if not found:
            return cls(1002, "UNKNOWN_EXCEPTION", text.strip() or type(error).__name__)
        message = text[found.end():].strip()
        message = re.sub(r"^(Code: \d+\. DB::Exception: )+", "", message)
        message = re.sub(r"\s*\(version [^()]*(\([^()]*\))?\)\.?", "", message).strip()
        message = re.sub(r"\(in file/uri [^)]*\): ", "", message)
        name = "UNKNOWN_EXCEPTION"
        tail = re.search(r"\s*\(([A-Z][A-Z0-9_]+)\)$", message)
        if tail:
            name, message = tail.group(1), message[:tail.start()]
        # An error of a nested query names its class twice.
        message = re.sub(r"\. \(" + name + r"\)(?=\s|$)", ".", message)
        return cls(int(found.group(1)), name, message)


class ClientGone(Exception):
    """The client closed its connection, or broke the framing of its request."""


# --------------------------------------------------------------------------- queries

TOKEN = re.compile(
    rb"""(?P<blank>\s+|--[^\n]*|\#[!\ ][^\n]*|/\*.*?\*/)
       | (?P<quoted>'(?:[^'\\]|\\.|'')*' | `(?:[^`\\]|\\.|``)*` | "(?:[^"\\]|\\.|"")*"
                   | \$(?P<tag>\w*)\$.*?\$(?P=tag)\$)
       | (?P<word>[A-Za-z_][A-Za-z0-9_]*)
       | (?P<number>[0-9][A-Za-z0-9_.]*)
       | (?P<open>[(\[{]) | (?P<close>[)\]}])
       | (?P<other>.)""",
    re.DOTALL | re.VERBOSE,
)

READ_ONLY = {"SELECT", "WITH", "SHOW", "DESCRIBE", "DESC", "EXISTS", "EXPLAIN", "SET", "USE",
             "CHECK", "FROM", "("}


def tokens(text):
    """Yields (kind, upper-case text, start, end, depth) of what is not blank."""
    depth = 0
    for match in TOKEN.finditer(text):
        kind = match.lastgroup if match.lastgroup != "tag" else "quoted"
        if kind == "blank":
            continue
        if kind == "close":
            depth -= 1
        yield kind, match.group().upper().decode("latin-1"), match.start(), match.end(), depth
        if kind == "open":
            depth += 1


class Insert:
    """An INSERT with data: `head` up to the data's format, without its SETTINGS."""

    def __init__(self, head, settings, fmt, data):
        self.head, self.settings, self.fmt, self.data = head, settings, fmt, data


def parse_insert(text):
    """Splits an INSERT from its data.

    Returns an `Insert`; or False for an INSERT ... SELECT; or None if the text
    ends before that can be told.
    """
    settings_at = None
    previous = ""
    found = tokens(text)
    for kind, word, start, end, depth in found:
        if kind == "open" and depth == 0:
            after = next(tokens(text[end:end + 4096]), ("", "", 0, 0, 0))
            if after[1] in ("SELECT", "WITH") and previous not in ("", "."):
                return False
        if kind == "word" and depth == 0 and previous not in (".", "INTO", "TABLE"):
            if word in ("SELECT", "WITH", "FROM", "WATCH", "EXPLAIN"):
                return False
            if word == "SETTINGS":
                settings_at = start
            if word in ("VALUES", "FORMAT"):
                fmt, data_at = "Values", end
                if word == "FORMAT":
                    named = next(found, None)
                    if named is None or named[0] != "word":
                        return None
                    fmt, data_at = text[named[2]:named[3]].decode(), named[3]
                    blank = re.match(rb"[ \t\f]*\r?\n?", text[data_at:data_at + 4096])
                    data_at += blank.end()
                head, settings = text[:start], b""
                if settings_at is not None:
                    head, settings = text[:settings_at], text[settings_at:start]
                return Insert(head.decode(), settings.decode(), fmt, text[data_at:])
        previous = word
    return None


def first_word(text):
    return next((word for _, word, *_ in tokens(text)), "")


def result_format(text, default):
    """The format of a query's result: its own FORMAT clause, else the default."""
    fmt, awaited = default, False
    for kind, word, start, end, depth in tokens(text):
        if awaited and kind == "word":
            fmt = text[start:end].decode()
        awaited = depth == 0 and word == "FORMAT"
    return fmt


def check_single(text):
    """The server refuses several statements in one request; the library would run them."""
    ended = False
    for kind, word, *_ in tokens(text):
        if ended:
            raise ServerError(62, "SYNTAX_ERROR",
                              "Syntax error (Multi-statements are not allowed): failed at "
                              "position 1 (end of query) (;).")
        ended = kind == "other" and word == ";"


def quoted(value):
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"


def named(name):
    return "`" + name.replace("\\", "\\\\").replace("`", "\\`") + "`"


def set_statement(settings, params):
    pairs = [(k, v) for k, v in settings.items()] + [("param_" + k, v) for k, v in params.items()]
    for key, _ in pairs:
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_.]*", key):
            raise ServerError(115, "UNKNOWN_SETTING", f"Unknown setting '{key}'")
    return "SET " + ", ".join(f"{k} = {quoted(v)}" for k, v in pairs) if pairs else ""


# --------------------------------------------------------------------------- engines

# Formats whose concatenated blocks are one valid result. The engine writes a result's
# header anew in every block that it streams; those named here have one that can be cut.
PLAIN_FORMATS = {"TabSeparated", "TSV", "TabSeparatedRaw", "TSVRaw", "CSV", "JSONEachRow",
                 "NDJSON", "JSONLines", "JSONCompactEachRow", "RowBinary", "Native",
                 "LineAsString", "RawBLOB", "JSONStringsEachRow"}
LINE_HEADERS = {"TabSeparatedWithNames": 1, "TSVWithNames": 1,
                "TabSeparatedWithNamesAndTypes": 2, "TSVWithNamesAndTypes": 2,
                "JSONCompactEachRowWithNames": 1, "JSONCompactEachRowWithNamesAndTypes": 2}
BINARY_HEADERS = {"RowBinaryWithNames": 1, "RowBinaryWithNamesAndTypes": 2}


def header_length(fmt, block):
    """The length of the header with which a streamed block begins."""
    if fmt in LINE_HEADERS:
        at = 0
        for _ in range(LINE_HEADERS[fmt]):
            at = block.index(b"\n", at) + 1
        return at
    if fmt not in BINARY_HEADERS:
        return 0

    def varint(at):
        value = shift = 0
        while True:
            byte = block[at]
            at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value, at

    columns, at = varint(0)
    for _ in range(columns * BINARY_HEADERS[fmt]):
        length, at = varint(at)
        at += length
    return at


class ManySessions:
    """The 26.9 engine: a session of its own for every request, streams both ways.

    A session holds the database, the settings and the parameters of one request at a
    time. It goes back to the pool only if nothing but its database was changed, so no
    request sees another's settings.
    """

    def __init__(self, path):
        self.path = path = with_cluster(path)
        # Without one open session the library would shut the engine down, and load it anew.
        self.anchor = Session(path)
        self.pool = []
        self.kept = {}  # by session_id
        self.lock = threading.Lock()
        with self.session("default", {}, {}) as unit:
            self.version = unit.execute("SELECT version()", "TabSeparated").decode().strip()

    def take(self, database):
        with self.lock:
            for at, (session, used) in enumerate(self.pool):
                if used == database:
                    del self.pool[at]
                    return session, used
            if self.pool:
                return self.pool.pop()
        return Session(self.path), None

    @contextlib.contextmanager
    def session(self, database, settings, params, session_id=None):
        if session_id is not None:
            with self.lock:
                kept = self.kept.setdefault(session_id, [threading.Lock(), None])
            with kept[0]:
                fresh = kept[1] is None
                if fresh:
                    kept[1] = Session(self.path)
                self.prepare(kept[1], database if fresh or database != "default" else None,
                             settings, params)
                yield SessionUnit(kept[1])
            return
        session, used = self.take(database)
        clean = False
        try:
            self.prepare(session, database if used != database else None, settings, params)
            unit = SessionUnit(session)
            yield unit
            clean = unit.clean and not settings and not params
        finally:
            if clean and len(self.pool) < 32:
                with self.lock:
                    self.pool.append((session, database))
            else:
                session.close()

    @staticmethod
    def prepare(session, database, settings, params):
        if database is not None:
            session.query("USE " + named(database))
        statement = set_statement(settings, params)
        if statement:
            session.query(statement)

    def close(self):
        with self.lock:
            pool, self.pool = self.pool, []
        for session, _ in pool:
            session.close()
        self.anchor.close()


class SessionUnit:
    """What one request may do with its session."""

    def __init__(self, session):
        self.session = session
        self.clean = True
        self.read_rows = self.read_bytes = 0

    def execute(self, sql, fmt):
        if first_word(sql.encode()) not in ("SELECT", "INSERT", "ALTER", "OPTIMIZE", "DELETE"):
            self.clean = False
        result = self.session.query(sql, fmt)
        self.read_rows, self.read_bytes = result.rows_read(), result.bytes_read()
        return result.bytes()

    def select(self, sql, fmt):
        """Yields the result in pieces, one by one as the engine computes them."""
        if fmt not in PLAIN_FORMATS and fmt not in LINE_HEADERS and fmt not in BINARY_HEADERS:
            yield self.execute(sql, fmt)
            return
        stream = self.session.send_query(sql, fmt)
        done = False
        try:
            first = True
            for block in stream:
                data = block.bytes()
                self.read_rows += block.rows_read()
                self.read_bytes += block.bytes_read()
                yield data if first else memoryview(data)[header_length(fmt, data):]
                first = False
            done = True
        finally:
            if not done:
                self.clean = False
                stream.close()
        if first:
            # No block means no header either.
            yield self.execute(sql, fmt)

    def insert(self, insert):
        return StreamedInsert(self, insert)


class StreamedInsert:
    """Insert data handed to the engine while it arrives."""

    def __init__(self, unit, insert):
        self.unit = unit
        self.started = time.perf_counter()
        self.inserter = unit.session.send_insert(insert.head + " " + insert.settings, insert.fmt)

    def write(self, data):
        self.inserter.append(data)

    def finish(self):
        result = self.inserter.finish()
        return result.rows_written, result.bytes_written

    def cancel(self):
        self.unit.clean = False
        with contextlib.suppress(Exception):
            self.inserter.cancel()


class OneSession:
    """The 24.8 engine: one session for all, one query at a time.

    The library serialises queries itself; the lock here keeps a request's database and
    settings together with its query. Settings of the request before are put back to
    their defaults first. Insert data arrives in a file. The library's own database
    `default` would not outlive the process, so another one stands in for it and
    `default` is an ordinary one.
    """

    def __init__(self, path, spool):
        self.spool = spool
        self.lock = threading.RLock()
        self.changed = set()
        self.inner = Session(path + "?database=_local")
        self.inner.query("CREATE DATABASE IF NOT EXISTS default ENGINE = Atomic")
        self.inner.query("USE default")
        self.database = "default"
        self.version = self.inner.query("SELECT version()", "TSV").bytes().decode().strip()

    @contextlib.contextmanager
    def session(self, database, settings, params, session_id=None):
        # Once set, `readonly` could not be taken back.
        settings = {k: v for k, v in settings.items() if k != "readonly"}
        yield SharedUnit(self, database, settings, params)

    def run(self, unit, sql, fmt):
        with self.lock:
            if self.changed:
                self.inner.query("SET " + ", ".join(f"{k} = DEFAULT" for k in self.changed))
                self.changed = set()
            if unit.database != self.database:
                self.inner.query("USE " + named(unit.database))
                self.database = unit.database
            statement = set_statement(unit.settings, unit.params)
            if statement:
                try:
                    self.inner.query(statement)
                    self.changed = set(unit.settings)
                except Exception:
                    for key in unit.settings:
                        with contextlib.suppress(Exception):
                            self.inner.query(f"SET {key} = DEFAULT")
                    raise
            word = first_word(sql.encode())
            if word == "SET":
                self.changed |= set(re.findall(r"([A-Za-z_]\w*)\s*=", sql))
            try:
                return self.inner.query(sql, fmt)
            finally:
                if word == "USE":
                    self.database = None

    def close(self):
        self.inner.close()


class SharedUnit:
    """What one request may do with the one session."""

    def __init__(self, engine, database, settings, params):
        self.engine, self.database = engine, database
        self.settings, self.params = settings, params
        self.read_rows = self.read_bytes = 0

    def execute(self, sql, fmt):
        result = self.engine.run(self, sql, fmt)
        self.read_rows, self.read_bytes = result.rows_read(), result.bytes_read()
        return result.bytes()

    def select(self, sql, fmt):
        yield self.execute(sql, fmt)

    def insert(self, insert):
        return SpooledInsert(self, insert)


class SpooledInsert:
    """Insert data gathered in a file, then read by the engine in one go."""

    def __init__(self, unit, insert):
        self.unit, self.insert = unit, insert
        self.path = os.path.join(unit.engine.spool, uuid.uuid4().hex + ".data")
        # The target is checked before its data is asked for.
        table = re.sub(r"(?is)^\s*INSERT\s+INTO\s+(TABLE\s+(?!FUNCTION\b))?", "", insert.head)
        table = table.split("(")[0].strip()
        if table and not re.match(r"(?i)(TABLE\s+)?FUNCTION\b", table):
            unit.execute(f"DESCRIBE TABLE {table}", "Null")
        # Reading a file, this version expects all of the table's columns by position
        # however the INSERT lists them, unless it need not fill in defaults within rows.
        by_name = re.search(r"(?i)^(JSON(?!Compact)|TSKV|Native|Parquet|Arrow|ORC|Avro|BSON)"
                            r"|WithNames", insert.fmt)
        if "(" in insert.head and not by_name:
            unit.settings.setdefault("input_format_defaults_for_omitted_fields", "0")
        self.file = open(self.path, "wb", buffering=0)

    def write(self, data):
        self.file.write(data)

    def finish(self):
        self.file.close()
        try:
            sql = (f"{self.insert.head} FROM INFILE {quoted(self.path)} COMPRESSION 'none' "
                   f"{self.insert.settings} FORMAT {self.insert.fmt}")
            result = self.unit.engine.run(self.unit, sql, "Null")
            return result.rows_read(), result.bytes_read()
        finally:
            os.unlink(self.path)

    def cancel(self):
        self.file.close()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path)


def with_cluster(path):
    """The engine's path, with a cluster `one_shard`, whose shard is the engine itself.

    It takes that for its own, since the port is the one that it would listen at. It listens at none,
    so there is no second one.
    """
    config = path + ".xml"
    with open(config, "w", encoding="ascii") as file:
        file.write("<clickhouse><tcp_port>9000</tcp_port><remote_servers><one_shard><shard>"
                   "<internal_replication>true</internal_replication><replica>"
                   "<host>127.0.0.1</host><port>9000</port></replica></shard></one_shard>"
                   "</remote_servers></clickhouse>")
    return f"{path}?config-file={config}"


def open_engine(path):
    data, spool = os.path.join(path, "engine"), os.path.join(path, "spool")
    os.makedirs(data, exist_ok=True)
    shutil.rmtree(spool, ignore_errors=True)
    os.makedirs(spool)
    if hasattr(Session, "send_insert"):
        return ManySessions(data)
    return OneSession(data, spool)


# --------------------------------------------------------------------------- compression

def checksum(block):
    """CityHash128, version 1.0.2: the half that the library puts on top is written first."""
    value = CityHash128(block)
    return (value >> 64).to_bytes(8, "little") + (value & (1 << 64) - 1).to_bytes(8, "little")


def frame(data):
    """One compressed block: checksum, method, sizes with the header of 9, LZ4 data."""
    packed = lz4.block.compress(data, store_size=False)
    body = struct.pack("<BII", 0x82, len(packed) + 9, len(data)) + packed
    return checksum(body) + body


def unframed(read):
    """Yields the contents of compressed blocks; `read(n)` gives n bytes, or none at the end."""
    while True:
        head = read(25)
        if not head:
            return
        if len(head) < 25:
            raise ServerError(33, "CANNOT_READ_ALL_DATA", "Cannot read all data of a block")
        method, packed, plain = struct.unpack("<BII", head[16:])
        if packed < 9 or packed > 1 << 30 or plain > 1 << 30:
            raise ServerError(354, "TOO_LARGE_SIZE_COMPRESSED",
                              "Too large size of a compressed block: the data is corrupted")
        data = read(packed - 9)
        if len(data) < packed - 9:
            raise ServerError(33, "CANNOT_READ_ALL_DATA", "Cannot read all data of a block")
        if checksum(head[16:] + data) != head[:16]:
            raise ServerError(40, "CHECKSUM_DOESNT_MATCH",
                              "Checksum doesn't match: corrupted data")
        if method == 0x82:
            try:
                yield lz4.block.decompress(data, uncompressed_size=plain)
            except lz4.block.LZ4BlockError:
                raise ServerError(271, "CANNOT_DECOMPRESS", "Cannot decompress a block") from None
        elif method == 0x02:
            yield data
        else:
            raise ServerError(89, "UNKNOWN_COMPRESSION_METHOD",
                              f"Unknown compression method: {method:#04x}")


def form_fields(content_type, data):
    """The fields of a multipart form: a client may send its query and parameters so."""
    found = re.search(r'boundary="?([^";]+)', content_type)
    if not found:
        raise ServerError(36, "BAD_ARGUMENTS", "A multipart form without a boundary")
    fields = {}
    mark = b"\r\n--" + found.group(1).encode("latin-1")
    for part in (b"\r\n" + data).split(mark)[1:]:
        head, blank, value = part.partition(b"\r\n\r\n")
        name = re.search(rb'[; ]name="([^"]*)"', head)
        if not blank or not name:
            continue
        if b"filename=" in head:
            raise ServerError(48, "NOT_IMPLEMENTED", "This front takes no external tables")
        fields[name.group(1).decode()] = value.decode()
    return fields


def inflated(read):
    """Yields the contents of a gzip or zlib body."""
    packer = zlib.decompressobj(wbits=47)
    while True:
        data = read(1 << 18)
        if not data:
            return
        yield packer.decompress(data)


# --------------------------------------------------------------------------- HTTP

class Body:
    """A request's body, by its length or by chunks."""

    def __init__(self, file, headers, send_continue):
        self.file = file
        self.send_continue = send_continue
        self.chunked = "chunked" in headers.get("transfer-encoding", "").lower()
        try:
            self.left = 0 if self.chunked else int(headers.get("content-length", "0"))
        except ValueError:
            raise ClientGone from None
        self.ended = not self.chunked and self.left == 0

    def waits(self):
        """Whether the client sends nothing before it is told to go on."""
        return self.send_continue is not None

    def some(self, limit):
        """Up to `limit` bytes; none only at the end."""
        if self.ended:
            return b""
        if self.send_continue:
            self.send_continue()
            self.send_continue = None
        if self.left == 0 and self.chunked:
            line = self.file.readline(1024)
            try:
                self.left = int(line.split(b";")[0], 16)
            except ValueError:
                raise ClientGone from None
            if self.left == 0:
                while self.file.readline(8192).strip():
                    pass
                self.ended = True
                return b""
        data = self.file.read1(min(limit, self.left))
        if not data:
            raise ClientGone
        self.left -= len(data)
        if self.left == 0:
            if self.chunked:
                if self.file.read(2) != b"\r\n":
                    raise ClientGone
            else:
                self.ended = True
        return data

    def exactly(self, count):
        """`count` bytes, fewer only at the end."""
        first = self.some(count)
        if len(first) == count or not first:
            return first
        parts, missing = [first], count - len(first)
        while missing:
            data = self.some(missing)
            if not data:
                break
            parts.append(data)
            missing -= len(data)
        return b"".join(parts)


class GzipPacker:
    """A response's Content-Encoding: gzip."""

    def __init__(self):
        self.inner = zlib.compressobj(3, wbits=31)

    def pack(self, data, last):
        return self.inner.compress(data) + self.inner.flush(
            zlib.Z_FINISH if last else zlib.Z_SYNC_FLUSH)


class Lz4Packer:
    """A response's Content-Encoding: lz4, the frame format."""

    def __init__(self):
        self.inner = lz4.frame.LZ4FrameCompressor(
            block_size=lz4.frame.BLOCKSIZE_MAX256KB, auto_flush=True)

    def pack(self, data, last):
        head = b"" if self.inner.started() else self.inner.begin()
        return head + self.inner.compress(data) + (self.inner.flush() if last else b"")


class Response:
    """Collects a status and headers, then writes them with the first byte."""

    def __init__(self, sock, headers, keep_alive, compress, encoding, head_only):
        self.sock, self.headers = sock, headers
        self.keep_alive = keep_alive
        self.compress, self.encoding = compress, encoding
        self.head_only = head_only
        self.started = False
        self.pending = bytearray()
        self.packer = {"gzip": GzipPacker, "lz4": Lz4Packer}.get(encoding, lambda: None)()

    def head(self, status, length):
        lines = [f"HTTP/1.1 {status} {REASONS.get(status, 'Error')}"]
        if self.encoding:
            self.headers["Content-Encoding"] = self.encoding
        lines += [f"{k}: {v}" for k, v in self.headers.items()]
        lines.append("Connection: Keep-Alive" if self.keep_alive else "Connection: close")
        if self.keep_alive:
            lines.append("Keep-Alive: timeout=30, max=9999")
        lines.append("Transfer-Encoding: chunked" if length is None
                     else f"Content-Length: {length}")
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1", "replace")

    def packed(self, data, last=False):
        if self.packer:
            return self.packer.pack(bytes(data), last)
        if not self.compress:
            return data
        return b"".join(frame(bytes(data[at:at + FRAME_BYTES]))
                        for at in range(0, len(data), FRAME_BYTES))

    def send_chunk(self, data):
        if data and not self.head_only:
            self.sock.sendall(b"".join((b"%x\r\n" % len(data), data, b"\r\n")))

    def write(self, data):
        """Sends whole frames; a response that fits one is sent with its length instead."""
        data = memoryview(data)
        for at in range(0, len(data), FRAME_BYTES):
            self.pending += data[at:at + FRAME_BYTES]
            if len(self.pending) >= FRAME_BYTES:
                self.flush()

    def flush(self):
        if not self.started:
            self.started = True
            self.sock.sendall(self.head(200, None))
        pending, self.pending = self.pending, bytearray()
        self.send_chunk(self.packed(pending))

    def end(self):
        if self.started:
            self.send_chunk(self.packed(self.pending, last=True))
            if not self.head_only:
                self.sock.sendall(b"0\r\n\r\n")
            return
        data = self.packed(self.pending, last=True)
        self.started = True
        self.sock.sendall(self.head(200, len(data)) + (b"" if self.head_only else data))

    def fail(self, error, version):
        """Before the first byte a proper status; after it the text, and a broken body."""
        text = error.text(version).encode()
        if self.started:
            tag = self.headers.get("X-ClickHouse-Exception-Tag", "").encode()
            if tag:
                text = b"\r\n__exception__\r\n%b\r\n%b%d %b\r\n__exception__\r\n" % (
                    tag, text, len(text), tag)
            self.pending += text
            self.flush()
            raise ClientGone
        self.started = True
        self.encoding = None
        self.headers["X-ClickHouse-Exception-Code"] = str(error.code)
        self.headers["Content-Type"] = "text/plain; charset=UTF-8"
        self.headers.pop("X-ClickHouse-Format", None)
        data = frame(text) if self.compress else text
        self.sock.sendall(self.head(error.status, len(data)) + (b"" if self.head_only else data))


class Front:
    def __init__(self, engine, user, password):
        self.engine, self.user, self.password = engine, user, password
        self.busy = 0
        self.count = threading.Lock()
        with engine.session("default", {}, {}) as unit:
            self.compression = unit.execute(
                "SELECT value FROM system.settings WHERE name = 'enable_http_compression'",
                "TabSeparated").decode().strip()

    def tag(self):
        """From 25.11 on an error in mid-stream is marked with a tag that no data can hold."""
        if tuple(map(int, self.engine.version.split(".")[:2])) < (25, 11):
            return {}
        return {"X-ClickHouse-Exception-Tag": uuid.uuid4().hex[:16]}

    def serve(self, sock):
        """Answers the requests of one connection."""
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        file = sock.makefile("rb", buffering=1 << 18)
        try:
            while True:
                request = self.read_head(file)
                if request is None:
                    return
                with self.count:
                    self.busy += 1
                try:
                    if not self.answer(sock, file, *request):
                        self.linger(sock, file)
                        return
                finally:
                    with self.count:
                        self.busy -= 1
        except (ClientGone, OSError):
            pass
        except Exception:
            traceback.print_exc()
        finally:
            with contextlib.suppress(OSError):
                file.close()
                sock.close()

    @staticmethod
    def drain(sock, body):
        """Reads the rest of a body that is refused before the answer, as the server does.

        A client that is still sending would else see its connection close, and not why. One that
        does not go on sending gets its answer all the same.
        """
        if body.waits():
            return
        deadline = time.monotonic() + 10
        sock.settimeout(2)
        with contextlib.suppress(ClientGone, OSError):
            while time.monotonic() < deadline and body.some(1 << 18):
                pass
        sock.settimeout(None)

    @staticmethod
    def linger(sock, file):
        """Reads on for a while, so that a client still sending gets to see the answer."""
        sock.shutdown(socket.SHUT_WR)
        sock.settimeout(2)
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline and file.read1(1 << 18):
            pass

    @staticmethod
    def read_head(file):
        line = file.readline(MAX_HEAD)
        while line in (b"\r\n", b"\n"):
            line = file.readline(MAX_HEAD)
        if not line.endswith(b"\n"):
            return None
        parts = line.decode("latin-1").split()
        if len(parts) != 3:
            return None
        headers, size = {}, len(line)
        while True:
            line = file.readline(MAX_HEAD)
            size += len(line)
            if not line.endswith(b"\n") or size > MAX_HEAD:
                return None
            if line in (b"\r\n", b"\n"):
                return parts[0], parts[1], parts[2], headers
            key, _, value = line.decode("latin-1").partition(":")
            headers[key.strip().lower()] = value.strip()

    def answer(self, sock, file, method, target, protocol, headers):
        """Answers one request; returns whether the connection stays open."""
        wanted = headers.get("connection", "").lower()
        keep = wanted != "close" and (protocol != "HTTP/1.0" or wanted == "keep-alive")
        url = urllib.parse.urlsplit(target)
        params = dict(urllib.parse.parse_qsl(url.query, keep_blank_values=True))

        def go_on():
            sock.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")

        expects = headers.get("expect", "").lower() == "100-continue"
        body = Body(file, headers, go_on if expects else None)
        query_id = params.get("query_id") or headers.get("x-clickhouse-query-id") \
            or str(uuid.uuid4())
        encoding = None
        if params.get("enable_http_compression", self.compression) in ("1", "true"):
            accepted = headers.get("accept-encoding", "").lower()
            encoding = next((name for name in ("lz4", "gzip") if name in accepted), None)
        response = Response(sock, {
            "Date": time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime()),
            "Content-Type": "text/plain; charset=UTF-8",
            "X-ClickHouse-Server-Display-Name": "ledger-test",
            "X-ClickHouse-Query-Id": query_id,
            "X-ClickHouse-Timezone": "UTC",
            **self.tag(),
        }, keep, params.get("compress") == "1", encoding, method == "HEAD")

        path = url.path or "/"
        if path in ("/ping", "/replicas_status") or \
                (path == "/" and method in ("GET", "HEAD") and "query" not in params):
            response.compress, response.encoding, response.packer = False, None, None
            response.pending += b"Ok.\n"
            response.end()
            return keep and body.ended
        try:
            if path not in ("/", "/query"):
                raise ServerError(78, "UNKNOWN_TYPE_OF_QUERY", f"There is no handle {path}")
            if method not in ("GET", "HEAD", "POST", "PUT"):
                raise ServerError(48, "NOT_IMPLEMENTED", f"Method {method} is not supported")
            self.authenticate(params, headers)
            self.run(method, params, headers, body, response)
            response.end()
        except (ClientGone, OSError):
            raise
        except Exception as error:
            self.drain(sock, body)
            response.keep_alive = keep and body.ended
            response.fail(ServerError.of(error), self.engine.version)
        if not body.ended:
            return False
        return response.keep_alive

    def authenticate(self, params, headers):
        user, password = params.get("user", "default"), params.get("password", "")
        if headers.get("authorization", "").lower().startswith("basic "):
            try:
                plain = base64.b64decode(headers["authorization"][6:]).decode()
            except ValueError:
                plain = ""
            user, _, password = plain.partition(":")
        user = headers.get("x-clickhouse-user", user)
        password = headers.get("x-clickhouse-key", password)
        right = not self.password or hmac.compare_digest(password.encode(), self.password.encode())
        if user != self.user or not right:
            raise ServerError(516, "AUTHENTICATION_FAILED",
                              f"{user}: Authentication failed: password is incorrect, or there is "
                              "no user with such name.")

    def run(self, method, params, headers, body, response):
        if params.get("decompress") == "1":
            pieces = unframed(body.exactly)
        elif headers.get("content-encoding", "").lower() in ("gzip", "deflate"):
            pieces = inflated(body.some)
        elif headers.get("content-encoding", "identity").lower() != "identity":
            raise ServerError(48, "NOT_IMPLEMENTED",
                              "This front reads gzip and deflate bodies only")
        else:
            pieces = iter(lambda: body.some(1 << 18), b"")

        if headers.get("content-type", "").lower().startswith("multipart/form-data"):
            params = {**params, **form_fields(headers["content-type"], b"".join(pieces))}
            pieces = iter(())

        database = params.get("database") or headers.get("x-clickhouse-database") or "default"
        fmt = params.get("default_format") or headers.get("x-clickhouse-format") or "TabSeparated"
        settings = {k: v for k, v in params.items()
                    if k not in NOT_SETTINGS and not k.startswith("param_")}
        bound = {k[6:]: v for k, v in params.items() if k.startswith("param_")}

        text = params.get("query", "").encode().strip()
        insert = None
        if text:
            if re.match(rb"(?is)\s*INSERT\b", text) and text.endswith(b";"):
                text = text[:-1].rstrip()
            text += b"\n"
        # Of the body no more is read here than it takes to tell what the query is.
        while True:
            if first_word(text) == "INSERT":
                insert = parse_insert(text)
                if insert is not None:
                    break
            piece = next(pieces, None)
            if piece is None:
                break
            text += piece
            if len(text) > MAX_QUERY:
                raise ServerError(62, "QUERY_IS_TOO_LARGE", "The query is too large")
        if insert is False:
            text += b"".join(pieces)
            if re.search(rb"(?i)\binput\s*\(", text):
                raise ServerError(48, "NOT_IMPLEMENTED",
                                  "This front does not pass data to the function input()")
        if not first_word(text):
            raise ServerError(62, "SYNTAX_ERROR", "Syntax error: failed at position 1 (end of "
                                                  "query): . Empty query")
        if method in ("GET", "HEAD") and first_word(text) not in READ_ONLY:
            raise ServerError(164, "READONLY",
                              "default: Cannot execute query in readonly mode. For queries over "
                              "HTTP, method GET implies readonly. You should use method POST for "
                              "modifying queries.")

        started = time.perf_counter_ns()
        with self.engine.session(database, settings, bound, params.get("session_id")) as unit:
            if insert:
                rows, size = self.insert(unit, insert, pieces)
                response.headers["X-ClickHouse-Summary"] = summary(
                    rows, size, rows, size, started)
                return
            check_single(text)
            sql = text.decode().strip()
            while sql.endswith(";"):
                sql = sql[:-1].rstrip()
            word = first_word(text)
            shape = result_format(text, fmt)
            response.headers["X-ClickHouse-Format"] = shape
            response.headers["Content-Type"] = content_type(shape)
            streams = word in ("SELECT", "WITH", "FROM", "(") \
                and params.get("wait_end_of_query") != "1"
            if not streams:
                response.pending += unit.execute(sql, shape)
                response.headers["X-ClickHouse-Summary"] = summary(
                    unit.read_rows, unit.read_bytes, 0, 0, started)
                return
            for block in unit.select(sql, shape):
                response.headers["X-ClickHouse-Summary"] = summary(
                    unit.read_rows, unit.read_bytes, 0, 0, started)
                response.write(block)

    @staticmethod
    def insert(unit, insert, pieces):
        """Passes the data on; an INSERT whose client went away is cancelled, not committed."""
        target = unit.insert(insert)
        try:
            held, size = [insert.data], len(insert.data)
            for piece in pieces:
                held.append(piece)
                size += len(piece)
                if size >= APPEND_BYTES:
                    target.write(b"".join(held))
                    held, size = [], 0
            if size:
                target.write(b"".join(held))
        except BaseException:
            target.cancel()
            raise
        return target.finish()


def summary(read_rows, read_bytes, written_rows, written_bytes, started):
    counts = {"read_rows": read_rows, "read_bytes": read_bytes, "written_rows": written_rows,
              "written_bytes": written_bytes, "total_rows_to_read": 0,
              "result_rows": written_rows, "result_bytes": written_bytes,
              "elapsed_ns": time.perf_counter_ns() - started}
    return json.dumps({k: str(v) for k, v in counts.items()}, separators=(",", ":"))


def content_type(fmt):
    if fmt.startswith("JSON"):
        return "application/json; charset=UTF-8"
    if fmt.startswith("CSV"):
        return "text/csv; charset=UTF-8; header=" + \
            ("present" if "WithNames" in fmt else "absent")
    if fmt.startswith(("TabSeparated", "TSV")):
        return "text/tab-separated-values; charset=UTF-8"
    if fmt.startswith(("RowBinary", "Native")):
        return "application/octet-stream"
    return "text/plain; charset=UTF-8"


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--path", required=True, help="folder of the data, made if absent")
    parser.add_argument("--port", type=int, default=0, help="loopback port; 0 picks a free one")
    parser.add_argument("--port-file", help="written with the port once queries are answered")
    parser.add_argument("--user", default="default")
    parser.add_argument("--password", default=os.environ.get("LEDGER_FRONT_PASSWORD", ""),
                        help="else from LEDGER_FRONT_PASSWORD; empty: any is accepted")
    options = parser.parse_args()

    engine = open_engine(os.path.abspath(options.path))
    front = Front(engine, options.user, options.password)
    listener = socket.create_server(("127.0.0.1", options.port), backlog=1024)

    # Signals are taken by a thread of their own: the engine installs handlers too.
    stopping = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, stopping)

    def accept():
        while True:
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=front.serve, args=(sock,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    port = listener.getsockname()[1]
    if options.port_file:
        with open(options.port_file + ".new", "w") as out:
            out.write(f"{port}\n")
        os.replace(options.port_file + ".new", options.port_file)
    print(f"ClickHouse {engine.version} on 127.0.0.1:{port}", file=sys.stderr, flush=True)

    signal.sigwait(stopping)
    listener.close()
    deadline = time.monotonic() + 2
    while front.busy and time.monotonic() < deadline:
        time.sleep(0.01)
    # Committed parts are files already; closing only tidies up, so it may not hold up the end.
    closing = threading.Thread(target=engine.close, daemon=True)
    closing.start()
    closing.join(2)
    os._exit(0)


if __name__ == "__main__":
    main()
