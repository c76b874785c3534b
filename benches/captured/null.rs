//! What the log tells, read and decoded as for a bridge, and dropped.

use std::fmt;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use futures::StreamExt as _;
use ledger::postgres::PostgresConfig;
use ledger::postgres::capture::{CaptureOptions, PostgresCapture};
use ledger::{
    Batch, CursorStore, Error, ErrorKind, HeldRow, PipelineId, Progress, Result, Row, RowChange,
    RowOp, Sink, Source, Table, TableName, TableReplica, TableSink, TableState, Version,
};

use crate::measure::Outcome;

/// A destination that keeps nothing.
#[derive(Debug)]
struct Null;

impl fmt::Display for Null {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("nowhere")
    }
}

fn holds_nothing<T>() -> Result<T> {
    Err(Error::new(
        ErrorKind::Unsupported,
        "read",
        "nothing is held",
    ))
}

#[async_trait]
impl Sink<RowChange> for Null {
    async fn deliver(&self, _: &Batch<RowChange>) -> Result<()> {
        Ok(())
    }

    fn cursors(&self) -> Option<&dyn CursorStore> {
        None
    }
}

#[async_trait]
impl TableSink for Null {
    async fn tables(&self, _: &PipelineId) -> Result<Vec<TableState>> {
        Ok(Vec::new())
    }

    fn is_versioned(&self) -> bool {
        true
    }

    async fn resync(&self, _: &PipelineId) -> Result<()> {
        Ok(())
    }

    async fn forget(&self, _: &PipelineId, _: &TableName) -> Result<()> {
        Ok(())
    }

    fn content(&self) -> &dyn TableReplica {
        self
    }
}

#[async_trait]
impl TableReplica for Null {
    async fn expected(&self, _: &PipelineId, _: &Table, rows: &[Row]) -> Result<Vec<Row>> {
        Ok(rows.to_vec())
    }

    async fn count(&self, _: &PipelineId, _: &TableName) -> Result<u64> {
        Ok(0)
    }

    async fn rows(
        &self,
        _: &PipelineId,
        _: &Table,
        _: Option<&[u8]>,
        _: usize,
    ) -> Result<Vec<HeldRow>> {
        Ok(Vec::new())
    }

    async fn rows_at(&self, _: &PipelineId, _: &Table, _: &[Row]) -> Result<Vec<HeldRow>> {
        Ok(Vec::new())
    }

    async fn repair(
        &self,
        _: &PipelineId,
        _: &Table,
        _: &[Row],
        _: &[(Row, Version)],
    ) -> Result<()> {
        holds_nothing()
    }
}

/// Reads what the slot gives up to where the log ends now, and tells how long that took and how many
/// rows there were. The publication of the same name is older than the slot: the server looks for it
/// as it was at each of the log's transactions.
pub(crate) async fn drain(url: &str, name: &str, tables: &str) -> Outcome<(Duration, u64)> {
    let config = PostgresConfig::from_url(url)?;
    let options = CaptureOptions {
        slot: Some(name.to_owned()),
        publication: Some(name.to_owned()),
        copy: false,
        ..CaptureOptions::new(tables.parse()?)
    };
    let capture = PostgresCapture::open(config, options, std::sync::Arc::new(Null)).await?;
    let pipeline = PipelineId::new("null")?;
    let head = capture.head().await?;
    let start = Progress::Snapshot {
        start: head.clone(),
        key: bytes::Bytes::new(),
    };
    let begun = Instant::now();
    let mut steps = capture.steps(&pipeline, start, Some(head)).await?;
    let mut rows = 0;
    while let Some(step) = steps.next().await {
        let is_row = |item: RowChange| {
            matches!(
                item.op,
                RowOp::Insert(_) | RowOp::Update { .. } | RowOp::Delete(_)
            )
        };
        rows += u64::from(step?.item.is_some_and(is_row));
    }
    Ok((begun.elapsed(), rows))
}
