//! Snapshots, and following from a head taken before.

use crate::conformance::case::{append_ids, entry, name, numbered};
use crate::conformance::cases::changes::every_mutation;
use crate::conformance::cases::races::{Mix, committed, writers};
use crate::conformance::content::{assert_holds, content};
use crate::conformance::follower::{Follower, mark};
use crate::conformance::model::Model;
use crate::conformance::random::Random;
use crate::conformance::{Ability, Case};
use crate::{Change, Cursor, Mutation, Pairs, StreamRef};

/// What a copy says; the time at which it says so may be that of each reading.
fn parts(copy: &[Change]) -> Vec<(&Cursor, &StreamRef, &Mutation)> {
    copy.iter()
        .map(|change| (&change.cursor, &change.stream, &change.mutation))
        .collect()
}

/// A snapshot of a store that rests is its content: states first, then entries with their labels,
/// in the order of their keys.
pub async fn a_snapshot_is_the_content(case: &Case) {
    let store = case.open().await;
    let Some(log) = case.log(&store) else { return };
    assert!(
        Follower::from_stream(log.snapshot(None))
            .all()
            .await
            .is_empty(),
        "of an empty store"
    );
    every_mutation(case, &store).await;
    let emptied = append_ids(&store, &name("emptied"), numbered(2)).await;
    store.trim(&name("emptied"), emptied[1]).await.unwrap();
    let copy = Follower::from_stream(log.snapshot(None)).all().await;
    let states = copy
        .iter()
        .take_while(|c| matches!(c.mutation, Mutation::Stream(_)))
        .count();
    let content = content(&store).await;
    assert_eq!(
        states,
        content.streams.len(),
        "a state for each stream, before all entries"
    );
    assert_eq!(
        copy.len() - states,
        content.entries.len(),
        "and each entry once"
    );
    assert!(
        copy[states..]
            .iter()
            .all(|change| matches!(change.mutation, Mutation::Append { .. })),
        "then entries only"
    );
    assert!(
        copy.is_sorted_by(|a, b| a.cursor < b.cursor),
        "the copy's keys ascend"
    );
    for change in &copy {
        if let Mutation::Stream(state) = &change.mutation {
            assert_eq!(change.stream, state.stream);
        }
    }
    assert_holds(&store, Model::of(&copy)).await;
}

/// A snapshot goes on behind any of its keys with exactly the rest.
pub async fn a_snapshot_resumes_behind_any_key(case: &Case) {
    let store = case.open().await;
    let Some(log) = case.log(&store) else { return };
    every_mutation(case, &store).await;
    let copy = Follower::from_stream(log.snapshot(None)).all().await;
    assert!(copy.len() > 5);
    for (at, change) in copy.iter().enumerate() {
        let rest = Follower::from_stream(log.snapshot(Some(change.cursor.clone())))
            .all()
            .await;
        assert_eq!(
            parts(&rest),
            parts(&copy[at + 1..]),
            "behind key {at}, {change:?}"
        );
    }
}

/// A snapshot longer than any chunk is whole.
pub async fn a_long_snapshot_is_whole(case: &Case) {
    let store = case.open().await;
    let Some(log) = case.log(&store) else { return };
    for stream in 0..40 {
        append_ids(&store, &name(&format!("s{stream}")), numbered(3)).await;
    }
    append_ids(&store, &name("long"), numbered(3_000)).await;
    let copy = Follower::from_stream(log.snapshot(None)).all().await;
    assert_eq!(copy.len(), 41 + 120 + 3_000);
    assert_eq!(Model::of(&copy), content(&store).await);
    let middle = copy[2_000].cursor.clone();
    let rest = Follower::from_stream(log.snapshot(Some(middle)))
        .all()
        .await;
    assert!(
        parts(&rest) == parts(&copy[2_001..]),
        "behind key 2,000 comes what came before"
    );
}

/// A snapshot resumed after the store went on, together with the log from before its beginning,
/// converges to the content.
pub async fn a_resumed_snapshot_converges(case: &Case) {
    let store = case.open().await;
    let Some(log) = case.log(&store) else { return };
    let a = append_ids(&store, &name("a"), numbered(4)).await;
    let b = append_ids(&store, &name("b"), numbered(4)).await;
    let head = log.head().await.unwrap();
    // The states and two entries, and then the copy is cut.
    let mut copy = Follower::from_stream(log.snapshot(None)).take(4).await;
    store.trim(&name("a"), a[2]).await.unwrap();
    store.trim(&name("b"), b[0]).await.unwrap();
    append_ids(&store, &name("new"), numbered(2)).await;
    append_ids(&store, &name("a"), vec![entry("more")]).await;
    if let Some(labels) = case.labels(&store) {
        let set = Pairs::from([("k".into(), "v".into())]);
        labels
            .set_annotations(&name("b"), b[3], set, Vec::new())
            .await
            .unwrap();
        labels
            .set_tags(&name("a"), a[3], vec!["t".into()])
            .await
            .unwrap();
    }
    if case.has(Ability::Rename) {
        store.rename(&name("b"), &name("c")).await.unwrap();
        append_ids(&store, &name("b"), numbered(1)).await;
    }
    let cut = copy.last().unwrap().cursor.clone();
    copy.extend(Follower::from_stream(log.snapshot(Some(cut))).all().await);
    let mark = mark(&store).await;
    copy.extend(Follower::new(log, &head).until(&mark).await);
    assert_holds(&store, Model::of(&copy)).await;
}

/// A snapshot taken while writers work, and the log from a head before it, converge to the content.
pub async fn snapshot_and_follow_converge_beside_writers(case: &Case) {
    let store = case.open().await;
    let Some(log) = case.log(&store) else { return };
    let mix = Mix {
        transactions: case.has(Ability::Transactions),
        trims: true,
        renames: case.has(Ability::Rename),
    };
    let mut random = Random::new();
    committed(writers(case, &store, &mut random, mix, (4, 20))).await;
    let writers = writers(case, &store, &mut random, mix, (6, 20));
    random.pause().await;
    let head = log.head().await.unwrap();
    let mut copy = Follower::from_stream(log.snapshot(None)).all().await;
    committed(writers).await;
    let mark = mark(&store).await;
    copy.extend(Follower::new(log, &head).until(&mark).await);
    assert_holds(&store, Model::of(&copy)).await;
}
