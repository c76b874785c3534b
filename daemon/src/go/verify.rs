//! Comparing the number of entries, stream by stream.

use anyhow::Context as _;
use futures::TryStreamExt as _;
use ledger::connect::DatabaseUrl;
use ledger::{Store as _, StoreName};

use super::source::{Source, Table};

/// How many streams that differ are named.
const NAMED: usize = 20;

/// What the comparison found.
#[derive(Debug, Default)]
pub(crate) struct Verified {
    /// The streams that have an entry in the source.
    pub(crate) streams: u64,
    /// The entries of those streams in the copy.
    pub(crate) entries: u64,
    /// Entries of the source that the copy lacks.
    pub(crate) missing: u64,
    /// Entries of the copy that the source lacks.
    pub(crate) extra: u64,
    /// Some of the streams that differ: name, entries in the source, entries in the copy.
    pub(crate) different: Vec<(String, u64, u64)>,
}

/// Counts the entries of each stream on both sides.
pub(crate) async fn verify(
    source: &mut Source,
    table: &Table,
    to: &DatabaseUrl,
    store: &StoreName,
) -> anyhow::Result<Verified> {
    let copy = to.open_store(store).await.context("--to")?;
    let mut verified = Verified::default();
    let mut streams = source.streams(table);
    while let Some((stream, entries)) = streams.try_next().await? {
        verified.streams += 1;
        let there = match stream.reference() {
            Ok(stream) => copy.stat(&stream.name).await?.count,
            Err(_) => 0,
        };
        verified.entries += there;
        verified.missing += entries.saturating_sub(there);
        verified.extra += there.saturating_sub(entries);
        if there != entries && verified.different.len() < NAMED {
            verified.different.push((stream.shown(), entries, there));
        }
    }
    drop(streams);
    copy.close().await;
    Ok(verified)
}
