//! The tables of a database as the source of a bridge.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use futures::stream::BoxStream;
use ledger_core::pipeline::Step;
use ledger_core::{
    Abandoned, Consumers, CopyState, Cursor, DeadLetters, Error, ErrorKind, Lag, PipelineId,
    Progress, Result, RowChange, Source, SourceId, StoreName, Table, TableSink, TableState,
};
use ledger_layout::postgres::{PostgresConfig, Tables, failed, migrate};
use sqlx::postgres::{PgPool, PgPoolOptions};
use sqlx::{PgConnection, Row as _};
use uuid::Uuid;

use super::catalog::{self, Found};
use super::follow::{Following, Pending};
use super::in_flight::InFlight;
use super::options::{CaptureOptions, WalBudget, WalExceeded};
use super::position::Position;
use super::rows::{Carried, Rows, check_name};
use super::slot::{self, Publishes};
use super::timeline::Timeline;
use super::types::Types;
use crate::postgres::registry::Registry;
use crate::postgres::replication::{Feed, Replication, confirm, parsed, shown};

const OPERATION: &str = "capture tables";

/// Under which name captures are registered among the consumers of stores.
const REGISTERED: &str = "ledger_capture";

/// How often it is looked how much of the log the slot holds back.
const WEIGH: Duration = Duration::from_secs(5);

/// How long dropping a slot may take that is still read.
const DROPPING: Duration = Duration::from_secs(15);

/// The tables of a PostgreSQL database, captured for one pipeline.
///
/// A pipeline has a slot and two publications, named after it unless the options name others: one
/// for tables with a key, and one, of inserts and truncates only, for the others, since PostgreSQL
/// refuses updates of a table without a key once a publication would tell them.
pub struct PostgresCapture {
    inner: Arc<Inner>,
}

