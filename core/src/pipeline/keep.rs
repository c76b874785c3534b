use std::pin::Pin;
use std::task::{Context, Poll};

use futures::Stream;
use pin_project_lite::pin_project;

use super::Step;
use crate::Result;

pin_project! {
    /// The stream behind [`PipelineExt::keep`](super::PipelineExt::keep).
    #[derive(Debug)]
    #[must_use = "streams do nothing unless polled"]
    pub struct Keep<S, F> {
        #[pin]
        inner: S,
        keep: F,
    }
}

impl<S, F> Keep<S, F> {
    pub(super) fn new(inner: S, keep: F) -> Self {
        Self { inner, keep }
    }
}

impl<S, T, F> Stream for Keep<S, F>
where
    S: Stream<Item = Result<Step<T>>>,
    F: FnMut(&T) -> bool,
{
    type Item = Result<Step<T>>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.project();
        let mut next = this.inner.poll_next(cx);
        if let Poll::Ready(Some(Ok(step))) = &mut next
            && step.item.as_ref().is_some_and(|item| !(this.keep)(item))
        {
            step.item = None;
        }
        next
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.inner.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use futures::{StreamExt, stream};

    use crate::pipeline::PipelineExt;
    use crate::pipeline::testing::{Row, at};

    #[tokio::test]
    async fn a_filtered_item_leaves_its_position_behind() {
        let rows = stream::iter([Ok(Row::new(1, 7)), Ok(Row::new(2, 8)), Ok(Row::new(3, 7))]);
        let steps: Vec<_> = rows
            .steps()
            .keep(|row| row.key == 7)
            .map(|step| step.unwrap())
            .collect()
            .await;
        let seen: Vec<_> = steps
            .iter()
            .map(|step| (step.cursor.clone(), step.item.is_some()))
            .collect();
        assert_eq!(seen, [(at(1), true), (at(2), false), (at(3), true)]);
    }
}
