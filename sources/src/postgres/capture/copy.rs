//! Copying what a table holds.
//!
//! A table with a key is copied in ranges of it, several at a time, each read as it is at that
//! moment. What was changed between the log's position at the beginning and that moment is met again
//! in the log, with a higher version. A table without a key is copied from one snapshot, which the
//! server exports with the position that it belongs to, and begun anew where it is interrupted.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use futures::TryStreamExt as _;
use ledger_core::{Error, ErrorKind, Result, Row, Table};
use ledger_layout::postgres::failed;
use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgPool, Postgres};
use sqlx::{AssertSqlSafe, PgConnection, Row as _};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::catalog::Found;
use super::text::CopyText;
use crate::postgres::replication::{Replication, literal, quoted};

const OPERATION: &str = "copy table";

/// About how many bytes a range has.
const RANGE_BYTES: u64 = 16 << 20;
/// How many rows are handed on together, and about how many bytes at the most.
const ROWS: usize = 500;
const ROWS_BYTES: usize = 256 << 10;

/// The copy of one table, as far as it has come.
pub(super) struct Copy {
    pool: PgPool,
    pub(super) table: Arc<Table>,
    /// The table's name as SQL takes it, without the tables that inherit from it.
    from: String,
    /// The condition that the carried rows fulfil.
    condition: Option<String>,
    /// The log tells every transaction whose commit record begins behind it.
    pub(super) point: u64,
    way: Way,
    /// How many ranges are read side by side.
    width: usize,
    /// The rows of the ranges that are being read.
    reading: Option<mpsc::Receiver<Result<Vec<Row>>>>,
    /// Up to where the key's order is copied once these are.
    upto: Option<Vec<String>>,
    complete: bool,
    /// The ranges that are read next, once they are found; at most one search at a time.
    next: JoinSet<Result<Ranges>>,
}

enum Way {
    /// By ranges of the key: the last key of the range before, and how many rows a range has.
    Keys {
        after: Option<Vec<String>>,
        rows: u64,
    },
    /// From one snapshot, which lasts as long as the connection that exported it.
    Snapshot {
        name: String,
        _held: Box<Replication>,
        parts: VecDeque<String>,
    },
}

/// What a copy gives next.
pub(super) enum Copied {
    /// Rows.
    Rows(Vec<Row>),
    /// Every row with a key up to this is copied.
    Upto(Bytes),
    /// Everything is copied.
    All,
}

impl Copy {
    /// A copy of a table with a key, from behind `after` on.
    pub(super) fn by_key(
        pool: PgPool,
        found: &Found,
        point: u64,
        after: Option<&Bytes>,
        width: usize,
    ) -> Result<Self> {
        let after = after.map(|bytes| key_from(bytes)).transpose()?;
        let width_of_row = (found.bytes / found.rows.max(1)).max(16);
        let rows = (RANGE_BYTES / width_of_row).clamp(500, 100_000);
        let way = Way::Keys { after, rows };
        Ok(Self::new(pool, found, point, way, width))
    }

    /// A copy of a table without a key, from a snapshot; `held` is the connection that exported it.
    pub(super) fn of_snapshot(
        pool: PgPool,
        found: &Found,
        point: u64,
        name: String,
        held: Replication,
    ) -> Self {
        // One part: rows have no order but that of the scan, and numbers are given as they come.
        let parts = VecDeque::from([String::new()]);
        let way = Way::Snapshot {
            name,
            _held: Box::new(held),
            parts,
        };
        Self::new(pool, found, point, way, 1)
    }

    fn new(pool: PgPool, found: &Found, point: u64, way: Way, width: usize) -> Self {
        Self {
            from: found.sql_name(),
            table: Arc::clone(&found.table),
            condition: found.condition.clone(),
            pool,
            point,
            way,
            width: width.max(1),
            reading: None,
            upto: None,
            complete: false,
            next: JoinSet::new(),
        }
    }

    /// Whether ranges are being read: their rows are then to be taken before anything else of the
    /// table is.
    pub(super) fn is_reading(&self) -> bool {
        self.reading.is_some()
    }