struct Inner {
    config: PostgresConfig,
    pool: PgPool,
    options: CaptureOptions,
    sink: Arc<dyn TableSink>,
    registry: Registry,
    /// Up to where the slot of the run may forget.
    confirmed: Mutex<Option<Arc<AtomicU64>>>,
    /// About how many rows are still to be copied, while some are.
    copying: Arc<AtomicU64>,
    is_copying: Arc<AtomicBool>,
    /// What the run has handed on and the sink has not acknowledged.
    in_flight: Mutex<Arc<InFlight>>,
    /// The tables whose rows stand in their partitions, as the catalogue said last.
    partitioned: Mutex<HashSet<u64>>,
    /// When the log was last read to its end.
    caught_up: Mutex<Instant>,
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl PostgresCapture {
    /// Connects, and checks what can be known at once: the server's settings, the user's rights, that
    /// there is a table to carry. Makes the tables for leases and dead letters where they are missing.
    pub async fn open(
        config: PostgresConfig,
        options: CaptureOptions,
        sink: Arc<dyn TableSink>,
    ) -> Result<Self> {
        // Tells a wrong password at once, where a pool would try again.
        config.connect().await?.close().await;
        let width = u32::try_from(options.copy_width).unwrap_or(1);
        // Values are read as the log writes them, whatever the user's or the database's settings are.
        let settings = config.options().clone().options([
            ("timezone", "UTC"),
            ("datestyle", "ISO"),
            ("intervalstyle", "postgres"),
            ("bytea_output", "hex"),
            ("extra_float_digits", "1"),
            ("statement_timeout", "0"),
            ("idle_in_transaction_session_timeout", "0"),
        ]);
        let pool = PgPoolOptions::new()
            .max_connections(width.saturating_add(4))
            .acquire_timeout(config.acquire_timeout)
            .connect_lazy_with(settings);
        let mut conn = acquire(&pool).await?;
        catalog::check_server(&mut conn).await?;
        let store = StoreName::new(REGISTERED)?;
        let tables = Tables::locate(&mut conn, &store).await?;
        migrate(&mut conn, &tables).await?;
        let types = Types::load(&mut conn).await?;
        let found = catalog::tables(&mut conn, &options, &types).await?;
        if found.is_empty() {
            return Err(Error::new(
                ErrorKind::NotFound,
                OPERATION,
                format!("no table matches {}", options.tables),
            ));
        }
        drop(conn);
        let registry = Registry {
            pool: pool.clone(),
            tables,
            position: Arc::new(|cursor| {
                let position = Position::from_cursor(cursor)?;
                Ok(i64::try_from(position.commit).unwrap_or(i64::MAX))
            }),
            closed: Arc::default(),
        };
        let inner = Inner {
            config,
            pool,
            options,
            sink,
            registry,
            confirmed: Mutex::default(),
            copying: Arc::default(),
            is_copying: Arc::default(),
            in_flight: Mutex::default(),
            partitioned: Mutex::default(),
            caught_up: Mutex::new(Instant::now()),
        };
        Ok(Self {
            inner: Arc::new(inner),
        })
    }

    /// The table as SQL takes it.
    pub(super) fn sql_name(&self, table: &Table) -> String {
        let partitioned = lock(&self.inner.partitioned).contains(&table.id);
        let only = if partitioned { "" } else { "ONLY " };
        format!("{only}{}", catalog::sql_name(&table.name))
    }

    /// The condition that the carried rows of a table fulfil.
    pub(super) fn condition(&self, table: &Table) -> Option<&str> {
        let filter = self.inner.options.filters.get(&table.name)?;
        filter.rows.as_deref()
    }

    pub(super) fn pool(&self) -> &PgPool {
        &self.inner.pool
    }

    /// The tables that are selected at this moment.
    pub async fn tables(&self) -> Result<Vec<Arc<Table>>> {
        let mut conn = acquire(&self.inner.pool).await?;
        let types = Types::load(&mut conn).await?;
        let found = catalog::tables(&mut conn, &self.inner.options, &types).await?;
        let partitioned = found.values().filter(|found| found.partitioned);
        *lock(&self.inner.partitioned) = partitioned.map(|found| found.table.id).collect();
        Ok(found.into_values().map(|found| found.table).collect())
    }

    /// Gives back what the pipeline holds at the server: its slot, its publications, its
    /// registration and dead letters. What somebody else keeps stays. `Unavailable` while it runs.
    pub async fn remove(&self, pipeline: &PipelineId) -> Result<()> {
        let inner = &self.inner;
        if inner.options.slot.is_none() {
            drop_slot(&inner.pool, &inner.slot(pipeline)).await?;
        }
        if inner.options.publication.is_none() {
            let mut conn = acquire(&inner.pool).await?;
            let names = inner.publications(pipeline);
            slot::drop_publications(&mut conn, &names).await?;
        }
        inner.registry.unregister(pipeline).await
    }
}

/// Drops a slot, once the server has seen that its reader has gone.
async fn drop_slot(pool: &PgPool, name: &str) -> Result<()> {
    let begun = Instant::now();
    loop {
        let dropped = async { slot::drop_slot(&mut *acquire(pool).await?, name).await };
        match dropped.await {
            Err(error) if error.is_retryable() && begun.elapsed() < DROPPING => {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            dropped => return dropped,
        }
    }
}

pub(super) async fn acquire(pool: &PgPool) -> Result<sqlx::pool::PoolConnection<sqlx::Postgres>> {
    let acquired = pool.acquire().await;
    acquired.map_err(|error| failed(OPERATION, "", error))
}

impl Inner {
    fn slot(&self, pipeline: &PipelineId) -> String {
        let named = self.options.slot.clone();
        named.unwrap_or_else(|| slot::own_name(pipeline, ""))
    }

    fn publications(&self, pipeline: &PipelineId) -> Vec<String> {
        match &self.options.publication {
            Some(name) => vec![name.clone()],
            None => vec![
                slot::own_name(pipeline, ""),
                slot::own_name(pipeline, "_inserts"),
            ],
        }
    }

    /// Publishes the tables, before anything is read of them.
    async fn publish(
        &self,
        pipeline: &PipelineId,
        conn: &mut PgConnection,
        names: &[String],
        found: &BTreeMap<u32, Found>,
    ) -> Result<()> {
        let tables = found.values();
        if let ([name], Some(_)) = (names, &self.options.publication) {
            let tables: Vec<_> = tables.map(|found| &*found.table).collect();
            return slot::check_publication(conn, name, &tables).await;
        }
        let (keyed, others): (Vec<_>, Vec<_>) = tables.partition(|found| {
            found.table.is_keyed() || self.options.keyless_changes && found.table.full_identity
        });
        let kinds = [(Publishes::All, keyed), (Publishes::Inserts, others)];
        for (name, (publishes, tables)) in names.iter().zip(kinds) {
            let published = slot::publish(conn, name, publishes, &tables).await?;
            // Forgotten first: whatever happens in between, the copy is made anew.
            let anew = |found: &&&Found| {
                let id = found.table.id.cast_signed();
                published.filtered_anew.contains(&id) && self.options.copy
            };
            for found in tables.iter().filter(anew) {
                let table = &found.table.name;
                tracing::warn!(%table, "its rows have got another condition; it is copied anew");
                match self.sink.forget(pipeline, table).await {
                    Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
                    _ => {}
                }
            }
            published.commit().await?;
        }
        Ok(())
    }

    /// Where to begin, and whether nothing was carried before. The slot is made anew for a pipeline
    /// that begins: one that was left over stands somewhere else.
    async fn place(
        &self,
        conn: &mut PgConnection,
        name: &str,
        progress: &Progress,
    ) -> Result<(Position, bool)> {
        let slot = slot::find(conn, name).await?;
        match progress {
            Progress::Follow(cursor) => {
                let position = Position::from_cursor(cursor)?;
                let end = end(conn).await?;
                if position.commit > end {
                    return Err(Error::new(
                        ErrorKind::SourceDiverged,
                        OPERATION,
                        format!(
                            "the log ends at {}, and this bridge stands at {}: the server is a \
                             restored backup, or one that had not got that far when it was \
                             promoted; copy the tables anew with `ledger bridge run --resync`",
                            shown(end),
                            shown(position.commit)
                        ),
                    ));
                }
                slot::check(name, slot.as_ref(), position.commit)?;
                Ok((position, false))
            }
            Progress::Snapshot { .. } => {
                let point = match (slot, &self.options.slot) {
                    (Some(slot), Some(_)) => slot.confirmed,
                    (None, _) => slot::create(conn, name, true).await?,
                    (Some(_), None) => {
                        slot::drop_slot(conn, name).await?;
                        slot::create(conn, name, true).await?
                    }
                };
                Ok((Position::between(point), true))
            }
        }
    }

    /// What is known of the tables, and which are to be copied.
    async fn sorted(
        &self,
        pipeline: &PipelineId,
        found: &BTreeMap<u32, Found>,
        fresh: bool,
        end: u64,
    ) -> Result<(BTreeMap<u32, Carried>, VecDeque<Pending>)> {
        let noted = if fresh {
            Vec::new()
        } else {
            self.sink.tables(pipeline).await?
        };
        let noted: BTreeMap<u64, TableState> = noted
            .into_iter()
            .map(|state| (state.table.id, state))
            .collect();
        let (mut carried, mut pending) = (BTreeMap::new(), VecDeque::new());
        for (id, found) in found {
            let state = noted.get(&u64::from(*id));
            if let Some(state) = state {
                check_name(&self.options, &state.table.name, &found.table.name)?;
            }
            let (table, point, through) = match state {
                Some(TableState {
                    table,
                    copy: CopyState::Done { point, through },
                    ..
                }) => (table, *point, *through),
                Some(state) => (&state.table, state.copy.point(), u64::MAX),
                None => (&found.table, 0, u64::MAX),
            };
            let known = Carried {
                table: Arc::clone(table),
                point,
                through,
            };
            carried.insert(*id, known);
            // A column that was left out before is in no row of the copy.
            let lacks = state.is_some_and(|state| {
                let had = |name: &str| state.table.columns.iter().any(|c| c.name == name);
                !found.table.columns.iter().all(|column| had(&column.name))
            });
            match state.map(|state| &state.copy).filter(|_| !lacks) {
                Some(CopyState::Done { .. }) => {}
                Some(CopyState::Upto { point, after }) if found.table.is_keyed() => {
                    pending.push_back(Pending::resumed(found.clone(), *point, after.clone()));
                }
                // The log has still to tell of what lies between the two shapes.
                _ if lacks => pending.push_back(Pending::not_before(found.clone(), end)),
                _ => pending.push_back(Pending::new(found.clone())),
            }
        }
        Ok((carried, pending))
    }

    /// Looks whether the slot holds back more than is allowed, and tells so where it does.
    async fn weigh(&self, pipeline: &PipelineId, budget: WalBudget) -> Result<Option<Error>> {
        let name = self.slot(pipeline);
        let mut conn = acquire(&self.pool).await?;
        let Some(slot) = slot::find(&mut conn, &name).await? else {
            return Ok(None);
        };
        let held = slot.held.max(0).cast_unsigned();
        let left = slot
            .left
            .map_or(u64::MAX, |left| left.max(0).cast_unsigned());
        let (bytes, half) = (budget.bytes, budget.bytes / 2);
        if held >= bytes || left == 0 {
            let done = match budget.exceeded {
                WalExceeded::Stop => "kept; let the sink catch up, or drop the slot",
                WalExceeded::DropSlot => {
                    "dropped, and the tables must be copied anew: `ledger bridge run --resync`"
                }
                WalExceeded::Resync => "dropped, and the tables are copied anew",
            };
            let what = format!(
                "slot {name} holds back {held} bytes of the write-ahead log, and {bytes} are \
                 allowed; the slot is {done}"
            );
            return Ok(Some(Error::new(ErrorKind::CursorExpired, OPERATION, what)));
        }
        if held >= half || left <= half {
            tracing::warn!(
                slot = name,
                held,
                bytes,
                "a slot holds back much of the log"
            );
        }
        Ok(None)
    }
}

#[async_trait]
impl Source<RowChange> for PostgresCapture {
    async fn identity(&self) -> Result<SourceId> {
        let mut conn = acquire(&self.inner.pool).await?;
        let row = sqlx::query(
            "SELECT c.system_identifier, k.timeline_id, d.oid::int8 FROM pg_control_system() c, \
             pg_control_checkpoint() k, pg_database d WHERE d.datname = current_database()",
        )
        .fetch_one(&mut *conn)
        .await
        .map_err(|error| failed("read source identity", "", error))?;
        let (system, database): (i64, i64) = (row.get(0), row.get(2));
        Ok(SourceId {
            // A database has no number of its own beyond its cluster.
            store: Uuid::from_u64_pair(system.cast_unsigned(), database.cast_unsigned()),
            system: system.cast_unsigned().to_string(),
            timeline: u32::try_from(row.get::<i32, _>(1)).unwrap_or(0),
            origins: Vec::new(),
        })
    }

    async fn head(&self) -> Result<Cursor> {
        let mut conn = acquire(&self.inner.pool).await?;
        Ok(Position::between(end(&mut conn).await?).to_cursor())
    }

    async fn lag(&self, after: &Cursor) -> Result<Lag> {
        let position = Position::from_cursor(after)?;
        let mut conn = acquire(&self.inner.pool).await?;
        let end = end(&mut conn).await?;
        let mut caught_up = lock(&self.inner.caught_up);
        // What else is written in the cluster moves the end; it is told of now and then only.
        let behind = end.saturating_sub(position.commit);
        if behind < 1 << 20 {
            *caught_up = Instant::now();
        }
        Ok(Lag {
            entries: lock(&self.inner.in_flight).behind(position),
            age: caught_up.elapsed(),
            bytes: Some(behind),
            held_by: Vec::new(),
        })
    }

    async fn size(&self) -> Result<u64> {
        let mut conn = acquire(&self.inner.pool).await?;
        let types = Types::load(&mut conn).await?;
        let found = catalog::tables(&mut conn, &self.inner.options, &types).await?;
        Ok(found.values().map(|found| found.rows).sum())
    }

    fn copying(&self) -> Option<u64> {
        let left = self.inner.copying.load(Ordering::Relaxed);
        self.inner
            .is_copying
            .load(Ordering::Relaxed)
            .then_some(left)
    }

    async fn steps(
        &self,
        pipeline: &PipelineId,
        progress: Progress,
        until: Option<Cursor>,
    ) -> Result<BoxStream<'static, Result<Step<RowChange>>>> {
        let inner = &self.inner;
        let until = until.as_ref().map(Position::from_cursor).transpose()?;
        let mut conn = acquire(&inner.pool).await?;
        catalog::check_server(&mut conn).await?;
        let types = Types::load(&mut conn).await?;
        let found = catalog::tables(&mut conn, &inner.options, &types).await?;
        let publications = inner.publications(pipeline);
        inner
            .publish(pipeline, &mut conn, &publications, &found)
            .await?;
        let (replication, timeline) =
            Timeline::of(Replication::connect(&inner.config).await?).await?;
        if let Progress::Follow(cursor) = &progress {
            let position = Position::from_cursor(cursor)?;
            timeline.check(position, Position::timeline_of(cursor))?;
        }
        let name = inner.slot(pipeline);
        let (position, fresh) = inner.place(&mut conn, &name, &progress).await?;
        let end = written(&mut conn).await?;
        drop(conn);
        let (carried, mut pending) = inner.sorted(pipeline, &found, fresh, end).await?;
        if !inner.options.copy {
            pending.iter_mut().for_each(Pending::leave_out);
        }
        // The log's values are written by the settings of this connection.
        let (replication, _) = replication
            .execute(
                "set up replication",
                "SET timezone = 'UTC'; SET datestyle = 'ISO'; SET intervalstyle = 'postgres'; \
                 SET bytea_output = 'hex'; SET extra_float_digits = 1"
                    .to_owned(),
            )
            .await?;
        let replication = replication
            .start(&name, position.commit, &publications, false)
            .await?;
        let boundary = position.boundary().unwrap_or(0);
        let feed = Feed::new(replication, boundary);
        *lock(&inner.confirmed) = Some(feed.confirmed());
        *lock(&inner.caught_up) = Instant::now();
        let in_flight = Arc::<InFlight>::default();
        *lock(&inner.in_flight) = Arc::clone(&in_flight);
        let rows = Rows::new(
            inner.pool.clone(),
            types,
            inner.options.clone(),
            carried,
            position,
            timeline.number,
        );
        let following = Following {
            config: inner.config.clone(),
            pool: inner.pool.clone(),
            width: inner.options.copy_width,
            side_by_side: inner.sink.is_versioned(),
            feed,
            rows,
            pending,
            beginning: None,
            copy: None,
            numbered: 0,
            until,
            left: Arc::clone(&inner.copying),
            is_copying: Arc::clone(&inner.is_copying),
            in_flight,
            alive_at: None,
            over: false,
        };
        Ok(following.steps())
    }

    async fn confirm(&self, pipeline: &PipelineId, cursor: &Cursor) -> Result<()> {
        let inner = &self.inner;
        let confirmed = lock(&inner.confirmed).clone();
        if let (Some(confirmed), Some(boundary)) =
            (confirmed, Position::from_cursor(cursor)?.boundary())
        {
            confirm(&confirmed, boundary);
        }
        inner.registry.confirm(pipeline, cursor).await
    }

    async fn watch(&self, pipeline: &PipelineId) -> Error {
        let Some(budget) = self.inner.options.wal_budget else {
            return std::future::pending().await;
        };
        loop {
            tokio::time::sleep(WEIGH).await;
            match self.inner.weigh(pipeline, budget).await {
                Ok(Some(exceeded)) => return exceeded,
                Ok(None) => {}
                // The run meets the same fault, and tells it.
                Err(error) => tracing::debug!(error = error.chain(), "could not weigh the slot"),
            }
        }
    }

    async fn abandon(&self, pipeline: &PipelineId) -> Result<Abandoned> {
        let inner = &self.inner;
        let exceeded = inner.options.wal_budget.map(|budget| budget.exceeded);
        let then = match exceeded.unwrap_or_default() {
            WalExceeded::Stop => return Ok(Abandoned::Ended),
            WalExceeded::DropSlot => Abandoned::Ended,
            WalExceeded::Resync => Abandoned::CopyAnew,
        };
        drop_slot(&inner.pool, &inner.slot(pipeline)).await?;
        Ok(then)
    }

    fn version_at(&self, cursor: &Cursor) -> Result<u64> {
        Ok(Position::from_cursor(cursor)?.commit)
    }

    fn consumers(&self) -> &dyn Consumers {
        &self.inner.registry
    }

    fn dead_letters(&self) -> &dyn DeadLetters {
        &self.inner.registry
    }
}

/// Up to where the log is written durably.
pub(in crate::postgres) async fn end(conn: &mut PgConnection) -> Result<u64> {
    let lsn: String = sqlx::query_scalar("SELECT pg_current_wal_flush_lsn()::text")
        .fetch_one(conn)
        .await
        .map_err(|error| failed("find the log's head", "", error))?;
    parsed(&lsn)
}

/// Up to where the log is written, once that is durable: what was read before is a part of it, also
/// where transactions are committed asynchronously.
pub(super) async fn written(conn: &mut PgConnection) -> Result<u64> {
    let lsn: String = sqlx::query_scalar("SELECT pg_current_wal_insert_lsn()::text")
        .fetch_one(&mut *conn)
        .await
        .map_err(|error| failed("find the log's head", "", error))?;
    let written = parsed(&lsn)?;
    while end(conn).await? < written {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(written)
}

impl fmt::Display for PostgresCapture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let target = self.inner.config.target();
        write!(
            f,
            "postgres://{target} tables {}",
            self.inner.options.tables
        )
    }
}

impl fmt::Debug for PostgresCapture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresCapture")
            .field("config", &self.inner.config)
            .field("options", &self.inner.options)
            .finish_non_exhaustive()
    }
}
