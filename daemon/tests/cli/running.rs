//! What the commands do.

use std::io::{BufRead as _, BufReader, Read as _};
use std::process::{Child, Command, Stdio};

use ledger::Store as _;
use serde_json::Value;

use crate::program::{Databases, append, done, program, ran, refused};

#[tokio::test]
async fn a_replica_is_made_compared_and_mended() {
    let databases = Databases::new().await;
    let summary = done(
        databases
            .bridge("run", "replica.db")
            .args(["--once", "-o", "json"]),
    )
    .out;
    let summary: Value = serde_json::from_str(&summary).unwrap();
    assert_eq!(summary["end"], "finished");
    assert_eq!(
        summary["delivered"], 33,
        "3 streams and 30 entries: {summary}"
    );

    let equal = done(&mut databases.bridge("verify", "replica.db")).out;
    assert!(
        equal.starts_with("equal: 30 entries in 3 streams"),
        "{equal}"
    );

    databases
        .sql(
            "replica.db",
            "UPDATE orders_entries SET payload = '\"bad\"' WHERE id = 7; \
             DELETE FROM orders_entries WHERE id = 9",
        )
        .await;
    let different = ran(&mut databases.bridge("verify", "replica.db"));
    assert_eq!(different.code, Some(1), "{different:#?}");
    let lines: Vec<_> = different.out.lines().collect();
    assert_eq!(lines.len(), 3, "{different:#?}");
    assert_eq!(lines[0], "different \"user-0\" #7 (payload)");
    assert_eq!(lines[1], "missing \"user-2\" #9");
    assert!(
        lines[2].starts_with("different: 30 entries"),
        "{}",
        lines[2]
    );

    let json = ran(databases
        .bridge("verify", "replica.db")
        .args(["-o", "json"]));
    let json: Value = serde_json::from_str(&json.out).unwrap();
    assert_eq!(json["different"], 2);
    assert_eq!(json["differences"][0]["id"], "7");

    done(databases.bridge("verify", "replica.db").arg("--repair"));
    done(&mut databases.bridge("verify", "replica.db"));
}

#[tokio::test]
async fn what_the_bridge_has_not_carried_yet_is_pending_and_not_different() {
    let databases = Databases::new().await;
    done(databases.bridge("run", "replica.db").arg("--once"));
    let source = databases.source().await;
    append(&source, 100).await;
    source.close().await;
    let json = done(
        databases
            .bridge("verify", "replica.db")
            .args(["-o", "json"]),
    )
    .out;
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["different"], 0, "{json}");
    assert!(json["pending"].as_u64().unwrap() >= 1, "{json}");
}

#[tokio::test]
async fn a_resync_copies_everything_anew() {
    let databases = Databases::new().await;
    done(databases.bridge("run", "replica.db").arg("--once"));
    let other = Databases::new().await;
    let to = databases.url("replica.db");
    let run = |more: &[&str]| {
        let mut command = program(&["bridge", "run", "--once", "-s", "orders"]);
        command.args(["--from", &other.url("source.db"), "--to", &to]);
        command.args(more);
        command
    };
    let line = refused(&mut run(&[]));
    assert!(line.contains("--resync"), "{line}");
    done(&mut run(&["--resync"]));
    let mut verify = program(&["bridge", "verify", "-s", "orders"]);
    verify.args(["--from", &other.url("source.db"), "--to", &to]);
    done(&mut verify);
}

#[tokio::test]
async fn kinds_that_are_skipped_are_not_carried() {
    let databases = Databases::new().await;
    done(databases.bridge("run", "replica.db").arg("--once"));
    let source = databases.source().await;
    let stream = ledger::StreamName::new("user-0").unwrap();
    let labels = source.labels().unwrap();
    labels
        .set_tags(&stream, ledger::EntryId(1), vec!["seen".to_owned()])
        .await
        .unwrap();
    source.close().await;
    let skip = ["--skip", "set_tags,trim", "--skip", "rename"];
    done(
        databases
            .bridge("run", "replica.db")
            .arg("--once")
            .args(skip),
    );
    done(databases.bridge("verify", "replica.db").args(skip));
    let different = ran(&mut databases.bridge("verify", "replica.db"));
    assert_eq!(different.code, Some(1), "{different:#?}");
    assert!(different.out.contains("#1 (tags"), "{different:#?}");
}

