//! Following the change stream, and copying collections beside it.
//!
//! The copy reads by `_id`, each page at its own moment, and hands it on before the events that come
//! after that moment: a page is therefore never older than what was handed on before. What it holds
//! that is newer than its version says is told once more by the events up to the copy's end, so the
//! content is the source's once the stream has been followed up to there.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::{self, BoxStream};
use ledger_core::pipeline::Step;
use ledger_core::{
    CopyState, Error, ErrorKind, Progress, Result, RowChange, RowOp, Table, Timestamp, Version,
};
use ledger_layout::mongodb::{MongoDatabase, text};
use mongodb::bson::{Bson, Document, RawBsonRef, RawDocument, doc};
use xxhash_rust::xxh3::xxh3_64;

use super::contents::page;
use super::feed::{Feed, Told};
use super::position::{Position, number};
use super::source::{Selected, head};
use super::values;

pub(super) const OPERATION: &str = "follow collections";
/// How many documents of a copy are read at once.
const PAGE: i64 = 2_000;
/// How many events are taken between two pages of a copy.
const EVENTS: usize = 2_000;
/// How often a position is handed on while nothing happens: each makes the sink store it.
const ALIVE: Duration = Duration::from_secs(3);

/// A collection that is to be copied.
pub(super) struct Pending {
    pub(super) collection: String,
    /// From where a copy goes on that was interrupted.
    pub(super) resumed: Option<(u64, Bytes)>,
    /// The time that the copied documents have as their version, where it is noted already that the
    /// copy has begun.
    pub(super) begun: Option<u64>,
    /// What the collection holds now is not carried, only what is changed from now on.
    pub(super) left_out: bool,
}

impl Pending {
    pub(super) fn new(collection: impl Into<String>) -> Self {
        Self {
            collection: collection.into(),
            resumed: None,
            begun: None,
            left_out: false,
        }
    }
}

struct Copying {
    table: Arc<Table>,
    point: u64,
    after: Option<Bson>,
}

/// What the stream of steps is made from.
pub(super) struct Following {
    pub(super) database: MongoDatabase,
    pub(super) selected: Selected,
    pub(super) feed: Feed,
    pub(super) position: Position,
    /// How many events of the position's time were read again; none once that is over.
    pub(super) again: Option<u64>,
    /// The collections that the sink has tables of.
    pub(super) known: BTreeSet<String>,
    pub(super) pending: VecDeque<Pending>,
    pub(super) until: Option<u64>,
    pub(super) left: Arc<AtomicU64>,
    pub(super) is_copying: Arc<AtomicBool>,
    copy: Option<Copying>,
    alive_at: Option<Instant>,
    over: bool,
}

impl Following {
    #[expect(clippy::too_many_arguments, reason = "the parts that it is made of")]
    pub(super) fn new(
        database: MongoDatabase,
        selected: Selected,
        feed: Feed,
        position: Position,
        known: BTreeSet<String>,
        pending: VecDeque<Pending>,
        until: Option<u64>,
        left: Arc<AtomicU64>,
        is_copying: Arc<AtomicBool>,
    ) -> Self {
        is_copying.store(!pending.is_empty(), Ordering::Relaxed);
        Self {
            database,
            selected,
            feed,
            again: (position.ordinal > 0).then_some(0),
            position,
            known,
            pending,
            until,
            left,
            is_copying,
            copy: None,
            alive_at: None,
            over: false,
        }
    }

