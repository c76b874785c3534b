//! Copying a Go store into a replica.

use std::sync::Arc;

use anyhow::Context as _;
use futures::TryStreamExt as _;
use ledger::connect::{DatabaseUrl, ReplicaSink};
use ledger::{
    Batch, Change, Cursor, Error, ErrorKind, Item as _, Mutation, PipelineId, Sink, StoreName,
    StreamRef, StreamState, Timestamp,
};

use super::entry::{change, named};
use super::position::Position;
use super::source::{Source, Table};
use crate::exit::Failure;

/// The most entries of one transaction, and about how many bytes.
const ITEMS: usize = 2_000;
const BYTES: usize = 8 << 20;

/// What is copied, and how.
pub(crate) struct Copy<'a> {
    pub(crate) table: &'a Table,
    /// Where to; without it rows are only looked at.
    pub(crate) to: Option<(&'a DatabaseUrl, &'a StoreName)>,
    /// Empty what an earlier run has copied, and begin again.
    pub(crate) restart: bool,
    /// The metadata key that the ids are kept under which the Go bridge gave to what it replicated.
    pub(crate) source_id_key: Option<&'a str>,
    /// Hears of every row that cannot be kept.
    pub(crate) refused: &'a dyn Fn(&Refused),
    /// Hears how many rows have been looked at.
    pub(crate) progress: &'a dyn Fn(u64),
}

/// A row, or the name of a stream without rows, that cannot be kept.
#[derive(Debug, Clone)]
pub(crate) struct Refused {
    pub(crate) table: String,
    pub(crate) stream: String,
    /// None for a stream without rows.
    pub(crate) id: Option<i64>,
    pub(crate) rule: String,
}

/// What has been copied.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Copied {
    /// Entries that this run has copied.
    pub(crate) entries: u64,
    /// Where an earlier run ended: the last id; 0 where there was none.
    pub(crate) resumed: u64,
    /// Rows that could not be kept, those of earlier runs included.
    pub(crate) refused: u64,
    /// Emptied streams whose name could not be kept.
    pub(crate) names_refused: u64,
    /// Rows with an id that the Go bridge gave, which was not kept.
    pub(crate) source_ids: u64,
    /// The store was imported before, and has been a store of its own since: up to this id.
    pub(crate) before: Option<u64>,
}

/// The replica that is written.
struct Target {
    sink: Arc<dyn Sink<Change>>,
    pipeline: PipelineId,
    fence: u64,
    position: Position,
    batch: Vec<(Cursor, Change)>,
    bytes: usize,
}

