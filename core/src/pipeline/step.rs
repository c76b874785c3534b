use std::pin::Pin;
use std::task::{Context, Poll};

use futures::Stream;
use pin_project_lite::pin_project;

use crate::{Cursor, Item, Result};

/// A position of a log, with its item unless that was filtered out.
///
/// Positions MUST ascend: an item's is higher than every position before it; a position alone may
/// repeat the last one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step<T> {
    /// The position. Where it is stored, the pipeline resumes behind it.
    pub cursor: Cursor,
    /// The item; none where only the position is left.
    pub item: Option<T>,
}

impl<T: Item> Step<T> {
    /// An item at its own position.
    pub fn of(item: T) -> Self {
        Self {
            cursor: item.cursor().clone(),
            item: Some(item),
        }
    }
}

impl<T> Step<T> {
    /// A position without an item: nothing up to here is left to do.
    pub fn empty(cursor: Cursor) -> Self {
        Self { cursor, item: None }
    }
}

pin_project! {
    /// The stream behind [`PipelineExt::steps`](super::PipelineExt::steps).
    #[derive(Debug)]
    #[must_use = "streams do nothing unless polled"]
    pub struct Steps<S> {
        #[pin]
        inner: S,
    }
}

impl<S> Steps<S> {
    pub(super) fn new(inner: S) -> Self {
        Self { inner }
    }
}

impl<S, T> Stream for Steps<S>
where
    S: Stream<Item = Result<T>>,
    T: Item,
{
    type Item = Result<Step<T>>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.project()
            .inner
            .poll_next(cx)
            .map(|next| next.map(|item| item.map(Step::of)))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.inner.size_hint()
    }
}
