//! Renaming streams.

use std::sync::Arc;

use crate::conformance::case::{append, append_ids, entry, ids, name, numbered, read_all, texts};
use crate::conformance::follower::rest;
use crate::conformance::{Ability, Case};
use crate::{ErrorKind, Mutation, Pairs, Store};

/// Checks that the store refuses to rename, where it is declared that it does.
async fn offers(case: &Case, store: &Arc<dyn Store>) -> bool {
    if case.has(Ability::Rename) {
        return true;
    }
    append_ids(store, &name("unsupported"), numbered(1)).await;
    let error = store
        .rename(&name("unsupported"), &name("other"))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    assert_eq!(store.stat(&name("unsupported")).await.unwrap().count, 1);
    false
}

async fn refused(store: &Arc<dyn Store>, from: &str, to: &str) -> ErrorKind {
    store
        .rename(&name(from), &name(to))
        .await
        .expect_err("the rename is refused")
        .kind()
}

/// Entries keep their ids and everything else, under the new name.
pub async fn entries_keep_their_ids(case: &Case) {
    let store = case.open().await;
    if !offers(case, &store).await {
        return;
    }
    let batch = vec![
        entry("a").dedup_key("k").tag("t"),
        entry("b").meta("k", "v"),
    ];
    append_ids(&store, &name("old"), batch).await;
    let mut before = read_all(&store, &name("old")).await;
    let stat = store.stat(&name("old")).await.unwrap();
    store.rename(&name("old"), &name("new")).await.unwrap();
    for entry in &mut before {
        entry.stream = name("new");
    }
    assert_eq!(read_all(&store, &name("new")).await, before);
    assert_eq!(store.stat(&name("new")).await.unwrap(), stat);
    assert!(read_all(&store, &name("old")).await.is_empty());
    assert_eq!(store.streams(None, 10).await.unwrap(), [name("new")]);
    let again = append(&store, &name("new"), vec![entry("x").dedup_key("k")]).await;
    assert!(again[0].duplicate, "dedup keys stay taken");
    assert_eq!(again[0].id, before[0].id);
}

/// An unknown stream cannot be renamed.
pub async fn an_unknown_stream_is_not_found(case: &Case) {
    let store = case.open().await;
    if !offers(case, &store).await {
        return;
    }
    assert_eq!(refused(&store, "unknown", "new").await, ErrorKind::NotFound);
    assert!(store.streams(None, 10).await.unwrap().is_empty());
}

/// A name that another stream holds is taken, also where that stream has been emptied.
pub async fn a_taken_name_is_refused(case: &Case) {
    let store = case.open().await;
    if !offers(case, &store).await {
        return;
    }
    append_ids(&store, &name("a"), vec![entry("a")]).await;
    let last = append_ids(&store, &name("b"), vec![entry("b")]).await[0];
    assert_eq!(refused(&store, "a", "b").await, ErrorKind::AlreadyExists);
    store.trim(&name("b"), last).await.unwrap();
    assert_eq!(
        refused(&store, "a", "b").await,
        ErrorKind::AlreadyExists,
        "an emptied holder"
    );
    assert_eq!(texts(&read_all(&store, &name("a")).await), ["a"]);
    // The emptied stream can move away and frees the name.
    store.rename(&name("b"), &name("c")).await.unwrap();
    store.rename(&name("a"), &name("b")).await.unwrap();
    assert_eq!(texts(&read_all(&store, &name("b")).await), ["a"]);
}

/// The same name is no error and changes nothing.
pub async fn the_same_name_is_fine(case: &Case) {
    let store = case.open().await;
    if !offers(case, &store).await {
        return;
    }
    let all = append_ids(&store, &name("a"), numbered(2)).await;
    store.rename(&name("a"), &name("a")).await.unwrap();
    assert_eq!(ids(&read_all(&store, &name("a")).await), all);
}