    /// The steps. They end where `until` is reached, or behind the first error.
    pub(super) fn steps(self) -> BoxStream<'static, Result<Step<RowChange>>> {
        stream::unfold(self, |mut this| async move {
            if this.over {
                return None;
            }
            let mut steps = Vec::new();
            let done = Box::pin(this.next(&mut steps)).await;
            let mut results: Vec<_> = steps.into_iter().map(Ok).collect();
            if let Err(error) = done {
                this.over = true;
                results.push(Err(error));
            }
            Some((stream::iter(results), this))
        })
        .flatten()
        .boxed()
    }

    async fn next(&mut self, steps: &mut Vec<Step<RowChange>>) -> Result<()> {
        let to_copy = self.copy.is_some() || !self.pending.is_empty();
        if !to_copy && self.until.is_some_and(|until| self.position.time >= until) {
            self.over = true;
            return Ok(());
        }
        // What was committed before the page is read comes before it, so that no event that the
        // page is newer than stands behind for long.
        if to_copy {
            self.take_ready(steps).await?;
            return self.copy(steps).await;
        }
        let told = self.feed.next().await?;
        self.take(told, steps).await?;
        self.take_ready(steps).await
    }

    async fn take_ready(&mut self, steps: &mut Vec<Step<RowChange>>) -> Result<()> {
        for _ in 0..EVENTS {
            match self.feed.ready() {
                Some(told) => self.take(told?, steps).await?,
                None => break,
            }
        }
        Ok(())
    }

    async fn take(&mut self, told: Told, steps: &mut Vec<Step<RowChange>>) -> Result<()> {
        match told {
            Told::Event(event, _room) => {
                self.event(&event, steps).await?;
                self.alive_at = Some(Instant::now());
            }
            Told::Nothing(time) => {
                if self.again.is_some() {
                    return if time > self.position.time {
                        Err(self.diverged())
                    } else {
                        Ok(())
                    };
                }
                let position = Position::before(time.saturating_add(1));
                let rare = self.alive_at.is_none_or(|at| at.elapsed() >= ALIVE);
                let awaited = self.until.is_some_and(|until| position.time >= until);
                if position > self.position && (rare || awaited) {
                    self.position = position;
                    self.alive_at = Some(Instant::now());
                    steps.push(Step::empty(stored(position)));
                }
            }
        }
        Ok(())
    }

    /// What an event comes to.
    async fn event(&mut self, event: &RawDocument, steps: &mut Vec<Step<RowChange>>) -> Result<()> {
        let time = match event.get("clusterTime") {
            Ok(Some(RawBsonRef::Timestamp(time))) => number(time),
            _ => return Err(malformed("it has no cluster time")),
        };
        let token = event
            .get_document("_id")
            .map_err(|_| malformed("it has no token"))?;
        let digest = xxh3_64(text(token, "_data")?.as_bytes());
        if self.was_told(time, digest)? {
            return Ok(());
        }
        let ordinal = if time == self.position.time {
            self.position.ordinal + 1
        } else {
            1
        };
        let mut before = self.position;
        self.position = Position {
            time,
            ordinal,
            beside: 0,
            digest,
        };
        let mut items = self.apply(event).await?;
        let last = items.pop();
        // Only the last item of an event stands where the event does: a bridge that has delivered
        // some of them meets the event again.
        for item in items {
            before = before.next_beside();
            steps.push(item.step(before));
        }
        steps.push(match last {
            Some(item) => item.step(self.position),
            None => Step::empty(stored(self.position)),
        });
        Ok(())
    }

    /// Whether an event was handed on before the stream was opened again. The one that the position
    /// stands at must be the one that was read then.
    fn was_told(&mut self, time: u64, digest: u64) -> Result<bool> {
        if time < self.position.time {
            return Ok(true);
        }
        let Some(again) = &mut self.again else {
            return Ok(false);
        };
        *again += 1;
        let again = *again;
        if time != self.position.time {
            return Err(self.diverged());
        }
        if again == self.position.ordinal {
            if digest != self.position.digest {
                return Err(self.diverged());
            }
            self.again = None;
        }
        Ok(true)
    }

    fn diverged(&self) -> Error {
        Error::new(
            ErrorKind::SourceDiverged,
            OPERATION,
            format!(
                "{}: the event that the bridge stands at is not in the oplog, as after restoring an \
                 older copy or a rollback; copy the collections anew with `ledger bridge run \
                 --resync`",
                self.database.config()
            ),
        )
    }

    async fn apply(&mut self, event: &RawDocument) -> Result<Vec<Item>> {
        let kind = text(event, "operationType")?;
        if kind == "invalidate" {
            // The database was dropped, and the stream ends. What is made in it from now on is new.
            let from = self.position.time.saturating_add(1);
            self.position = Position::before(from);
            self.feed = Feed::open(&self.database, from).await?;
            return Ok(Vec::new());
        }
        let name = |field: &str| match event.get_document(field) {
            Ok(namespace) => text(namespace, "coll").map(str::to_owned),
            Err(_) => Ok(String::new()),
        };
        let collection = name("ns")?;
        let known = self.known.contains(&collection);
        let mut items = Vec::new();
        match kind {
            "insert" | "replace" | "update" if self.selected.holds(&collection) => {
                // Without a document it has been removed since, which its own event tells.
                let Ok(document) = event.get_document("fullDocument") else {
                    return Ok(items);
                };
                self.make_known(&collection, &mut items);
                let row = values::row(document)?;
                let op = if kind == "insert" {
                    RowOp::Insert(row)
                } else {
                    RowOp::Update { row, before: None }
                };
                items.push(self.item(event, &collection, op));
            }
            "delete" if known => {
                let key = event
                    .get_document("documentKey")
                    .map_err(|_| malformed("a delete names no document"))?;
                let op = RowOp::Delete(values::key_row(key)?);
                items.push(self.item(event, &collection, op));
            }
            "drop" if known => self.empty(event, &collection, &mut items),
            "rename" => {
                if known {
                    self.empty(event, &collection, &mut items);
                }
                let to = name("to")?;
                if self.selected.holds(&to) {
                    if self.known.contains(&to) {
                        self.empty(event, &to, &mut items);
                    }
                    // Behind the removal of what was there. Noted with the event, so that the copy is
                    // made whatever happens before it begins.
                    let point = self.position.time.saturating_add(1);
                    items.push(self.noted(&to, CopyState::Begun { point }));
                    self.pending.push_back(Pending {
                        begun: Some(point),
                        ..Pending::new(to)
                    });
                    self.is_copying.store(true, Ordering::Relaxed);
                }
            }
            _ => {}
        }
        Ok(items)
    }

    /// Every document of a collection is gone.
    fn empty(&mut self, event: &RawDocument, collection: &str, items: &mut Vec<Item>) {
        let pending = self.pending.len();
        self.pending
            .retain(|pending| pending.collection != collection);
        let copied = self
            .copy
            .take_if(|copy| copy.table.name.table == collection)
            .map(|copy| copy.point);
        items.push(self.item(event, collection, RowOp::Truncate));
        // There is nothing left to be copied.
        if copied.is_some() || self.pending.len() < pending {
            let through = self.position.time;
            let point = copied.unwrap_or(through);
            items.push(self.noted(collection, CopyState::Done { point, through }));
        }
    }

    fn item(&self, event: &RawDocument, collection: &str, op: RowOp) -> Item {
        let committed_at = match event.get("wallTime") {
            Ok(Some(RawBsonRef::DateTime(at))) => Some(Timestamp::from_micros(
                at.timestamp_millis().saturating_mul(1_000),
            )),
            _ => None,
        };
        Item {
            committed_at,
            table: self.table(collection),
            version: Version::new(self.position.time, self.position.ordinal),
            op,
        }
    }

    fn noted(&self, collection: &str, state: CopyState) -> Item {
        Item {
            committed_at: None,
            table: self.table(collection),
            version: Version::new(state.point(), 0),
            op: RowOp::Copied(state),
        }
    }

    fn table(&self, collection: &str) -> Arc<Table> {
        values::table(&self.database.config().database, collection)
    }

    /// Makes the table of a collection that did not exist when the stream began.
    fn make_known(&mut self, collection: &str, items: &mut Vec<Item>) {
        let waits = |pending: &Pending| pending.collection == collection;
        if self.pending.iter().any(waits) || !self.known.insert(collection.to_owned()) {
            return;
        }
        let point = self.position.time.saturating_sub(1);
        items.push(self.noted(collection, CopyState::Begun { point }));
        let through = point;
        items.push(self.noted(collection, CopyState::Done { point, through }));
    }

    fn note(&mut self, table: &Arc<Table>, state: CopyState, steps: &mut Vec<Step<RowChange>>) {
        self.position = self.position.next_beside();
        steps.push(self.noted(&table.name.table, state).step(self.position));
    }

    /// A page of a copy.
    async fn copy(&mut self, steps: &mut Vec<Step<RowChange>>) -> Result<()> {
        let Some(copy) = &mut self.copy else {
            return self.begin(steps);
        };
        let (table, point) = (Arc::clone(&copy.table), copy.point);
        let after = copy.after.clone();
        let (documents, last) = page(&self.database, &table.name.table, after, PAGE).await?;
        let Some(last) = last else {
            let through = head(&self.database).await?;
            self.copy = None;
            self.done(&table, point, through, steps);
            return Ok(());
        };
        copy.after = Some(last.clone());
        let version = Version::new(point, 0);
        for document in &documents {
            self.position = self.position.next_beside();
            let item = Item {
                committed_at: None,
                table: Arc::clone(&table),
                version,
                op: RowOp::Insert(values::row(document)?),
            };
            steps.push(item.step(self.position));
        }
        let left = self.left.load(Ordering::Relaxed);
        let read = u64::try_from(documents.len()).unwrap_or(0);
        self.left
            .store(left.saturating_sub(read), Ordering::Relaxed);
        let after = after_bytes(last)?;
        self.note(&table, CopyState::Upto { point, after }, steps);
        Ok(())
    }

    /// Begins with a collection, or goes on with it.
    fn begin(&mut self, steps: &mut Vec<Step<RowChange>>) -> Result<()> {
        let Some(pending) = self.pending.pop_front() else {
            return Ok(());
        };
        let table = self.table(&pending.collection);
        self.known.insert(pending.collection);
        if let Some((point, after)) = pending.resumed {
            let after = Some(after_of(&after)?);
            self.copy = Some(Copying {
                table,
                point,
                after,
            });
            return Ok(());
        }
        tracing::info!(collection = table.name.table, "copying a collection");
        let point = pending.begun.unwrap_or(self.position.time);
        if pending.begun.is_none() {
            self.note(&table, CopyState::Begun { point }, steps);
        }
        if pending.left_out {
            self.done(&table, point, point, steps);
        } else {
            self.copy = Some(Copying {
                table,
                point,
                after: None,
            });
        }
        Ok(())
    }

    fn done(
        &mut self,
        table: &Arc<Table>,
        point: u64,
        through: u64,
        steps: &mut Vec<Step<RowChange>>,
    ) {
        self.note(table, CopyState::Done { point, through }, steps);
        // Pages were read at different moments: only from here on is the copy that of one.
        if let Some(until) = &mut self.until {
            *until = (*until).max(through);
        }
        tracing::info!(collection = table.name.table, "collection copied");
        if self.pending.is_empty() {
            self.is_copying.store(false, Ordering::Relaxed);
        }
    }
}

