//! Searching payloads.

use crate::conformance::case::{append_ids, entries, entry, ids, name, texts};
use crate::conformance::{Ability, Case};
use crate::{ErrorKind, NewEntry, Pairs, Query, ReadOptions, Search, StreamName};

async fn found(search: &dyn Search, stream: Option<&StreamName>, text: &str) -> Vec<String> {
    let query = Query::Substring(text.to_owned());
    let page = search
        .search(stream, &query, &ReadOptions::all())
        .await
        .expect("search");
    texts(&page.entries)
}

/// Any part of the payload is found, JSON or not.
pub async fn a_substring_is_found(case: &Case) {
    let store = case.open().await;
    let Some(search) = case.search(&store) else {
        return;
    };
    let stream = name("s");
    let payloads = [
        "{\"city\": \"Paris\"}",
        "plain text, Paris",
        "[\"Rome\"]",
        "Par is",
    ];
    append_ids(&store, &stream, entries(&payloads)).await;
    assert_eq!(found(search, Some(&stream), "Paris").await, payloads[..2]);
    assert_eq!(
        found(search, Some(&stream), "\"city\": \"P").await,
        payloads[..1]
    );
    assert_eq!(found(search, Some(&stream), "e\"]").await, payloads[2..3]);
    assert_eq!(found(search, Some(&stream), "London").await, [""; 0]);
}

/// The case of letters does not matter: ASCII and Latin-1.
pub async fn the_case_of_letters_does_not_matter(case: &Case) {
    let store = case.open().await;
    let Some(search) = case.search(&store) else {
        return;
    };
    let stream = name("s");
    let payloads = ["Hello World", "ÀÉÎÕÜ ÇÑ", "{\"name\":\"Ørsted ÅÄÖ\"}"];
    append_ids(&store, &stream, entries(&payloads)).await;
    for text in ["hello world", "HELLO WORLD", "LO wO"] {
        assert_eq!(
            found(search, Some(&stream), text).await,
            payloads[..1],
            "{text}"
        );
    }
    for text in ["àéîõü çñ", "ÀÉÎÕÜ ÇÑ", "Éîõ"] {
        assert_eq!(
            found(search, Some(&stream), text).await,
            payloads[1..2],
            "{text}"
        );
    }
    for text in ["ørsted", "ØRSTED", "åäö"] {
        assert_eq!(
            found(search, Some(&stream), text).await,
            payloads[2..],
            "{text}"
        );
    }
    // Letters with and without an accent are different letters.
    assert_eq!(found(search, Some(&stream), "aeiou").await, [""; 0]);
}

/// No character is special.
pub async fn no_character_is_special(case: &Case) {
    let store = case.open().await;
    let Some(search) = case.search(&store) else {
        return;
    };
    let stream = name("s");
    let payloads = [
        "100% sure",
        "a_b",
        "back\\slash",
        "it's",
        "[a-z]*.?",
        "axb 1000 sure",
        "日本語 😀",
    ];
    append_ids(&store, &stream, entries(&payloads)).await;
    let expected = [
        ("100%", 0),
        ("% s", 0),
        ("a_b", 1),
        ("_", 1),
        ("k\\s", 2),
        ("\\", 2),
        ("it's", 3),
        ("[a-z]*", 4),
        (".?", 4),
        ("本語 😀", 6),
    ];
    for (text, at) in expected {
        assert_eq!(
            found(search, Some(&stream), text).await,
            [payloads[at]],
            "{text}"
        );
    }
    assert_eq!(found(search, Some(&stream), "%").await, payloads[..1]);
}

/// One stream, or all; each result names its stream; an unknown stream has nothing.
pub async fn all_streams_are_searched(case: &Case) {
    let store = case.open().await;
    let Some(search) = case.search(&store) else {
        return;
    };
    for stream in ["a", "b", "c"] {
        append_ids(&store, &name(stream), entries(&["needle", "hay"])).await;
    }
    let query = Query::Substring("needle".into());
    let all = ReadOptions::all();
    let page = search.search(None, &query, &all).await.unwrap();
    assert!(
        ids(&page.entries).is_sorted_by(|a, b| a < b),
        "in the order of ids"
    );
    let streams: Vec<_> = page
        .entries
        .iter()
        .map(|entry| entry.stream.as_str())
        .collect();
    assert_eq!(streams, ["a", "b", "c"]);
    assert_eq!(found(search, Some(&name("b")), "needle").await, ["needle"]);
    assert!(
        found(search, Some(&name("unknown")), "needle")
            .await
            .is_empty()
    );
    let descending = ReadOptions {
        descending: true,
        ..all
    };
    let page = search.search(None, &query, &descending).await.unwrap();
    let streams: Vec<_> = page
        .entries
        .iter()
        .map(|entry| entry.stream.as_str())
        .collect();
    assert_eq!(streams, ["c", "b", "a"]);
}

