use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use ledger::bridge::hook::{BreakerState, HookFailure, HookOptions, HookState, Schedule};
use ledger_harness::{Receiver, Reply};

use crate::hooked::{Running, Source, count, in_order};

fn is_bad(request: &ledger_harness::Received) -> bool {
    request.text().contains("\"stream\":\"bad\"")
}

/// A receiver that fails, cuts, closes, redirects and hangs, one after the other, before it takes a
/// delivery: each is an attempt with its own words, all of one id.
async fn each_kind_of_failure_is_an_attempt_and_the_delivery_comes_through(source: Source) {
    let (calls, target) = (AtomicUsize::new(0), Receiver::start(|_| Reply::Status(200)));
    let elsewhere = target.url("/elsewhere");
    let receiver = Receiver::start(move |_| match calls.fetch_add(1, Ordering::AcqRel) {
        0 => Reply::With(500, Vec::new(), b"it broke".to_vec()),
        1 => Reply::Cut,
        2 => Reply::Close,
        3 => Reply::With(302, vec![("location", elsewhere.clone())], Vec::new()),
        4 => Reply::Hang,
        5 => Reply::With(429, vec![("retry-after", "1".to_owned())], Vec::new()),
        6 => Reply::Status(404),
        7 => Reply::With(200, Vec::new(), vec![b'x'; 100_000]),
        _ => Reply::Status(204),
    });
    let hook = source
        .hook(&receiver, |config, _| {
            config.timeout = Duration::from_millis(700);
        })
        .await;
    let running = Running::start(&hook);
    source.append("s", &["1"]).await;
    running
        .wait("the delivery", |stats| stats.delivered == 1)
        .await;
    let attempts = running.attempts(8).await;
    let told: Vec<_> = attempts
        .iter()
        .map(|made| (made.outcome.as_str(), made.status, made.attempt))
        .collect();
    assert_eq!(
        told,
        [
            ("failed", 500, 1),
            ("failed", 200, 2),
            ("failed", 0, 3),
            ("failed", 302, 4),
            ("failed", 0, 5),
            ("throttled", 429, 6),
            ("failed", 404, 7),
            ("delivered", 200, 8),
        ]
    );
    let words = [
        "500",
        "ended in the middle",
        "",
        "redirects are not followed",
        "no answer in",
    ];
    for (made, words) in attempts.iter().zip(words) {
        assert!(made.error.contains(words), "{made:?}");
        assert_eq!(made.id, attempts[0].id);
    }
    assert!(!attempts[2].error.is_empty());
    assert_eq!(&attempts[0].response[..], b"it broke");
    assert_eq!(attempts[7].response.len(), 1_024, "the beginning only");
    assert_eq!(target.count(), 0, "the redirect was not followed");
    let times: Vec<_> = receiver
        .received()
        .iter()
        .map(|request| request.at)
        .collect();
    assert!(times[6] - times[5] >= Duration::from_secs(1), "Retry-After");
    running.stop().await;
}

async fn a_receiver_that_is_gone_gets_nothing_until_the_hook_is_resumed(source: Source) {
    let gone = Arc::new(AtomicBool::new(true));
    let is_gone = Arc::clone(&gone);
    let receiver = Receiver::start(move |_| {
        Reply::Status(if is_gone.load(Ordering::Acquire) {
            410
        } else {
            200
        })
    });
    let hook = source.hook(&receiver, |_, _| {}).await;
    let running = Running::start(&hook);
    source.append("s", &["1"]).await;
    let stats = running
        .wait("the end", |stats| stats.state == HookState::Disabled)
        .await;
    assert!(stats.disabled.unwrap().contains("410"), "said why");
    source.append("s", &["2"]).await;
    running.stop().await;
    assert_eq!(receiver.count(), 1);

    // Over a restart too.
    let running = Running::start(&hook);
    running
        .wait("what was stored", |stats| {
            stats.state == HookState::Disabled
        })
        .await;
    gone.store(false, Ordering::Release);
    running.hook.resume().await.unwrap();
    let received = receiver.wait("both", |received| count(received) == 2);
    assert_eq!(in_order(&received), 2);
    running.stop().await;
}

