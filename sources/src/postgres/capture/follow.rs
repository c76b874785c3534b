//! Following the log, and copying tables beside it.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::{self, BoxStream};
use ledger_core::pipeline::Step;
use ledger_core::{CopyState, Error, ErrorKind, Result, RowChange, RowOp, Version};
use ledger_layout::postgres::PostgresConfig;
use sqlx::postgres::PgPool;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::begin::Begin;
use super::catalog::Found;
use super::copy::{Copied, Copy};
use super::in_flight::InFlight;
use super::position::Position;
use super::rows::Rows;
use super::source::{acquire, written};
use crate::postgres::replication::{Feed, Frame, decode};

/// How long the log is followed between two rounds of copying, where it does not run dry before.
const FOLLOW: Duration = Duration::from_millis(250);
/// How often a position is handed on while nothing happens: each makes the sink store it.
const ALIVE: Duration = Duration::from_secs(3);
/// How many frames are taken at a time.
const FRAMES: usize = 512;
/// At how many bytes of them no further one is taken.
const FRAME_BYTES: usize = 1 << 20;

/// A table that is to be copied.
pub(super) struct Pending {
    found: Found,
    /// From where a copy goes on that was interrupted.
    resumed: Option<(u64, Bytes)>,
    left_out: bool,
    /// Up to where the log is followed before, so that it has told of every shape that the table had
    /// before the one that is copied.
    not_before: u64,
}

impl Pending {
    pub(super) fn new(found: Found) -> Self {
        Self {
            found,
            resumed: None,
            left_out: false,
            not_before: 0,
        }
    }

    pub(super) fn not_before(found: Found, not_before: u64) -> Self {
        Self {
            not_before,
            ..Self::new(found)
        }
    }

    pub(super) fn resumed(found: Found, point: u64, after: Bytes) -> Self {
        Self {
            resumed: Some((point, after)),
            ..Self::new(found)
        }
    }

    /// What the table holds now is not carried, only what is changed from now on.
    pub(super) fn leave_out(&mut self) {
        self.left_out = true;
    }
}

/// A table whose copy waits for the transactions that are running; given up when dropped.
pub(super) struct Beginning {
    pending: Pending,
    task: JoinSet<Result<Copy>>,
}

/// What the stream of steps is made from.
pub(super) struct Following {
    pub(super) config: PostgresConfig,
    pub(super) pool: PgPool,
    pub(super) width: usize,
    /// Whether the log is followed while tables are copied.
    pub(super) side_by_side: bool,
    pub(super) feed: Feed,
    pub(super) rows: Rows,
    pub(super) pending: VecDeque<Pending>,
    pub(super) beginning: Option<Beginning>,
    pub(super) copy: Option<Copy>,
    /// How many rows of a copy without keys were handed on: a row's number is a part of its version.
    pub(super) numbered: u64,
    pub(super) until: Option<Position>,
    pub(super) left: Arc<AtomicU64>,
    pub(super) is_copying: Arc<AtomicBool>,
    pub(super) in_flight: Arc<InFlight>,
    pub(super) alive_at: Option<Instant>,
    pub(super) over: bool,
}

