//! Chains: a replica that is a relay is carried on, and what arrives at the end is what the first store
//! holds.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use ledger::bridge::{BridgeOptions, VerifyOptions, verify};
use ledger::pipeline::BatchOptions;
use ledger::{
    Batch, Change, Cursor, EntryId, ErrorKind, NewEntry, PipelineId, Progress, Relay, Retention,
    Store,
};

use super::content::{
    Writers, add, append, assert_equal, dump, everything, fill, odd_payloads, tag,
};
use super::pair::{Kind, Pair};
use super::run::{Running, head, until};

/// A source, and a relay of it that was never written.
pub(super) async fn relayed(middle: Kind) -> Pair {
    let mut first = Pair::open(Kind::Sqlite, middle).await;
    first.sink = first.to.relay(&first.name, Relay::On).await.unwrap();
    first
}

/// The bridge that carries a relay on.
async fn carried_on(first: &Pair) -> Pair {
    let to = first.another(Kind::Sqlite, "last").await;
    Pair {
        name: first.name.clone(),
        from: first.to.clone(),
        source: first.replica().await.store(),
        sink: to.sink(&first.name).await,
        to,
        pipeline: PipelineId::new("last").unwrap(),
        folder: tempfile::TempDir::new().unwrap(),
    }
}

async fn close(first: Pair, last: Pair) {
    last.source.close().await;
    drop(last);
    first.close().await;
}

/// Everything that a log tells from its start.
pub(super) async fn told(store: &Arc<dyn Store>) -> Vec<Change> {
    let log = store.log().unwrap();
    let (start, end) = (log.start(), head(store).await);
    let mut told = Vec::new();
    if start == end {
        return told;
    }
    let mut changes = log.changes(start);
    loop {
        let change = changes.next().await.unwrap().unwrap();
        let last = change.cursor >= end;
        told.push(change);
        if last {
            return told;
        }
    }
}

/// The same, without the positions, which are each log's own.
async fn told_of(store: &Arc<dyn Store>) -> Vec<Change> {
    let mut told = told(store).await;
    for change in &mut told {
        change.cursor = Cursor::new(0, &[]);
    }
    told
}

/// Asserts that the end of the chain holds what its beginning holds.
async fn assert_ends_equal(first: &Pair, last: &Pair) {
    assert_equal(first).await;
    assert_equal(last).await;
    let ends = dump(first.source.log().unwrap().contents()).await;
    let sink = last.sink.sink();
    assert_eq!(dump(sink.replica().unwrap()).await, ends);
    // As `ledger bridge verify` is told the two ends.
    let options = VerifyOptions::new(last.pipeline.clone());
    let report = verify(first.source.as_ref(), sink.as_ref(), &options, |_| {}).await;
    let report = report.unwrap();
    assert!(report.is_equal() && report.pending == 0, "{report:?}");
}

/// Asserts that what the relay tells is what it was told: each change once, in the same order.
async fn assert_told_alike(first: &Pair, last: &Pair) {
    let (original, relayed) = (told_of(&first.source).await, told_of(&last.source).await);
    for (relayed, original) in relayed.iter().zip(&original) {
        assert_eq!(relayed, original);
    }
    assert_eq!(relayed.len(), original.len());
}

/// Waits until the end of the chain has what the first store has logged.
async fn caught_up(first: &Pair, last: &Pair) {
    first.caught_up().await;
    last.caught_up().await;
}

async fn everything_goes_through(middle: Kind) {
    let first = relayed(middle).await;
    let last = carried_on(&first).await;
    // Of nothing, so that everything is followed and nothing copied.
    first.once().await.unwrap();
    let (one, two) = (first.start(), last.start());
    everything(&first.source).await;
    caught_up(&first, &last).await;
    one.stopped().await;
    two.stopped().await;
    assert_ends_equal(&first, &last).await;
    assert_told_alike(&first, &last).await;
    // A second replica of the relay, from its log's beginning or by a copy, is the same.
    last.sink.resync(&last.pipeline).await.unwrap();
    last.once().await.unwrap();
    assert_ends_equal(&first, &last).await;
    close(first, last).await;
}

