//! Ending in order.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

/// Tells everything that serves to end. Clones are the same shutdown.
///
/// Once begun, nothing is accepted, readiness fails, tails and change streams end with
/// `UNAVAILABLE`, and requests in flight are finished until the deadline, when what is left is cut
/// off.
#[derive(Debug, Clone)]
pub struct Shutdown(watch::Sender<Option<Instant>>);

impl Shutdown {
    /// One that has not begun.
    pub fn new() -> Self {
        Self(watch::Sender::new(None))
    }

    /// Begins, and leaves requests in flight this much time. A second call changes nothing.
    pub fn begin(&self, grace: Duration) {
        self.0.send_if_modified(|deadline| {
            let first = deadline.is_none();
            if first {
                *deadline = Some(Instant::now() + grace);
            }
            first
        });
    }

    /// Whether it has begun.
    pub fn has_begun(&self) -> bool {
        self.0.borrow().is_some()
    }

    /// Waits until it has begun; gives the time at which what is left is cut off.
    pub async fn begun(&self) -> Instant {
        let mut watching = self.0.subscribe();
        let begun = watching.wait_for(Option::is_some).await;
        // The sender lives as long as `self`.
        begun.ok().and_then(|at| *at).unwrap_or_else(Instant::now)
    }
}

impl Default for Shutdown {
    fn default() -> Self {
        Self::new()
    }
}
