//! Reading: every condition, alone and together.

use std::sync::Arc;

use crate::conformance::Case;
use crate::conformance::case::{append_ids, entry, ids, name, numbered, read, read_all, texts};
use crate::conformance::random::Random;
use crate::{Entry, EntryId, NewEntry, Pairs, ReadOptions, Store, StreamName, Timestamp};

fn pairs(pairs: &[(&str, &str)]) -> Pairs {
    pairs
        .iter()
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
        .collect()
}

/// Conditions one by one, on twelve entries that differ in every way.
async fn varied(case: &Case, store: &Arc<dyn Store>) -> (StreamName, Vec<Entry>) {
    let stream = name("s");
    for n in 0..12_usize {
        let mut entry = entry(&n.to_string())
            .order_key(["", "x", "y"][n % 3])
            .meta("parity", ["even", "odd"][n % 2])
            .meta("third", (n % 3).to_string());
        for (tag, every) in [("two", 2), ("three", 3), ("four", 4)] {
            if n % every == 0 {
                entry = entry.tag(tag);
            }
        }
        append_ids(store, &stream, vec![entry]).await;
        append_ids(store, &name("other"), numbered(1)).await;
    }
    if let Some(labels) = case.labels(store) {
        for (n, entry) in read_all(store, &stream).await.iter().enumerate() {
            let set = pairs(&[("half", ["low", "high"][n / 6]), ("n", &n.to_string())]);
            labels
                .set_annotations(&stream, entry.id, set, Vec::new())
                .await
                .unwrap();
        }
    }
    let all = read_all(store, &stream).await;
    assert_eq!(all.len(), 12);
    (stream, all)
}

/// What a read with these conditions must give.
fn expected(all: &[Entry], options: &ReadOptions) -> Vec<EntryId> {
    let behind = |entry: &Entry| {
        options.after.is_none_or(|after| {
            if options.descending {
                entry.id < after
            } else {
                entry.id > after
            }
        })
    };
    let mut found: Vec<_> = all
        .iter()
        .filter(|entry| behind(entry) && options.matches(entry))
        .collect();
    if options.descending {
        found.reverse();
    }
    found
        .iter()
        .take(options.limit.unwrap_or(usize::MAX))
        .map(|entry| entry.id)
        .collect()
}

async fn assert_found(
    store: &Arc<dyn Store>,
    stream: &StreamName,
    all: &[Entry],
    options: ReadOptions,
) -> usize {
    let expected = expected(all, &options);
    let page = store.page(stream, &options).await.unwrap();
    assert_eq!(ids(&page.entries), expected, "a page with {options:?}");
    let found = read(store, stream, options.clone()).await;
    assert_eq!(ids(&found), expected, "a read with {options:?}");
    expected.len()
}

