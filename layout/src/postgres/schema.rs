//! The tables of a store, their versions, and whose they are.

use ledger_core::{Error, ErrorKind, Result, SourceId, StoreName};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection, Row as _};
use uuid::Uuid;

use super::functions::{self, Told};
use super::{failed, wal};
use crate::StoreOptions;

/// The version of the layout of most stores and replicas.
pub(super) const PLAIN: i32 = 1;
/// That of stores whose log is the write-ahead log: a program of before would take them for ones
/// without a log.
const WAL: i32 = 2;
/// That of relays: a program of before would deliver to one and leave its log out. It is the newest
/// that this program knows.
pub const RELAY: i32 = 3;
/// The advisory lock under which migrations run: the bytes of `ledger`.
const MIGRATION_LOCK: i64 = 0x6c65_6467_6572;

const OPERATION: &str = "open store";

/// The names of a store's tables, quoted and qualified with their schema, so that they mean the
/// same whatever search path a caller's connection has.
#[derive(Debug, Clone)]
pub struct Tables {
    schema: String,
    store: StoreName,
}

impl Tables {
    /// The tables of `store` in the connection's first schema, which must exist.
    pub async fn locate(conn: &mut PgConnection, store: &StoreName) -> Result<Self> {
        let schema: Option<String> = sqlx::query_scalar("SELECT current_schema()::text")
            .fetch_one(conn)
            .await
            .map_err(|error| failed(OPERATION, format!("store {store}"), error))?;
        match schema {
            // Names also stand within quoted literals, as in `nextval('...')`.
            Some(schema) if schema.contains('\'') => Err(Error::invalid(
                OPERATION,
                format!("the schema name {schema:?} holds a single quote"),
            )),
            Some(schema) => Ok(Self {
                schema,
                store: store.clone(),
            }),
            None => Err(Error::invalid(
                OPERATION,
                "the search_path names no schema that exists",
            )),
        }
    }

    /// The store.
    pub fn store(&self) -> &StoreName {
        &self.store
    }

    /// The schema that holds them.
    pub fn schema(&self) -> &str {
        &self.schema
    }

    /// A table, sequence or function of this store: `<store>_<what>`.
    pub fn of_store(&self, what: &str) -> String {
        format!("{}.\"{}_{what}\"", quoted(&self.schema), self.store)
    }

    /// A table that all stores of the schema share: `ledger_<what>`.
    pub fn shared(&self, what: &str) -> String {
        format!("{}.\"ledger_{what}\"", quoted(&self.schema))
    }

    /// Puts the names into an SQL text: `{entries}`, `{streams}`, `{log}`, any other `{what}` of the
    /// store, and `{ledger.what}` for the shared tables; `{}` stays as it is.
    pub fn sql(&self, template: &str) -> String {
        let mut sql = String::with_capacity(template.len() + 128);
        let mut rest = template;
        while let Some((before, after)) = rest.split_once('{') {
            sql.push_str(before);
            let Some((name, after)) = after.split_once('}') else {
                sql.push('{');
                rest = after;
                continue;
            };
            match name.strip_prefix("ledger.") {
                Some(shared) => sql.push_str(&self.shared(shared)),
                // An empty object or array in SQL, not a name.
                None if name.is_empty() => sql.push_str("{}"),
                None => sql.push_str(&self.of_store(name)),
            }
            rest = after;
        }
        sql.push_str(rest);
        sql
    }
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Whether a store is written by its users or by a bridge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Its users append.
    Source,
    /// A bridge writes it; read-only to everyone else until it is promoted.
    Replica,
}

impl Role {
    /// As it is stored.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Source => "source",
            Self::Replica => "replica",
        }
    }
}

/// What is registered of a store.
#[derive(Debug, Clone)]
pub struct StoreRow {
    /// The store's own id.
    pub uuid: Uuid,
    /// Who writes it.
    pub role: Role,
    /// Whether it keeps a mutation log in a table: what its users do, or what is delivered to a relay.
    pub log: bool,
    /// Whether it is a replica that keeps a log.
    pub relay: bool,
    /// Whether its log is the database's write-ahead log.
    pub wal: bool,
    /// The number of the database that it is in.
    pub database: u32,
    /// Of a replica: the source it is bound to.
    pub source: Option<SourceId>,
}

