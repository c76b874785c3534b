use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ledger::bridge::hook::HookState;
use ledger::webhook::Format;
use ledger::{EntryId, Mutation, StreamName};
use ledger_harness::{Receiver, Reply};
use serde_json::Value;

use crate::hooked::{Running, Source, count, in_order, streams};

async fn what_was_there_comes_first_then_what_is_appended_each_stream_in_order(source: Source) {
    for n in 0..40 {
        source
            .append(&format!("s{}", n % 7), &[&n.to_string(), "2", "3"])
            .await;
    }
    let receiver = Receiver::start(|_| Reply::Status(204));
    let hook = source
        .hook(&receiver, |_, options| options.batch = 10)
        .await;
    let running = Running::start(&hook);
    // While it copies.
    for n in 0..200 {
        source
            .append(&format!("s{}", n % 9), &[&n.to_string()])
            .await;
    }
    let received = receiver.wait("everything", |received| count(received) == 320);
    running
        .wait("the end of the copy", |stats| {
            stats.state == HookState::Following
        })
        .await;
    source.append("s1", &["\"last\""]).await;
    let received_last = receiver.wait("the last", |received| count(received) == 321);
    assert_eq!(in_order(&received_last), 321);
    let most = received.iter().map(|request| {
        let body: Value = serde_json::from_slice(&request.body).unwrap();
        assert_eq!(body["type"], "ledger.entries.appended");
        body["data"]["entries"].as_array().unwrap().len()
    });
    assert!(most.max().unwrap() <= 10);
    running.stop().await;
    assert_eq!(receiver.count(), received_last.len(), "nothing came twice");
}

async fn a_stop_stores_how_far_it_came_and_nothing_is_sent_again(source: Source) {
    let receiver = Receiver::start(|_| Reply::Status(200));
    for round in 1..=3 {
        let hook = source.hook(&receiver, |_, _| {}).await;
        let running = Running::start(&hook);
        for n in 0..20 {
            source.append(&format!("s{}", n % 3), &["1"]).await;
        }
        receiver.wait("the round", |received| count(received) == round * 20);
        running.stop().await;
    }
    let received = receiver.received();
    assert_eq!(in_order(&received), 60);
    let ids: std::collections::BTreeSet<_> = received
        .iter()
        .map(|request| request.header("webhook-id"))
        .collect();
    assert_eq!(ids.len(), received.len(), "an id came twice");
}

/// A receiver that takes everything, and a process that is killed before it has noted that: the same
/// items go together again, under the same ids.
async fn what_is_sent_again_after_a_kill_has_the_ids_and_the_bytes_of_before(source: Source) {
    let receiver = Receiver::start(|_| Reply::Status(200));
    let mut total = 0;
    for round in 0..12 {
        let hook = source
            .hook(&receiver, |_, options| {
                options.batch = 5;
                options.lease = Duration::from_millis(50);
            })
            .await;
        let running = Running::start(&hook);
        for n in 0..30 {
            let payloads = vec!["1"; 1 + (n + round) % 4];
            total += payloads.len();
            source.append(&format!("s{}", n % 4), &payloads).await;
        }
        // As far as it comes, which differs from round to round.
        let sent = receiver.count() + round % 5;
        receiver.wait("some", |received| {
            received.len() >= sent.max(1) || count(received) == total
        });
        running.kill().await;
    }
    let hook = source.hook(&receiver, |_, _| {}).await;
    let running = Running::start(&hook);
    let received = receiver.wait("everything", |received| count(received) == total);
    assert_eq!(in_order(&received), total);
    running.stop().await;
}

async fn a_stream_that_fails_holds_no_other_and_keeps_its_order(source: Source) {
    let failing = Arc::new(AtomicBool::new(true));
    let fails = Arc::clone(&failing);
    let receiver = Receiver::start(move |request| {
        let bad = request.text().contains("\"stream\":\"bad\"");
        Reply::Status(if bad && fails.load(Ordering::Acquire) {
            500
        } else {
            204
        })
    });
    let hook = source.hook(&receiver, |_, options| options.batch = 4).await;
    let running = Running::start(&hook);
    for n in 0..100 {
        source.append("bad", &[&n.to_string()]).await;
        source
            .append(&format!("good{}", n % 5), &[&n.to_string()])
            .await;
    }
    let good = |received: &[ledger_harness::Received]| {
        let streams = streams(received);
        let good = streams.iter().filter(|(name, _)| name.starts_with("good"));
        good.map(|(_, ids)| ids.len()).sum::<usize>()
    };
    receiver.wait("the good streams", |received| good(received) == 100);
    // The cursor has moved on, and the failing stream stands beside it.
    let stats = running
        .wait("the queue", |stats| stats.counts.queued == 100)
        .await;
    assert_eq!(stats.counts.waiting, 1);
    running.stop().await;

    // It waits over a restart.
    let running = Running::start(&hook);
    failing.store(false, Ordering::Release);
    let received = receiver.wait("the bad stream", |received| {
        let bad = received
            .iter()
            .filter(|request| request.text().contains("\"stream\":\"bad\""));
        count(&bad.cloned().collect::<Vec<_>>()) == 100
    });
    assert_eq!(in_order(&received), 200);
    source.append("bad", &["\"behind\""]).await;
    receiver.wait("what follows", |received| count(received) == 201);
    let stats = running
        .wait("an empty queue", |stats| stats.counts.waiting == 0)
        .await;
    assert_eq!(stats.counts.queued, 0);
    running.stop().await;
}

