"""Tests of clickhouse_front.py, on the engine of the interpreter that runs them.

    python test_front.py [--bench] [name ...]

Every test is named for what the front promises. The front under test is started
here, on a port of its own, and killed where a test asks for it.
"""

import base64
import gzip
import http.client
import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import urllib.parse

import lz4.block
import lz4.frame
from clickhouse_cityhash.cityhash import CityHash128

HERE = os.path.dirname(os.path.abspath(__file__))
PASSWORD = "s3cret"


class Front:
    """A front of its own process, killed and started again at will."""

    def __init__(self):
        self.folder = tempfile.mkdtemp(prefix="ledger-front-")
        self.port = 0
        self.start()

    def start(self):
        port_file = os.path.join(self.folder, "port")
        if os.path.exists(port_file):
            os.unlink(port_file)
        self.log = open(os.path.join(self.folder, "log"), "ab")
        self.process = subprocess.Popen(
            [sys.executable, os.path.join(HERE, "clickhouse_front.py"),
             "--path", os.path.join(self.folder, "data"), "--port", str(self.port),
             "--port-file", port_file, "--password", PASSWORD],
            stdout=subprocess.DEVNULL, stderr=self.log)
        deadline = time.monotonic() + 60
        while not os.path.exists(port_file):
            if self.process.poll() is not None or time.monotonic() > deadline:
                with open(self.log.name) as log:
                    raise SystemExit("The front did not start:\n" + log.read())
            time.sleep(0.02)
        with open(port_file) as file:
            self.port = int(file.read())

    def kill(self, how=signal.SIGKILL):
        self.process.send_signal(how)
        return self.process.wait(10)

    def remove(self):
        if self.process.poll() is None:
            self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)


front = None


def connect():
    return http.client.HTTPConnection("127.0.0.1", front.port, timeout=120)


def ask(query=None, body=None, method="POST", headers=None, link=None, auth=True, chunked=False,
        **params):
    """Sends one request; returns (status, headers, body)."""
    if query is not None:
        params["query"] = query
    if auth:
        params.setdefault("user", "default")
        params.setdefault("password", PASSWORD)
    link, own = link or connect(), link is None
    link.request(method, "/?" + urllib.parse.urlencode(params), body=body, headers=headers or {},
                 encode_chunked=chunked)
    answer = link.getresponse()
    data = answer.read()
    if own:
        link.close()
    return answer.status, answer.headers, data


def run(sql, body=None, **params):
    """Runs a query that must succeed; returns its result as text."""
    status, _, data = ask(body=sql, **params) if body is None else ask(sql, body, **params)
    assert status == 200, (status, data)
    return data.decode()


def checksum(block):
    value = CityHash128(block)
    return struct.pack("<QQ", value >> 64, value & (1 << 64) - 1)


def frame(data, method=0x82):
    packed = lz4.block.compress(data, store_size=False) if method == 0x82 else data
    block = struct.pack("<BII", method, len(packed) + 9, len(data)) + packed
    return checksum(block) + block


def unframe(data):
    parts, at = [], 0
    while at < len(data):
        method, packed, plain = struct.unpack("<BII", data[at + 16:at + 25])
        block = data[at + 16:at + 16 + packed]
        assert checksum(block) == data[at:at + 16]
        assert method == 0x82
        parts.append(lz4.block.decompress(block[9:], uncompressed_size=plain))
        at += 16 + packed
    return b"".join(parts)


def table(columns="a UInt64, b String", settings=""):
    name = f"t{time.monotonic_ns()}"
    run(f"CREATE TABLE {name} ({columns}) ENGINE = MergeTree ORDER BY a {settings}")
    return name


def is_old():
    return run("SELECT version()").startswith("24.")


# ------------------------------------------------------------------------------- tests

def ping_and_root_answer_without_a_password():
    link = connect()
    for path in ("/ping", "/", "/replicas_status"):
        link.request("GET", path)
        answer = link.getresponse()
        assert (answer.status, answer.read()) == (200, b"Ok.\n"), path


