use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::{Stream, StreamExt};

use super::{Backoff, Delivered, Stop};
use crate::{Error, PipelineId, Result};

/// How a supervised pipeline ended well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Its source ended, and everything was delivered.
    Finished,
    /// It was stopped.
    Stopped,
}

/// One run of a pipeline.
#[derive(Debug, Clone)]
pub struct Attempt {
    number: u64,
    stop: Stop,
    progressed: Arc<AtomicBool>,
}

impl Attempt {
    /// Counts the runs, from 1.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Says that the run got further, so that the next failure begins with the shortest wait
    /// again.
    pub fn progressed(&self) {
        self.progressed.store(true, Ordering::Relaxed);
    }

    /// Runs a pipeline to its end, and counts it as progress when an acknowledgement moves on;
    /// `observe` sees each delivery.
    pub async fn drive(
        &self,
        deliveries: impl Stream<Item = Result<Delivered>>,
        mut observe: impl FnMut(&Delivered),
    ) -> Result<End> {
        let mut deliveries = std::pin::pin!(deliveries);
        while let Some(delivered) = deliveries.next().await {
            let delivered = delivered?;
            if delivered.advanced {
                self.progressed();
            }
            observe(&delivered);
        }
        Ok(if self.stop.is_stopped() {
            End::Stopped
        } else {
            End::Finished
        })
    }
}

/// A run that failed.
#[derive(Debug)]
#[non_exhaustive]
pub struct Failure<'a> {
    /// Which run it was, from 1.
    pub attempt: u64,
    /// What ended it.
    pub error: &'a Error,
    /// When the next one begins; none where there will be none.
    pub retry_in: Option<Duration>,
}

