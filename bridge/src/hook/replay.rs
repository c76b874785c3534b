//! Sending again what was sent before.

use std::collections::HashMap;
use std::time::Duration;

use futures::{StreamExt as _, TryStreamExt as _};
use ledger_core::hook::{Attempt, AttemptQuery, Outcome};
use ledger_core::{
    Change, Cursor, Entry, EntryId, Error, ErrorKind, Mutation, ReadOptions, Result, StoreExt as _,
    StreamKey, StreamName, StreamRef, Timestamp,
};
use tokio::time::Instant;

use super::Hook;
use super::carry::delivery;
use super::lane::joined;
use super::source::log;

/// How many attempts, or streams, are looked at at a time.
const PAGE: usize = 500;

/// What to send again.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Selection {
    /// Only this stream.
    pub stream: Option<StreamName>,
    /// Only entries appended at or after this time; with `status`, attempts made since.
    pub since: Option<Timestamp>,
    /// Only entries appended before this time; with `status`, attempts made before.
    pub until: Option<Timestamp>,
    /// Only deliveries whose last attempt, as the log of attempts has it, came to this.
    pub status: Option<Outcome>,
    /// Tell what would be sent, and send nothing.
    pub dry_run: bool,
    /// How many deliveries are sent a second at most.
    pub rate: Option<f64>,
}

/// What a replay came to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Told {
    /// The streams concerned.
    pub streams: u64,
    /// How many deliveries there are.
    pub deliveries: u64,
    /// How many entries they hold.
    pub entries: u64,
    /// How many were taken; 0 in a dry run.
    pub delivered: u64,
    /// How many were not.
    pub failed: u64,
    /// Deliveries whose entries have been trimmed since, or that held none.
    pub gone: u64,
}

struct Replay<'a> {
    hook: &'a Hook,
    selection: &'a Selection,
    told: Told,
    source: uuid::Uuid,
    next: Instant,
}

impl Hook {
    /// Sends entries again, each stream's in order, one delivery after the other: whatever came of
    /// it before, and beside what the hook is doing. Those that are sent as they were before have the
    /// ids of before.
    pub async fn replay(&self, selection: &Selection) -> Result<Told> {
        if selection
            .rate
            .is_some_and(|rate| !(rate > 0.0 && rate.is_finite()))
        {
            return Err(Error::invalid("replay", "rate must be above 0"));
        }
        let source = log(self.source.as_ref())?.identity().await?.store;
        let mut replay = Replay {
            hook: self,
            selection,
            told: Told::default(),
            source,
            next: Instant::now(),
        };
        match selection.status {
            Some(status) => replay.attempts(status).await?,
            None => replay.entries().await?,
        }
        Ok(replay.told)
    }
}

