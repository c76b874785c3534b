//! What the contract promises of each method.

use std::collections::BTreeMap;

use ledger_server::v1::{
    AppendRequest, CountRequest, Entry, ExpectedVersion, HealthRequest, ListStreamIDsRequest,
    ReadOptions, ReadRequest, RenameStreamRequest, SearchRequest, SetAnnotationsRequest,
    SetTagsRequest, StatRequest, TrimRequest, expected_version::Expected,
};
use tonic::Code;
use tonic_types::StatusExt as _;

use crate::harness::{Client, Server, append, appending, input, refusal};

fn pairs(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    let pairs = pairs.iter();
    pairs
        .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
        .collect()
}

async fn read(client: &mut Client, stream: &str, options: ReadOptions) -> Vec<Entry> {
    let request = ReadRequest {
        stream: stream.to_owned(),
        options: Some(options),
    };
    client.read(request).await.unwrap().into_inner().entries
}

fn payloads(entries: &[Entry]) -> Vec<String> {
    let entries = entries.iter();
    entries
        .map(|e| String::from_utf8_lossy(&e.payload).into_owned())
        .collect()
}

#[tokio::test]
async fn bytes_keys_and_labels_read_back_as_they_were_appended() {
    let server = Server::start().await;
    let mut client = server.client().await;
    let mut first = input(&b"\x00\xff not json"[..]);
    first.order_key = "o".into();
    first.dedup_key = "d".into();
    first.metadata = pairs(&[("k", "v")]);
    first.tags = vec!["b".into(), "a".into(), "b".into()];
    let mut second = input(r#"{ "json" : 1 }"#);
    second.schema_version = 7;
    let ids = client
        .append(appending("s", vec![first.clone(), second, first]))
        .await
        .unwrap()
        .into_inner()
        .ids;
    assert_eq!(ids.len(), 2, "the duplicate has no id");

    let entries = read(&mut client, "s", ReadOptions::default()).await;
    assert_eq!(entries[0].id, ids[0]);
    assert_eq!(entries[0].stream, "s");
    assert_eq!(&entries[0].payload[..], b"\x00\xff not json");
    assert_eq!((&*entries[0].order_key, &*entries[0].dedup_key), ("o", "d"));
    assert_eq!(entries[0].schema_version, 1, "0 is stored as 1");
    assert_eq!(entries[0].metadata, pairs(&[("k", "v")]));
    assert_eq!(entries[0].tags, ["a", "b"]);
    assert!(entries[0].created_at.is_some());
    assert_eq!(entries[0].updated_at, None);
    assert_eq!(&entries[1].payload[..], br#"{ "json" : 1 }"#);
    assert_eq!(entries[1].schema_version, 7);

    let no_key = vec![input("x"), input("x")];
    let ids = client
        .append(appending("s", no_key))
        .await
        .unwrap()
        .into_inner()
        .ids;
    assert_eq!(ids.len(), 2, "an empty key never dedups");
}

#[tokio::test]
async fn filters_hold_together_in_read_and_in_search() {
    let server = Server::start().await;
    let mut client = server.client().await;
    let mut entries = Vec::new();
    for index in 0..6 {
        let mut entry = input(format!("find {index}"));
        entry.order_key = ["a", "b"][index % 2].into();
        entry.metadata = pairs(&[("m", ["x", "y"][index / 3])]);
        entry.tags = if index > 0 {
            vec!["t".into(), format!("t{index}")]
        } else {
            vec![]
        };
        entries.push(entry);
    }
    let ids = client
        .append(appending("s", entries))
        .await
        .unwrap()
        .into_inner()
        .ids;
    let annotate = SetAnnotationsRequest {
        stream: "s".into(),
        id: ids[3].clone(),
        set: pairs(&[("n", "1")]),
        delete: vec![],
    };
    client.set_annotations(annotate).await.unwrap();

    let all = ReadOptions::default();
    let cases: Vec<(ReadOptions, &[usize])> = vec![
        (
            ReadOptions {
                order_key: "a".into(),
                ..all.clone()
            },
            &[0, 2, 4],
        ),
        (
            ReadOptions {
                tag: "t".into(),
                order_key: "a".into(),
                ..all.clone()
            },
            &[2, 4],
        ),
        (
            ReadOptions {
                tag: "t".into(),
                all_tags: vec!["t4".into()],
                ..all.clone()
            },
            &[4],
        ),
        (
            ReadOptions {
                metadata_filters: pairs(&[("m", "y")]),
                ..all.clone()
            },
            &[3, 4, 5],
        ),
        (
            ReadOptions {
                metadata_filters: pairs(&[("m", "y")]),
                annotation_filters: pairs(&[("n", "1")]),
                order_key: "b".into(),
                ..all.clone()
            },
            &[3],
        ),
        (
            ReadOptions {
                annotation_filters: pairs(&[("n", "2")]),
                ..all.clone()
            },
            &[],
        ),
        (
            ReadOptions {
                after: ids[1].clone(),
                limit: 2,
                ..all.clone()
            },
            &[2, 3],
        ),
        (
            ReadOptions {
                after: ids[3].clone(),
                desc: true,
                ..all.clone()
            },
            &[2, 1, 0],
        ),
        (
            ReadOptions {
                desc: true,
                limit: 2,
                ..all.clone()
            },
            &[5, 4],
        ),
        (
            ReadOptions {
                limit: -5,
                ..all.clone()
            },
            &[0, 1, 2, 3, 4, 5],
        ),
    ];
    for (options, expected) in cases {
        let expected: Vec<_> = expected.iter().map(|i| ids[*i].clone()).collect();
        let found = read(&mut client, "s", options.clone()).await;
        let found: Vec<_> = found.into_iter().map(|entry| entry.id).collect();
        assert_eq!(found, expected, "{options:?}");
        let request = SearchRequest {
            stream: "s".into(),
            query: "FIND".into(),
            options: Some(options.clone()),
            full_text: false,
        };
        let found = client.search(request).await.unwrap().into_inner().entries;
        let found: Vec<_> = found.into_iter().map(|entry| entry.id).collect();
        assert_eq!(found, expected, "searching {options:?}");
    }
}

#[tokio::test]
async fn limit_is_100_unless_given_and_pages_go_on() {
    let server = Server::start().await;
    let mut client = server.client().await;
    let entries = (0..250).map(|n| input(n.to_string())).collect();
    client.append(appending("s", entries)).await.unwrap();
    assert_eq!(
        read(&mut client, "s", ReadOptions::default()).await.len(),
        100
    );
    let limit = ReadOptions {
        limit: 240,
        ..ReadOptions::default()
    };
    assert_eq!(
        read(&mut client, "s", limit).await.len(),
        240,
        "there is no upper cap"
    );

    let mut seen = Vec::new();
    let mut options = ReadOptions {
        desc: true,
        ..ReadOptions::default()
    };
    loop {
        let request = ReadRequest {
            stream: "s".into(),
            options: Some(options.clone()),
        };
        let page = client.read(request).await.unwrap().into_inner();
        seen.extend(payloads(&page.entries));
        if page.next_page_token.is_empty() {
            break;
        }
        options.page_token = page.next_page_token;
    }
    let expected: Vec<_> = (0..250).rev().map(|n| n.to_string()).collect();
    assert_eq!(seen, expected);

    options.tag = "other".into();
    let request = ReadRequest {
        stream: "s".into(),
        options: Some(options),
    };
    let (code, _, status) = refusal(client.read(request).await);
    assert_eq!(code, Code::InvalidArgument);
    assert!(status.message().contains("page_token"), "{status}");
}

#[tokio::test]
async fn an_unknown_stream_is_empty_even_with_a_malformed_id() {
    let server = Server::start().await;
    let mut client = server.client().await;
    append(&mut client, "known", &["x"]).await;
    let options = Some(ReadOptions {
        after: "not-an-id".into(),
        ..ReadOptions::default()
    });
    let reading = |stream: &str| ReadRequest {
        stream: stream.into(),
        options: options.clone(),
    };
    let searching = |stream: &str| SearchRequest {
        stream: stream.into(),
        query: "x".into(),
        options: options.clone(),
        full_text: false,
    };
    let trimming = |stream: &str| TrimRequest {
        stream: stream.into(),
        before_id: "-1".into(),
    };
    let of = |stream: &str| stream.to_owned();

    assert!(
        client
            .read(reading("no"))
            .await
            .unwrap()
            .into_inner()
            .entries
            .is_empty()
    );
    assert!(
        client
            .search(searching("no"))
            .await
            .unwrap()
            .into_inner()
            .entries
            .is_empty()
    );
    assert_eq!(
        client
            .trim(trimming("no"))
            .await
            .unwrap()
            .into_inner()
            .deleted,
        0
    );
    assert_eq!(
        client
            .count(CountRequest { stream: of("no") })
            .await
            .unwrap()
            .into_inner()
            .count,
        0
    );
    let stat = client
        .stat(StatRequest { stream: of("no") })
        .await
        .unwrap()
        .into_inner();
    assert_eq!((stat.count, &*stat.first_id, &*stat.last_id), (0, "", ""));
    assert_eq!(stat.stream, "no");

    for (what, answer) in [
        ("read", refusal(client.read(reading("known")).await)),
        ("search", refusal(client.search(searching("known")).await)),
        ("search all", refusal(client.search(searching("")).await)),
        ("trim", refusal(client.trim(trimming("known")).await)),
    ] {
        assert_eq!(answer.0, Code::InvalidArgument, "{what}: {}", answer.2);
    }
    let tags = |stream: &str, id: &str| SetTagsRequest {
        stream: stream.into(),
        id: id.into(),
        tags: vec![],
    };
    let notes = |stream: &str, id: &str| SetAnnotationsRequest {
        stream: stream.into(),
        id: id.into(),
        ..SetAnnotationsRequest::default()
    };
    for (stream, id, code) in [
        ("no", "1", Code::NotFound),
        ("no", "x", Code::NotFound),
        ("known", "99", Code::NotFound),
        ("known", "x", Code::InvalidArgument),
    ] {
        assert_eq!(
            refusal(client.set_tags(tags(stream, id)).await).0,
            code,
            "{stream} {id}"
        );
        assert_eq!(
            refusal(client.set_annotations(notes(stream, id)).await).0,
            code
        );
    }
}

#[tokio::test]
async fn labels_replace_merge_and_delete() {
    let server = Server::start().await;
    let mut client = server.client().await;
    let id = append(&mut client, "s", &["x"]).await.remove(0);
    let tags = SetTagsRequest {
        stream: "s".into(),
        id: id.clone(),
        tags: vec!["z".into(), "y".into()],
    };
    client.set_tags(tags).await.unwrap();
    for (set, delete) in [
        (pairs(&[("a", "1"), ("b", "2")]), vec![]),
        (
            pairs(&[("b", "3"), ("c", "4"), ("d", "5")]),
            vec!["a".to_owned(), "c".to_owned()],
        ),
    ] {
        let request = SetAnnotationsRequest {
            stream: "s".into(),
            id: id.clone(),
            set,
            delete,
        };
        client.set_annotations(request).await.unwrap();
    }
    let entry = read(&mut client, "s", ReadOptions::default())
        .await
        .remove(0);
    assert_eq!(entry.tags, ["y", "z"]);
    assert_eq!(entry.annotations, pairs(&[("b", "3"), ("d", "5")]));
    assert!(entry.updated_at.is_some());
}

#[tokio::test]
async fn streams_are_listed_trimmed_and_renamed() {
    let server = Server::start().await;
    let mut client = server.client().await;
    for name in ["c", "a", "b/with slash", "empty"] {
        append(&mut client, name, &["1", "2"]).await;
    }
    client.append(appending("nothing", vec![])).await.unwrap();
    let last = read(&mut client, "empty", ReadOptions::default())
        .await
        .remove(1)
        .id;
    let trim = TrimRequest {
        stream: "empty".into(),
        before_id: last,
    };
    assert_eq!(client.trim(trim).await.unwrap().into_inner().deleted, 2);

    let list = |after: &str, limit, token: &str| ListStreamIDsRequest {
        after: after.into(),
        limit,
        page_token: token.into(),
    };
    let all = client
        .list_stream_i_ds(list("", 0, ""))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(all.stream_ids, ["a", "b/with slash", "c"]);
    assert_eq!(all.next_page_token, "");
    let page = client
        .list_stream_i_ds(list("a", 1, ""))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(page.stream_ids, ["b/with slash"]);
    let page = client
        .list_stream_i_ds(list("", 1, &page.next_page_token))
        .await
        .unwrap();
    assert_eq!(page.get_ref().stream_ids, ["c"]);
    assert_eq!(page.get_ref().next_page_token, "");

    let stat = client
        .stat(StatRequest {
            stream: "empty".into(),
        })
        .await
        .unwrap()
        .into_inner();
    assert_eq!((stat.count, stat.version, &*stat.first_id), (0, 2, ""));

    let rename = |name: &str, new_name: &str| RenameStreamRequest {
        name: name.into(),
        new_name: new_name.into(),
    };
    let before = read(&mut client, "a", ReadOptions::default()).await;
    client.rename_stream(rename("a", "a")).await.unwrap();
    client.rename_stream(rename("a", "z")).await.unwrap();
    let after = read(&mut client, "z", ReadOptions::default()).await;
    let ids = |entries: &[Entry]| entries.iter().map(|e| e.id.clone()).collect::<Vec<_>>();
    assert_eq!(ids(&before), ids(&after));
    assert_eq!(append(&mut client, "a", &["free again"]).await.len(), 1);
    assert_eq!(
        refusal(client.rename_stream(rename("no", "x")).await).0,
        Code::NotFound
    );
    assert_eq!(
        refusal(client.rename_stream(rename("z", "c")).await).0,
        Code::AlreadyExists
    );
    assert_eq!(
        refusal(client.rename_stream(rename("z", "empty")).await).0,
        Code::AlreadyExists
    );
}

#[tokio::test]
async fn search_takes_every_character_as_it_is_and_names_the_stream() {
    let server = Server::start().await;
    let mut client = server.client().await;
    append(&mut client, "a", &["100% Sure", "100 x sure"]).await;
    append(&mut client, "b", &["under_score", "underXscore"]).await;
    let mut search = async |stream: &str, query: &str| {
        let request = SearchRequest {
            stream: stream.into(),
            query: query.into(),
            ..SearchRequest::default()
        };
        let entries = client.search(request).await.unwrap().into_inner().entries;
        entries
            .into_iter()
            .map(|e| (e.stream, String::from_utf8(e.payload.to_vec()).unwrap()))
            .collect::<Vec<_>>()
    };
    assert_eq!(
        search("", "0% sURE").await,
        [("a".to_owned(), "100% Sure".to_owned())]
    );
    assert_eq!(
        search("", "R_S").await,
        [("b".to_owned(), "under_score".to_owned())]
    );
    assert_eq!(search("a", "score").await, []);
    assert_eq!(search("", "sure").await.len(), 2);
}

#[tokio::test]
async fn an_append_can_expect_a_version() {
    let server = Server::start().await;
    let mut client = server.client().await;
    let expecting = |expected| AppendRequest {
        expected_version: Some(ExpectedVersion {
            expected: Some(expected),
        }),
        ..appending("s", vec![input("x")])
    };
    refusal(client.append(expecting(Expected::Exists(()))).await);
    client.append(expecting(Expected::None(()))).await.unwrap();
    client
        .append(expecting(Expected::Exactly(1)))
        .await
        .unwrap();
    client
        .append(expecting(Expected::Exists(())))
        .await
        .unwrap();
    client.append(expecting(Expected::Any(()))).await.unwrap();
    let (code, reason, status) = refusal(client.append(expecting(Expected::Exactly(2))).await);
    assert_eq!((code, &*reason), (Code::Aborted, "VERSION_CONFLICT"));
    let metadata = status.get_details_error_info().unwrap().metadata;
    assert_eq!(metadata["expected"], "2");
    assert_eq!(metadata["actual"], "4");
    let (code, _, _) = refusal(client.append(expecting(Expected::Exactly(-1))).await);
    assert_eq!(code, Code::InvalidArgument);
    let stat = client
        .stat(StatRequest { stream: "s".into() })
        .await
        .unwrap();
    assert_eq!(stat.get_ref().version, 4);
}

#[tokio::test]
async fn health_needs_no_store_and_a_trace_is_kept_on_request() {
    let server = Server::start().await;
    let mut client = server.client_with(&[]).await;
    assert_eq!(
        client
            .health(HealthRequest {})
            .await
            .unwrap()
            .get_ref()
            .status,
        "ok"
    );
    let parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let headers = [
        ("x-ledger-store", "orders"),
        ("traceparent", parent),
        ("x-ledger-trace", "metadata"),
    ];
    let mut client = server.client_with(&headers).await;
    append(&mut client, "s", &["x"]).await;
    let entry = read(&mut client, "s", ReadOptions::default())
        .await
        .remove(0);
    assert_eq!(entry.metadata, pairs(&[("traceparent", parent)]));
}