def a_query_is_taken_from_the_url_or_the_body():
    assert ask("SELECT 1", method="GET")[2] == b"1\n"
    assert ask("SELECT 2")[2] == b"2\n"
    assert ask(body="SELECT 3")[2] == b"3\n"
    assert ask("SELECT 4 +", body=" 5")[2] == b"9\n"
    assert ask(body="SELECT 6; -- the end\n")[2] == b"6\n"


def insert_data_may_be_in_body_or_query():
    t = table()
    run(f"INSERT INTO {t} FORMAT TSV", "1\tx\n2\ty\n")
    run(f"INSERT INTO {t} (a, b) FORMAT TSV\n3\tz\n")
    run(f"INSERT INTO {t} VALUES (4, 'FORMAT'), (5, concat('p', 'q'))")
    run(f"INSERT INTO {t} (b, a) VALUES", "('r', 6)")
    run(f"INSERT INTO {t} SETTINGS insert_deduplicate = 1 VALUES (7, 's');")
    run(f"INSERT INTO {t} SELECT 8, 'VALUES (9)'")
    run(f"INSERT INTO {t} FORMAT JSONEachRow", '{"a":10,"b":"\\u00e9"}')
    run(f"INSERT INTO {t} FORMAT RowBinary", struct.pack("<Q", 11) + b"\x03\x00 \n")
    run(f"INSERT INTO {t} FORMAT TSV", "")
    assert run(f"SELECT a, b FROM {t} ORDER BY a") == (
        "1\tx\n2\ty\n3\tz\n4\tFORMAT\n5\tpq\n6\tr\n7\ts\n8\tVALUES (9)\n10\té\n11\t\\0 \\n\n")


def a_column_list_gives_the_order_of_the_data():
    t = table("a UInt64 DEFAULT 42, b String, c String DEFAULT concat(b, '!')")
    for columns, fmt, data, row in (
            ("b, a", "TSV", b"r\t6\n", "6\tr\tr!"),
            ("b", "TSV", b"r\n", "42\tr\tr!"),
            ("c, b", "CSV", b"r,q\n", "42\tq\tr"),
            ("b, a", "RowBinary", b"\x01r\x06" + bytes(7), "6\tr\tr!"),
            ("b, a", "JSONEachRow", b'{"b":"x"}', "42\tx\tx!"),
            ("b, a", "RowBinaryWithNamesAndTypes",
             b"\x02\x01a\x01b\x06UInt64\x06String\x06" + bytes(7) + b"\x01r", "6\tr\tr!")):
        run(f"TRUNCATE TABLE {t}")
        run(f"INSERT INTO {t} ({columns}) FORMAT {fmt}", data)
        assert run(f"SELECT a, b, c FROM {t}") == row + "\n", (columns, fmt)


def the_summary_counts_written_rows():
    t = table()
    _, headers, _ = ask(f"INSERT INTO {t} FORMAT TSV", "1\tx\n2\ty\n")
    assert json.loads(headers["X-ClickHouse-Summary"])["written_rows"] == "2"
    assert headers["X-ClickHouse-Query-Id"]
    assert ask("SELECT 1", query_id="mine")[1]["X-ClickHouse-Query-Id"] == "mine"


def the_format_is_the_querys_own_or_the_default():
    status, headers, data = ask("SELECT 1 AS x", default_format="JSONEachRow")
    assert (data, headers["X-ClickHouse-Format"]) == (b'{"x":1}\n', "JSONEachRow")
    status, headers, data = ask("SELECT 1 AS x FORMAT CSV", default_format="JSONEachRow")
    assert (data, headers["X-ClickHouse-Format"]) == (b"1\n", "CSV")
    assert json.loads(ask("SELECT 1 AS x FORMAT JSON")[2])["data"] == [{"x": 1}]
    assert ask("EXISTS TABLE system.one", default_format="RowBinary")[2] == b"\x01"


def parameters_are_bound():
    assert run("SELECT {n:UInt64}, {s:String}, {a:Array(String)}", param_n="7",
               param_s="it's \\t", param_a="['p','q\\'']") == "7\tit\\'s \\t\t['p','q\\\\'']\n" \
        or run("SELECT {s:String}", param_s="it's") == "it\\'s\n"
    t = table()
    run("CREATE TABLE {t:Identifier} (a Int8) ENGINE = Memory", param_t=t + "x")
    assert run("EXISTS {t:Identifier}", param_t=t + "x") == "1\n"