/// Checks that the server is one that the layout works on: version 13 or newer, UTF-8, a primary.
pub async fn check_server(conn: &mut PgConnection) -> Result<()> {
    let row = sqlx::query(
        "SELECT current_setting('server_version_num')::int AS version, \
         current_setting('server_encoding') AS encoding, pg_is_in_recovery() AS standby",
    )
    .fetch_one(conn)
    .await
    .map_err(|error| failed(OPERATION, "", error))?;
    let version: i32 = row.get("version");
    if version < 130_000 {
        return Err(Error::new(
            ErrorKind::Unsupported,
            OPERATION,
            format!(
                "PostgreSQL 13 or newer is needed, this is {}",
                version / 10_000
            ),
        ));
    }
    let encoding: String = row.get("encoding");
    if encoding != "UTF8" {
        return Err(Error::new(
            ErrorKind::Unsupported,
            OPERATION,
            format!("the database's encoding must be UTF8, it is {encoding}"),
        ));
    }
    if row.get("standby") {
        return Err(Error::new(
            ErrorKind::Unsupported,
            OPERATION,
            "the server is a standby; name the primary, whose locks tell which changes are settled",
        ));
    }
    Ok(())
}

/// Brings the shared tables to this program's version, under a lock; creates nothing of any store.
pub async fn migrate(conn: &mut PgConnection, tables: &Tables) -> Result<()> {
    let failed = |error| failed(OPERATION, "create the shared tables", error);
    let mut tx = conn.begin().await.map_err(failed)?;
    lock(&mut tx).await?;
    for statement in SHARED_TABLES {
        sqlx::query(AssertSqlSafe(tables.sql(statement)))
            .execute(&mut *tx)
            .await
            .map_err(failed)?;
    }
    tx.commit().await.map_err(failed)
}

pub(super) async fn lock(conn: &mut PgConnection) -> Result<()> {
    sqlx::query("SELECT pg_advisory_xact_lock($1)")
        .bind(MIGRATION_LOCK)
        .execute(conn)
        .await
        .map(drop)
        .map_err(|error| failed(OPERATION, "wait for other migrations", error))
}

/// What is registered of the store; none where there is no such store, or no store at all.
pub async fn find_store(conn: &mut PgConnection, tables: &Tables) -> Result<Option<StoreRow>> {
    let sql = tables
        .sql("SELECT uuid, schema_version, role, log, source, (SELECT oid::int8 FROM pg_database WHERE datname = current_database()) AS database FROM {ledger.stores} WHERE name = $1");
    let found = sqlx::query(AssertSqlSafe(sql))
        .bind(tables.store.as_str())
        .fetch_optional(conn)
        .await;
    let row = match found {
        Ok(Some(row)) => row,
        Ok(None) => return Ok(None),
        Err(error) if super::is_undefined_table(&error) => return Ok(None),
        Err(error) => return Err(failed(OPERATION, format!("store {}", tables.store), error)),
    };
    let version: i32 = row.get("schema_version");
    if version > RELAY {
        return Err(Error::new(
            ErrorKind::Unsupported,
            OPERATION,
            format!(
                "store {} has schema version {version}, newer than this program's \
                 {RELAY}; upgrade the program",
                tables.store
            ),
        ));
    }
    let source: Option<String> = row.get("source");
    let role = if row.get::<&str, _>("role") == "replica" {
        Role::Replica
    } else {
        Role::Source
    };
    let relay = role == Role::Replica && version == RELAY;
    Ok(Some(StoreRow {
        uuid: row.get("uuid"),
        role,
        log: relay || (role == Role::Source && row.get("log")),
        relay,
        wal: version == WAL,
        database: u32::try_from(row.get::<i64, _>("database")).unwrap_or(0),
        source: source.map(|source| source.parse()).transpose()?,
    }))
}

