//! Items that a healthy sink refuses.

use ledger::bridge::{BridgeOptions, OnFailure};
use ledger::pipeline::BatchOptions;
use ledger::{DeadLetter, ErrorKind, Progress};

use super::doubles::{Double, Fault};
use crate::replication::content::{add, assert_equal, fill, stream, tag};
use crate::replication::pair::{Kind, Pair};
use crate::replication::run::Running;

fn policy(pair: &Pair, on_failure: OnFailure) -> BridgeOptions {
    BridgeOptions {
        on_failure,
        once: true,
        // What is behind a refused item comes in later batches too.
        batch: BatchOptions {
            max_items: 2,
            ..pair.options().batch
        },
        ..pair.options()
    }
}

async fn letters(pair: &Pair) -> Vec<DeadLetter> {
    let letters = pair.source.log().unwrap().dead_letters();
    letters.list(&pair.pipeline, None, 1_000).await.unwrap()
}

async fn described(pair: &Pair) -> Vec<String> {
    let letters = letters(pair).await;
    letters
        .into_iter()
        .map(|letter| letter.description)
        .collect()
}

/// Two streams, one of which has an item that is refused; the bridge follows.
struct Poisoned {
    pair: Pair,
    poison: String,
    behind: Vec<String>,
}

async fn poisoned(from: Kind, to: Kind) -> Poisoned {
    let pair = Pair::open(from, to).await;
    add(&pair.source, "bad", "before").await;
    pair.once().await.unwrap();
    let fine = add(&pair.source, "bad", "fine").await;
    let id = add(&pair.source, "bad", "poison").await;
    let other = add(&pair.source, "good", "one").await;
    tag(&pair.source, "bad", id, &["behind"]).await;
    tag(&pair.source, "good", other, &["not behind"]).await;
    pair.source
        .rename(&stream("bad"), &stream("worse"))
        .await
        .unwrap();
    let last = add(&pair.source, "worse", "behind").await;
    add(&pair.source, "good", "two").await;
    pair.source.trim(&stream("worse"), fine).await.unwrap();
    let behind = vec![
        format!("append bad#{id}"),
        format!("set_tags bad#{id}"),
        "rename to worse".to_owned(),
        format!("append worse#{last}"),
        format!("trim worse through #{fine}"),
    ];
    Poisoned {
        poison: behind[0].clone(),
        behind,
        pair,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stop_ends_the_bridge_before_the_item() {
    let Poisoned { pair, poison, .. } = poisoned(Kind::Sqlite, Kind::Sqlite).await;
    let sink = Double::of(pair.sink.sink(), Fault::Refuse(vec![poison.clone()]));
    for _ in 0..2 {
        let bridge = pair.bridge_to(sink.clone(), policy(&pair, OnFailure::Stop));
        let error = Running::start(bridge).ended().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Rejected);
    }
    assert_eq!(described(&pair).await, [""; 0]);
    assert!(!sink.words().contains(&poison));
    // Nothing is lost once the sink takes it.
    sink.set(Fault::None);
    let bridge = pair.bridge_to(sink.clone(), policy(&pair, OnFailure::Stop));
    Running::start(bridge).ended().await.unwrap();
    assert_equal(&pair).await;
    pair.close().await;
}

async fn parked_and_replayed(from: Kind, to: Kind) {
    let Poisoned {
        pair,
        poison,
        mut behind,
    } = poisoned(from, to).await;
    let sink = Double::of(pair.sink.sink(), Fault::Refuse(vec![poison.clone()]));
    let bridge = pair.bridge_to(sink.clone(), policy(&pair, OnFailure::Park));
    let summary = Running::start(bridge).ended().await.unwrap();
    assert_eq!((summary.dead_letters, summary.stats.parked), (5, 5));
    assert_eq!(described(&pair).await, behind);
    let found = letters(&pair).await;
    assert!(found[0].reason.contains("rejected"), "{}", found[0].reason);
    assert!(
        found[1..]
            .iter()
            .all(|letter| letter.reason.contains("behind"))
    );
    let words = sink.words();
    assert_eq!(words.iter().filter(|word| word.contains("good")).count(), 3);
    assert!(!words.iter().any(|word| behind.contains(word)), "{words:?}");

    // A restart, under another policy even, parks what comes behind, and nothing else.
    sink.set(Fault::None);
    let late = add(&pair.source, "worse", "later").await;
    add(&pair.source, "good", "later").await;
    let bridge = pair.bridge_to(sink.clone(), policy(&pair, OnFailure::Stop));
    let summary = Running::start(bridge).ended().await.unwrap();
    assert_eq!((summary.dead_letters, summary.stats.parked), (6, 1));
    behind.push(format!("append worse#{late}"));
    assert_eq!(described(&pair).await, behind);

    // One refused again stays, and so does what is behind it.
    sink.set(Fault::Refuse(vec![poison.clone()]));
    let bridge = pair.bridge_to(sink.clone(), policy(&pair, OnFailure::Park));
    assert_eq!(bridge.replay_dead_letters().await.unwrap(), (0, 6));
    assert_eq!(described(&pair).await, behind);

    // A later one refused: what is before it has been delivered, and is gone.
    sink.set(Fault::Refuse(vec![behind[2].clone()]));
    assert_eq!(bridge.replay_dead_letters().await.unwrap(), (2, 4));
    assert_eq!(described(&pair).await, behind[2..]);

    sink.set(Fault::None);
    assert_eq!(bridge.replay_dead_letters().await.unwrap(), (4, 0));
    let words = sink.words();
    assert_eq!(words[words.len() - 6..], behind);
    assert_eq!(described(&pair).await, [""; 0]);
    // The stream goes on as if nothing had been.
    add(&pair.source, "worse", "after the replay").await;
    let summary = Running::start(bridge).ended().await.unwrap();
    assert_eq!((summary.dead_letters, summary.stats.delivered), (0, 1));
    assert_equal(&pair).await;
    pair.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn park_sets_a_stream_aside_until_it_is_replayed_in_order() {
    parked_and_replayed(Kind::Sqlite, Kind::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn park_in_postgres_sets_a_stream_aside_until_it_is_replayed_in_order() {
    parked_and_replayed(Kind::Postgres, Kind::ClickHouse).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn skip_leaves_the_item_out_and_nothing_else() {
    let Poisoned {
        pair,
        poison,
        behind,
    } = poisoned(Kind::Sqlite, Kind::Sqlite).await;
    let sink = Double::of(pair.sink.sink(), Fault::Refuse(vec![poison.clone()]));
    let bridge = pair.bridge_to(sink.clone(), policy(&pair, OnFailure::Skip));
    let summary = Running::start(bridge).ended().await.unwrap();
    assert_eq!((summary.stats.refused, summary.dead_letters), (1, 0));
    let words = sink.words();
    assert!(!words.contains(&poison));
    let kept: Vec<_> = words.iter().filter(|word| behind.contains(word)).collect();
    assert_eq!(kept, behind[1..].iter().collect::<Vec<_>>());
    // A verification tells what was left out.
    let report = pair.verify(&pair.verify_options()).await;
    assert_eq!(report.differences.len(), 1, "{report:?}");
    pair.close().await;
}

/// Parked in the middle of a large batch, of the copy too, by lanes side by side.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_item_in_a_large_copy_is_found_and_harms_no_other_stream() {
    for lanes in [1, 4] {
        let pair = Pair::open(Kind::Sqlite, Kind::Sqlite).await;
        fill(&pair.source, 10, 100).await;
        let refused = vec![
            "append filled-3#333".to_owned(),
            "append filled-7#701".to_owned(),
        ];
        let sink = Double::of(pair.sink.sink(), Fault::Refuse(refused));
        let options = BridgeOptions {
            lanes,
            batch: pair.options().batch,
            ..policy(&pair, OnFailure::Park)
        };
        let bridge = pair.bridge_to(sink.clone(), options);
        let summary = Running::start(bridge.clone()).ended().await.unwrap();
        // From the 33rd of its stream on, and the whole of the other one.
        assert_eq!(summary.dead_letters, 68 + 100);
        let report = pair.verify(&pair.verify_options()).await;
        assert_eq!(report.differences.len(), 68 + 100);
        sink.set(Fault::None);
        assert_eq!(bridge.replay_dead_letters().await.unwrap(), (168, 0));
        assert_equal(&pair).await;
        pair.close().await;
    }
}

/// In one batch or in many: it is the sink that is broken then, and not every item.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sink_that_refuses_everything_stops_the_bridge() {
    for policy_now in [OnFailure::Stop, OnFailure::Park, OnFailure::Skip] {
        for max_items in [1, 7, 10_000] {
            let pair = Pair::open(Kind::Sqlite, Kind::Sqlite).await;
            fill(&pair.source, 60, 3).await;
            let sink = Double::of(pair.sink.sink(), Fault::RefuseAll);
            let options = BridgeOptions {
                batch: BatchOptions {
                    max_items,
                    ..pair.options().batch
                },
                ..policy(&pair, policy_now)
            };
            let bridge = pair.bridge_to(sink.clone(), options);
            let error = Running::start(bridge.clone()).ended().await.unwrap_err();
            assert_eq!(
                error.kind(),
                ErrorKind::Rejected,
                "{policy_now}, {max_items}"
            );
            let parked = letters(&pair).await.len();
            assert!(parked < 60, "{policy_now}, {max_items}: {parked} parked");
            if let Some(stored) = pair.stored().await {
                let stored = Progress::from_cursor(&stored).unwrap();
                assert!(matches!(stored, Progress::Snapshot { .. }), "{stored:?}");
            }

            sink.set(Fault::None);
            if policy_now != OnFailure::Skip {
                Running::start(bridge.clone()).ended().await.unwrap();
                bridge.replay_dead_letters().await.unwrap();
                assert_equal(&pair).await;
            }
            pair.close().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn letters_are_not_replayed_while_the_bridge_runs() {
    let Poisoned { pair, poison, .. } = poisoned(Kind::Sqlite, Kind::Sqlite).await;
    let sink = Double::of(pair.sink.sink(), Fault::Refuse(vec![poison]));
    let options = BridgeOptions {
        once: false,
        ..policy(&pair, OnFailure::Park)
    };
    let running = Running::start(pair.bridge_to(sink.clone(), options.clone()));
    pair.caught_up().await;
    let other = pair.bridge_to(sink.clone(), options);
    let error = other.replay_dead_letters().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.to_string().contains("pause"), "{error}");

    // Paused, they are; and the bridge, going on, knows that the stream is free again.
    sink.set(Fault::None);
    let consumers = pair.source.log().unwrap().consumers();
    consumers.set_paused(&pair.pipeline, true).await.unwrap();
    crate::replication::run::until("the lease is free", async || {
        consumers.list().await.unwrap()[0].holder.is_none()
    })
    .await;
    assert_eq!(other.replay_dead_letters().await.unwrap(), (5, 0));
    consumers.set_paused(&pair.pipeline, false).await.unwrap();
    add(&pair.source, "worse", "after the replay").await;
    pair.caught_up().await;
    assert_eq!(running.stopped().await.dead_letters, 0);
    assert_equal(&pair).await;
    pair.close().await;
}
