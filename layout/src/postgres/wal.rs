//! Stores whose mutation log is the database's write-ahead log.
//!
//! Nothing is written twice: what a reader needs beside the rows of the entries table, which are in
//! the write-ahead log anyway, is told by logical messages of some tens of bytes. The functions of
//! the store (`functions.rs`) write one in front of the rows of an append or of a label, and one for
//! a trim and for a rename.
//!
//! A store has one lasting replication slot, which keeps the log from being forgotten; each reader
//! works on a temporary copy of it. A publication tells which table is read.

use ledger_core::{Error, ErrorKind, Result};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection, Row as _};
use uuid::Uuid;

use super::functions::{self, Told};
use super::schema::lock;
use super::{Tables, failed};

const OPERATION: &str = "use the write-ahead log";

/// Both tables are shared by the stores of a schema.
///
/// `kept_after`: the store's log is there behind this position; NULL until the slot was made.
/// `kept_lsn`: up to where the slot may have been moved for that. One that stands behind it was moved,
/// or made, by somebody else.
/// `last` and `through`: behind `last` no change of the store is in the log up to `through`.
/// Marks tell the same for moments of the past, by which the log's age is measured.
const SHARED: &[&str] = &[
    "CREATE TABLE IF NOT EXISTS {ledger.wal_logs} (
        store text COLLATE \"C\" PRIMARY KEY,
        slot text NOT NULL,
        kept_after bytea,
        kept_lsn bigint NOT NULL DEFAULT 0,
        last bytea,
        through bigint NOT NULL DEFAULT 0)",
    "CREATE TABLE IF NOT EXISTS {ledger.wal_marks} (
        store text COLLATE \"C\" NOT NULL,
        at timestamptz NOT NULL,
        last bytea NOT NULL,
        through bigint NOT NULL,
        PRIMARY KEY (store, at))",
];

/// What the last message of a log says, when the log is kept elsewhere from then on.
pub const ENDED: &[u8] = b"e";

/// What the messages of a store begin with.
pub fn prefix(store: &Uuid) -> String {
    format!("ledger:{}", store.simple())
}

/// The name of a store's publication.
pub fn publication(store: &Uuid) -> String {
    format!("ledger_{}", store.simple())
}

/// The name of a store's slot. Slots are those of the whole server, and a database that was made as a
/// copy of another one has stores of the same ids.
pub fn slot(store: &Uuid, database: u32) -> String {
    format!("ledger_{}_{database}", store.simple())
}

/// What the cursors of a store are sealed with, other than those of its copy in another database.
pub fn history(store: &Uuid, database: u32) -> Uuid {
    let mut hash = xxhash_rust::xxh3::Xxh3::new();
    hash.update(store.as_bytes());
    hash.update(&database.to_be_bytes());
    Uuid::from_u128(hash.digest128())
}

async fn database(conn: &mut PgConnection) -> std::result::Result<u32, sqlx::Error> {
    let sql = "SELECT oid::int8 FROM pg_database WHERE datname = current_database()";
    let oid: i64 = sqlx::query_scalar(sql).fetch_one(conn).await?;
    Ok(u32::try_from(oid).unwrap_or(0))
}

/// What is noted of a store's log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WalRow {
    /// The slot.
    pub slot: String,
    /// Behind which cursor the log is there; none until the slot was made.
    pub kept_after: Option<Vec<u8>>,
    /// Up to where the slot may stand.
    pub kept_lsn: u64,
    /// The newest change that somebody has met, and up to where nothing came behind it.
    pub last: Option<Vec<u8>>,
    /// See `last`.
    pub through: u64,
}

/// Checks that the server and the user can do it.
pub async fn check(conn: &mut PgConnection) -> Result<()> {
    let row = sqlx::query(
        "SELECT current_setting('server_version_num')::int, current_setting('wal_level'), \
         (SELECT rolreplication OR rolsuper FROM pg_roles WHERE rolname = current_user), \
         has_database_privilege(current_database(), 'CREATE')",
    )
    .fetch_one(conn)
    .await
    .map_err(|error| failed(OPERATION, "", error))?;
    let (version, level): (i32, String) = (row.get(0), row.get(1));
    let unsupported = |what: String| Err(Error::new(ErrorKind::Unsupported, OPERATION, what));
    if version < 140_000 {
        let version = version / 10_000;
        return unsupported(format!(
            "PostgreSQL 14 or newer is needed, this is {version}"
        ));
    }
    if level != "logical" {
        return unsupported(format!(
            "wal_level is {level}; run ALTER SYSTEM SET wal_level = 'logical', and restart the server"
        ));
    }
    if !row.get::<Option<bool>, _>(2).unwrap_or(false) {
        return unsupported(
            "the user may not replicate; run ALTER ROLE ... REPLICATION".to_owned(),
        );
    }
    if !row.get::<bool, _>(3) {
        return unsupported(
            "the user may not create publications; run GRANT CREATE ON DATABASE ... TO ..."
                .to_owned(),
        );
    }
    Ok(())
}

