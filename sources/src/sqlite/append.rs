//! Appending.

use std::collections::HashMap;
use std::ops::Range;

use ledger_core::{
    Appended, EntryId, Error, ErrorKind, ExpectedVersion, NewEntry, Result, StreamKey, StreamName,
    StreamRef, Timestamp, VersionConflict,
};
use ledger_layout::log::{APPEND, encode_entries, split};
use ledger_layout::sqlite::{
    Tables, failed, int_in, json_pairs, json_texts, payload_value, read_column, uint,
};
use sqlx::query::Query;
use sqlx::sqlite::SqliteArguments;
use sqlx::{AssertSqlSafe, Sqlite, SqliteConnection};

use super::log::{NewRow, find};

const OPERATION: &str = "append";

/// The most rows of one INSERT. Fewer statements would hardly be faster, and each number of rows is
/// a statement of its own in the connection's cache.
const BLOCK: usize = 512;
/// Up to this number of rows is written by a statement of just that many; what is more than that by
/// blocks of powers of two.
const SMALL: usize = 128;

/// Entries in their stored form, with the bodies of their log rows; made before the write lock is
/// taken.
pub(super) struct Prepared {
    entries: Vec<NewEntry>,
    rows: Option<Vec<(Range<usize>, Vec<u8>)>>,
}

impl Prepared {
    /// Checks the entries; `log` tells whether log rows are expected to be needed.
    pub(super) fn new(entries: Vec<NewEntry>, log: bool) -> Result<Self> {
        let checked = entries
            .into_iter()
            .enumerate()
            .map(|(index, entry)| entry.checked(index));
        let entries = checked.collect::<Result<Vec<_>>>()?;
        let rows = if log { Some(log_rows(&entries)?) } else { None };
        Ok(Self { entries, rows })
    }
}

impl Prepared {
    /// How many entries there are.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// How many bytes their payloads have.
    pub(super) fn bytes(&self) -> usize {
        self.entries.iter().map(|entry| entry.payload.len()).sum()
    }
}

fn log_rows(entries: &[NewEntry]) -> Result<Vec<(Range<usize>, Vec<u8>)>> {
    let mut rows = Vec::new();
    let mut begin = 0;
    for end in split(entries) {
        rows.push((
            begin..end,
            encode_entries(entries.get(begin..end).unwrap_or_default())?,
        ));
        begin = end;
    }
    Ok(rows)
}

fn conflict(stream: &StreamName, expected: ExpectedVersion, actual: u64) -> Error {
    Error::conflict(
        format!("stream {stream:?}"),
        VersionConflict { expected, actual },
    )
}

/// Appends, in a transaction that the caller rolls back on an error.
pub(super) async fn append(
    conn: &mut SqliteConnection,
    tables: &Tables,
    name: &StreamName,
    prepared: Prepared,
    expected: ExpectedVersion,
) -> Result<Vec<Appended>> {
    let found = find(conn, tables, OPERATION, name).await?;
    if prepared.entries.is_empty() {
        // Nothing is created, but the expectation holds.
        let actual = found.stream.map_or(0, |(_, version)| version);
        return if expected.accepts(actual) {
            Ok(Vec::new())
        } else {
            Err(conflict(name, expected, actual))
        };
    }
    let at = Timestamp::now();
    let (stream, version) = match found.stream {
        Some(stream) => stream,
        None => (create_stream(conn, tables, name, at).await?, 0),
    };
    let entries = &prepared.entries;
    let rows = Rows {
        stream: &stream,
        at,
        // A log row moves the counters of its append, which may be more than one.
        counted: !found.log,
    };
    let ids = rows.insert(conn, tables, found.last_id, entries).await?;
    let kept = u64::try_from(ids.iter().filter(|id| **id != 0).count()).unwrap_or(u64::MAX);
    let appended = if kept == u64::try_from(entries.len()).unwrap_or(u64::MAX) {
        let kept = |id: &i64| Appended {
            id: EntryId(id.unsigned_abs()),
            duplicate: false,
        };
        ids.iter().map(kept).collect()
    } else {
        originals(conn, tables, &stream, entries, &ids).await?
    };
    if kept == 0 {
        return Ok(appended);
    }
    if !expected.accepts(version) {
        return Err(conflict(name, expected, version));
    }
    if found.log {
        let rows = match prepared.rows {
            Some(rows) => rows,
            None => log_rows(entries)?,
        };
        write_log(conn, tables, &stream, at, version, &ids, rows).await?;
    }
    Ok(appended)
}

