//! Reading everything that a store or a replica holds, in order of its keys.

use std::collections::BTreeSet;

use async_trait::async_trait;
use bytes::Bytes;
use clickhouse::Row;
use ledger_core::{
    Contents, Entry, EntryId, EntryKey, Error, ErrorKind, Record, Result, StreamKey, StreamName,
    StreamRef, StreamState, Timestamp,
};
use serde::Deserialize;

use super::{Connection, Tables};

const READ: &str = "read ClickHouse content";

/// The most keys that one statement names; a statement may have 256 KiB.
pub const KEYS: usize = 1_000;

/// The payload bytes at which a chunk is cut short.
const CHUNK_BYTES: u64 = 16 << 20;

#[derive(Debug, Row, Deserialize)]
struct KeyRow {
    stream_key: u64,
    id: u64,
    size: u64,
}

#[derive(Debug, Row, Deserialize)]
struct RecordRow {
    stream_key: u64,
    id: u64,
    stream: String,
    #[serde(with = "serde_bytes")]
    payload: Vec<u8>,
    order_key: String,
    dedup_key: String,
    schema_version: i64,
    metadata: Vec<(String, String)>,
    tags: Vec<String>,
    annotations: Vec<(String, String)>,
    label_version: u64,
    created_at: i64,
    updated_at: Option<i64>,
}

impl RecordRow {
    fn into_record(self) -> Result<Record> {
        let key = EntryKey {
            stream: StreamKey(self.stream_key),
            id: EntryId(self.id),
        };
        let corrupt = |field: &str| {
            let place = format!("{field} of entry {} of stream {}", self.id, self.stream_key);
            Error::new(ErrorKind::Corrupt, READ, place)
        };
        let name = StreamName::new(&self.stream).map_err(|_| corrupt("stream name"))?;
        let schema_version =
            u32::try_from(self.schema_version).map_err(|_| corrupt("schema_version"))?;
        let entry = Entry {
            id: key.id,
            stream: name,
            payload: Bytes::from(self.payload),
            order_key: self.order_key,
            dedup_key: self.dedup_key,
            schema_version,
            metadata: self.metadata.into_iter().collect(),
            tags: self.tags,
            annotations: self.annotations.into_iter().collect(),
            label_version: self.label_version,
            created_at: Timestamp::from_micros(self.created_at),
            updated_at: self.updated_at.map(Timestamp::from_micros),
        };
        Ok(Record { key, entry })
    }
}

#[derive(Debug, Row, Deserialize)]
struct StateRow {
    stream_key: u64,
    name_version: u64,
    name: String,
    version: u64,
    trimmed_through: u64,
}

impl StateRow {
    fn into_state(self) -> Result<StreamState> {
        let name = StreamName::new(&self.name).map_err(|_| {
            Error::new(
                ErrorKind::Corrupt,
                READ,
                format!("name of stream {}", self.stream_key),
            )
        })?;
        let key = StreamKey(self.stream_key);
        Ok(StreamState {
            stream: StreamRef {
                key,
                name,
                name_version: self.name_version,
            },
            version: self.version,
            trimmed_through: self.trimmed_through,
        })
    }
}

/// Entries behind `after` and up to `through`, as a condition. The sort key's first column stands
/// alone, since the index is not used for comparisons of tuples.
fn range(after: Option<EntryKey>, through: Option<EntryKey>) -> String {
    let mut conditions = vec!["1".to_owned()];
    if let Some(EntryKey { stream, id }) = after {
        conditions.push(format!(
            "stream_key >= {stream} AND (stream_key > {stream} OR id > {id})"
        ));
    }
    if let Some(EntryKey { stream, id }) = through {
        conditions.push(format!(
            "stream_key <= {stream} AND (stream_key < {stream} OR id <= {id})"
        ));
    }
    conditions.join(" AND ")
}

/// Streams that a range of entries may touch.
fn stream_range(after: Option<EntryKey>, through: Option<EntryKey>) -> String {
    let from = after.map_or(0, |key| key.stream.0);
    let to = through.map_or(u64::MAX, |key| key.stream.0);
    format!("stream_key BETWEEN {from} AND {to}")
}

fn list(keys: impl IntoIterator<Item = String>) -> String {
    keys.into_iter().collect::<Vec<_>>().join(",")
}

/// These entries, as a condition.
pub fn these_entries(keys: &[EntryKey]) -> String {
    let keys = keys
        .iter()
        .map(|key| format!("({},{})", key.stream, key.id));
    format!("(stream_key, id) IN ({})", list(keys))
}

/// These streams, as a condition.
pub fn these_streams(keys: impl IntoIterator<Item = StreamKey>) -> String {
    format!(
        "stream_key IN ({})",
        list(keys.into_iter().map(|key| key.to_string()))
    )
}

/// The content of a store or a replica.
#[derive(Debug, Clone)]
pub struct ClickHouseContents {
    connection: Connection,
    tables: Tables,
}

impl ClickHouseContents {
    /// The content of these tables.
    pub fn new(connection: Connection, tables: Tables) -> Self {
        Self { connection, tables }
    }

    pub(super) fn connection(&self) -> &Connection {
        &self.connection
    }

    pub(super) fn tables(&self) -> &Tables {
        &self.tables
    }

