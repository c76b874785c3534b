//! Two handles on one store, as two processes have them.

use tokio::time::timeout;

use crate::conformance::Case;
use crate::conformance::case::{append, append_ids, entry, ids, name, numbered, read_all, texts};
use crate::conformance::follower::{Follower, PUSHED_WITHIN, rest};
use crate::conformance::model::Order;

/// What one handle writes the other reads.
pub async fn handles_see_each_others_writes(case: &Case) {
    let (first, second) = (case.open().await, case.open().await);
    let stream = name("s");
    append_ids(&first, &stream, vec![entry("a").dedup_key("k")]).await;
    assert_eq!(texts(&read_all(&second, &stream).await), ["a"]);
    assert!(append(&second, &stream, vec![entry("x").dedup_key("k")]).await[0].duplicate);
    let later = append_ids(&second, &stream, vec![entry("b")]).await;
    assert_eq!(texts(&read_all(&first, &stream).await), ["a", "b"]);
    first.trim(&stream, later[0]).await.unwrap();
    assert!(read_all(&second, &stream).await.is_empty());
    assert_eq!(second.stat(&stream).await.unwrap().version, 2);
}

/// A change made through one handle is pushed to a reader of the other.
pub async fn changes_are_pushed_across_handles(case: &Case) {
    let (first, second) = (case.open().await, case.open().await);
    let Some(log) = case.log(&second) else { return };
    append_ids(&first, &name("s"), numbered(1)).await;
    let mut follower = Follower::new(log, &log.start());
    follower.next().await;
    for _ in 0..3 {
        let reading = timeout(PUSHED_WITHIN, follower.next());
        let stream = name("s");
        let writing = append_ids(&first, &stream, numbered(1));
        let (change, _) = futures::future::join(reading, writing).await;
        change.expect("the change is pushed to the other handle's reader");
    }
}

/// Writers on two handles keep one order.
pub async fn writers_on_two_handles_keep_one_order(case: &Case) {
    let handles = [case.open().await, case.open().await];
    let stream = name("s");
    let tasks: Vec<_> = (0..4)
        .map(|task| {
            let (store, stream) = (handles[task % 2].clone(), stream.clone());
            tokio::spawn(async move {
                for _ in 0..10 {
                    append_ids(&store, &stream, numbered(2)).await;
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    let read = read_all(&handles[0], &stream).await;
    assert_eq!(read.len(), 80);
    assert_eq!(read_all(&handles[1], &stream).await, read);
    let Some(log) = case.log(&handles[0]) else {
        return;
    };
    let changes = rest(&handles[0], &log.start()).await;
    Order::check(&changes);
    assert_eq!(changes.len(), 80);
    assert_eq!(rest(&handles[1], &log.start()).await, changes);
}

/// Stores do not share streams, ids or dedup keys.
pub async fn stores_do_not_mix(case: &Case) {
    let (store, other) = (case.open().await, case.open_other().await);
    let stream = name("s");
    let batch = vec![entry("a").dedup_key("k")];
    let first = append_ids(&store, &stream, batch.clone()).await;
    assert!(other.streams(None, 10).await.unwrap().is_empty());
    let second = append_ids(&other, &stream, batch).await;
    assert_eq!(
        (first[0].0, second[0].0),
        (1, 1),
        "each store's ids begin at 1"
    );
    other.trim(&stream, second[0]).await.unwrap();
    assert_eq!(ids(&read_all(&store, &stream).await), first);
}
