//! What the service manager is told, where one listens.

use std::time::Duration;

use sd_notify::NotifyState;

/// Tells the service manager; without one this does nothing.
pub(crate) fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "the service manager was not told");
    }
}

/// It takes calls.
pub(crate) fn ready() {
    tell(&[NotifyState::Ready]);
}

/// It is about to end.
pub(crate) fn stopping() {
    tell(&[NotifyState::Stopping]);
}

/// It reads its configuration again; [`ready`] says that it has.
pub(crate) fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(_) => tell(&[NotifyState::Reloading]),
    }
}

/// Tells the watchdog that the runtime works, as often as it asks; for ever, or not at all where no
/// watchdog is set. A runtime whose threads are all stuck does not come here, and is restarted.
pub(crate) async fn watchdog() {
    let Some(within) = sd_notify::watchdog_enabled().filter(|within| !within.is_zero()) else {
        return std::future::pending().await;
    };
    let mut tick = tokio::time::interval((within / 2).max(Duration::from_millis(1)));
    loop {
        tick.tick().await;
        tell(&[NotifyState::Watchdog]);
    }
}