impl Copy<'_> {
    /// Copies all that is behind where an earlier run ended.
    pub(crate) async fn run(&self, source: &mut Source) -> anyhow::Result<Copied> {
        let mut copied = Copied::default();
        let mut target = match self.to {
            None => None,
            Some((url, store)) => match self.open(source, url, store).await? {
                Opened::Replica(target) => Some(target),
                Opened::Before(position) => {
                    copied.before = Some(position.id);
                    copied.refused = position.refused;
                    return Ok(copied);
                }
            },
        };
        let mut position = target
            .as_ref()
            .map_or_else(Position::default, |t| t.position);
        copied.resumed = position.id;
        self.streams(source, target.as_mut(), position).await?;
        let mut rows = source.rows(self.table, position.id);
        while let Some(row) = rows.try_next().await? {
            let (id, stream) = (row.id, row.stream.shown());
            let replicated = row.source_id.as_ref().is_some_and(|id| !id.is_empty());
            copied.source_ids += u64::from(replicated && self.source_id_key.is_none());
            position.id = u64::try_from(id).unwrap_or(position.id);
            match change(row, position.to_cursor(), self.source_id_key) {
                Err(rule) => {
                    position.refused += 1;
                    self.refuse(stream, Some(id), rule);
                }
                Ok(change) => {
                    copied.entries += 1;
                    if let Some(target) = &mut target {
                        target.add(change);
                    }
                }
            }
            if let Some(target) = target.as_mut().filter(|target| target.is_full()) {
                self.deliver(target, &mut position, &mut copied).await?;
            }
            (self.progress)(1);
        }
        drop(rows);
        if let Some(target) = &mut target {
            self.deliver(target, &mut position, &mut copied).await?;
        }
        self.emptied(source, target.as_mut(), position, &mut copied)
            .await?;
        copied.refused = position.refused;
        Ok(copied)
    }

    async fn open(
        &self,
        source: &Source,
        url: &DatabaseUrl,
        store: &StoreName,
    ) -> anyhow::Result<Opened> {
        let pipeline = PipelineId::new(format!("import-go:{store}"))?;
        let id = source.identity(self.table);
        let delivered = Box::pin(url.delivered(store, &pipeline)).await;
        if let Some(found) = delivered.context("--to")?
            && !found.replica
        {
            let position = found
                .cursor
                .map(|at| Position::from_cursor(&at))
                .transpose()?;
            return match position {
                Some(at) if at.source == id.store.as_u128() => Ok(Opened::Before(at)),
                _ => Err(taken(store)),
            };
        }
        let replica: ReplicaSink = Box::pin(url.open_sink(store)).await.context("--to")?;
        if self.restart {
            replica.resync(&pipeline).await.context("--restart")?;
        }
        let sink = replica.sink();
        let cursors = sink.cursors().ok_or_else(|| {
            Error::new(ErrorKind::Internal, "import", "the replica keeps no cursor")
        })?;
        let claim = cursors.claim(&pipeline, &id).await.map_err(|error| {
            if error.kind() != ErrorKind::SourceDiverged {
                return anyhow::Error::from(error);
            }
            Failure::usage(format!(
                "--to: store {store} is a replica that is filled from elsewhere, or was begun to \
                 be imported from another place; --restart empties it and begins again"
            ))
        })?;
        let position = match &claim.cursor {
            Some(cursor) => Position::from_cursor(cursor)?,
            None => Position::start(&id),
        };
        Ok(Opened::Replica(Target {
            fence: claim.fence,
            sink,
            pipeline,
            position,
            batch: Vec::new(),
            bytes: 0,
        }))
    }

    /// Creates the streams, each with the number of its entries as its version.
    async fn streams(
        &self,
        source: &mut Source,
        target: Option<&mut Target>,
        position: Position,
    ) -> anyhow::Result<()> {
        let Some(target) = target else { return Ok(()) };
        let mut streams = source.streams(self.table);
        while let Some((stream, entries)) = streams.try_next().await? {
            // The rows of a stream whose name cannot be kept are refused one by one.
            if let Ok(stream) = stream.reference() {
                target.add(state(stream, entries, 0, position));
            }
            if target.is_full() {
                target.deliver_all(position).await?;
            }
        }
        target.deliver_all(position).await
    }

    /// Creates the streams that have been emptied: they still hold their names. All that was ever
    /// appended to them has been removed, so ids up to the last one given are not given again.
    async fn emptied(
        &self,
        source: &mut Source,
        mut target: Option<&mut Target>,
        position: Position,
        copied: &mut Copied,
    ) -> anyhow::Result<()> {
        let last = source.last_given(self.table).await?;
        let mut key = i64::try_from(last).unwrap_or(i64::MAX);
        let mut names = source.emptied(self.table);
        while let Some(name) = names.try_next().await? {
            key = key.saturating_add(1);
            let shown = String::from_utf8_lossy(&name).into_owned();
            let stream = match String::from_utf8(name) {
                Ok(name) => named(name, key),
                Err(_) => Err("stream name is not UTF-8".to_owned()),
            };
            match (stream, &mut target) {
                (Ok(stream), Some(target)) => {
                    target.add(state(stream, 1, last, position));
                    if target.is_full() {
                        target.deliver_all(position).await?;
                    }
                }
                (Ok(_), None) => {}
                (Err(rule), _) => {
                    copied.names_refused += 1;
                    self.refuse(shown, None, rule);
                }
            }
        }
        match target {
            Some(target) => target.deliver_all(position).await,
            None => Ok(()),
        }
    }

    /// Delivers what has been gathered, `position` behind it. Of what the replica refuses as data
    /// only the refused rows are left out, found by halving.
    async fn deliver(
        &self,
        target: &mut Target,
        position: &mut Position,
        copied: &mut Copied,
    ) -> anyhow::Result<()> {
        let mut parts = vec![target.take()];
        // Rows that the replica refuses come on top of those that were refused before it.
        let mut refused = 0;
        while let Some(mut part) = parts.pop() {
            let mut at = if parts.is_empty() {
                *position
            } else {
                match part.last() {
                    Some((cursor, _)) => Position::from_cursor(cursor)?,
                    None => continue,
                }
            };
            at.refused += refused;
            match target.deliver(&part, at).await {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::Rejected && part.len() > 1 => {
                    let second = part.split_off(part.len() / 2);
                    parts.push(second);
                    parts.push(part);
                }
                Err(error) if error.kind() == ErrorKind::Rejected && part.len() == 1 => {
                    refused += 1;
                    copied.entries = copied.entries.saturating_sub(1);
                    at.refused += 1;
                    if let Some((_, change)) = part.first() {
                        self.refuse_change(change, &error);
                    }
                    target.deliver(&[], at).await?;
                }
                Err(error) => return Err(error.into()),
            }
        }
        position.refused += refused;
        Ok(())
    }

    fn refuse_change(&self, change: &Change, error: &Error) {
        let id = match &change.mutation {
            Mutation::Append { entry, .. } => i64::try_from(entry.id.0).ok(),
            _ => None,
        };
        let rule = format!("the database refuses it: {error}");
        self.refuse(change.stream.name.to_string(), id, rule);
    }

    fn refuse(&self, stream: String, id: Option<i64>, rule: String) {
        (self.refused)(&Refused {
            table: self.table.name.clone(),
            stream,
            id,
            rule,
        });
    }
}

