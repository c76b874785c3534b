//! The tables, how they come to be, and who a store is.

use std::sync::Arc;

use ledger_core::{Error, ErrorKind, Result, SourceId, StoreName, Timestamp};
use sqlx::{AssertSqlSafe, Row as _, SqliteConnection};
use uuid::Uuid;

use super::database::Database;
use super::error::failed;
use super::relay::set_relay;
use super::rows::from_micros;
use crate::log::encode_ids;
use crate::relay::Relay;

/// The version of the tables that this code reads and writes. The second is that of relays: a program
/// of before would deliver to one and leave its log out.
pub const SCHEMA_VERSION: i64 = 2;
/// The version of everything that is no relay.
pub(super) const PLAIN: i64 = 1;

/// What all stores of a file share. Every statement can be run again.
const BASE: &str = "
CREATE TABLE IF NOT EXISTS ledger_stores (
  name TEXT NOT NULL PRIMARY KEY, uuid TEXT NOT NULL, schema_version INTEGER NOT NULL,
  role TEXT NOT NULL CHECK (role IN ('source', 'replica')), log INTEGER NOT NULL,
  pruned_through INTEGER NOT NULL DEFAULT 0, source TEXT, created_at INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS ledger_consumers (
  store TEXT NOT NULL, pipeline TEXT NOT NULL, confirmed BLOB NOT NULL,
  confirmed_seq INTEGER NOT NULL, confirmed_at INTEGER NOT NULL,
  holder TEXT, leased_until INTEGER NOT NULL DEFAULT 0, paused INTEGER NOT NULL DEFAULT 0,
  PRIMARY KEY (store, pipeline));
CREATE TABLE IF NOT EXISTS ledger_dead_letters (
  store TEXT NOT NULL, pipeline TEXT NOT NULL, cursor BLOB NOT NULL, stream_key INTEGER NOT NULL,
  description TEXT NOT NULL, reason TEXT NOT NULL, item BLOB NOT NULL, parked_at INTEGER NOT NULL,
  PRIMARY KEY (store, pipeline, cursor));
CREATE TABLE IF NOT EXISTS ledger_cursors (
  store TEXT NOT NULL, pipeline TEXT NOT NULL, source TEXT, cursor BLOB,
  fence INTEGER NOT NULL, PRIMARY KEY (store, pipeline));
";

/// The tables of a store. Names are quoted, ready to stand in a statement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tables {
    /// The store.
    pub store: StoreName,
    /// Its streams.
    pub streams: String,
    /// Its entries.
    pub entries: String,
    /// Its mutation log.
    pub log: String,
}

impl Tables {
    /// The tables of this store.
    pub fn of(store: &StoreName) -> Arc<Self> {
        Arc::new(Self {
            store: store.clone(),
            streams: format!("\"{store}_streams\""),
            entries: format!("\"{store}_entries\""),
            log: format!("\"{store}_log\""),
        })
    }

    fn ddl(&self, role: Role) -> String {
        let Self {
            store,
            streams,
            entries,
            log,
        } = self;
        let indexes = match role {
            Role::Source => self.source_indexes(),
            Role::Replica => self.replica_indexes(),
        };
        format!(
            "CREATE TABLE {streams} (
               key INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL,
               name_version INTEGER NOT NULL, version INTEGER NOT NULL, live INTEGER NOT NULL,
               trimmed_through INTEGER NOT NULL, created_at INTEGER NOT NULL);
             CREATE TABLE {entries} (
               id INTEGER PRIMARY KEY AUTOINCREMENT, stream_key INTEGER NOT NULL,
               created_at INTEGER NOT NULL, order_key TEXT NOT NULL, dedup_key TEXT NOT NULL,
               schema_version INTEGER NOT NULL, metadata TEXT NOT NULL, tags TEXT NOT NULL,
               annotations TEXT NOT NULL DEFAULT '{{}}', tags_version INTEGER NOT NULL DEFAULT 0,
               annotations_version INTEGER NOT NULL DEFAULT 0, updated_at INTEGER,
               payload NOT NULL);
             CREATE INDEX \"{store}_entries_stream\" ON {entries} (stream_key, id);
             CREATE INDEX \"{store}_entries_order\" ON {entries} (stream_key, order_key, id)
               WHERE order_key <> '';
             CREATE TABLE {log} (
               seq INTEGER PRIMARY KEY AUTOINCREMENT, at INTEGER NOT NULL,
               stream_key INTEGER NOT NULL, stream_name TEXT NOT NULL,
               name_version INTEGER NOT NULL, kind INTEGER NOT NULL, changes INTEGER NOT NULL,
               version INTEGER NOT NULL, ids BLOB NOT NULL, body BLOB NOT NULL);
             {indexes}"
        )
    }

    fn source_indexes(&self) -> String {
        let Self {
            store,
            streams,
            entries,
            ..
        } = self;
        format!(
            "CREATE UNIQUE INDEX \"{store}_streams_name\" ON {streams} (name);
             CREATE UNIQUE INDEX \"{store}_entries_dedup\" ON {entries} (stream_key, dedup_key)
               WHERE dedup_key <> '';"
        )
    }

    /// A replica is unique by the source's identities only: a dedup key comes again when its entry
    /// was trimmed, and a name when its stream was renamed, possibly before the replica knows.
    fn replica_indexes(&self) -> String {
        let Self { store, streams, .. } = self;
        format!("CREATE INDEX \"{store}_streams_name\" ON {streams} (name);")
    }
}

