//! Dead letters.

use std::sync::Arc;

use bytes::Bytes;

use crate::conformance::Case;
use crate::conformance::case::{append_ids, name, numbered};
use crate::conformance::follower::rest;
use crate::{ChangeLog, Cursor, DeadLetter, PipelineId, Store, StreamKey, Timestamp};

fn pipeline(name: &str) -> PipelineId {
    PipelineId::new(name).unwrap()
}

/// Letters for the nine changes of a log, of three streams in turn, and two registered pipelines.
async fn letters(store: &Arc<dyn Store>, log: &dyn ChangeLog) -> Vec<DeadLetter> {
    for round in 0..9 {
        append_ids(store, &name(["a", "b", "c"][round % 3]), numbered(1)).await;
    }
    for text in ["p", "q"] {
        log.consumers()
            .register(&pipeline(text), &log.start())
            .await
            .unwrap();
    }
    let changes = rest(store, &log.start()).await;
    changes
        .into_iter()
        .map(|change| letter("p", change.stream.key, change.cursor))
        .collect()
}

fn letter(of: &str, key: StreamKey, cursor: Cursor) -> DeadLetter {
    DeadLetter {
        pipeline: pipeline(of),
        item: Bytes::from([b"\0\xff item at ", cursor.as_bytes()].concat()),
        cursor,
        key,
        description: "append s#1, it's 100% \"odd\"".into(),
        reason: "grüße: 日本語".into(),
        parked_at: Timestamp::from_micros(1_700_000_000_123_456),
    }
}

/// Letters are listed whole, in log order whatever the order of parking, in pages.
pub async fn letters_are_listed_in_log_order(case: &Case) {
    let store = case.open().await;
    let Some(log) = case.log(&store) else { return };
    let all = letters(&store, log).await;
    let dead = log.dead_letters();
    let p = pipeline("p");
    assert!(dead.list(&p, None, 10).await.unwrap().is_empty());
    dead.park(vec![all[5].clone(), all[1].clone()])
        .await
        .unwrap();
    dead.park(vec![all[8].clone()]).await.unwrap();
    dead.park(vec![all[3].clone(), all[0].clone()])
        .await
        .unwrap();
    dead.park(Vec::new()).await.unwrap();
    let expected: Vec<_> = [0, 1, 3, 5, 8].map(|at: usize| all[at].clone()).into();
    assert_eq!(dead.list(&p, None, 10).await.unwrap(), expected);
    assert_eq!(dead.list(&p, None, 2).await.unwrap(), expected[..2]);
    let second = &expected[1].cursor;
    assert_eq!(
        dead.list(&p, Some(second), 2).await.unwrap(),
        expected[2..4]
    );
    assert_eq!(
        dead.list(&p, Some(&all[4].cursor), 9).await.unwrap(),
        expected[3..]
    );
    assert_eq!(dead.count(&p).await.unwrap(), 5);
}

/// Parking a letter again adds none.
pub async fn parking_again_adds_nothing(case: &Case) {
    let store = case.open().await;
    let Some(log) = case.log(&store) else { return };
    let all = letters(&store, log).await;
    let dead = log.dead_letters();
    let p = pipeline("p");
    for _ in 0..2 {
        dead.park(all[..4].to_vec()).await.unwrap();
    }
    dead.park(all[2..6].to_vec()).await.unwrap();
    assert_eq!(dead.count(&p).await.unwrap(), 6);
    assert_eq!(dead.list(&p, None, 100).await.unwrap(), all[..6]);
}

/// Pipelines do not share letters, although the cursors are the same.
pub async fn pipelines_do_not_share_letters(case: &Case) {
    let store = case.open().await;
    let Some(log) = case.log(&store) else { return };
    let all = letters(&store, log).await;
    let dead = log.dead_letters();
    let of_q: Vec<_> = all[..3]
        .iter()
        .map(|of_p| letter("q", of_p.key, of_p.cursor.clone()))
        .collect();
    dead.park([&all[..5], &of_q].concat()).await.unwrap();
    assert_eq!(dead.count(&pipeline("p")).await.unwrap(), 5);
    assert_eq!(dead.list(&pipeline("q"), None, 100).await.unwrap(), of_q);
    dead.remove(&pipeline("q"), &[of_q[0].cursor.clone()])
        .await
        .unwrap();
    assert_eq!(dead.count(&pipeline("p")).await.unwrap(), 5);
    assert_eq!(dead.count(&pipeline("q")).await.unwrap(), 2);
}

/// The keys of parked items are told, each once.
pub async fn parked_keys_are_told(case: &Case) {
    let store = case.open().await;
    let Some(log) = case.log(&store) else { return };
    let all = letters(&store, log).await;
    let dead = log.dead_letters();
    let p = pipeline("p");
    assert!(dead.parked_keys(&p).await.unwrap().is_empty());
    // Streams a and c, three letters.
    dead.park(vec![all[0].clone(), all[2].clone(), all[3].clone()])
        .await
        .unwrap();
    let mut keys = dead.parked_keys(&p).await.unwrap();
    keys.sort_unstable();
    let mut expected = [all[0].key, all[2].key];
    expected.sort_unstable();
    assert_eq!(keys, expected);
    assert!(dead.parked_keys(&pipeline("q")).await.unwrap().is_empty());
    dead.remove(&p, &[all[2].cursor.clone(), all[0].cursor.clone()])
        .await
        .unwrap();
    assert_eq!(dead.parked_keys(&p).await.unwrap(), [all[3].key]);
}

/// Letters are removed by their cursors; those that do not exist are no error.
pub async fn letters_are_removed_by_cursor(case: &Case) {
    let store = case.open().await;
    let Some(log) = case.log(&store) else { return };
    let all = letters(&store, log).await;
    let dead = log.dead_letters();
    let p = pipeline("p");
    dead.park(all[..4].to_vec()).await.unwrap();
    let cursors = [
        all[1].cursor.clone(),
        all[7].cursor.clone(),
        all[3].cursor.clone(),
    ];
    for _ in 0..2 {
        dead.remove(&p, &cursors).await.unwrap();
        let left = dead.list(&p, None, 100).await.unwrap();
        assert_eq!(left, [all[0].clone(), all[2].clone()]);
    }
    dead.remove(&p, &[]).await.unwrap();
    assert_eq!(dead.count(&p).await.unwrap(), 2);
}

/// A pipeline's letters go when it is unregistered, and only its.
pub async fn unregistering_forgets_the_letters(case: &Case) {
    let store = case.open().await;
    let Some(log) = case.log(&store) else { return };
    let all = letters(&store, log).await;
    let dead = log.dead_letters();
    let of_q = letter("q", all[0].key, all[0].cursor.clone());
    dead.park([&all[..3], &[of_q]].concat()).await.unwrap();
    log.consumers().unregister(&pipeline("p")).await.unwrap();
    assert_eq!(dead.count(&pipeline("p")).await.unwrap(), 0);
    assert!(dead.parked_keys(&pipeline("p")).await.unwrap().is_empty());
    assert_eq!(dead.count(&pipeline("q")).await.unwrap(), 1);
}
