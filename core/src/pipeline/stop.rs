use std::fmt;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use futures::Stream;
use futures::future::BoxFuture;
use pin_project_lite::pin_project;
use tokio::sync::Notify;

/// A handle that asks pipelines to end: clones share one state, which goes from running to stopped
/// once and never back.
///
/// A pipeline [`until`](super::PipelineExt::until) it takes nothing more from its source, delivers
/// what it has taken, and ends.
#[derive(Debug, Clone, Default)]
pub struct Stop(Arc<Signal>);

#[derive(Debug, Default)]
struct Signal {
    stopped: AtomicBool,
    changed: Notify,
}

impl Stop {
    /// A handle that has not fired.
    pub fn new() -> Self {
        Self::default()
    }

    /// Fires. Calling it again changes nothing.
    pub fn stop(&self) {
        self.0.stopped.store(true, Ordering::Release);
        self.0.changed.notify_waiters();
    }

    /// Whether it has fired.
    pub fn is_stopped(&self) -> bool {
        self.0.stopped.load(Ordering::Acquire)
    }

    /// Waits until it fires; returns at once where it has. Safe to drop at any point.
    pub async fn stopped(&self) {
        let mut changed = pin!(self.0.changed.notified());
        // Registered before the flag is read: a stop in between would wake nobody.
        changed.as_mut().enable();
        if !self.is_stopped() {
            changed.await;
        }
    }
}

pin_project! {
    /// The stream behind [`PipelineExt::until`](super::PipelineExt::until).
    #[must_use = "streams do nothing unless polled"]
    pub struct Until<S> {
        #[pin]
        inner: S,
        stop: Stop,
        stopped: BoxFuture<'static, ()>,
    }
}

impl<S> Until<S> {
    pub(super) fn new(inner: S, stop: &Stop) -> Self {
        let (stop, waiter) = (stop.clone(), stop.clone());
        Self {
            inner,
            stop,
            stopped: Box::pin(async move { waiter.stopped().await }),
        }
    }
}

impl<S: fmt::Debug> fmt::Debug for Until<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Until")
            .field("inner", &self.inner)
            .field("stop", &self.stop)
            .finish_non_exhaustive()
    }
}

impl<S: Stream> Stream for Until<S> {
    type Item = S::Item;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.project();
        if this.stop.is_stopped() {
            return Poll::Ready(None);
        }
        let next = this.inner.poll_next(cx);
        // The waker is only needed, and only paid for, where nothing else will wake the task.
        if next.is_pending() && this.stopped.as_mut().poll(cx).is_ready() {
            return Poll::Ready(None);
        }
        next
    }
}

#[cfg(test)]
mod tests {
    use futures::{StreamExt, stream};

    use super::*;
    use crate::pipeline::PipelineExt;
    use crate::pipeline::testing::Task;

    #[test]
    fn a_stop_wakes_a_stream_that_waits_for_its_source() {
        let stop = Stop::new();
        let mut endless = stream::iter([1]).chain(stream::pending()).until(&stop);
        let mut task = Task::new();
        assert_eq!(task.poll_next(&mut endless), Poll::Ready(Some(1)));
        assert_eq!(task.poll_next(&mut endless), Poll::Pending);
        assert!(!task.is_woken());
        stop.stop();
        assert!(task.is_woken());
        assert_eq!(task.poll_next(&mut endless), Poll::Ready(None));
        assert_eq!(task.poll_next(&mut endless), Poll::Ready(None));
    }

    #[test]
    fn a_stop_ends_a_stream_that_is_always_ready() {
        let stop = Stop::new();
        let mut busy = stream::repeat(1).until(&stop);
        let mut task = Task::new();
        assert_eq!(task.poll_next(&mut busy), Poll::Ready(Some(1)));
        stop.clone().stop();
        assert_eq!(task.poll_next(&mut busy), Poll::Ready(None));
    }
}
