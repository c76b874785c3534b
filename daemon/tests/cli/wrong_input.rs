//! Wrong input: one line that names the cause, an exit code, and no secret.

use std::process::Command;

use ledger::Store as _;
use ledger_harness::shared::{clickhouse_url, postgres_url};

use crate::program::{Databases, SECRET, append, done, program, refused};

fn run(from: &str, to: &str, store: &str) -> Command {
    program(&[
        "bridge", "run", "--once", "--from", from, "--to", to, "-s", store,
    ])
}

/// Each word must be part of the line.
fn names(line: &str, words: &[&str]) {
    for word in words {
        assert!(line.contains(word), "{word} is not part of {line}");
    }
}

/// A server's URL with another password.
fn with_wrong_password(url: &str) -> String {
    let (scheme, rest) = url.split_once("://").unwrap();
    let (user, host) = rest.rsplit_once('@').unwrap();
    let (user, _) = user.split_once(':').unwrap_or((user, ""));
    format!("{scheme}://{user}:{SECRET}@{host}")
}

#[tokio::test]
async fn an_unknown_scheme() {
    let databases = Databases::new().await;
    let url = format!("mysql://u:{SECRET}@h/db");
    let line = refused(&mut run(&url, &databases.url("replica.db"), "orders"));
    names(
        &line,
        &["--from", "\"mysql\"", "postgres://", "clickhouse://"],
    );
    let line = refused(&mut run(&databases.url("source.db"), "orders.db", "orders"));
    names(&line, &["--to", "no scheme", "sqlite:"]);
    let url = format!("mongodb://u:{SECRET}@h/db?tls=perhaps");
    let line = refused(&mut run(&databases.url("source.db"), &url, "orders"));
    names(&line, &["--to", "the URL is malformed"]);
}

#[tokio::test]
async fn an_unreachable_host() {
    let databases = Databases::new().await;
    let url = format!("postgres://u:{SECRET}@127.0.0.1:1/db");
    let line = refused(&mut run(&url, &databases.url("replica.db"), "orders"));
    names(&line, &["--from", "127.0.0.1:1", "refused"]);
    let url = format!("clickhouse://u:{SECRET}@127.0.0.1:1/db");
    let line = refused(&mut run(&databases.url("source.db"), &url, "orders"));
    names(&line, &["--to", "127.0.0.1:1", "refused"]);
}

#[tokio::test]
async fn a_wrong_password() {
    let databases = Databases::new().await;
    let url = with_wrong_password(&postgres_url());
    let line = refused(&mut run(&url, &databases.url("replica.db"), "orders"));
    names(&line, &["--from", "password"]);
    let url = with_wrong_password(&clickhouse_url());
    let line = refused(&mut run(&databases.url("source.db"), &url, "orders"));
    names(&line, &["--to", "password"]);
}

#[tokio::test]
async fn a_bad_store_name() {
    let databases = Databases::new().await;
    let (from, to) = (databases.url("source.db"), databases.url("replica.db"));
    let line = refused(&mut run(&from, &to, "or ders"));
    names(&line, &["--store", "^[a-zA-Z_][a-zA-Z0-9_]*$"]);
}

#[tokio::test]
async fn a_mistyped_store_is_not_created() {
    let databases = Databases::new().await;
    let (from, to) = (databases.url("source.db"), databases.url("replica.db"));
    for _ in 0..2 {
        let line = refused(&mut run(&from, &to, "oders"));
        names(&line, &["--from", "no store oders"]);
    }
    let mistyped = databases.url("sorce.db");
    let line = refused(&mut run(&mistyped, &to, "orders"));
    names(&line, &["--from", "sorce.db", "does not exist"]);
    assert!(!databases.path("sorce.db").exists());
    let line = refused(&mut run(&postgres_url(), &to, "no_such_store"));
    names(&line, &["--from", "no store no_such_store"]);
    assert!(
        !databases.path("replica.db").exists(),
        "the sink comes second"
    );
}

#[tokio::test]
async fn a_sink_table_of_another_shape() {
    let databases = Databases::new().await;
    databases
        .sql("replica.db", "CREATE TABLE orders_entries (x integer)")
        .await;
    let from = databases.url("source.db");
    let line = refused(&mut run(&from, &databases.url("replica.db"), "orders"));
    names(&line, &["--to", "orders_entries"]);

    let url = clickhouse_url();
    let config: ledger::clickhouse::ClickHouseConfig = url.parse().unwrap();
    let client = clickhouse::Client::default()
        .with_url(format!("http://{}", config.address()))
        .with_user(&config.user)
        .with_password(config.password.expose())
        .with_database(&config.database);
    let create = "CREATE OR REPLACE TABLE cli_shape_entries (x UInt8) ENGINE=MergeTree ORDER BY x";
    client.query(create).execute().await.unwrap();
    databases.fill("cli_shape").await;
    let line = refused(&mut run(&from, &url, "cli_shape"));
    names(&line, &["--to", "cli_shape_entries"]);
    client
        .query("DROP TABLE cli_shape_entries")
        .execute()
        .await
        .unwrap();
}

#[tokio::test]
async fn a_corrupt_file() {
    let databases = Databases::new().await;
    let noise: Vec<_> = (0..20_000_u32)
        .map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect();
    std::fs::write(databases.path("bad.db"), noise).unwrap();
    let (good, bad) = (databases.url("source.db"), databases.url("bad.db"));
    let line = refused(&mut run(&bad, &databases.url("replica.db"), "orders"));
    names(&line, &["--from", "bad.db", "not a sound SQLite database"]);
    let line = refused(&mut run(&good, &bad, "orders"));
    names(&line, &["--to", "bad.db", "not a sound SQLite database"]);
}

#[tokio::test]
async fn an_unknown_mutation_in_the_log() {
    let databases = Databases::new().await;
    done(databases.bridge("run", "replica.db").arg("--once"));
    let source = databases.source().await;
    append(&source, 100).await;
    source.close().await;
    databases
        .sql(
            "source.db",
            "UPDATE orders_log SET kind = 99 WHERE seq = (SELECT max(seq) FROM orders_log)",
        )
        .await;
    let line = refused(databases.bridge("run", "replica.db").arg("--once"));
    names(&line, &["99"]);
    // It is passed over by no later run.
    refused(databases.bridge("run", "replica.db").arg("--once"));
}

#[tokio::test]
async fn a_comparison_that_cannot_be_made_is_neither_equal_nor_different() {
    let databases = Databases::new().await;
    let mut verify = databases.bridge("verify", "replica.db");
    let ran = crate::program::ran(&mut verify);
    assert_eq!(ran.code, Some(2), "{ran:#?}");
    assert!(ran.err.starts_with("Error: --to: "), "{ran:#?}");
    assert!(!databases.path("replica.db").exists());
}
