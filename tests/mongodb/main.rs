//! The tests of MongoDB, on real servers: `scripts/test.sh` starts them.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]
#![allow(
    clippy::pedantic,
    reason = "a test says plainly what it does, and says it again"
)]

mod collections;
mod conformance;
mod documents;
mod flights;
mod relay;
mod standalone;
mod store;

/// The ends of a bridge of tables, as the tests of PostgreSQL's tables have them.
#[allow(dead_code, reason = "each set of tests uses its part of it")]
#[path = "../capture"]
mod capture {
    pub(crate) mod ends;
}

mod replication {
    pub(crate) mod run {
        use std::time::{Duration, Instant};

        /// Waits until a condition holds; looks again every 10 ms.
        pub(crate) async fn until<F: Future<Output = bool>>(
            what: &str,
            mut holds: impl FnMut() -> F,
        ) {
            let begun = Instant::now();
            while !holds().await {
                let elapsed = begun.elapsed();
                assert!(elapsed < Duration::from_mins(3), "not in time: {what}");
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    }
}