enum Opened {
    Replica(Target),
    /// It was imported before, this far.
    Before(Position),
}

fn taken(store: &StoreName) -> anyhow::Error {
    let text = format!(
        "--to: there is a store {store}, and it was not imported from --from; name another with \
         --store NAME=NEW"
    );
    Error::new(ErrorKind::AlreadyExists, "import", text).into()
}

fn state(stream: StreamRef, version: u64, trimmed_through: u64, position: Position) -> Change {
    Change {
        cursor: position.to_cursor(),
        committed_at: Timestamp::now(),
        stream: stream.clone(),
        mutation: Mutation::Stream(StreamState {
            stream,
            version,
            trimmed_through,
        }),
    }
}

impl Target {
    fn add(&mut self, change: Change) {
        self.bytes += change.size();
        self.batch.push((change.cursor.clone(), change));
    }

    fn is_full(&self) -> bool {
        self.batch.len() >= ITEMS || self.bytes >= BYTES
    }

    fn take(&mut self) -> Vec<(Cursor, Change)> {
        self.bytes = 0;
        std::mem::take(&mut self.batch)
    }

    async fn deliver_all(&mut self, at: Position) -> anyhow::Result<()> {
        let items = self.take();
        Ok(self.deliver(&items, at).await?)
    }

    /// Delivers items, and with them that everything up to `at` is copied.
    async fn deliver(&self, items: &[(Cursor, Change)], at: Position) -> ledger::Result<()> {
        let cursor = at.to_cursor();
        let batch = Batch {
            items: items.to_vec(),
            after: None,
            through: cursor.clone(),
            ack: Some(cursor),
            pipeline: self.pipeline.clone(),
            fence: self.fence,
        };
        self.sink.deliver(&batch).await
    }
}

#[cfg(test)]
mod tests;