/// Notes that the store's log is the write-ahead log, and publishes its entries. The slot is still to
/// be made.
pub(super) async fn register(conn: &mut PgConnection, tables: &Tables, store: &Uuid) -> Result<()> {
    let publication = publication(store);
    let statements = SHARED.iter().map(|sql| tables.sql(sql)).chain([
        format!("DROP PUBLICATION IF EXISTS \"{publication}\""),
        // No deletes: that entries are gone is told by their trim.
        format!(
            "CREATE PUBLICATION \"{publication}\" FOR TABLE {} WITH (publish = 'insert, update')",
            tables.of_store("entries")
        ),
    ]);
    let failed = |error| failed(OPERATION, format!("store {}", tables.store()), error);
    for sql in statements {
        let done = sqlx::query(AssertSqlSafe(sql)).execute(&mut *conn).await;
        done.map_err(failed)?;
    }
    let slot = slot(store, database(&mut *conn).await.map_err(failed)?);
    let sql = tables.sql(
        "INSERT INTO {ledger.wal_logs} (store, slot) VALUES ($1, $2) \
         ON CONFLICT (store) DO UPDATE SET slot = $2, kept_after = NULL, kept_lsn = 0, \
         last = NULL, through = 0",
    );
    let noted = sqlx::query(AssertSqlSafe(sql))
        .bind(tables.store().as_str())
        .bind(&slot)
        .execute(&mut *conn)
        .await;
    noted.map(drop).map_err(failed)
}

/// Makes the write-ahead log the store's log, or (`false`) a table again. Whoever reads the log has to
/// begin anew from a copy: the cursors of one kind are none of the other. Waits for the writers that
/// are at work, and makes others wait meanwhile. Of a store that is so already, nothing is changed.
///
/// The slot is not made here, and not dropped.
pub async fn switch(conn: &mut PgConnection, tables: &Tables, wal: bool) -> Result<()> {
    let store = tables.store();
    let failed = |error| failed(OPERATION, format!("store {store}"), error);
    if wal {
        check(conn).await?;
    }
    let mut tx = conn.begin().await.map_err(failed)?;
    lock(&mut tx).await?;
    let sql = tables.sql(
        "SELECT uuid, schema_version = 2, role = 'replica', log FROM {ledger.stores} \
         WHERE name = $1 FOR UPDATE",
    );
    let row = sqlx::query(AssertSqlSafe(sql))
        .bind(store.as_str())
        .fetch_one(&mut *tx)
        .await
        .map_err(failed)?;
    let (uuid, is_wal): (Uuid, bool) = (row.get(0), row.get(1));
    if row.get(2) {
        return Err(Error::new(
            ErrorKind::ReadOnly,
            OPERATION,
            format!("store {store} is a replica, whose log is written by its bridge; promote it"),
        ));
    }
    if is_wal == wal && (wal || row.get(3)) {
        return Ok(());
    }
    let prefix = wal.then(|| prefix(&uuid));
    let definitions = functions::definitions(match &prefix {
        Some(prefix) => Told::ByMessage(prefix),
        None => Told::Always,
    });
    let lock = tables.sql("LOCK TABLE {streams}, {entries}, {log} IN SHARE ROW EXCLUSIVE MODE");
    // With a number of its own, so that who has read all of the table stands before it as well.
    let prune = tables.sql(
        "UPDATE {ledger.stores} s SET schema_version = $2, log = $3, \
         pruned_through = greatest(s.pruned_through, nextval('{log_seq}')) WHERE name = $1",
    );
    let forget = tables.sql("DELETE FROM {log}");
    for sql in [lock, forget]
        .into_iter()
        .chain(definitions.iter().map(|sql| tables.sql(sql)))
    {
        let done = sqlx::query(AssertSqlSafe(sql)).execute(&mut *tx).await;
        done.map_err(failed)?;
    }
    sqlx::query(AssertSqlSafe(prune))
        .bind(store.as_str())
        .bind(if wal { 2 } else { 1 })
        .bind(!wal)
        .execute(&mut *tx)
        .await
        .map_err(failed)?;
    if wal {
        register(&mut tx, tables, &uuid).await?;
    } else {
        let told = sqlx::query("SELECT pg_logical_emit_message(true, $1, $2::bytea)")
            .bind(self::prefix(&uuid))
            .bind(ENDED)
            .execute(&mut *tx)
            .await;
        told.map_err(failed)?;
        forget_log(&mut tx, tables, &publication(&uuid)).await?;
    }
    tx.commit().await.map_err(failed)
}

async fn forget_log(conn: &mut PgConnection, tables: &Tables, publication: &str) -> Result<()> {
    let store = tables.store();
    let failed = |error| failed(OPERATION, format!("store {store}"), error);
    for sql in [
        "DELETE FROM {ledger.wal_marks} WHERE store = $1",
        "DELETE FROM {ledger.wal_logs} WHERE store = $1",
    ] {
        let done = sqlx::query(AssertSqlSafe(tables.sql(sql)))
            .bind(store.as_str())
            .execute(&mut *conn)
            .await;
        done.map_err(failed)?;
    }
    let sql = format!("DROP PUBLICATION IF EXISTS \"{publication}\"");
    let dropped = sqlx::query(AssertSqlSafe(sql)).execute(conn).await;
    dropped.map(drop).map_err(failed)
}

/// What is noted of the store's log.
pub async fn find(conn: &mut PgConnection, tables: &Tables) -> Result<WalRow> {
    let sql = tables.sql(
        "SELECT slot, kept_after, last, through, kept_lsn FROM {ledger.wal_logs} WHERE store = $1",
    );
    let row = sqlx::query(AssertSqlSafe(sql))
        .bind(tables.store().as_str())
        .fetch_optional(conn)
        .await
        .map_err(|error| failed(OPERATION, format!("store {}", tables.store()), error))?;
    let row = row.ok_or_else(|| {
        Error::new(
            ErrorKind::SourceDiverged,
            OPERATION,
            format!(
                "the write-ahead log is no longer the log of store {}",
                tables.store()
            ),
        )
    })?;
    Ok(WalRow {
        slot: row.get(0),
        kept_after: row.get(1),
        last: row.get(2),
        through: row.get::<i64, _>(3).cast_unsigned(),
        kept_lsn: row.get::<i64, _>(4).cast_unsigned(),
    })
}