    /// What comes next; after [`Copied::All`] nothing. Dropping the future loses nothing.
    pub(super) async fn next(&mut self) -> Result<Copied> {
        loop {
            if let Some(rows) = &mut self.reading {
                match rows.recv().await {
                    Some(rows) => return rows.map(Copied::Rows),
                    None => self.reading = None,
                }
                if let (false, Some(upto)) = (self.complete, self.upto.take()) {
                    return key_to(&upto).map(Copied::Upto);
                }
            }
            if self.complete {
                return Ok(Copied::All);
            }
            let ranges = self.next_ranges().await?;
            self.complete = ranges.complete;
            self.upto.clone_from(&ranges.upto);
            self.read(ranges.selects);
            // Those after are looked for while these are read.
            self.look_for_ranges();
        }
    }

    /// The ranges that are read next.
    async fn next_ranges(&mut self) -> Result<Ranges> {
        self.look_for_ranges();
        let Some(found) = self.next.join_next().await else {
            return Ok(Ranges::default());
        };
        let found = found.map_err(|error| {
            let what = "looking for ranges ended out of order";
            Error::new(ErrorKind::Internal, OPERATION, what).with_source(error)
        })??;
        if let Way::Keys { after, .. } = &mut self.way {
            after.clone_from(&found.upto);
        }
        Ok(found)
    }

    /// Begins to look for the next ranges, unless that is under way or done.
    fn look_for_ranges(&mut self) {
        if self.complete || !self.next.is_empty() {
            return;
        }
        match &mut self.way {
            Way::Snapshot { parts, .. } => {
                let complete = parts.len() <= 1;
                let columns = columns(&self.table);
                let condition = self.condition.as_ref();
                let condition = condition.map_or_else(String::new, |rows| format!(" WHERE {rows}"));
                let select = format!("SELECT {columns} FROM {}{condition}", self.from);
                let selects = parts.pop_front().map(|_| select).into_iter().collect();
                self.next.spawn(async move {
                    Ok(Ranges {
                        selects,
                        upto: None,
                        complete,
                    })
                });
            }
            Way::Keys { after, rows } => {
                let look = Look {
                    pool: self.pool.clone(),
                    table: Arc::clone(&self.table),
                    from: self.from.clone(),
                    condition: self.condition.clone(),
                    width: self.width,
                    rows: *rows,
                    after: after.clone(),
                };
                self.next.spawn(look.run());
            }
        }
    }

    fn read(&mut self, selects: Vec<String>) {
        // Small: each of the readers fills one piece while its last one waits.
        let (sender, receiver) = mpsc::channel(2);
        for select in selects {
            let reader = Reader {
                pool: self.pool.clone(),
                table: Arc::clone(&self.table),
                snapshot: match &self.way {
                    Way::Snapshot { name, .. } => Some(name.clone()),
                    Way::Keys { .. } => None,
                },
                rows: sender.clone(),
            };
            tokio::spawn(reader.run(format!("COPY ({select}) TO STDOUT")));
        }
        self.reading = Some(receiver);
    }
}

/// Ranges that are read side by side.
#[derive(Default)]
struct Ranges {
    selects: Vec<String>,
    /// The last key of the last of them; none where they are not ranges of a key.
    upto: Option<Vec<String>>,
    /// Whether nothing comes after them.
    complete: bool,
}

/// What is needed to find the ranges behind a key.
struct Look {
    pool: PgPool,
    table: Arc<Table>,
    from: String,
    condition: Option<String>,
    width: usize,
    rows: u64,
    after: Option<Vec<String>>,
}

impl Look {
    async fn run(self) -> Result<Ranges> {
        let failed = |error| failed(OPERATION, self.table.name.to_string(), error);
        let mut conn = self.pool.acquire().await.map_err(failed)?;
        let columns = columns(&self.table);
        let (mut selects, mut from, mut complete) = (Vec::new(), self.after.clone(), false);
        while selects.len() < self.width && !complete {
            let to = border(
                &mut conn,
                &self.table,
                &self.from,
                from.as_deref(),
                self.rows,
            );
            let to = to.await?;
            complete = to.is_none();
            let mut range = range(&self.table, from.as_deref(), to.as_deref());
            if let Some(rows) = &self.condition {
                let with = if range.is_empty() { "WHERE" } else { "AND" };
                range.push_str(&format!(" {with} ({rows})"));
            }
            selects.push(format!("SELECT {columns} FROM {}{range}", self.from));
            from = to.or(from);
        }
        Ok(Ranges {
            selects,
            upto: from,
            complete,
        })
    }
}