async fn create_stream(
    conn: &mut SqliteConnection,
    tables: &Tables,
    name: &StreamName,
    at: Timestamp,
) -> Result<StreamRef> {
    let row = sqlx::query(AssertSqlSafe(format!(
        "INSERT INTO {} (name, name_version, version, live, trimmed_through, created_at)
         VALUES (?1, 1, 0, 0, 0, ?2) RETURNING key",
        tables.streams
    )))
    .bind(name.as_str())
    .bind(at.as_micros())
    .fetch_one(conn)
    .await
    .map_err(|error| failed(OPERATION, error))?;
    Ok(StreamRef {
        key: StreamKey(uint(&row, 0)?),
        name: name.clone(),
        name_version: 1,
    })
}

/// Cuts entries into blocks, the smallest first: while it is prepared SQLite has nothing to do.
fn blocks(entries: &[NewEntry]) -> impl Iterator<Item = &[NewEntry]> {
    let mut sizes = Vec::new();
    let mut rest = entries.len();
    while rest > SMALL {
        let size = BLOCK.min(1 << rest.ilog2());
        sizes.push(size);
        rest -= size;
    }
    if rest > 0 {
        sizes.push(rest);
    }
    let mut rest = entries;
    std::iter::from_fn(move || {
        let (block, behind) = rest.split_at_checked(sizes.pop()?)?;
        rest = behind;
        Some(block)
    })
}

/// What the rows of an append have in common.
struct Rows<'a> {
    stream: &'a StreamRef,
    at: Timestamp,
    /// Whether the stream's counters are moved along.
    counted: bool,
}

impl Rows<'_> {
    /// Inserts the entries with ids above `last_id`, in order, and tells the id that each got: 0
    /// where the database skipped it because its dedup key was taken.
    async fn insert(
        &self,
        conn: &mut SqliteConnection,
        tables: &Tables,
        last_id: i64,
        entries: &[NewEntry],
    ) -> Result<Vec<i64>> {
        let fail = |error| failed(OPERATION, error);
        let mut ids = Vec::with_capacity(entries.len());
        let mut last_id = last_id;
        let mut blocks = blocks(entries);
        let mut next = match blocks.next() {
            Some(block) => Some((block.len(), self.query(tables, last_id, block)?)),
            None => None,
        };
        while let Some((size, query)) = next {
            let size = i64::try_from(size).unwrap_or(i64::MAX);
            let drawn = last_id + 1..=last_id + size;
            // SQLite's thread inserts one block while this one prepares the next.
            let prepare = async {
                let block = blocks.next()?;
                let query = self.query(tables, *drawn.end(), block);
                Some(query.map(|query| (block.len(), query)))
            };
            let (changed, prepared) = futures::join!(query.execute(&mut *conn), prepare);
            next = prepared.transpose()?;
            // The stream's own row is one of them.
            let inserted = changed.map_err(fail)?.rows_affected() - u64::from(self.counted);
            if inserted == size.unsigned_abs() {
                ids.extend(drawn);
            } else {
                let sql = format!(
                    "SELECT id FROM {} WHERE id > ?1 ORDER BY id",
                    tables.entries
                );
                let kept: Vec<i64> = sqlx::query_scalar(AssertSqlSafe(sql))
                    .bind(last_id)
                    .fetch_all(&mut *conn)
                    .await
                    .map_err(fail)?;
                ids.extend(drawn.map(|id| {
                    if kept.binary_search(&id).is_ok() {
                        id
                    } else {
                        0
                    }
                }));
            }
            last_id += size;
        }
        Ok(ids)
    }

    /// The statement for a block, with its parameters.
    fn query<'q>(
        &self,
        tables: &Tables,
        last_id: i64,
        block: &'q [NewEntry],
    ) -> Result<Query<'q, Sqlite, SqliteArguments>> {
        let key = int_in(self.stream.key.0);
        let mut query = sqlx::query(AssertSqlSafe(self.sql(tables, block.len())));
        for (id, entry) in (last_id + 1..).zip(block) {
            query = query
                .bind(key)
                .bind(self.at.as_micros())
                .bind(id)
                .bind(payload_value(&entry.payload))
                .bind(entry.order_key.as_str())
                .bind(entry.dedup_key.as_str())
                .bind(i64::from(entry.schema_version))
                .bind(json_pairs(&entry.metadata)?)
                .bind(json_texts(&entry.tags)?);
        }
        Ok(if self.counted { query.bind(key) } else { query })
    }

    /// An INSERT of that many rows, which only the dedup index may make skip one; and where the rows
    /// are counted, the stream's counters in the same round trip to SQLite's thread.
    ///
    /// Its parameters have no numbers: SQLite looks the name of each up in a list of all.
    fn sql(&self, tables: &Tables, rows: usize) -> String {
        let mut sql = String::with_capacity(384 + rows * 20);
        sql.push_str("INSERT INTO ");
        sql.push_str(&tables.entries);
        sql.push_str(
            " (stream_key, created_at, id, payload, order_key, dedup_key, schema_version, \
             metadata, tags) VALUES ",
        );
        for row in 0..rows {
            sql.push_str(if row == 0 { "" } else { "," });
            sql.push_str("(?,?,?,?,?,?,?,?,?)");
        }
        sql.push_str(" ON CONFLICT (stream_key, dedup_key) WHERE dedup_key <> '' DO NOTHING");
        if self.counted {
            sql.push_str("; UPDATE ");
            sql.push_str(&tables.streams);
            sql.push_str(
                " SET version = version + changes(), live = live + changes() WHERE key = ?",
            );
        }
        sql
    }
}

