//! The operations over one connection: the store's own, or a caller's transaction.

use std::fmt;
use std::sync::Arc;

use ledger_core::{EntryId, Error, ErrorKind, Result, Stat, StreamName};
use sqlx::{AssertSqlSafe, PgConnection, Row as _};

use super::store::Inner;

/// The store's operations over one connection, in whatever transaction that has open. See
/// [`PostgresStore::within`](super::PostgresStore::within).
pub struct PostgresTransaction<'c> {
    pub(super) inner: Arc<Inner>,
    pub(super) conn: &'c mut PgConnection,
}

impl<'c> PostgresTransaction<'c> {
    pub(super) fn new(inner: Arc<Inner>, conn: &'c mut PgConnection) -> Self {
        Self { inner, conn }
    }

    /// As [`Store::stat`](ledger_core::Store::stat).
    pub async fn stat(&mut self, stream: &StreamName) -> Result<Stat> {
        let sql = self.inner.tables.sql(
            "SELECT s.live, s.version, \
             (SELECT e.id FROM {entries} e WHERE e.stream_key = s.key ORDER BY e.id LIMIT 1), \
             (SELECT e.id FROM {entries} e WHERE e.stream_key = s.key ORDER BY e.id DESC LIMIT 1) \
             FROM {streams} s WHERE s.name = $1 ORDER BY s.name_version DESC, s.key DESC LIMIT 1",
        );
        let row = sqlx::query(AssertSqlSafe(sql))
            .bind(stream.as_str())
            .fetch_optional(&mut *self.conn)
            .await
            .map_err(|error| self.inner.failed("stat", error))?;
        let Some(row) = row else {
            return Ok(Stat::default());
        };
        let id = |index| {
            row.get::<Option<i64>, _>(index)
                .and_then(|id| u64::try_from(id).ok())
                .map(EntryId)
        };
        let number = |index| u64::try_from(row.get::<i64, _>(index)).unwrap_or(0);
        Ok(Stat {
            count: number(0),
            first_id: id(2),
            last_id: id(3),
            version: number(1),
        })
    }

    /// As [`Store::trim`](ledger_core::Store::trim).
    pub async fn trim(&mut self, stream: &StreamName, through: EntryId) -> Result<u64> {
        self.inner.check_writable("trim")?;
        let sql = self.inner.tables.sql("SELECT {trim}($1, $2, $3)");
        let removed: i64 = sqlx::query_scalar(AssertSqlSafe(sql))
            .bind(stream.as_str())
            .bind(i64::try_from(through.0).unwrap_or(i64::MAX))
            .bind(self.inner.row.log)
            .fetch_one(&mut *self.conn)
            .await
            .map_err(|error| self.inner.failed("trim", error))?;
        Ok(u64::try_from(removed).unwrap_or(0))
    }

    /// As [`Store::streams`](ledger_core::Store::streams).
    pub async fn streams(
        &mut self,
        after: Option<&StreamName>,
        limit: usize,
    ) -> Result<Vec<StreamName>> {
        // On a replica two streams may have one name for the time of a batch.
        let sql = self.inner.tables.sql(
            "SELECT DISTINCT s.name FROM {streams} s \
             WHERE s.live > 0 AND ($1::text IS NULL OR s.name > $1) ORDER BY s.name LIMIT $2",
        );
        let names: Vec<String> = sqlx::query_scalar(AssertSqlSafe(sql))
            .bind(after.map(StreamName::as_str))
            .bind(i64::try_from(limit).unwrap_or(i64::MAX))
            .fetch_all(&mut *self.conn)
            .await
            .map_err(|error| self.inner.failed("list streams", error))?;
        names.into_iter().map(StreamName::new).collect()
    }

    /// As [`Store::rename`](ledger_core::Store::rename).
    pub async fn rename(&mut self, from: &StreamName, to: &StreamName) -> Result<()> {
        const OPERATION: &str = "rename stream";
        self.inner.check_writable(OPERATION)?;
        let sql = self.inner.tables.sql("SELECT {rename}($1, $2, $3)");
        let status: i32 = sqlx::query_scalar(AssertSqlSafe(sql))
            .bind(from.as_str())
            .bind(to.as_str())
            .bind(self.inner.row.log)
            .fetch_one(&mut *self.conn)
            .await
            .map_err(|error| self.inner.failed(OPERATION, error))?;
        match status {
            0 => Ok(()),
            1 => Err(Error::new(
                ErrorKind::NotFound,
                OPERATION,
                format!("there is no stream {from:?}"),
            )),
            _ => Err(Error::new(
                ErrorKind::AlreadyExists,
                OPERATION,
                format!("the name {to:?} is held by another stream"),
            )),
        }
    }
}

impl fmt::Debug for PostgresTransaction<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresTransaction")
            .field("store", self.inner.tables.store())
            .finish_non_exhaustive()
    }
}