async fn bridges_that_are_killed_tell_each_change_once(middle: Kind) {
    let first = relayed(middle).await;
    let last = carried_on(&first).await;
    first.once().await.unwrap();
    let writers = Writers::start(&first.source, 3);
    let batch = BatchOptions {
        max_items: 7,
        max_wait: Duration::from_millis(2),
        ..first.options().batch
    };
    let options = |pair: &Pair| BridgeOptions {
        batch,
        lease: Duration::from_millis(300),
        ..pair.options()
    };
    for round in 1..=6 {
        let one = Running::start(first.bridge(options(&first)));
        let two = Running::start(last.bridge(options(&last)));
        let before = writers.made();
        until("some are written", async || writers.made() > before + 10).await;
        // As if the processes had ended, wherever they were.
        if round % 2 == 0 {
            one.task.abort();
            two.stopped().await;
        } else {
            two.task.abort();
            one.stopped().await;
        }
    }
    writers.stop().await;
    let (one, two) = (first.start(), last.start());
    caught_up(&first, &last).await;
    one.stopped().await;
    two.stopped().await;
    assert_ends_equal(&first, &last).await;
    assert_told_alike(&first, &last).await;
    close(first, last).await;
}

async fn a_replica_with_content_becomes_a_relay(middle: Kind) {
    let mut first = Pair::open(Kind::Sqlite, middle).await;
    fill(&first.source, 5, 30).await;
    everything(&first.source).await;
    first.once().await.unwrap();
    assert!(first.replica().await.store().log().is_none());

    first.sink = first.to.relay(&first.name, Relay::On).await.unwrap();
    let last = carried_on(&first).await;
    // Its log begins now: who comes from the start takes a copy.
    let log = last.source.log().unwrap();
    let error = log.changes(log.start()).next().await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::CursorExpired, "{error}");
    // With nothing in the log yet, and then with something.
    last.once().await.unwrap();
    assert_ends_equal(&first, &last).await;
    add(&first.source, "more", "one more").await;
    tag(&first.source, "filled-0", EntryId(1), &["late"]).await;
    first.once().await.unwrap();
    assert_eq!(last.once().await.unwrap().stats.delivered, 2);
    assert_ends_equal(&first, &last).await;
    close(first, last).await;
}

async fn a_copy_is_carried_on_while_it_is_made(middle: Kind) {
    let first = relayed(middle).await;
    let last = carried_on(&first).await;
    let entries = odd_payloads().into_iter().map(NewEntry::new).collect();
    append(&first.source, "odd", entries).await;
    everything(&first.source).await;
    fill(&first.source, 10, 100).await;
    let writers = Writers::start(&first.source, 3);
    // The end of the chain follows before there is anything, and is there during the copy.
    let two = last.start();
    last.caught_up().await;
    let batch = BatchOptions {
        max_items: if first.to.is_clickhouse() { 300 } else { 60 },
        ..first.options().batch
    };
    let options = BridgeOptions {
        batch,
        ..first.options()
    };
    let one = Running::start(first.bridge(options));
    until("the first bridge follows", async || {
        matches!(
            first.stored().await.map(|at| Progress::from_cursor(&at)),
            Some(Ok(Progress::Follow(_)))
        ) && writers.made() > 30
    })
    .await;
    writers.stop().await;
    caught_up(&first, &last).await;
    one.stopped().await;
    two.stopped().await;
    assert_ends_equal(&first, &last).await;
    close(first, last).await;
}

async fn a_log_that_ends_is_told(middle: Kind) {
    let mut first = relayed(middle).await;
    let mut last = carried_on(&first).await;
    everything(&first.source).await;
    first.once().await.unwrap();
    last.once().await.unwrap();
    let at = head(&last.source).await;

    // Not while somebody follows it; the bridge into it says who.
    let error = first.to.relay(&first.name, Relay::Off).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
    assert!(
        error.to_string().contains("relay") && error.to_string().contains("last"),
        "{error}"
    );
    // Who does not say anything changes nothing.
    first.sink = first.to.sink(&first.name).await;
    let log = last.source.log().unwrap();
    assert!(log.consumers().list().await.unwrap().len() == 1);
    log.consumers().unregister(&last.pipeline).await.unwrap();

    first.sink = first.to.relay(&first.name, Relay::Off).await.unwrap();
    let error = log.changes(at).next().await.unwrap().unwrap_err();
    assert!(!error.is_retryable(), "{error}");
    add(&first.source, "dark", "told nobody").await;
    first.once().await.unwrap();
    assert_equal(&first).await;
    assert!(first.replica().await.store().log().is_none());

    // On again: what came meanwhile is in no log, and nobody goes on as if it were.
    first.sink = first.to.relay(&first.name, Relay::On).await.unwrap();
    last.source.close().await;
    last.source = first.replica().await.store();
    add(&first.source, "light", "told again").await;
    first.once().await.unwrap();
    let error = Running::start(last.bridge(last.options())).ended().await;
    let error = error.unwrap_err();
    assert!(!error.is_retryable(), "{error}");
    last.sink.resync(&last.pipeline).await.unwrap();
    last.once().await.unwrap();
    assert_ends_equal(&first, &last).await;
    close(first, last).await;
}

