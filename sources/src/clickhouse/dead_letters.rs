//! What consumers could not deliver.

use std::collections::HashSet;

use async_trait::async_trait;
use bytes::Bytes;
use clickhouse::Row;
use ledger_core::{
    Cursor, DeadLetter, DeadLetters, PipelineId, Result, StoreName, StreamKey, Timestamp,
};
use ledger_layout::clickhouse::{Connection, Dedup, KEYS, Tables, literal};
use serde::{Deserialize, Serialize};

use super::store::Open;

/// The dead letters of a store's consumers.
#[derive(Debug, Clone)]
pub(super) struct ClickHouseDeadLetters {
    pub(super) open: Open,
    pub(super) connection: Connection,
    pub(super) store: StoreName,
}

// Cursors are kept as hexadecimal text, whose order is theirs.
#[derive(Debug, Row, Serialize)]
struct Letter<'a> {
    store: &'a str,
    pipeline: &'a str,
    cursor: String,
    stream_key: u64,
    description: &'a str,
    reason: &'a str,
    #[serde(with = "serde_bytes")]
    item: &'a [u8],
    parked_at: i64,
}

#[derive(Debug, Row, Deserialize)]
struct Found {
    cursor: String,
    stream_key: u64,
    description: String,
    reason: String,
    #[serde(with = "serde_bytes")]
    item: Vec<u8>,
    parked_at: i64,
}

impl ClickHouseDeadLetters {
    fn of(&self, pipeline: &PipelineId) -> String {
        format!(
            "store = {} AND pipeline = {}",
            literal(self.store.as_str()),
            literal(pipeline.as_str())
        )
    }

    /// Which of these cursors have a letter.
    async fn parked(
        &self,
        operation: &'static str,
        pipeline: &PipelineId,
        cursors: &[String],
    ) -> Result<HashSet<String>> {
        let sql = format!(
            "SELECT DISTINCT cursor FROM {} WHERE {} AND cursor IN ({})",
            Tables::DEAD_LETTERS,
            self.of(pipeline),
            quoted(cursors),
        );
        let query = self.connection.client().query_raw(&sql);
        let rows: Vec<String> = self.connection.fetch_all(operation, query).await?;
        Ok(rows.into_iter().collect())
    }

    async fn delete(&self, operation: &'static str, condition: &str) -> Result<()> {
        let sql = format!("DELETE FROM {} WHERE {condition}", Tables::DEAD_LETTERS);
        let query = self.connection.client().query_raw(&sql);
        // Wait until the rows are gone, on every replica.
        let query = query.with_setting("lightweight_deletes_sync", "2");
        self.connection.timed(operation, query.execute()).await
    }

    /// Removes the letters of a pipeline that is forgotten.
    pub(super) async fn forget(&self, pipeline: &PipelineId) -> Result<()> {
        if self.count(pipeline).await? == 0 {
            // A deletion rewrites parts, also where there is nothing to delete.
            return Ok(());
        }
        self.delete("unregister consumer", &self.of(pipeline)).await
    }
}

fn quoted(cursors: &[String]) -> String {
    let quoted: Vec<String> = cursors.iter().map(|cursor| literal(cursor)).collect();
    quoted.join(",")
}

