//! Pipelines: from a stream of items to a sink, with the acknowledgement as the cursor.
//!
//! ```text
//! items.steps().keep(..).transform(..).until(stop).lanes(4).batch(options)
//!      .deliver_to(sink, lead).checkpoint(cursors)
//! ```
//!
//! Every stage is generic over the item. Up to the batch the stages are streams of [`Step`]s: an
//! item with its position, or a position alone where the item was filtered out. From
//! [`deliver_to`](Batched::deliver_to) on they are streams of [`Delivered`].
//!
//! A pipeline is crash-only: it ends at its first error, and [`supervise`] opens it again from the
//! cursor that is stored.

mod backoff;
mod batch;
mod checkpoint;
mod deliver;
mod keep;
mod lanes;
#[cfg(test)]
mod properties;
mod retry;
mod step;
mod stop;
mod supervise;
#[cfg(test)]
mod testing;
mod transform;

pub use backoff::Backoff;
pub use batch::{BatchOptions, Batched};
pub use checkpoint::Checkpoint;
pub use deliver::{Deliver, Delivered, Lead};
pub use keep::Keep;
pub use lanes::Lanes;
pub use retry::Retried;
pub use step::{Step, Steps};
pub use stop::{Stop, Until};
pub use supervise::{Attempt, End, Failure, supervise};
pub use transform::Transform;

use futures::Stream;

use crate::{Item, Result};

/// The stages of a pipeline, on every stream of the shape that they take.
pub trait PipelineExt: Stream + Sized {
    /// Puts each item beside its own position, so that later stages can drop the one and keep the
    /// other.
    fn steps<T>(self) -> Steps<Self>
    where
        Self: Stream<Item = Result<T>>,
        T: Item,
    {
        Steps::new(self)
    }

    /// Keeps the items that `keep` is true for. The position of another one goes on alone, so that
    /// the cursor moves over it.
    fn keep<T, F>(self, keep: F) -> Keep<Self, F>
    where
        Self: Stream<Item = Result<Step<T>>>,
        F: FnMut(&T) -> bool,
    {
        Keep::new(self, keep)
    }

    /// Turns each item into what `transform` makes of it, at the same position. An error ends the
    /// pipeline, after everything before it has been delivered.
    fn transform<T, U, F>(self, transform: F) -> Transform<Self, F>
    where
        Self: Stream<Item = Result<Step<T>>>,
        F: FnMut(T) -> Result<U>,
    {
        Transform::new(self, transform)
    }

    /// Ends the stream once `stop` has fired; what it gave before is still delivered.
    fn until(self, stop: &Stop) -> Until<Self> {
        Until::new(self, stop)
    }

    /// Lets `lanes` deliveries run side by side, each key's items in one lane and in order; 0
    /// counts as 1. See [`Lanes`].
    fn lanes<T>(self, lanes: usize) -> Lanes<Self>
    where
        Self: Stream<Item = Result<Step<T>>>,
        T: Item,
    {
        Lanes::new(self, lanes)
    }

    /// Gathers items into batches in a single lane. See [`BatchOptions`].
    fn batch<T>(self, options: BatchOptions) -> Batched<Self>
    where
        Self: Stream<Item = Result<Step<T>>>,
        T: Item,
    {
        Lanes::new(self, 1).batch(options)
    }
}

impl<S: Stream> PipelineExt for S {}