fn columns(table: &Table) -> String {
    let columns: Vec<_> = table.columns.iter().map(|c| quoted(&c.name)).collect();
    columns.join(", ")
}

/// A connection that is closed unless what was asked on it has come to its end: a copy that is left
/// half-way leaves answers behind, and perhaps a transaction.
struct Reading(Option<PoolConnection<Postgres>>);

impl Drop for Reading {
    fn drop(&mut self) {
        drop(self.0.take().map(PoolConnection::detach));
    }
}

struct Reader {
    pool: PgPool,
    table: Arc<Table>,
    snapshot: Option<String>,
    rows: mpsc::Sender<Result<Vec<Row>>>,
}

impl Reader {
    async fn run(self, sql: String) {
        // Who takes the rows may be gone: then nobody needs the error either.
        let read = tokio::select! {
            read = self.read(&sql) => read,
            () = self.rows.closed() => return,
        };
        if let Err(error) = read {
            let _ = self.rows.send(Err(error)).await;
        }
    }

    async fn read(&self, sql: &str) -> Result<()> {
        let name = &self.table.name;
        let failed = |error| changed(failed(OPERATION, name.to_string(), error));
        let mut reading = Reading(Some(self.pool.acquire().await.map_err(failed)?));
        let Some(conn) = &mut reading.0 else {
            return Ok(());
        };
        if let Some(snapshot) = &self.snapshot {
            for statement in [
                "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY".to_owned(),
                format!("SET TRANSACTION SNAPSHOT {}", literal(snapshot)),
                // Its rows are numbered in the order in which they come.
                "SET LOCAL synchronize_seqscans = off".to_owned(),
            ] {
                let done = sqlx::query(AssertSqlSafe(statement)).execute(&mut **conn);
                done.await.map_err(failed)?;
            }
        }
        let columns = self.table.columns.len();
        let (mut text, mut rows, mut bytes) = (CopyText::default(), Vec::new(), 0);
        {
            let mut pieces = conn.copy_out_raw(sql).await.map_err(failed)?;
            while let Some(piece) = pieces.try_next().await.map_err(failed)? {
                bytes += piece.len();
                let read = text.rows(piece, columns, &mut rows);
                read.map_err(|error| error.within(name))?;
                if rows.len() >= ROWS || bytes >= ROWS_BYTES {
                    bytes = 0;
                    let full = std::mem::replace(&mut rows, Vec::with_capacity(ROWS));
                    if self.rows.send(Ok(full)).await.is_err() {
                        return Ok(());
                    }
                }
            }
        }
        if text.is_cut() {
            let what = format!("{name}: the last row is cut short");
            return Err(Error::new(ErrorKind::Unavailable, OPERATION, what));
        }
        if self.snapshot.is_some() {
            sqlx::query("COMMIT")
                .execute(&mut **conn)
                .await
                .map_err(failed)?;
        }
        // It is as it was, and good for the next range.
        drop(reading.0.take());
        // Who takes them may be gone.
        let _ = self.rows.send(Ok(rows)).await;
        Ok(())
    }
}

