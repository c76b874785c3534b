use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures::Stream;
use futures::future::BoxFuture;
use pin_project_lite::pin_project;

use super::Delivered;
use crate::{Cursor, CursorStore, PipelineId, Result};

pin_project! {
    /// The stream behind [`Deliver::checkpoint`](super::Deliver::checkpoint): deliveries whose
    /// acknowledgement is stored.
    ///
    /// - Each [`Delivered`] is yielded once its `ack` is stored, by the sink itself or here.
    /// - While a cursor is being stored, deliveries go on; one more that has become durable waits.
    /// - It ends at the first error, of a delivery or of the store, and stores nothing after it.
    #[must_use = "streams do nothing unless polled"]
    pub struct Checkpoint<S> {
        // None from the first error or the end on.
        #[pin]
        deliveries: Option<S>,
        // None where the sink commits the cursor with the data.
        cursors: Option<Arc<dyn CursorStore>>,
        pipeline: PipelineId,
        fence: u64,
        stored: Option<Cursor>,
        storing: Option<Storing>,
        waiting: Option<Result<Delivered>>,
    }
}

struct Storing {
    delivered: Delivered,
    done: BoxFuture<'static, Result<Cursor>>,
}

impl<S> Checkpoint<S> {
    pub(super) fn new(
        deliveries: S,
        cursors: Option<Arc<dyn CursorStore>>,
        pipeline: PipelineId,
        fence: u64,
        stored: Option<Cursor>,
    ) -> Self {
        let deliveries = Some(deliveries);
        Self {
            deliveries,
            cursors,
            pipeline,
            fence,
            stored,
            storing: None,
            waiting: None,
        }
    }
}

impl<S: Stream<Item = Result<Delivered>>> Stream for Checkpoint<S> {
    type Item = Result<Delivered>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut this = self.project();
        loop {
            if this.waiting.is_none()
                && let Some(deliveries) = this.deliveries.as_mut().as_pin_mut()
                && let Poll::Ready(next) = deliveries.poll_next(cx)
            {
                if !matches!(next, Some(Ok(_))) {
                    this.deliveries.set(None);
                }
                *this.waiting = next;
            }
            if let Some(mut storing) = this.storing.take() {
                match storing.done.as_mut().poll(cx) {
                    Poll::Pending => {
                        *this.storing = Some(storing);
                        return Poll::Pending;
                    }
                    Poll::Ready(Ok(cursor)) => {
                        *this.stored = Some(cursor).max(this.stored.take());
                        return Poll::Ready(Some(Ok(storing.delivered)));
                    }
                    Poll::Ready(Err(error)) => {
                        this.deliveries.set(None);
                        *this.waiting = None;
                        return Poll::Ready(Some(Err(error)));
                    }
                }
            }
            let delivered = match this.waiting.take() {
                Some(Ok(delivered)) => delivered,
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None if this.deliveries.is_none() => return Poll::Ready(None),
                None => return Poll::Pending,
            };
            let (Some(cursors), Some(ack)) = (&*this.cursors, &delivered.ack) else {
                return Poll::Ready(Some(Ok(delivered)));
            };
            if this.stored.as_ref() >= Some(ack) {
                return Poll::Ready(Some(Ok(delivered)));
            }
            let (cursors, to) = (Arc::clone(cursors), ack.clone());
            let (pipeline, fence) = (this.pipeline.clone(), *this.fence);
            let done = Box::pin(async move { cursors.advance(&pipeline, fence, &to).await });
            *this.storing = Some(Storing { delivered, done });
        }
    }
}

