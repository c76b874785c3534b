//! Reading the mutation log.
//!
//! A sequence number is drawn before its transaction commits, so numbers become visible out of
//! order: a reader that goes by `seq > last` alone loses rows. This one stops at a gap until the
//! gap is filled or dead. Only an insert into the log draws a number, and it holds the log's
//! `RowExclusiveLock` from before that until its transaction has become visible or is gone. So:
//! having seen a number behind the gap, ask who holds that lock; when all those have gone, a newer
//! snapshot shows what will ever fill the gap. Prepared transactions hold it as well, and have no
//! process. Neither transaction ids nor time tell this.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::stream::BoxStream;
use ledger_core::{
    Change, ChangeLog, Consumers, Contents, Cursor, DeadLetters, Error, ErrorKind, Lag, Result,
    SourceId,
};
use ledger_layout::log::{LogRow, Position};
use ledger_layout::postgres::{Micros, Tables, failed, log_row_from_row};
use sqlx::{PgConnection, Row as _};

use super::read::safe;
use super::store::Inner;
use super::{PostgresStore, TAG};
use crate::prefetch::{Pages, prefetch};

/// The most log rows of a page.
const PAGE_ROWS: i64 = 4_096;
/// The body bytes after which a page ends. Decoded they take several times as much, and up to three
/// pages are in memory: one that is fetched, one that waits, one that is consumed.
const PAGE_BYTES: i64 = 2 << 20;
/// How long a page may take. A connection whose other end has vanished tells nothing for a quarter
/// of an hour.
const PAGE_TIME: Duration = Duration::from_mins(1);
/// How long to wait before asking again who holds a gap open; it doubles up to the second.
const GAP_WAIT: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(50));

/// The table whose writers may fill a gap.
const LOG: &[&str] = &["log"];

/// Sequences of the log must not be cached per session: numbers would appear far out of order.
pub(super) async fn check_sequence(conn: &mut PgConnection, tables: &Tables) -> Result<()> {
    let cache: i64 =
        sqlx::query_scalar("SELECT seqcache FROM pg_sequence WHERE seqrelid = $1::regclass")
            .bind(tables.of_store("log_seq"))
            .fetch_one(conn)
            .await
            .map_err(|error| failed("open store", format!("store {}", tables.store()), error))?;
    if cache == 1 {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::Unsupported,
        "open store",
        format!(
            "the sequence {}_log_seq has CACHE {cache}; run ALTER SEQUENCE ... CACHE 1, since \
             cached numbers hold readers of the log back",
            tables.store()
        ),
    ))
}

#[async_trait]
impl ChangeLog for PostgresStore {
    async fn identity(&self) -> Result<SourceId> {
        const OPERATION: &str = "read source identity";
        let inner = &self.inner;
        let mut conn = inner.connection(OPERATION).await?;
        let sql = inner.tables.sql(
            "SELECT s.uuid, c.system_identifier, k.timeline_id, s.source FROM {ledger.stores} s, \
             pg_control_system() c, pg_control_checkpoint() k WHERE s.name = $1",
        );
        let row = sqlx::query(safe(sql))
            .bind(inner.tables.store().as_str())
            .fetch_one(&mut *conn)
            .await
            .map_err(|error| inner.failed(OPERATION, error))?;
        let source: Option<&str> = row.get(3);
        let source: Option<SourceId> = source.map(str::parse).transpose()?;
        Ok(SourceId {
            store: row.get(0),
            system: row.get::<i64, _>(1).cast_unsigned().to_string(),
            timeline: u32::try_from(row.get::<i32, _>(2)).unwrap_or(0),
            origins: source.map(|source| source.passed_on()).unwrap_or_default(),
        })
    }

    fn start(&self) -> Cursor {
        Position::START.to_cursor(TAG)
    }

