//! A store's changes as a stream, with a cursor of the consumer's own: it stops anywhere, and goes
//! on behind what it has handled.
//!
//! ```text
//! cargo run --example consume_changes
//! ```

use std::fs;
use std::io;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use futures::StreamExt as _;
use ledger::sqlite::{SqliteConfig, SqliteStore};
use ledger::{
    Change, Cursor, ExpectedVersion, Mutation, NewEntry, PipelineId, Store, StoreName,
    StoreOptions, StreamName,
};

#[tokio::main]
async fn main() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let database = folder.path().join("orders.db");
    let cursor_file = folder.path().join("audit.cursor");
    let mut seen = Vec::new();

    // A process appends, and consumes a part.
    let store = open(&database).await?;
    append(&store, 0..10).await?;
    consume(&store, &cursor_file, 4, &mut seen).await?;
    store.close().await;
    println!("the consumer stops after {} changes", seen.len());

    // More is appended while nobody consumes; a tag is a change as well.
    let store = open(&database).await?;
    append(&store, 10..15).await?;
    let stream = StreamName::new("user-0")?;
    let first = store.stat(&stream).await?.first_id.context("an entry")?;
    let labels = store.labels().context("the store has labels")?;
    labels
        .set_tags(&stream, first, vec!["audited".to_owned()])
        .await?;

    // Another process goes on behind what was handled.
    println!("the consumer goes on");
    consume(&store, &cursor_file, 12, &mut seen).await?;
    store.close().await;

    let numbers: Vec<_> = seen.iter().filter_map(number).collect();
    let expected: Vec<_> = (0..15).collect();
    ensure!(
        numbers == expected,
        "every entry must be seen once, in order, and was seen as {numbers:?}"
    );
    ensure!(seen.len() == 16, "the tag must be seen as well");
    println!("every change was seen once, in order: no gap, nothing twice");
    Ok(())
}

async fn open(path: &Path) -> Result<SqliteStore> {
    let name = StoreName::new("orders")?;
    Ok(SqliteStore::open(SqliteConfig::file(path), name, StoreOptions::default()).await?)
}

async fn append(store: &SqliteStore, numbers: std::ops::Range<u64>) -> Result<()> {
    for number in numbers {
        let stream = StreamName::new(format!("user-{}", number % 3))?;
        let entry = NewEntry::new(number.to_string());
        store
            .append(&stream, vec![entry], ExpectedVersion::Any)
            .await?;
    }
    Ok(())
}

/// Handles the next `count` changes.
async fn consume(
    store: &SqliteStore,
    file: &Path,
    count: usize,
    seen: &mut Vec<Change>,
) -> Result<()> {
    let log = store.log().context("the store keeps a log")?;
    let after = match load(file)? {
        Some(cursor) => cursor,
        None => log.start(),
    };
    // The log keeps what a registered consumer has not confirmed.
    let name = PipelineId::new("audit")?;
    log.consumers().register(&name, &after).await?;
    let mut changes = log.changes(after).take(count);
    while let Some(change) = changes.next().await {
        let change = change?;
        println!(
            "  {} {}: {}",
            change.cursor,
            change.stream.name,
            change.mutation.kind()
        );
        let cursor = change.cursor.clone();
        seen.push(change);
        // After the change was handled, never before: who dies in between handles it again.
        save(file, &cursor)?;
        log.consumers().confirm(&name, &cursor).await?;
    }
    Ok(())
}

fn load(file: &Path) -> Result<Option<Cursor>> {
    match fs::read_to_string(file) {
        Ok(text) => Ok(Some(text.parse()?)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).context("read the cursor"),
    }
}

/// Replaces the file as a whole, so that no reader ever finds half a cursor.
fn save(file: &Path, cursor: &Cursor) -> Result<()> {
    let new = file.with_extension("new");
    let out = fs::File::create(&new)?;
    io::Write::write_all(&mut &out, cursor.to_string().as_bytes())?;
    out.sync_all()?;
    fs::rename(&new, file).context("store the cursor")
}

fn number(change: &Change) -> Option<u64> {
    match &change.mutation {
        Mutation::Append { entry, .. } => std::str::from_utf8(&entry.payload).ok()?.parse().ok(),
        _ => None,
    }
}
