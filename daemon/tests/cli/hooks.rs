//! Webhooks of the daemon's configuration.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use ledger_harness::{Received, Receiver, Reply};
use serde_json::Value;
use sqlx::Connection as _;

use crate::daemon::{Home, wait};
use crate::program::{done, program, ran};

/// A shared secret of the standard's form.
const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

fn hook(name: &str, url: &str, more: &str) -> String {
    format!("  - {{name: {name}, store: orders, url: \"{url}\"{more}}}\n")
}

fn standard(name: &str, receiver: &Receiver, more: &str) -> String {
    let more = format!(", format: standard, secret: {SECRET}{more}");
    hook(name, &receiver.url("/hook"), &more)
}

/// What the daemon tells of a hook.
fn status(home: &Home, name: &str) -> Value {
    let ran = home.ran(&["hook", "status", name, "-o", "json"]);
    serde_json::from_str(&ran.out).unwrap_or(Value::Null)
}

fn append(home: &Home, stream: &str, payload: &str) {
    home.out(&["stream", "append", payload, "-s", "orders", "-S", stream]);
}

/// The entries that came, as `stream/id`, in the order in which they came; a delivery that came again
/// under its id counts once.
fn entries(received: &[Received]) -> Vec<(String, u64)> {
    let mut seen = BTreeSet::new();
    let mut entries = Vec::new();
    for request in received {
        let id = request.header("webhook-id");
        if !id.is_empty() && !seen.insert(id.to_owned()) {
            continue;
        }
        let body: Value = serde_json::from_slice(&request.body).unwrap();
        let data = body.get("data").unwrap_or(&body);
        for entry in data["entries"].as_array().unwrap() {
            let id = entry["id"].as_str().unwrap().parse().unwrap();
            entries.push((data["stream"].as_str().unwrap().to_owned(), id));
        }
    }
    entries
}

#[test]
fn a_hook_of_before_keeps_its_body_and_its_signature() {
    let receiver = Receiver::start(|_| Reply::Status(200));
    let home = Home::new("");
    let more = ", stream: \"user-*\", secret: hunter2, max_retries: 5, interval: \"5s\"";
    home.configure(&format!(
        "hooks:\n{}",
        hook("audit", &receiver.url("/h"), more)
    ));
    home.out(&["start"]);
    append(&home, "user-1", "a");
    append(&home, "other", "b");
    append(&home, "user-2", "c");
    let received = receiver.wait("both", |received| entries(received).len() == 2);
    for request in &received {
        let signature = request.header("x-ledger-signature");
        let verified = home.fed(
            &[
                "hook",
                "verify-signature",
                "audit",
                "--signature",
                signature,
                "-o",
                "table",
            ],
            &request.text(),
        );
        assert_eq!(
            (verified.code, verified.out.as_str()),
            (Some(0), "valid\n"),
            "{verified:#?}"
        );
        let altered = home.fed(
            &[
                "hook",
                "verify-signature",
                "audit",
                "--signature",
                signature,
            ],
            &format!("{} ", request.text()),
        );
        assert_eq!(altered.code, Some(1), "{altered:#?}");
    }
    let streams: BTreeSet<_> = entries(&received)
        .into_iter()
        .map(|(stream, _)| stream)
        .collect();
    assert_eq!(
        streams,
        BTreeSet::from(["user-1".to_owned(), "user-2".to_owned()])
    );
    let shown = home.out(&["config", "show"]);
    assert!(!shown.contains("hunter2") && !home.log().contains("hunter2"));
    let rotate = home.ran(&["hook", "rotate-secret", "audit"]);
    assert!(rotate.err.contains("format standard"), "{rotate:#?}");
}

