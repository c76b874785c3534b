//! The sink.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use ledger_core::{
    Batch, Change, Claim, Cursor, CursorStore, Error, ErrorKind, PipelineId, Replica, Result, Sink,
    SourceId, StoreName,
};
use ledger_layout::postgres::{
    PRUNE_ROWS, PostgresConfig, PostgresContents, PostgresCursors, RELAY, Role, Tables, begin_in,
    channel, check_server, failed, find_store, forget_log, notify, open_store, prune, set_relay,
    stored_in, write_log,
};
use ledger_layout::{ReplicaOptions, Retention, StoreOptions, relay};
use sqlx::postgres::PgPool;
use sqlx::{AssertSqlSafe, PgConnection, Row as _};
use uuid::Uuid;

use super::apply;
use crate::delta::Delta;

/// Writes the changes of a source store into a replica in PostgreSQL. Data and cursor commit in one
/// transaction, so every change takes effect exactly once. Cloning shares it.
///
/// The replica keeps the source's ids and stream keys, and opens and reads like any other store.
#[derive(Clone)]
pub struct PostgresSink {
    pub(super) inner: Arc<Inner>,
}

pub(super) struct Inner {
    pub(super) pool: PgPool,
    pub(super) tables: Tables,
    pub(super) contents: PostgresContents,
    pub(super) sql: apply::Statements,
    cursors: PostgresCursors,
    target: String,
    retention: Retention,
    prune_turn: relay::PruneTurn,
    /// Where readers of the log listen.
    channel: String,
}

/// What is registered of the replica.
pub(super) struct Registered {
    uuid: Uuid,
    /// Whose it is.
    source: Option<SourceId>,
    /// Whether what is delivered is to be written into its log.
    relay: bool,
}

impl PostgresSink {
    /// Opens the replica, and creates it where it does not exist. Refused: a store of that name
    /// that is no replica.
    pub async fn open(config: &PostgresConfig, store: &StoreName) -> Result<Self> {
        Self::open_with(config, store, ReplicaOptions::default()).await
    }

    /// As [`open`](Self::open), with options; `InvalidInput` where a log would end that consumers are
    /// registered at.
    pub async fn open_with(
        config: &PostgresConfig,
        store: &StoreName,
        options: ReplicaOptions,
    ) -> Result<Self> {
        const OPERATION: &str = "open replica";
        let pool = config.connect().await?;
        let mut conn = pool
            .acquire()
            .await
            .map_err(|error| failed(OPERATION, format!("store {store}"), error))?;
        check_server(&mut conn).await?;
        let tables = Tables::locate(&mut conn, store).await?;
        let row = open_store(&mut conn, &tables, Role::Replica, &StoreOptions::default()).await?;
        if row.role != Role::Replica {
            return Err(not_a_replica(OPERATION, store));
        }
        set_relay(&mut conn, &tables, options.relay).await?;
        drop(conn);
        Ok(Self {
            inner: Arc::new(Inner {
                sql: apply::Statements::new(&tables),
                cursors: PostgresCursors::new(pool.clone(), tables.clone()),
                contents: PostgresContents::new(pool.clone(), tables.clone()),
                target: config.target(),
                retention: options.retention,
                prune_turn: relay::PruneTurn::default(),
                channel: channel(&tables),
                tables,
                pool,
            }),
        })
    }

    /// Opens a replica that exists; `NotFound` where it does not.
    pub async fn open_existing(config: &PostgresConfig, store: &StoreName) -> Result<Self> {
        let pool = config.connect().await?;
        let found = async {
            let mut conn = pool
                .acquire()
                .await
                .map_err(|error| failed("open replica", format!("store {store}"), error))?;
            let tables = Tables::locate(&mut conn, store).await?;
            find_store(&mut conn, &tables).await
        }
        .await;
        pool.close().await;
        match found? {
            Some(_) => Self::open(config, store).await,
            None => Err(Error::new(
                ErrorKind::NotFound,
                "open replica",
                format!("there is no store {store} in this database"),
            )),
        }
    }