    /// The records of the entries and streams that fulfil these conditions. They stand in the
    /// subqueries, so that each table is read in that range only and no join holds more.
    pub async fn records(&self, entries: &str, streams: &str) -> Result<Vec<Record>> {
        let sql = format!(
            "SELECT e.stream_key AS stream_key, e.id AS id, tupleElement(s.name, 2) AS stream, \
             e.payload AS payload, e.order_key AS order_key, e.dedup_key AS dedup_key, \
             e.schema_version AS schema_version, e.metadata AS metadata, {} AS tags, \
             {} AS annotations, greatest(e.label_version, tupleElement(l.tags, 1), \
             tupleElement(l.annotations, 1)) AS label_version, e.created_at AS created_at, \
             {} AS updated_at \
             FROM (SELECT * FROM {} FINAL WHERE {entries}) AS e \
             INNER JOIN (SELECT * FROM {} FINAL WHERE {streams}) AS s \
             ON s.stream_key = e.stream_key \
             LEFT JOIN (SELECT * FROM {} FINAL WHERE {entries}) AS l \
             ON l.stream_key = e.stream_key AND l.id = e.id \
             WHERE e.id > s.trimmed_through ORDER BY stream_key, id SETTINGS join_use_nulls = 0",
            Tables::TAGS,
            Tables::ANNOTATIONS,
            Tables::UPDATED_AT,
            self.tables.entries,
            self.tables.streams,
            self.tables.labels,
        );
        let query = self.connection.client().query_raw(&sql);
        let rows: Vec<RecordRow> = self.connection.fetch_all(READ, query).await?;
        rows.into_iter().map(RecordRow::into_record).collect()
    }

    async fn states(&self, condition: &str, limit: usize) -> Result<Vec<StreamState>> {
        let sql = format!(
            "SELECT stream_key, tupleElement(s.name, 1) AS name_version, \
             tupleElement(s.name, 2) AS name, version, trimmed_through \
             FROM (SELECT * FROM {} FINAL WHERE {condition} ORDER BY stream_key LIMIT {limit}) AS s \
             ORDER BY stream_key",
            self.tables.streams,
        );
        let query = self.connection.client().query_raw(&sql);
        let rows: Vec<StateRow> = self.connection.fetch_all(READ, query).await?;
        rows.into_iter().map(StateRow::into_state).collect()
    }

    /// The end of a chunk: the last key of up to `limit` rows that are not too large together, and
    /// whether anything is behind it.
    async fn chunk_end(&self, within: &str, limit: usize) -> Result<Option<(EntryKey, bool)>> {
        // Without FINAL: rows that merging would replace only make the chunk smaller.
        let sql = format!(
            "SELECT stream_key, id, length(payload) AS size FROM {} WHERE {within} \
             ORDER BY stream_key, id LIMIT {limit}",
            self.tables.entries,
        );
        let query = self.connection.client().query_raw(&sql);
        let rows: Vec<KeyRow> = self.connection.fetch_all(READ, query).await?;
        let mut more = rows.len() >= limit;
        let (mut bytes, mut end) = (0, None);
        for row in rows {
            let key = EntryKey {
                stream: StreamKey(row.stream_key),
                id: EntryId(row.id),
            };
            bytes += row.size;
            if bytes > CHUNK_BYTES && end.is_some_and(|end| end != key) {
                more = true;
                break;
            }
            end = Some(key);
        }
        Ok(end.map(|end| (end, more)))
    }
}

#[async_trait]
impl Contents for ClickHouseContents {
    async fn entries(
        &self,
        after: Option<EntryKey>,
        through: Option<EntryKey>,
        limit: usize,
    ) -> Result<Vec<Record>> {
        let mut after = after;
        if limit == 0 {
            return Ok(Vec::new());
        }
        // A chunk may hold trimmed entries only; the next one is looked at then.
        while let Some((end, more)) = self.chunk_end(&range(after, through), limit).await? {
            let within = range(after, Some(end));
            let records = self
                .records(&within, &stream_range(after, Some(end)))
                .await?;
            if !records.is_empty() || !more {
                return Ok(records);
            }
            after = Some(end);
        }
        Ok(Vec::new())
    }

    async fn entries_at(&self, keys: &[EntryKey]) -> Result<Vec<Record>> {
        let mut keys = keys.to_vec();
        keys.sort_unstable();
        keys.dedup();
        let mut records = Vec::new();
        for keys in keys.chunks(KEYS) {
            let streams: BTreeSet<StreamKey> = keys.iter().map(|key| key.stream).collect();
            records.extend(
                self.records(&these_entries(keys), &these_streams(streams))
                    .await?,
            );
        }
        Ok(records)
    }

    async fn streams(&self, after: Option<StreamKey>, limit: usize) -> Result<Vec<StreamState>> {
        let condition = after.map_or("1".to_owned(), |after| format!("stream_key > {after}"));
        self.states(&condition, limit).await
    }

    async fn streams_at(&self, keys: &[StreamKey]) -> Result<Vec<StreamState>> {
        let keys: BTreeSet<StreamKey> = keys.iter().copied().collect();
        let keys: Vec<StreamKey> = keys.into_iter().collect();
        let mut states = Vec::new();
        for keys in keys.chunks(KEYS) {
            let condition = these_streams(keys.iter().copied());
            states.extend(self.states(&condition, KEYS).await?);
        }
        Ok(states)
    }
}