#[test]
#[allow(clippy::too_many_lines, reason = "one hook through all verbs")]
fn a_hook_can_be_looked_after() {
    let receiver = Receiver::start(|_| Reply::With(200, Vec::new(), b"thanks".to_vec()));
    let home = Home::new("");
    home.configure(&format!("hooks:\n{}", standard("shop", &receiver, "")));
    home.out(&["start"]);
    append(&home, "one", "a");
    receiver.wait("the entry", |received| received.len() == 1);
    wait("the status", || status(&home, "shop")["delivered"] == 1);
    let list: Value = serde_json::from_str(&home.out(&["hook", "list"])).unwrap();
    assert_eq!(
        (
            &list["name"],
            &list["store"],
            &list["breaker"],
            &list["url"]
        ),
        (
            &"shop".into(),
            &"orders".into(),
            &"closed".into(),
            &receiver.url("").into()
        )
    );
    assert!(
        home.out(&["hook", "list", "-o", "table"])
            .starts_with("NAME")
    );
    let (code, body) = home.http("/readyz");
    assert!(
        code == 200 && body.contains("\"hook\"") && body.contains("shop"),
        "{body}"
    );
    let (_, metrics) = home.http("/metrics");
    assert!(
        metrics.contains("ledger_hook_up{hook_name=\"shop\"} 1\n"),
        "{metrics}"
    );
    let (code, body) = home.http("/v1/hooks/shop");
    assert!(
        code == 200 && body.contains("\"STATE_FOLLOWING\""),
        "{body}"
    );

    let tested = home.out(&["hook", "test", "shop", "-o", "table"]);
    assert!(tested.starts_with("delivered: status 200 in "), "{tested}");
    assert!(tested.ends_with("thanks\n"), "{tested}");
    let last = receiver.received().pop().unwrap();
    assert!(last.text().contains("{\"test\":true}"), "{}", last.text());
    wait("both attempts", || {
        home.out(&["hook", "attempts", "shop"]).lines().count() == 2
    });
    let attempts = home.out(&[
        "hook",
        "attempts",
        "shop",
        "--stream",
        "one",
        "--status",
        "delivered",
    ]);
    let attempt: Value = serde_json::from_str(attempts.trim()).unwrap();
    assert_eq!(
        (&attempt["status"], &attempt["response"]),
        (&200.into(), &"thanks".into())
    );
    assert!(
        home.out(&["hook", "attempts", "shop", "-o", "table"])
            .contains("thanks")
    );
    let (_, body) = home.http("/v1/hooks/shop/attempts?limit=1");
    assert!(body.contains("\"outcome\":\"delivered\""), "{body}");

    home.out(&["hook", "pause", "shop"]);
    wait("the pause", || status(&home, "shop")["state"] == "paused");
    append(&home, "one", "b");
    home.out(&["stop"]);
    home.out(&["start"]);
    wait("the pause over a restart", || {
        status(&home, "shop")["state"] == "paused"
    });
    assert_eq!(receiver.count(), 2);
    home.out(&["hook", "resume", "shop"]);
    receiver.wait("what was appended meanwhile", |received| {
        received.len() == 3
    });

    wait("the third attempt", || {
        home.out(&["hook", "attempts", "shop"]).lines().count() == 3
    });
    let told = home.out(&[
        "hook",
        "replay",
        "shop",
        "--since",
        "1h",
        "--dry-run",
        "-o",
        "table",
    ]);
    assert_eq!(
        told,
        "would send 1 deliveries with 2 entries of 1 streams\n"
    );
    assert_eq!(receiver.count(), 3);
    let told = home.out(&[
        "hook",
        "replay",
        "shop",
        "-S",
        "one",
        "--status",
        "delivered",
        "-o",
        "table",
    ]);
    assert_eq!(
        told,
        "sent 2 deliveries with 2 entries of 1 streams: 2 taken, 0 not\n"
    );
    assert_eq!(receiver.count(), 5);
    assert_eq!(home.out(&["hook", "dead-letters", "shop"]), "");
    for verb in [
        "status",
        "test",
        "attempts",
        "pause",
        "resume",
        "replay",
        "dead-letters",
        "rotate-secret",
    ] {
        let unknown = home.ran(&["hook", verb, "nobody"]);
        assert_eq!(unknown.code, Some(5), "{verb}: {unknown:#?}");
        assert!(unknown.err.contains("nobody"), "{unknown:#?}");
    }
}

