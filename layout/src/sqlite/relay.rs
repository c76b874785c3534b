//! The log of a replica that is a relay.

use ledger_core::{Cursor, Error, Result, StoreName};
use sqlx::{AssertSqlSafe, SqliteConnection};
use uuid::Uuid;

use super::cursors::cursor;
use super::database::Database;
use super::error::failed;
use super::rows::{int_in, read_column};
use super::schema::{PLAIN, Role, SCHEMA_VERSION, Tables, load};
use crate::log::{LogRow, encode_ids};
use crate::relay::{Relay, beginning};

const OPERATION: &str = "keep the log of a relay";
/// The most rows of one INSERT.
const BLOCK: usize = 64;

/// What a delivery finds, under the write lock.
#[derive(Debug)]
pub struct Relayed {
    /// Whether what is delivered is to be written into the log.
    pub relay: bool,
    /// The pipeline's cursor.
    pub stored: Option<Cursor>,
}

/// Looks up whether a replica is a relay, and where a pipeline into it stands.
pub async fn relayed(
    conn: &mut SqliteConnection,
    store: &StoreName,
    pipeline: &str,
) -> Result<Relayed> {
    let row = sqlx::query(
        "SELECT st.role = 'replica' AND st.schema_version > ?3, c.cursor FROM ledger_stores st
         LEFT JOIN ledger_cursors c ON c.store = st.name AND c.pipeline = ?2 WHERE st.name = ?1",
    )
    .bind(store.as_str())
    .bind(pipeline)
    .bind(PLAIN)
    .fetch_optional(conn)
    .await
    .map_err(|error| failed(OPERATION, error))?;
    Ok(match row {
        Some(row) => Relayed {
            relay: read_column(&row, 0)?,
            stored: cursor(&row, 1)?,
        },
        None => Relayed {
            relay: false,
            stored: None,
        },
    })
}

/// Writes rows into the log, which are numbered in their order.
pub async fn write_log(
    conn: &mut SqliteConnection,
    tables: &Tables,
    rows: &[LogRow],
) -> Result<()> {
    let mut rest = rows;
    while !rest.is_empty() {
        // Powers of two: each number of rows is a statement of its own in the connection's cache.
        let (block, behind) = rest.split_at(BLOCK.min(1 << rest.len().ilog2()));
        rest = behind;
        let values = vec!["(?,?,?,?,?,?,?,?,?)"; block.len()].join(",");
        let sql = format!(
            "INSERT INTO {} (at, stream_key, stream_name, name_version, kind, changes, version, ids,
               body) VALUES {values}",
            tables.log
        );
        let mut query = sqlx::query(AssertSqlSafe(sql));
        for row in block {
            query = query
                .bind(row.at.as_micros())
                .bind(int_in(row.stream.key.0))
                .bind(row.stream.name.as_str())
                .bind(int_in(row.stream.name_version))
                .bind(i64::from(row.kind))
                .bind(i64::try_from(row.changes()).unwrap_or(i64::MAX))
                .bind(row.version)
                .bind(encode_ids(&row.ids)?)
                .bind(row.body.as_ref());
        }
        query
            .execute(&mut *conn)
            .await
            .map_err(|error| failed(OPERATION, error))?;
    }
    Ok(())
}

/// Makes a replica a relay, or no relay any more. `InvalidInput` names the consumers that follow the
/// log that would end.
pub(super) async fn set_relay(database: &Database, tables: &Tables, relay: Relay) -> Result<()> {
    let wanted = match relay {
        Relay::AsIs => return Ok(()),
        Relay::On => true,
        Relay::Off => false,
    };
    let mut reader = database.reader().await?;
    let row = load(&mut reader, &tables.store).await;
    if reader.done(row)?.is_some_and(|row| row.relay == wanted) {
        return Ok(());
    }
    let mut writer = database.writer().await?;
    let mut transaction = writer.begin().await?;
    let row = load(&mut transaction, &tables.store).await?;
    if row.is_some_and(|row| row.role == Role::Replica && row.relay != wanted) {
        if wanted {
            begin(&mut transaction, tables).await?;
        } else {
            refuse_followers(&mut transaction, tables).await?;
            end_log(&mut transaction, tables).await?;
        }
        execute(
            &mut transaction,
            &format!(
                "UPDATE ledger_stores SET log = {}, schema_version = {} WHERE name = ?1",
                i64::from(wanted),
                if wanted { SCHEMA_VERSION } else { PLAIN }
            ),
            tables,
        )
        .await?;
    }
    transaction
        .commit()
        .await
        .map_err(|error| failed(OPERATION, error))
}