impl<S: fmt::Debug> fmt::Debug for Checkpoint<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Checkpoint")
            .field("deliveries", &self.deliveries)
            .field("pipeline", &self.pipeline)
            .field("fence", &self.fence)
            .field("stored", &self.stored)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use futures::{StreamExt, stream};

    use super::*;
    use crate::ErrorKind;
    use crate::pipeline::testing::{Cursors, Probe, Row, Task, at, fail, lead};
    use crate::pipeline::{BatchOptions, PipelineExt};

    fn one_by_one() -> BatchOptions {
        BatchOptions {
            max_items: 1,
            ..BatchOptions::default()
        }
    }

    fn rows(count: u64) -> impl Stream<Item = Result<Row>> + Unpin {
        stream::iter((1..=count).map(|n| Ok(Row::new(n, n))))
    }

    #[tokio::test(start_paused = true)]
    async fn a_cursor_is_stored_after_its_delivery_and_before_it_is_told() {
        let (probe, cursors) = (Probe::new(), Cursors::held());
        let mut pipeline = rows(2)
            .steps()
            .batch(one_by_one())
            .deliver_to(Arc::new(probe.clone()), lead(None))
            .checkpoint(cursors.clone());
        let mut task = Task::new();
        assert!(task.poll_next(&mut pipeline).is_pending());
        assert!(cursors.asked().is_empty());
        probe.answer(0, Ok(()));
        assert!(task.poll_next(&mut pipeline).is_pending());
        assert_eq!(cursors.asked(), [at(1)]);
        // The next delivery is under way meanwhile.
        assert_eq!(probe.open(), [1]);
        cursors.answer(Ok(()));
        let Poll::Ready(Some(Ok(told))) = task.poll_next(&mut pipeline) else {
            panic!("not told")
        };
        assert_eq!(told.ack, Some(at(1)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_sink_that_keeps_its_cursor_is_only_observed() {
        let cursors = Cursors::held();
        let pipeline = rows(3)
            .steps()
            .batch(one_by_one())
            .deliver_to(Arc::new(Probe::with_cursors()), lead(None))
            .checkpoint(cursors.clone());
        let acks: Vec<_> = pipeline.map(|told| told.unwrap().ack).collect().await;
        assert_eq!(acks, [Some(at(1)), Some(at(2)), Some(at(3))]);
        assert!(cursors.asked().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_store_that_is_fenced_ends_the_pipeline() {
        let (probe, cursors) = (Probe::willing(), Cursors::held());
        let mut pipeline = rows(9)
            .steps()
            .batch(one_by_one())
            .deliver_to(Arc::new(probe.clone()), lead(None))
            .checkpoint(cursors.clone());
        let mut task = Task::new();
        assert!(task.poll_next(&mut pipeline).is_pending());
        cursors.answer(Err(fail(ErrorKind::Fenced)));
        let Poll::Ready(Some(Err(error))) = task.poll_next(&mut pipeline) else {
            panic!("no error")
        };
        assert_eq!(error.kind(), ErrorKind::Fenced);
        let delivered = probe.calls();
        for _ in 0..10 {
            assert_eq!(
                task.poll_next(&mut pipeline).map(|told| told.is_none()),
                Poll::Ready(true)
            );
        }
        assert_eq!((probe.calls(), cursors.asked().len()), (delivered, 1));
    }

    #[tokio::test(start_paused = true)]
    async fn a_failed_delivery_stores_what_came_before_and_nothing_after() {
        let (probe, cursors) = (Probe::new(), Cursors::willing());
        let mut pipeline = rows(9)
            .steps()
            .batch(one_by_one())
            .deliver_to(Arc::new(probe.clone()), lead(None))
            .checkpoint(cursors.clone());
        let mut task = Task::new();
        assert!(task.poll_next(&mut pipeline).is_pending());
        probe.answer(0, Ok(()));
        assert!(task.poll_next(&mut pipeline).is_ready());
        assert!(task.poll_next(&mut pipeline).is_pending());
        probe.answer(1, Err(fail(ErrorKind::Unavailable)));
        assert!(matches!(
            task.poll_next(&mut pipeline),
            Poll::Ready(Some(Err(_)))
        ));
        // From here on the sink would take everything.
        probe.be_willing();
        for _ in 0..10 {
            assert!(matches!(task.poll_next(&mut pipeline), Poll::Ready(None)));
        }
        assert_eq!((probe.calls(), cursors.asked()), (2, vec![at(1)]));
    }
}
