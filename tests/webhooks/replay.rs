use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ledger::bridge::hook::{HookFailure, Schedule, Selection};
use ledger::hook::Outcome;
use ledger::{StreamName, Timestamp};
use ledger_harness::{Receiver, Reply};

use crate::hooked::{Running, Source, count};

async fn a_time_of_one_stream_is_sent_again_after_a_dry_run(source: Source) {
    let receiver = Receiver::start(|_| Reply::Status(200));
    let hook = source.hook(&receiver, |_, options| options.batch = 1).await;
    let running = Running::start(&hook);
    source.append("one", &["1", "2"]).await;
    receiver.wait("before", |received| count(received) == 2);
    let since = Timestamp::now();
    let during = source.append("one", &["3", "4", "5"]).await;
    source.append("two", &["6"]).await;
    receiver.wait("during", |received| count(received) == 6);
    let until = Timestamp::now();
    source.append("one", &["7"]).await;
    let before = receiver.wait("after", |received| count(received) == 7);

    let mut selection = Selection {
        stream: Some(StreamName::new("one").unwrap()),
        since: Some(since),
        until: Some(until),
        dry_run: true,
        ..Selection::default()
    };
    let told = hook.replay(&selection).await.unwrap();
    assert_eq!(
        (told.streams, told.deliveries, told.entries, told.delivered),
        (1, 3, 3, 0)
    );
    assert_eq!(receiver.count(), before.len(), "a dry run sends nothing");

    selection.dry_run = false;
    selection.rate = Some(20.0);
    let begun = Instant::now();
    let told = hook.replay(&selection).await.unwrap();
    assert_eq!((told.deliveries, told.delivered, told.failed), (3, 3, 0));
    assert!(begun.elapsed() >= Duration::from_millis(100), "the rate");
    let received = receiver.received();
    let again = &received[before.len()..];
    assert_eq!(again.len(), 3);
    // What was sent alone before has its id of before.
    for (request, id) in again.iter().zip(during) {
        assert!(
            request.text().contains(&format!("\"id\":\"{id}\"")),
            "{}",
            request.text()
        );
        let known = before
            .iter()
            .find(|known| known.body == request.body)
            .unwrap();
        assert_eq!(known.header("webhook-id"), request.header("webhook-id"));
    }
    running.stop().await;
}

async fn deliveries_are_sent_again_by_what_became_of_them(source: Source) {
    let failing = Arc::new(AtomicBool::new(true));
    let fails = Arc::clone(&failing);
    let receiver = Receiver::start(move |request| {
        let bad = request.text().contains("\"stream\":\"bad\"") && fails.load(Ordering::Acquire);
        Reply::Status(if bad { 500 } else { 200 })
    });
    let hook = source
        .hook(&receiver, |_, options| {
            options.on_failure = HookFailure::Skip;
            options.schedule = Schedule::new(Vec::new());
            options.batch = 3;
        })
        .await;
    let running = Running::start(&hook);
    source.append("bad", &["1", "2", "3", "4"]).await;
    source.append("good", &["5"]).await;
    running
        .wait("the letters", |stats| stats.counts.letters == 4)
        .await;
    running.attempts(3).await;
    receiver.wait("the good one", |received| received.len() >= 3);
    let failed: Vec<_> = receiver
        .received()
        .into_iter()
        .filter(|request| request.text().contains("\"stream\":\"bad\""))
        .collect();
    failing.store(false, Ordering::Release);
    let before = receiver.count();
    let selection = Selection {
        status: Some(Outcome::Failed),
        ..Selection::default()
    };
    let told = hook.replay(&selection).await.unwrap();
    assert_eq!(told.deliveries, failed.len() as u64);
    assert_eq!(
        (told.entries, told.delivered, told.streams),
        (4, told.deliveries, 1)
    );
    let again = receiver.received().split_off(before);
    for (first, second) in failed.iter().zip(&again) {
        assert_eq!(first.header("webhook-id"), second.header("webhook-id"));
        assert_eq!(first.body, second.body);
    }
    // Their last attempt was taken: there is nothing left.
    assert_eq!(hook.replay(&selection).await.unwrap().deliveries, 0);
    let wrong = Selection {
        rate: Some(0.0),
        ..Selection::default()
    };
    assert!(
        hook.replay(&wrong)
            .await
            .unwrap_err()
            .to_string()
            .contains("rate")
    );
    running.stop().await;
}

crate::hooked::on_each_database! {
    a_time_of_one_stream_is_sent_again_after_a_dry_run,
    deliveries_are_sent_again_by_what_became_of_them,
}
