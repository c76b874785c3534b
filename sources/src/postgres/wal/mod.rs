//! A store's changes from the write-ahead log.
//!
//! The log is kept by one lasting slot a store (`slot.rs`), which the follower moves (`follower.rs`).
//! A reader works on a temporary copy of it (`reader.rs`), so any number of them begin at any position
//! that is kept, as with a log in a table; each takes a connection, a slot and a sender of the server's.
//! `decoder.rs` makes changes of what the store's functions write.

mod decoder;
mod follower;
mod position;
mod reader;
mod slot;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::stream::BoxStream;
use ledger_core::{
    Change, ChangeLog, Consumers, Contents, Cursor, DeadLetters, Error, ErrorKind, Lag, Result,
    SourceId, StoreName,
};
use ledger_layout::StoreOptions;
use ledger_layout::postgres::{Micros, PostgresConfig, StoreRow, Tables, failed, find_store, wal};
use sqlx::Row as _;
use sqlx::postgres::PgPool;
use uuid::Uuid;

use self::position::Position;
use super::PostgresStore;
use super::capture::end;
use super::capture::slot::{drop_slot, find as find_slot};
use super::changes::Holders;
use super::read::safe;
use super::replication::parsed;
use super::store::Inner;
use crate::prefetch::prefetch;

pub(super) use self::follower::Follower;

/// Makes a store's log ready to be read: makes its slot where that is missing, and follows.
pub(super) async fn open(inner: &Arc<Inner>) -> Result<()> {
    slot::prepare(inner).await?;
    follower::start(inner);
    Ok(())
}

/// The number that stands for a cursor among the consumers.
pub(super) fn number(cursor: &Cursor, store: &Uuid) -> Result<i64> {
    let position = Position::from_cursor(cursor, store)?;
    Ok(i64::try_from(position.commit).unwrap_or(i64::MAX))
}

/// The tables of which every mutation writes one.
const WRITTEN: &[&str] = &["streams", "entries"];

/// The log of a store whose changes come from the write-ahead log.
pub(super) struct WalLog(pub(super) PostgresStore);

impl WalLog {
    fn inner(&self) -> &Arc<Inner> {
        &self.0.inner
    }
}

/// Notes what is known, and moves the slot, before the store is closed.
pub(super) async fn note_end(inner: &Inner) {
    const PATIENCE: Duration = Duration::from_secs(2);
    let Some(seen) = inner.follower.seen() else {
        return;
    };
    // What is not done now is done by who opens the store next.
    let noted = tokio::time::timeout(PATIENCE, follower::retain(inner, seen)).await;
    if let Ok(Err(error)) = noted {
        tracing::debug!(error = error.chain(), "the slot of a store cannot be moved");
    }
}

/// Moves the slot as far as the retention allows, and tells how many bytes of the log that gives up.
/// The follower may move it at the same moment; that counts as well.
pub(super) async fn prune(inner: &Inner) -> Result<u64> {
    let before = confirmed(inner).await?;
    let seen = reach_end(inner).await?;
    follower::retain(inner, seen).await?;
    Ok(confirmed(inner).await?.saturating_sub(before))
}

/// Where the slot stands.
async fn confirmed(inner: &Inner) -> Result<u64> {
    let mut conn = inner.connection("find replication slot").await?;
    let slot = find_slot(&mut conn, &inner.slot()).await?;
    Ok(slot.map_or(0, |slot| slot.confirmed))
}

/// What is known once everything that is written now has been read.
async fn reach_end(inner: &Inner) -> Result<follower::Seen> {
    const OPERATION: &str = "find the log's head";
    let failed = |error| inner.failed(OPERATION, error);
    let mut conn = inner.connection(OPERATION).await?;
    let sql = "SELECT pg_current_wal_insert_lsn()::text, pg_current_wal_flush_lsn()::text, \
         current_setting('wal_block_size')::bigint";
    let row = sqlx::query(sql)
        .fetch_one(&mut *conn)
        .await
        .map_err(failed)?;
    let (written, flushed) = (parsed(row.get(0))?, parsed(row.get(1))?);
    if flushed < written {
        // What others have written and not committed is written out only with the next commit.
        let commit = "SELECT set_config('synchronous_commit', 'on', true), \
             pg_logical_emit_message(true, 'ledger', '')";
        sqlx::query(commit)
            .execute(&mut *conn)
            .await
            .map_err(failed)?;
    }
    drop(conn);
    let page = row.get::<i64, _>(2).cast_unsigned();
    inner.follower.reach(without_header(written, page)).await
}