    /// Forgets the cursors of all pipelines into the replica, fences them, and empties it, in one
    /// transaction, so that the next run copies everything anew, from whichever source. Of a relay the
    /// log begins anew, as that of another store: who followed it is told to resync.
    pub async fn resync(&self) -> Result<()> {
        const OPERATION: &str = "resync";
        let inner = &self.inner;
        let failed = |error| inner.failed(OPERATION, error);
        let mut tx = begin_in(&inner.pool).await.map_err(failed)?;
        let found = inner.lock_role(&mut tx, "FOR NO KEY UPDATE").await?;
        // Every pipeline into the replica, not only this one: it is emptied under all of them.
        inner.cursors.forget_all_in(&mut tx).await?;
        for sql in [
            "TRUNCATE {entries}, {streams}",
            "UPDATE {ledger.stores} SET source = NULL WHERE name = '{store}'",
        ] {
            let sql = inner
                .tables
                .sql(&sql.replace("{store}", inner.tables.store().as_str()));
            sqlx::query(AssertSqlSafe(sql))
                .execute(&mut *tx)
                .await
                .map_err(failed)?;
        }
        if found.relay {
            forget_log(&mut tx, &inner.tables).await?;
        }
        tx.commit().await.map_err(failed)
    }

    /// Gives the connections back.
    pub async fn close(&self) {
        self.inner.pool.close().await;
    }
}

fn not_a_replica(operation: &'static str, store: &StoreName) -> Error {
    Error::new(
        ErrorKind::AlreadyExists,
        operation,
        format!("store {store} exists at the sink and is not a replica; name another database"),
    )
}

impl Inner {
    pub(super) fn failed(&self, operation: &'static str, error: sqlx::Error) -> Error {
        failed(operation, format!("replica {}", self.tables.store()), error)
    }

    /// Locks the replica's row until the transaction ends and tells what it says. Everything that
    /// writes takes this lock first, then the cursors, then the tables: a promotion, a claim or a
    /// resync waits, or has come before and is seen.
    async fn lock_role(&self, conn: &mut PgConnection, lock: &str) -> Result<Registered> {
        const OPERATION: &str = "check replica";
        let sql = self.tables.sql(&format!(
            "SELECT role, source, uuid, schema_version = {RELAY} FROM {{ledger.stores}} \
             WHERE name = $1 {lock}"
        ));
        let row = sqlx::query(AssertSqlSafe(sql))
            .bind(self.tables.store().as_str())
            .fetch_optional(conn)
            .await
            .map_err(|error| self.failed(OPERATION, error))?;
        match row {
            Some(row) if row.get::<&str, _>(0) == "replica" => Ok(Registered {
                source: row.get::<Option<&str>, _>(1).map(str::parse).transpose()?,
                uuid: row.get(2),
                relay: row.get(3),
            }),
            _ => Err(not_a_replica(OPERATION, self.tables.store())),
        }
    }

    /// Checks that this is a replica, and that it stays one until the transaction ends.
    pub(super) async fn check_role(&self, conn: &mut PgConnection) -> Result<Registered> {
        self.lock_role(conn, "FOR SHARE").await
    }

    async fn prune_chunk(&self) -> Result<u64> {
        let failed = |error| self.failed("prune the log", error);
        let mut tx = begin_in(&self.pool).await.map_err(failed)?;
        // Who empties or switches the log locks the row before the log, too.
        self.lock_role(&mut tx, "FOR NO KEY UPDATE").await?;
        let removed = prune(&mut tx, &self.tables, self.retention).await?;
        tx.commit().await.map_err(failed)?;
        Ok(removed)
    }

    fn of_another(&self, bound: &SourceId, source: &SourceId) -> Error {
        Error::new(
            ErrorKind::SourceDiverged,
            "claim replica",
            format!(
                "replica {} holds the data of source {bound}, this is {source}; run it once \
                 with --resync to copy the new source from its beginning",
                self.tables.store()
            ),
        )
    }
}