#[test]
fn a_secret_is_rotated_over_restarts_and_shown_once() {
    let receiver = Receiver::start(|_| Reply::Status(200));
    let home = Home::new("");
    home.configure(&format!("hooks:\n{}", standard("shop", &receiver, "")));
    home.out(&["start"]);
    append(&home, "one", "a");
    receiver.wait("the first", |received| received.len() == 1);
    let new = home.out(&["hook", "rotate-secret", "shop", "-o", "table"]);
    let new = new.trim();
    assert!(new.starts_with("whsec_"), "{new}");
    home.out(&["stop"]);
    // The database tells it to nobody who has not the configuration.
    let text = new.trim_start_matches("whsec_").as_bytes();
    let holds = |file: &str| {
        let bytes = std::fs::read(home.path(file)).unwrap();
        bytes.windows(text.len()).any(|part| part == text)
    };
    assert!(
        !holds(".ledger/ledger.db"),
        "the secret stands in the database"
    );
    home.out(&["start"]);
    append(&home, "one", "b");
    let both = receiver
        .wait("the second", |received| received.len() == 2)
        .pop()
        .unwrap();
    let verify = |request: &Received, secret: &str| {
        let [id, timestamp, signature] = ["id", "timestamp", "signature"]
            .map(|name| request.header(&format!("webhook-{name}")).to_owned());
        let file = home.path("body");
        std::fs::write(&file, &request.body).unwrap();
        let mut command = program(&["hook", "verify-signature", "--id", &id]);
        command.args([
            "--timestamp",
            &timestamp,
            "--signature",
            &signature,
            "--body",
        ]);
        ran(command.arg(file).env("LEDGER_WEBHOOK_SECRET", secret)).code == Some(0)
    };
    assert!(verify(&both, new) && verify(&both, SECRET), "{both:?}");
    let public = home.out(&[
        "hook",
        "rotate-secret",
        "shop",
        "--ed25519",
        "--overlap",
        "0s",
        "-o",
        "table",
    ]);
    let public = public.trim();
    assert!(public.starts_with("whpk_"), "{public}");
    append(&home, "one", "c");
    let last = receiver
        .wait("the third", |received| received.len() == 3)
        .pop()
        .unwrap();
    assert!(
        verify(&last, public) && !verify(&last, new) && !verify(&last, SECRET),
        "{last:?}"
    );
    let told = [
        home.log(),
        home.out(&["config", "show"]),
        home.out(&["hook", "list"]),
    ]
    .concat();
    for secret in [new, SECRET] {
        assert!(
            !told.contains(secret.trim_start_matches("whsec_")),
            "{told}"
        );
    }
}

#[test]
fn a_reload_keeps_cursors_by_name_and_a_changed_store_asks() {
    let [first, second] = [(); 2].map(|()| Receiver::start(|_| Reply::Status(200)));
    let home = Home::new("");
    home.configure(&format!("hooks:\n{}", standard("shop", &first, "")));
    home.out(&["start"]);
    append(&home, "one", "a");
    first.wait("the first", |received| received.len() == 1);
    wait("the cursor", || status(&home, "shop")["lag_entries"] == 0);

    // Another URL, and a second hook: what was sent is not sent again by the first.
    home.configure(&format!(
        "hooks:\n{}{}",
        standard("shop", &second, ""),
        standard("other", &first, "")
    ));
    home.out(&["reload"]);
    first.wait("the second hook begins at the start", |received| {
        received.len() == 2
    });
    append(&home, "one", "b");
    let received = second.wait("what follows", |received| !received.is_empty());
    assert_eq!(entries(&received).len(), 1, "{received:?}");
    first.wait("the second hook", |received| received.len() == 3);

    // Another store.
    let config = format!("hooks:\n{}", standard("shop", &second, ""));
    home.configure(&config.replace("store: orders", "store: users"));
    home.out(&["stream", "append", "x", "-s", "users"]);
    home.out(&["reload"]);
    wait("the refusal", || {
        status(&home, "shop")["state"] == "stopped"
    });
    let error = status(&home, "shop")["last_error"].to_string();
    for words in ["orders", "users", "--restart"] {
        assert!(error.contains(words), "{error}");
    }
    let (code, _) = home.http("/readyz");
    assert_eq!(code, 503);
    let before = second.count();
    home.out(&["hook", "resume", "shop", "--restart"]);
    let received = second.wait("the other store", |received| received.len() > before);
    assert!(
        received[before].text().contains("\"users\""),
        "{received:?}"
    );
}