/// Opens the store's tables, and creates them with this role where there are none. Existing tables
/// that are not Ledger's are refused untouched.
pub async fn open_store(
    conn: &mut PgConnection,
    tables: &Tables,
    role: Role,
    options: &StoreOptions,
) -> Result<StoreRow> {
    if let Some(row) = find_store(conn, tables).await? {
        return Ok(row);
    }
    refuse_foreign_tables(conn, tables).await?;
    migrate(conn, tables).await?;
    let store = &tables.store;
    let failed = |error| failed(OPERATION, format!("create the tables of {store}"), error);
    let mut tx = conn.begin().await.map_err(failed)?;
    lock(&mut tx).await?;
    // Somebody else may have created it while this one waited.
    if let Some(row) = find_store(&mut tx, tables).await? {
        return Ok(row);
    }
    let unique = match role {
        Role::Source => SOURCE_INDEXES,
        Role::Replica => REPLICA_INDEXES,
    };
    let uuid = Uuid::new_v4();
    let wal = options.log && options.write_ahead_log && role == Role::Source;
    let prefix = wal.then(|| wal::prefix(&uuid));
    let functions = functions::definitions(match &prefix {
        Some(prefix) => Told::ByMessage(prefix),
        None => Told::AsAsked,
    });
    let statements = STORE_TABLES.iter().chain(unique).copied();
    for statement in statements.chain(functions.iter().map(String::as_str)) {
        sqlx::query(AssertSqlSafe(tables.sql(statement)))
            .execute(&mut *tx)
            .await
            .map_err(failed)?;
    }
    sqlx::query(AssertSqlSafe(tables.sql(
        "INSERT INTO {ledger.stores} (name, uuid, schema_version, role, log) \
         VALUES ($1, $2, $3, $4, $5)",
    )))
    .bind(store.as_str())
    .bind(uuid)
    .bind(if wal { WAL } else { PLAIN })
    .bind(role.as_str())
    .bind(options.log && !wal && role == Role::Source)
    .execute(&mut *tx)
    .await
    .map_err(failed)?;
    if wal {
        wal::register(&mut tx, tables, &uuid).await?;
    }
    let row = find_store(&mut tx, tables).await?;
    tx.commit().await.map_err(failed)?;
    row.ok_or_else(|| {
        Error::new(
            ErrorKind::Internal,
            OPERATION,
            format!("store {store} vanished"),
        )
    })
}

async fn refuse_foreign_tables(conn: &mut PgConnection, tables: &Tables) -> Result<()> {
    let store = &tables.store;
    let row = sqlx::query(
        "SELECT to_regclass($1) IS NOT NULL AND to_regclass($2) IS NOT NULL AS go, \
         to_regclass($3) IS NOT NULL OR to_regclass($4) IS NOT NULL OR to_regclass($5) IS NOT NULL \
         AS foreign_table",
    )
    .bind(format!("{}.\"{store}\"", quoted(&tables.schema)))
    .bind(format!("{}.ledger_stream_metadata", quoted(&tables.schema)))
    .bind(tables.of_store("entries"))
    .bind(tables.of_store("streams"))
    .bind(tables.of_store("log"))
    .fetch_one(conn)
    .await
    .map_err(|error| failed(OPERATION, format!("store {store}"), error))?;
    if row.get("go") {
        return Err(Error::new(
            ErrorKind::Unsupported,
            OPERATION,
            format!(
                "store {store} was made by the Go implementation of ledger; copy it with \
                 `ledger import go`"
            ),
        ));
    }
    if row.get("foreign_table") {
        return Err(Error::new(
            ErrorKind::AlreadyExists,
            OPERATION,
            format!(
                "a table {store}_entries, _streams or _log exists that is not a Ledger store's"
            ),
        ));
    }
    Ok(())
}

