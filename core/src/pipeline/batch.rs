use std::sync::Arc;
use std::time::Duration;

use futures::Stream;

use super::{Deliver, Lead, Step};
use crate::{Cursor, Item, Result, Sink};

/// How large batches get and how long they wait.
///
/// A batch goes as soon as its lane has no delivery in flight and the source gives nothing more at
/// the moment; while a delivery is in flight the next batch fills. So batches are small where the
/// source is slow, and large where the sink is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchOptions {
    /// The most items of a batch; 0 counts as 1.
    pub max_items: usize,
    /// The most bytes of a batch, as [`Item::size`] tells them. An item that is larger goes alone.
    pub max_bytes: usize,
    /// The pace of a sink that wants few, large writes: where a delivery of the lane ended less
    /// than this ago, a batch that is not full lingers until then. Zero never lingers. A batch that
    /// cannot grow (a barrier waits behind it, or the source has ended) never lingers either.
    ///
    /// Positions without items are delivered at most once in this time, and at most once a second.
    pub max_wait: Duration,
}

impl Default for BatchOptions {
    /// 10,000 items, 8 MiB, no waiting.
    fn default() -> Self {
        Self {
            max_items: 10_000,
            max_bytes: 8 << 20,
            max_wait: Duration::ZERO,
        }
    }
}

impl BatchOptions {
    /// The least time between two deliveries that only move the cursor, and the longest that a
    /// source without a pause can put off a batch that is not full.
    pub(super) fn flush_interval(&self) -> Duration {
        self.max_wait.max(Duration::from_secs(1))
    }
}

/// Steps with everything said about their batches, ready to be delivered.
#[derive(Debug)]
#[must_use = "a pipeline does nothing until it delivers"]
pub struct Batched<S> {
    steps: S,
    lanes: usize,
    options: BatchOptions,
}

impl<S> Batched<S> {
    pub(super) fn new(steps: S, lanes: usize, options: BatchOptions) -> Self {
        Self {
            steps,
            lanes,
            options,
        }
    }

    /// Delivers the batches to `sink`, for the pipeline that `lead` names, behind the position it
    /// gives. See [`Deliver`].
    pub fn deliver_to<T>(self, sink: Arc<dyn Sink<T>>, lead: Lead) -> Deliver<S, T>
    where
        S: Stream<Item = Result<Step<T>>>,
        T: Item,
    {
        Deliver::new(self.steps, self.lanes, self.options, sink, lead)
    }
}

/// A batch that fills.
#[derive(Debug)]
pub(super) struct Filling<T> {
    pub(super) items: Vec<(Cursor, T)>,
    pub(super) bytes: usize,
    /// The position right before the first item.
    pub(super) before: Option<Cursor>,
}

impl<T> Default for Filling<T> {
    fn default() -> Self {
        Self {
            items: Vec::new(),
            bytes: 0,
            before: None,
        }
    }
}

impl<T> Filling<T> {
    pub(super) fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    pub(super) fn is_full(&self, options: &BatchOptions) -> bool {
        self.items.len() >= options.max_items.max(1)
            || (self.bytes >= options.max_bytes && !self.is_empty())
    }

    pub(super) fn takes(&self, size: usize, options: &BatchOptions) -> bool {
        self.is_empty()
            || (!self.is_full(options) && self.bytes.saturating_add(size) <= options.max_bytes)
    }

    /// Puts an item in; `read` is the position right before it.
    pub(super) fn push(&mut self, cursor: Cursor, item: T, size: usize, read: Option<&Cursor>) {
        if self.is_empty() {
            self.before = read.cloned();
        }
        self.items.push((cursor, item));
        self.bytes = self.bytes.saturating_add(size);
    }
}