#[test]
fn what_is_taken_out_of_the_configuration_keeps_its_place_until_it_is_removed() {
    let receiver = Receiver::start(|_| Reply::Status(200));
    let home = Home::new("");
    let replica = home.path("replica.db");
    let config = format!(
        "hooks:\n{}bridges:\n  - {{name: copy, store: orders, to: \"sqlite:{}\"}}\n",
        standard("shop", &receiver, ""),
        replica.display()
    );
    home.configure(&config);
    home.out(&["start"]);
    append(&home, "one", "a");
    receiver.wait("the entry", |received| received.len() == 1);
    wait("the bridge", || {
        let ran = home.ran(&["bridge", "status", "copy", "-o", "json"]);
        let status: Value = serde_json::from_str(&ran.out).unwrap_or(Value::Null);
        // The stream's state too, where the bridge met the entry in its copy.
        status["delivered"].as_u64() >= Some(1) && status["lag_entries"] == 0
    });
    let configured = home.ran(&["hook", "remove", "shop"]);
    assert_ne!(configured.code, Some(0), "{configured:#?}");
    assert!(configured.err.contains("reload"), "{configured:#?}");
    let of_a_hook = home.ran(&["bridge", "remove", "hook:shop", "--yes"]);
    assert!(of_a_hook.err.contains("hook remove"), "{of_a_hook:#?}");

    home.configure("");
    home.out(&["reload"]);
    wait("the end", || home.out(&["hook", "list"]).is_empty());
    for words in ["ledger hook remove shop", "ledger bridge remove copy"] {
        wait("the hint", || home.log().contains(words));
    }
    let consumers = |home: &Home| {
        let path = home.path(".ledger/ledger.db");
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(async {
            let url = format!("sqlite:{}", path.display());
            let mut connection = sqlx::SqliteConnection::connect(&url).await.unwrap();
            let names = "SELECT pipeline FROM ledger_consumers ORDER BY pipeline";
            let names = sqlx::query_scalar::<_, String>(names);
            names.fetch_all(&mut connection).await.unwrap()
        })
    };
    assert_eq!(consumers(&home), ["copy", "hook:shop"]);
    assert_eq!(
        home.out(&["hook", "remove", "shop", "-o", "table"]),
        "hook shop is forgotten\n"
    );
    home.out(&["bridge", "remove", "copy", "--yes"]);
    assert!(consumers(&home).is_empty(), "nothing holds the log back");
    for unknown in [
        home.ran(&["hook", "remove", "shop"]),
        home.ran(&["bridge", "remove", "copy", "--yes"]),
    ] {
        assert_eq!(unknown.code, Some(5), "{unknown:#?}");
    }
    // As one that never was, it begins at the start of every stream.
    home.configure(&config);
    home.out(&["reload"]);
    receiver.wait("the entry again", |received| received.len() == 2);
}

#[test]
fn an_address_that_must_not_be_is_refused_at_load_or_as_an_attempt() {
    let home = Home::new("");
    for (url, words) in [
        ("http://169.254.169.254/latest/meta-data", "metadata"),
        ("http://[fe80::1]/", "link-local"),
        ("http://[::ffff:169.254.169.254]/", "metadata"),
        ("http://2852039166/", "unusual form"),
        ("http://metadata.google.internal/", "metadata"),
    ] {
        home.configure(&format!("hooks:\n{}", hook("audit", url, "")));
        let check = home.ran(&["config", "check"]);
        assert_eq!(check.code, Some(1), "{url}: {check:#?}");
        assert!(
            check.err.contains(words) && check.err.contains("hooks[0].url"),
            "{check:#?}"
        );
    }
    // A name of this machine itself, as /etc/hosts and DNS have it.
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    let receiver = Receiver::start(|_| Reply::Status(200));
    let url = format!("http://{}:{}/", name.trim(), receiver.address().port());
    home.configure(&format!("hooks:\n{}", hook("audit", &url, "")));
    home.out(&["start"]);
    // The hook may not have begun yet.
    wait("the test", || {
        home.ran(&["hook", "test", "audit"]).code == Some(1)
    });
    wait("the attempt", || {
        !home.out(&["hook", "attempts", "audit"]).is_empty()
    });
    let attempt = home.out(&["hook", "attempts", "audit"]);
    assert!(
        attempt.contains("allow_networks") || attempt.contains("dns"),
        "{attempt}"
    );
    assert_eq!(receiver.connections(), 0);
}

