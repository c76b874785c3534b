//! The mutation log: what it tells, in which order, and when.

use std::sync::Arc;

use futures::future::join;
use tokio::time::timeout;

use crate::conformance::case::{append, append_ids, entry, name, numbered, read_all, texts};
use crate::conformance::content::assert_holds;
use crate::conformance::follower::{Follower, PUSHED_WITHIN, mark, rest};
use crate::conformance::model::{Model, Order};
use crate::conformance::{Ability, Case};
use crate::{
    Change, ChangeLog, Cursor, ErrorKind, ExpectedVersion, Mutation, NewEntry, Pairs, Store,
};

/// A store that has seen every kind of mutation that it offers.
pub(super) async fn every_mutation(case: &Case, store: &Arc<dyn Store>) {
    let (a, b) = (name("a"), name("b"));
    let rich = entry("{\"n\":1}")
        .order_key("o")
        .dedup_key("d")
        .meta("k", "v")
        .tag("t");
    let ids = append_ids(store, &a, vec![rich, entry("two"), entry("three")]).await;
    append_ids(store, &b, numbered(4)).await;
    let duplicates = vec![entry("x").dedup_key("d"), entry("four").dedup_key("e")];
    append(store, &a, duplicates).await;
    if let Some(labels) = case.labels(store) {
        labels
            .set_tags(&a, ids[1], vec!["y".into(), "x".into()])
            .await
            .unwrap();
        let set = Pairs::from([("a".into(), "1".into()), ("b".into(), "2".into())]);
        labels
            .set_annotations(&a, ids[1], set, Vec::new())
            .await
            .unwrap();
        let set = Pairs::from([("c".into(), "3".into())]);
        labels
            .set_annotations(&a, ids[1], set, vec!["a".into()])
            .await
            .unwrap();
    }
    store.trim(&a, ids[0]).await.unwrap();
    if case.has(Ability::Rename) {
        store.rename(&a, &name("c")).await.unwrap();
        append_ids(store, &a, vec![entry("new a").dedup_key("d")]).await;
    }
    append_ids(store, &b, vec![NewEntry::new(&b"\0\xff"[..])]).await;
}

fn payloads(changes: &[Change]) -> Vec<String> {
    let of = |change: &Change| match &change.mutation {
        Mutation::Append { entry, .. } => Some(entry.as_ref().clone()),
        _ => None,
    };
    texts(&changes.iter().filter_map(of).collect::<Vec<_>>())
}

/// A store without a log says so; `log` is none.
pub async fn the_log_is_there_or_declared_absent(case: &Case) {
    let store = case.open().await;
    if case.log(&store).is_none() {
        append_ids(&store, &name("s"), numbered(1)).await;
        assert!(store.log().is_none(), "also after an append");
    }
}

/// From the start, every mutation comes, in order, and leads to the store's content.
pub async fn from_the_start_everything_comes(case: &Case) {
    let store = case.open().await;
    let Some(log) = case.log(&store) else { return };
    every_mutation(case, &store).await;
    let changes = rest(&store, &log.start()).await;
    Order::check(&changes);
    assert!(
        changes.iter().all(|change| change.cursor > log.start()),
        "the start is before all"
    );
    assert_holds(&store, Model::of(&changes)).await;
}

/// An append is told entry by entry, each whole, with the stream's version.
pub async fn an_append_is_told_entry_by_entry(case: &Case) {
    let store = case.open().await;
    let Some(log) = case.log(&store) else { return };
    let stream = name("s");
    let rich = |n: usize| {
        let text = n.to_string();
        entry(&text)
            .order_key(&text)
            .dedup_key(&text)
            .schema_version(3)
            .meta("n", &text)
            .tag(&text)
    };
    append_ids(&store, &stream, (0..3).map(rich).collect()).await;
    append(&store, &stream, (2..5).map(rich).collect()).await;
    let changes = rest(&store, &log.start()).await;
    let read = read_all(&store, &stream).await;
    assert_eq!(changes.len(), 5, "duplicates are not told");
    for (n, (change, read)) in changes.iter().zip(read).enumerate() {
        assert_eq!(change.stream.name, stream);
        let version = u64::try_from(n + 1).unwrap();
        assert_eq!(
            change.mutation,
            Mutation::Append {
                entry: Box::new(read),
                version
            }
        );
    }
}

