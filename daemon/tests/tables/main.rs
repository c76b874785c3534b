//! Ordinary tables carried from `PostgreSQL` into `ClickHouse` by the program.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test"
)]

mod flights;
mod load;
mod transaction;

use std::process::{Command, Stdio};

use tokio::process::Child;

fn ledger(from: &str, to: &str, arguments: &[&str]) -> Command {
    ledger_of(from, to, "public.*", arguments)
}

fn ledger_of(from: &str, to: &str, tables: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ledger"));
    command
        .args(["bridge"])
        .args(arguments)
        .args(["--tables", tables, "--name", "bench"])
        .env("LEDGER_FROM", from)
        .env("LEDGER_TO", to)
        .stdin(Stdio::null());
    command
}

fn start(from: &str, to: &str) -> Child {
    let mut command = tokio::process::Command::from(ledger(from, to, &["run"]));
    command
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap()
}