#[test]
fn what_is_wrong_with_a_hook_is_told_with_key_and_line() {
    for (keys, words) in [
        ("format: xml", &["hooks[0].format", "cloudevents"][..]),
        (
            "format: standard, secret: hunter2",
            &["hooks[0].secret", "whsec_"],
        ),
        (
            "secrets: [a, b]",
            &["hooks[0].secrets[1]", "format compat has one"],
        ),
        (
            "secret: a, secrets: [b]",
            &["hooks[0].secret", "put it there"],
        ),
        ("kinds: [trim]", &["hooks[0].kinds[0]", "format compat"]),
        (
            "format: standard, kinds: [x]",
            &["hooks[0].kinds[0]", "must be one of"],
        ),
        (
            "filter: {tag: x}",
            &["hooks[0].filter.tag", "not a known key"],
        ),
        (
            "headers: {host: x}",
            &["hooks[0].headers.host", "set by the delivery"],
        ),
        (
            "headers: {\"a b\": x}",
            &["hooks[0].headers.a b", "header's name"],
        ),
        ("batch: {max: 501}", &["hooks[0].batch.max", "1 to 500"]),
        ("batch: {wait: x}", &["hooks[0].batch.wait", "duration"]),
        ("timeout: 5", &["hooks[0].timeout", "duration"]),
        ("concurrency: 0", &["hooks[0].concurrency", "1 to 1000"]),
        ("rate_limit: -1", &["hooks[0].rate_limit", "above 0"]),
        (
            "retry_schedule: [5s, x]",
            &["hooks[0].retry_schedule[1]", "duration"],
        ),
        ("on_failure: park", &["hooks[0].on_failure", "park-stream"]),
        (
            "allow_networks: [10.0.0.0/99]",
            &["hooks[0].allow_networks[0]", "10.0.0.0/8"],
        ),
        ("stream: \"[\"", &["hooks[0].stream", "pattern"]),
        (
            "ca: x, insecure_skip_verify: true",
            &["hooks[0].ca", "insecure_skip_verify"],
        ),
    ] {
        let home = Home::new("");
        home.configure(&format!(
            "hooks:\n{}",
            hook("a", "https://h/", &format!(", {keys}"))
        ));
        let check = home.ran(&["config", "check"]);
        assert_eq!(check.code, Some(1), "{keys}: {check:#?}");
        for word in words.iter().chain(&["line 4"]) {
            assert!(check.err.contains(word), "{keys}: {word}: {check:#?}");
        }
        assert!(!check.err.contains("hunter2"), "{check:#?}");
    }
    let home = Home::new("");
    let keys = "format: cloudevents, secrets: [whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw], \
                kinds: [append, trim], filter: {tags: [a], metadata: {region: eu}, order_key: k}, \
                headers: {x-team: billing}, batch: {max: 10, wait: 50ms}, timeout: 3s, \
                concurrency: 2, rate_limit: 0.5, retry_schedule: [\"5s\", \"5m\"], \
                on_failure: skip, allow_networks: [\"127.0.0.0/8\", \"fd00::/8\"]";
    home.configure(&format!(
        "hooks:\n{}",
        hook("a", "https://h/", &format!(", {keys}"))
    ));
    done(&mut home.ledger(&["config", "check"]));
    let shown = home.out(&["config", "show"]);
    for words in [
        "cloudevents",
        "\"5m\"",
        "127.0.0.0/8",
        "x-team",
        "on_failure: skip",
        "max: 10",
    ] {
        assert!(shown.contains(words), "{words}: {shown}");
    }
    assert!(
        !shown.contains("billing") && !shown.contains("MfKQ9r8"),
        "{shown}"
    );
}

/// A small generator: the same seed gives the same choices.
fn chance(state: &AtomicU64, bound: u64) -> u64 {
    let next = |old: u64| {
        Some(
            old.wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407),
        )
    };
    let old = state
        .fetch_update(Ordering::AcqRel, Ordering::Acquire, next)
        .unwrap();
    (old >> 33) % bound
}