/// Each condition alone.
pub async fn each_condition_holds(case: &Case) {
    let store = case.open().await;
    let (stream, all) = varied(case, &store).await;
    let base = ReadOptions::all();
    let text = |text: &str| Some(text.to_owned());
    let tags = |tags: &[&str]| tags.iter().map(|tag| (*tag).to_owned()).collect::<Vec<_>>();
    let conditions = [
        (12, base.clone()),
        (
            12,
            ReadOptions {
                descending: true,
                ..base.clone()
            },
        ),
        (
            8,
            ReadOptions {
                after: Some(all[3].id),
                ..base.clone()
            },
        ),
        (
            3,
            ReadOptions {
                after: Some(all[3].id),
                descending: true,
                ..base.clone()
            },
        ),
        (
            5,
            ReadOptions {
                limit: Some(5),
                ..base.clone()
            },
        ),
        (
            5,
            ReadOptions {
                limit: Some(5),
                descending: true,
                ..base.clone()
            },
        ),
        (
            4,
            ReadOptions {
                order_key: text("x"),
                ..base.clone()
            },
        ),
        (
            4,
            ReadOptions {
                order_key: text(""),
                ..base.clone()
            },
        ),
        (
            0,
            ReadOptions {
                order_key: text("X"),
                ..base.clone()
            },
        ),
        (
            6,
            ReadOptions {
                tag: text("two"),
                ..base.clone()
            },
        ),
        (
            0,
            ReadOptions {
                tag: text("tw"),
                ..base.clone()
            },
        ),
        (
            2,
            ReadOptions {
                all_tags: tags(&["two", "three"]),
                ..base.clone()
            },
        ),
        (
            1,
            ReadOptions {
                tag: text("three"),
                all_tags: tags(&["four"]),
                ..base.clone()
            },
        ),
        (
            6,
            ReadOptions {
                metadata: pairs(&[("parity", "odd")]),
                ..base.clone()
            },
        ),
        (
            2,
            ReadOptions {
                metadata: pairs(&[("parity", "odd"), ("third", "1")]),
                ..base.clone()
            },
        ),
        (
            0,
            ReadOptions {
                metadata: pairs(&[("parity", "Odd")]),
                ..base.clone()
            },
        ),
        (
            0,
            ReadOptions {
                metadata: pairs(&[("unknown", "")]),
                ..base.clone()
            },
        ),
    ];
    for (count, options) in conditions {
        let found = assert_found(&store, &stream, &all, options.clone()).await;
        assert_eq!(found, count, "{options:?}");
    }
    if case.labels(&store).is_some() {
        let half = ReadOptions {
            annotations: pairs(&[("half", "high")]),
            ..base.clone()
        };
        assert_eq!(assert_found(&store, &stream, &all, half).await, 6);
        let both = pairs(&[("half", "high"), ("n", "7")]);
        let both = ReadOptions {
            annotations: both,
            ..base
        };
        assert_eq!(assert_found(&store, &stream, &all, both).await, 1);
    }
}

/// Conditions drawn together, many times.
pub async fn conditions_hold_together(case: &Case) {
    let store = case.open().await;
    let (stream, all) = varied(case, &store).await;
    let labelled = case.labels(&store).is_some();
    let mut random = Random::new();
    let mut found = 0;
    for _ in 0..150 {
        let mut options = ReadOptions::all();
        options.descending = random.below(2) == 0;
        if random.below(3) == 0 {
            options.after = Some(random.pick(&all).id);
        }
        if random.below(3) == 0 {
            options.limit = Some(random.below(6));
        }
        if random.below(3) == 0 {
            options.order_key = Some((*random.pick(&["", "x", "y"])).to_owned());
        }
        if random.below(3) == 0 {
            options.tag = Some((*random.pick(&["two", "three"])).to_owned());
        }
        if random.below(3) == 0 {
            options.all_tags = vec![(*random.pick(&["two", "four"])).to_owned()];
        }
        if random.below(3) == 0 {
            options.metadata = pairs(&[("parity", *random.pick(&["even", "odd"]))]);
        }
        if labelled && random.below(3) == 0 {
            options.annotations = pairs(&[("half", *random.pick(&["low", "high"]))]);
        }
        if random.below(4) == 0 {
            options.since = Some(random.pick(&all).created_at);
        }
        if random.below(4) == 0 {
            options.until = Some(random.pick(&all).created_at);
        }
        found += assert_found(&store, &stream, &all, options).await;
    }
    assert!(found > 0, "some of the drawn conditions are fulfilled");
}

/// `since` includes its time, `until` does not.
pub async fn a_time_range_holds(case: &Case) {
    let store = case.open().await;
    let stream = name("s");
    let mut all: Vec<Entry> = Vec::new();
    let times = |all: &[Entry]| {
        let mut times: Vec<_> = all.iter().map(|entry| entry.created_at).collect();
        times.sort_unstable();
        times.dedup();
        times
    };
    while times(&all).len() < 4 {
        assert!(all.len() < 10_000, "created-at does not move");
        append_ids(&store, &stream, numbered(1)).await;
        all = read_all(&store, &stream).await;
    }
    let times = times(&all);
    let base = ReadOptions::all();
    for (since, until) in [
        (Some(times[1]), None),
        (None, Some(times[2])),
        (Some(times[1]), Some(times[2])),
        (Some(times[2]), Some(times[2])),
        (Some(Timestamp::from_micros(times[1].as_micros() + 1)), None),
        (
            Some(Timestamp::from_micros(0)),
            Some(Timestamp::from_micros(4_102_444_800_000_000)),
        ),
    ] {
        let options = ReadOptions {
            since,
            until,
            ..base.clone()
        };
        assert_found(&store, &stream, &all, options).await;
    }
    let range = ReadOptions {
        since: Some(times[1]),
        until: Some(times[3]),
        ..base
    };
    let found = assert_found(&store, &stream, &all, range).await;
    assert!(
        found > 0 && found < all.len(),
        "the range holds some entries and not all"
    );
}

