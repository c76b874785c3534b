//! Reading and repairing what a sink holds of captured tables, for verification.

use async_trait::async_trait;
use bytes::Bytes;

use crate::{PipelineId, Result, Row, Table, TableName, Version};

/// A row as a sink holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldRow {
    /// Its place in the sink's own order, to go on behind it.
    pub place: Bytes,
    /// The version under which it was written; the lowest where the sink keeps none.
    pub version: Version,
    /// Its values in the order of the table's columns, as the texts that stand for them.
    pub row: Row,
    /// Whether it takes an equal row away, in a table without a key.
    pub removal: bool,
}

/// A sink's content of captured tables: comparable with the source's, and repairable.
///
/// A table is compared row by row with [`expected`](Self::expected): a row of the source is there
/// where [`rows_at`](Self::rows_at) gives that. What is there and not in the source is found by
/// walking over [`rows`](Self::rows) and asking the source for the keys. The sink's order of keys
/// need not be the source's.
#[async_trait]
pub trait TableReplica: Send + Sync {
    /// A row of the source as the sink gives it back: other texts for the same value are one, and
    /// what is hashed or masked there is so here. `Rejected` where the sink cannot hold it.
    async fn expected(
        &self,
        pipeline: &PipelineId,
        table: &Table,
        rows: &[Row],
    ) -> Result<Vec<Row>>;

    /// How many rows of a table a reader sees.
    async fn count(&self, pipeline: &PipelineId, table: &TableName) -> Result<u64>;

    /// Up to `limit` rows behind the place `after`, in the sink's order; fewer where they hold many
    /// bytes, none only where there are none.
    async fn rows(
        &self,
        pipeline: &PipelineId,
        table: &Table,
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<HeldRow>>;

    /// Those rows that exist with the keys of these rows, whose other values do not matter.
    async fn rows_at(
        &self,
        pipeline: &PipelineId,
        table: &Table,
        keys: &[Row],
    ) -> Result<Vec<HeldRow>>;

    /// Removes the rows with the keys of `delete` and of `insert`, then writes `insert`, each under
    /// its version. To be called while nothing is delivered. `Unsupported` for a table without a
    /// key, which is copied anew instead.
    async fn repair(
        &self,
        pipeline: &PipelineId,
        table: &Table,
        delete: &[Row],
        insert: &[(Row, Version)],
    ) -> Result<()>;
}