const SHARED_TABLES: &[&str] = &[
    "CREATE TABLE IF NOT EXISTS {ledger.stores} (
        name text COLLATE \"C\" PRIMARY KEY,
        uuid uuid NOT NULL,
        schema_version int NOT NULL,
        role text NOT NULL,
        log boolean NOT NULL,
        source text,
        pruned_through bigint NOT NULL DEFAULT 0,
        created_at timestamptz NOT NULL DEFAULT clock_timestamp())",
    "CREATE TABLE IF NOT EXISTS {ledger.consumers} (
        store text COLLATE \"C\" NOT NULL,
        pipeline text COLLATE \"C\" NOT NULL,
        confirmed bytea NOT NULL,
        seq bigint NOT NULL,
        confirmed_at timestamptz NOT NULL DEFAULT clock_timestamp(),
        holder text,
        held_until timestamptz,
        paused boolean NOT NULL DEFAULT false,
        PRIMARY KEY (store, pipeline)) WITH (fillfactor = 50)",
    "CREATE TABLE IF NOT EXISTS {ledger.dead_letters} (
        store text COLLATE \"C\" NOT NULL,
        pipeline text COLLATE \"C\" NOT NULL,
        cursor bytea NOT NULL,
        stream_key bigint NOT NULL,
        description text NOT NULL,
        reason text NOT NULL,
        item bytea NOT NULL,
        parked_at timestamptz NOT NULL DEFAULT clock_timestamp(),
        PRIMARY KEY (store, pipeline, cursor))",
    "CREATE TABLE IF NOT EXISTS {ledger.cursors} (
        store text COLLATE \"C\" NOT NULL,
        pipeline text COLLATE \"C\" NOT NULL,
        fence bigint NOT NULL,
        source text,
        cursor bytea,
        updated_at timestamptz NOT NULL DEFAULT clock_timestamp(),
        PRIMARY KEY (store, pipeline)) WITH (fillfactor = 50)",
    // Text of a payload that is no JSON, for searching; bytes that are no text stand escaped.
    "CREATE OR REPLACE FUNCTION {ledger.text}(payload bytea) RETURNS text
     LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE AS $$
     BEGIN RETURN convert_from(payload, 'UTF8');
     EXCEPTION WHEN OTHERS THEN RETURN encode(payload, 'escape'); END $$",
];

const STORE_TABLES: &[&str] = &[
    "CREATE TABLE {streams} (
        key bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY,
        name text COLLATE \"C\" NOT NULL,
        name_version bigint NOT NULL DEFAULT 1,
        version bigint NOT NULL DEFAULT 0,
        live bigint NOT NULL DEFAULT 0,
        trimmed_through bigint NOT NULL DEFAULT 0,
        created_at timestamptz NOT NULL DEFAULT clock_timestamp()) WITH (fillfactor = 50)",
    "CREATE SEQUENCE {ids} AS bigint CACHE 1",
    // `json` and not `jsonb` keeps the bytes; a payload that is no JSON stands in `payload_bytes`.
    "CREATE TABLE {entries} (
        id bigint PRIMARY KEY,
        stream_key bigint NOT NULL,
        payload json,
        payload_bytes bytea,
        order_key text NOT NULL DEFAULT '',
        dedup_key text NOT NULL DEFAULT '',
        schema_version int NOT NULL DEFAULT 1,
        metadata jsonb NOT NULL DEFAULT '{}',
        tags text[] NOT NULL DEFAULT '{}',
        annotations jsonb NOT NULL DEFAULT '{}',
        tags_version bigint NOT NULL DEFAULT 0,
        annotations_version bigint NOT NULL DEFAULT 0,
        created_at timestamptz NOT NULL,
        updated_at timestamptz,
        CHECK ((payload IS NULL) <> (payload_bytes IS NULL)))",
    "CREATE INDEX ON {entries} (stream_key, id)",
    "CREATE INDEX ON {entries} (stream_key, order_key, id) WHERE order_key <> ''",
    "CREATE SEQUENCE {log_seq} AS bigint CACHE 1",
    // Only an insert draws from the sequence: readers conclude from that who may still fill a gap.
    "CREATE TABLE {log} (
        seq bigint PRIMARY KEY,
        at timestamptz NOT NULL,
        stream_key bigint NOT NULL,
        stream_name text NOT NULL,
        name_version bigint NOT NULL,
        kind smallint NOT NULL,
        ids bigint[] NOT NULL,
        version bigint NOT NULL,
        body bytea NOT NULL)",
    "ALTER TABLE {log} ALTER COLUMN seq SET DEFAULT nextval('{log_seq}')",
    // Written once, read once: compressing it costs more than it saves.
    "ALTER TABLE {log} ALTER COLUMN body SET STORAGE EXTERNAL",
    "ALTER SEQUENCE {log_seq} OWNED BY {log}.seq",
    "ALTER SEQUENCE {ids} OWNED BY {entries}.id",
];

/// Names and dedup keys are unique where users write.
pub(super) const SOURCE_INDEXES: &[&str] = &[
    "CREATE UNIQUE INDEX ON {streams} (name)",
    "CREATE UNIQUE INDEX ON {entries} (stream_key, dedup_key) WHERE dedup_key <> ''",
];

/// A replica is unique by source identity only: what is in flight may repeat names and dedup keys.
const REPLICA_INDEXES: &[&str] = &["CREATE INDEX ON {streams} (name)"];
