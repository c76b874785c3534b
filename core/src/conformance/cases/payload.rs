//! Payloads are kept byte for byte.

use bytes::Bytes;

use crate::conformance::Case;
use crate::conformance::case::{append_ids, name, read, read_all};
use crate::{Mutation, NewEntry, ReadOptions};

/// Appends payloads, and checks that reads and the log give the same bytes.
async fn assert_kept(case: &Case, payloads: Vec<Bytes>) {
    let store = case.open().await;
    let stream = name("s");
    let batch = payloads.iter().cloned().map(NewEntry::new).collect();
    append_ids(&store, &stream, batch).await;
    let read = read_all(&store, &stream).await;
    assert_eq!(read.len(), payloads.len());
    for (read, payload) in read.iter().zip(&payloads) {
        assert!(
            read.payload == payload,
            "read {:?}, appended {payload:?}",
            read.payload
        );
    }
    if let Some(log) = case.log(&store) {
        let mut follower = crate::conformance::follower::Follower::new(log, &log.start());
        for payload in &payloads {
            let change = follower.next().await;
            let Mutation::Append { entry, .. } = &change.mutation else {
                panic!("an append was due, not {change:?}");
            };
            assert!(
                entry.payload == payload,
                "logged {:?}, not {payload:?}",
                entry.payload
            );
        }
    }
}

/// All byte values, and texts that are no UTF-8.
pub async fn binary_payloads_are_kept(case: &Case) {
    let all: Vec<u8> = (0..=u8::MAX).collect();
    let backward: Vec<u8> = all.iter().rev().copied().collect();
    let payloads: [&[u8]; 9] = [
        &all,
        &backward,
        b"\xff\xfe\xfd",
        b"\xc3\x28",
        b"\xed\xa0\x80",
        b"\0",
        b"text \0 with NUL",
        b"\"\xff\"",
        b"\x1f\x8b\x08 no gzip",
    ];
    assert_kept(case, payloads.map(Bytes::copy_from_slice).into()).await;
}

/// The empty payload.
pub async fn an_empty_payload_is_kept(case: &Case) {
    assert_kept(
        case,
        vec![Bytes::new(), Bytes::from_static(b" "), Bytes::new()],
    )
    .await;
}

/// Text in many scripts, and text that looks like something else.
pub async fn text_payloads_are_kept(case: &Case) {
    let payloads = [
        "grüße, Ελλάδα, Привет, 日本語, العربية, हिन्दी",
        "😀👩‍👩‍👧‍👦 \u{10FFFF} \u{FFFD} \u{FEFF}",
        "e\u{301} and \u{e9} are not made one",
        "'; DROP TABLE entries; --",
        "\\x00 \\0 \\n $1 ?1 {} %s %_",
        "line\r\nline\nline\rtab\t\u{b}",
        "  spaces around  ",
        "NULL",
        "\\xDEADBEEF",
        "{not json",
    ];
    assert_kept(case, payloads.map(Bytes::from).into()).await;
}

/// JSON is kept as it was written, not as a parser would write it again.
pub async fn json_payloads_are_kept_to_the_byte(case: &Case) {
    let payloads = [
        "{ \"b\" : 1,\t\"a\":\n[ 1 , 2 ]\r\n}  ",
        " null ",
        "true",
        "\"text\"",
        "{\"a\":1,\"a\":2,\"A\":3}",
        "{\"z\":1,\"a\":2,\"\":3}",
        "123456789012345678901234567890.123456789012345678901234567890",
        "[1e400,-1E-400,1.0,1.10,-0,0.1e1,9007199254740993,18446744073709551616]",
        "{\"nul\":\"\\u0000\",\"\\u0000\":1}",
        "[\"\\ud800\",\"\\udc00\\ud800\",\"\\uD83D\\uDE00\"]",
        "{\"slash\":\"\\/\",\"unicode\":\"\\u00e9\",\"plain\":\"é\"}",
        "{\"$date\":\"x\",\"a.b\":1,\"_id\":{\"$oid\":\"y\"}}",
        "{}",
        "[]",
    ];
    assert_kept(case, payloads.map(Bytes::from).into()).await;
}

/// JSON nested deeper than parsers go.
pub async fn deeply_nested_json_is_kept(case: &Case) {
    let nested = |depth: usize| format!("{}1{}", "[".repeat(depth), "]".repeat(depth));
    let objects = format!("{}1{}", "{\"a\":".repeat(200), "}".repeat(200));
    let payloads = [nested(100), nested(127), nested(128), nested(200), objects];
    assert_kept(case, payloads.map(Bytes::from).into()).await;
}

/// Payloads of a megabyte, JSON and not.
pub async fn megabyte_payloads_are_kept(case: &Case) {
    let binary: Vec<u8> = (0..1_000_000_u32)
        .map(|n| n.wrapping_mul(31).to_le_bytes()[1])
        .collect();
    let json = format!("{{\"text\": \"{}\"}}", "ä".repeat(500_000));
    assert_kept(case, vec![binary.into(), json.into()]).await;
}

/// A page of large payloads is cut short and says so, and the reader goes on behind it.
pub async fn a_page_of_large_payloads_is_cut_short(case: &Case) {
    let store = case.open().await;
    let stream = name("s");
    let payload = Bytes::from(vec![b'x'; 2_000_000]);
    let count = 20;
    for _ in 0..count / 4 {
        append_ids(&store, &stream, vec![NewEntry::new(payload.clone()); 4]).await;
    }
    let page = store.page(&stream, &ReadOptions::all()).await.unwrap();
    assert!(
        !page.entries.is_empty(),
        "a page has an entry, however large"
    );
    assert!(
        page.entries.len() < count,
        "a page of {count} payloads of 2 MB is above the bound of about 16 MiB"
    );
    assert!(page.more);
    assert_eq!(read_all(&store, &stream).await.len(), count);
    let descending = ReadOptions {
        descending: true,
        ..ReadOptions::all()
    };
    assert_eq!(read(&store, &stream, descending).await.len(), count);
}