fn malformed(what: &str) -> Error {
    Error::new(ErrorKind::Corrupt, "read change event", what)
}

/// How a copy notes the `_id` that it has come to.
fn after_bytes(id: Bson) -> Result<Bytes> {
    let bytes = mongodb::bson::serialize_to_vec(&doc! {"_id": id});
    let bytes = bytes.map_err(|error| malformed("an _id").with_source(error))?;
    Ok(bytes.into())
}

/// Reads it back.
fn after_of(bytes: &[u8]) -> Result<Bson> {
    let document: Result<Document, _> = mongodb::bson::deserialize_from_slice(bytes);
    let document = document.map_err(|error| malformed("a copy's place").with_source(error))?;
    Ok(document.get("_id").cloned().unwrap_or(Bson::Null))
}

/// The cursor that is stored for a position.
fn stored(position: Position) -> ledger_core::Cursor {
    Progress::Follow(position.to_cursor()).to_cursor()
}

/// A change without its place.
struct Item {
    committed_at: Option<Timestamp>,
    table: Arc<Table>,
    version: Version,
    op: RowOp,
}

impl Item {
    fn step(self, position: Position) -> Step<RowChange> {
        Step::of(RowChange {
            cursor: stored(position),
            committed_at: self.committed_at,
            table: self.table,
            version: self.version,
            op: self.op,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_place_of_a_copy_reads_back() {
        for id in [
            Bson::from("x"),
            Bson::from(5),
            Bson::Null,
            doc! {"a": 1}.into(),
        ] {
            assert_eq!(after_of(&after_bytes(id.clone()).unwrap()).unwrap(), id);
        }
        assert!(after_of(b"no BSON").is_err());
    }
}
