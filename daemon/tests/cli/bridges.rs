//! Bridges of the daemon's configuration.

use serde_json::Value;

use crate::daemon::{Home, wait};
use crate::program::ran;

fn bridge(name: &str, to: &str) -> String {
    format!("  - {{name: {name}, store: orders, to: \"{to}\"}}\n")
}

/// What the daemon tells of a bridge.
fn status(home: &Home, name: &str) -> Value {
    let ran = home.ran(&["bridge", "status", name, "-o", "json"]);
    serde_json::from_str(&ran.out).unwrap_or(Value::Null)
}

fn wait_until_carried(home: &Home, name: &str, delivered: u64) {
    wait(&format!("{name} to carry {delivered}"), || {
        let status = status(home, name);
        status["delivered"].as_u64() >= Some(delivered)
            && status["lag_entries"] == 0
            && status["state"] == "following"
    });
}

#[test]
fn a_bridge_carries_what_is_appended_and_can_be_looked_after() {
    let home = Home::new("");
    home.configure(&format!(
        "bridges:\n{}",
        bridge("copy", &home.url("replica.db"))
    ));
    home.out(&["start"]);
    home.out(&["stream", "append", "a", "-s", "orders", "-S", "one"]);
    home.out(&["stream", "append", "b", "-s", "orders", "-S", "two"]);
    wait_until_carried(&home, "copy", 2);
    let list: Value = serde_json::from_str(&home.out(&["bridge", "list"])).unwrap();
    assert_eq!(
        (&list["name"], &list["store"], &list["state"]),
        (&"copy".into(), &"orders".into(), &"following".into())
    );
    let table = home.out(&["bridge", "list", "-o", "table"]);
    assert!(
        table.starts_with("NAME") && table.contains("following"),
        "{table}"
    );
    let verify = home.out(&["bridge", "verify", "copy", "-o", "table"]);
    assert!(
        verify.starts_with("equal: 2 entries in 2 streams"),
        "{verify}"
    );
    let (code, body) = home.http("/readyz");
    assert_eq!(code, 200, "{body}");
    assert!(body.contains("copy") && body.contains("lag"), "{body}");
    let (_, metrics) = home.http("/metrics");
    assert!(
        metrics.contains("ledger_bridge_up{bridge_name=\"copy\"} 1\n"),
        "{metrics}"
    );
    assert!(
        metrics.contains("ledger_store_up{store=\"orders\"} 1\n"),
        "{metrics}"
    );

    home.out(&["bridge", "pause", "copy"]);
    wait("the pause", || status(&home, "copy")["state"] == "paused");
    home.out(&["stream", "append", "c", "-s", "orders", "-S", "one"]);
    // Over a restart too.
    home.out(&["stop"]);
    home.out(&["start"]);
    wait("the pause", || status(&home, "copy")["state"] == "paused");
    home.out(&["bridge", "resume", "copy"]);
    wait("what was appended meanwhile", || {
        home.out(&["bridge", "verify", "copy", "-o", "table"])
            .starts_with("equal: 3 entries")
    });

    let unsure = home.ran(&["bridge", "resync", "copy"]);
    assert_eq!(unsure.code, Some(2), "{unsure:#?}");
    home.out(&["bridge", "resync", "copy", "--yes"]);
    wait("the copy", || {
        let ran = home.ran(&["bridge", "verify", "copy", "-o", "table"]);
        ran.out.starts_with("equal: 3 entries")
    });
    assert_eq!(home.out(&["bridge", "dead-letters", "copy"]), "");
    let replay = home.out(&["bridge", "replay", "copy", "-o", "table"]);
    assert_eq!(replay, "0 dead letters delivered, 0 left\n");
    for verb in ["status", "pause", "resume", "replay", "dead-letters"] {
        let unknown = home.ran(&["bridge", verb, "nobody"]);
        assert_eq!(unknown.code, Some(5), "{verb}: {unknown:#?}");
        assert!(unknown.err.contains("nobody"), "{unknown:#?}");
    }
}