    fn changes(&self, after: Cursor) -> BoxStream<'static, Result<Change>> {
        let inner = Arc::clone(&self.inner);
        prefetch(move |pages| async move { follow(&inner, &after, &pages).await })
    }

    async fn head(&self) -> Result<Cursor> {
        const OPERATION: &str = "find the log's head";
        let inner = &self.inner;
        let mut conn = inner.connection(OPERATION).await?;
        let sql = inner.tables.sql("SELECT max(seq) FROM {log}");
        let last: Option<i64> = sqlx::query_scalar(safe(sql))
            .fetch_one(&mut *conn)
            .await
            .map_err(|error| inner.failed(OPERATION, error))?;
        let Some(last) = last else {
            return Ok(self.start());
        };
        Holders::wait(inner, &mut conn, LOG).await?;
        let row = row_at(inner, &mut conn, last).await?.row.ok_or_else(|| {
            Error::new(
                ErrorKind::CursorExpired,
                OPERATION,
                "the log was pruned meanwhile",
            )
            .retryable()
        })?;
        Ok(row.last_position().to_cursor(TAG))
    }

    async fn lag(&self, after: &Cursor) -> Result<Lag> {
        const OPERATION: &str = "measure lag";
        const EXACT: i64 = 100_000;
        let inner = &self.inner;
        let position = Position::from_cursor(after, TAG)?;
        let mut conn = inner.connection(OPERATION).await?;
        let sql = inner.tables.sql(
            "SELECT coalesce(sum(p.n), 0)::bigint, min(p.at) FILTER (WHERE p.n > 0), max(p.seq), \
             count(*), (SELECT max(seq) FROM {log}), clock_timestamp() FROM (\
             SELECT seq, at, greatest(cardinality(ids), 1) - CASE WHEN seq = $1 THEN $2 ELSE 0 END \
             AS n FROM {log} WHERE seq >= $1 ORDER BY seq LIMIT $3) p",
        );
        let row = sqlx::query(safe(sql))
            .bind(position.seq)
            .bind(i64::from(position.index) + 1)
            .bind(EXACT)
            .fetch_one(&mut *conn)
            .await
            .map_err(|error| inner.failed(OPERATION, error))?;
        let counted: i64 = row.get(0);
        let oldest: Option<Micros> = row.get(1);
        let (seen, rows, last): (Option<i64>, i64, Option<i64>) =
            (row.get(2), row.get(3), row.get(4));
        let rest = match (seen, last) {
            (Some(seen), Some(last)) if rows == EXACT => (last - seen) * counted / rows,
            _ => 0,
        };
        let now: Micros = row.get(5);
        let holders = if counted + rest > 0 {
            Holders::ask(inner, &mut conn, LOG).await?
        } else {
            Holders::default()
        };
        Ok(Lag {
            entries: u64::try_from(counted + rest).unwrap_or(0),
            age: oldest
                .map(|oldest| now.0.since(oldest.0))
                .unwrap_or_default(),
            bytes: None,
            held_by: holders.describe(),
        })
    }

    fn snapshot(&self, after: Option<Cursor>) -> BoxStream<'static, Result<Change>> {
        let inner = Arc::clone(&self.inner);
        prefetch(
            move |pages| async move { super::snapshot::copy(&inner, after.as_ref(), &pages).await },
        )
    }

    async fn size(&self) -> Result<u64> {
        const OPERATION: &str = "count entries";
        let inner = &self.inner;
        let mut conn = inner.connection(OPERATION).await?;
        let sql = inner
            .tables
            .sql("SELECT coalesce(sum(live), 0)::bigint FROM {streams}");
        let size: i64 = sqlx::query_scalar(safe(sql))
            .fetch_one(&mut *conn)
            .await
            .map_err(|error| inner.failed(OPERATION, error))?;
        Ok(u64::try_from(size).unwrap_or(0))
    }

    fn contents(&self) -> &dyn Contents {
        &self.inner.contents
    }

    fn consumers(&self) -> &dyn Consumers {
        &self.inner.registry
    }

    fn dead_letters(&self) -> &dyn DeadLetters {
        &self.inner.registry
    }
}

/// A transaction that may still fill a gap of the log.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Holder {
    transaction: String,
    /// A prepared transaction. The server gives it another name when it restarts, so it cannot be
    /// known again by that.
    prepared: bool,
    description: String,
}

/// Those who held the log's write lock at one moment.
#[derive(Debug, Default)]
pub(super) struct Holders(HashSet<Holder>);

impl Holders {
    /// Who writes the store's tables of these names.
    pub(super) async fn ask(
        inner: &Inner,
        conn: &mut PgConnection,
        tables: &[&str],
    ) -> Result<Self> {
        // The lock itself names the transaction even where there is no process (prepared ones).
        const SQL: &str = "SELECT l.virtualtransaction, coalesce('process ' || l.pid || ' (' \
             || coalesce(nullif(a.application_name, ''), 'unnamed') || ', in a transaction for ' \
             || coalesce(extract(epoch FROM clock_timestamp() - a.xact_start)::int::text, '?') \
             || ' s)', 'a prepared transaction'), l.pid IS NULL \
             FROM pg_locks l LEFT JOIN pg_stat_activity a ON a.pid = l.pid \
             WHERE l.locktype = 'relation' AND l.mode = 'RowExclusiveLock' AND l.granted \
             AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database()) \
             AND l.relation = ANY ($1::text[]::regclass[])";
        let named = tables.iter().map(|table| inner.tables.of_store(table));
        let named: Vec<String> = named.collect();
        let rows = sqlx::query(SQL)
            .bind(named)
            .fetch_all(conn)
            .await
            .map_err(|error| inner.failed("read who writes the log", error))?;
        Ok(Self(
            rows.iter()
                .map(|row| Holder {
                    transaction: row.get(0),
                    description: row.get(1),
                    prepared: row.get(2),
                })
                .collect(),
        ))
    }

