"""Runs through every method, filter and code of the contract, as a client in Python would."""

import pathlib
import sys
import tempfile

import grpc
from grpc_tools import protoc

HERE = pathlib.Path(__file__).parent
STORE = (("x-api-key", "secret"), ("x-ledger-store", "orders"))


def generate(folder):
    include = pathlib.Path(protoc.__file__).parent / "_proto"
    arguments = ["protoc", f"-I{HERE}", f"-I{include}", f"--python_out={folder}",
                 f"--grpc_python_out={folder}", "contract.proto"]
    assert protoc.main(arguments) == 0
    sys.path.insert(0, folder)
    import contract_pb2
    import contract_pb2_grpc
    return contract_pb2, contract_pb2_grpc


def fails(code, call, request, metadata=STORE, naming=""):
    try:
        call(request, metadata=metadata)
    except grpc.RpcError as error:
        assert error.code() == code, (error.code(), error.details())
        assert naming in error.details(), error.details()
        return
    raise AssertionError(f"{request!r} did not fail with {code}")


def main(address, folder):
    pb, stubs = generate(folder)
    ledger = stubs.LedgerServiceStub(grpc.insecure_channel(address))
    code = grpc.StatusCode

    def call(method, request):
        return method(request, metadata=STORE)

    def ids(entries):
        return [entry.id for entry in entries]

    def read(stream="s", **options):
        request = pb.ReadRequest(stream=stream, options=pb.ReadOptions(**options))
        found = call(ledger.Read, request).entries
        search = pb.SearchRequest(stream=stream, query="A", options=pb.ReadOptions(**options))
        assert ids(call(ledger.Search, search).entries) == ids(found), options
        return found

    health = ledger.Health(pb.HealthRequest(), metadata=STORE[:1])
    assert health.status == "ok", health

    inputs = [
        pb.EntryInput(payload=b"a\x00\xff", order_key="o", dedup_key="1", metadata={"m": "1"},
                      tags=["t", "u"]),
        pb.EntryInput(payload=b'{"a": 1}', schema_version=3, metadata={"m": "2"}, tags=["t"]),
        pb.EntryInput(payload=b"again", dedup_key="1"),
        pb.EntryInput(payload=b"a%_", order_key="o", metadata={"m": "2", "n": "3"}),
    ]
    first, second, third = call(ledger.Append, pb.AppendRequest(stream="s", entries=inputs)).ids
    entries = read()
    assert ids(entries) == [first, second, third]
    one = entries[0]
    assert (one.payload, one.stream, one.order_key, one.dedup_key) == (b"a\x00\xff", "s", "o", "1")
    assert (one.schema_version, entries[1].schema_version) == (1, 3)
    assert dict(one.metadata) == {"m": "1"} and list(one.tags) == ["t", "u"]
    assert one.HasField("created_at") and not one.HasField("updated_at")

    call(ledger.SetTags, pb.SetTagsRequest(stream="s", id=third, tags=["x", "u"]))
    for change in ({"set": {"k": "1", "l": "2"}}, {"set": {"l": "3", "k": "4"}, "delete": ["k"]}):
        call(ledger.SetAnnotations, pb.SetAnnotationsRequest(stream="s", id=third, **change))
    for options, expected in [
        ({"after": first}, [second, third]),
        ({"limit": 2}, [first, second]),
        ({"limit": -1}, [first, second, third]),
        ({"desc": True}, [third, second, first]),
        ({"desc": True, "after": third, "limit": 1}, [second]),
        ({"order_key": "o"}, [first, third]),
        ({"tag": "t"}, [first, second]),
        ({"all_tags": ["u", "t"]}, [first]),
        ({"tag": "x", "all_tags": ["u"]}, [third]),
        ({"metadata_filters": {"m": "2"}}, [second, third]),
        ({"metadata_filters": {"m": "2", "n": "3"}}, [third]),
        ({"annotation_filters": {"l": "3"}}, [third]),
        ({"annotation_filters": {"k": "4"}}, []),
        ({"annotation_filters": {"l": "3"}, "tag": "t"}, []),
    ]:
        assert ids(read(**options)) == expected, options
    changed = read(tag="x")[0]
    assert changed.HasField("updated_at") and list(changed.tags) == ["u", "x"]

    assert call(ledger.Count, pb.CountRequest(stream="s")).count == 3
    stat = call(ledger.Stat, pb.StatRequest(stream="s"))
    assert (stat.stream, stat.count, stat.first_id, stat.last_id) == ("s", 3, first, third)
    found = call(ledger.Search, pb.SearchRequest(query="%_")).entries
    assert [(entry.id, entry.stream) for entry in found] == [(third, "s")]

    call(ledger.Append, pb.AppendRequest(stream="r", entries=[pb.EntryInput(payload=b"x")]))
    call(ledger.Append, pb.AppendRequest(stream="none"))
    listed = call(ledger.ListStreamIDs, pb.ListStreamIDsRequest())
    assert list(listed.stream_ids) == ["r", "s"], listed
    after = pb.ListStreamIDsRequest(after="r", limit=1)
    assert list(call(ledger.ListStreamIDs, after).stream_ids) == ["s"]
    for new_name in ("s", "moved"):
        call(ledger.RenameStream, pb.RenameStreamRequest(name="s", new_name=new_name))
    assert ids(read("moved")) == [first, second, third] and not read("s")
    trim = pb.TrimRequest(stream="moved", before_id=second)
    assert call(ledger.Trim, trim).deleted == 2
    assert ids(read("moved")) == [third]

    unknown = pb.ReadOptions(after="malformed")
    assert not call(ledger.Read, pb.ReadRequest(stream="no", options=unknown)).entries
    assert call(ledger.Trim, pb.TrimRequest(stream="no", before_id="malformed")).deleted == 0
    fails(code.INVALID_ARGUMENT, ledger.Read, pb.ReadRequest(stream="moved", options=unknown))
    fails(code.NOT_FOUND, ledger.SetTags, pb.SetTagsRequest(stream="no", id="1"))
    fails(code.NOT_FOUND, ledger.SetAnnotations,
          pb.SetAnnotationsRequest(stream="moved", id=first))
    fails(code.NOT_FOUND, ledger.RenameStream, pb.RenameStreamRequest(name="no", new_name="x"))
    fails(code.ALREADY_EXISTS, ledger.RenameStream,
          pb.RenameStreamRequest(name="moved", new_name="r"))
    for call_, request, field in [
        (ledger.Append, pb.AppendRequest(), "stream"),
        (ledger.Read, pb.ReadRequest(), "stream"),
        (ledger.Count, pb.CountRequest(), "stream"),
        (ledger.SetTags, pb.SetTagsRequest(stream="r"), "id"),
        (ledger.SetAnnotations, pb.SetAnnotationsRequest(stream="r"), "id"),
        (ledger.Trim, pb.TrimRequest(stream="r"), "before_id"),
        (ledger.RenameStream, pb.RenameStreamRequest(new_name="x"), "name"),
        (ledger.RenameStream, pb.RenameStreamRequest(name="r"), "new_name"),
        (ledger.Stat, pb.StatRequest(), "stream"),
        (ledger.Search, pb.SearchRequest(), "query"),
    ]:
        fails(code.INVALID_ARGUMENT, call_, request, naming=field)
    count = pb.CountRequest(stream="r")
    fails(code.UNAUTHENTICATED, ledger.Health, pb.HealthRequest(), metadata=())
    wrong = (("x-api-key", "wrong"), STORE[1])
    fails(code.UNAUTHENTICATED, ledger.Count, count, metadata=wrong)
    fails(code.INVALID_ARGUMENT, ledger.Count, count, metadata=STORE[:1], naming="x-ledger-store")
    other = (STORE[0], ("x-ledger-store", "other"))
    fails(code.PERMISSION_DENIED, ledger.Count, pb.CountRequest(), metadata=other)
    large = pb.EntryInput(payload=b"x" * (5 << 20))
    fails(code.RESOURCE_EXHAUSTED, ledger.Append, pb.AppendRequest(stream="s", entries=[large]))
    half = pb.EntryInput(payload=b"x" * (3 << 20))
    for _ in range(2):
        call(ledger.Append, pb.AppendRequest(stream="large", entries=[half]))
    fails(code.RESOURCE_EXHAUSTED, ledger.Read, pb.ReadRequest(stream="large"))
    many = [pb.EntryInput(payload=b"x")] * 51
    fails(code.INVALID_ARGUMENT, ledger.Append, pb.AppendRequest(stream="s", entries=many))
    print("all 11 methods meet the contract")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        main(sys.argv[1], scratch)