async fn a_stream_whose_receiver_is_slow_holds_no_other(source: Source) {
    let receiver = Receiver::start(|request| {
        if request.text().contains("\"stream\":\"slow\"") {
            Reply::Slow(Duration::from_secs(4))
        } else {
            Reply::Status(204)
        }
    });
    let hook = source.hook(&receiver, |_, _| {}).await;
    let running = Running::start(&hook);
    source.append("slow", &["0"]).await;
    receiver.wait("the slow one", |received| received.len() == 1);
    // More than are in hand at a time: the slow stream is set aside, and the cursor moves on.
    let many = vec!["1"; 500];
    for n in 0..24 {
        source.append(&format!("s{n}"), &many).await;
    }
    let begun = std::time::Instant::now();
    receiver.wait("the others", |received| count(received) == 12_001);
    let stats = running.hook.stats();
    println!("12,000 others in {:?}, {stats:?}", begun.elapsed());
    running
        .wait("the slow one", |stats| {
            stats.counts.waiting == 0 && stats.delivered >= 12_001
        })
        .await;
    assert_eq!(in_order(&receiver.received()), 12_001);
    running.stop().await;
}

async fn deliveries_of_several_streams_are_under_way_together_up_to_the_bound(source: Source) {
    let under_way = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let most = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let (now, peak) = (Arc::clone(&under_way), Arc::clone(&most));
    let receiver = Receiver::start(move |_| {
        let count = now.fetch_add(1, Ordering::AcqRel) + 1;
        peak.fetch_max(count, Ordering::AcqRel);
        std::thread::sleep(Duration::from_millis(30));
        now.fetch_sub(1, Ordering::AcqRel);
        Reply::Status(204)
    });
    let hook = source
        .hook(&receiver, |_, options| options.concurrency = 4)
        .await;
    for n in 0..40 {
        source.append(&format!("s{n}"), &["1"]).await;
    }
    let running = Running::start(&hook);
    receiver.wait("everything", |received| received.len() == 40);
    assert_eq!(most.load(Ordering::Acquire), 4);
    assert!(receiver.connections() <= 8, "connections are used again");
    running.stop().await;
}

async fn a_delivery_waits_for_more_as_long_as_it_may(source: Source) {
    let receiver = Receiver::start(|_| Reply::Status(204));
    let hook = source
        .hook(&receiver, |_, options| {
            options.batch = 3;
            options.wait = Duration::from_hours(1);
        })
        .await;
    let running = Running::start(&hook);
    running
        .wait("the end of the copy", |stats| {
            stats.state == HookState::Following
        })
        .await;
    for n in 0..7 {
        source.append("s", &[&n.to_string()]).await;
    }
    let received = receiver.wait("two whole ones", |received| received.len() == 2);
    assert_eq!(in_order(&received), 6);
    running.stop().await;

    let hook = source
        .hook(&receiver, |_, options| {
            options.wait = Duration::from_millis(100);
        })
        .await;
    let running = Running::start(&hook);
    let received = receiver.wait("the rest", |received| received.len() == 3);
    assert_eq!(in_order(&received), 7);
    running.stop().await;
}

async fn other_kinds_are_sent_where_they_are_asked_for_and_nothing_else(source: Source) {
    let receiver = Receiver::start(|_| Reply::Status(204));
    let hook = source
        .hook(&receiver, |config, options| {
            config.format = Format::Standard;
            options.keep = Arc::new(|change| !matches!(change.mutation, Mutation::Rename));
        })
        .await;
    let running = Running::start(&hook);
    running
        .wait("the end of the copy", |stats| {
            stats.state == HookState::Following
        })
        .await;
    let ids = source.append("s", &["1", "2"]).await;
    let stream = StreamName::new("s").unwrap();
    let labels = source.store.labels().unwrap();
    labels
        .set_tags(&stream, ids[0], vec!["t".to_owned()])
        .await
        .unwrap();
    let set = BTreeMap::from([("k".to_owned(), "v".to_owned())]);
    labels
        .set_annotations(&stream, ids[1], set, Vec::new())
        .await
        .unwrap();
    source.store.trim(&stream, EntryId(1)).await.unwrap();
    let renamed = StreamName::new("other").unwrap();
    source.store.rename(&stream, &renamed).await.unwrap();
    source.append("other", &["3"]).await;
    let received = receiver.wait("everything", |received| {
        received
            .iter()
            .any(|request| request.text().contains("\"payload\":3"))
    });
    let kinds: Vec<String> = received
        .iter()
        .map(|request| {
            let body: Value = serde_json::from_slice(&request.body).unwrap();
            format!(
                "{} {}",
                body["type"].as_str().unwrap(),
                body["data"]["stream"]
            )
        })
        .collect();
    let mut expected = vec![
        "ledger.entries.appended \"s\"",
        "ledger.tags.changed \"s\"",
        "ledger.annotations.changed \"s\"",
        "ledger.stream.trimmed \"s\"",
        "ledger.entries.appended \"other\"",
    ];
    // The first append may go in one delivery, or in two.
    if kinds.len() > expected.len() {
        expected.insert(0, "ledger.entries.appended \"s\"");
    }
    assert_eq!(kinds, expected);
    running.stop().await;
}

crate::hooked::on_each_database! {
    what_was_there_comes_first_then_what_is_appended_each_stream_in_order,
    a_stop_stores_how_far_it_came_and_nothing_is_sent_again,
    what_is_sent_again_after_a_kill_has_the_ids_and_the_bytes_of_before,
    a_stream_that_fails_holds_no_other_and_keeps_its_order,
    a_stream_whose_receiver_is_slow_holds_no_other,
    deliveries_of_several_streams_are_under_way_together_up_to_the_bound,
    a_delivery_waits_for_more_as_long_as_it_may,
    other_kinds_are_sent_where_they_are_asked_for_and_nothing_else,
}