async fn a_delivery_that_is_given_up_parks_its_stream_until_it_is_replayed(source: Source) {
    let failing = Arc::new(AtomicBool::new(true));
    let fails = Arc::clone(&failing);
    let receiver = Receiver::start(move |request| {
        let bad = is_bad(request) && fails.load(Ordering::Acquire);
        Reply::Status(if bad { 503 } else { 200 })
    });
    let hook = source
        .hook(&receiver, |_, options| {
            options.schedule = Schedule::new(vec![Duration::from_millis(5); 2]);
            options.batch = 1;
        })
        .await;
    let running = Running::start(&hook);
    source.append("bad", &["1"]).await;
    running
        .wait("the parking", |stats| stats.counts.parked == 1)
        .await;
    assert_eq!(receiver.count(), 3, "as many attempts as there are");
    source.append("bad", &["2", "3"]).await;
    source.append("good", &["1"]).await;
    running
        .wait("three letters", |stats| stats.counts.letters == 3)
        .await;
    receiver.wait("the good one", |received| received.len() == 4);
    let letters = hook
        .state()
        .letters(hook.pipeline(), None, 10)
        .await
        .unwrap();
    assert!(letters[0].reason.contains("503"), "{letters:?}");
    assert!(letters[1].reason.contains("behind"), "{letters:?}");
    assert!(
        letters[0].description.starts_with("append bad#"),
        "{letters:?}"
    );
    running.stop().await;

    // Parked over a restart; then replayed, in order, under the id that failed.
    let failed = receiver.received()[0].header("webhook-id").to_owned();
    failing.store(false, Ordering::Release);
    let running = Running::start(&hook);
    source.append("good", &["2"]).await;
    receiver.wait("the good one", |received| received.len() == 5);
    running.stop().await;
    assert_eq!(
        hook.state().requeue(hook.pipeline(), None).await.unwrap(),
        3
    );
    let running = Running::start(&hook);
    let received = receiver.wait("all", |received| count(received) == 5);
    assert_eq!(in_order(&received), 5);
    let again = received
        .iter()
        .skip(5)
        .find(|request| is_bad(request))
        .unwrap();
    assert_eq!(again.header("webhook-id"), failed);
    running
        .wait("no letters", |stats| stats.counts.letters == 0)
        .await;
    running.stop().await;
}

async fn letters_can_be_discarded_and_free_their_stream(source: Source) {
    let receiver = Receiver::start(|request| {
        Reply::Status(if request.text().contains("poison") {
            400
        } else {
            200
        })
    });
    let hook = source.hook(&receiver, |config, options| {
        config.permanent_errors = true;
        options.batch = 1;
    });
    let hook = hook.await;
    let running = Running::start(&hook);
    source.append("s", &["\"poison\"", "\"behind\""]).await;
    running
        .wait("the parking", |stats| stats.counts.letters == 2)
        .await;
    assert_eq!(
        receiver.count(),
        1,
        "what is refused for good is not tried again"
    );
    running.stop().await;
    let state = hook.state();
    let letters = state.letters(hook.pipeline(), None, 10).await.unwrap();
    let poison = [letters[0].cursor.clone()];
    assert_eq!(
        state.discard(hook.pipeline(), Some(&poison)).await.unwrap(),
        1
    );
    assert_eq!(state.requeue(hook.pipeline(), None).await.unwrap(), 1);
    let running = Running::start(&hook);
    receiver.wait("what was behind", |received| received.len() == 2);
    source.append("s", &["\"new\""]).await;
    receiver.wait("what is new", |received| received.len() == 3);
    running.stop().await;
}

async fn a_delivery_that_is_skipped_is_a_letter_and_its_stream_goes_on(source: Source) {
    let poisoned = Arc::new(AtomicBool::new(true));
    let is_poisoned = Arc::clone(&poisoned);
    let receiver = Receiver::start(move |request| {
        let poison = request.text().contains("poison") && is_poisoned.load(Ordering::Acquire);
        Reply::Status(if poison { 400 } else { 200 })
    });
    let hook = source
        .hook(&receiver, |config, options| {
            config.permanent_errors = true;
            options.on_failure = HookFailure::Skip;
            options.batch = 1;
        })
        .await;
    let running = Running::start(&hook);
    source.append("s", &["1", "\"poison\"", "3"]).await;
    receiver.wait("what follows", |received| received.len() == 3);
    source.append("s", &["4"]).await;
    receiver.wait("what follows", |received| received.len() == 4);
    let stats = running
        .wait("a letter", |stats| stats.counts.letters == 1)
        .await;
    assert_eq!((stats.counts.parked, stats.given_up), (0, 1));
    running.stop().await;
    poisoned.store(false, Ordering::Release);
    assert_eq!(
        hook.state().requeue(hook.pipeline(), None).await.unwrap(),
        1
    );
    let running = Running::start(&hook);
    receiver.wait("the letter", |received| received.len() == 5);
    running
        .wait("no letters", |stats| {
            stats.counts.letters == 0 && stats.counts.waiting == 0
        })
        .await;
    running.stop().await;
}

async fn a_hook_that_stops_at_a_failure_goes_on_where_it_was(source: Source) {
    let failing = Arc::new(AtomicBool::new(true));
    let fails = Arc::clone(&failing);
    let receiver = Receiver::start(move |_| {
        Reply::Status(if fails.load(Ordering::Acquire) {
            500
        } else {
            200
        })
    });
    let hook = source
        .hook(&receiver, |_, options| {
            options.on_failure = HookFailure::Stop;
            options.schedule = Schedule::new(vec![Duration::from_millis(5)]);
        })
        .await;
    let running = Running::start(&hook);
    source.append("s", &["1"]).await;
    let stats = running
        .wait("the end", |stats| stats.state == HookState::Disabled)
        .await;
    assert!(stats.disabled.unwrap().contains("500"));
    assert_eq!(stats.counts.letters, 0);
    source.append("s", &["2"]).await;
    failing.store(false, Ordering::Release);
    running.hook.resume().await.unwrap();
    let received = receiver.wait("both", |received| count(&received[2..]) == 2);
    assert_eq!(in_order(&received), 2);
    running.stop().await;
}