/// What a replica that was never written holds is all in its log from the beginning; of any other the
/// log begins behind its content.
async fn begin(conn: &mut SqliteConnection, tables: &Tables) -> Result<()> {
    let sql = format!(
        "SELECT (SELECT count(*) FROM {}) + (SELECT pruned_through FROM ledger_stores WHERE name = ?1)",
        tables.streams
    );
    let before: i64 = sqlx::query_scalar(AssertSqlSafe(sql))
        .bind(tables.store.as_str())
        .fetch_one(&mut *conn)
        .await
        .map_err(|error| failed(OPERATION, error))?;
    if before == 0 {
        return Ok(());
    }
    begin_anew(conn, tables).await
}

/// Ends the log and begins another one, of which no reader of the first has seen anything.
async fn begin_anew(conn: &mut SqliteConnection, tables: &Tables) -> Result<()> {
    let pruned = end_log(conn, tables).await?;
    let sql = format!(
        "INSERT INTO {} (seq, at, stream_key, stream_name, name_version, kind, changes, version, ids,
           body) VALUES (?1, ?2, 0, ?3, 0, ?4, 0, 0, ?5, x'')",
        tables.log
    );
    let row = beginning(pruned + 1)?;
    sqlx::query(AssertSqlSafe(sql))
        .bind(row.seq)
        .bind(row.at.as_micros())
        .bind(row.stream.name.as_str())
        .bind(i64::from(row.kind))
        .bind(encode_ids(&row.ids)?)
        .execute(conn)
        .await
        .map_err(|error| failed(OPERATION, error))?;
    Ok(())
}

/// Removes every row of the log and marks a number behind the last as pruned, which is returned: who
/// has read all of it is told as well.
async fn end_log(conn: &mut SqliteConnection, tables: &Tables) -> Result<i64> {
    let Tables { store, log, .. } = tables;
    let pruned: i64 = sqlx::query_scalar(AssertSqlSafe(format!(
        "UPDATE ledger_stores SET pruned_through = 1 + max(pruned_through,
           coalesce((SELECT seq FROM sqlite_sequence WHERE name = '{store}_log'), 0))
         WHERE name = ?1 RETURNING pruned_through"
    )))
    .bind(store.as_str())
    .fetch_one(&mut *conn)
    .await
    .map_err(|error| failed(OPERATION, error))?;
    execute(conn, &format!("DELETE FROM {log} WHERE ?1 = ?1"), tables).await?;
    Ok(pruned)
}

/// Gives a relay that was emptied another history: a new identity and a new log. Nothing, where the
/// replica is no relay.
pub async fn forget_log(conn: &mut SqliteConnection, tables: &Tables) -> Result<()> {
    if !load(conn, &tables.store)
        .await?
        .is_some_and(|row| row.relay)
    {
        return Ok(());
    }
    begin_anew(conn, tables).await?;
    let sql = format!(
        "UPDATE ledger_stores SET uuid = '{}' WHERE name = ?1",
        Uuid::new_v4()
    );
    execute(conn, &sql, tables).await
}

/// The consumers that are registered at a store, by name.
pub async fn followers(conn: &mut SqliteConnection, store: &StoreName) -> Result<Vec<String>> {
    sqlx::query_scalar("SELECT pipeline FROM ledger_consumers WHERE store = ?1 ORDER BY pipeline")
        .bind(store.as_str())
        .fetch_all(conn)
        .await
        .map_err(|error| failed(OPERATION, error))
}

async fn refuse_followers(conn: &mut SqliteConnection, tables: &Tables) -> Result<()> {
    let followers = followers(conn, &tables.store).await?;
    if followers.is_empty() {
        return Ok(());
    }
    Err(crate::relay::followed(&tables.store, &followers))
}

async fn execute(conn: &mut SqliteConnection, sql: &str, tables: &Tables) -> Result<()> {
    sqlx::query(AssertSqlSafe(sql.to_owned()))
        .bind(tables.store.as_str())
        .execute(conn)
        .await
        .map(drop)
        .map_err(|error: sqlx::Error| -> Error { failed(OPERATION, error) })
}