/// The results of an append with duplicates: each names the entry that has its dedup key.
async fn originals(
    conn: &mut SqliteConnection,
    tables: &Tables,
    stream: &StreamRef,
    entries: &[NewEntry],
    ids: &[i64],
) -> Result<Vec<Appended>> {
    let pairs = || entries.iter().zip(ids);
    let keys: Vec<&str> = pairs()
        .filter(|(_, id)| **id == 0)
        .map(|(entry, _)| entry.dedup_key.as_str())
        .collect();
    let keys = serde_json::to_string(&keys)
        .map_err(|error| Error::new(ErrorKind::Internal, OPERATION, "encode").with_source(error))?;
    let sql = format!(
        "SELECT dedup_key, id FROM {} WHERE stream_key = ?1 AND dedup_key <> ''
           AND dedup_key IN (SELECT value FROM json_each(?2))",
        tables.entries
    );
    let rows = sqlx::query(AssertSqlSafe(sql))
        .bind(int_in(stream.key.0))
        .bind(keys)
        .fetch_all(conn)
        .await
        .map_err(|error| failed(OPERATION, error))?;
    let mut held = HashMap::with_capacity(rows.len());
    for row in &rows {
        held.insert(read_column::<&str>(row, 0)?, uint(row, 1)?);
    }
    pairs()
        .map(|(entry, id)| match id {
            0 => {
                let original = held.get(entry.dedup_key.as_str()).copied().ok_or_else(|| {
                    let what = format!("nobody holds dedup key {:?}", entry.dedup_key);
                    Error::new(ErrorKind::Internal, OPERATION, what)
                })?;
                Ok(Appended {
                    id: EntryId(original),
                    duplicate: true,
                })
            }
            id => Ok(Appended {
                id: EntryId(id.unsigned_abs()),
                duplicate: false,
            }),
        })
        .collect()
}

/// Writes the log rows of an append, and with them the stream's counters; none for a row whose entries are all duplicates.
async fn write_log(
    conn: &mut SqliteConnection,
    tables: &Tables,
    stream: &StreamRef,
    at: Timestamp,
    mut version: u64,
    ids: &[i64],
    rows: Vec<(Range<usize>, Vec<u8>)>,
) -> Result<()> {
    for (range, body) in rows {
        let ids = ids.get(range).unwrap_or_default();
        let kept = ids.iter().filter(|id| **id != 0).count();
        if kept == 0 {
            continue;
        }
        version += u64::try_from(kept).unwrap_or(0);
        let changes = i64::try_from(kept).unwrap_or(i64::MAX);
        let row = NewRow {
            at,
            stream,
            kind: APPEND,
            ids,
            changes,
            version,
            body,
        };
        row.write(conn, tables, OPERATION).await?;
    }
    Ok(())
}