#[test]
fn a_bridge_that_is_removed_gives_its_source_back() {
    let home = Home::new("");
    let to = home.url("replica.db");
    home.configure(&format!("bridges:\n{}", bridge("copy", &to)));
    home.out(&["start"]);
    home.out(&["stream", "append", "a", "-s", "orders", "-S", "one"]);
    wait_until_carried(&home, "copy", 1);
    let unsure = home.ran(&["bridge", "remove", "copy"]);
    assert_eq!(unsure.code, Some(2), "{unsure:#?}");
    let from = home.url(".ledger/ledger.db");
    let ends = [
        "--from", &from, "--to", &to, "--store", "orders", "--name", "copy",
    ];
    let by_hand = || home.ran(&[&["bridge", "remove", "--yes"][..], &ends].concat());
    // The daemon's bridge works.
    let refused = by_hand();
    assert_eq!(refused.code, Some(6), "{refused:#?}");
    assert!(refused.err.contains("is running"), "{refused:#?}");
    home.out(&["bridge", "remove", "copy", "--yes"]);
    let told = status(&home, "copy");
    assert_eq!(told["state"], "stopped", "{told}");
    assert!(
        told["last_error"].as_str().unwrap().contains("removed"),
        "{told}"
    );
    // Nothing is registered any more; what was carried stays.
    let unknown = by_hand();
    assert_eq!(unknown.code, Some(5), "{unknown:#?}");
}

#[test]
fn a_reload_changes_what_changed_and_a_bad_one_nothing() {
    let home = Home::new("");
    let config = |names: &[&str]| {
        let bridges: String = names
            .iter()
            .map(|name| bridge(name, &home.url(&format!("{name}.db"))))
            .collect();
        format!("bridges:\n{bridges}")
    };
    home.configure(&config(&["stays", "goes"]));
    home.out(&["start"]);
    home.out(&["stream", "append", "a", "-s", "orders"]);
    wait_until_carried(&home, "stays", 1);
    wait_until_carried(&home, "goes", 1);

    home.configure(&format!("{}frob: 1", config(&["stays"])));
    let refused = home.ran(&["reload"]);
    assert_eq!(refused.code, Some(1), "{refused:#?}");
    assert!(refused.err.contains("frob"), "{refused:#?}");
    // The signal by itself.
    home.signal("HUP");
    home.wait_for_log("the new configuration is refused; the old one stays");
    assert!(
        home.log().contains("frob: is not a known key"),
        "{}",
        home.log()
    );
    home.configure(&config(&["stays", "goes"]));
    assert_eq!(
        home.out(&["bridge", "list"]).lines().count(),
        2,
        "the old one stays"
    );

    home.configure(&config(&["stays", "comes"]));
    let delivered = status(&home, "stays")["delivered"].clone();
    let sent = home.out(&["reload"]);
    assert_eq!(
        sent,
        format!(
            "sent SIGHUP to ledger daemon (pid {})\n",
            home.pid().unwrap()
        )
    );
    home.wait_for_log("the configuration was read again");
    let line = home.log();
    let line = line
        .lines()
        .find(|line| line.contains("was read again"))
        .unwrap();
    let line: Value = serde_json::from_str(line).unwrap();
    assert_eq!(
        (&line["started"], &line["stopped"], &line["changed"]),
        (&"comes".into(), &"goes".into(), &"".into())
    );
    wait_until_carried(&home, "comes", 1);
    assert_eq!(
        status(&home, "stays")["delivered"],
        delivered,
        "it was not disturbed"
    );
    home.out(&["stream", "append", "b", "-s", "orders"]);
    wait_until_carried(&home, "stays", 2);
    home.out(&["bridge", "verify", "comes"]);
}

