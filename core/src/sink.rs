//! The contract of a sink, and of what keeps a pipeline's cursor.

use std::fmt;

use async_trait::async_trait;

use crate::{Cursor, Entry, EntryId, PipelineId, Result, SourceId, StreamKey, StreamState};

/// Items of a pipeline on their way to a sink.
#[derive(Debug, Clone)]
pub struct Batch<T> {
    /// The items with their positions, in log order.
    pub items: Vec<(Cursor, T)>,
    /// The range of the log that this batch stands for begins behind this position; none at the
    /// pipeline's beginning.
    pub after: Option<Cursor>,
    /// The range's end.
    pub through: Cursor,
    /// Safe once this batch is durable: everything at or before it, over all lanes, is durable
    /// then. The only position ever stored. None while another lane holds back the very first.
    pub ack: Option<Cursor>,
    /// Whose batch it is.
    pub pipeline: PipelineId,
    /// The number that [`CursorStore::claim`] gave.
    pub fence: u64,
}

/// Where a pipeline delivers.
#[async_trait]
pub trait Sink<T>: fmt::Debug + fmt::Display + Send + Sync + 'static {
    /// `Ok` means that THIS batch is durable. MUST tolerate replays, also with other batch borders,
    /// and batches without items, which only move the cursor.
    ///
    /// An error of kind `Rejected` says that the sink is healthy and refuses the data; every other
    /// one that the delivery may be tried again from the stored cursor.
    async fn deliver(&self, batch: &Batch<T>) -> Result<()>;

    /// Some: `deliver` commits `ack` together with the data where the fence still matches (else
    /// `Fenced`), and the pipeline resumes from here only. None: the checkpoint stage stores the
    /// cursor elsewhere, afterwards.
    fn cursors(&self) -> Option<&dyn CursorStore>;

    /// The sink's content, where it is a replica that can be verified and repaired.
    fn replica(&self) -> Option<&dyn Replica> {
        None
    }
}

/// What keeps the cursors of pipelines.
#[async_trait]
pub trait CursorStore: Send + Sync {
    /// Takes the pipeline for this process: a new fence, and where to resume. Binds the pipeline to
    /// the source's identity: `SourceDiverged` where it was another's before.
    async fn claim(&self, pipeline: &PipelineId, source: &SourceId) -> Result<Claim>;

    /// Stores `to` where it is further than what is stored, in one atomic statement, and returns
    /// what is stored now. `Fenced` where another claim came in between.
    async fn advance(&self, pipeline: &PipelineId, fence: u64, to: &Cursor) -> Result<Cursor>;

    /// What is stored, without claiming.
    async fn stored(&self, pipeline: &PipelineId) -> Result<Option<Cursor>>;

    /// Forgets the cursor and the bound source, and raises the fence, so that who claimed before
    /// is fenced.
    async fn reset(&self, pipeline: &PipelineId) -> Result<()>;
}

/// A pipeline taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// Higher than that of every claim before.
    pub fence: u64,
    /// Where to resume.
    pub cursor: Option<Cursor>,
}

/// The position of an entry among all entries of a store, stream by stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EntryKey {
    /// The stream's identity.
    pub stream: StreamKey,
    /// The entry's id.
    pub id: EntryId,
}

/// An entry with its place. `entry.stream` is the stream's present name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// The place.
    pub key: EntryKey,
    /// The entry.
    pub entry: Entry,
}

/// Reading everything that a store or a replica holds, for verification.
#[async_trait]
pub trait Contents: Send + Sync {
    /// Up to `limit` entries behind `after`, up to and including `through`, in order of
    /// [`EntryKey`]; fewer where they hold many bytes, none only where there are none.
    async fn entries(
        &self,
        after: Option<EntryKey>,
        through: Option<EntryKey>,
        limit: usize,
    ) -> Result<Vec<Record>>;

    /// Those of these entries that exist, in order of their keys.
    async fn entries_at(&self, keys: &[EntryKey]) -> Result<Vec<Record>>;

    /// Up to `limit` streams with a key above `after`, in order of their keys.
    async fn streams(&self, after: Option<StreamKey>, limit: usize) -> Result<Vec<StreamState>>;

    /// Those of these streams that exist, in order of their keys.
    async fn streams_at(&self, keys: &[StreamKey]) -> Result<Vec<StreamState>>;
}

/// A sink's content: comparable with its source's, and repairable.
#[async_trait]
pub trait Replica: Contents {
    /// Removes the entries `delete`, then writes `insert`, and the states `streams` as they are.
    /// An entry at or below its stream's trim boundary is not written.
    async fn repair(
        &self,
        streams: &[StreamState],
        delete: &[EntryKey],
        insert: &[Record],
    ) -> Result<()>;

    /// Removes streams that the source does not have, with all their entries.
    async fn remove_streams(&self, keys: &[StreamKey]) -> Result<()>;

    /// Of a relay: who is registered at its log. What is repaired here is not told there, so these
    /// are to be verified as well.
    async fn followers(&self) -> Result<Vec<PipelineId>> {
        Ok(Vec::new())
    }
}
