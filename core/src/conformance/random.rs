//! A small generator of random numbers that a seed replays.

/// The environment variable that gives a seed.
const SEED: &str = "LEDGER_CONFORMANCE_SEED";

/// Draws numbers by the `SplitMix64` algorithm: not for secrets, but even and replayable.
#[derive(Debug, Clone)]
pub(super) struct Random(u64);

impl Random {
    /// Seeded from the environment, or else by chance; prints the seed.
    pub(super) fn new() -> Self {
        let given = std::env::var(SEED).ok().and_then(|seed| seed.parse().ok());
        let seed = given.unwrap_or_else(|| uuid::Uuid::new_v4().as_u64_pair().0);
        println!("replay with {SEED}={seed}");
        Self(seed)
    }

    /// Another generator, for a task of its own.
    pub(super) fn split(&mut self) -> Self {
        Self(self.next())
    }

    /// Any number.
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// A number below `end`, which is not 0.
    pub(super) fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % u64::try_from(end).unwrap()).unwrap()
    }

    /// One of these.
    pub(super) fn pick<'a, T>(&mut self, choices: &'a [T]) -> &'a T {
        &choices[self.below(choices.len())]
    }

    /// Waits between nothing and two milliseconds, so that tasks meet at other places each time.
    pub(super) async fn pause(&mut self) {
        match self.below(4) {
            0 => {}
            1 => tokio::task::yield_now().await,
            _ => {
                let micros = self.next() % 2_000;
                tokio::time::sleep(std::time::Duration::from_micros(micros)).await;
            }
        }
    }
}