/// An end of the log that is told as that of a page's header is, for who reads, the border before it:
/// no record begins within a header.
fn without_header(written: u64, page: u64) -> u64 {
    const LONGEST_HEADER: u64 = 40;
    let within = written % page.max(1);
    if within <= LONGEST_HEADER {
        written - within
    } else {
        written
    }
}

#[async_trait]
impl ChangeLog for WalLog {
    async fn identity(&self) -> Result<SourceId> {
        self.0.identity().await
    }

    fn start(&self) -> Cursor {
        Position::START.to_cursor(&self.inner().history)
    }

    fn changes(&self, after: Cursor) -> BoxStream<'static, Result<Change>> {
        let inner = Arc::clone(self.inner());
        prefetch(move |pages| async move { reader::follow(&inner, &after, &pages).await })
    }

    async fn head(&self) -> Result<Cursor> {
        const OPERATION: &str = "find the log's head";
        let inner = self.inner();
        let last = reach_end(inner).await?.last;
        // What is in the log can be seen a little later, and its writer holds its locks until then.
        let mut conn = inner.connection(OPERATION).await?;
        Holders::wait(inner, &mut conn, WRITTEN).await?;
        Ok(last.to_cursor(&inner.history))
    }

    async fn lag(&self, after: &Cursor) -> Result<Lag> {
        const OPERATION: &str = "measure lag";
        const EXACT: i64 = 100_000;
        let inner = self.inner();
        let position = Position::from_cursor(after, &inner.history)?;
        let mut conn = inner.connection(OPERATION).await?;
        let sql = inner.tables.sql(
            "SELECT count(*), min(created_at), coalesce(max(id), 0), clock_timestamp(), \
             (SELECT coalesce(max(id), 0) FROM {entries}) \
             FROM (SELECT id, created_at FROM {entries} WHERE id > $1 ORDER BY id LIMIT $2) p",
        );
        let row = sqlx::query(safe(sql))
            .bind(i64::try_from(position.id).unwrap_or(i64::MAX))
            .bind(EXACT)
            .fetch_one(&mut *conn)
            .await
            .map_err(|error| inner.failed(OPERATION, error))?;
        let counted: i64 = row.get(0);
        let rest = if counted == EXACT {
            row.get::<i64, _>(4) - row.get::<i64, _>(2)
        } else {
            0
        };
        let oldest: Option<Micros> = row.get(1);
        let now: Micros = row.get(3);
        let behind = inner
            .follower
            .seen()
            .is_some_and(|seen| seen.last > position);
        let entries = u64::try_from(counted + rest).unwrap_or(0);
        let bytes = if entries > 0 || behind {
            Some(end(&mut conn).await?.saturating_sub(position.commit))
        } else {
            Some(0)
        };
        let held_by = if entries > 0 {
            Holders::ask(inner, &mut conn, WRITTEN).await?.describe()
        } else {
            Vec::new()
        };
        Ok(Lag {
            // Labels, trims and renames are not counted, but never taken for nothing.
            entries: entries.max(u64::from(behind)),
            age: oldest.map_or(Duration::ZERO, |oldest| now.0.since(oldest.0)),
            bytes,
            held_by,
        })
    }

    fn snapshot(&self, after: Option<Cursor>) -> BoxStream<'static, Result<Change>> {
        self.0.snapshot(after)
    }

    async fn size(&self) -> Result<u64> {
        self.0.size().await
    }

    fn contents(&self) -> &dyn Contents {
        self.0.contents()
    }

    fn consumers(&self) -> &dyn Consumers {
        self.0.consumers()
    }

    fn dead_letters(&self) -> &dyn DeadLetters {
        self.0.dead_letters()
    }
}

