//! Writing: what every mutation reads first, and the log row it leaves behind.

use ledger_core::{Error, ErrorKind, Result, StreamKey, StreamName, StreamRef, Timestamp};
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