/// The old name is free for a new stream, which is another one, with another identity.
pub async fn the_old_name_is_free_for_a_new_stream(case: &Case) {
    let store = case.open().await;
    if !offers(case, &store).await {
        return;
    }
    append_ids(&store, &name("a"), vec![entry("first").dedup_key("k")]).await;
    store.rename(&name("a"), &name("b")).await.unwrap();
    let appended = append(&store, &name("a"), vec![entry("second").dedup_key("k")]).await;
    assert!(!appended[0].duplicate, "a new stream has no dedup keys");
    assert_eq!(store.stat(&name("a")).await.unwrap().version, 1);
    assert_eq!(texts(&read_all(&store, &name("a")).await), ["second"]);
    assert_eq!(texts(&read_all(&store, &name("b")).await), ["first"]);
    let Some(log) = case.log(&store) else { return };
    let changes = rest(&store, &log.start()).await;
    let kinds: Vec<_> = changes
        .iter()
        .map(|change| change.mutation.kind().as_str())
        .collect();
    assert_eq!(kinds, ["append", "rename", "append"]);
    assert_eq!(changes[0].stream.key, changes[1].stream.key);
    assert_ne!(
        changes[0].stream.key, changes[2].stream.key,
        "another identity"
    );
    assert_eq!(changes[1].stream.name, name("b"));
    assert_eq!(changes[1].mutation, Mutation::Rename);
    assert!(changes[1].stream.name_version > changes[0].stream.name_version);
}

/// Labels and trims reach a renamed stream by its new name only.
pub async fn labels_and_trims_work_after_a_rename(case: &Case) {
    let store = case.open().await;
    if !offers(case, &store).await {
        return;
    }
    let all = append_ids(&store, &name("a"), numbered(3)).await;
    store.rename(&name("a"), &name("b")).await.unwrap();
    if let Some(labels) = case.labels(&store) {
        labels
            .set_tags(&name("b"), all[2], vec!["t".into()])
            .await
            .unwrap();
        let error = labels
            .set_tags(&name("a"), all[2], Vec::new())
            .await
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
        let set = Pairs::from([("k".into(), "v".into())]);
        let done = labels
            .set_annotations(&name("a"), all[2], set, Vec::new())
            .await;
        assert_eq!(done.unwrap_err().kind(), ErrorKind::NotFound);
        assert_eq!(read_all(&store, &name("b")).await[2].tags, ["t"]);
    }
    assert_eq!(store.trim(&name("a"), all[2]).await.unwrap(), 0);
    assert_eq!(store.trim(&name("b"), all[1]).await.unwrap(), 2);
    assert_eq!(ids(&read_all(&store, &name("b")).await), all[2..]);
    let later = append_ids(&store, &name("b"), numbered(1)).await;
    assert!(later[0] > all[2]);
}

/// Names can be swapped by way of a third, and again.
pub async fn names_can_be_swapped(case: &Case) {
    let store = case.open().await;
    if !offers(case, &store).await {
        return;
    }
    append_ids(&store, &name("a"), vec![entry("of a")]).await;
    append_ids(&store, &name("b"), vec![entry("of b")]).await;
    for round in 0..2 {
        for (from, to) in [("a", "c"), ("b", "a"), ("c", "b")] {
            store.rename(&name(from), &name(to)).await.unwrap();
        }
        let expected = if round == 0 {
            ["of b", "of a"]
        } else {
            ["of a", "of b"]
        };
        assert_eq!(texts(&read_all(&store, &name("a")).await), [expected[0]]);
        assert_eq!(texts(&read_all(&store, &name("b")).await), [expected[1]]);
    }
}

/// Of many renames to one name exactly one wins.
pub async fn of_many_renames_to_one_name_one_wins(case: &Case) {
    let store = case.open().await;
    if !offers(case, &store).await {
        return;
    }
    for n in 0..8 {
        append_ids(&store, &name(&format!("s{n}")), vec![entry(&n.to_string())]).await;
    }
    let tasks: Vec<_> = (0..8)
        .map(|n| {
            let store = store.clone();
            tokio::spawn(async move {
                let from = name(&format!("s{n}"));
                let to = name("taken");
                crate::conformance::case::settled(|| store.rename(&from, &to)).await
            })
        })
        .collect();
    let mut winners = Vec::new();
    for (n, task) in tasks.into_iter().enumerate() {
        match task.await.unwrap() {
            Ok(()) => winners.push(n.to_string()),
            Err(error) => assert_eq!(error.kind(), ErrorKind::AlreadyExists, "{error}"),
        }
    }
    assert_eq!(winners.len(), 1, "{winners:?}");
    assert_eq!(texts(&read_all(&store, &name("taken")).await), winners);
    assert_eq!(store.streams(None, 100).await.unwrap().len(), 8);
}