/// The key at the end of a range of `rows` rows behind `after`; none where fewer are left.
async fn border(
    conn: &mut PgConnection,
    table: &Table,
    from: &str,
    after: Option<&[String]>,
    rows: u64,
) -> Result<Option<Vec<String>>> {
    let key: Vec<_> = key_columns(table).collect();
    let texts: Vec<_> = key.iter().map(|name| format!("{name}::text")).collect();
    // Qualified: a name alone would mean the text that is selected, which has another order.
    let order: Vec<_> = key.iter().map(|name| format!("t.{name}")).collect();
    let sql = format!(
        "SELECT {} FROM {from} AS t{} ORDER BY {} OFFSET {} LIMIT 1",
        texts.join(", "),
        range(table, after, None),
        order.join(", "),
        rows.saturating_sub(1)
    );
    let row = sqlx::query(AssertSqlSafe(sql))
        .fetch_optional(conn)
        .await
        .map_err(|error| changed(failed(OPERATION, table.name.to_string(), error)))?;
    Ok(row.map(|row| (0..key.len()).map(|place| row.get(place)).collect()))
}

/// A table or column that is gone was there when the catalogue was read: it is read again.
fn changed(error: Error) -> Error {
    let code = std::error::Error::source(&error)
        .and_then(|source| source.downcast_ref::<sqlx::Error>())
        .and_then(|source| source.as_database_error()?.code());
    match code.as_deref() {
        Some("42703" | "42P01") => error.retryable(),
        _ => error,
    }
}

fn key_columns(table: &Table) -> impl Iterator<Item = String> + '_ {
    let columns = table.columns.iter().filter(|column| column.key);
    columns.map(|column| quoted(&column.name))
}

/// The condition that holds between two keys.
fn range(table: &Table, after: Option<&[String]>, upto: Option<&[String]>) -> String {
    let bound = |operator: &str, key: &[String]| {
        let columns: Vec<_> = key_columns(table).collect();
        let kinds = table.columns.iter().filter(|column| column.key);
        let values = key.iter().zip(kinds);
        let values: Vec<_> = values
            .map(|(value, column)| format!("{}::{}", literal(value), column.declared))
            .collect();
        format!(
            "({}) {operator} ({})",
            columns.join(", "),
            values.join(", ")
        )
    };
    let bounds = [
        after.map(|key| bound(">", key)),
        upto.map(|key| bound("<=", key)),
    ];
    let bounds: Vec<_> = bounds.into_iter().flatten().collect();
    match bounds.as_slice() {
        [] => String::new(),
        bounds => format!(" WHERE {}", bounds.join(" AND ")),
    }
}

fn key_to(key: &[String]) -> Result<Bytes> {
    let bytes = rmp_serde::to_vec(key).map_err(|error| {
        Error::new(ErrorKind::Internal, OPERATION, "write a key").with_source(error)
    })?;
    Ok(bytes.into())
}

fn key_from(bytes: &[u8]) -> Result<Vec<String>> {
    rmp_serde::from_slice(bytes).map_err(|error| {
        let what = "how far the copy had come cannot be read";
        Error::new(ErrorKind::Corrupt, OPERATION, what).with_source(error)
    })
}

#[cfg(test)]
mod tests {
    use ledger_core::{Column, ColumnType, TableName};

    use super::*;

    fn table() -> Table {
        let column = |name: &str, declared: &str, key| Column {
            name: name.to_owned(),
            kind: ColumnType::Text,
            key,
            nullable: !key,
            declared: declared.to_owned(),
        };
        Table {
            id: 1,
            name: TableName::new("public", "t"),
            columns: vec![
                column("a", "integer", true),
                column("n", "text", false),
                column("B", "character varying(9)", true),
            ],
            full_identity: false,
        }
    }

    #[test]
    fn a_range_is_open_below_and_closed_above() {
        let (from, to) = (
            ["1", "x'y"].map(str::to_owned),
            ["2", "z"].map(str::to_owned),
        );
        assert_eq!(
            range(&table(), Some(&from), Some(&to)),
            " WHERE (\"a\", \"B\") > ('1'::integer, 'x''y'::character varying(9)) \
             AND (\"a\", \"B\") <= ('2'::integer, 'z'::character varying(9))"
        );
        assert_eq!(range(&table(), None, None), "");
    }

    #[test]
    fn a_key_is_read_back_as_it_was() {
        let key = ["1".to_owned(), "tab\tand 'quote'".to_owned()];
        assert_eq!(key_from(&key_to(&key).unwrap()).unwrap(), key);
        assert!(key_from(b"\xc1").is_err());
    }
}