#[test]
fn a_bridge_that_fails_harms_nobody_else() {
    let home = Home::new("");
    home.configure(&format!(
        "bridges:\n{}{}",
        bridge("down", "postgres://u:hunter2@127.0.0.1:1/d"),
        bridge("good", &home.url("replica.db"))
    ));
    // Not ready since a bridge makes no progress is not the same as not started.
    home.out(&["start"]);
    home.out(&["stream", "append", "a", "-s", "orders"]);
    wait_until_carried(&home, "good", 1);
    wait("the error", || status(&home, "down")["last_error"] != "");
    let down = status(&home, "down");
    assert_eq!(
        (&down["state"], &down["ready"]),
        (&"waiting".into(), &false.into()),
        "{down}"
    );
    let (code, body) = home.http("/readyz");
    assert_eq!(code, 503, "{body}");
    assert!(body.contains("down") && !body.contains("hunter2"), "{body}");
    assert!(!home.log().contains("hunter2"));
    home.out(&["bridge", "pause", "down"]);
    home.out(&["bridge", "resume", "down"]);
    home.out(&["stop"]);
}

#[test]
fn the_lag_of_a_bridge_that_carries_nothing_is_told() {
    let home = Home::new("");
    home.configure(&format!(
        "bridges:\n{}{}",
        bridge("paused", &home.url("replica.db")),
        bridge("down", "postgres://u:p@127.0.0.1:1/d")
    ));
    home.out(&["start"]);
    home.out(&["stream", "append", "a", "-s", "orders"]);
    wait_until_carried(&home, "paused", 1);
    home.out(&["bridge", "pause", "paused"]);
    wait("the pause", || status(&home, "paused")["state"] == "paused");
    for payload in ["b", "c", "d"] {
        home.out(&["stream", "append", payload, "-s", "orders"]);
    }
    wait("the lag of the one that is paused", || {
        let status = status(&home, "paused");
        status["lag_entries"] == 3 && status["lag_seconds"].as_f64() > Some(0.0)
    });
    // It has carried nothing yet.
    wait("the lag of the one without a sink", || {
        status(&home, "down")["lag_entries"] == 4
    });
    let (_, metrics) = home.http("/metrics");
    assert!(
        metrics.contains("ledger_bridge_lag_entries{bridge_name=\"paused\"} 3\n"),
        "{metrics}"
    );
    home.out(&["bridge", "resume", "paused"]);
    wait("the rest to be carried", || {
        let status = status(&home, "paused");
        status["state"] == "following" && status["lag_entries"] == 0
    });
}

#[test]
fn a_reload_takes_variables_that_only_the_daemon_has() {
    let home = Home::new("");
    let variable = "LEDGER_TEST_ONLY_THE_DAEMONS";
    let config = |name: &str| format!("bridges:\n{}", bridge(name, &format!("${{{variable}}}")));
    home.configure(&config("first"));
    let with_variable = |arguments: &[&str]| {
        let mut command = home.ledger(arguments);
        ran(command.env(variable, home.url("replica.db"))).code
    };
    assert_eq!(with_variable(&["start"]), Some(0));
    home.configure(&config("second"));
    let reloaded = home.ran(&["reload"]);
    assert_eq!(reloaded.code, Some(0), "{reloaded:#?}");
    assert!(reloaded.err.contains(variable), "{reloaded:#?}");
    home.wait_for_log("the configuration was read again");
    assert_eq!(with_variable(&["bridge", "status", "second"]), Some(0));
    assert_eq!(with_variable(&["bridge", "status", "first"]), Some(5));
    // What is wrong beside it the daemon refuses.
    home.configure(&format!("{}frob: 1", config("third")));
    assert_eq!(home.ran(&["reload"]).code, Some(0));
    home.wait_for_log("the new configuration is refused; the old one stays");
    // The client reads the same file, to know where the daemon is, and needs no more of it.
    home.configure(&config("second"));
    for line in [&["bridge", "status", "second"][..], &["status"]] {
        let ran = home.ran(line);
        assert_eq!((ran.code, ran.err.as_str()), (Some(0), ""), "{ran:#?}");
    }
    assert_eq!(home.ran(&["bridge", "status", "third"]).code, Some(5));
    home.configure(&format!("{}api_key: \"${{{variable}}}\"", config("second")));
    let unset = home.ran(&["stream", "count"]);
    assert!(
        unset.code == Some(1) && unset.err.contains("api_key"),
        "{unset:#?}"
    );
    let given = home.ran(&["stream", "count", "--api-key", "k"]);
    assert_eq!(given.code, Some(0), "{given:#?}");
}