async fn a_relay_that_is_emptied_is_another_source(middle: Kind) {
    let first = relayed(middle).await;
    let last = carried_on(&first).await;
    everything(&first.source).await;
    first.once().await.unwrap();
    last.once().await.unwrap();

    first.sink.resync(&first.pipeline).await.unwrap();
    first.once().await.unwrap();
    assert_equal(&first).await;
    let error = Running::start(last.bridge(last.options())).ended().await;
    let error = error.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::SourceDiverged, "{error}");
    last.sink.resync(&last.pipeline).await.unwrap();
    last.once().await.unwrap();
    add(&first.source, "after", "all").await;
    first.once().await.unwrap();
    assert_eq!(last.once().await.unwrap().stats.delivered, 1);
    assert_ends_equal(&first, &last).await;
    close(first, last).await;
}

async fn a_promoted_relay_is_followed_on(middle: Kind) {
    let first = relayed(middle).await;
    let mut last = carried_on(&first).await;
    everything(&first.source).await;
    let id = add(&first.source, "a", "one").await;
    first.once().await.unwrap();
    last.once().await.unwrap();

    first.replica().await.promote().await.unwrap();
    last.source.close().await;
    last.source = first.replica().await.store();
    let own = append(&last.source, "a", vec![NewEntry::new("own")]).await[0].id;
    assert!(own > id);
    tag(&last.source, "a", id, &["own"]).await;
    // What the first store says from now on is dropped, there and here.
    add(&first.source, "a", "too late").await;
    let error = first.once().await.unwrap_err();
    assert!(!error.is_retryable(), "{error}");
    assert_eq!(last.once().await.unwrap().stats.delivered, 2);
    assert_equal(&last).await;
    close(first, last).await;
}

/// The items as one batch of the pipeline; `ack` where it moves the cursor.
fn batch(
    pipeline: &PipelineId,
    fence: u64,
    changes: &[Change],
    acknowledged: bool,
) -> Batch<Change> {
    let at = |change: &Change| Progress::Follow(change.cursor.clone()).to_cursor();
    let items: Vec<(Cursor, Change)> = changes
        .iter()
        .map(|change| (at(change), change.clone()))
        .collect();
    let through = items.last().unwrap().0.clone();
    Batch {
        after: acknowledged.then(|| items[0].0.clone()),
        ack: acknowledged.then(|| through.clone()),
        items,
        through,
        pipeline: pipeline.clone(),
        fence,
    }
}

async fn replays_are_told_once_and_dead_letters_late(middle: Kind) {
    let first = relayed(middle).await;
    everything(&first.source).await;
    let changes = told(&first.source).await;
    let (letter, rest) = changes.split_first().unwrap();
    let sink = first.sink.sink();
    let cursors = sink.cursors().unwrap();
    let identity = first.source.log().unwrap().identity().await.unwrap();
    let claim = cursors.claim(&first.pipeline, &identity).await.unwrap();
    // With other borders, too.
    for (begin, end) in [(0, 4), (0, 4), (2, 9), (0, 3), (9, rest.len())] {
        let batch = batch(&first.pipeline, claim.fence, &rest[begin..end], true);
        sink.deliver(&batch).await.unwrap();
    }
    // What was set aside is told when it is delivered after all.
    let aside = batch(
        &first.pipeline,
        claim.fence,
        std::slice::from_ref(letter),
        false,
    );
    sink.deliver(&aside).await.unwrap();

    let store = first.replica().await.store();
    let relayed = told_of(&store).await;
    assert_eq!(relayed.len(), changes.len());
    assert_eq!(relayed.last().unwrap().mutation, letter.mutation);
    for (relayed, original) in relayed.iter().zip(rest) {
        assert_eq!(relayed.mutation, original.mutation);
    }
    store.close().await;
    first.close().await;
}

