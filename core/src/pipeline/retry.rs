use std::fmt;

use async_trait::async_trait;
use backon::Retryable;

use super::Backoff;
use crate::{Batch, CursorStore, Error, Replica, Result, Sink};

/// A sink whose deliveries are tried again, a bounded number of times.
///
/// - Only errors that are [retryable](Error::is_retryable) are, and always with the same batch;
///   when the retries are used up, the last error is given up to the pipeline.
/// - The batches that other lanes have in flight stay in flight, which a pipeline that is opened
///   again would give up. For an outage [`supervise`](super::supervise) does the waiting: keep
///   `retries` low, and wrap only once.
#[derive(Debug, Clone)]
pub struct Retried<S> {
    inner: S,
    retries: usize,
    backoff: Backoff,
}

impl<S> Retried<S> {
    /// Wraps `inner`. A delivery is attempted once and then at most `retries` times more.
    pub fn new(inner: S, retries: usize, backoff: Backoff) -> Self {
        Self {
            inner,
            retries,
            backoff,
        }
    }
}

impl<S: fmt::Display> fmt::Display for Retried<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "retried({})", self.inner)
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl<T, S> Sink<T> for Retried<S>
where
    T: Send + Sync + 'static,
    S: Sink<T>,
{
    async fn deliver(&self, batch: &Batch<T>) -> Result<()> {
        (|| self.inner.deliver(batch))
            .retry(self.backoff.builder().with_max_times(self.retries))
            .when(Error::is_retryable)
            .await
    }

    fn cursors(&self) -> Option<&dyn CursorStore> {
        self.inner.cursors()
    }

    fn replica(&self) -> Option<&dyn Replica> {
        self.inner.replica()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::task::Poll;

    use futures::{FutureExt, StreamExt, stream};

    use super::*;
    use crate::ErrorKind;
    use crate::pipeline::testing::{Probe, Row, Task, at, fail, lead};
    use crate::pipeline::{BatchOptions, Deliver, PipelineExt, Step};

    fn pipeline(
        probe: &Probe,
        retries: usize,
    ) -> Deliver<impl futures::Stream<Item = Result<Step<Row>>> + Unpin, Row> {
        let sink = Retried::new(probe.clone(), retries, Backoff::default());
        assert_eq!(sink.to_string(), "retried(probe)");
        stream::iter([Ok(Row::new(1, 1))])
            .steps()
            .batch(BatchOptions::default())
            .deliver_to(Arc::new(sink), lead(None))
    }

    #[tokio::test(start_paused = true)]
    async fn the_same_batch_is_sent_again_until_it_succeeds() {
        let probe = Probe::new();
        let mut pipeline = pipeline(&probe, 2);
        let mut task = Task::new();
        for attempt in 0..2 {
            assert!(task.poll_next(&mut pipeline).is_pending());
            assert_eq!(probe.open(), [attempt]);
            probe.answer(attempt, Err(fail(ErrorKind::Unavailable)));
            assert!(task.poll_next(&mut pipeline).is_pending());
            assert!(probe.open().is_empty());
            tokio::time::advance(Backoff::default().longest).await;
        }
        assert!(task.poll_next(&mut pipeline).is_pending());
        probe.answer(2, Ok(()));
        let Poll::Ready(Some(Ok(told))) = task.poll_next(&mut pipeline) else {
            panic!("no end")
        };
        assert_eq!((told.ack, told.items), (Some(at(1)), 1));
        let sent = |call| probe.batch(call).items;
        assert!(sent(0) == sent(1) && sent(1) == sent(2) && sent(0).len() == 1);
    }

    #[tokio::test(start_paused = true)]
    async fn retries_end_and_a_refusal_is_never_retried() {
        for (kind, attempts) in [(ErrorKind::Unavailable, 3), (ErrorKind::Rejected, 1)] {
            let probe = Probe::failing(kind);
            let error = pipeline(&probe, 2).next().await.unwrap().unwrap_err();
            assert_eq!((error.kind(), probe.calls()), (kind, attempts));
        }
        let nothing = pipeline(&Probe::new(), 2).next().now_or_never();
        assert!(nothing.is_none(), "an open delivery ended");
    }
}
