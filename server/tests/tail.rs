//! Tails and changes: nothing skipped, nothing doubled, nobody slowed by another.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use http::Method;
use ledger_core::{ExpectedVersion, NewEntry, StreamName};
use ledger_server::v1::tail_request::{From, Scope};
use ledger_server::v1::{
    AppendStreamRequest, ChangesRequest, RenameStreamRequest, SetTagsRequest, TailRequest,
    TailResponse, TrimRequest, changes_request, changes_response::Mutation,
};
use ledger_server::{Limits, ServiceOptions};
use ledger_sources::sqlite::{Retention, StoreOptions};
use tonic::{Code, Streaming};

use crate::counted::Counted;
use crate::harness::{LONG, Server, append, input, refusal, soon, store};

fn of(scope: Option<Scope>, from: Option<From>) -> TailRequest {
    TailRequest {
        scope,
        from,
        ..TailRequest::default()
    }
}

fn one(stream: &str) -> Option<Scope> {
    Some(Scope::Stream(stream.to_owned()))
}

async fn open(server: &Server, request: TailRequest) -> Streaming<TailResponse> {
    server
        .follower()
        .await
        .tail(request)
        .await
        .unwrap()
        .into_inner()
}

/// Takes responses until so many entries have come; their payloads, and the last cursor.
async fn take(tail: &mut Streaming<TailResponse>, count: usize) -> (Vec<String>, String) {
    let mut payloads = Vec::new();
    let mut cursor = String::new();
    while payloads.len() < count {
        let response = soon(tail.message()).await.unwrap().unwrap();
        let entries = response.entries.into_iter();
        payloads.extend(entries.map(|e| String::from_utf8(e.payload.to_vec()).unwrap()));
        if !response.cursor.is_empty() {
            cursor = response.cursor;
        }
    }
    (payloads, cursor)
}

/// Waits until a tail has told everything from before it began.
async fn caught_up(tail: &mut Streaming<TailResponse>) -> Vec<String> {
    let mut payloads = Vec::new();
    loop {
        let response = soon(tail.message()).await.unwrap().unwrap();
        let entries = response.entries.into_iter();
        payloads.extend(entries.map(|e| String::from_utf8(e.payload.to_vec()).unwrap()));
        if response.caught_up {
            return payloads;
        }
    }
}

#[tokio::test]
async fn a_tail_of_one_stream_begins_where_it_is_asked_to() {
    let server = Server::start().await;
    let mut client = server.client().await;
    for (case, expected) in [
        ("absent", vec!["1", "2", "3"]),
        ("beginning", vec!["1", "2", "3"]),
        ("now", vec![]),
        ("after", vec!["3"]),
        ("last 2", vec!["2", "3"]),
        ("last 0", vec![]),
        ("last 9", vec!["1", "2", "3"]),
        ("since", vec!["1", "2", "3"]),
    ] {
        let ids = append(&mut client, case, &["1", "2", "3"]).await;
        append(&mut client, "other", &["o"]).await;
        let from = match case {
            "beginning" => Some(From::Beginning(())),
            "now" => Some(From::Now(())),
            "after" => Some(From::After(ids[1].clone())),
            "last 2" => Some(From::Last(2)),
            "last 0" => Some(From::Last(0)),
            "last 9" => Some(From::Last(9)),
            "since" => Some(From::Since(prost_types::Timestamp::default())),
            _ => None,
        };
        let mut tail = open(&server, of(one(case), from)).await;
        assert_eq!(caught_up(&mut tail).await, expected, "{case}");
        append(&mut client, "other", &["o"]).await;
        append(&mut client, case, &["4"]).await;
        let (told, cursor) = take(&mut tail, 1).await;
        assert_eq!(told, ["4"], "{case}");
        append(&mut client, case, &["5"]).await;
        let resumed = TailRequest {
            cursor,
            ..of(one(case), None)
        };
        let mut tail = open(&server, resumed).await;
        assert_eq!(take(&mut tail, 1).await.0, ["5"], "{case}");
    }
}

