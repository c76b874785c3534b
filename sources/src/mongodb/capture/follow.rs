//! Following the change stream, and copying collections beside it, in turns.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use futures::stream::{self, BoxStream};
use ledger_core::pipeline::Step;
use ledger_core::{
    CopyState, Error, ErrorKind, Progress, Result, RowChange, RowOp, Table, TableSink, Timestamp,
    Version,
};
use ledger_layout::mongodb::{MongoDatabase, text};
use mongodb::bson::{RawBsonRef, RawDocument};
use tokio::sync::OwnedSemaphorePermit;
use xxhash_rust::xxh3::xxh3_64;

use super::copying::{Copying, Pending};
use super::events::malformed;
use super::feed::{Feed, Told};
use super::position::{Position, number};
use super::shapes::Shapes;
use super::source::Selected;

pub(super) const OPERATION: &str = "follow collections";
/// How many events are taken between two pages of a copy.
const EVENTS: usize = 2_000;
/// How often a position is handed on while nothing happens: each makes the sink store it.
const ALIVE: Duration = Duration::from_secs(3);

/// What the stream of steps is made from.
pub(super) struct Following {
    pub(super) database: MongoDatabase,
    pub(super) sink: Arc<dyn TableSink>,
    pub(super) shapes: Shapes,
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
    pub(super) copy: Option<Copying>,
    alive_at: Option<Instant>,
    /// The room of the events whose steps are not handed on yet: they are as large.
    rooms: Vec<OwnedSemaphorePermit>,
    over: bool,
}

impl Following {
    #[expect(clippy::too_many_arguments, reason = "the parts that it is made of")]
    pub(super) fn new(
        database: MongoDatabase,
        sink: Arc<dyn TableSink>,
        shapes: Shapes,
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
            sink,
            shapes,
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
            rooms: Vec::new(),
            over: false,
        }
    }

    /// The steps. They end where `until` is reached, or behind the first error.
    pub(super) fn steps(self) -> BoxStream<'static, Result<Step<RowChange>>> {
        stream::unfold(self, |mut this| async move {
            if this.over {
                return None;
            }
            this.rooms.clear();
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
            Told::Event(event, room) => {
                self.rooms.push(room);
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
}

/// The cursor that is stored for a position.
fn stored(position: Position) -> ledger_core::Cursor {
    Progress::Follow(position.to_cursor()).to_cursor()
}

/// A change without its place.
pub(super) struct Item {
    pub(super) committed_at: Option<Timestamp>,
    pub(super) table: Arc<Table>,
    pub(super) version: Version,
    pub(super) op: RowOp,
}

impl Item {
    /// How far the copy of a table is.
    pub(super) fn noted(table: Arc<Table>, state: CopyState) -> Self {
        Self {
            committed_at: None,
            table,
            version: Version::new(state.point(), 0),
            op: RowOp::Copied(state),
        }
    }

    pub(super) fn step(self, position: Position) -> Step<RowChange> {
        Step::of(RowChange {
            cursor: stored(position),
            committed_at: self.committed_at,
            table: self.table,
            version: self.version,
            op: self.op,
        })
    }
}
