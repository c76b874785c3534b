//! A daemon that keeps its stores, and its hooks, in MongoDB.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ledger_harness::{Receiver, Reply};
use serde_json::Value;

use crate::daemon::{Home, wait};

/// What a daemon's configuration says of a database of its own, and of a hook.
fn config(receiver: &Receiver) -> String {
    let server = ledger_harness::shared::mongodb_url();
    let name = format!("cli_{}", uuid::Uuid::new_v4().simple());
    format!(
        "db:\n  type: mongodb\n  mongodb: {{uri: \"{server}\", database: {name}}}\nhooks:\n  \
         - {{name: shop, store: orders, url: \"{}\", format: standard, secret: \
         whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw, retry_schedule: [\"50ms\", \"50ms\"]}}\n",
        receiver.url("/hook")
    )
}

fn append(home: &Home, stream: &str, payload: &str) {
    home.out(&["stream", "append", payload, "-s", "orders", "-S", stream]);
}

fn status(home: &Home) -> Value {
    let ran = home.ran(&["hook", "status", "shop", "-o", "json"]);
    serde_json::from_str(&ran.out).unwrap_or(Value::Null)
}

/// How many attempts of a stream are remembered.
fn attempts(home: &Home, stream: &str) -> usize {
    let out = home.out(&["hook", "attempts", "shop", "--stream", stream]);
    out.lines().count()
}

#[test]
fn a_hook_delivers_parks_and_goes_on_after_a_kill() {
    let failing = Arc::new(AtomicBool::new(true));
    let fails = Arc::clone(&failing);
    let receiver = Receiver::start(move |request| {
        let bad = request.text().contains("\"stream\":\"bad\"");
        Reply::Status(if bad && fails.load(Ordering::Acquire) {
            500
        } else {
            200
        })
    });
    let home = Home::started(&config(&receiver));
    append(&home, "good", "a");
    append(&home, "bad", "b");
    append(&home, "bad", "c");
    let of = |stream: &str| {
        let stream = format!("\"stream\":\"{stream}\"");
        let received = receiver.received().into_iter();
        received
            .filter(|request| request.text().contains(&stream))
            .count()
    };
    wait("the first entry", || of("good") == 1);
    wait("the parked stream", || {
        let status = status(&home);
        status["parked"] == 1 && status["dead_letters"] == 2
    });
    assert_eq!(attempts(&home, "bad"), 3);
    wait("the attempt that was taken", || {
        attempts(&home, "good") == 1
    });

    // The queue, the cursor and the attempts outlive the process.
    home.signal("KILL");
    wait("the end", || {
        home.out(&["status"]) == "ledger daemon is not running\n"
    });
    home.out(&["start"]);
    append(&home, "good", "d");
    wait("the next entry", || of("good") == 2);
    assert_eq!(attempts(&home, "bad"), 3);
    assert_eq!(status(&home)["dead_letters"], 2);
    failing.store(false, Ordering::Release);
    let before = of("bad");
    home.out(&["hook", "dead-letters", "shop", "--replay"]);
    wait("what was parked", || of("bad") > before);
    wait("nothing left", || {
        let status = status(&home);
        status["queued"] == 0 && status["dead_letters"] == 0 && status["parked"] == 0
    });
    let last = receiver.received().pop().unwrap().text();
    assert!(last.contains("\"payload\":\"c\""), "{last}");
    assert_eq!(of("good"), 2, "what was taken is not sent again");

    home.configure("");
    home.out(&["stop"]);
    wait("the end", || {
        home.out(&["status"]) == "ledger daemon is not running\n"
    });
}