    /// Waits until those that write the tables at this moment have ended.
    pub(super) async fn wait(
        inner: &Inner,
        conn: &mut PgConnection,
        tables: &[&str],
    ) -> Result<()> {
        let mut holders = Self::ask(inner, conn, tables).await?;
        let mut wait = GAP_WAIT.0;
        while !holders.0.is_empty() {
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(GAP_WAIT.1);
            holders = holders.still_there(inner, conn, tables).await?;
        }
        Ok(())
    }

    /// Who they are, in words.
    pub(super) fn describe(self) -> Vec<String> {
        self.0
            .into_iter()
            .map(|holder| holder.description)
            .collect()
    }

    async fn still_there(
        self,
        inner: &Inner,
        conn: &mut PgConnection,
        tables: &[&str],
    ) -> Result<Self> {
        let mut now = Self::ask(inner, conn, tables).await?.0;
        let before: HashSet<String> = self
            .0
            .into_iter()
            .map(|holder| holder.transaction)
            .collect();
        // Any that is prepared may be one of those of before.
        now.retain(|holder| holder.prepared || before.contains(&holder.transaction));
        Ok(Self(now))
    }
}

/// What stands at one place of the log.
struct At {
    row: Option<LogRow>,
    pruned_through: i64,
}

const LOG_COLUMNS: &str =
    "l.seq, l.at, l.stream_key, l.stream_name, l.name_version, l.kind, l.ids, l.version, l.body";

async fn row_at(inner: &Inner, conn: &mut PgConnection, seq: i64) -> Result<At> {
    let sql = inner.tables.sql(&format!(
        "SELECT {LOG_COLUMNS}, s.pruned_through FROM {{ledger.stores}} s \
         LEFT JOIN {{log}} l ON l.seq = $2 WHERE s.name = $1"
    ));
    let row = sqlx::query(safe(sql))
        .bind(inner.tables.store().as_str())
        .bind(seq)
        .fetch_one(conn)
        .await
        .map_err(|error| inner.failed("read the mutation log", error))?;
    Ok(At {
        row: log_row_from_row(&row)?,
        pruned_through: row.get(9),
    })
}

fn expired(inner: &Inner, position: Position, pruned_through: i64) -> Error {
    Error::new(
        ErrorKind::CursorExpired,
        "read the mutation log",
        format!(
            "store {}: changes after log row {} are gone, the log was pruned through row \
             {pruned_through}; start again from a snapshot (--resync)",
            inner.tables.store(),
            position.seq
        ),
    )
}

fn diverged(inner: &Inner, position: Position, why: &str) -> Error {
    Error::new(
        ErrorKind::SourceDiverged,
        "read the mutation log",
        format!(
            "store {}: the cursor's log row {} {why}: this is another history, as after restoring \
             a backup; start again from a snapshot (--resync)",
            inner.tables.store(),
            position.seq
        ),
    )
}

/// Checks that the position is one of this history, and gives the rest of its row.
async fn resume(inner: &Inner, conn: &mut PgConnection, position: Position) -> Result<Vec<Change>> {
    if position == Position::START {
        let at = row_at(inner, conn, 0).await?;
        return if at.pruned_through == 0 {
            Ok(Vec::new())
        } else {
            Err(expired(inner, position, at.pruned_through))
        };
    }
    let At {
        row,
        pruned_through,
    } = row_at(inner, conn, position.seq).await?;
    match row {
        None if position.seq <= pruned_through => Err(expired(inner, position, pruned_through)),
        None => Err(diverged(inner, position, "does not exist")),
        Some(row) if row.digest() != position.digest => {
            Err(diverged(inner, position, "has another content"))
        }
        Some(row) => row.into_changes(TAG, Some(position.index)),
    }
}