/// Whether a store takes its entries from callers or from a bridge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// From callers.
    Source,
    /// From a bridge, until it is promoted.
    Replica,
}

/// What `ledger_stores` tells of a store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreRow {
    /// The store's own id.
    pub uuid: Uuid,
    /// Who writes it.
    pub role: Role,
    /// Whether there is a log: mutations of a source, or deliveries to a relay, are written there.
    pub log: bool,
    /// Whether it is a replica that keeps a log.
    pub relay: bool,
    /// The last row that was pruned from its log; 0 where none was.
    pub pruned_through: i64,
    /// Of a replica: whose it is.
    pub source: Option<SourceId>,
    /// When it was created.
    pub created_at: Timestamp,
}

/// Reads what `ledger_stores` tells of a store; none where it does not exist. `Unsupported` where a
/// newer version of this software has written it.
pub async fn load(conn: &mut SqliteConnection, store: &StoreName) -> Result<Option<StoreRow>> {
    const OPERATION: &str = "open store";
    let fail = |error| failed(OPERATION, error);
    if !has_table(conn, "ledger_stores").await? {
        return Ok(None);
    }
    let row = sqlx::query(
        "SELECT name, uuid, schema_version, role, log, pruned_through, source, created_at
         FROM ledger_stores WHERE name = ?1 COLLATE NOCASE",
    )
    .bind(store.as_str())
    .fetch_optional(conn)
    .await
    .map_err(fail)?;
    let Some(row) = row else { return Ok(None) };
    let name: String = row.try_get(0).map_err(fail)?;
    if name != store.as_str() {
        return Err(Error::invalid(
            OPERATION,
            format!("store {store} differs from store {name} only in the case of letters"),
        ));
    }
    let version: i64 = row.try_get(2).map_err(fail)?;
    if version > SCHEMA_VERSION {
        return Err(Error::new(
            ErrorKind::Unsupported,
            OPERATION,
            format!(
                "store {store} has schema version {version}, this software knows {SCHEMA_VERSION}; \
                 use a newer one"
            ),
        ));
    }
    let corrupt = |what: &str| {
        Error::new(
            ErrorKind::Corrupt,
            OPERATION,
            format!("store {store}: its {what} is malformed"),
        )
    };
    let uuid: String = row.try_get(1).map_err(fail)?;
    let source: Option<String> = row.try_get(6).map_err(fail)?;
    let role = match row.try_get::<&str, _>(3).map_err(fail)? {
        "source" => Role::Source,
        "replica" => Role::Replica,
        _ => return Err(corrupt("role")),
    };
    let relay = role == Role::Replica && version > PLAIN;
    let log = row.try_get::<i64, _>(4).map_err(fail)? != 0;
    Ok(Some(StoreRow {
        uuid: uuid.parse().map_err(|_| corrupt("uuid"))?,
        role,
        log: relay || (log && role == Role::Source),
        relay,
        pruned_through: row.try_get(5).map_err(fail)?,
        source: source
            .map(|id| id.parse())
            .transpose()
            .map_err(|_| corrupt("source"))?,
        created_at: from_micros(row.try_get(7).map_err(fail)?),
    }))
}

/// The names of the stores and replicas of a file, ascending. A name that another program has written
/// and that is none here is left out.
pub async fn names(conn: &mut SqliteConnection) -> Result<Vec<StoreName>> {
    if !has_table(conn, "ledger_stores").await? {
        return Ok(Vec::new());
    }
    let names: Vec<String> = sqlx::query_scalar("SELECT name FROM ledger_stores ORDER BY name")
        .fetch_all(conn)
        .await
        .map_err(|error| failed("list stores", error))?;
    Ok(names
        .into_iter()
        .filter_map(|name| StoreName::new(name).ok())
        .collect())
}

/// Opens a store for callers, and creates it where it does not exist and may be created. One that
/// exists is taken as it is, also where it is a replica.
pub async fn open_source(database: &Database, tables: &Tables, log: bool) -> Result<StoreRow> {
    open(database, tables, Role::Source, log).await
}