async fn an_endpoint_that_is_down_is_left_alone_and_everything_comes_when_it_is_back(
    source: Source,
) {
    let down = Arc::new(AtomicBool::new(true));
    let is_down = Arc::clone(&down);
    let receiver = Receiver::start(move |_| {
        Reply::Status(if is_down.load(Ordering::Acquire) {
            503
        } else {
            200
        })
    });
    let hook = source
        .hook(&receiver, |_, options| {
            // So long that only the breaker's closing brings them forward.
            options.schedule = Schedule::new(vec![Duration::from_hours(1); 9]);
        })
        .await;
    for n in 0..200 {
        source.append(&format!("s{n}"), &["1"]).await;
    }
    let running = Running::start(&hook);
    running
        .wait("the breaker", |stats| stats.breaker == BreakerState::Open)
        .await;
    let tried = receiver.count();
    assert!(tried <= 40, "{tried} attempts at a dead endpoint");
    down.store(false, Ordering::Release);
    let received = receiver.wait("everything", |received| received.len() >= tried + 200);
    assert_eq!(in_order(&received), 200);
    running
        .wait("the breaker", |stats| stats.breaker == BreakerState::Closed)
        .await;
    running.stop().await;
}

/// Nine hooks work all the time, and in every other round a tenth beside them, whose endpoint answers
/// nothing: the nine take as long with it as without.
async fn one_dead_endpoint_makes_no_other_slower(source: Source) {
    const ENTRIES: u64 = 300;
    let dead = Receiver::start(|_| Reply::Hang);
    let named = |name: String| {
        move |options: &mut HookOptions| {
            options.pipeline = ledger::PipelineId::new(name).unwrap();
        }
    };
    let (mut alive, mut receivers) = (Vec::new(), Vec::new());
    for n in 0..9 {
        let receiver = Receiver::start(|_| Reply::Status(204));
        let name = named(format!("hook:h{n}"));
        let hook = source.hook(&receiver, |_, options| name(options)).await;
        alive.push(Running::start(&hook));
        receivers.push(receiver);
    }
    let (mut without, mut with) = (Vec::new(), Vec::new());
    for round in 0..4 {
        let beside = if round % 2 == 1 {
            let name = named(format!("hook:dead{round}"));
            let hook = source.hook(&dead, |config, options| {
                name(options);
                options.drain = Duration::ZERO;
                config.timeout = Duration::from_mins(10);
            });
            let beside = Running::start(&hook.await);
            let before = dead.count();
            dead.wait("the dead one's requests", |received| {
                received.len() >= before + usize::from(round > 0)
            });
            Some(beside)
        } else {
            None
        };
        let begun = Instant::now();
        for n in 0..ENTRIES {
            source
                .append(&format!("s{}", n % 20), &[&n.to_string()])
                .await;
        }
        for one in &alive {
            one.wait("everything", |stats| {
                stats.delivered == (round + 1) * ENTRIES
            })
            .await;
        }
        let took = begun.elapsed();
        match beside {
            Some(beside) => {
                with.push(took);
                beside.stop().await;
            }
            None => without.push(took),
        }
    }
    for receiver in &receivers {
        assert_eq!(in_order(&receiver.received()), 1_200);
    }
    let best = |times: &[Duration]| times.iter().min().copied().unwrap();
    println!(
        "nine endpoints, {ENTRIES} entries each: {:?} with a dead one beside them ({with:?}), {:?} \
         without ({without:?})",
        best(&with),
        best(&without)
    );
    // Far less than any wait for the dead one would take.
    let most = best(&without) * 2 + Duration::from_millis(500);
    assert!(best(&with) < most, "they waited for the dead one");
    drop(dead);
    for one in alive {
        one.stop().await;
    }
}

crate::hooked::on_each_database! {
    each_kind_of_failure_is_an_attempt_and_the_delivery_comes_through,
    a_receiver_that_is_gone_gets_nothing_until_the_hook_is_resumed,
    a_delivery_that_is_given_up_parks_its_stream_until_it_is_replayed,
    letters_can_be_discarded_and_free_their_stream,
    a_delivery_that_is_skipped_is_a_letter_and_its_stream_goes_on,
    a_hook_that_stops_at_a_failure_goes_on_where_it_was,
    an_endpoint_that_is_down_is_left_alone_and_everything_comes_when_it_is_back,
    one_dead_endpoint_makes_no_other_slower,
}