/// Labels are told with the whole resulting state and the version it has.
pub async fn labels_are_told_as_full_state(case: &Case) {
    let store = case.open().await;
    let Some(log) = case.log(&store) else { return };
    let Some(labels) = case.labels(&store) else {
        return;
    };
    let stream = name("s");
    let id = append_ids(&store, &stream, numbered(1)).await[0];
    let pairs = |pairs: &[(&str, &str)]| {
        pairs
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect::<Pairs>()
    };
    labels
        .set_tags(&stream, id, vec!["b".into(), "a".into(), "b".into()])
        .await
        .unwrap();
    labels
        .set_annotations(&stream, id, pairs(&[("a", "1"), ("b", "2")]), vec![])
        .await
        .unwrap();
    labels
        .set_annotations(&stream, id, pairs(&[("c", "3")]), vec!["a".into()])
        .await
        .unwrap();
    labels.set_tags(&stream, id, Vec::new()).await.unwrap();
    let changes = rest(&store, &log.start()).await;
    let told: Vec<_> = changes
        .into_iter()
        .skip(1)
        .map(|change| change.mutation)
        .collect();
    let expected = [
        Mutation::SetTags {
            id,
            label_version: 1,
            tags: vec!["a".into(), "b".into()],
        },
        Mutation::SetAnnotations {
            id,
            label_version: 2,
            annotations: pairs(&[("a", "1"), ("b", "2")]),
        },
        Mutation::SetAnnotations {
            id,
            label_version: 3,
            annotations: pairs(&[("b", "2"), ("c", "3")]),
        },
        Mutation::SetTags {
            id,
            label_version: 4,
            tags: vec![],
        },
    ];
    assert_eq!(told, expected);
}

/// A trim is told with the highest id that it really removed.
pub async fn a_trim_tells_what_it_really_removed(case: &Case) {
    let store = case.open().await;
    let Some(log) = case.log(&store) else { return };
    let stream = name("s");
    let first = append_ids(&store, &stream, numbered(3)).await;
    append_ids(&store, &name("other"), numbered(2)).await;
    let second = append_ids(&store, &stream, numbered(2)).await;
    // Between the two ids lie the other stream's.
    store
        .trim(&stream, crate::EntryId(second[0].0 - 1))
        .await
        .unwrap();
    store.trim(&stream, crate::EntryId(u64::MAX)).await.unwrap();
    let changes = rest(&store, &log.start()).await;
    let trims: Vec<_> = changes
        .iter()
        .filter_map(|change| match change.mutation {
            Mutation::Trim { through } => Some(through),
            _ => None,
        })
        .collect();
    assert_eq!(trims, [first[2], second[1]]);
}

/// What changes nothing is not told: duplicates, empty appends, trims of nothing, refused calls.
pub async fn what_changes_nothing_is_not_told(case: &Case) {
    let store = case.open().await;
    let Some(log) = case.log(&store) else { return };
    let stream = name("s");
    let ids = append_ids(&store, &stream, vec![entry("x").dedup_key("k"), entry("y")]).await;
    let before = rest(&store, &log.start()).await;
    append(&store, &stream, Vec::new()).await;
    append(&store, &stream, vec![entry("z").dedup_key("k")]).await;
    store
        .trim(&stream, crate::EntryId(ids[0].0 - 1))
        .await
        .unwrap();
    store.trim(&name("unknown"), ids[1]).await.unwrap();
    let refused = store
        .append(&stream, vec![entry("a\0").tag("\0")], ExpectedVersion::Any)
        .await;
    refused.unwrap_err();
    if case.has(Ability::ExpectedVersion) {
        let refused = store
            .append(&stream, numbered(1), ExpectedVersion::Exactly(9))
            .await;
        refused.unwrap_err();
    }
    if case.has(Ability::Rename) {
        store
            .rename(&name("unknown"), &name("new"))
            .await
            .unwrap_err();
    }
    if let Some(labels) = case.labels(&store) {
        let absent = crate::EntryId(ids[1].0 + 1_000);
        labels
            .set_tags(&stream, absent, Vec::new())
            .await
            .unwrap_err();
    }
    assert_eq!(rest(&store, &log.start()).await, before);
}

/// The log tells an entry whole although it has been trimmed since.
pub async fn trimmed_entries_are_still_told(case: &Case) {
    let store = case.open().await;
    let Some(log) = case.log(&store) else { return };
    let stream = name("s");
    append_ids(&store, &stream, numbered(5)).await;
    store.trim(&stream, crate::EntryId(u64::MAX)).await.unwrap();
    let changes = rest(&store, &log.start()).await;
    assert_eq!(payloads(&changes), ["0", "1", "2", "3", "4"]);
    Order::check(&changes);
}

