use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use ledger_core::observe::Recorder;
use ledger_core::pipeline::Backoff;
use ledger_core::{Change, Error, PipelineId, Result};
use uuid::Uuid;

/// Which changes a hook sends.
pub type Keep = Arc<dyn Fn(&Change) -> bool + Send + Sync>;

/// How a hook behaves.
#[derive(Clone)]
pub struct HookOptions {
    /// Its name, which its state, lease and attempts go by.
    pub pipeline: PipelineId,
    /// Which changes are sent; all but the states of streams where it always says yes.
    pub keep: Keep,
    /// When what failed is tried again.
    pub schedule: Schedule,
    /// What happens to a delivery that has failed for good.
    pub on_failure: HookFailure,
    /// The most items of a delivery; 500 by default.
    pub batch: usize,
    /// How long a delivery that is not full waits for more; not at all by default.
    pub wait: Duration,
    /// How many deliveries are under way at a time, each of another stream; 16 by default.
    pub concurrency: usize,
    /// How many deliveries are begun in a second; none for no bound.
    pub rate: Option<f64>,
    /// The waits between attempts while the store cannot be reached.
    pub backoff: Backoff,
    /// How long the lease lasts that keeps a second instance waiting; five seconds by default.
    pub lease: Duration,
    /// How long a stop waits for what is under way; 10 seconds by default.
    pub drain: Duration,
    /// Counts deliveries and the lag. Nobody, unless given.
    pub recorder: Option<Arc<dyn Recorder>>,
}

impl HookOptions {
    /// The defaults, for a hook of this name: appends only, by the schedule of Standard Webhooks.
    pub fn new(pipeline: PipelineId) -> Self {
        Self {
            pipeline,
            keep: Arc::new(|change| {
                matches!(change.mutation, ledger_core::Mutation::Append { .. })
            }),
            schedule: Schedule::standard(),
            on_failure: HookFailure::default(),
            batch: 500,
            wait: Duration::ZERO,
            concurrency: 16,
            rate: None,
            backoff: Backoff::default(),
            lease: Duration::from_secs(5),
            drain: Duration::from_secs(10),
            recorder: None,
        }
    }
}

impl fmt::Debug for HookOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HookOptions")
            .field("pipeline", &self.pipeline)
            .field("schedule", &self.schedule)
            .field("on_failure", &self.on_failure)
            .finish_non_exhaustive()
    }
}

/// What happens to a delivery whose attempts are used up, or that is refused for good.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum HookFailure {
    /// The hook sends nothing more until it is resumed.
    Stop,
    /// It, and everything later in its stream, becomes dead letters; the other streams go on.
    #[default]
    ParkStream,
    /// It becomes a dead letter, and its stream goes on.
    Skip,
}

impl FromStr for HookFailure {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "stop" => Ok(Self::Stop),
            "park-stream" => Ok(Self::ParkStream),
            "skip" => Ok(Self::Skip),
            other => Err(Error::invalid(
                "parse on_failure",
                format!("{other:?} is none of stop, park-stream, skip"),
            )),
        }
    }
}

impl fmt::Display for HookFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Stop => "stop",
            Self::ParkStream => "park-stream",
            Self::Skip => "skip",
        })
    }
}

/// The waits between the attempts of a delivery: one less than there are attempts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Schedule(Vec<Duration>);

impl Schedule {
    /// These waits.
    pub fn new(waits: Vec<Duration>) -> Self {
        Self(waits)
    }

    /// Ten attempts within some three days, as Standard Webhooks recommends.
    pub fn standard() -> Self {
        const MINUTE: u64 = 60;
        const HOUR: u64 = 60 * MINUTE;
        let waits = [
            5,
            5 * MINUTE,
            30 * MINUTE,
            2 * HOUR,
            5 * HOUR,
            10 * HOUR,
            14 * HOUR,
            20 * HOUR,
            24 * HOUR,
        ];
        Self(waits.map(Duration::from_secs).to_vec())
    }

    /// So many attempts, 200 ms between the first two, doubling up to 30 s.
    pub fn doubling(attempts: u32) -> Self {
        let longest = Duration::from_secs(30);
        let first = Duration::from_millis(200);
        let waits = (1..attempts).map(|n| {
            let factor = 1_u32.checked_shl(n - 1).unwrap_or(u32::MAX).max(1);
            first.saturating_mul(factor).min(longest)
        });
        Self(waits.collect())
    }

    /// The waits.
    pub fn waits(&self) -> &[Duration] {
        &self.0
    }

    /// How long to wait after so many attempts have failed, within a tenth of the schedule's own
    /// time, so that what failed together does not come back together. None where there are no
    /// attempts left.
    pub(super) fn wait(&self, failed: u32) -> Option<Duration> {
        let index = usize::try_from(failed).ok()?.checked_sub(1)?;
        let wait = self.0.get(index)?;
        Some(wait.mul_f64(0.9 + 0.2 * random()))
    }
}

/// A number from 0 to 1.
pub(super) fn random() -> f64 {
    let (high, _) = Uuid::new_v4().as_u64_pair();
    // The lowest bits: the high ones hold the version of the form.
    let bits = u32::try_from((high >> 16) & 0xffff_ffff).unwrap_or(0);
    f64::from(bits) / f64::from(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_waits_are_the_schedules_within_a_tenth() {
        let schedule = Schedule::standard();
        assert_eq!(schedule.waits().len(), 9);
        for (index, wait) in schedule.waits().iter().enumerate() {
            let failed = u32::try_from(index).unwrap() + 1;
            let drawn: Vec<_> = (0..20).map(|_| schedule.wait(failed).unwrap()).collect();
            assert!(
                drawn
                    .iter()
                    .all(|d| *d >= wait.mul_f64(0.899) && *d <= wait.mul_f64(1.101))
            );
            assert!(
                drawn.windows(2).any(|pair| pair[0] != pair[1]),
                "not spread"
            );
        }
        assert_eq!(schedule.wait(10), None);
    }

    #[test]
    fn compat_waits_double_from_200_ms_to_30_s() {
        let millis: Vec<_> = Schedule::doubling(11)
            .waits()
            .iter()
            .map(Duration::as_millis)
            .collect();
        assert_eq!(
            millis,
            [
                200, 400, 800, 1_600, 3_200, 6_400, 12_800, 25_600, 30_000, 30_000
            ]
        );
        assert!(Schedule::doubling(1).waits().is_empty());
        assert_eq!(Schedule::doubling(1).wait(1), None);
    }
}
