//! What a relay writes into its own log: the changes of a batch as log rows.
//!
//! A relay is a replica that keeps a log, so that it can be carried on. Its rows tell what the source
//! told: the same ids, names, versions and times, in the same order. Changes of one append stand in
//! one row again.

use std::sync::atomic::{AtomicI64, Ordering};

use ledger_core::{
    Batch, Change, Cursor, Mutation, Result, StreamKey, StreamName, StreamRef, Timestamp,
};

use crate::Retention;
use crate::log::{
    APPEND, BEGIN, LogRow, RENAME, ROW_BYTES, ROW_ENTRIES, SET_ANNOTATIONS, SET_TAGS, STREAM, TRIM,
    Told, WHOLE, encode_annotations, encode_state, encode_tags, encode_told,
};

/// What becomes of a replica's log when the replica is opened.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Relay {
    /// It is kept where there is one. A replica that is created has none.
    #[default]
    AsIs,
    /// There is one: where it is new, it begins now, and readers from the start take a snapshot
    /// before. Nothing else changes for the replica.
    On,
    /// There is none: one that is there ends, and its readers get `CursorExpired`. Refused while
    /// consumers are registered at it.
    Off,
}

/// How a replica behaves. [`Default`] is what almost everyone wants.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ReplicaOptions {
    /// Whether what is applied is also written into a log of its own, in the same transaction, so
    /// that further bridges, hooks and tails follow the replica as they follow a store.
    ///
    /// The changes stand in it in the order in which they were delivered: one lane keeps the source's.
    pub relay: Relay,
    /// How long that log is kept. Ages are those of the changes at the source.
    pub retention: Retention,
}

/// The changes of a batch as rows of the relay's log, whose numbers (`seq`, 0 here) are still to be
/// drawn, in order. `stored` is the pipeline's cursor before this batch: what stands at or before it
/// is in the log already. A dead letter stands before it and is not, since it was set aside; it comes
/// as a batch that covers no range.
pub fn rows(batch: &Batch<Change>, stored: Option<&Cursor>) -> Result<Vec<LogRow>> {
    let set_aside = batch.after.is_none() && batch.ack.is_none();
    let new = batch
        .items
        .iter()
        .filter(|(cursor, _)| set_aside || stored.is_none_or(|stored| cursor > stored))
        .map(|(_, change)| change);
    let mut rows = Rows::default();
    for change in new {
        rows.add(change)?;
    }
    rows.end()?;
    Ok(rows.done)
}

/// The row at which a log begins, that stands for no change: a reader from before it has missed
/// something.
pub fn beginning(seq: i64) -> Result<LogRow> {
    Ok(LogRow {
        seq,
        at: Timestamp::now(),
        stream: StreamRef {
            key: StreamKey(0),
            name: StreamName::new("-")?,
            name_version: 0,
        },
        kind: BEGIN,
        ids: Vec::new(),
        version: 0,
        body: bytes::Bytes::new(),
    })
}

/// Rows that are done, and the append that the next change may be a part of.
#[derive(Default)]
struct Rows<'a> {
    done: Vec<LogRow>,
    open: Option<Append<'a>>,
}

/// Entries that stand in one row.
struct Append<'a> {
    stream: &'a StreamRef,
    kind: i16,
    at: Timestamp,
    told: Vec<Told<'a>>,
    ids: Vec<i64>,
    /// Of the last of them; 0 where it is not known.
    version: u64,
    bytes: usize,
}

impl Append<'_> {
    /// Whether another one may stand behind the last.
    fn admits(&self, other: &Self) -> bool {
        let follows = match self.version {
            0 => other.version == 0,
            version => other.version == version + 1,
        };
        follows
            && self.stream == other.stream
            && (self.kind, self.at) == (other.kind, other.at)
            && self.told.len() < ROW_ENTRIES
            && self.bytes + other.bytes <= ROW_BYTES
    }
}