impl Replay<'_> {
    /// By the entries that there are.
    async fn entries(&mut self) -> Result<()> {
        if let Some(stream) = &self.selection.stream {
            return self.stream(stream.clone()).await;
        }
        let mut after: Option<StreamName> = None;
        loop {
            let store = &self.hook.source;
            let page = store.streams(after.as_ref(), PAGE).await?;
            let Some(last) = page.last() else {
                return Ok(());
            };
            after = Some(last.clone());
            for stream in page {
                self.stream(stream).await?;
            }
        }
    }

    async fn stream(&mut self, stream: StreamName) -> Result<()> {
        let options = ReadOptions {
            since: self.selection.since,
            until: self.selection.until,
            ..ReadOptions::all()
        };
        let most = self.hook.options.batch.max(1);
        let keep = self.hook.options.keep.clone();
        let changes = self.hook.source.read(&stream, options);
        let changes = changes.map_ok(change);
        let changes = changes.try_filter(|change| std::future::ready(keep(change)));
        let mut chunks = changes.try_chunks(most);
        let before = self.told.deliveries;
        while let Some(chunk) = chunks.next().await {
            let mut chunk = chunk.map_err(|error| error.1)?;
            while !chunk.is_empty() {
                let count = joined(chunk.iter(), most).count.max(1);
                let rest = chunk.split_off(count.min(chunk.len()));
                self.send(std::mem::replace(&mut chunk, rest), None).await?;
            }
        }
        self.told.streams += u64::from(self.told.deliveries > before);
        Ok(())
    }

    /// By what the attempts came to: of each delivery the last one counts.
    async fn attempts(&mut self, status: Outcome) -> Result<()> {
        let pipeline = &self.hook.options.pipeline;
        let mut query = AttemptQuery {
            stream: self.selection.stream.as_ref().map(ToString::to_string),
            since: self.selection.since,
            until: self.selection.until,
            limit: PAGE,
            ..AttemptQuery::default()
        };
        let mut last: HashMap<String, Attempt> = HashMap::new();
        loop {
            let page = self.hook.state.attempts(pipeline, &query).await?;
            let Some(oldest) = page.last() else { break };
            query.before = Some(oldest.number);
            for attempt in page {
                last.entry(attempt.id.clone()).or_insert(attempt);
            }
        }
        let mut found: Vec<_> = last
            .into_values()
            .filter(|attempt| attempt.outcome == status.as_str())
            .collect();
        found.sort_by_key(|attempt| attempt.number);
        let mut streams = std::collections::BTreeSet::new();
        for attempt in found {
            let changes = self.again(&attempt).await?;
            if changes.is_empty() {
                self.told.gone += 1;
                continue;
            }
            streams.insert(attempt.name.clone());
            self.send(changes, Some(attempt.id)).await?;
        }
        self.told.streams = streams.len() as u64;
        Ok(())
    }

    /// The entries of a delivery, as they are now.
    async fn again(&self, attempt: &Attempt) -> Result<Vec<Change>> {
        let range = (
            attempt.first.parse::<EntryId>(),
            attempt.last.parse::<EntryId>(),
        );
        let ((Ok(first), Ok(last)), "append") = (range, attempt.kind.as_str()) else {
            return Ok(Vec::new());
        };
        let options = ReadOptions {
            after: first.0.checked_sub(1).map(EntryId),
            limit: usize::try_from(attempt.items).ok(),
            ..ReadOptions::all()
        };
        let stream = StreamName::new(&attempt.name)?;
        let entries = self.hook.source.read(&stream, options);
        let entries = entries.try_filter(|entry| std::future::ready(entry.id <= last));
        entries.map_ok(change).try_collect().await
    }

    async fn send(&mut self, changes: Vec<Change>, id: Option<String>) -> Result<()> {
        self.told.deliveries += 1;
        self.told.entries += changes.len() as u64;
        if self.selection.dry_run {
            return Ok(());
        }
        if let Some(rate) = self.selection.rate {
            tokio::time::sleep_until(self.next).await;
            let step = Duration::try_from_secs_f64(1.0 / rate).unwrap_or(Duration::from_hours(1));
            self.next = Instant::now().max(self.next) + step;
        }
        let Some(mut delivery) = delivery(self.hook, self.source, changes, 1) else {
            let what = "a delivery without changes";
            return Err(Error::new(ErrorKind::Internal, "replay", what));
        };
        if let Some(id) = id {
            delivery.id = id;
        }
        let answer = self.hook.post(&delivery).await?;
        if answer.outcome == Outcome::Delivered {
            self.told.delivered += 1;
        } else {
            self.told.failed += 1;
        }
        Ok(())
    }
}

/// An entry as the change that appended it.
fn change(entry: Entry) -> Change {
    Change {
        cursor: Cursor::new(b'r', &entry.id.0.to_be_bytes()),
        committed_at: entry.created_at,
        stream: StreamRef {
            // An entry's id is its store's, so nothing goes by the key.
            key: StreamKey::default(),
            name: entry.stream.clone(),
            name_version: 0,
        },
        mutation: Mutation::Append {
            entry: Box::new(entry),
            version: 0,
        },
    }
}
