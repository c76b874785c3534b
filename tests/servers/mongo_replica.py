"""Turns a fresh mongod on a loopback port into the primary of a replica set of one.

    python mongo_replica.py PORT [SECONDS [standalone]]

Returns once the server accepts writes; fails with the server's own words after the
deadline (30 seconds). Speaks the few bytes of the wire protocol that this takes, so
that no driver is needed. A server that is initiated already is only waited for, and so is
one that is to stay by itself.
"""

import socket
import struct
import sys
import time


def encoded(document):
    """BSON of a dict of strings, 32-bit integers, booleans, lists and dicts."""
    parts = []
    for key, value in document.items():
        name = key.encode() + b"\0"
        if isinstance(value, bool):
            parts.append(b"\x08" + name + bytes([value]))
        elif isinstance(value, int):
            parts.append(b"\x10" + name + struct.pack("<i", value))
        elif isinstance(value, str):
            text = value.encode() + b"\0"
            parts.append(b"\x02" + name + struct.pack("<i", len(text)) + text)
        elif isinstance(value, list):
            parts.append(b"\x04" + name + encoded({str(i): v for i, v in enumerate(value)}))
        else:
            parts.append(b"\x03" + name + encoded(value))
    body = b"".join(parts) + b"\0"
    return struct.pack("<i", len(body) + 4) + body


def decoded(data):
    """The top-level numbers, strings and booleans of a BSON document."""
    fixed = {0x01: 8, 0x07: 12, 0x08: 1, 0x09: 8, 0x0A: 0, 0x10: 4, 0x11: 8, 0x12: 8, 0x13: 16}
    found, at = {}, 4
    while data[at]:
        kind = data[at]
        end = data.index(b"\0", at + 1)
        key, at = data[at + 1:end].decode(), end + 1
        if kind in fixed:
            raw = data[at:at + fixed[kind]]
            at += fixed[kind]
            if kind == 0x01:
                found[key] = struct.unpack("<d", raw)[0]
            elif kind in (0x08, 0x10, 0x12):
                found[key] = int.from_bytes(raw, "little", signed=True)
            continue
        size = struct.unpack_from("<i", data, at)[0]
        if kind == 0x02:
            found[key] = data[at + 4:at + 3 + size].decode()
            at += 4 + size
        elif kind == 0x05:
            at += 5 + size
        else:
            at += size
    return found


def command(port, document, database="admin"):
    """Runs one command; returns the reply's top level."""
    body = b"\0\0\0\0\0" + encoded({**document, "$db": database})
    with socket.create_connection(("127.0.0.1", port), timeout=5) as sock:
        sock.sendall(struct.pack("<iiii", 16 + len(body), 1, 0, 2013) + body)
        data = b""
        while len(data) < 4 or len(data) < struct.unpack_from("<i", data)[0]:
            piece = sock.recv(65536)
            if not piece:
                raise OSError("the server closed the connection")
            data += piece
    return decoded(data[21:])


def main():
    port = int(sys.argv[1])
    deadline = time.monotonic() + float(sys.argv[2] if len(sys.argv) > 2 else 30)
    initiated, last = sys.argv[3:] == ["standalone"], None
    while time.monotonic() < deadline:
        try:
            last = command(port, {"hello": 1})
            if last.get("isWritablePrimary"):
                return
            if not last.get("setName") and not initiated:
                last = command(port, {"replSetInitiate": {
                    "_id": "rs0", "members": [{"_id": 0, "host": f"127.0.0.1:{port}"}]}})
                initiated = last.get("ok") == 1.0 or last.get("codeName") == "AlreadyInitialized"
        except OSError as error:
            last = error
        time.sleep(0.05)
    sys.exit(f"mongod on port {port} did not become primary: {last}")


if __name__ == "__main__":
    main()