/// Opens a replica, and creates it where it does not exist and may be created; `InvalidInput` for a
/// store that callers write.
pub async fn open_replica(database: &Database, tables: &Tables, relay: Relay) -> Result<()> {
    let row = open(database, tables, Role::Replica, false).await?;
    if row.role == Role::Replica {
        return set_relay(database, tables, relay).await;
    }
    Err(Error::invalid(
        "open replica",
        format!(
            "store {} in {} is a source of its own; replicate into another file or store",
            tables.store,
            database.config()
        ),
    ))
}

async fn open(database: &Database, tables: &Tables, role: Role, log: bool) -> Result<StoreRow> {
    let within = |error: Error| error.within(database.config());
    let store = &tables.store;
    let mut reader = database.reader().await?;
    let mut found = load(&mut reader, store).await;
    if matches!(found, Ok(None)) {
        found = refuse_foreign(&mut reader, store).await.map(|()| None);
    }
    if let Some(row) = reader.done(found).map_err(within)? {
        return Ok(row);
    }
    if !database.config().create {
        return Err(Error::new(
            ErrorKind::NotFound,
            "open store",
            format!("{} has no store {store}", database.config()),
        ));
    }
    let mut writer = database.writer().await?;
    let mut transaction = writer.begin().await?;
    // Another process may have been faster.
    let mut row = load(&mut transaction, store).await.map_err(within)?;
    if row.is_none() {
        create(&mut transaction, tables, role, log)
            .await
            .map_err(within)?;
        row = load(&mut transaction, store).await.map_err(within)?;
    }
    transaction
        .commit()
        .await
        .map_err(|error| within(failed("create store", error)))?;
    row.ok_or_else(|| {
        within(Error::new(
            ErrorKind::Internal,
            "create store",
            "it is not there",
        ))
    })
}

async fn create(conn: &mut SqliteConnection, tables: &Tables, role: Role, log: bool) -> Result<()> {
    const OPERATION: &str = "create store";
    let fail = |error| failed(OPERATION, error);
    let store = &tables.store;
    if store.as_str().to_ascii_lowercase().starts_with("sqlite_") {
        let reserved =
            format!("store {store}: SQLite keeps names that begin with sqlite_ for itself");
        return Err(Error::invalid(OPERATION, reserved));
    }
    for table in ["streams", "entries", "log"].map(|part| format!("{store}_{part}")) {
        if has_table(conn, &table).await? {
            let taken = format!("the table {table} exists and is not this store's");
            return Err(Error::new(ErrorKind::AlreadyExists, OPERATION, taken));
        }
    }
    sqlx::raw_sql(BASE)
        .execute(&mut *conn)
        .await
        .map_err(fail)?;
    sqlx::raw_sql(AssertSqlSafe(tables.ddl(role)))
        .execute(&mut *conn)
        .await
        .map_err(fail)?;
    sqlx::query(
        "INSERT INTO ledger_stores (name, uuid, schema_version, role, log, created_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
    )
    .bind(store.as_str())
    .bind(Uuid::new_v4().to_string())
    .bind(PLAIN)
    .bind(match role {
        Role::Source => "source",
        Role::Replica => "replica",
    })
    .bind(log)
    .bind(Timestamp::now().as_micros())
    .execute(conn)
    .await
    .map_err(fail)?;
    Ok(())
}

/// A file that the Go implementation made is left untouched.
async fn refuse_foreign(conn: &mut SqliteConnection, store: &StoreName) -> Result<()> {
    let cursors = format!("{store}_cursors");
    if has_table(conn, "ledger_stream_metadata").await?
        || (has_table(conn, store.as_str()).await? && has_table(conn, &cursors).await?)
    {
        return Err(Error::invalid(
            "open store",
            "the file was made by the Go implementation; copy it with `ledger import go`",
        ));
    }
    Ok(())
}

async fn has_table(conn: &mut SqliteConnection, table: &str) -> Result<bool> {
    let found: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM sqlite_master WHERE type = 'table' AND name = ?1 COLLATE NOCASE",
    )
    .bind(table)
    .fetch_one(conn)
    .await
    .map_err(|error| failed("open store", error))?;
    Ok(found > 0)
}