#[async_trait]
impl Sink<Change> for PostgresSink {
    async fn deliver(&self, batch: &Batch<Change>) -> Result<()> {
        const OPERATION: &str = "deliver";
        let inner = &self.inner;
        let failed = |error| inner.failed(OPERATION, error);
        let delta = Delta::of(&batch.items);
        let mut tx = begin_in(&inner.pool).await.map_err(failed)?;
        let found = inner.check_role(&mut tx).await?;
        let stored = if found.relay {
            stored_in(&mut tx, &inner.tables, &batch.pipeline).await?
        } else {
            None
        };
        // The cursor's row holds off another claim until this transaction is over.
        match &batch.ack {
            Some(ack) => {
                inner
                    .cursors
                    .advance_in(&mut tx, &batch.pipeline, batch.fence, ack)
                    .await?;
            }
            None => {
                inner
                    .cursors
                    .hold_in(&mut tx, &batch.pipeline, batch.fence)
                    .await?;
            }
        }
        let claimed = inner.cursors.source_in(&mut tx, &batch.pipeline).await?;
        if let (Some(bound), Some(claimed)) = (&found.source, &claimed)
            && !bound.continues(claimed)
        {
            return Err(inner.of_another(bound, claimed));
        }
        apply::apply(inner, &mut tx, &delta).await?;
        if found.relay {
            let rows = relay::rows(batch, stored.as_ref())?;
            write_log(&mut tx, &inner.tables, &rows).await?;
        }
        tx.commit().await.map_err(failed)?;
        if found.relay && !batch.items.is_empty() {
            notify(&inner.pool, &inner.channel).await;
            let chunk = || inner.prune_chunk();
            let written = batch.items.len();
            inner.prune_turn.prune(written, PRUNE_ROWS, chunk).await;
        }
        Ok(())
    }

    fn cursors(&self) -> Option<&dyn CursorStore> {
        Some(self)
    }

    fn replica(&self) -> Option<&dyn Replica> {
        Some(self)
    }
}

#[async_trait]
impl CursorStore for PostgresSink {
    async fn claim(&self, pipeline: &PipelineId, source: &SourceId) -> Result<Claim> {
        const OPERATION: &str = "claim replica";
        let inner = &self.inner;
        let failed = |error| inner.failed(OPERATION, error);
        let mut tx = begin_in(&inner.pool).await.map_err(failed)?;
        // Bound to one source whatever the pipeline's name: two pipelines of two sources would mix
        // their ids.
        let found = inner.lock_role(&mut tx, "FOR NO KEY UPDATE").await?;
        source.check_sink(found.uuid, self)?;
        if let Some(bound) = found.source.filter(|bound| !bound.continues(source)) {
            return Err(inner.of_another(&bound, source));
        }
        let sql = inner
            .tables
            .sql("UPDATE {ledger.stores} SET source = $2 WHERE name = $1");
        sqlx::query(AssertSqlSafe(sql))
            .bind(inner.tables.store().as_str())
            .bind(source.to_string())
            .execute(&mut *tx)
            .await
            .map_err(failed)?;
        let claim = inner.cursors.claim_in(&mut tx, pipeline, source).await?;
        tx.commit().await.map_err(failed)?;
        Ok(claim)
    }

    async fn advance(&self, pipeline: &PipelineId, fence: u64, to: &Cursor) -> Result<Cursor> {
        self.inner.cursors.advance(pipeline, fence, to).await
    }

    async fn stored(&self, pipeline: &PipelineId) -> Result<Option<Cursor>> {
        self.inner.cursors.stored(pipeline).await
    }

    async fn reset(&self, pipeline: &PipelineId) -> Result<()> {
        self.inner.cursors.reset(pipeline).await
    }
}

impl fmt::Display for PostgresSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "postgres replica {} at {}",
            self.inner.tables.store(),
            self.inner.target
        )
    }
}

impl fmt::Debug for PostgresSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PostgresSink({self})")
    }
}
