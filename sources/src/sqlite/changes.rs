//! Following the mutation log.

use std::collections::VecDeque;
use std::sync::Arc;

use futures::stream::{self, BoxStream, StreamExt as _, TryStreamExt as _};
use ledger_core::{Change, Cursor, Error, ErrorKind, Lag, Result, StoreName, Timestamp};
use ledger_layout::log::{LogRow, Position};
use ledger_layout::sqlite::{
    Database, LOG_COLUMNS, LOG_TAG, Tables, Waiter, decode_log_row, failed, from_micros,
    read_column, uint,
};
use sqlx::{AssertSqlSafe, SqliteConnection};

const OPERATION: &str = "read the mutation log";
/// How many rows a page may have.
const PAGE_ROWS: i64 = 512;
/// How many bytes of bodies a page may have before it is cut short.
const PAGE_BYTES: usize = 4 << 20;
/// How many rows are counted exactly to tell how far a reader is behind.
const COUNTED_ROWS: i64 = 10_000;

struct Follower {
    database: Database,
    tables: Arc<Tables>,
    waiter: Waiter,
    at: Position,
    page: VecDeque<Change>,
    /// What ends the stream once the page is empty.
    failure: Option<Error>,
}

/// See [`ChangeLog::changes`](ledger_core::ChangeLog::changes).
pub(super) fn follow(
    database: Database,
    tables: Arc<Tables>,
    after: &Cursor,
) -> BoxStream<'static, Result<Change>> {
    let waiter = database.waiter();
    let follower = Position::from_cursor(after, LOG_TAG).map(|at| Follower {
        database,
        tables,
        waiter,
        at,
        page: VecDeque::new(),
        failure: None,
    });
    match follower {
        Ok(follower) => stream::try_unfold(follower, |mut follower| async move {
            let change = follower.next().await?;
            Ok(Some((change, follower)))
        })
        .boxed(),
        Err(error) => stream::once(async { Err(error) }).boxed(),
    }
}

impl Follower {
    async fn next(&mut self) -> Result<Change> {
        loop {
            self.database.check_open()?;
            if let Some(change) = self.page.pop_front() {
                return Ok(change);
            }
            if let Some(failure) = self.failure.take() {
                return Err(failure);
            }
            self.waiter.mark();
            if !self.read().await? {
                self.waiter.changed().await?;
            }
        }
    }

    /// Reads a page behind the position; whether there was anything.
    async fn read(&mut self) -> Result<bool> {
        let mut reader = self.database.reader().await?;
        let page = page(&mut reader, &self.tables, self.at).await;
        let (rows, failure) = reader.done(page)?;
        self.failure = failure;
        let read = !rows.is_empty() || self.failure.is_some();
        for row in rows {
            let end = row.last_position();
            let after = (row.seq == self.at.seq).then_some(self.at.index);
            match row.into_changes(LOG_TAG, after) {
                Ok(changes) => self.page.extend(changes),
                Err(error) => {
                    self.failure = Some(error);
                    break;
                }
            }
            self.at = end;
        }
        Ok(read)
    }
}

/// Rows of the log behind a position, the position's own row included where it has more changes.
/// `CursorExpired` and `SourceDiverged` where the position is none any more, or never was. A row that
/// cannot be read ends the page, with its error beside the rows before it.
async fn page(
    conn: &mut SqliteConnection,
    tables: &Tables,
    after: Position,
) -> Result<(Vec<LogRow>, Option<Error>)> {
    let Tables { store, log, .. } = tables;
    let sql = format!(
        "SELECT st.pruned_through, {LOG_COLUMNS} FROM ledger_stores st
         LEFT JOIN {log} l ON l.seq >= ?2 WHERE st.name = ?1 ORDER BY l.seq LIMIT ?3"
    );
    let mut found = sqlx::query(AssertSqlSafe(sql))
        .bind(store.as_str())
        .bind(after.seq)
        .bind(PAGE_ROWS)
        .fetch(conn);
    let (mut rows, mut bytes, mut first) = (Vec::new(), 0, true);
    while let Some(row) = found
        .try_next()
        .await
        .map_err(|error| failed(OPERATION, error))?
    {
        let pruned_through: i64 = read_column(&row, 0)?;
        let log_row = match read_column::<Option<i64>>(&row, 1)? {
            Some(_) => match decode_log_row(&row, 1) {
                Ok(row) => Some(row),
                Err(error) if rows.is_empty() => return Err(error),
                Err(error) => return Ok((rows, Some(error))),
            },
            None => None,
        };
        if std::mem::take(&mut first) {
            check(store, after, pruned_through, log_row.as_ref())?;
        }
        let Some(log_row) = log_row else { break };
        if log_row.seq == after.seq && log_row.last_position().index <= after.index {
            continue;
        }
        bytes += log_row.body.len();
        rows.push(log_row);
        if bytes > PAGE_BYTES {
            break;
        }
    }
    if first {
        return Err(Error::new(
            ErrorKind::NotFound,
            OPERATION,
            format!("store {store}"),
        ));
    }
    Ok((rows, None))
}