impl Following {
    /// The steps. They end where `until` is reached, or behind the first error.
    pub(super) fn steps(self) -> BoxStream<'static, Result<Step<RowChange>>> {
        let rows = self.pending.iter().map(|pending| pending.found.rows).sum();
        self.left.store(rows, Ordering::Relaxed);
        self.is_copying
            .store(!self.pending.is_empty(), Ordering::Relaxed);
        stream::unfold((self, true), |(mut this, turn)| async move {
            if this.over {
                return None;
            }
            let mut steps = Vec::new();
            let done = Box::pin(this.next(turn, &mut steps)).await;
            let rows = steps.iter().filter(|step| step.item.is_some()).count();
            this.in_flight.hand_on(this.rows.position, rows as u64);
            let mut results: Vec<_> = steps.into_iter().map(Ok).collect();
            let turn = match done {
                Ok(turn) => turn,
                Err(error) => {
                    this.over = true;
                    results.push(Err(error));
                    false
                }
            };
            Some((stream::iter(results), (this, turn)))
        })
        .flatten()
        .boxed()
    }

    /// Some steps. `copying` tells whose turn it is; returned is whose turn comes next.
    async fn next(&mut self, copying: bool, steps: &mut Vec<Step<RowChange>>) -> Result<bool> {
        self.take_up_recopies().await?;
        let to_copy = self.copy.is_some() || self.beginning.is_some() || !self.pending.is_empty();
        if let Some(until) = self.until
            && !to_copy
            && self.rows.position >= until
        {
            self.over = true;
            return Ok(false);
        }
        if to_copy && (copying || !self.side_by_side) {
            return self.copy(steps).await;
        }
        self.follow(to_copy, steps).await?;
        Ok(true)
    }

    /// Follows the log: for a while where something is to be copied, else until something comes.
    async fn follow(&mut self, briefly: bool, steps: &mut Vec<Step<RowChange>>) -> Result<()> {
        let frame = if briefly {
            match tokio::time::timeout(FOLLOW / 10, self.feed.next()).await {
                Ok(frame) => frame?,
                Err(_) => return Ok(()),
            }
        } else {
            self.feed.next().await?
        };
        let mut bytes = frame.size();
        self.take(frame, steps).await?;
        let begun = Instant::now();
        for _ in 1..FRAMES {
            if bytes >= FRAME_BYTES || briefly && begun.elapsed() > FOLLOW {
                return Ok(());
            }
            match self.feed.ready() {
                Some(frame) => {
                    let frame = frame?;
                    bytes += frame.size();
                    self.take(frame, steps).await?;
                }
                None => return Ok(()),
            }
        }
        Ok(())
    }

    async fn take(&mut self, frame: Frame, steps: &mut Vec<Step<RowChange>>) -> Result<()> {
        match frame {
            Frame::Data(bytes) => {
                let before = steps.len();
                self.rows.read(decode(bytes)?, steps).await?;
                if steps.len() > before {
                    self.alive_at = Some(Instant::now());
                }
            }
            Frame::Alive(end) => {
                let rare = self.alive_at.is_none_or(|at| at.elapsed() >= ALIVE);
                let awaited = self.until.is_some_and(|until| end >= until.commit);
                if (rare || awaited)
                    && let Some(step) = self.rows.alive(end)
                {
                    self.alive_at = Some(Instant::now());
                    steps.push(step);
                }
            }
        }
        Ok(())
    }

    /// A part of the copying. It stays its turn until the rows that are being read are handed on: a
    /// change that the log tells meanwhile is newer than they are.
    async fn copy(&mut self, steps: &mut Vec<Step<RowChange>>) -> Result<bool> {
        let Some(copy) = &mut self.copy else {
            if self.beginning.is_some() {
                Box::pin(self.go_on_beginning(steps)).await?;
                return Ok(true);
            }
            if !self.is_due().await? {
                self.follow(true, steps).await?;
                return Ok(true);
            }
            if let Some(pending) = self.pending.pop_front() {
                self.begin(pending)?;
            }
            return Ok(true);
        };
        let (table, point) = (Arc::clone(&copy.table), copy.point);
        let copied = copy.next().await?;
        match copied {
            Copied::Rows(rows) => {
                let left = rows.len() as u64;
                let take = |left: u64, rows: u64| left.saturating_sub(rows);
                let before = self.left.load(Ordering::Relaxed);
                self.left.store(take(before, left), Ordering::Relaxed);
                for row in rows {
                    let ordinal = if table.is_keyed() {
                        0
                    } else {
                        self.numbered += 1;
                        self.numbered
                    };
                    let version = Version::new(point, ordinal);
                    steps.push(self.rows.beside(&table, version, RowOp::Insert(row)));
                }
            }
            Copied::Upto(after) => {
                self.note(&table, CopyState::Upto { point, after }, steps);
            }
            Copied::All => {
                let through = written(&mut *acquire(&self.pool).await?).await?;
                self.copy = None;
                self.done(&table, point, through, steps);
            }
        }
        Ok(self.copy.as_ref().is_some_and(Copy::is_reading))
    }

    /// Whether the next table may be copied: the log has been followed to where the catalogue had the
    /// shape that it has now.
    async fn is_due(&mut self) -> Result<bool> {
        let position = self.rows.position.commit;
        let Some(pending) = self.pending.front() else {
            return Ok(true);
        };
        if pending.not_before == 0 {
            return Ok(true);
        }
        if pending.not_before > position {
            return Ok(false);
        }
        let Some(pending) = self.pending.pop_front() else {
            return Ok(true);
        };
        // None: it has been dropped, or is not selected any more.
        let Some(pending) = self.moved(pending).await? else {
            return Ok(false);
        };
        let due = pending.not_before <= position;
        self.pending.push_front(pending);
        Ok(due)
    }

    fn note(
        &mut self,
        table: &Arc<ledger_core::Table>,
        state: CopyState,
        steps: &mut Vec<Step<RowChange>>,
    ) {
        let version = Version::new(state.point(), 0);
        let step = self.rows.beside(table, version, RowOp::Copied(state));
        steps.push(step);
    }

    fn done(
        &mut self,
        table: &Arc<ledger_core::Table>,
        point: u64,
        through: u64,
        steps: &mut Vec<Step<RowChange>>,
    ) {
        self.note(table, CopyState::Done { point, through }, steps);
        if let Some(carried) = self.carried(table) {
            carried.point = point;
            carried.through = through;
        }
        // Ranges were read at different moments: only from here on is the copy that of one.
        if let Some(until) = &mut self.until {
            *until = (*until).max(Position::between(through));
        }
        tracing::info!(table = %table.name, "table copied");
        if self.pending.is_empty() && self.beginning.is_none() {
            self.is_copying.store(false, Ordering::Relaxed);
        }
    }

    fn carried(&mut self, table: &ledger_core::Table) -> Option<&mut super::rows::Carried> {
        let id = u32::try_from(table.id).ok()?;
        self.rows.carried.get_mut(&id)
    }

    /// Begins with a table, or goes on with it.
    fn begin(&mut self, pending: Pending) -> Result<()> {
        let found = &pending.found;
        if let Some((point, after)) = &pending.resumed {
            let (pool, width) = (self.pool.clone(), self.width);
            self.copy = Some(Copy::by_key(pool, found, *point, Some(after), width)?);
            return Ok(());
        }
        let begin = Begin {
            config: self.config.clone(),
            pool: self.pool.clone(),
            width: self.width,
            found: found.clone(),
            left_out: pending.left_out,
        };
        let mut task = JoinSet::new();
        task.spawn(begin.run());
        self.beginning = Some(Beginning { pending, task });
        Ok(())
    }

    /// Goes on with the table that is to be copied, where the transactions that it waits for are over.
    async fn go_on_beginning(&mut self, steps: &mut Vec<Step<RowChange>>) -> Result<()> {
        let Some(beginning) = &mut self.beginning else {
            return Ok(());
        };
        let begun = if self.side_by_side {
            beginning.task.try_join_next()
        } else {
            beginning.task.join_next().await
        };
        let Some(begun) = begun else {
            return self.follow(true, steps).await;
        };
        let copy = begun.map_err(|error| {
            let what = "the beginning of a copy ended out of order";
            Error::new(ErrorKind::Internal, "copy tables", what).with_source(error)
        })??;
        let Some(Beginning { pending, .. }) = self.beginning.take() else {
            return Ok(());
        };
        let table = Arc::clone(&pending.found.table);
        let left_out = pending.left_out;
        // What the copy is a copy of is known now; where the table has got another shape meanwhile, the
        // log has to tell that first.
        let Some(pending) = self.moved(pending).await? else {
            return Ok(());
        };
        if pending.not_before > self.rows.position.commit {
            self.pending.push_front(pending);
            return Ok(());
        }
        tracing::info!(table = %table.name, rows = pending.found.rows, "copying a table");
        let point = copy.point;
        if let Some(carried) = self.carried(&table) {
            carried.table = Arc::clone(&table);
            carried.point = point;
            carried.through = u64::MAX;
        }
        self.note(&table, CopyState::Begun { point }, steps);
        if left_out {
            self.done(&table, point, point, steps);
        } else {
            self.numbered = 0;
            self.copy = Some(copy);
        }
        Ok(())
    }

    /// A table as the catalogue shows it now: to be copied later, where that is another shape than
    /// before. None where it is not to be copied any more.
    async fn moved(&mut self, mut pending: Pending) -> Result<Option<Pending>> {
        let Ok(id) = u32::try_from(pending.found.table.id) else {
            return Ok(Some(pending));
        };
        let mut conn = acquire(&self.pool).await?;
        let found = self.rows.found(&mut conn, &HashSet::from([id])).await?;
        let Some(found) = found.into_iter().next() else {
            return Ok(None);
        };
        if found.table.columns != pending.found.table.columns {
            pending.found = found;
            pending.not_before = written(&mut conn).await?;
        }
        Ok(Some(pending))
    }

    /// Tables whose content the log does not tell are copied anew.
    async fn take_up_recopies(&mut self) -> Result<()> {
        if self.rows.recopy.is_empty() {
            return Ok(());
        }
        let wanted = std::mem::take(&mut self.rows.recopy);
        let mut conn = acquire(&self.pool).await?;
        let found = self.rows.found(&mut conn, &wanted).await?;
        let not_before = written(&mut conn).await?;
        for found in found {
            self.pending
                .retain(|pending| pending.found.table.id != found.table.id);
            if self
                .beginning
                .as_ref()
                .is_some_and(|beginning| beginning.pending.found.table.id == found.table.id)
            {
                self.beginning = None;
            }
            if self
                .copy
                .as_ref()
                .is_some_and(|copy| copy.table.id == found.table.id)
            {
                self.copy = None;
            }
            self.is_copying.store(true, Ordering::Relaxed);
            self.pending
                .push_back(Pending::not_before(found, not_before));
        }
        Ok(())
    }
}