/// `more` is true where something is left, and false behind the end; the pages join without a seam.
pub async fn pages_join_without_a_seam(case: &Case) {
    let store = case.open().await;
    let stream = name("s");
    let all = append_ids(&store, &stream, numbered(10)).await;
    for descending in [false, true] {
        let mut options = ReadOptions {
            limit: Some(3),
            descending,
            ..ReadOptions::all()
        };
        let mut found = Vec::new();
        loop {
            let page = store.page(&stream, &options).await.unwrap();
            found.extend(ids(&page.entries));
            if found.len() < all.len() {
                assert!(
                    page.more,
                    "entries are left behind the first {}",
                    found.len()
                );
                assert_eq!(page.entries.len(), 3);
            }
            options.after = found.last().copied();
            if !page.more {
                break;
            }
            assert!(!page.entries.is_empty(), "an empty page promises no more");
        }
        if descending {
            found.reverse();
        }
        assert_eq!(found, all);
    }
}

/// A reader pages by itself through more than a page, and keeps its conditions and its limit.
pub async fn a_reader_pages_by_itself(case: &Case) {
    let store = case.open().await;
    let stream = name("s");
    let batch: Vec<_> = numbered(1_300)
        .into_iter()
        .enumerate()
        .map(|(n, entry)| if n % 2 == 0 { entry.tag("even") } else { entry })
        .collect();
    let all = append_ids(&store, &stream, batch).await;
    assert_eq!(ids(&read_all(&store, &stream).await), all);
    let tagged = ReadOptions {
        tag: Some("even".into()),
        ..ReadOptions::all()
    };
    let even: Vec<_> = all.iter().copied().step_by(2).collect();
    assert_eq!(ids(&read(&store, &stream, tagged.clone()).await), even);
    let limited = ReadOptions {
        limit: Some(601),
        descending: true,
        ..tagged
    };
    let newest: Vec<_> = even.iter().rev().copied().take(601).collect();
    assert_eq!(ids(&read(&store, &stream, limited).await), newest);
}

/// A stream shows none of another's entries.
pub async fn streams_do_not_mix(case: &Case) {
    let store = case.open().await;
    let names = ["a", "A", "a ", "b"];
    for round in 0..3 {
        for stream in names {
            append_ids(
                &store,
                &name(stream),
                vec![entry(&format!("{stream}{round}"))],
            )
            .await;
        }
    }
    for stream in names {
        let expected: Vec<_> = (0..3).map(|round| format!("{stream}{round}")).collect();
        let read = read_all(&store, &name(stream)).await;
        assert_eq!(texts(&read), expected);
        assert!(read.iter().all(|entry| entry.stream == name(stream)));
        assert_eq!(store.stat(&name(stream)).await.unwrap().count, 3);
    }
}

/// A reader beside a writer skips nothing: what it gives is the stream's beginning.
pub async fn a_reader_beside_writers_skips_nothing(case: &Case) {
    let store = case.open().await;
    let stream = name("s");
    let writers: Vec<_> = (0..4)
        .map(|_| {
            let (store, stream) = (store.clone(), stream.clone());
            tokio::spawn(async move {
                for _ in 0..10 {
                    append_ids(&store, &stream, vec![NewEntry::new("x"); 3]).await;
                }
            })
        })
        .collect();
    let mut reads = Vec::new();
    while !writers.iter().all(tokio::task::JoinHandle::is_finished) {
        let page = store.page(&stream, &ReadOptions::all()).await.unwrap();
        reads.push(ids(&page.entries));
        tokio::task::yield_now().await;
    }
    for writer in writers {
        writer.await.unwrap();
    }
    let all = ids(&read_all(&store, &stream).await);
    assert_eq!(all.len(), 120);
    for read in reads {
        assert_eq!(
            read,
            all[..read.len()],
            "an entry became visible below one that was read"
        );
    }
}