#[tokio::test]
async fn the_ends_can_be_given_by_the_environment() {
    let databases = Databases::new().await;
    let mut command = program(&["bridge", "run", "--once", "-s", "orders"]);
    command
        .env("LEDGER_FROM", databases.url("source.db"))
        .env("LEDGER_TO", databases.url("replica.db"));
    done(&mut command);
    let mut help = program(&["bridge", "run", "--help"]);
    help.env("LEDGER_FROM", "postgres://u:hunter2@h/db");
    assert!(!done(&mut help).out.contains("hunter2"));
}

#[tokio::test]
async fn a_bridge_without_dead_letters_lists_none_and_replays_none() {
    let databases = Databases::new().await;
    done(databases.bridge("run", "replica.db").arg("--once"));
    let list = done(&mut databases.bridge("dead-letters", "replica.db"));
    assert_eq!(list.out, "");
    assert!(list.err.starts_with("0 dead letters"), "{list:#?}");
    let replay = done(&mut databases.bridge("replay", "replica.db"));
    assert_eq!(replay.out, "0 dead letters delivered, 0 left\n");
    let mut other = databases.bridge("dead-letters", "replica.db");
    let line = refused(other.args(["--name", "mistyped"]));
    assert!(line.contains("no bridge mistyped"), "{line}");
}

/// A process that does not outlive its test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn a_termination_delivers_what_was_read_and_is_a_good_end() {
    for signal in ["TERM", "INT"] {
        let databases = Databases::new().await;
        let mut command = databases.bridge("run", "replica.db");
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut running = Running(command.spawn().unwrap());
        let mut lines = BufReader::new(running.0.stderr.take().unwrap()).lines();
        let following = lines.find(|line| {
            let line: Value = serde_json::from_str(line.as_ref().unwrap()).unwrap();
            line["state"] == "following" && line["delivered"] == 33
        });
        assert!(following.is_some(), "it follows what it has copied");
        let pid = running.0.id().to_string();
        let told = Command::new("kill").args(["-s", signal, &pid]).status();
        assert!(told.unwrap().success());
        for line in lines {
            line.unwrap();
        }
        let status = running.0.wait().unwrap();
        assert_eq!(status.code(), Some(0), "SIG{signal}");
        let mut out = String::new();
        let mut pipe = running.0.stdout.take().unwrap();
        pipe.read_to_string(&mut out).unwrap();
        assert!(out.contains("stopped: 33 mutations delivered"), "{out}");
        done(&mut databases.bridge("verify", "replica.db"));
    }
}

#[test]
fn the_demo_ends_with_equal_databases() {
    let ran = done(&mut program(&["demo", "--seconds", "2"]));
    let last = ran.out.lines().last().unwrap();
    assert!(last.starts_with("equal: "), "{ran:#?}");
    assert!(last.ends_with(" 0 differences"), "{ran:#?}");
    assert!(!last.starts_with("equal: 0 "), "{ran:#?}");
    assert!(ran.err.contains("What to try next"), "{ran:#?}");
    assert!(
        !ran.out.contains('\u{1b}'),
        "plain lines without a terminal"
    );
}

#[test]
fn a_demo_in_a_folder_is_kept_and_never_overwrites() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("demo");
    let mut demo = program(&["demo", "--seconds", "1", "--dir"]);
    demo.arg(&dir);
    done(&mut demo);
    let [from, to] = ["source.db", "replica.db"].map(|file| {
        let path = dir.join(file);
        format!("sqlite:{}", path.display())
    });
    let mut verify = program(&["bridge", "verify", "-s", "orders"]);
    done(verify.args(["--from", &from, "--to", &to]));
    let line = refused(&mut demo);
    assert!(line.contains("is there already"), "{line}");
}

#[test]
fn the_version_names_commit_and_day() {
    let said = done(&mut program(&["version"])).out;
    let rest = said
        .strip_prefix(concat!("ledger ", env!("CARGO_PKG_VERSION"), " (commit "))
        .unwrap();
    assert!(
        rest.contains(", built 2") && rest.ends_with(")\n"),
        "{said}"
    );
    let value = done(&mut program(&["version", "-o", "json"])).out;
    assert!(
        value.starts_with('{') && value.contains("\"commit\""),
        "{value}"
    );
}
