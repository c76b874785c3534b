//! Input that breaks a rule is refused by name and changes nothing; input that only looks odd works.

use std::sync::Arc;

use crate::conformance::Case;
use crate::conformance::case::{append_ids, entry, name, numbered, read, read_all, texts};
use crate::{
    EntryId, Error, ErrorKind, ExpectedVersion, NewEntry, Pairs, Query, ReadOptions, Result, Store,
    StreamName,
};

/// Texts that are special to some database, shell or format, and to no store.
pub(super) const ODD: [&str; 16] = [
    "it's",
    "\"quoted\"",
    "'; DROP TABLE entries; --",
    "100%",
    "a_b",
    "back\\slash",
    "$1 ?1 :1 {} {0}",
    "a\tb\nc",
    " around ",
    "*.[x](y)",
    "grüße",
    "e\u{301}",
    "日本語",
    "😀",
    "NULL",
    "a/b?c=d&e#f",
];

fn assert_invalid(error: &Error, field: &str) {
    assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
    assert!(error.to_string().contains(field), "names {field}: {error}");
    assert!(!error.is_retryable());
}

/// Appends nine good entries with this bad one among them, to a stream that is there and to one
/// that is not.
async fn assert_refused(case: &Case, bad: NewEntry, field: &str) {
    let store = case.open().await;
    let (known, unknown) = (name("known"), name("unknown"));
    append_ids(&store, &known, numbered(2)).await;
    let mut batch = numbered(10);
    batch[7] = bad;
    for stream in [&known, &unknown] {
        let done = store
            .append(stream, batch.clone(), ExpectedVersion::Any)
            .await;
        let error = done.expect_err("a bad entry is refused");
        assert_invalid(&error, &format!("entries[7].{field}"));
    }
    assert_eq!(
        texts(&read_all(&store, &known).await),
        ["0", "1"],
        "nothing was written"
    );
    assert_eq!(store.stat(&known).await.unwrap().version, 2);
    assert_eq!(
        store.streams(None, 10).await.unwrap(),
        [known],
        "no stream was created"
    );
}

/// A NUL character in an order key.
pub async fn a_nul_in_an_order_key_is_refused(case: &Case) {
    assert_refused(case, entry("x").order_key("a\0b"), "order_key").await;
}

/// A NUL character in a dedup key.
pub async fn a_nul_in_a_dedup_key_is_refused(case: &Case) {
    assert_refused(case, entry("x").dedup_key("\0"), "dedup_key").await;
}

/// A NUL character in a tag.
pub async fn a_nul_in_a_tag_is_refused(case: &Case) {
    assert_refused(case, entry("x").tag("fine").tag("a\0"), "tags").await;
}

/// A NUL character in a metadata key.
pub async fn a_nul_in_a_metadata_key_is_refused(case: &Case) {
    assert_refused(case, entry("x").meta("a\0", "v"), "metadata").await;
}

/// A NUL character in a metadata value.
pub async fn a_nul_in_a_metadata_value_is_refused(case: &Case) {
    assert_refused(case, entry("x").meta("k", "\0v"), "metadata").await;
}

/// A dedup key that is too long for an index.
pub async fn a_dedup_key_that_is_too_long_is_refused(case: &Case) {
    assert_refused(case, entry("x").dedup_key("k".repeat(1_025)), "dedup_key").await;
}

/// An order key that is too long for an index.
pub async fn an_order_key_that_is_too_long_is_refused(case: &Case) {
    assert_refused(case, entry("x").order_key("k".repeat(1_025)), "order_key").await;
}

/// A schema version above what 32 bits with a sign hold; the greatest one works.
pub async fn a_schema_version_that_is_too_great_is_refused(case: &Case) {
    assert_refused(case, entry("x").schema_version(u32::MAX), "schema_version").await;
    let store = case.open().await;
    let greatest = i32::MAX.unsigned_abs();
    append_ids(
        &store,
        &name("s"),
        vec![entry("x").schema_version(greatest)],
    )
    .await;
    assert_eq!(
        read_all(&store, &name("s")).await[0].schema_version,
        greatest
    );
}

/// A NUL character in new tags or annotations; the entry stays as it was.
pub async fn a_nul_in_a_label_is_refused(case: &Case) {
    let store = case.open().await;
    let stream = name("s");
    let id = append_ids(&store, &stream, vec![entry("x").tag("before")]).await[0];
    let before = read_all(&store, &stream).await;
    let Some(labels) = case.labels(&store) else {
        return;
    };
    let error = labels
        .set_tags(&stream, id, vec!["ok".into(), "a\0".into()])
        .await
        .unwrap_err();
    assert_invalid(&error, "tags");
    for (key, value) in [("a\0", "v"), ("k", "v\0")] {
        let set = Pairs::from([("ok".into(), "v".into()), (key.into(), value.into())]);
        let error = labels
            .set_annotations(&stream, id, set, Vec::new())
            .await
            .unwrap_err();
        assert_invalid(&error, "NUL");
    }
    assert_eq!(read_all(&store, &stream).await, before);
}

/// Stream names with any other character work, and each is a stream of its own.
pub async fn odd_stream_names_work(case: &Case) {
    let store = case.open().await;
    let longest = "ü".repeat(512);
    let odd: Vec<_> = ODD.into_iter().chain([longest.as_str()]).collect();
    for text in &odd {
        append_ids(&store, &name(text), vec![entry(text)]).await;
    }
    for text in &odd {
        let read = read_all(&store, &name(text)).await;
        assert_eq!(texts(&read), [*text]);
        assert_eq!(read[0].stream, name(text));
    }
    let mut sorted: Vec<_> = odd.iter().map(|text| name(text)).collect();
    sorted.sort_unstable();
    assert_eq!(store.streams(None, 100).await.unwrap(), sorted);
}

