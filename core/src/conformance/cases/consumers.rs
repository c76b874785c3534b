//! The consumers of a log: what they have confirmed, and their leases.

use std::time::{Duration, Instant};

use crate::conformance::Case;
use crate::conformance::case::{append_ids, name, numbered};
use crate::conformance::follower::rest;
use crate::{Consumer, Consumers, Cursor, ErrorKind, Lease, PipelineId, Store};

/// A time-to-live that no case outlasts.
const LONG: Duration = Duration::from_mins(10);

fn pipeline(name: &str) -> PipelineId {
    PipelineId::new(name).unwrap()
}

/// Cursors of a log with six changes.
async fn cursors(store: &std::sync::Arc<dyn Store>) -> Vec<Cursor> {
    append_ids(store, &name("s"), numbered(3)).await;
    append_ids(store, &name("s"), numbered(3)).await;
    let changes = rest(store, &store.log().unwrap().start()).await;
    changes.into_iter().map(|change| change.cursor).collect()
}

async fn one(consumers: &dyn Consumers, pipeline: &PipelineId) -> Consumer {
    let mut all = consumers.list().await.unwrap();
    all.retain(|consumer| consumer.pipeline == *pipeline);
    assert_eq!(all.len(), 1, "{pipeline} is listed once");
    all.remove(0)
}

/// A registered consumer is listed, by name; registering again leaves it where it is.
pub async fn registering_again_changes_nothing(case: &Case) {
    let store = case.open().await;
    let Some(log) = case.log(&store) else { return };
    let consumers = log.consumers();
    assert!(consumers.list().await.unwrap().is_empty());
    let at = cursors(&store).await;
    for text in ["b", "a.x:1-_", "B"] {
        consumers.register(&pipeline(text), &at[2]).await.unwrap();
    }
    consumers.register(&pipeline("b"), &at[4]).await.unwrap();
    let listed = consumers.list().await.unwrap();
    let names: Vec<_> = listed
        .iter()
        .map(|consumer| consumer.pipeline.as_str())
        .collect();
    assert_eq!(names, ["B", "a.x:1-_", "b"]);
    for consumer in listed {
        assert_eq!(consumer.confirmed, at[2]);
        assert_eq!(consumer.holder, None);
        assert!(!consumer.paused);
    }
}

