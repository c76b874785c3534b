use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};

/// How long to wait between attempts: doubling from `first` up to `longest`.
///
/// Each wait is drawn at random between half and the whole of that, so that many pipelines that
/// failed together do not come back together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// The first wait.
    pub first: Duration,
    /// The longest wait.
    pub longest: Duration,
}

impl Default for Backoff {
    /// 100 ms, growing to 30 s.
    fn default() -> Self {
        Self {
            first: Duration::from_millis(100),
            longest: Duration::from_secs(30),
        }
    }
}

impl Backoff {
    pub(super) fn builder(self) -> ExponentialBuilder {
        // The jitter of the builder adds up to the delay itself.
        ExponentialBuilder::new()
            .with_min_delay(self.first.min(self.longest) / 2)
            .with_max_delay(self.longest / 2)
            .with_jitter()
            .without_max_times()
    }

    /// The waits, without an end.
    pub(super) fn delays(self) -> impl Iterator<Item = Duration> + Send {
        self.builder().build()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_with_jitter_and_never_exceed_the_longest() {
        let backoff = Backoff::default();
        let mut expected = backoff.first;
        let mut exact = 0;
        for delay in backoff.delays().take(50) {
            assert!(
                delay >= expected / 2 && delay <= expected,
                "{delay:?} for {expected:?}"
            );
            exact += usize::from(delay == expected || delay == expected / 2);
            expected = (expected * 2).min(backoff.longest);
        }
        assert_eq!(expected, backoff.longest);
        assert!(exact < 50, "the waits are not spread");
    }
}
