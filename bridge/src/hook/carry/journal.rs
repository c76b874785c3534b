//! What is to be stored, and the one commit that is under way.

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use ledger_core::hook::{Attempt, Settled, State, Writes};
use ledger_core::{Cursor, Error, ErrorKind, PipelineId, Result};
use tokio::time::Instant;

use crate::hook::Hook;

/// The least time between two commits that only move the cursor.
const MOVES: Duration = Duration::from_millis(20);
/// The longest that an attempt is not stored.
const ATTEMPTS: Duration = Duration::from_secs(1);
/// The most attempts that are stored at once; of more the oldest are forgotten.
const KEPT: usize = 1_000;

/// A commit that is under way.
type Storing = BoxFuture<'static, (u64, Option<Cursor>, Result<()>)>;

/// Gathers what is to be stored. Everything that comes together while one commit is under way is
/// stored by the next, so that many deliveries share the cost of one.
pub(super) struct Journal {
    state: Arc<dyn State>,
    hook: PipelineId,
    fence: u64,
    writes: Writes,
    settled: Option<Cursor>,
    /// Whether the cursor tells of everything before it.
    tells: bool,
    attempts: Vec<Attempt>,
    /// The number of the commit that `writes` will be.
    number: u64,
    done: u64,
    storing: Option<Storing>,
    stored_at: Instant,
    attempts_at: Instant,
}

impl Journal {
    pub(super) fn new(hook: &Hook, fence: u64) -> Self {
        let now = Instant::now();
        Self {
            state: Arc::clone(&hook.state),
            hook: hook.options.pipeline.clone(),
            fence,
            writes: Writes::default(),
            settled: None,
            tells: false,
            attempts: Vec::new(),
            number: 1,
            done: 0,
            storing: None,
            stored_at: now,
            attempts_at: now,
        }
    }

    /// What the next commit will hold.
    pub(super) fn writes(&mut self) -> &mut Writes {
        &mut self.writes
    }

    /// A stream is settled this far. Of what comes for one stream in a row the last is enough.
    pub(super) fn notes(&mut self, mut settled: Settled) {
        match self.writes.settled.last_mut() {
            Some(last) if last.stream == settled.stream => {
                settled.id = settled.id.max(last.id);
                *last = settled;
            }
            _ => self.writes.settled.push(settled),
        }
    }

    /// The number of the next commit.
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// The number of the last commit that is stored.
    pub(super) fn done(&self) -> u64 {
        self.done
    }

    /// The cursor may move here.
    pub(super) fn settled(&mut self, cursor: Cursor) {
        self.settled = Some(cursor);
    }

    /// From the cursor that is stored next on, what is settled before a cursor is told by it.
    pub(super) fn cursor_tells(&mut self) {
        self.tells = true;
    }

    /// An attempt was made.
    pub(super) fn attempted(&mut self, attempt: Attempt) {
        if self.attempts.len() >= 2 * KEPT {
            self.attempts.drain(..KEPT);
        }
        self.attempts.push(attempt);
    }

    pub(super) fn is_storing(&self) -> bool {
        self.storing.is_some()
    }

    /// Whether there is nothing to store, and nothing being stored.
    pub(super) fn is_done(&self) -> bool {
        self.storing.is_none()
            && self.writes.is_empty()
            && self.settled.is_none()
            && self.attempts.is_empty()
    }

    /// Begins a commit where one is due: at once for what somebody waits for, now and then for what
    /// only shows.
    pub(super) fn begin(&mut self, now: Instant, at_once: bool) {
        let moved = self.settled.is_some() && (at_once || now >= self.stored_at + MOVES);
        let told = !self.attempts.is_empty() && (at_once || now >= self.attempts_at + ATTEMPTS);
        if self.storing.is_some() || !(moved || told || !self.writes.is_empty()) {
            return;
        }
        let mut writes = std::mem::take(&mut self.writes);
        writes.cursor = self.settled.take();
        writes.cursor_tells = writes.cursor.is_some() && std::mem::take(&mut self.tells);
        let excess = self.attempts.len().saturating_sub(KEPT);
        self.attempts.drain(..excess);
        // With something else to store they cost little, unless there are many.
        let failed = self
            .attempts
            .iter()
            .any(|attempt| !attempt.error.is_empty());
        if told || (failed && !writes.is_empty()) {
            writes.attempts = std::mem::take(&mut self.attempts);
            self.attempts_at = now;
        }
        let number = self.number;
        self.number += 1;
        self.stored_at = now;
        let (state, hook, fence) = (Arc::clone(&self.state), self.hook.clone(), self.fence);
        self.storing = Some(Box::pin(async move {
            let stored = state.commit(&hook, fence, &writes).await;
            (number, writes.cursor, stored)
        }));
    }

    /// Waits for the commit that is under way: its number, and the cursor that it stored.
    pub(super) async fn stored(&mut self) -> Result<(u64, Option<Cursor>)> {
        let Some(storing) = &mut self.storing else {
            let what = "no commit is under way";
            return Err(Error::new(ErrorKind::Internal, "store hook state", what));
        };
        let (number, cursor, stored) = storing.await;
        self.storing = None;
        stored?;
        self.done = number;
        Ok((number, cursor))
    }

    /// When a commit becomes due by time alone.
    pub(super) fn wakes(&self, now: Instant) -> Option<Instant> {
        if self.storing.is_some() {
            return None;
        }
        let moves = self.settled.is_some().then(|| self.stored_at + MOVES);
        let tells = (!self.attempts.is_empty()).then(|| self.attempts_at + ATTEMPTS);
        let at_once = (!self.writes.is_empty()).then_some(now);
        [moves, tells, at_once].into_iter().flatten().min()
    }
}