/// Keys, tags and pairs with any other character are kept, and found by exactly that text.
pub async fn odd_values_are_kept_and_found(case: &Case) {
    let store = case.open().await;
    let stream = name("s");
    let batch = ODD.into_iter().map(|text| {
        entry(text)
            .order_key(text)
            .dedup_key(text)
            .tag(text)
            .meta("k", text)
            .meta(text, "v")
    });
    append_ids(&store, &stream, batch.collect()).await;
    for read in read_all(&store, &stream).await {
        let text = String::from_utf8(read.payload.to_vec()).unwrap();
        assert_eq!((&read.order_key, &read.dedup_key), (&text, &text));
        assert_eq!(read.tags, std::slice::from_ref(&text));
        assert_eq!(read.metadata.get("k"), Some(&text));
        assert_eq!(read.metadata.get(&text).map(String::as_str), Some("v"));
    }
    for text in ODD {
        let pair = |key: &str, value: &str| Pairs::from([(key.to_owned(), value.to_owned())]);
        let all = ReadOptions::all();
        let conditions = [
            ReadOptions {
                order_key: Some(text.into()),
                ..all.clone()
            },
            ReadOptions {
                tag: Some(text.into()),
                ..all.clone()
            },
            ReadOptions {
                all_tags: vec![text.into()],
                ..all.clone()
            },
            ReadOptions {
                metadata: pair("k", text),
                ..all.clone()
            },
            ReadOptions {
                metadata: pair(text, "v"),
                ..all.clone()
            },
        ];
        for options in conditions {
            let found = texts(&read(&store, &stream, options.clone()).await);
            assert_eq!(found, [text], "{options:?}");
        }
    }
}

async fn page(store: &Arc<dyn Store>, stream: &StreamName, options: &ReadOptions) -> Result<usize> {
    store
        .page(stream, options)
        .await
        .map(|page| page.entries.len())
}

/// A condition with a NUL character finds nothing, or is refused as the caller's mistake.
pub async fn a_nul_in_a_condition_finds_nothing(case: &Case) {
    let store = case.open().await;
    let stream = name("s");
    append_ids(
        &store,
        &stream,
        vec![entry("x").tag("a").order_key("a").meta("a", "a")],
    )
    .await;
    let pairs = || Pairs::from([("a\0".to_owned(), "a\0".to_owned())]);
    let all = ReadOptions::all();
    let conditions = [
        ReadOptions {
            order_key: Some("a\0".into()),
            ..all.clone()
        },
        ReadOptions {
            tag: Some("a\0".into()),
            ..all.clone()
        },
        ReadOptions {
            all_tags: vec!["a\0".into()],
            ..all.clone()
        },
        ReadOptions {
            metadata: pairs(),
            ..all.clone()
        },
        ReadOptions {
            annotations: pairs(),
            ..all.clone()
        },
    ];
    let nothing = |found: Result<usize>, what: &str| match found {
        Ok(found) => assert_eq!(found, 0, "{what}"),
        Err(error) => assert_eq!(error.kind(), ErrorKind::InvalidInput, "{what}: {error}"),
    };
    for options in conditions {
        nothing(
            page(&store, &stream, &options).await,
            &format!("{options:?}"),
        );
    }
    if let Some(search) = case.search(&store) {
        let query = Query::Substring("x\0".into());
        let found = search.search(Some(&stream), &query, &all).await;
        nothing(found.map(|page| page.entries.len()), "a search");
    }
}

/// Ids and limits at the ends of their ranges are no errors.
pub async fn extreme_numbers_work(case: &Case) {
    let store = case.open().await;
    let stream = name("s");
    append_ids(&store, &stream, numbered(3)).await;
    let signed = i64::MAX.unsigned_abs();
    let all = ReadOptions::all();
    for end in [signed, signed + 1, u64::MAX].map(EntryId) {
        let behind = ReadOptions {
            after: Some(end),
            ..all.clone()
        };
        assert_eq!(
            page(&store, &stream, &behind).await.unwrap(),
            0,
            "after {end}"
        );
        let below = ReadOptions {
            descending: true,
            ..behind
        };
        assert_eq!(
            page(&store, &stream, &below).await.unwrap(),
            3,
            "descending from {end}"
        );
        if let Some(labels) = case.labels(&store) {
            let error = labels.set_tags(&stream, end, Vec::new()).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
        }
    }
    for (after, descending, found) in [(0, false, 3), (0, true, 0)] {
        let options = ReadOptions {
            after: Some(EntryId(after)),
            descending,
            ..all.clone()
        };
        assert_eq!(
            page(&store, &stream, &options).await.unwrap(),
            found,
            "{options:?}"
        );
    }
    for (limit, found) in [(0, 0), (1, 1), (usize::MAX, 3)] {
        let options = ReadOptions {
            limit: Some(limit),
            ..all.clone()
        };
        assert_eq!(
            page(&store, &stream, &options).await.unwrap(),
            found,
            "limit {limit}"
        );
    }
    assert_eq!(
        store.streams(None, usize::MAX).await.unwrap(),
        std::slice::from_ref(&stream)
    );
    assert!(store.streams(None, 0).await.unwrap().is_empty());
    assert_eq!(store.trim(&stream, EntryId(0)).await.unwrap(), 0);
    assert_eq!(store.trim(&stream, EntryId(u64::MAX)).await.unwrap(), 3);
    append_ids(&store, &stream, numbered(1)).await;
}
