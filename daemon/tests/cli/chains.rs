//! Chains of bridges: a replica that is carried on, and loops.

use serde_json::Value;

use crate::daemon::{Home, wait};
use crate::program::{Databases, append, done, program, refused};

/// `bridge run --once` between two files.
fn run(databases: &Databases, from: &str, to: &str, name: &str) -> std::process::Command {
    let (from, to) = (databases.url(from), databases.url(to));
    program(&[
        "bridge", "run", "--once", "-s", "orders", "--from", &from, "--to", &to, "--name", name,
        "-o", "json",
    ])
}

fn delivered(command: &mut std::process::Command) -> u64 {
    let summary: Value = serde_json::from_str(&done(command).out).unwrap();
    summary["delivered"].as_u64().unwrap()
}

#[tokio::test]
async fn a_relay_is_carried_on_and_its_loops_are_refused() {
    let databases = Databases::new().await;
    let first = || run(&databases, "source.db", "relay.db", "first");
    let last = || run(&databases, "relay.db", "last.db", "last");
    assert_eq!(delivered(&mut first()), 33);
    let line = refused(&mut last());
    assert!(line.contains("keeps no mutation log"), "{line}");

    assert_eq!(delivered(first().arg("--relay")), 0);
    assert_eq!(delivered(&mut last()), 33);
    let source = databases.source().await;
    append(&source, 30).await;
    ledger::Store::close(&source).await;
    assert_eq!(delivered(first().arg("--relay")), 1);
    assert_eq!(delivered(&mut last()), 1);
    let ends = [databases.url("source.db"), databases.url("last.db")];
    let verify = [
        "bridge", "verify", "-s", "orders", "--from", &ends[0], "--to", &ends[1], "--name", "last",
        "-o", "table",
    ];
    let equal = done(&mut program(&verify)).out;
    assert!(equal.starts_with("equal: 31 entries"), "{equal}");

    // Its log does not end under who follows it.
    let line = refused(&mut first());
    assert!(line.contains("relay:") && line.contains("last"), "{line}");
    let line = refused(first().args(["--relay", "--lanes", "2"]));
    assert!(line.contains("--relay needs --lanes 1"), "{line}");
    // From the end of the chain to its beginning, from its middle, and from a store into itself.
    for from in ["relay.db", "source.db"] {
        let line = refused(&mut run(&databases, from, "source.db", "back"));
        assert!(line.contains("the loop would be"), "{line}");
    }
    delivered(last().arg("--relay"));
    let line = refused(run(&databases, "last.db", "relay.db", "back").arg("--relay"));
    assert!(line.contains("the loop would be"), "{line}");

    // What is repaired in a relay is not told in its log.
    databases
        .sql("relay.db", "DELETE FROM orders_entries WHERE id = 9")
        .await;
    let ends = [databases.url("source.db"), databases.url("relay.db")];
    let repair = [
        "bridge", "verify", "-s", "orders", "--from", &ends[0], "--to", &ends[1], "--name",
        "first", "--repair", "-o", "table",
    ];
    let told = done(&mut program(&repair)).out;
    assert!(
        told.contains("verify what follows it as well: last"),
        "{told}"
    );
}

#[test]
fn a_daemon_runs_a_chain_and_refuses_a_loop() {
    let home = Home::new("");
    let (relay, last) = (home.url("relay.db"), home.url("last.db"));
    let own = home.url(".ledger/ledger.db");
    home.configure(&format!(
        "bridges:\n  \
         - {{name: last, store: orders, from: \"{relay}\", to: \"{last}\"}}\n  \
         - {{name: first, store: orders, to: \"{relay}\", relay: true}}\n  \
         - {{name: back, store: orders, from: \"{relay}\", to: \"{own}\"}}\n"
    ));
    home.out(&["start"]);
    home.out(&["stream", "append", "a", "-s", "orders", "-S", "one"]);
    let status = |name: &str| -> Value {
        let ran = home.ran(&["bridge", "status", name, "-o", "json"]);
        serde_json::from_str(&ran.out).unwrap_or(Value::Null)
    };
    wait("the end of the chain", || {
        let status = status("last");
        status["delivered"].as_u64() >= Some(1) && status["lag_entries"] == 0
    });
    let verify = home.out(&["bridge", "verify", "last", "-o", "table"]);
    assert!(
        verify.starts_with("equal: 1 entries in 1 streams"),
        "{verify}"
    );
    wait("the loop to be told", || {
        let status = status("back");
        status["state"] == "stopped"
            && status["last_error"]
                .as_str()
                .is_some_and(|error| error.contains("the loop would be"))
    });

    // A key that is for bridges of a store.
    home.configure(
        "bridges:\n  - {name: t, tables: \"public.*\", from: \"postgres://h/db\", to: \"sqlite:x.db\", \
         relay: true}\n",
    );
    let check = home.ran(&["config", "check"]);
    assert_eq!(check.code, Some(1), "{check:#?}");
    assert!(
        check.err.contains("relay") && check.err.contains("must not be given beside tables"),
        "{check:#?}"
    );
}
