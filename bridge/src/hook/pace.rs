//! How many deliveries at a time, and how many a second.

use std::time::Duration;

use tokio::time::Instant;

/// How long nothing is sent after a receiver said that it has too much to do: the first time, and at
/// most, where it names no time itself.
const FIRST: Duration = Duration::from_millis(500);
const LONGEST: Duration = Duration::from_mins(1);

/// The pace of deliveries: a receiver that has too much to do gets half as many at a time, then with
/// each success a little more again.
#[derive(Debug)]
pub(super) struct Pace {
    most: f64,
    now: f64,
    paused_until: Instant,
    pause: Duration,
    rate: Option<f64>,
    /// How many deliveries may begin at once, as of `counted`.
    tokens: f64,
    counted: Instant,
}

impl Pace {
    pub(super) fn new(concurrency: usize, rate: Option<f64>) -> Self {
        let most = f64::from(u32::try_from(concurrency.max(1)).unwrap_or(u32::MAX));
        let now = Instant::now();
        Self {
            most,
            now: most,
            paused_until: now,
            pause: FIRST,
            rate,
            tokens: 1.0,
            counted: now,
        }
    }

    /// Whether one more delivery may begin beside `under_way`; else when to look again, where time
    /// alone changes it.
    pub(super) fn allows(&mut self, under_way: usize, now: Instant) -> Result<(), Option<Instant>> {
        if f64::from(u32::try_from(under_way).unwrap_or(u32::MAX)) >= self.now.floor().max(1.0) {
            return Err(None);
        }
        if now < self.paused_until {
            return Err(Some(self.paused_until));
        }
        let Some(rate) = self.rate else { return Ok(()) };
        // A tenth of a second's worth at once: a pace, not a clock.
        let burst = (rate / 10.0).max(1.0);
        let since = now.saturating_duration_since(self.counted).as_secs_f64();
        self.tokens = (self.tokens + since * rate).min(burst);
        self.counted = now;
        if self.tokens >= 1.0 {
            return Ok(());
        }
        let wait = Duration::from_secs_f64(((1.0 - self.tokens) / rate).min(3_600.0));
        // Not the same instant again, which a rounded wait could be.
        Err(Some(now + wait.max(Duration::from_micros(100))))
    }

    /// A delivery begins.
    pub(super) fn begins(&mut self) {
        self.tokens -= 1.0;
    }

    /// A delivery was taken.
    pub(super) fn success(&mut self) {
        self.now = (self.now + 1.0 / self.now.max(1.0)).min(self.most);
        self.pause = FIRST;
    }

    /// The receiver has too much to do.
    pub(super) fn throttle(&mut self, asked: Option<Duration>, now: Instant) {
        // Those that were under way together say the same thing once.
        if now >= self.paused_until {
            self.now = (self.now / 2.0).max(1.0);
            let pause = self.pause.mul_f64(0.75 + 0.5 * super::options::random());
            self.paused_until = now + pause;
            self.pause = (self.pause * 2).min(LONGEST);
        }
        if let Some(asked) = asked {
            self.paused_until = self.paused_until.max(now + asked);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_rate_is_kept() {
        let mut pace = Pace::new(1_000, Some(50.0));
        let (begun, mut sent) = (Instant::now(), 0);
        while begun.elapsed() < Duration::from_secs(10) {
            match pace.allows(0, Instant::now()) {
                Ok(()) => {
                    pace.begins();
                    sent += 1;
                }
                Err(at) => tokio::time::sleep_until(at.unwrap()).await,
            }
        }
        assert!((490..=506).contains(&sent), "{sent}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_receiver_with_too_much_to_do_is_left_alone_then_gets_less() {
        let mut pace = Pace::new(16, None);
        let now = Instant::now();
        assert_eq!(pace.allows(15, now), Ok(()));
        assert_eq!(pace.allows(16, now), Err(None));
        pace.throttle(Some(Duration::from_secs(7)), now);
        pace.throttle(None, now);
        assert_eq!(pace.allows(0, now), Err(Some(now + Duration::from_secs(7))));
        let later = now + Duration::from_secs(7);
        assert_eq!(pace.allows(7, later), Ok(()));
        assert_eq!(pace.allows(8, later), Err(None));
        for _ in 0..200 {
            pace.success();
        }
        assert_eq!(pace.allows(15, later), Ok(()));
    }
}
