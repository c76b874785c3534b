//! A business row and its ledger entry in one transaction of the caller: both or neither.
//!
//! ```text
//! cargo run --example transaction --features postgres                  # in an SQLite file
//! cargo run --example transaction --features postgres -- --postgres URL
//! ```
//!
//! `LEDGER_TEST_POSTGRES` names the server as well.

use anyhow::{Context as _, Result, bail, ensure};
use ledger::postgres::{PostgresConfig, PostgresStore};
use ledger::sqlite::{SqliteConfig, SqliteStore};
use ledger::{ExpectedVersion, NewEntry, Store, StoreName, StoreOptions, StreamName};
use sqlx::Connection as _;

#[tokio::main]
async fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let given = match (arguments.next().as_deref(), arguments.next()) {
        (None, _) => std::env::var("LEDGER_TEST_POSTGRES").ok(),
        (Some("--postgres"), Some(url)) => Some(url),
        _ => bail!("usage: transaction [--postgres URL]"),
    };
    match given {
        Some(url) => in_postgres(&url).await,
        None => in_sqlite().await,
    }
}

fn placed(order: i64) -> Vec<NewEntry> {
    let payload = format!(r#"{{"event":"placed","order":{order}}}"#);
    vec![NewEntry::new(payload).dedup_key(format!("placed-{order}"))]
}

async fn in_postgres(url: &str) -> Result<()> {
    let config = PostgresConfig::from_url(url)?;
    println!("in PostgreSQL at {}", config.target());
    let name = StoreName::new("example_transaction")?;
    let store = PostgresStore::open(config, name, StoreOptions::default()).await?;
    let mut own = sqlx::PgConnection::connect(url)
        .await
        .context("connect to PostgreSQL")?;
    sqlx::query("CREATE TABLE IF NOT EXISTS example_orders (id bigserial PRIMARY KEY, item text)")
        .execute(&mut own)
        .await?;
    // A stream of its own for each run.
    let stream = StreamName::new(format!("run-{}", uuid::Uuid::new_v4()))?;
    let insert = "INSERT INTO example_orders (item) VALUES ('book') RETURNING id";

    // Both are committed.
    let mut transaction = own.begin().await?;
    let order: i64 = sqlx::query_scalar(insert)
        .fetch_one(&mut *transaction)
        .await?;
    store
        .within(&mut transaction)
        .append(&stream, placed(order), ExpectedVersion::None)
        .await?;
    transaction.commit().await?;

    // Neither is.
    let mut transaction = own.begin().await?;
    let lost: i64 = sqlx::query_scalar(insert)
        .fetch_one(&mut *transaction)
        .await?;
    store
        .within(&mut transaction)
        .append(&stream, placed(lost), ExpectedVersion::Any)
        .await?;
    transaction.rollback().await?;

    let rows: i64 = sqlx::query_scalar("SELECT count(*) FROM example_orders WHERE id IN ($1, $2)")
        .bind(order)
        .bind(lost)
        .fetch_one(&mut own)
        .await?;
    report(rows, &store, &stream).await?;
    own.close().await?;
    store.close().await;
    Ok(())
}

async fn in_sqlite() -> Result<()> {
    println!("in an SQLite file");
    let folder = tempfile::tempdir()?;
    let config = SqliteConfig::file(folder.path().join("shop.db"));
    let store =
        SqliteStore::open(config, StoreName::new("events")?, StoreOptions::default()).await?;
    let stream = StreamName::new("orders")?;
    // The store's own writing connection: another one would wait for it, and it for that one.
    let mut writer = store.writer().await?;
    sqlx::query("CREATE TABLE shop_orders (id integer PRIMARY KEY, item text)")
        .execute(&mut *writer)
        .await?;
    let insert = "INSERT INTO shop_orders (item) VALUES ('book') RETURNING id";

    // Both are committed.
    let mut transaction = writer.begin().await?;
    let order: i64 = sqlx::query_scalar(insert)
        .fetch_one(&mut *transaction)
        .await?;
    store
        .within(&mut transaction)
        .append(&stream, placed(order), ExpectedVersion::None)
        .await?;
    transaction.commit().await?;

    // Neither is.
    let mut transaction = writer.begin().await?;
    let lost: i64 = sqlx::query_scalar(insert)
        .fetch_one(&mut *transaction)
        .await?;
    store
        .within(&mut transaction)
        .append(&stream, placed(lost), ExpectedVersion::Any)
        .await?;
    transaction.rollback().await?;

    let rows: i64 = sqlx::query_scalar("SELECT count(*) FROM shop_orders")
        .fetch_one(&mut *writer)
        .await?;
    drop(writer);
    report(rows, &store, &stream).await?;
    store.close().await;
    Ok(())
}

async fn report(rows: i64, store: &impl Store, stream: &StreamName) -> Result<()> {
    let entries = store.stat(stream).await?.count;
    println!("committed one transaction, rolled one back: {rows} row, {entries} entry");
    ensure!(
        (rows, entries) == (1, 1),
        "a row and its entry must be committed together, or neither"
    );
    Ok(())
}