impl<'a> Rows<'a> {
    fn add(&mut self, change: &'a Change) -> Result<()> {
        let (kind, ids, version, body) = match &change.mutation {
            Mutation::Append { entry, version } => {
                let told = Told::of(entry);
                // As a store writes its own, where that tells all of it.
                let plain = *version > 0
                    && entry.created_at == change.committed_at
                    && entry.label_version == 0
                    && entry.annotations.is_empty()
                    && entry.updated_at.is_none();
                // What was copied is not as old as its entries: it is told now.
                let at = if *version == 0 {
                    Timestamp::now()
                } else {
                    change.committed_at
                };
                return self.append(Append {
                    stream: &change.stream,
                    kind: if plain { APPEND } else { WHOLE },
                    at,
                    ids: vec![signed(entry.id.0)],
                    told: vec![told],
                    version: *version,
                    bytes: entry.payload.len(),
                });
            }
            Mutation::SetTags {
                id,
                label_version,
                tags,
            } => (SET_TAGS, vec![id.0], *label_version, encode_tags(tags)?),
            Mutation::SetAnnotations {
                id,
                label_version,
                annotations,
            } => {
                let body = encode_annotations(annotations)?;
                (SET_ANNOTATIONS, vec![id.0], *label_version, body)
            }
            Mutation::Trim { through } => (TRIM, vec![through.0], 0, Vec::new()),
            Mutation::Rename => (RENAME, Vec::new(), 0, Vec::new()),
            Mutation::Stream(state) => {
                let body = encode_state(state.trimmed_through)?;
                (STREAM, Vec::new(), state.version, body)
            }
        };
        self.end()?;
        self.done.push(LogRow {
            seq: 0,
            at: change.committed_at,
            stream: change.stream.clone(),
            kind,
            ids: ids.into_iter().map(signed).collect(),
            version: signed(version),
            body: body.into(),
        });
        Ok(())
    }

    fn append(&mut self, mut new: Append<'a>) -> Result<()> {
        match &mut self.open {
            Some(open) => {
                // Those of one copy are told at one time.
                if open.version == 0 && new.version == 0 {
                    new.at = open.at;
                }
                if open.admits(&new) {
                    open.told.append(&mut new.told);
                    open.ids.append(&mut new.ids);
                    open.version = new.version;
                    open.bytes += new.bytes;
                    return Ok(());
                }
                self.end()?;
                self.open = Some(new);
            }
            None => self.open = Some(new),
        }
        Ok(())
    }

    /// Ends the row that further entries could join.
    fn end(&mut self) -> Result<()> {
        if let Some(append) = self.open.take() {
            self.done.push(LogRow {
                seq: 0,
                at: append.at,
                stream: append.stream.clone(),
                kind: append.kind,
                body: encode_told(append.kind, &append.told)?.into(),
                ids: append.ids,
                version: signed(append.version),
            });
        }
        Ok(())
    }
}

/// Why the log of a relay cannot end.
#[cfg(any(feature = "sqlite", feature = "postgres", feature = "mongodb"))]
pub(crate) fn followed(store: &ledger_core::StoreName, followers: &[String]) -> ledger_core::Error {
    ledger_core::Error::invalid(
        "open replica",
        format!(
            "relay: store {store} is a relay, and these follow its log: {}; leave relay on, or remove \
             them first",
            followers.join(", ")
        ),
    )
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// Lets one of those who come find that it is time to prune a relay's log: at once, and then once a
/// minute.
#[derive(Debug, Default)]
pub struct PruneTurn(AtomicI64);

/// Microseconds between two turns.
const PRUNE_EVERY: i64 = 60_000_000;

impl PruneTurn {
    /// Prunes where it is time to, by more rows than were `written` just now: `chunk` removes at most
    /// `full` and tells how many. What fails here fails again later, so it fails no delivery.
    pub async fn prune<F>(&self, written: usize, full: u64, chunk: impl Fn() -> F)
    where
        F: Future<Output = Result<u64>>,
    {
        if !self.take() {
            return;
        }
        let mut removed = 0;
        loop {
            let rows = match chunk().await {
                Ok(rows) => rows,
                Err(error) => {
                    let error = error.chain();
                    tracing::warn!(error, "the log of a relay was not pruned");
                    return;
                }
            };
            removed += rows;
            if !self.goes_on(rows, full, removed, written) {
                return;
            }
        }
    }

    /// Whether it is the caller's.
    fn take(&self) -> bool {
        let now = Timestamp::now().as_micros();
        let due = self.0.load(Ordering::Relaxed);
        let next = now.saturating_add(PRUNE_EVERY);
        let order = Ordering::Relaxed;
        now >= due && self.0.compare_exchange(due, next, order, order).is_ok()
    }

    /// Whether the caller, whose turn it is, prunes another chunk: `chunk` rows were removed of at most
    /// `full`, `removed` together with those before. Once that is more than was `written`, the rest is
    /// left to the next who comes, so that none waits long and the log becomes shorter nevertheless.
    fn goes_on(&self, chunk: u64, full: u64, removed: u64, written: usize) -> bool {
        if chunk < full {
            return false;
        }
        let left = usize::try_from(removed).is_ok_and(|removed| removed <= written);
        if !left {
            self.0.store(0, Ordering::Relaxed);
        }
        left
    }
}