async fn who_follows_a_mended_relay_is_named(middle: Kind) {
    let first = relayed(middle).await;
    let last = carried_on(&first).await;
    everything(&first.source).await;
    let id = add(&first.source, "altered", "right").await;
    first.once().await.unwrap();
    let (_, records) = dump(first.sink.sink().replica().unwrap()).await;
    let key = records
        .iter()
        .find(|record| record.key.id == id)
        .unwrap()
        .key;
    let sink = first.sink.sink();
    sink.replica()
        .unwrap()
        .repair(&[], &[key], &[])
        .await
        .unwrap();
    // It copies what is there, which lacks an entry.
    last.once().await.unwrap();

    let options = VerifyOptions {
        repair: true,
        ..first.verify_options()
    };
    let report = first.verify(&options).await;
    assert!(report.is_equal() && report.repaired == 1, "{report:?}");
    assert_eq!(report.verify_too, std::slice::from_ref(&last.pipeline));
    let options = VerifyOptions {
        repair: true,
        ..last.verify_options()
    };
    let report = last.verify(&options).await;
    assert_eq!((report.repaired, report.verify_too.len()), (1, 0));
    assert_ends_equal(&first, &last).await;
    close(first, last).await;
}

async fn a_relays_log_is_kept_for_those_who_follow_it(middle: Kind) {
    let first = relayed(middle).await;
    let last = carried_on(&first).await;
    everything(&first.source).await;
    first.once().await.unwrap();
    last.once().await.unwrap();
    let none = Retention {
        min: Duration::ZERO,
        max: None,
    };
    add(&first.source, "a", "not read yet").await;
    first.once().await.unwrap();
    let lag = last.source.log().unwrap();
    let confirmed = lag.consumers().list().await.unwrap()[0].confirmed.clone();
    assert_eq!(lag.lag(&confirmed).await.unwrap().entries, 1);
    let opened = super::pair::open(&first.to, &first.name, none).await;
    assert!(opened.prune().await.unwrap() > 0);
    let log = last.source.log().unwrap();
    let error = log.changes(log.start()).next().await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::CursorExpired, "{error}");
    assert_eq!(last.once().await.unwrap().stats.delivered, 1);
    assert_ends_equal(&first, &last).await;
    opened.store().close().await;
    close(first, last).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clickhouse_is_an_end_of_chains_and_no_middle() {
    let mut first = Pair::open(Kind::ClickHouse, Kind::Sqlite).await;
    first.sink = first.to.relay(&first.name, Relay::On).await.unwrap();
    let mut last = carried_on(&first).await;
    last.to = first.another(Kind::ClickHouse, "last").await;
    let error = last.to.relay(&first.name, Relay::On).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    assert!(error.to_string().contains("relay"), "{error}");
    last.sink = last.to.relay(&first.name, Relay::Off).await.unwrap();
    everything(&first.source).await;
    first.once().await.unwrap();
    last.once().await.unwrap();
    assert_ends_equal(&first, &last).await;
    last.close().await;
    first.close().await;
}

/// One named test a case, for each backend in the middle.
macro_rules! middles {
    ($($middle:ident: $kind:ident),* => $cases:tt) => {
        $(middles!(@one $middle, $kind, $cases);)*
    };
    (@one $middle:ident, $kind:ident, [$($case:ident),* $(,)?]) => {
        mod $middle {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $case() {
                    Box::pin(super::$case(super::Kind::$kind)).await;
                }
            )*
        }
    };
}

middles!(sqlite: Sqlite, postgres: Postgres, mongodb: Mongo => [
    everything_goes_through,
    bridges_that_are_killed_tell_each_change_once,
    a_replica_with_content_becomes_a_relay,
    a_copy_is_carried_on_while_it_is_made,
    a_log_that_ends_is_told,
    a_relay_that_is_emptied_is_another_source,
    a_promoted_relay_is_followed_on,
    replays_are_told_once_and_dead_letters_late,
    who_follows_a_mended_relay_is_named,
    a_relays_log_is_kept_for_those_who_follow_it,
]);