/// Runs a pipeline again and again until it ends well, is stopped, or fails for good.
///
/// - `run` opens the pipeline (claims it, reads from the stored cursor) and drives it to its end;
///   it MUST end by itself when `stop` fires, see
///   [`PipelineExt::until`](super::PipelineExt::until).
/// - After an error that is [retryable](Error::is_retryable) it is run again, for ever, with the
///   waits of `backoff`, which begin anew after a run that made [progress](Attempt::progressed).
/// - Any other error is returned at once.
/// - When `stop` fires, a wait is cut short, and nothing is run again.
/// - `observe` sees every failure; each is logged on one line too.
pub async fn supervise<R, F>(
    pipeline: &PipelineId,
    backoff: Backoff,
    stop: &Stop,
    mut run: R,
    mut observe: impl FnMut(Failure<'_>),
) -> Result<End>
where
    R: FnMut(Attempt) -> F,
    F: Future<Output = Result<End>>,
{
    let progressed = Arc::new(AtomicBool::new(false));
    let mut delays = backoff.delays();
    let mut number = 0;
    loop {
        if stop.is_stopped() {
            return Ok(End::Stopped);
        }
        number += 1;
        let attempt = Attempt {
            number,
            stop: stop.clone(),
            progressed: Arc::clone(&progressed),
        };
        let error = match run(attempt).await {
            Ok(end) => return Ok(end),
            Err(error) => error,
        };
        if progressed.swap(false, Ordering::Relaxed) {
            delays = backoff.delays();
        }
        let retry_in = (error.is_retryable() && !stop.is_stopped())
            .then(|| delays.next().unwrap_or(backoff.longest));
        observe(Failure {
            attempt: number,
            error: &error,
            retry_in,
        });
        let Some(delay) = retry_in else {
            if error.is_retryable() {
                tracing::warn!(%pipeline, error = error.chain(), "pipeline failed while stopping");
                return Ok(End::Stopped);
            }
            tracing::error!(%pipeline, error = error.chain(), "pipeline failed for good");
            return Err(error);
        };
        tracing::warn!(%pipeline, error = error.chain(), ?delay, "pipeline failed, will be retried");
        if tokio::time::timeout(delay, stop.stopped()).await.is_ok() {
            return Ok(End::Stopped);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::future::ready;

    use futures::{FutureExt, stream};

    use super::*;
    use crate::ErrorKind;
    use crate::pipeline::testing::{Probe, Row, fail, lead};
    use crate::pipeline::{BatchOptions, PipelineExt};

    fn pipeline() -> PipelineId {
        PipelineId::new("orders").unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn an_outage_is_waited_out_with_growing_waits_that_progress_resets() {
        let waits = RefCell::new(Vec::new());
        let (pipeline, stop) = (pipeline(), Stop::new());
        let end = supervise(
            &pipeline,
            Backoff::default(),
            &stop,
            |attempt| {
                if attempt.number() == 12 {
                    attempt.progressed();
                }
                ready(match attempt.number() {
                    14 => Ok(End::Finished),
                    _ => Err(fail(ErrorKind::Unavailable)),
                })
            },
            |failure| waits.borrow_mut().push(failure.retry_in.unwrap()),
        );
        assert_eq!(end.await.unwrap(), End::Finished);
        let waits = waits.into_inner();
        let within = |wait: Duration, most: u64| {
            let most = Duration::from_millis(most);
            assert!(
                wait >= most / 2 && wait <= most,
                "{wait:?} is not up to {most:?}"
            );
        };
        assert_eq!(waits.len(), 13);
        within(waits[0], 100);
        within(waits[1], 200);
        within(waits[10], 30_000);
        within(waits[11], 100);
        within(waits[12], 200);
    }

    #[tokio::test(start_paused = true)]
    async fn an_error_that_waiting_cannot_mend_is_returned_at_once() {
        use ErrorKind::{CursorExpired, Fenced, InvalidInput, Rejected, SourceDiverged};
        for kind in [
            CursorExpired,
            Fenced,
            InvalidInput,
            Rejected,
            SourceDiverged,
        ] {
            let mut failures = 0;
            let (pipeline, stop) = (pipeline(), Stop::new());
            let run = |_| ready(Err(fail(kind)));
            let end = supervise(&pipeline, Backoff::default(), &stop, run, |failure| {
                assert_eq!(failure.retry_in, None);
                failures += 1;
            });
            assert_eq!(end.await.unwrap_err().kind(), kind);
            assert_eq!(failures, 1);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_stop_cuts_a_wait_short() {
        let stop = Stop::new();
        let run = |_| ready(Err(fail(ErrorKind::Unavailable)));
        let pipeline = pipeline();
        let supervised = supervise(&pipeline, Backoff::default(), &stop, run, |_| {});
        let mut supervised = std::pin::pin!(supervised);
        assert!(supervised.as_mut().now_or_never().is_none());
        stop.stop();
        // Without time passing.
        assert_eq!(supervised.now_or_never().unwrap().unwrap(), End::Stopped);
    }

    #[tokio::test(start_paused = true)]
    async fn a_stopped_pipeline_delivers_what_it_has_taken() {
        let (stop, probe) = (Stop::new(), Probe::new());
        let pipeline = pipeline();
        let run = |attempt: Attempt| {
            let rows = stream::iter((1..=3).map(|n| Ok(Row::new(n, n))));
            let deliveries = rows
                .chain(stream::pending())
                .steps()
                .until(&stop)
                .batch(BatchOptions {
                    max_items: 2,
                    ..BatchOptions::default()
                })
                .deliver_to(Arc::new(probe.clone()), lead(None));
            async move { attempt.drive(deliveries, |_| {}).await }
        };
        let supervised = supervise(&pipeline, Backoff::default(), &stop, run, |_| {});
        let mut supervised = std::pin::pin!(supervised);
        assert!(supervised.as_mut().now_or_never().is_none());
        stop.stop();
        assert!(supervised.as_mut().now_or_never().is_none());
        probe.answer(0, Ok(()));
        assert!(supervised.as_mut().now_or_never().is_none());
        probe.answer(1, Ok(()));
        assert_eq!(supervised.now_or_never().unwrap().unwrap(), End::Stopped);
        assert_eq!(probe.calls(), 2);
        assert_eq!(probe.batch(1).items.len(), 1);
    }
}