#[async_trait]
impl DeadLetters for ClickHouseDeadLetters {
    async fn park(&self, letters: Vec<DeadLetter>) -> Result<()> {
        const OPERATION: &str = "park dead letters";
        self.open.check(OPERATION)?;
        let mut rest = letters.as_slice();
        while let Some(first) = rest.first() {
            let same = rest.iter().take(KEYS);
            let same = same.take_while(|letter| letter.pipeline == first.pipeline);
            let (these, behind) = rest.split_at(same.count().max(1).min(rest.len()));
            rest = behind;
            let cursors: Vec<String> = these
                .iter()
                .map(|letter| letter.cursor.to_string())
                .collect();
            // The first letter of a cursor is the one that is kept.
            let mut parked = self.parked(OPERATION, &first.pipeline, &cursors).await?;
            let fresh = these.iter().zip(cursors);
            let fresh = fresh.filter(|(_, cursor)| parked.insert(cursor.clone()));
            let rows: Vec<Letter<'_>> = fresh
                .map(|(letter, cursor)| Letter {
                    store: self.store.as_str(),
                    pipeline: letter.pipeline.as_str(),
                    cursor,
                    stream_key: letter.key.0,
                    description: &letter.description,
                    reason: &letter.reason,
                    item: &letter.item,
                    parked_at: letter.parked_at.as_micros(),
                })
                .collect();
            if rows.is_empty() {
                continue;
            }
            let (count, rows, table) = (rows.len(), rows.into_iter(), Tables::DEAD_LETTERS);
            self.connection
                .insert::<Letter<'static>, _>(OPERATION, table, rows, count, Dedup::Off)
                .await?;
        }
        Ok(())
    }

    async fn list(
        &self,
        pipeline: &PipelineId,
        after: Option<&Cursor>,
        limit: usize,
    ) -> Result<Vec<DeadLetter>> {
        const OPERATION: &str = "list dead letters";
        self.open.check(OPERATION)?;
        let behind = after.map_or(String::new(), |after| {
            format!(" AND cursor > {}", literal(&after.to_string()))
        });
        let sql = format!(
            "SELECT cursor, stream_key, description, reason, item, parked_at FROM {} FINAL \
             WHERE {}{behind} ORDER BY cursor LIMIT {limit}",
            Tables::DEAD_LETTERS,
            self.of(pipeline),
        );
        let query = self.connection.client().query_raw(&sql);
        let rows: Vec<Found> = self.connection.fetch_all(OPERATION, query).await?;
        rows.into_iter()
            .map(|row| {
                Ok(DeadLetter {
                    pipeline: pipeline.clone(),
                    cursor: row.cursor.parse()?,
                    key: StreamKey(row.stream_key),
                    description: row.description,
                    reason: row.reason,
                    item: Bytes::from(row.item),
                    parked_at: Timestamp::from_micros(row.parked_at),
                })
            })
            .collect()
    }

    async fn parked_keys(&self, pipeline: &PipelineId) -> Result<Vec<StreamKey>> {
        const OPERATION: &str = "list parked keys";
        self.open.check(OPERATION)?;
        let sql = format!(
            "SELECT stream_key FROM {} WHERE {} GROUP BY stream_key ORDER BY min(cursor)",
            Tables::DEAD_LETTERS,
            self.of(pipeline),
        );
        let query = self.connection.client().query_raw(&sql);
        let rows: Vec<u64> = self.connection.fetch_all(OPERATION, query).await?;
        Ok(rows.into_iter().map(StreamKey).collect())
    }

    async fn count(&self, pipeline: &PipelineId) -> Result<u64> {
        const OPERATION: &str = "count dead letters";
        self.open.check(OPERATION)?;
        let sql = format!(
            "SELECT uniqExact(cursor) AS letters FROM {} WHERE {}",
            Tables::DEAD_LETTERS,
            self.of(pipeline),
        );
        let query = self.connection.client().query_raw(&sql);
        let rows: Vec<u64> = self.connection.fetch_all(OPERATION, query).await?;
        Ok(rows.first().copied().unwrap_or(0))
    }

    async fn remove(&self, pipeline: &PipelineId, cursors: &[Cursor]) -> Result<()> {
        const OPERATION: &str = "remove dead letters";
        self.open.check(OPERATION)?;
        let cursors: Vec<String> = cursors.iter().map(Cursor::to_string).collect();
        for cursors in cursors.chunks(KEYS) {
            if self.parked(OPERATION, pipeline, cursors).await?.is_empty() {
                continue;
            }
            let condition = format!("{} AND cursor IN ({})", self.of(pipeline), quoted(cursors));
            self.delete(OPERATION, &condition).await?;
        }
        Ok(())
    }
}