def parameters_may_come_in_a_form():
    form = "".join(f'--edge\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
                   for name, value in (("query", "SELECT {s:String}, {n:UInt8}"),
                                       ("param_s", "a; b"), ("param_n", "3"))) + "--edge--\r\n"
    kind = {"Content-Type": "multipart/form-data; boundary=edge"}
    assert ask(body=form, headers=kind)[2] == b"a; b\t3\n"


def settings_reach_a_select_and_do_not_leak():
    default = run("SELECT getSetting('max_block_size')")
    assert run("SELECT getSetting('max_block_size')", max_block_size=1234) == "1234\n"
    assert run("SELECT getSetting('max_block_size')") == default
    ask(body="SET max_block_size = 4321")
    assert run("SELECT getSetting('max_block_size')") == default
    status, headers, _ = ask("SELECT 1", no_such_setting=1)
    assert (status, headers["X-ClickHouse-Exception-Code"]) == (404, "115")
    status, _, data = ask("SELECT 1", max_block_size=5, max_rows_to_read="many")
    assert status == 400, data
    assert run("SELECT getSetting('max_block_size')") == default
    status, headers, _ = ask("SELECT sleep(2)", max_execution_time=1, wait_end_of_query=1)
    assert headers["X-ClickHouse-Exception-Code"] == "159", headers


def settings_reach_an_insert():
    t = table(settings="SETTINGS non_replicated_deduplication_window = 100")
    into = f"INSERT INTO {t} FORMAT TSV"
    count = lambda: int(run(f"SELECT count() FROM {t}"))  # noqa: E731
    run(into, "1\tx\n", insert_deduplication_token="one")
    run(into, "2\tx\n", insert_deduplication_token="one")
    assert count() == 1
    run(into, "2\tx\n", insert_deduplication_token="two")
    assert count() == 2
    run(into, "2\tx\n", insert_deduplication_token="two", async_insert="0")
    assert count() == 2
    # 26.9 ignores insert_deduplicate unless it is told otherwise.
    off = {"insert_deduplicate": "0"} if is_old() else {"deduplicate_insert": "disable"}
    run(into, "2\tx\n", insert_deduplication_token="two", **off)
    assert count() == 3
    run(f"INSERT INTO {t} SETTINGS insert_deduplication_token = 'one' FORMAT TSV", "9\tx\n")
    assert count() == 3
    status, _, data = ask(f"INSERT INTO {t} FORMAT CSV", "8;y\n", format_csv_delimiter=";")
    assert status == 200, data
    assert count() == 4


def fsync_settings_are_honoured():
    t = table(settings="SETTINGS fsync_after_insert = 1, fsync_part_directory = 1")
    syncs = "SELECT sum(value) FROM system.events WHERE event IN ('FileSync', 'DirectorySync')"
    before = int(run(syncs))
    run(f"INSERT INTO {t} VALUES (1, 'x')")
    assert int(run(syncs)) - before >= 4


def the_database_is_that_of_the_request():
    run("CREATE DATABASE IF NOT EXISTS d1")
    run("CREATE DATABASE IF NOT EXISTS `d 2`")
    for db in ("d1", "d 2"):
        run("CREATE TABLE IF NOT EXISTS here (a String) ENGINE = MergeTree ORDER BY a", database=db)
        run("TRUNCATE TABLE here", database=db)
        run(f"INSERT INTO here VALUES ('{db}')", database=db)
    assert run("SELECT * FROM here", database="d 2") == "d 2\n"
    assert ask("SELECT * FROM here", headers={"X-ClickHouse-Database": "d1"})[2] == b"d1\n"
    assert run("SELECT currentDatabase()") == "default\n"
    run("USE d1")
    assert run("SELECT currentDatabase()") == "default\n"
    status, headers, _ = ask("SELECT 1", database="absent")
    assert (status, headers["X-ClickHouse-Exception-Code"]) == (404, "81")
    assert run("SELECT 1") == "1\n"