async fn follow(inner: &Inner, after: &Cursor, pages: &Pages) -> Result<()> {
    const OPERATION: &str = "read the mutation log";
    let position = Position::from_cursor(after, TAG)?;
    let mut wake = inner.wake.subscribe();
    let mut conn = inner.connection(OPERATION).await?;
    let rest = resume(inner, &mut conn, position).await?;
    drop(conn);
    if !pages.send(rest).await {
        return Ok(());
    }
    // Everything up to `last` has been given; every number up to `settled` is visible or dead.
    let (mut last, mut settled) = (position.seq, 0);
    let mut gap: Option<(i64, Holders)> = None;
    let mut gap_wait = GAP_WAIT.0;
    loop {
        // A page that comes back empty must not have missed a wake-up.
        wake.borrow_and_update();
        let mut conn = inner.connection(OPERATION).await?;
        if let Some((target, holders)) = gap.take() {
            let holders = holders.still_there(inner, &mut conn, LOG).await?;
            if holders.0.is_empty() {
                settled = target;
            } else {
                gap = Some((target, holders));
            }
        }
        // Read behind the question, so that this snapshot is newer than the answer.
        let page = read_page(inner, &mut conn, last).await?;
        if page.pruned_through > last {
            let position = Position {
                seq: last,
                ..position
            };
            return Err(expired(inner, position, page.pruned_through));
        }
        let furthest = page.rows.last().map(|row| row.seq);
        let mut changes = Vec::new();
        let mut stopped = false;
        for row in page.rows {
            if row.seq != last + 1 && row.seq > settled {
                stopped = true;
                break;
            }
            last = row.seq;
            changes.extend(row.into_changes(TAG, None)?);
        }
        let progress = !changes.is_empty();
        if stopped && gap.is_none() {
            let holders = Holders::ask(inner, &mut conn, LOG).await?;
            gap = furthest.map(|target| (target, holders));
            gap_wait = GAP_WAIT.0;
        }
        drop(conn);
        if !pages.send(changes).await {
            return Ok(());
        }
        if gap.as_ref().is_some_and(|(target, _)| *target <= last) {
            gap = None;
        }
        match &gap {
            Some((_, holders)) if holders.0.is_empty() || progress => {}
            Some((_, holders)) => {
                if gap_wait >= GAP_WAIT.1 {
                    tracing::debug!(
                        store = %inner.tables.store(),
                        behind = last,
                        held_by = ?holders.0.iter().map(|h| &h.description).collect::<Vec<_>>(),
                        "a gap in the log holds its readers back"
                    );
                }
                tokio::time::sleep(gap_wait).await;
                gap_wait = (gap_wait * 2).min(GAP_WAIT.1);
            }
            None if progress => {}
            None => {
                // The notice, or the poll behind it.
                let _ = tokio::time::timeout(inner.config.poll_interval, wake.changed()).await;
            }
        }
    }
}

struct LogPage {
    rows: Vec<LogRow>,
    pruned_through: i64,
}

async fn read_page(inner: &Inner, conn: &mut PgConnection, after: i64) -> Result<LogPage> {
    const OPERATION: &str = "read the mutation log";
    // `octet_length` knows the size without fetching the body. What was pruned is read in the same
    // statement: a page never passes over rows that vanished before it.
    let sql = inner.tables.sql(&format!(
        "SELECT {LOG_COLUMNS}, s.pruned_through FROM {{ledger.stores}} s LEFT JOIN LATERAL (\
         SELECT l.* FROM {{log}} l WHERE l.seq > $2 AND l.seq <= (\
         SELECT max(w.seq) FROM (SELECT p.seq, sum(p.size) OVER (ORDER BY p.seq) - p.size AS before \
         FROM (SELECT q.seq, octet_length(q.body) AS size FROM {{log}} q WHERE q.seq > $2 \
         ORDER BY q.seq LIMIT $3) p) w WHERE w.before < $4)) l ON true \
         WHERE s.name = $1 ORDER BY l.seq"
    ));
    let read = sqlx::query(safe(sql))
        .bind(inner.tables.store().as_str())
        .bind(after)
        .bind(PAGE_ROWS)
        .bind(PAGE_BYTES)
        .fetch_all(conn);
    let rows = tokio::time::timeout(PAGE_TIME, read)
        .await
        .map_err(|_| {
            let what = format!("store {}: no page in {PAGE_TIME:?}", inner.tables.store());
            Error::new(ErrorKind::Unavailable, OPERATION, what)
        })?
        .map_err(|error| inner.failed(OPERATION, error))?;
    let pruned_through = rows.first().map_or(0, |row| row.get(9));
    let rows = rows
        .iter()
        .filter_map(|row| log_row_from_row(row).transpose())
        .collect::<Result<_>>()?;
    Ok(LogPage {
        rows,
        pruned_through,
    })
}
