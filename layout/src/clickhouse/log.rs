//! The mutation log of a store: the rows that commit its mutations.
//!
//! The rows of a group of mutations are one insert, whose token names the sequence number of the
//! first. Since the server takes one insert with a token, one writer has a number, however many
//! there are: whose rows are found under it has committed. Who lost has decided on a state that is
//! no longer the present one; it reads what came in between and decides anew.

use bytes::Bytes;
use clickhouse::Row;
use ledger_core::{
    Error, ErrorKind, Result, StoreName, StreamKey, StreamName, StreamRef, Timestamp,
};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{Connection, Dedup, Tables};
use crate::log::{LogRow, Position};

/// The kind of a ClickHouse store's log, in cursors.
pub const LOG_TAG: u8 = b'h';

/// What the first row of a log stands for: its own beginning. It has the number 0, no reader sees it,
/// and it is never pruned.
const GENESIS: i16 = 0;

/// How many bytes of bodies are read before a page is cut short.
const PAGE_BYTES: usize = 4 << 20;

const COLUMNS: &str = "seq, at, stream_key, stream_name, name_version, kind, ids, version, body, \
                       last_id, last_key, applied";

/// The log of one store.
#[derive(Debug, Clone)]
pub struct LogTable {
    connection: Connection,
    table: String,
    store: StoreName,
}

/// Where a log ends.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Head {
    /// The last row's number; 0 for a log without mutations.
    pub seq: i64,
    /// The highest entry id ever given.
    pub last_id: u64,
    /// The highest stream key ever given.
    pub last_key: u64,
    /// Up to which row the other tables were known to have followed when the last row was written.
    pub applied: i64,
}

/// A row to be written; its number is given by its place.
#[derive(Debug, Clone)]
pub struct NewRow {
    /// When.
    pub at: Timestamp,
    /// The stream, with its name then.
    pub stream: StreamRef,
    /// One of the numbers of [`crate::log`].
    pub kind: i16,
    /// See [`LogRow::ids`].
    pub ids: Vec<i64>,
    /// See [`LogRow::version`].
    pub version: i64,
    /// See [`LogRow::body`].
    pub body: Bytes,
}

/// What became of rows.
#[derive(Debug)]
pub enum Written {
    /// They are committed, with these numbers.
    Committed(Vec<LogRow>),
    /// Another writer has the number.
    Lost,
    /// Nobody has it, and nobody will: the server ended while it was being given. The next one is
    /// to be tried.
    Burnt,
}

/// Rows of a log.
#[derive(Debug, Default)]
pub struct Tail {
    /// In order of their numbers.
    pub rows: Vec<LogRow>,
    /// Whether there may be more behind them.
    pub more: bool,
}

#[derive(Debug, Row, Serialize)]
struct Inserted<'a> {
    seq: i64,
    at: i64,
    stream_key: u64,
    stream_name: &'a str,
    name_version: u64,
    kind: i16,
    ids: &'a [i64],
    version: i64,
    #[serde(with = "serde_bytes")]
    body: &'a [u8],
    writer: u128,
    last_id: u64,
    last_key: u64,
    applied: i64,
}

#[derive(Debug, Row, Deserialize)]
struct Selected {
    seq: i64,
    at: i64,
    stream_key: u64,
    stream_name: String,
    name_version: u64,
    kind: i16,
    ids: Vec<i64>,
    version: i64,
    #[serde(with = "serde_bytes")]
    body: Vec<u8>,
    last_id: u64,
    last_key: u64,
    applied: i64,
}

impl Selected {
    fn head(&self) -> Head {
        Head {
            seq: self.seq,
            last_id: self.last_id,
            last_key: self.last_key,
            applied: self.applied,
        }
    }

    fn into_row(self) -> Result<LogRow> {
        let name = StreamName::new(&self.stream_name).map_err(|error| {
            let what = format!("log row {}: stream name", self.seq);
            Error::new(ErrorKind::Corrupt, "read the mutation log", what).with_source(error)
        })?;
        Ok(LogRow {
            seq: self.seq,
            at: Timestamp::from_micros(self.at),
            stream: StreamRef {
                key: StreamKey(self.stream_key),
                name,
                name_version: self.name_version,
            },
            kind: self.kind,
            ids: self.ids,
            version: self.version,
            body: Bytes::from(self.body),
        })
    }
}

