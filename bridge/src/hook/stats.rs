//! What a hook tells of itself.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use ledger_core::Cursor;
use ledger_core::hook::Counts;

use super::BreakerState;

/// What a hook is doing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum HookState {
    /// Another instance has the lease, or the store cannot be reached.
    #[default]
    Waiting,
    /// It sends what the store held before.
    Copying,
    /// It follows the log.
    Following,
    /// It was asked to pause.
    Paused,
    /// It sends nothing until it is resumed: the receiver wants no more, or a delivery has failed
    /// for good.
    Disabled,
    /// It has ended.
    Stopped,
}

impl HookState {
    /// In one word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Copying => "copying",
            Self::Following => "following",
            Self::Paused => "paused",
            Self::Disabled => "disabled",
            Self::Stopped => "stopped",
        }
    }
}

/// The numbers of a hook since it was started.
#[derive(Debug, Clone, Default)]
pub struct HookStats {
    /// What it is doing.
    pub state: HookState,
    /// Whether its endpoint is spoken to.
    pub breaker: BreakerState,
    /// Items that were taken.
    pub delivered: u64,
    /// Requests that were taken.
    pub requests: u64,
    /// Attempts that failed.
    pub failures: u64,
    /// The bytes of what was taken.
    pub bytes: u64,
    /// Deliveries that failed for good.
    pub given_up: u64,
    /// How many changes are behind the cursor.
    pub lag_entries: u64,
    /// How long ago the oldest of them was written.
    pub lag: Duration,
    /// What waits.
    pub counts: Counts,
    /// Items a second, lately.
    pub rate: f64,
    /// The last error since the last success, on one line.
    pub last_error: Option<String>,
    /// Why it is disabled, where it is.
    pub disabled: Option<String>,
    /// The last stored position.
    pub position: Option<Cursor>,
}

/// The numbers, shared by the parts of a hook.
#[derive(Debug, Clone, Default)]
pub(super) struct Shared(Arc<Mutex<Inner>>);

#[derive(Debug, Default)]
struct Inner {
    stats: HookStats,
    /// What had been delivered at some moments of the last seconds.
    marks: VecDeque<(Instant, u64)>,
}

/// The time over which the rate is taken.
const WINDOW: Duration = Duration::from_secs(5);

impl Shared {
    pub(super) fn update(&self, change: impl FnOnce(&mut HookStats)) {
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut inner.stats);
    }

    pub(super) fn get(&self) -> HookStats {
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let delivered = inner.stats.delivered;
        let last = inner.marks.back().copied();
        if last.is_none_or(|(at, _)| now.duration_since(at) >= WINDOW / 10) {
            inner.marks.push_back((now, delivered));
        }
        while inner.marks.len() > 1
            && inner
                .marks
                .front()
                .is_some_and(|(at, _)| now.duration_since(*at) > WINDOW)
        {
            inner.marks.pop_front();
        }
        if let Some((at, before)) = inner.marks.front() {
            let seconds = now.duration_since(*at).as_secs_f64();
            #[allow(clippy::cast_precision_loss, reason = "a rate for people")]
            let rate = (delivered - before) as f64 / seconds.max(0.1);
            inner.stats.rate = rate;
        }
        inner.stats.clone()
    }
}