#[tokio::test]
async fn a_tail_of_several_streams_begins_where_it_is_asked_to() {
    let pattern = || Some(Scope::Pattern("user-*".into()));
    let since = || Some(From::Since(prost_types::Timestamp::default()));
    for (scope, from, expected) in [
        (None, None, vec!["1", "2", "3", "4"]),
        (pattern(), None, vec!["1", "2", "4"]),
        (pattern(), Some(From::Now(())), vec![]),
        (pattern(), Some(From::Last(2)), vec!["2", "4"]),
        (None, Some(From::Last(2)), vec!["3", "4"]),
        (None, Some(From::Last(0)), vec![]),
        (None, since(), vec!["1", "2", "3", "4"]),
    ] {
        let server = Server::start().await;
        let mut client = server.client().await;
        for (stream, payload) in [
            ("user-1", "1"),
            ("user-2", "2"),
            ("other", "3"),
            ("user-1", "4"),
        ] {
            append(&mut client, stream, &[payload]).await;
        }
        let request = of(scope, from);
        let mut tail = open(&server, request.clone()).await;
        let mut told = caught_up(&mut tail).await;
        told.sort();
        assert_eq!(told, expected, "{request:?}");
        append(&mut client, "another", &["-"]).await;
        append(&mut client, "user-3", &["+"]).await;
        let all = request.scope.is_none();
        let (told, cursor) = take(&mut tail, if all { 2 } else { 1 }).await;
        assert_eq!(told.last().unwrap(), "+", "{request:?}");
        append(&mut client, "user-1", &["resumed"]).await;
        let mut tail = open(
            &server,
            TailRequest {
                cursor,
                ..request.clone()
            },
        )
        .await;
        assert_eq!(take(&mut tail, 1).await.0, ["resumed"], "{request:?}");
    }
}

/// Appends numbered entries to two streams until told to stop; how many.
async fn writer(server: &Server, stop: tokio::sync::watch::Receiver<bool>) -> usize {
    let mut written = 0;
    while !*stop.borrow() {
        let stream = StreamName::new(format!("w-{}", written % 2)).unwrap();
        let entry = NewEntry::new(written.to_string());
        server
            .store
            .append(&stream, vec![entry], ExpectedVersion::Any)
            .await
            .unwrap();
        written += 1;
    }
    written
}

