//! Writing: what every mutation reads first, and the log row it leaves behind.

use std::time::Duration;

use ledger_core::{Error, ErrorKind, Result, StreamKey, StreamName, StreamRef, Timestamp};
use ledger_layout::Retention;
use ledger_layout::log::{APPEND, encode_ids};
use ledger_layout::sqlite::{Tables, failed, int_in, read_column, uint};
use sqlx::{AssertSqlSafe, SqliteConnection};

/// What a mutation finds, under the write lock.
pub(super) struct Found {
    /// Whether the mutation is to be logged.
    pub(super) log: bool,
    /// The highest id that was ever given.
    pub(super) last_id: i64,
    /// The stream, where it exists, and how many entries it ever had.
    pub(super) stream: Option<(StreamRef, u64)>,
}

/// Looks a stream up for a mutation; `ReadOnly` in a replica.
pub(super) async fn find(
    conn: &mut SqliteConnection,
    tables: &Tables,
    operation: &'static str,
    stream: &StreamName,
) -> Result<Found> {
    let Tables { store, streams, .. } = tables;
    let sql = format!(
        "SELECT st.role = 'source', st.log, coalesce(q.seq, 0), s.key, s.name_version, s.version
         FROM ledger_stores st
         LEFT JOIN sqlite_sequence q ON q.name = '{store}_entries'
         LEFT JOIN {streams} s ON s.name = ?2
         WHERE st.name = ?1"
    );
    let row = sqlx::query(AssertSqlSafe(sql))
        .bind(store.as_str())
        .bind(stream.as_str())
        .fetch_optional(conn)
        .await
        .map_err(|error| failed(operation, error))?
        .ok_or_else(|| Error::new(ErrorKind::NotFound, operation, format!("store {store}")))?;
    if !read_column::<bool>(&row, 0)? {
        return Err(Error::new(
            ErrorKind::ReadOnly,
            operation,
            format!(
                "store {store} is a replica, which only its bridge writes until it is promoted"
            ),
        ));
    }
    let stream = if read_column::<Option<i64>>(&row, 3)?.is_some() {
        let key = StreamKey(uint(&row, 3)?);
        let name_version = uint(&row, 4)?;
        Some((
            StreamRef {
                key,
                name: stream.clone(),
                name_version,
            },
            uint(&row, 5)?,
        ))
    } else {
        None
    };
    Ok(Found {
        log: read_column(&row, 1)?,
        last_id: read_column(&row, 2)?,
        stream,
    })
}

/// `NotFound` for a stream.
pub(super) fn no_stream(operation: &'static str, stream: &StreamName) -> Error {
    Error::new(
        ErrorKind::NotFound,
        operation,
        format!("stream {stream:?} does not exist"),
    )
}

/// A row of the log to be written.
pub(super) struct NewRow<'a> {
    pub(super) at: Timestamp,
    pub(super) stream: &'a StreamRef,
    pub(super) kind: i16,
    pub(super) ids: &'a [i64],
    /// How many changes the row stands for.
    pub(super) changes: i64,
    pub(super) version: u64,
    pub(super) body: Vec<u8>,
}

impl NewRow<'_> {
    /// Writes the row; that of an append moves the stream's counters in the same round trip.
    pub(super) async fn write(
        self,
        conn: &mut SqliteConnection,
        tables: &Tables,
        operation: &'static str,
    ) -> Result<()> {
        let counters = if self.kind == APPEND {
            let streams = &tables.streams;
            format!("UPDATE {streams} SET version = ?7, live = live + ?6 WHERE key = ?2;")
        } else {
            String::new()
        };
        let sql = format!(
            "{counters} INSERT INTO {} (at, stream_key, stream_name, name_version, kind, changes, version,
               ids, body) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
            tables.log
        );
        sqlx::query(AssertSqlSafe(sql))
            .bind(self.at.as_micros())
            .bind(int_in(self.stream.key.0))
            .bind(self.stream.name.as_str())
            .bind(int_in(self.stream.name_version))
            .bind(i64::from(self.kind))
            .bind(self.changes)
            .bind(int_in(self.version))
            .bind(encode_ids(self.ids)?)
            .bind(self.body)
            .execute(conn)
            .await
            .map_err(|error| failed(operation, error))?;
        Ok(())
    }
}

/// How many rows one call of [`prune`] removes.
pub(super) const PRUNE_ROWS: i64 = 256;

/// Removes up to [`PRUNE_ROWS`] of the oldest rows that nobody may need any more, and tells how many
/// it removed. The newest row always stays, and so does the row that a consumer's cursor points at:
/// by them cursors are told from those of another history.
pub(super) async fn prune(
    conn: &mut SqliteConnection,
    tables: &Tables,
    retention: Retention,
    now: Timestamp,
) -> Result<u64> {
    const OPERATION: &str = "prune the mutation log";
    let fail = |error| failed(OPERATION, error);
    let Tables { store, log, .. } = tables;
    let before = |age: Duration| {
        let age = i64::try_from(age.as_micros()).unwrap_or(i64::MAX);
        now.as_micros().saturating_sub(age)
    };
    // The oldest rows up to the first that is young enough to stay, but for the last of them: the
    // cursor of a reader that has read all but the young ones points to it.
    let sql = format!(
        "WITH oldest AS (SELECT seq, at FROM {log}
           WHERE seq < (SELECT max(seq) FROM {log}) ORDER BY seq LIMIT ?4 + 1),
         bounds AS (SELECT
           coalesce((SELECT min(seq) - 2 FROM oldest WHERE at > ?2), max(seq) - (count(*) > ?4))
             AS expired,
           coalesce((SELECT min(seq) - 2 FROM oldest WHERE ?3 IS NULL OR at > ?3),
             max(seq) - (count(*) > ?4)) AS overdue
           FROM oldest)
         SELECT max(overdue, min(expired, coalesce(
           (SELECT min(confirmed_seq) - 1 FROM ledger_consumers WHERE store = ?1), expired)))
         FROM bounds"
    );
    let through: Option<i64> = sqlx::query_scalar(AssertSqlSafe(sql))
        .bind(store.as_str())
        .bind(before(retention.min))
        .bind(retention.max.map(before))
        .bind(PRUNE_ROWS)
        .fetch_one(&mut *conn)
        .await
        .map_err(fail)?;
    let Some(through) = through.filter(|through| *through > 0) else {
        return Ok(0);
    };
    let removed = sqlx::query(AssertSqlSafe(format!("DELETE FROM {log} WHERE seq <= ?1")))
        .bind(through)
        .execute(&mut *conn)
        .await
        .map_err(fail)?
        .rows_affected();
    if removed > 0 {
        sqlx::query(
            "UPDATE ledger_stores SET pruned_through = max(pruned_through, ?2) WHERE name = ?1",
        )
        .bind(store.as_str())
        .bind(through)
        .execute(conn)
        .await
        .map_err(fail)?;
    }
    Ok(removed)
}