/// A waiting reader is given a new change without asking again.
pub async fn a_waiting_reader_is_pushed_to(case: &Case) {
    let store = case.open().await;
    let Some(log) = case.log(&store) else { return };
    append_ids(&store, &name("s"), numbered(1)).await;
    let mut follower = Follower::new(log, &log.start());
    follower.next().await;
    for n in 0..5 {
        let text = format!("pushed {n}");
        let (change, _) = join(
            timeout(PUSHED_WITHIN, follower.next()),
            append_ids(&store, &name("s"), vec![entry(&text)]),
        )
        .await;
        let change = change.expect("the change is pushed to the waiting reader");
        assert_eq!(payloads(&[change]), [text]);
    }
}

/// A reader that waits on a log without any change is given the first one.
pub async fn an_empty_log_pushes_its_first_change(case: &Case) {
    let store = case.open().await;
    let Some(log) = case.log(&store) else { return };
    let mut follower = Follower::new(log, &log.start());
    let writer = {
        let store = store.clone();
        async move {
            tokio::task::yield_now().await;
            append_ids(&store, &name("s"), numbered(1)).await;
        }
    };
    let (change, ()) = join(timeout(PUSHED_WITHIN, follower.next()), writer).await;
    assert_eq!(
        payloads(&[change.expect("the first change is pushed")]),
        ["0"]
    );
}

/// Two readers, wherever they begin and however slow they are, each get everything.
pub async fn readers_are_independent(case: &Case) {
    let store = case.open().await;
    let Some(log) = case.log(&store) else { return };
    let stream = name("s");
    append_ids(&store, &stream, numbered(10)).await;
    let mut first = Follower::new(log, &log.start());
    let early = first.take(4).await;
    let mut second = Follower::new(log, &early[1].cursor);
    append_ids(&store, &stream, numbered(3)).await;
    let mark = mark(&store).await;
    let of_second = second.until(&mark).await;
    let of_first = [early.clone(), first.until(&mark).await].concat();
    assert_eq!(of_first.len(), 13);
    assert_eq!(of_second, of_first[2..]);
}

/// A backlog of many appends is told whole and in order, by one reader from the start and by one
/// that begins in its middle.
pub async fn a_long_backlog_is_told_whole(case: &Case) {
    let store = case.open().await;
    let Some(log) = case.log(&store) else { return };
    let stream = name("s");
    append_ids(&store, &stream, numbered(2_500)).await;
    for batch in 0..300 {
        append_ids(&store, &name(&format!("s{}", batch % 7)), numbered(1)).await;
    }
    let changes = rest(&store, &log.start()).await;
    assert_eq!(changes.len(), 2_800);
    Order::check(&changes);
    for at in [0, 999, 1_000, 1_001, 2_499, 2_500, 2_650, 2_799] {
        let rest = rest(&store, &changes[at].cursor).await;
        assert_eq!(rest.len(), 2_799 - at, "behind change {at}");
        assert!(
            rest[..] == changes[at + 1..],
            "behind change {at} comes what came before"
        );
    }
}

/// Payloads of a megabyte pass through the log.
pub async fn large_payloads_pass_the_log(case: &Case) {
    let store = case.open().await;
    let Some(log) = case.log(&store) else { return };
    let large = |byte: u8| NewEntry::new(vec![byte; 1_000_000]);
    append_ids(&store, &name("s"), (0..6).map(large).collect()).await;
    let changes = rest(&store, &log.start()).await;
    assert_eq!(changes.len(), 6);
    for (byte, change) in (0..6).zip(changes) {
        let Mutation::Append { entry, .. } = change.mutation else {
            panic!("an append")
        };
        assert!(entry.payload.len() == 1_000_000 && entry.payload.iter().all(|b| *b == byte));
    }
}

/// Everything before a head is told, and behind it comes only what was appended after.
pub async fn a_head_divides_before_from_after(case: &Case) {
    let store = case.open().await;
    let Some(log) = case.log(&store) else { return };
    let empty = log.head().await.unwrap();
    assert!(empty >= log.start());
    every_mutation(case, &store).await;
    let all = rest(&store, &log.start()).await;
    assert_eq!(
        rest(&store, &empty).await,
        all,
        "behind the head of an empty log comes all"
    );
    let head = log.head().await.unwrap();
    assert!(all.iter().all(|change| change.cursor <= head));
    append_ids(&store, &name("later"), numbered(3)).await;
    let after = rest(&store, &head).await;
    assert_eq!(payloads(&after), ["0", "1", "2"]);
    assert!(
        after
            .iter()
            .all(|change| change.stream.name == name("later"))
    );
}