impl PostgresStore {
    /// Whether the store's log is the database's write-ahead log; see
    /// [`StoreOptions::write_ahead_log`](ledger_layout::StoreOptions::write_ahead_log).
    pub fn has_write_ahead_log(&self) -> bool {
        self.inner.row.wal
    }

    /// Whether the log of a store is a table (`Some(false)`), the write-ahead log (`Some(true)`), or kept
    /// nowhere. `NotFound` where there is no such store.
    pub async fn log_is_wal(config: PostgresConfig, store: &StoreName) -> Result<Option<bool>> {
        let pool = config.connect().await?;
        let found = found(&pool, store).await;
        pool.close().await;
        let (_, row) = found?;
        Ok((row.wal || row.log).then_some(row.wal))
    }

    /// Makes the write-ahead log the log of a store (`true`), or a table (`false`). Whoever has it open
    /// has to open it again: its appends are refused where readers would not see them.
    ///
    /// Each consumer of the log begins anew with a copy: what it had not read is gone with the log of
    /// before, and its cursor is refused as `SourceDiverged` or `CursorExpired`. It waits up to a minute
    /// for the transactions that are open in the database.
    ///
    /// `NotFound` where there is no such store, `Unsupported` where the server or the user cannot
    /// replicate, `ReadOnly` for a replica; `Unavailable` where transactions stay open, or while the slot
    /// is moved: the log is switched then, and the call is to be made again to finish.
    pub async fn keep_log_in_wal(
        config: PostgresConfig,
        store: &StoreName,
        wal: bool,
    ) -> Result<()> {
        let pool = config.connect().await?;
        let switched = switch(&pool, store, wal).await;
        pool.close().await;
        switched?;
        if wal {
            // Opening makes the slot.
            let options = StoreOptions::default();
            let opened = Self::open_existing(config, store.clone(), options).await?;
            ledger_core::Store::close(&opened).await;
        }
        Ok(())
    }
}

async fn found(pool: &PgPool, store: &StoreName) -> Result<(Tables, StoreRow)> {
    const OPERATION: &str = "find store";
    let context = || format!("store {store}");
    let conn = pool.acquire().await;
    let mut conn = conn.map_err(|error| failed(OPERATION, context(), error))?;
    let tables = Tables::locate(&mut conn, store).await?;
    let row = find_store(&mut conn, &tables).await?;
    let row = row.ok_or_else(|| {
        let what = format!("there is no store {store} in this database");
        Error::new(ErrorKind::NotFound, OPERATION, what)
    })?;
    Ok((tables, row))
}

async fn switch(pool: &PgPool, store: &StoreName, wal: bool) -> Result<()> {
    const OPERATION: &str = "switch the log";
    let (tables, row) = found(pool, store).await?;
    let conn = pool.acquire().await;
    let mut conn = conn.map_err(|error| failed(OPERATION, format!("store {store}"), error))?;
    wal::switch(&mut conn, &tables, wal).await?;
    if wal {
        return Ok(());
    }
    slot::settle(&mut conn).await?;
    drop_slot(&mut conn, &wal::slot(&row.uuid, row.database)).await
}

/// The error of a call that only one of the two kinds of log can serve.
pub(super) fn needs_url(target: &str) -> Error {
    Error::new(
        ErrorKind::Unsupported,
        "open store",
        format!(
            "the write-ahead log is read over a connection of its own, for which {target} must be \
             given as a URL: postgres://user@host/database"
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_within_a_pages_header_is_the_border_before_it() {
        for header in [0, 24, 40] {
            assert_eq!(without_header(3 * 8_192 + header, 8_192), 3 * 8_192);
        }
        assert_eq!(without_header(3 * 8_192 + 48, 8_192), 3 * 8_192 + 48);
    }
}