/// Checks that `after` is a position of this history from which nothing is missing; `row` is the
/// first row at or behind it.
fn check(
    store: &StoreName,
    after: Position,
    pruned_through: i64,
    row: Option<&LogRow>,
) -> Result<()> {
    if pruned_through > 0 && after.seq <= pruned_through {
        return Err(Error::new(
            ErrorKind::CursorExpired,
            OPERATION,
            format!(
                "store {store}: the log was pruned through row {pruned_through}, which the reader \
                 at row {} still needs; start it again with a snapshot",
                after.seq
            ),
        ));
    }
    let known = after.seq == 0
        || row.is_some_and(|row| row.seq == after.seq && row.digest() == after.digest);
    if known {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::SourceDiverged,
        OPERATION,
        format!(
            "store {store}: row {} of the log is not the one that was read, as after restoring an \
             older copy; start again with `ledger bridge run --resync`",
            after.seq
        ),
    ))
}

/// See [`ChangeLog::head`](ledger_core::ChangeLog::head).
pub(super) async fn head(conn: &mut SqliteConnection, tables: &Tables) -> Result<Cursor> {
    let sql = format!(
        "SELECT {LOG_COLUMNS} FROM {} l ORDER BY l.seq DESC LIMIT 1",
        tables.log
    );
    let row = sqlx::query(AssertSqlSafe(sql))
        .fetch_optional(conn)
        .await
        .map_err(|error| failed(OPERATION, error))?;
    let position = match row {
        Some(row) => decode_log_row(&row, 0)?.last_position(),
        None => Position::START,
    };
    Ok(position.to_cursor(LOG_TAG))
}

/// See [`ChangeLog::lag`](ledger_core::ChangeLog::lag).
pub(super) async fn lag(
    conn: &mut SqliteConnection,
    tables: &Tables,
    after: &Cursor,
) -> Result<Lag> {
    let fail = |error| failed("measure lag", error);
    let after = Position::from_cursor(after, LOG_TAG)?;
    let log = &tables.log;
    let sql = format!(
        "SELECT coalesce(sum(changes), 0), count(*), min(at), coalesce(max(seq), 0),
           (SELECT coalesce(max(seq), 0) FROM {log})
         FROM (SELECT seq, at, changes FROM {log} WHERE seq > ?1 ORDER BY seq LIMIT ?2)"
    );
    let row = sqlx::query(AssertSqlSafe(sql))
        .bind(after.seq)
        .bind(COUNTED_ROWS)
        .fetch_one(&mut *conn)
        .await
        .map_err(fail)?;
    let (mut entries, rows) = (uint(&row, 0)?, uint(&row, 1)?);
    let uncounted = uint(&row, 4)?.saturating_sub(uint(&row, 3)?);
    entries += entries
        .saturating_mul(uncounted)
        .checked_div(rows)
        .unwrap_or(0);
    let mut oldest = read_column::<Option<i64>>(&row, 2)?;

    let sql = format!("SELECT {LOG_COLUMNS} FROM {log} l WHERE l.seq = ?1");
    let own = sqlx::query(AssertSqlSafe(sql))
        .bind(after.seq)
        .fetch_optional(conn)
        .await
        .map_err(fail)?;
    if let Some(row) = own {
        let row = decode_log_row(&row, 0)?;
        let index = usize::try_from(after.index)
            .unwrap_or(usize::MAX)
            .saturating_add(1);
        let left = row.ids.iter().skip(index).filter(|id| **id != 0).count();
        if left > 0 {
            entries += u64::try_from(left).unwrap_or(u64::MAX);
            oldest = Some(row.at.as_micros());
        }
    }
    let age = oldest.map_or_else(Default::default, |at| {
        Timestamp::now().since(from_micros(at))
    });
    Ok(Lag {
        entries,
        age,
        held_by: Vec::new(),
        bytes: None,
    })
}