/// The lag counts the changes behind a position.
pub async fn the_lag_counts_what_is_behind(case: &Case) {
    let store = case.open().await;
    let Some(log) = case.log(&store) else { return };
    assert_eq!(
        log.lag(&log.start()).await.unwrap().entries,
        0,
        "of an empty log"
    );
    if !case.has(Ability::CountedLag) {
        return the_lag_counts_entries(&store, log).await;
    }
    append_ids(&store, &name("s"), numbered(5)).await;
    store.trim(&name("s"), crate::EntryId(1)).await.unwrap();
    let changes = Follower::new(log, &log.start()).take(6).await;
    assert_eq!(log.lag(&log.start()).await.unwrap().entries, 6);
    for (at, change) in changes.iter().enumerate() {
        let lag = log.lag(&change.cursor).await.unwrap();
        assert_eq!(
            lag.entries,
            u64::try_from(5 - at).unwrap(),
            "behind change {at}"
        );
        if at == 5 {
            assert!(
                lag.age.is_zero(),
                "nothing is behind, so nothing is old: {lag:?}"
            );
        }
    }
}

async fn the_lag_counts_entries(store: &Arc<dyn Store>, log: &dyn ChangeLog) {
    let stream = name("s");
    let ids = append_ids(store, &stream, numbered(5)).await;
    let changes = Follower::new(log, &log.start()).take(5).await;
    for (at, cursor) in [log.start()]
        .into_iter()
        .chain(changes.into_iter().map(|change| change.cursor))
        .enumerate()
    {
        let lag = log.lag(&cursor).await.unwrap();
        assert_eq!(lag.entries, u64::try_from(5 - at).unwrap(), "behind {at}");
        assert_eq!(lag.age.is_zero(), at == 5, "behind {at}: {lag:?}");
    }
    let head = log.head().await.unwrap();
    store.trim(&stream, ids[0]).await.unwrap();
    let trimmed = log.head().await.unwrap();
    assert_eq!(
        log.lag(&head).await.unwrap().entries,
        1,
        "the trim is behind"
    );
    assert_eq!(log.lag(&trimmed).await.unwrap().entries, 0);
}

/// The identity stays, over handles and reopening, prints and parses, and no other store has it.
pub async fn the_identity_stays(case: &Case) {
    let store = case.open().await;
    let Some(log) = case.log(&store) else { return };
    let identity = log.identity().await.unwrap();
    append_ids(&store, &name("s"), numbered(1)).await;
    assert_eq!(log.identity().await.unwrap(), identity);
    assert_eq!(
        identity.to_string().parse::<crate::SourceId>().unwrap(),
        identity
    );
    store.close().await;
    let again = case.open().await;
    assert_eq!(again.log().unwrap().identity().await.unwrap(), identity);
    let other = case.open_other().await;
    let foreign = other.log().unwrap().identity().await.unwrap();
    assert!(!identity.continues(&foreign), "{identity} and {foreign}");
}

/// The size of a store is not far from what it holds.
pub async fn the_size_can_be_asked_for(case: &Case) {
    let store = case.open().await;
    let Some(log) = case.log(&store) else { return };
    log.size().await.expect("the size of an empty store");
    append_ids(&store, &name("s"), numbered(100)).await;
    let size = log.size().await.unwrap();
    assert!(size <= 1_000, "about 100 entries are not {size}");
}

/// Cursors print and parse, and a cursor read back is the same position.
pub async fn cursors_survive_storing(case: &Case) {
    let store = case.open().await;
    let Some(log) = case.log(&store) else { return };
    append_ids(&store, &name("s"), numbered(4)).await;
    let changes = rest(&store, &log.start()).await;
    let start: Cursor = log.start().to_string().parse().unwrap();
    assert_eq!(rest(&store, &start).await, changes);
    let stored = Cursor::from_bytes(changes[1].cursor.as_bytes().to_vec()).unwrap();
    assert_eq!(rest(&store, &stored).await, changes[2..]);
    assert_eq!(
        ErrorKind::InvalidInput,
        Cursor::from_bytes(Vec::new()).unwrap_err().kind()
    );
}