/// How a log began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Beginning {
    /// The identity of the history.
    pub identity: Uuid,
    /// The highest entry id given before it began: above 0 for a replica that was promoted, whose
    /// content the log does not tell.
    pub last_id: u64,
}

impl Beginning {
    /// The position behind which everything is that the log tells, as a promoted replica's head has it
    /// before the first mutation. [`Position::START`] is before the content, too.
    pub fn position(&self) -> Position {
        let (high, low) = self.identity.as_u64_pair();
        Position {
            // Never that of the start.
            digest: (high ^ low).max(1),
            ..Position::START
        }
    }
}

#[derive(Debug, Row, Deserialize)]
struct Writer {
    writer: u128,
}

impl LogTable {
    /// The log of these tables.
    pub fn new(connection: Connection, tables: &Tables) -> Self {
        Self {
            connection,
            table: tables.log.clone(),
            store: tables.store.clone(),
        }
    }

    /// How the log began; none where it has not.
    pub async fn beginning(&self, operation: &'static str) -> Result<Option<Beginning>> {
        let sql = format!("SELECT writer, last_id FROM {} WHERE seq = 0", self.table);
        let query = self.connection.client().query_raw(&sql);
        let found = self.connection.fetch_all::<(u128, u64)>(operation, query);
        match found.await {
            Ok(rows) => Ok(rows.first().map(|(writer, last_id)| Beginning {
                identity: Uuid::from_u128(*writer),
                last_id: *last_id,
            })),
            // There is no such table.
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The identity of the history, drawn when the log began; none where it has not.
    pub async fn identity(&self, operation: &'static str) -> Result<Option<Uuid>> {
        let beginning = self.beginning(operation).await?;
        Ok(beginning.map(|beginning| beginning.identity))
    }

    /// Begins the log, whose first ids and keys are above these. Of several that do so at the same
    /// moment one has begun it.
    pub async fn begin(
        &self,
        operation: &'static str,
        last_id: u64,
        last_key: u64,
    ) -> Result<Uuid> {
        // A token whose insert the server did not survive begins nothing; another one does.
        for attempt in 0..8 {
            let row = Inserted {
                seq: 0,
                at: Timestamp::now().as_micros(),
                stream_key: 0,
                stream_name: "",
                name_version: 0,
                kind: GENESIS,
                ids: &[],
                version: 0,
                body: &[],
                writer: Uuid::new_v4().as_u128(),
                last_id,
                last_key,
                applied: 0,
            };
            let token = Dedup::Token(format!("{}/begin/{attempt}", self.table));
            let rows = std::iter::once(row);
            self.connection
                .insert::<Inserted<'static>, _>(operation, &self.table, rows, 1, token)
                .await?;
            if let Some(identity) = self.identity(operation).await? {
                return Ok(identity);
            }
        }
        let what = format!("the log of store {} does not begin", self.store);
        Err(Error::new(ErrorKind::Unavailable, operation, what))
    }

    /// Where the log ends.
    pub async fn head(&self, operation: &'static str) -> Result<Head> {
        let sql = format!(
            "SELECT seq, last_id, last_key, applied FROM {} ORDER BY seq DESC LIMIT 1",
            self.table
        );
        let query = self.connection.client().query_raw(&sql);
        let rows: Vec<(i64, u64, u64, i64)> = self.connection.fetch_all(operation, query).await?;
        let Some((seq, last_id, last_key, applied)) = rows.into_iter().next() else {
            let what = format!("the log of store {} has lost its beginning", self.store);
            return Err(Error::new(ErrorKind::Corrupt, operation, what));
        };
        Ok(Head {
            seq,
            last_id,
            last_key,
            applied,
        })
    }

    /// Writes rows behind `head`, as one insert; `head` tells the ids and keys given by then.
    ///
    /// An error leaves open whether they are committed. The same call again cannot commit them
    /// twice.
    pub async fn append(
        &self,
        operation: &'static str,
        first: i64,
        rows: &[NewRow],
        head: Head,
        writer: Uuid,
    ) -> Result<Written> {
        let inserted = (first..).zip(rows).map(|(seq, row)| Inserted {
            seq,
            at: row.at.as_micros(),
            stream_key: row.stream.key.0,
            stream_name: row.stream.name.as_str(),
            name_version: row.stream.name_version,
            kind: row.kind,
            ids: &row.ids,
            version: row.version,
            body: &row.body,
            writer: writer.as_u128(),
            last_id: head.last_id,
            last_key: head.last_key,
            applied: head.applied,
        });
        let token = Dedup::Token(format!("{}/{first}", self.table));
        self.connection
            .insert::<Inserted<'static>, _>(operation, &self.table, inserted, rows.len(), token)
            .await?;
        let sql = format!(
            "SELECT writer FROM {} WHERE seq >= {first} ORDER BY seq LIMIT 1",
            self.table
        );
        let query = self.connection.client().query_raw(&sql);
        let found: Vec<Writer> = self.connection.fetch_all(operation, query).await?;
        self.check_writers(operation, first).await?;
        Ok(match found.first() {
            None => Written::Burnt,
            Some(found) if found.writer != writer.as_u128() => Written::Lost,
            Some(_) => Written::Committed(
                (first..)
                    .zip(rows)
                    .map(|(seq, row)| LogRow {
                        seq,
                        at: row.at,
                        stream: row.stream.clone(),
                        kind: row.kind,
                        ids: row.ids.clone(),
                        version: row.version,
                        body: row.body.clone(),
                    })
                    .collect(),
            ),
        })
    }

    /// That a number has one writer is what everything rests on; where the server gave it to two, nobody
    /// may go on as if nothing had happened.
    async fn check_writers(&self, operation: &'static str, seq: i64) -> Result<()> {
        let sql = format!(
            "SELECT uniqExact(writer) FROM {} WHERE seq = {seq}",
            self.table
        );
        let query = self.connection.client().query_raw(&sql);
        let writers: Vec<u64> = self.connection.fetch_all(operation, query).await?;
        if writers.first().is_none_or(|writers| *writers <= 1) {
            return Ok(());
        }
        let what = format!(
            "row {seq} of the log of store {} was written by several; the server has forgotten the \
             tokens of inserts too early",
            self.store
        );
        Err(Error::new(ErrorKind::Corrupt, operation, what))
    }

    /// Up to `limit` rows with numbers from `from` on, fewer where they hold many bytes. The row that
    /// began the log is none of them.
    pub async fn rows(&self, operation: &'static str, from: i64, limit: usize) -> Result<Tail> {
        let from = from.max(1);
        let sql = format!(
            "SELECT {COLUMNS} FROM {} WHERE seq >= {from} ORDER BY seq LIMIT {limit}",
            self.table
        );
        let query = self.connection.client().query_raw(&sql);
        let mut cursor = self
            .connection
            .timed(operation, async { query.fetch::<Selected>() })
            .await?;
        let (mut tail, mut bytes) = (Tail::default(), 0);
        while let Some(row) = self.connection.timed(operation, cursor.next()).await? {
            bytes += row.body.len();
            tail.rows.push(row.into_row()?);
            // The first may be one that is read already: a page of it alone would get nobody on.
            if bytes > PAGE_BYTES && tail.rows.len() > 1 {
                tail.more = true;
                return Ok(tail);
            }
        }
        tail.more = tail.rows.len() >= limit;
        Ok(tail)
    }

    /// The last row at or before a number, and where the log ends with it; none where there is no row
    /// but the one that began it.
    pub async fn last(
        &self,
        operation: &'static str,
        through: i64,
    ) -> Result<Option<(LogRow, Head)>> {
        let sql = format!(
            "SELECT {COLUMNS} FROM {} WHERE seq > 0 AND seq <= {through} ORDER BY seq DESC LIMIT 1",
            self.table
        );
        let query = self.connection.client().query_raw(&sql);
        let rows: Vec<Selected> = self.connection.fetch_all(operation, query).await?;
        let Some(row) = rows.into_iter().next() else {
            return Ok(None);
        };
        let head = row.head();
        Ok(Some((row.into_row()?, head)))
    }

    /// The name of the table.
    pub fn table(&self) -> &str {
        &self.table
    }
}