/// Reads until every entry up to the last one written has come; each must come once, in the order
/// of its stream.
async fn each_once(
    server: &Server,
    request: TailRequest,
    mut total: tokio::sync::watch::Receiver<Option<usize>>,
) {
    let mut tail = open(server, request.clone()).await;
    let single = matches!(request.scope, Some(Scope::Stream(_)));
    let mut seen = BTreeSet::new();
    let mut last = [None, None];
    let mut cursor = String::new();
    let mut responses = 0;
    loop {
        let written = *total.borrow_and_update();
        let whole = written.map(|written| if single { written.div_ceil(2) } else { written });
        if whole == Some(seen.len()) {
            return;
        }
        assert!(whole.is_none_or(|whole| seen.len() < whole));
        let response = tokio::select! {
            response = soon(tail.message()) => response.unwrap().unwrap(),
            _ = total.changed() => continue,
        };
        if !response.cursor.is_empty() {
            cursor = response.cursor.clone();
        }
        for entry in response.entries {
            let number: usize = String::from_utf8(entry.payload.to_vec())
                .unwrap()
                .parse()
                .unwrap();
            assert!(seen.insert(number), "{number} came twice");
            let last = &mut last[number % 2];
            assert!(last.is_none_or(|last| last < number), "{number} came late");
            *last = Some(number);
        }
        responses += 1;
        // Every so often the connection is lost.
        if responses % 50 == 0 && !cursor.is_empty() {
            let resumed = TailRequest {
                cursor: cursor.clone(),
                ..request.clone()
            };
            tail = open(server, resumed).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_skipped_or_doubled_while_it_is_written() {
    // A feed so small that tails fall out of it.
    let limits = Limits {
        feed_bytes: 4_000,
        ..Limits::default()
    };
    let server = Server::limited(limits).await;
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let (total, written) = tokio::sync::watch::channel(None);
    let writing = async {
        let written = writer(&server, stopped).await;
        total.send_replace(Some(written));
        written
    };
    let stopping = async {
        // Long enough for tails to begin in the midst of it.
        while server
            .store
            .stat(&StreamName::new("w-1").unwrap())
            .await
            .unwrap()
            .version
            < 1_000
        {
            tokio::task::yield_now().await;
        }
        stop.send_replace(true);
    };
    let tails = async {
        let small = |request: TailRequest| TailRequest {
            limit: 7,
            ..request
        };
        tokio::join!(
            each_once(&server, of(one("w-0"), None), written.clone()),
            each_once(&server, small(of(one("w-0"), None)), written.clone()),
            each_once(&server, of(None, None), written.clone()),
            each_once(&server, small(of(None, None)), written.clone()),
            each_once(
                &server,
                of(Some(Scope::Pattern("w-?".into())), None),
                written.clone()
            ),
        );
    };
    let all = async { tokio::join!(writing, stopping, tails).0 };
    let written = tokio::time::timeout(LONG * 3, all).await.unwrap();
    assert!(written >= 2_000);
}

#[tokio::test]
async fn a_slow_tail_slows_nobody_and_misses_nothing() {
    let limits = Limits {
        feed_bytes: 100_000,
        ..Limits::default()
    };
    let server = Server::limited(limits).await;
    let mut client = server.client().await;
    append(&mut client, "s", &["0"]).await;
    let mut slow = open(&server, of(one("s"), None)).await;
    let mut slow_all = open(&server, of(None, None)).await;
    caught_up(&mut slow).await;
    caught_up(&mut slow_all).await;
    let mut fast = open(&server, of(one("s"), Some(From::Now(())))).await;
    caught_up(&mut fast).await;
    // Far more than the feed and the windows of HTTP/2 hold.
    let payload = "x".repeat(100_000);
    for number in 0..120 {
        let entry = format!("{number} {payload}");
        append(&mut client, "s", &[&entry]).await;
        assert_eq!(take(&mut fast, 1).await.0, [entry], "{number}");
    }
    for tail in [&mut slow, &mut slow_all] {
        let (told, _) = take(tail, 120).await;
        for (number, told) in told.iter().enumerate() {
            assert!(told.starts_with(&format!("{number} ")), "{number}");
        }
    }
}

#[tokio::test]
async fn many_tails_share_one_reader_of_the_log() {
    let (inner, folder) = store(StoreOptions::default()).await;
    let counted = Arc::new(Counted::new(inner));
    let options = ServiceOptions::default();
    let server = Server::over(options, Arc::<Counted>::clone(&counted), folder, None, None).await;
    let mut client = server.client().await;
    let mut follower = server.follower().await;
    let mut tails = Vec::new();
    for number in 0..1_000 {
        let scope = if number % 2 == 0 { one("s") } else { None };
        let request = of(scope, Some(From::Now(())));
        tails.push(follower.tail(request).await.unwrap().into_inner());
    }
    for tail in &mut tails {
        caught_up(tail).await;
    }
    append(&mut client, "s", &["for all"]).await;
    for tail in &mut tails {
        assert_eq!(take(tail, 1).await.0, ["for all"]);
    }
    assert_eq!(counted.readers(), 1);
    // Who has nothing more to read from takes the reader along.
    drop(tails);
    let left = async {
        while counted.reading() > 0 {
            tokio::task::yield_now().await;
        }
    };
    soon(left).await;
}

#[tokio::test]
async fn what_is_appended_at_the_seam_is_told_once() {
    for (scope, expected) in [(one("s"), ["1", "2", "3"]), (None, ["1", "2", "3"])] {
        let (inner, folder) = store(StoreOptions::default()).await;
        let counted = Arc::new(Counted::new(inner));
        let options = ServiceOptions::default();
        let shared = Arc::<Counted>::clone(&counted);
        let server = Server::over(options, shared, folder, None, None).await;
        let mut client = server.client().await;
        append(&mut client, "s", &["1"]).await;
        // After the page was read and before it is handed over, the log tells of one more.
        let (mut writer, shared) = (client.clone(), Arc::clone(&counted));
        // A walk over several streams looks at the log only after its page.
        let followed = scope.is_some();
        counted.after_page(async move {
            append(&mut writer, "s", &["2"]).await;
            if followed {
                while shared.told() == 0 {
                    tokio::task::yield_now().await;
                }
            }
        });
        let mut tail = open(&server, of(scope.clone(), None)).await;
        let mut told = caught_up(&mut tail).await;
        append(&mut client, "s", &["3"]).await;
        while told.last().is_none_or(|last| last != "3") {
            told.extend(take(&mut tail, 1).await.0);
        }
        assert_eq!(told, expected, "{scope:?}");
    }
}

#[tokio::test]
async fn a_rename_while_the_streams_are_walked_is_told() {
    let (inner, folder) = store(StoreOptions::default()).await;
    let counted = Arc::new(Counted::new(inner));
    let options = ServiceOptions::default();
    let server = Server::over(options, Arc::<Counted>::clone(&counted), folder, None, None).await;
    let mut client = server.client().await;
    append(&mut client, "z", &["1"]).await;
    // Between the walk's beginning and its first look at the log.
    let rename = RenameStreamRequest {
        name: "z".into(),
        new_name: "a".into(),
    };
    counted.before_page(async move { client.rename_stream(rename).await.map(drop).unwrap() });
    let mut tail = open(&server, of(None, None)).await;
    let (code, reason, _) = refusal(soon(tail.message()).await);
    assert_eq!((code, &*reason), (Code::Aborted, "STREAM_RENAMED"));
    let mut again = open(&server, of(None, None)).await;
    assert_eq!(caught_up(&mut again).await, ["1"]);
}

#[tokio::test]
async fn a_tail_of_one_stream_tells_what_a_rename_brings_to_its_name() {
    let server = Server::start().await;
    let mut client = server.client().await;
    let mut tail = open(&server, of(one("a"), None)).await;
    caught_up(&mut tail).await;
    append(&mut client, "b", &["1", "2"]).await;
    let rename = RenameStreamRequest {
        name: "b".into(),
        new_name: "a".into(),
    };
    client.rename_stream(rename).await.unwrap();
    append(&mut client, "a", &["3"]).await;
    assert_eq!(take(&mut tail, 3).await.0, ["1", "2", "3"]);
}

#[tokio::test]
async fn a_cursor_that_the_log_has_pruned_is_out_of_range() {
    let retention = Retention {
        min: Duration::ZERO,
        max: Some(Duration::ZERO),
    };
    let options = StoreOptions {
        retention,
        ..StoreOptions::default()
    };
    let (sqlite, folder) = crate::harness::sqlite(options).await;
    let inner = Arc::new(sqlite.clone());
    let server = Server::over(ServiceOptions::default(), inner, folder, None, None).await;
    let mut client = server.client().await;
    append(&mut client, "s", &["1", "2", "3"]).await;
    append(&mut client, "s", &["4"]).await;
    while sqlite.prune().await.unwrap() == 0 {
        tokio::task::yield_now().await;
    }
    let mut follower = server.follower().await;
    let mut changes = follower
        .changes(ChangesRequest::default())
        .await
        .unwrap()
        .into_inner();
    let (code, reason, _) = refusal(soon(changes.message()).await);
    assert_eq!((code, &*reason), (Code::OutOfRange, "CURSOR_EXPIRED"));
    // What is read from the store itself is all there.
    let mut tail = open(&server, of(None, None)).await;
    assert_eq!(caught_up(&mut tail).await, ["1", "2", "3", "4"]);
}

#[tokio::test]
async fn filters_hold_in_what_is_read_and_in_what_is_followed() {
    let server = Server::start().await;
    let mut client = server.client().await;
    let tagged = |payload: &str, tag: &str| {
        let mut entry = input(payload.to_owned());
        entry.tags = vec![tag.to_owned()];
        entry.order_key = "k".into();
        crate::harness::appending("s", vec![entry])
    };
    client.append(tagged("1", "a")).await.unwrap();
    client.append(tagged("2", "b")).await.unwrap();
    for scope in [one("s"), None] {
        let request = TailRequest {
            tag: "a".into(),
            order_key: "k".into(),
            ..of(scope, Some(From::Last(1)))
        };
        let mut tail = open(&server, request).await;
        let first = caught_up(&mut tail).await.remove(0);
        client.append(tagged("no", "b")).await.unwrap();
        client.append(tagged("yes", "a")).await.unwrap();
        assert_eq!(take(&mut tail, 1).await.0, ["yes"]);
        assert!(first == "1" || first == "yes");
    }
}

#[tokio::test]
async fn a_tail_ends_with_the_service() {
    let server = Server::start().await;
    let mut tail = open(&server, of(one("s"), None)).await;
    let mut all = open(&server, of(None, None)).await;
    caught_up(&mut tail).await;
    caught_up(&mut all).await;
    server.shutdown.begin(LONG);
    for tail in [&mut tail, &mut all] {
        let (code, reason, _) = refusal(soon(tail.message()).await);
        assert_eq!((code, &*reason), (Code::Unavailable, "SHUTTING_DOWN"));
    }
    soon(server.serving).await.unwrap().unwrap();
}

#[tokio::test]
async fn what_cannot_be_tailed_is_told() {
    let server = Server::with(ServiceOptions {
        limits: Limits {
            tails: 1,
            ..Limits::default()
        },
        ..ServiceOptions::default()
    })
    .await;
    let mut client = server.client().await;
    append(&mut client, "s", &["x"]).await;
    let mut follower = server.follower().await;
    for (request, field) in [
        (of(one(""), None), "stream"),
        (of(Some(Scope::Pattern("[".into())), None), "pattern"),
        (of(None, Some(From::After("1".into()))), "after"),
        (of(one("s"), Some(From::After("x".into()))), "after"),
        (of(one("s"), Some(From::Last(-1))), "last"),
        (
            TailRequest {
                cursor: "x".into(),
                ..of(one("s"), None)
            },
            "cursor",
        ),
        (
            TailRequest {
                cursor: "x".into(),
                ..of(None, None)
            },
            "cursor",
        ),
    ] {
        let (code, _, status) = refusal(follower.tail(request).await);
        assert_eq!(code, Code::InvalidArgument, "{status}");
        assert!(status.message().starts_with(field), "{status}");
    }
    let tail = open(&server, of(one("s"), None)).await;
    let (code, reason, _) = refusal(follower.tail(of(one("s"), None)).await);
    assert_eq!(
        (code, &*reason),
        (Code::ResourceExhausted, "TOO_MANY_TAILS")
    );
    drop(tail);

    let options = StoreOptions {
        log: false,
        ..StoreOptions::default()
    };
    let (store, folder) = store(options).await;
    let server = Server::over(ServiceOptions::default(), store, folder, None, None).await;
    let mut follower = server.follower().await;
    for scope in [one("s"), None] {
        assert_eq!(
            refusal(follower.tail(of(scope, None)).await).0,
            Code::Unimplemented
        );
    }
    let changes = follower.changes(ChangesRequest::default()).await;
    assert_eq!(refusal(changes).0, Code::Unimplemented);
}

#[tokio::test]
async fn changes_tell_every_mutation_and_resume() {
    let server = Server::start().await;
    let mut client = server.client().await;
    let mut follower = server.follower().await;
    let now = ChangesRequest {
        from: Some(changes_request::From::Now(())),
    };
    let id = append(&mut client, "a", &["x"]).await.remove(0);
    let mut from_now = follower.changes(now).await.unwrap().into_inner();
    let begin = soon(from_now.message()).await.unwrap().unwrap();
    assert!(begin.mutation.is_none() && !begin.cursor.is_empty());
    let tags = SetTagsRequest {
        stream: "a".into(),
        id: id.clone(),
        tags: vec!["t".into()],
    };
    client.set_tags(tags).await.unwrap();
    let rename = RenameStreamRequest {
        name: "a".into(),
        new_name: "b".into(),
    };
    client.rename_stream(rename).await.unwrap();
    let trim = TrimRequest {
        stream: "b".into(),
        before_id: id.clone(),
    };
    client.trim(trim).await.unwrap();

    let mut all = follower
        .changes(ChangesRequest::default())
        .await
        .unwrap()
        .into_inner();
    let mut cursors = Vec::new();
    let mut kinds = Vec::new();
    for _ in 0..4 {
        let change = soon(all.message()).await.unwrap().unwrap();
        kinds.push(match change.mutation.unwrap() {
            Mutation::Append(appended) => {
                let entry = appended.entry.unwrap();
                assert_eq!((entry.id, &entry.payload[..]), (id.clone(), &b"x"[..]));
                "append"
            }
            Mutation::SetTags(set) => {
                assert_eq!(set.tags, ["t"]);
                "set_tags"
            }
            Mutation::SetAnnotations(_) => "set_annotations",
            Mutation::Trim(trimmed) => {
                assert_eq!(trimmed.through, id);
                "trim"
            }
            Mutation::Rename(()) => {
                assert_eq!(change.stream.unwrap().name, "b");
                "rename"
            }
        });
        cursors.push(change.cursor);
    }
    assert_eq!(kinds, ["append", "set_tags", "rename", "trim"]);
    assert!(cursors.is_sorted());
    assert_eq!(begin.cursor, cursors[0]);
    assert_eq!(
        soon(from_now.message()).await.unwrap().unwrap().cursor,
        cursors[1]
    );

    let after = |cursor: &str| ChangesRequest {
        from: Some(changes_request::From::After(cursor.to_owned())),
    };
    let mut resumed = follower
        .changes(after(&cursors[2]))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        soon(resumed.message()).await.unwrap().unwrap().cursor,
        cursors[3]
    );

    let (code, _, _) = refusal(follower.changes(after("zz")).await);
    assert_eq!(code, Code::InvalidArgument);
    // A position of another history: the last digit is of its digest.
    let mut other = cursors[1].clone();
    let digit = if other.pop() == Some('0') { '1' } else { '0' };
    other.push(digit);
    let mut diverged = follower.changes(after(&other)).await.unwrap().into_inner();
    let (code, reason, _) = refusal(soon(diverged.message()).await);
    assert_eq!(
        (code, &*reason),
        (Code::FailedPrecondition, "SOURCE_DIVERGED")
    );
}

#[tokio::test]
async fn bulk_appends_are_acknowledged_in_order() {
    let server = Server::start().await;
    let mut follower = server.follower().await;
    let request = |sequence: i64, stream: &str, keys: &[&str]| AppendStreamRequest {
        stream: stream.into(),
        entries: keys
            .iter()
            .map(|key| {
                let mut entry = input(format!("{sequence}"));
                entry.dedup_key = (*key).to_owned();
                entry
            })
            .collect(),
        sequence,
    };
    let requests: Vec<_> = (0..500)
        .map(|n| request(n, &format!("s{}", n % 3), &["", &format!("k{}", n / 6)]))
        .collect();
    let answers = follower
        .append_stream(futures::stream::iter(requests))
        .await
        .unwrap();
    let answers: Vec<_> = answers.into_inner().map(Result::unwrap).collect().await;
    let sequences: Vec<_> = answers.iter().map(|answer| answer.sequence).collect();
    assert_eq!(sequences, (0..500).collect::<Vec<_>>());
    let (appended, duplicates) = answers.iter().fold((0, 0), |(a, d), answer| {
        (a + answer.appended, d + answer.duplicates)
    });
    assert_eq!((appended, duplicates), (751, 249));
    let stream = StreamName::new("s1").unwrap();
    let page = server
        .store
        .page(&stream, &ledger_core::ReadOptions::all())
        .await
        .unwrap();
    let numbers: Vec<i64> = page
        .entries
        .iter()
        .map(|e| std::str::from_utf8(&e.payload).unwrap().parse().unwrap())
        .collect();
    assert!(numbers.is_sorted(), "a stream's requests keep their order");

    let requests = [
        request(1, "t", &[""]),
        request(2, "", &[""]),
        request(3, "t", &[""]),
    ];
    let answers = follower
        .append_stream(futures::stream::iter(requests))
        .await
        .unwrap();
    let mut answers = answers.into_inner();
    assert_eq!(answers.message().await.unwrap().unwrap().sequence, 1);
    let (code, _, status) = refusal(answers.message().await);
    assert_eq!(code, Code::InvalidArgument);
    assert!(status.message().contains("request 2"), "{status}");
}

/// Reads events until one with data has come: its id and its data.
async fn event(
    events: &mut (impl futures::Stream<Item = String> + Unpin),
) -> (String, serde_json::Value) {
    loop {
        let text = soon(events.next()).await.unwrap();
        let field = |name: &str| {
            text.lines()
                .find_map(|line| line.strip_prefix(name))
                .map(|v| v.trim().to_owned())
        };
        if let Some(data) = field("data:") {
            let data = serde_json::from_str(&data).unwrap();
            return (field("id:").unwrap_or_default(), data);
        }
    }
}

#[tokio::test]
async fn events_resume_behind_the_last_one_received() {
    let server = Server::start().await;
    let mut client = server.client().await;
    append(&mut client, "s", &["1", "2"]).await;
    for path in [
        "/v1/streams/s/entries:tail?limit=1",
        "/v1/entries:tail?limit=1",
        "/v1/changes",
    ] {
        let open = async |headers: &[(&str, &str)]| {
            let response = server
                .response(Method::GET, path, headers, String::new())
                .await;
            assert_eq!(response.status(), 200);
            assert_eq!(response.headers()["content-type"], "text/event-stream");
            let data = response.into_body().into_data_stream();
            data.map(|bytes| String::from_utf8(bytes.unwrap().to_vec()).unwrap())
        };
        let id_of = |data: &serde_json::Value| {
            let entry = if path == "/v1/changes" {
                &data["append"]["entry"]
            } else {
                &data["entries"][0]
            };
            entry["id"].as_str().unwrap().to_owned()
        };
        let mut events = open(&[("x-ledger-store", "orders")]).await;
        let (cursor, data) = event(&mut events).await;
        assert_eq!(id_of(&data), "1", "{path}");
        drop(events);
        let headers = [
            ("x-ledger-store", "orders"),
            ("last-event-id", cursor.as_str()),
        ];
        let mut events = open(&headers).await;
        let (_, data) = event(&mut events).await;
        assert_eq!(id_of(&data), "2", "{path}");
    }
    let headers = [("x-ledger-store", "orders")];
    for path in [
        "/v1/changes?after=zz",
        "/v1/streams/s/entries:tail?cursor=zz",
    ] {
        let (status, _, _) = server.raw(Method::GET, path, &headers, String::new()).await;
        assert_eq!(status, 400, "{path}");
    }
    let response = server
        .response(Method::GET, "/v1/changes?now=1", &headers, String::new())
        .await;
    let data = response.into_body().into_data_stream();
    let mut events = data.map(|bytes| String::from_utf8(bytes.unwrap().to_vec()).unwrap());
    event(&mut events).await;
    server.shutdown.begin(Duration::ZERO);
    let text = soon(events.next()).await.unwrap();
    assert!(
        text.contains("event: failure") && text.contains("SHUTTING_DOWN"),
        "{text}"
    );
}
