//! What a bridge tells of itself.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use ledger_core::Cursor;

/// What a bridge is doing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum State {
    /// Another instance has the lease, or source or sink cannot be reached.
    #[default]
    Waiting,
    /// It copies what the store held before.
    Copying,
    /// It follows the log.
    Following,
    /// It was asked to pause.
    Paused,
    /// It has ended.
    Stopped,
}

impl State {
    /// In one word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Copying => "copying",
            Self::Following => "following",
            Self::Paused => "paused",
            Self::Stopped => "stopped",
        }
    }
}

/// The numbers of a bridge since it was started.
#[derive(Debug, Clone, Default)]
pub struct Stats {
    /// What it is doing.
    pub state: State,
    /// Mutations delivered, those that were replayed included.
    pub delivered: u64,
    /// The bytes of these, roughly.
    pub bytes: u64,
    /// Mutations left out by the skip list.
    pub skipped: u64,
    /// Mutations set aside as dead letters.
    pub parked: u64,
    /// Mutations that the sink refused and that were left out (`on_failure: skip`).
    pub refused: u64,
    /// Deliveries.
    pub batches: u64,
    /// Mutations a second, lately.
    pub rate: f64,
    /// How many entries the store held when the copy began; 0 where nothing was copied.
    pub to_copy: u64,
    /// How many mutations are behind the cursor.
    pub lag_entries: u64,
    /// How long ago the oldest of them was written.
    pub lag: Duration,
    /// How many bytes of the source's log are behind it, where the source can tell.
    pub lag_bytes: Option<u64>,
    /// Who keeps the log's readers waiting at this moment.
    pub held_by: Vec<String>,
    /// The last error, on one line.
    pub last_error: Option<String>,
    /// The last acknowledged position.
    pub position: Option<Cursor>,
}

impl Stats {
    /// About how long catching up takes at the present rate.
    pub fn time_left(&self) -> Option<Duration> {
        let left = match self.state {
            State::Copying => self.to_copy.saturating_sub(self.delivered) + self.lag_entries,
            _ => self.lag_entries,
        };
        #[allow(clippy::cast_precision_loss, reason = "an estimate")]
        let seconds = left as f64 / self.rate;
        seconds
            .is_finite()
            .then(|| Duration::from_secs_f64(seconds.min(1e9)))
    }
}

/// The numbers, shared by the parts of a bridge.
#[derive(Debug, Clone, Default)]
pub(crate) struct Shared(Arc<Mutex<Inner>>);

#[derive(Debug, Default)]
struct Inner {
    stats: Stats,
    window: Option<(Instant, u64)>,
}

/// The time over which the rate is taken.
const WINDOW: Duration = Duration::from_secs(2);

impl Shared {
    pub(crate) fn update(&self, change: impl FnOnce(&mut Stats)) {
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut inner.stats);
    }

    pub(crate) fn delivered(&self, items: usize, bytes: usize, position: Option<Cursor>) {
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        inner.stats.delivered += items as u64;
        inner.stats.bytes += bytes as u64;
        inner.stats.batches += 1;
        inner.stats.position = position.or(inner.stats.position.take());
        inner.stats.last_error = None;
        inner.measure();
    }

    pub(crate) fn get(&self) -> Stats {
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        inner.measure();
        inner.stats.clone()
    }
}

impl Inner {
    fn measure(&mut self) {
        let now = Instant::now();
        let delivered = self.stats.delivered;
        let (since, before) = *self.window.get_or_insert((now, delivered));
        let elapsed = now.duration_since(since);
        if elapsed >= WINDOW || self.stats.rate == 0.0 && elapsed >= WINDOW / 8 {
            #[allow(clippy::cast_precision_loss, reason = "a rate for people")]
            let rate = (delivered - before) as f64 / elapsed.as_secs_f64();
            self.stats.rate = rate;
            self.window = Some((now, delivered));
        }
    }
}
