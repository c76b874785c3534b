//! What a bridge reads from.

use std::fmt;

use async_trait::async_trait;
use futures::stream::BoxStream;

use crate::pipeline::Step;
use crate::{
    Consumers, Cursor, DeadLetters, Error, ErrorKind, Lag, PipelineId, Progress, Result, SourceId,
};

/// What becomes of a pipeline that its source does not bear any longer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Abandoned {
    /// It ends, with the reason.
    Ended,
    /// It forgets how far it was, and copies everything anew.
    CopyAnew,
}

/// Where the items of a pipeline come from: a store's log, the tables of a database.
#[async_trait]
pub trait Source<T>: fmt::Debug + fmt::Display + Send + Sync + 'static {
    /// Which history this is; see [`ChangeLog::identity`](crate::ChangeLog::identity).
    async fn identity(&self) -> Result<SourceId>;

    /// A position with no gap below it.
    async fn head(&self) -> Result<Cursor>;

    /// How far behind the log's end this position is.
    async fn lag(&self, after: &Cursor) -> Result<Lag>;

    /// About how many items a copy of everything has.
    async fn size(&self) -> Result<u64>;

    /// About how many of these are still to be copied, where a copy goes on beside the following.
    fn copying(&self) -> Option<u64> {
        None
    }

    /// The steps from `progress` on, each at the position that is stored for it, a
    /// [`Progress`]. With `until` they end when the log has been followed that far, and what is to
    /// be copied has been.
    ///
    /// Of two instances of a pipeline, the one that has the lease calls this.
    async fn steps(
        &self,
        pipeline: &PipelineId,
        progress: Progress,
        until: Option<Cursor>,
    ) -> Result<BoxStream<'static, Result<Step<T>>>>;

    /// Notes that everything up to here is durable at the sink; the source may forget what is before.
    async fn confirm(&self, pipeline: &PipelineId, cursor: &Cursor) -> Result<()> {
        self.consumers().confirm(pipeline, cursor).await
    }

    /// Ends, with the reason, where the source cannot bear any longer what it keeps for the pipeline,
    /// whether or not that runs. Never, unless the source has a bound.
    async fn watch(&self, _: &PipelineId) -> Error {
        std::future::pending().await
    }

    /// Called when [`watch`](Self::watch) has ended a pipeline, which reads no longer. Tells what
    /// becomes of it.
    async fn abandon(&self, _: &PipelineId) -> Result<Abandoned> {
        Ok(Abandoned::Ended)
    }

    /// The number of the commit at this position, as versions of rows count them; `Unsupported` where
    /// items have no such versions.
    fn version_at(&self, cursor: &Cursor) -> Result<u64> {
        let what = format!("{self} gives its items no versions (cursor {cursor})");
        Err(Error::new(ErrorKind::Unsupported, "repair", what))
    }

    /// Who reads from it.
    fn consumers(&self) -> &dyn Consumers;

    /// What could not be delivered.
    fn dead_letters(&self) -> &dyn DeadLetters;
}