/// Makes a reader that begins before the log of a promoted store start from a snapshot: what the
/// store holds is not in its log. The first row counts as pruned, and the second repeats a name,
/// which changes nothing.
async fn begin_log(conn: &mut SqliteConnection, tables: &Tables) -> Result<()> {
    let fail = |error| failed("promote replica", error);
    let Tables {
        store,
        streams,
        log,
        ..
    } = tables;
    let sql = format!(
        "INSERT INTO {log} (seq, at, stream_key, stream_name, name_version, kind, ids, version,
           body, changes)
         SELECT 2 + (SELECT pruned_through FROM ledger_stores WHERE name = ?4),
           ?1, key, name, name_version, ?2, ?3, 0, x'', 1
         FROM {streams} ORDER BY key LIMIT 1"
    );
    let inserted = sqlx::query(AssertSqlSafe(sql))
        .bind(Timestamp::now().as_micros())
        .bind(crate::log::RENAME)
        .bind(encode_ids(&[])?)
        .bind(store.as_str())
        .execute(&mut *conn)
        .await
        .map_err(fail)?;
    if inserted.rows_affected() > 0 {
        let next = "UPDATE ledger_stores SET pruned_through = pruned_through + 1 WHERE name = ?1";
        sqlx::query(next)
            .bind(store.as_str())
            .execute(conn)
            .await
            .map_err(fail)?;
    }
    Ok(())
}

/// Makes a replica a source of its own: names and dedup keys become unique, and the bridges that wrote
/// it are fenced off. Its identity is a new one; a relay keeps its own, and its log goes on, so that
/// who follows it does. `Conflict`-free replicas only: `AlreadyExists` names what is there twice. Runs
/// in the caller's transaction.
pub async fn promote(conn: &mut SqliteConnection, tables: &Tables, log: bool) -> Result<StoreRow> {
    const OPERATION: &str = "promote replica";
    let fail = |error| failed(OPERATION, error);
    let Tables {
        store,
        streams,
        entries,
        ..
    } = tables;
    let doubles: Vec<String> = sqlx::query_scalar(AssertSqlSafe(format!(
        "SELECT * FROM (SELECT 'stream name ' || json_quote(name) FROM {streams}
           GROUP BY name HAVING count(*) > 1 LIMIT 10)
         UNION ALL
         SELECT * FROM (SELECT 'dedup key ' || json_quote(e.dedup_key) || ' in stream '
             || json_quote(max(s.name))
           FROM {entries} e JOIN {streams} s ON s.key = e.stream_key
           WHERE e.dedup_key <> '' GROUP BY e.stream_key, e.dedup_key HAVING count(*) > 1 LIMIT 10)"
    )))
    .fetch_all(&mut *conn)
    .await
    .map_err(fail)?;
    if !doubles.is_empty() {
        let what = format!(
            "store {store} holds these more than once: {}",
            doubles.join(", ")
        );
        return Err(Error::new(ErrorKind::AlreadyExists, OPERATION, what));
    }
    // Ids that were trimmed before they arrived were given nevertheless.
    let script = format!(
        "DROP INDEX \"{store}_streams_name\";
         {}
         INSERT INTO sqlite_sequence (name, seq) SELECT '{store}_entries', 0
           WHERE NOT EXISTS (SELECT 1 FROM sqlite_sequence WHERE name = '{store}_entries');
         UPDATE sqlite_sequence
           SET seq = max(seq, (SELECT coalesce(max(trimmed_through), 0) FROM {streams}))
           WHERE name = '{store}_entries';
         INSERT INTO sqlite_sequence (name, seq) SELECT '{store}_log', 0
           WHERE NOT EXISTS (SELECT 1 FROM sqlite_sequence WHERE name = '{store}_log');
         UPDATE sqlite_sequence
           SET seq = max(seq, (SELECT pruned_through FROM ledger_stores WHERE name = '{store}'))
           WHERE name = '{store}_log';",
        tables.source_indexes()
    );
    sqlx::raw_sql(AssertSqlSafe(script))
        .execute(&mut *conn)
        .await
        .map_err(fail)?;
    let before = load(conn, store).await?.filter(|row| row.relay);
    let relayed = before.is_some();
    let uuid = before.map_or_else(Uuid::new_v4, |row| row.uuid);
    sqlx::query(
        "UPDATE ledger_stores SET role = 'source', uuid = ?2, log = ?3, source = NULL,
           schema_version = ?4 WHERE name = ?1",
    )
    .bind(store.as_str())
    .bind(uuid.to_string())
    .bind(log || relayed)
    .bind(PLAIN)
    .execute(&mut *conn)
    .await
    .map_err(fail)?;
    if log && !relayed {
        begin_log(conn, tables).await?;
    }
    sqlx::query("UPDATE ledger_cursors SET fence = fence + 1 WHERE store = ?1")
        .bind(store.as_str())
        .execute(&mut *conn)
        .await
        .map_err(fail)?;
    let row = load(conn, store).await?;
    row.ok_or_else(|| Error::new(ErrorKind::NotFound, OPERATION, format!("store {store}")))
}