def databases_do_not_mix_under_concurrency():
    names = [f"c{i}" for i in range(6)]
    for db in names:
        run(f"CREATE DATABASE IF NOT EXISTS {db}")
        run("CREATE OR REPLACE TABLE here (a UInt64, b String) ENGINE = MergeTree ORDER BY a",
            database=db)
    wrong = []

    def work(db, start):
        try:
            link = connect()
            for i in range(start, start + 15):
                ask("INSERT INTO here FORMAT TSV", f"{i}\t{db}\n", link=link, database=db)
                got = ask("SELECT DISTINCT b FROM here", link=link, database=db,
                          max_block_size=1000 + i)[2].decode()
                if got != db + "\n":
                    wrong.append((db, got))
        except Exception as error:
            wrong.append(error)

    threads = [threading.Thread(target=work, args=(db, s)) for db in names for s in (0, 100)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong, wrong[:3]
    for db in names:
        assert run("SELECT count(), uniqExact(a) FROM here", database=db) == "30\t30\n"


def a_waiting_insert_holds_up_nobody():
    t = table()
    link = connect()
    link.putrequest("POST", "/?" + urllib.parse.urlencode(
        {"query": f"INSERT INTO {t} FORMAT TSV", "password": PASSWORD}))
    link.putheader("Transfer-Encoding", "chunked")
    link.endheaders()
    link.send(b"4\r\n1\tx\n\r\n")
    run(f"INSERT INTO {t} FORMAT TSV", "2\ty\n")
    assert run(f"SELECT count() FROM {t}") == "1\n"
    link.send(b"0\r\n\r\n")
    assert link.getresponse().status == 200
    assert run(f"SELECT count() FROM {t}") == "2\n"


def an_insert_cut_short_commits_nothing():
    t = table()
    for framing in ("chunked", "length"):
        sock = socket.create_connection(("127.0.0.1", front.port))
        query = urllib.parse.urlencode({"query": f"INSERT INTO {t} FORMAT TSV",
                                        "password": PASSWORD})
        head = "Transfer-Encoding: chunked" if framing == "chunked" else "Content-Length: 9000000"
        sock.sendall(f"POST /?{query} HTTP/1.1\r\nHost: x\r\n{head}\r\n\r\n".encode())
        row = b"1\t" + b"x" * 997 + b"\n"
        for _ in range(3000):
            sock.sendall(b"3e8\r\n" + row + b"\r\n" if framing == "chunked" else row)
        sock.close()
    run(f"INSERT INTO {t} FORMAT TSV", "2\ty\n")
    time.sleep(0.5)
    assert run(f"SELECT count() FROM {t}") == "1\n"


def errors_have_the_servers_status_code_and_text():
    t = table()
    for query, body, status, code, name in (
            ("SELECT * FROM absent", None, 404, "60", "UNKNOWN_TABLE"),
            ("SELECT * FROM absent.t", None, 404, "81", "UNKNOWN_DATABASE"),
            ("SELECT nope(1)", None, 404, "46", "UNKNOWN_FUNCTION"),
            ("SELECT nope", None, 404, "47", "UNKNOWN_IDENTIFIER"),
            ("SELEC 1", None, 400, "62", "SYNTAX_ERROR"),
            ("SELECT 1; SELECT 2", None, 400, "62", "SYNTAX_ERROR"),
            ("INSERT INTO absent FORMAT TSV", "1\tx\n", 404, "60", "UNKNOWN_TABLE"),
            (f"INSERT INTO {t} (a, c) FORMAT TSV", "1\tx\n", 404, "16", None),
            (f"INSERT INTO {t} FORMAT TSV", "x\tx\n", 400, "27", None),
            (f"CREATE TABLE {t} (a Int8) ENGINE = Memory", None, 500, "57",
             "TABLE_ALREADY_EXISTS"),
            ("SELECT throwIf(1)", None, 500, "395", "FUNCTION_THROW_IF_VALUE_IS_NON_ZERO")):
        got, headers, data = ask(query, body)
        text = data.decode()
        assert headers["X-ClickHouse-Exception-Code"] == code, (query, headers.items(), text)
        assert got == status or name is None, (query, got, text)
        assert text.startswith(f"Code: {code}. DB::Exception: "), text
        assert name is None or f"({name})" in text, text
        assert text.count("DB::Exception") == 1, text
    status, headers, data = ask("SELECT * FROM absent", compress=1)
    assert status == 404 and unframe(data).startswith(b"Code: 60.")


def an_error_in_mid_stream_breaks_the_body():
    link = connect()
    query = "SELECT throwIf(number = 3000000, 'late'), number FROM numbers(4000000)"
    try:
        status, _, data = ask(query, link=link, max_block_size=65536)
        assert status == 500 and b"late" in data, (status, data[-200:])
    except http.client.IncompleteRead as broken:
        end = broken.partial[-1000:]
        assert b"Code: 395. DB::Exception: " in end and end.endswith(b"__exception__\r\n"), end
    status, _, data = ask(query, wait_end_of_query=1)
    assert status == 500 and data.startswith(b"Code: 395.")


def the_password_is_checked_in_all_three_ways():
    basic = lambda p: {"Authorization":  # noqa: E731
                       "Basic " + base64.b64encode(f"default:{p}".encode()).decode()}
    key = lambda p: {"X-ClickHouse-User": "default", "X-ClickHouse-Key": p}  # noqa: E731
    for make in (basic, key):
        assert ask("SELECT 1", auth=False, headers=make(PASSWORD))[0] == 200
        assert ask("SELECT 1", auth=False, headers=make("wrong"))[0] == 403
    status, headers, data = ask("SELECT 1", password="wrong")
    assert (status, headers["X-ClickHouse-Exception-Code"]) == (403, "516")
    assert PASSWORD.encode() not in data
    assert ask("SELECT 1", auth=False)[0] == 403
    assert ask("SELECT 1", user="stranger")[0] == 403


def get_reads_only():
    status, headers, _ = ask("CREATE TABLE g (a Int8) ENGINE = Memory", method="GET")
    assert (status, headers["X-ClickHouse-Exception-Code"]) == (500, "164")


def a_connection_is_kept():
    link = connect()
    ask("SELECT 1", link=link)
    port = link.sock.getsockname()
    for query in ("SELECT * FROM absent", "SELECT 1", "SELEC"):
        ask(query, link=link)
        assert link.sock.getsockname() == port


def expect_100_continue_is_answered():
    sock = socket.create_connection(("127.0.0.1", front.port))
    sock.sendall(b"POST /?password=" + PASSWORD.encode() + b" HTTP/1.1\r\nHost: x\r\n"
                 b"Content-Length: 8\r\nExpect: 100-continue\r\nConnection: close\r\n\r\n")
    sock.settimeout(10)
    assert sock.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
    sock.sendall(b"SELECT 5")
    data = b""
    while piece := sock.recv(4096):
        data += piece
    assert data.startswith(b"HTTP/1.1 200 OK") and data.endswith(b"\r\n\r\n5\n"), data


def compressed_bodies_are_read_and_written():
    t = table()
    rows = b"".join(b"%d\tname %d\n" % (i, i) for i in range(300_000))
    cut = [rows[at:at + 200_000] for at in range(0, len(rows), 200_000)]
    body = b"".join(frame(part, 0x02 if i == 1 else 0x82) for i, part in enumerate(cut))
    run(f"INSERT INTO {t} FORMAT TSV", body, decompress=1)
    status, _, data = ask(f"SELECT * FROM {t} ORDER BY a", compress=1)
    assert unframe(data) == rows
    assert unframe(ask(f"SELECT * FROM {t} WHERE a = 5", compress=1)[2]) == b"5\tname 5\n"
    assert ask(f"SELECT * FROM {t} WHERE a > 1e9", compress=1)[2] == b""
    broken = bytearray(frame(b"1\tx\n"))
    broken[-1] ^= 1
    status, headers, _ = ask(f"INSERT INTO {t} FORMAT TSV", bytes(broken), decompress=1)
    assert headers["X-ClickHouse-Exception-Code"] == "40", headers.items()
    status, _, data = ask(f"SELECT * FROM {t} WHERE a < 2", enable_http_compression=1,
                          headers={"Accept-Encoding": "gzip"})
    assert gzip.decompress(data) == b"0\tname 0\n1\tname 1\n"
    for rows in (2, 300_000):
        status, headers, data = ask(f"SELECT * FROM {t} WHERE a < {rows} ORDER BY a",
                                    enable_http_compression=1, headers={"Accept-Encoding": "lz4"})
        assert headers["Content-Encoding"] == "lz4"
        assert lz4.frame.decompress(data).count(b"\n") == rows
    # Its default differs between the versions.
    _, headers, _ = ask("SELECT 1", headers={"Accept-Encoding": "lz4"})
    assert (headers["Content-Encoding"] is None) == is_old()
    status, _, data = ask(f"INSERT INTO {t} FORMAT TSV", gzip.compress(b"999999\tz\n"),
                          headers={"Content-Encoding": "gzip"})
    assert status == 200, data
    assert run(f"SELECT count() FROM {t}") == "300001\n"


def the_frame_is_the_one_that_the_engine_writes():
    t = table("a UInt64, b String", "SETTINGS min_bytes_for_wide_part = 0")
    run(f"INSERT INTO {t} SELECT number, repeat('x', 50) FROM numbers(1000)")
    part = run(f"SELECT path FROM system.parts WHERE table = '{t}' AND active").strip()
    if not os.path.isabs(part):
        part = os.path.join(front.folder, "data", "engine", part)
    with open(os.path.join(part, "a.bin"), "rb") as file:
        assert unframe(file.read()) == struct.pack("<1000Q", *range(1000))


def a_chunked_insert_becomes_one_part():
    t = table()
    rows = [b"%d\t%s\n" % (i, b"x" * 100) for i in range(200_000)]
    pieces = [b"".join(rows[at:at + 500]) for at in range(0, len(rows), 500)]
    status, _, data = ask(f"INSERT INTO {t} FORMAT TSV", iter(pieces), chunked=True,
                          headers={"Transfer-Encoding": "chunked"})
    assert status == 200, data
    assert run(f"SELECT count(), max(rows) FROM system.parts WHERE table = '{t}'") == "1\t200000\n"


def a_streamed_result_has_one_header():
    one = lambda f, n: ask(f"SELECT number AS n, toString(number) AS `s\\n` "  # noqa: E731
                           f"FROM numbers({n})", default_format=f, max_block_size=8192)[2]
    for rows in (0, 5, 500_000):
        data = one("RowBinaryWithNamesAndTypes", rows)
        assert data[:3] == b"\x02\x01n" and data.count(b"UInt64\x06String") == 1, data[:40]
        assert one("TabSeparatedWithNamesAndTypes", rows).count(b"UInt64") == 1
        assert one("TabSeparatedWithNames", rows).count(b"\n") == rows + 1
        assert len(json.loads(one("JSONCompact", rows))["data"]) == rows
        assert one("TSV", rows).count(b"\n") == rows
        assert one("CSVWithNames", rows).count(b'"n"') == 1


def one_session_id_is_one_session():
    if is_old():
        # One session serves all there, see OneSession: the parameter is only accepted.
        assert run("SELECT 1", session_id="s1") == "1\n"
        return
    run("CREATE TEMPORARY TABLE mine (a Int8)", session_id="s1")
    run("INSERT INTO mine VALUES (1)", session_id="s1")
    assert run("SELECT * FROM mine", session_id="s1") == "1\n"
    assert ask("SELECT * FROM mine")[0] == 404


def what_was_inserted_survives_a_kill():
    t = table(settings="SETTINGS fsync_after_insert = 1, fsync_part_directory = 1")
    run(f"INSERT INTO {t} FORMAT TSV", "".join(f"{i}\tx\n" for i in range(1000)))
    front.kill()
    front.start()
    run(f"INSERT INTO {t} FORMAT TSV", "5000\tx\n")
    front.kill()
    front.start()
    assert run(f"SELECT count() FROM {t}") == "1001\n"
    assert run("SELECT engine LIKE '%Tree' FROM system.tables WHERE name = '" + t + "'") == "1\n"


def a_term_signal_ends_it_quickly_while_connections_are_open():
    t = table()
    run(f"INSERT INTO {t} VALUES (1, 'x')")
    link = connect()
    ask("SELECT 1", link=link)
    before = time.monotonic()
    assert front.kill(signal.SIGTERM) == 0
    assert time.monotonic() - before < 5
    front.start()
    assert run(f"SELECT count() FROM {t}") == "1\n"


# ------------------------------------------------------------------------------- benchmark

def bench():
    """Half a million rows of about 300 bytes, compressed, as the Rust client sends them."""
    count = 500_000
    body = os.urandom(140).hex().encode()
    row = lambda i: struct.pack("<Q", i) + b"\x98\x02" + (b"%020d" % i) + body[:260]  # noqa: E731
    rows = b"".join(row(i) for i in range(count))
    cut = [frame(rows[at:at + (1 << 18)]) for at in range(0, len(rows), 1 << 18)]
    print(f"{count} rows, {len(rows) >> 20} MiB, {sum(map(len, cut)) >> 20} MiB compressed")
    for _ in range(3):
        t = table()
        before = time.perf_counter()
        status, _, data = ask(f"INSERT INTO {t} FORMAT RowBinary", iter(cut), chunked=True,
                              headers={"Transfer-Encoding": "chunked"}, decompress=1)
        took = time.perf_counter() - before
        assert status == 200, data
        print(f"insert: {took:.2f} s, {count / took:,.0f} rows/s, "
              f"{len(rows) / took / 1e6:,.0f} MB/s")
    for compress in (0, 1):
        before = time.perf_counter()
        data = ask(f"SELECT * FROM {t} FORMAT RowBinary", compress=compress)[2]
        took = time.perf_counter() - before
        print(f"select (compress={compress}): {took:.2f} s, {count / took:,.0f} rows/s, "
              f"{len(rows) / took / 1e6:,.0f} MB/s")
    link = connect()
    before = time.perf_counter()
    for i in range(200):
        ask(f"SELECT b FROM {t} WHERE a = {i}", link=link)
    print(f"point select: {(time.perf_counter() - before) * 5:.1f} ms")
    before = time.perf_counter()
    for i in range(100):
        ask(f"INSERT INTO {t} FORMAT TSV", f"{i}\tx\n", link=link, insert_deduplicate="0")
    print(f"insert of one row: {(time.perf_counter() - before) * 10:.1f} ms")

    def many(n):
        own = connect()
        for i in range(50):
            ask("SELECT 1", link=own)

    for clients in (1, 4, 16, 64):
        threads = [threading.Thread(target=many, args=(i,)) for i in range(clients)]
        before = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        took = time.perf_counter() - before
        print(f"SELECT 1 from {clients} connections: {clients * 50 / took:,.0f}/s")
    with open(f"/proc/{front.process.pid}/status") as status:
        print([line.split()[1:] for line in status if line.startswith(("VmHWM", "VmRSS"))])


def main():
    global front
    names = [a for a in sys.argv[1:] if not a.startswith("-")]
    plain = (bench, main, connect, ask, run, frame, unframe, table, is_old, checksum)
    tests = [f for f in globals().values()
             if callable(f) and getattr(f, "__module__", None) == "__main__"
             and not isinstance(f, type) and f not in plain]
    front = Front()
    failed = 0
    try:
        if "--bench" in sys.argv:
            bench()
            return
        print("ClickHouse", run("SELECT version()").strip())
        for test in tests:
            if names and test.__name__ not in names:
                continue
            try:
                test()
                print("ok    ", test.__name__, flush=True)
            except Exception:
                failed += 1
                print("FAILED", test.__name__, flush=True)
                traceback.print_exc()
        with open(front.log.name) as log:
            text = log.read()
        if "Traceback" in text:
            failed += 1
            print("FAILED: the front's log holds a traceback\n" + text)
    finally:
        front.remove()
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