/// The other conditions hold as well.
pub async fn conditions_hold_in_a_search(case: &Case) {
    let store = case.open().await;
    let Some(search) = case.search(&store) else {
        return;
    };
    let batch = |stream: &str| {
        (0..8)
            .map(|n| {
                entry(&format!("{} {stream}{n}", ["needle", "hay"][n / 4]))
                    .tag(["even", "odd"][n % 2])
                    .order_key(["x", "y"][(n / 2) % 2])
                    .meta("n", n.to_string())
            })
            .collect::<Vec<NewEntry>>()
    };
    let all_ids = append_ids(&store, &name("a"), batch("a")).await;
    append_ids(&store, &name("b"), batch("b")).await;
    let query = Query::Substring("NEEDLE".into());
    let base = ReadOptions::all();
    let even = ReadOptions {
        tag: Some("even".into()),
        ..base.clone()
    };
    let both = ReadOptions {
        order_key: Some("y".into()),
        ..even.clone()
    };
    let second = Pairs::from([("n".to_owned(), "1".to_owned())]);
    let cases = [
        (base.clone(), vec![0, 1, 2, 3]),
        (
            ReadOptions {
                limit: Some(2),
                ..base.clone()
            },
            vec![0, 1],
        ),
        (
            ReadOptions {
                after: Some(all_ids[1]),
                ..base.clone()
            },
            vec![2, 3],
        ),
        (
            ReadOptions {
                descending: true,
                limit: Some(3),
                ..base.clone()
            },
            vec![3, 2, 1],
        ),
        (
            ReadOptions {
                after: Some(all_ids[2]),
                descending: true,
                ..base.clone()
            },
            vec![1, 0],
        ),
        (even, vec![0, 2]),
        (both, vec![2]),
        (
            ReadOptions {
                metadata: second,
                ..base.clone()
            },
            vec![1],
        ),
        (
            ReadOptions {
                all_tags: vec!["odd".into(), "even".into()],
                ..base
            },
            vec![],
        ),
    ];
    for (options, expected) in cases {
        let page = search
            .search(Some(&name("a")), &query, &options)
            .await
            .unwrap();
        let expected: Vec<_> = expected.into_iter().map(|n: usize| all_ids[n]).collect();
        assert_eq!(ids(&page.entries), expected, "{options:?}");
        let everywhere = search.search(None, &query, &options).await.unwrap();
        assert!(
            everywhere.entries.len() >= expected.len(),
            "in all streams, {options:?}"
        );
    }
    let annotated = case.labels(&store);
    if let Some(labels) = annotated {
        let set = Pairs::from([("k".to_owned(), "v".to_owned())]);
        labels
            .set_annotations(&name("a"), all_ids[3], set.clone(), Vec::new())
            .await
            .unwrap();
        let options = ReadOptions {
            annotations: set,
            ..ReadOptions::all()
        };
        let page = search.search(None, &query, &options).await.unwrap();
        assert_eq!(ids(&page.entries), all_ids[3..4]);
    }
}

/// Pages of a search join without a seam, also across streams.
pub async fn pages_of_a_search_join(case: &Case) {
    let store = case.open().await;
    let Some(search) = case.search(&store) else {
        return;
    };
    let mut all = Vec::new();
    for round in 0..12 {
        let stream = name(["a", "b"][round % 2]);
        all.push(append_ids(&store, &stream, entries(&["needle", "hay"])).await[0]);
    }
    let query = Query::Substring("needle".into());
    let mut options = ReadOptions {
        limit: Some(5),
        ..ReadOptions::all()
    };
    let mut found = Vec::new();
    loop {
        let page = search.search(None, &query, &options).await.unwrap();
        found.extend(ids(&page.entries));
        assert!(
            page.more || found.len() == all.len(),
            "more are left behind {}",
            found.len()
        );
        if !page.more {
            break;
        }
        assert!(!page.entries.is_empty(), "an empty page promises no more");
        options.after = found.last().copied();
    }
    assert_eq!(found, all);
}

/// Payloads that are no text do not disturb a search.
pub async fn binary_payloads_do_not_disturb(case: &Case) {
    let store = case.open().await;
    let Some(search) = case.search(&store) else {
        return;
    };
    let stream = name("s");
    let mut batch = entries(&["needle", "{\"a\":\"\\u0000 needle\"}"]);
    batch.insert(1, NewEntry::new(&b"\xff\0\xfe\xed\xa0\x80"[..]));
    batch.insert(0, NewEntry::new(""));
    append_ids(&store, &stream, batch).await;
    assert_eq!(
        found(search, Some(&stream), "needle").await,
        ["needle", "{\"a\":\"\\u0000 needle\"}"]
    );
}

/// Full text finds words, or is not supported.
pub async fn full_text_finds_words_or_is_not_supported(case: &Case) {
    let store = case.open().await;
    let Some(search) = case.search(&store) else {
        return;
    };
    let stream = name("s");
    append_ids(
        &store,
        &stream,
        entries(&["the quick brown fox", "a lazy dog"]),
    )
    .await;
    let query = Query::FullText("quick".into());
    let done = search
        .search(Some(&stream), &query, &ReadOptions::all())
        .await;
    if case.has(Ability::FullText) {
        assert_eq!(texts(&done.unwrap().entries), ["the quick brown fox"]);
    } else {
        let error = done.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    }
}
