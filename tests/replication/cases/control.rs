//! Pausing, taking over, working side by side.

use std::time::{Duration, Instant};

use ledger::bridge::{BridgeOptions, State};
use ledger::pipeline::{BatchOptions, End};
use ledger::{ErrorKind, PipelineId};

use crate::faults::doubles::{Double, Fault};
use crate::replication::content::{add, assert_equal, dump, everything, fill};
use crate::replication::pair::{Kind, Pair};
use crate::replication::run::{Running, head, options, reached, until};

pub(crate) async fn a_pause_holds_the_bridge_until_it_is_lifted(pair: Pair) {
    everything(&pair.source).await;
    let running = pair.start();
    pair.caught_up().await;
    let consumers = pair.source.log().unwrap().consumers();
    consumers.set_paused(&pair.pipeline, true).await.unwrap();
    let state = || async { running.bridge.stats().state };
    until("the bridge pauses", async || state().await == State::Paused).await;
    let me = consumers.list().await.unwrap().remove(0);
    assert!(me.paused && me.holder.is_none(), "{me:?}");

    let before = pair.stored().await;
    add(&pair.source, "paused", "waits").await;
    // A second instance is as paused as the first.
    let second = pair.start();
    until("the second instance pauses", async || {
        second.bridge.stats().state == State::Paused
    })
    .await;
    assert_eq!(pair.stored().await, before);
    assert_eq!(second.stopped().await.end, End::Stopped);

    consumers.set_paused(&pair.pipeline, false).await.unwrap();
    pair.caught_up().await;
    running.stopped().await;
    assert_equal(&pair).await;
    pair.close().await;
}

pub(crate) async fn a_second_instance_waits_and_takes_over(pair: Pair) {
    fill(&pair.source, 3, 20).await;
    let first = pair.start();
    pair.caught_up().await;
    let second = pair.start();
    until("the second instance waits for the first", async || {
        let list = pair.source.log().unwrap().consumers().list().await.unwrap();
        list[0].holder.is_some() && second.bridge.stats().state == State::Waiting
    })
    .await;
    add(&pair.source, "a", "by the first").await;
    pair.caught_up().await;
    assert_eq!(second.bridge.stats().delivered, 0);

    // As a killed process: nothing is released.
    first.task.abort();
    let _ = first.task.await;
    let done = first.bridge.stats().delivered;
    let begun = Instant::now();
    add(&pair.source, "a", "by the second").await;
    pair.caught_up().await;
    // The lease lasts two seconds.
    assert!(
        begun.elapsed() < Duration::from_secs(10),
        "{:?}",
        begun.elapsed()
    );
    assert_eq!(first.bridge.stats().delivered, done);
    until("the second instance tells", async || {
        second.bridge.stats().delivered > 0
    })
    .await;

    // One that ends in an orderly manner gives its lease back.
    second.stopped().await;
    add(&pair.source, "a", "by the third").await;
    pair.once().await.unwrap();
    assert_equal(&pair).await;
    pair.close().await;
}

pub(crate) async fn bridges_side_by_side_do_not_disturb_each_other(pair: Pair) {
    everything(&pair.source).await;
    let other = pair.another(Kind::Sqlite, "other").await;
    let other = other.sink(&pair.name).await;
    let other_pipeline = PipelineId::new("other").unwrap();
    let broken_pipeline = PipelineId::new("broken").unwrap();
    let hung_pipeline = PipelineId::new("hung").unwrap();
    let place = |what: &'static str| pair.another(Kind::Sqlite, what);
    let broken = place("broken").await.sink(&pair.name).await;
    let hung = place("hung").await.sink(&pair.name).await;
    let bridge = |sink, pipeline: &PipelineId| {
        let options = BridgeOptions {
            lanes: 3,
            ..options(pipeline, BatchOptions::default())
        };
        Running::start(pair.bridge_to(sink, options))
    };
    let refused = bridge(
        Double::of(broken.sink(), Fault::RefuseAll),
        &broken_pipeline,
    );
    let hanging = bridge(Double::of(hung.sink(), Fault::Hang), &hung_pipeline);
    let others = bridge(other.sink(), &other_pipeline);
    let running = pair.start();

    fill(&pair.source, 5, 20).await;
    pair.caught_up().await;
    let head = head(&pair.source).await;
    reached(other.sink().as_ref(), &other_pipeline, &head).await;
    let error = refused.ended().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Rejected);
    hanging.task.abort();
    running.stopped().await;
    others.stopped().await;
    assert_equal(&pair).await;
    let (states, records) = dump(pair.source.log().unwrap().contents()).await;
    let there = other.sink();
    assert_eq!(dump(there.replica().unwrap()).await, (states, records));

    // Forgetting one touches no other.
    let consumers = pair.source.log().unwrap().consumers();
    consumers.unregister(&broken_pipeline).await.unwrap();
    let names: Vec<_> = consumers.list().await.unwrap();
    let names: Vec<_> = names
        .iter()
        .map(|consumer| consumer.pipeline.as_str())
        .collect();
    assert_eq!(names, ["hung", "other", "pair"]);
    pair.close().await;
}