fn size(name: &str, default: usize) -> usize {
    let given = std::env::var(name).ok();
    given.and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// How often the daemon is killed.
const KILLS: usize = 10;

/// The whole promise at once: a receiver that fails a fifth of all requests, a daemon that is killed
/// again and again. `LEDGER_TEST_HOOK_ENTRIES` and `LEDGER_TEST_HOOK_STREAMS` set the sizes.
#[test]
fn every_entry_comes_in_order_however_often_the_daemon_is_killed() {
    let (count, streams) = (
        size("LEDGER_TEST_HOOK_ENTRIES", 4_000),
        size("LEDGER_TEST_HOOK_STREAMS", 100),
    );
    let seed = AtomicU64::new(42);
    let calm = Arc::new(AtomicBool::new(false));
    let is_calm = Arc::clone(&calm);
    let receiver = Receiver::start(move |_| {
        let fails = !is_calm.load(Ordering::Acquire) && chance(&seed, 5) == 0;
        Reply::Status(if fails { 503 } else { 204 })
    });
    let home = Home::new("");
    let more = ", retry_schedule: [\"20ms\", \"50ms\", \"100ms\", \"200ms\", \"400ms\", \"1s\", \"1s\", \"1s\", \"1s\", \"1s\", \"1s\", \"1s\", \"1s\", \"1s\", \"1s\", \"1s\", \"1s\"], batch: {max: 20}";
    home.configure(&format!("hooks:\n{}", standard("shop", &receiver, more)));
    home.out(&["start"]);
    let lines: Vec<String> = (0..count)
        .map(|n| format!("{{\"stream\":\"s{}\",\"n\":{n}}}", n % streams))
        .collect();
    for part in lines.chunks(count.div_ceil(KILLS)) {
        let before = receiver.count();
        let loaded = home.fed(
            &[
                "stream",
                "append",
                "-s",
                "orders",
                "--stream-field",
                "stream",
            ],
            &(part.join("\n") + "\n"),
        );
        assert_eq!(loaded.code, Some(0), "{loaded:#?}");
        // A request holds 20 entries at most, so a part has twice as many and more.
        receiver.wait("half of the part", |received| {
            received.len() > before + count / KILLS / 40
        });
        home.signal("KILL");
        wait("the end", || {
            home.out(&["status"]) == "ledger daemon is not running\n"
        });
        home.out(&["start"]);
        println!("killed after {} requests", receiver.count());
    }
    // Looked at now and then: each look reads all that came.
    let begun = std::time::Instant::now();
    let received = loop {
        let received = receiver.received();
        if entries(&received).len() >= count {
            break received;
        }
        assert!(
            begun.elapsed() < Duration::from_mins(5),
            "{} entries of {count} came",
            entries(&received).len()
        );
        std::thread::sleep(Duration::from_millis(200));
    };
    calm.store(true, Ordering::Release);
    wait("nothing left", || {
        let status = status(&home, "shop");
        status["lag_entries"] == 0 && status["queued"] == 0 && status["dead_letters"] == 0
    });
    let mut by_stream: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    for (stream, id) in entries(&receiver.received()) {
        by_stream.entry(stream).or_default().push(id);
    }
    assert_eq!(by_stream.len(), streams);
    let mut total = 0;
    for (stream, ids) in &by_stream {
        total += ids.len();
        if !ids.windows(2).all(|pair| pair[0] < pair[1]) {
            let requests = receiver.received();
            let of_stream = requests.iter().enumerate().filter_map(|(number, request)| {
                let of = entries(std::slice::from_ref(request));
                let (first, last) = (of.first()?, of.last()?);
                (first.0 == *stream).then(|| {
                    let id = request.header("webhook-id");
                    format!(
                        "request {number}: {id} with {}-{} ({})",
                        first.1,
                        last.1,
                        of.len()
                    )
                })
            });
            let told: Vec<_> = of_stream.collect();
            panic!("{stream} is not in order:\n{}", told.join("\n"));
        }
    }
    assert_eq!(total, count, "each entry under one id only");
    let requests = receiver.count();
    println!(
        "{count} entries over {streams} streams, {KILLS} kills: {} requests seen at the last entry, \
         {requests} in all, every entry once, each stream in order",
        received.len()
    );
}
