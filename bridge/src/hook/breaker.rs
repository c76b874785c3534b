//! The circuit breaker of an endpoint.

use std::collections::HashSet;
use std::time::Duration;

use ledger_core::StreamKey;
use tokio::time::Instant;

/// How many failures in a row, with no success between, open it.
const FAILURES: u32 = 10;
/// How long it stays open: the first time, and at most.
const FIRST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_mins(1);

/// Whether an endpoint is spoken to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum BreakerState {
    /// It is.
    #[default]
    Closed,
    /// It is not, for a while: everything has failed lately.
    Open,
    /// A single delivery tries whether it answers again.
    HalfOpen,
}

impl BreakerState {
    /// In one word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "half-open",
        }
    }
}

/// Opens when nothing but failures came from the endpoint, of more than one stream: a stream that
/// fails alone has its own schedule, and holds no other up.
#[derive(Debug)]
pub(super) struct Breaker {
    state: BreakerState,
    failures: u32,
    streams: HashSet<StreamKey>,
    until: Instant,
    pause: Duration,
    probing: bool,
}

impl Breaker {
    pub(super) fn new() -> Self {
        Self {
            state: BreakerState::Closed,
            failures: 0,
            streams: HashSet::new(),
            until: Instant::now(),
            pause: FIRST,
            probing: false,
        }
    }

    pub(super) fn state(&self) -> BreakerState {
        self.state
    }

    /// When it may be tried again; none where nothing keeps it from that.
    pub(super) fn wakes(&self) -> Option<Instant> {
        (self.state == BreakerState::Open).then_some(self.until)
    }

    /// Whether a delivery may begin now.
    pub(super) fn allows(&mut self, now: Instant) -> bool {
        if self.state == BreakerState::Open && now >= self.until {
            self.state = BreakerState::HalfOpen;
            self.probing = false;
        }
        match self.state {
            BreakerState::Closed => true,
            BreakerState::Open => false,
            BreakerState::HalfOpen => !self.probing,
        }
    }

    /// A delivery begins.
    pub(super) fn begins(&mut self) {
        self.probing = self.state == BreakerState::HalfOpen;
    }

    /// The endpoint has answered. Tells whether it had been away.
    pub(super) fn success(&mut self) -> bool {
        self.failures = 0;
        self.streams.clear();
        self.probing = false;
        let was = self.state;
        if was == BreakerState::HalfOpen {
            self.state = BreakerState::Closed;
            self.pause = FIRST;
        }
        was == BreakerState::HalfOpen
    }

    /// A delivery of this stream has failed. Tells whether that opens it.
    pub(super) fn failure(&mut self, stream: StreamKey, now: Instant) -> bool {
        self.failures = self.failures.saturating_add(1);
        if self.streams.len() < 2 {
            self.streams.insert(stream);
        }
        let opens = match self.state {
            BreakerState::HalfOpen => {
                self.pause = (self.pause * 2).min(LONGEST);
                true
            }
            BreakerState::Closed => self.failures >= FAILURES && self.streams.len() > 1,
            BreakerState::Open => false,
        };
        if opens {
            self.state = BreakerState::Open;
            self.until = now + self.pause.mul_f64(0.75 + 0.5 * super::options::random());
            self.probing = false;
        }
        opens
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_opens_after_failures_of_several_streams_and_one_delivery_tries_again() {
        let mut breaker = Breaker::new();
        let now = Instant::now();
        for n in 0..u64::from(FAILURES) {
            assert!(breaker.allows(now));
            breaker.begins();
            let opens = breaker.failure(StreamKey(n), now);
            assert_eq!(opens, n + 1 == u64::from(FAILURES));
        }
        assert!(!breaker.allows(now));
        let mut at = now;
        for expected in [1.25, 2.5, 5.0, 10.0, 20.0, 40.0, 75.0, 75.0] {
            let wakes = breaker.wakes().unwrap();
            assert!((wakes - at).as_secs_f64() <= expected, "{:?}", wakes - at);
            at = wakes;
            assert!(breaker.allows(at));
            breaker.begins();
            assert_eq!(breaker.state(), BreakerState::HalfOpen);
            assert!(!breaker.allows(at), "one tries alone");
            assert!(breaker.failure(StreamKey(1), at));
        }
        let at = breaker.wakes().unwrap();
        assert!(breaker.allows(at));
        breaker.begins();
        assert!(breaker.success(), "it had been away");
        assert!(breaker.allows(at));
        assert_eq!(breaker.state(), BreakerState::Closed);
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_that_fails_alone_does_not_open_it() {
        let mut breaker = Breaker::new();
        for _ in 0..100 {
            assert!(!breaker.failure(StreamKey(1), Instant::now()));
        }
        assert!(breaker.failure(StreamKey(2), Instant::now()));
        breaker = Breaker::new();
        for n in 0..100 {
            assert!(!breaker.failure(StreamKey(n), Instant::now()));
            breaker.success();
        }
    }
}