/// What is confirmed moves forward, and never back.
pub async fn confirming_never_moves_back(case: &Case) {
    let store = case.open().await;
    let Some(log) = case.log(&store) else { return };
    let consumers = log.consumers();
    let at = cursors(&store).await;
    let (one_, other) = (pipeline("one"), pipeline("other"));
    let error = consumers.confirm(&one_, &at[0]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    consumers.register(&one_, &log.start()).await.unwrap();
    consumers.register(&other, &at[1]).await.unwrap();
    for (confirm, expected) in [(2, 2), (1, 2), (2, 2), (5, 5), (0, 5)] {
        consumers.confirm(&one_, &at[confirm]).await.unwrap();
        assert_eq!(one(consumers, &one_).await.confirmed, at[expected]);
    }
    assert_eq!(
        one(consumers, &other).await.confirmed,
        at[1],
        "another consumer stays"
    );
}

/// A reset moves a consumer wherever it is told.
pub async fn a_reset_moves_both_ways(case: &Case) {
    let store = case.open().await;
    let Some(log) = case.log(&store) else { return };
    let consumers = log.consumers();
    let at = cursors(&store).await;
    let pipeline = pipeline("p");
    consumers.register(&pipeline, &at[3]).await.unwrap();
    for to in [&at[1], &at[5], &log.start()] {
        consumers.reset(&pipeline, to).await.unwrap();
        assert_eq!(one(consumers, &pipeline).await.confirmed, *to);
    }
    consumers.confirm(&pipeline, &at[0]).await.unwrap();
    assert_eq!(one(consumers, &pipeline).await.confirmed, at[0]);
}

/// An unregistered consumer is forgotten, with its lease.
pub async fn unregistering_forgets(case: &Case) {
    let store = case.open().await;
    let Some(log) = case.log(&store) else { return };
    let consumers = log.consumers();
    let at = cursors(&store).await;
    let (gone, kept) = (pipeline("gone"), pipeline("kept"));
    for pipeline in [&gone, &kept] {
        consumers.register(pipeline, &at[0]).await.unwrap();
    }
    consumers.lease(&gone, "me", LONG).await.unwrap();
    consumers.set_paused(&gone, true).await.unwrap();
    consumers.unregister(&gone).await.unwrap();
    assert_eq!(consumers.list().await.unwrap().len(), 1);
    let error = consumers.lease(&gone, "me", LONG).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    consumers.register(&gone, &at[4]).await.unwrap();
    let again = one(consumers, &gone).await;
    assert_eq!(
        (again.confirmed, again.holder, again.paused),
        (at[4].clone(), None, false)
    );
    let lease = consumers.lease(&gone, "you", LONG).await.unwrap();
    assert_eq!(lease, Lease::Held { paused: false });
}

/// One holder has the lease, renews it, and gives it back; nobody else can.
pub async fn a_lease_has_one_holder(case: &Case) {
    let store = case.open().await;
    let Some(log) = case.log(&store) else { return };
    let consumers = log.consumers();
    let (pipeline, other) = (pipeline("p"), pipeline("q"));
    let error = consumers.lease(&pipeline, "me", LONG).await.unwrap_err();
    assert_eq!(
        error.kind(),
        ErrorKind::NotFound,
        "a lease registers nothing: {error}"
    );
    consumers.register(&pipeline, &log.start()).await.unwrap();
    consumers.register(&other, &log.start()).await.unwrap();
    let held = Lease::Held { paused: false };
    let by_me = Lease::HeldBy {
        holder: "me".into(),
    };
    assert_eq!(consumers.lease(&pipeline, "me", LONG).await.unwrap(), held);
    assert_eq!(
        consumers.lease(&pipeline, "me", LONG).await.unwrap(),
        held,
        "renewed"
    );
    assert_eq!(
        consumers.lease(&pipeline, "you", LONG).await.unwrap(),
        by_me
    );
    assert_eq!(
        consumers.lease(&other, "you", LONG).await.unwrap(),
        held,
        "another pipeline"
    );
    assert_eq!(
        one(consumers, &pipeline).await.holder.as_deref(),
        Some("me")
    );
    consumers.release(&pipeline, "you").await.unwrap();
    assert_eq!(
        consumers.lease(&pipeline, "you", LONG).await.unwrap(),
        by_me,
        "not theirs to give"
    );
    consumers.release(&pipeline, "me").await.unwrap();
    assert_eq!(one(consumers, &pipeline).await.holder, None);
    assert_eq!(consumers.lease(&pipeline, "you", LONG).await.unwrap(), held);
    let by_you = Lease::HeldBy {
        holder: "you".into(),
    };
    assert_eq!(
        consumers.lease(&pipeline, "me", LONG).await.unwrap(),
        by_you
    );
}

/// A lease that is not renewed expires, and not before its time.
pub async fn a_lease_expires(case: &Case) {
    let store = case.open().await;
    let Some(log) = case.log(&store) else { return };
    let consumers = log.consumers();
    let pipeline = pipeline("p");
    consumers.register(&pipeline, &log.start()).await.unwrap();
    let ttl = Duration::from_millis(700);
    let begun = Instant::now();
    assert_eq!(
        consumers.lease(&pipeline, "me", ttl).await.unwrap(),
        Lease::Held { paused: false }
    );
    while consumers.lease(&pipeline, "you", LONG).await.unwrap() != (Lease::Held { paused: false })
    {
        assert!(
            begun.elapsed() < Duration::from_secs(20),
            "the lease does not expire"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(
        begun.elapsed() >= ttl,
        "taken over after {:?}, before its time",
        begun.elapsed()
    );
    let by_you = Lease::HeldBy {
        holder: "you".into(),
    };
    assert_eq!(consumers.lease(&pipeline, "me", ttl).await.unwrap(), by_you);
    assert_eq!(
        one(consumers, &pipeline).await.holder.as_deref(),
        Some("you")
    );
}

/// Of many that ask for a free lease at once, one has it.
pub async fn of_many_holders_one_wins(case: &Case) {
    let store = case.open().await;
    let Some(log) = case.log(&store) else { return };
    log.consumers()
        .register(&pipeline("p"), &log.start())
        .await
        .unwrap();
    let tasks: Vec<_> = (0..10)
        .map(|n| {
            let store = store.clone();
            tokio::spawn(async move {
                let consumers = store.log().unwrap().consumers();
                consumers
                    .lease(&pipeline("p"), &n.to_string(), LONG)
                    .await
                    .unwrap()
            })
        })
        .collect();
    let mut winners = 0;
    for task in tasks {
        winners += usize::from(matches!(task.await.unwrap(), Lease::Held { .. }));
    }
    assert_eq!(winners, 1);
}

/// A request to pause is listed, and told to the holder at its renewal.
pub async fn a_pause_is_told_at_the_renewal(case: &Case) {
    let store = case.open().await;
    let Some(log) = case.log(&store) else { return };
    let consumers = log.consumers();
    let pipeline = pipeline("p");
    consumers.register(&pipeline, &log.start()).await.unwrap();
    consumers.lease(&pipeline, "me", LONG).await.unwrap();
    for paused in [true, true, false] {
        consumers.set_paused(&pipeline, paused).await.unwrap();
        assert_eq!(one(consumers, &pipeline).await.paused, paused);
        let renewed = consumers.lease(&pipeline, "me", LONG).await.unwrap();
        assert_eq!(renewed, Lease::Held { paused });
    }
}

/// Consumers are the store's: another handle and a later one see them.
pub async fn consumers_outlive_the_handle(case: &Case) {
    let store = case.open().await;
    let Some(log) = case.log(&store) else { return };
    let at = cursors(&store).await;
    log.consumers()
        .register(&pipeline("p"), &at[0])
        .await
        .unwrap();
    log.consumers()
        .confirm(&pipeline("p"), &at[3])
        .await
        .unwrap();
    log.consumers()
        .lease(&pipeline("p"), "me", LONG)
        .await
        .unwrap();
    store.close().await;
    let store = case.open().await;
    let consumers = store.log().unwrap().consumers();
    assert_eq!(one(consumers, &pipeline("p")).await.confirmed, at[3]);
    let lease = consumers.lease(&pipeline("p"), "you", LONG).await.unwrap();
    assert_eq!(
        lease,
        Lease::HeldBy {
            holder: "me".into()
        }
    );
}
