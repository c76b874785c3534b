//! The log of a replica that is a relay.

use ledger_core::{Cursor, PipelineId, Result};
use sqlx::postgres::PgPool;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection, Row as _};
use uuid::Uuid;

use super::schema::{PLAIN, RELAY};
use super::{Tables, failed, micros};
use crate::log::LogRow;
use crate::relay::{Relay, beginning, followed};

const OPERATION: &str = "keep the log of a relay";

/// Where a pipeline stands, in the caller's transaction.
pub async fn stored_in(
    conn: &mut PgConnection,
    tables: &Tables,
    pipeline: &PipelineId,
) -> Result<Option<Cursor>> {
    let sql = "SELECT cursor FROM {ledger.cursors} WHERE store = $1 AND pipeline = $2";
    let stored: Option<Option<Vec<u8>>> = sqlx::query_scalar(AssertSqlSafe(tables.sql(sql)))
        .bind(tables.store().as_str())
        .bind(pipeline.as_str())
        .fetch_optional(conn)
        .await
        .map_err(|error| failed(OPERATION, pipeline.to_string(), error))?;
    stored.flatten().map(Cursor::from_bytes).transpose()
}

/// Writes rows into the log, which are numbered in their order, in the caller's transaction.
pub async fn write_log(conn: &mut PgConnection, tables: &Tables, rows: &[LogRow]) -> Result<()> {
    if rows.is_empty() {
        return Ok(());
    }
    // An array of arrays would have to be rectangular.
    let ids = |row: &LogRow| {
        let ids: Vec<String> = row.ids.iter().map(i64::to_string).collect();
        format!("{{{}}}", ids.join(","))
    };
    let sql = tables.sql(
        "INSERT INTO {log} (at, stream_key, stream_name, name_version, kind, ids, version, body) \
         SELECT u.at, u.key, u.name, u.name_version, u.kind, u.ids::bigint[], u.version, u.body \
         FROM unnest($1::timestamptz[], $2::bigint[], $3::text[], $4::bigint[], $5::smallint[], \
         $6::text[], $7::bigint[], $8::bytea[]) WITH ORDINALITY \
         AS u(at, key, name, name_version, kind, ids, version, body, ord) ORDER BY u.ord",
    );
    let number = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
    let names = rows.iter().map(|row| row.stream.name.as_str());
    let versions = rows.iter().map(|row| number(row.stream.name_version));
    sqlx::query(AssertSqlSafe(sql))
        .bind(rows.iter().map(|row| micros(row.at)).collect::<Vec<_>>())
        .bind(
            rows.iter()
                .map(|row| number(row.stream.key.0))
                .collect::<Vec<_>>(),
        )
        .bind(names.collect::<Vec<_>>())
        .bind(versions.collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.kind).collect::<Vec<_>>())
        .bind(rows.iter().map(ids).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.version).collect::<Vec<_>>())
        .bind(
            rows.iter()
                .map(|row| row.body.as_ref())
                .collect::<Vec<&[u8]>>(),
        )
        .execute(conn)
        .await
        .map(drop)
        .map_err(|error| failed(OPERATION, format!("store {}", tables.store()), error))
}

/// Makes a replica a relay, or no relay any more. `InvalidInput` names the consumers that follow the
/// log that would end.
pub async fn set_relay(conn: &mut PgConnection, tables: &Tables, relay: Relay) -> Result<()> {
    let wanted = match relay {
        Relay::AsIs => return Ok(()),
        Relay::On => true,
        Relay::Off => false,
    };
    let failed = |error| failed(OPERATION, format!("store {}", tables.store()), error);
    let mut tx = conn.begin().await.map_err(failed)?;
    // Deliveries hold this row: those that are at work have ended, and others find what is set here.
    let sql = tables.sql(
        "SELECT schema_version = $2, pruned_through > 0 OR EXISTS (SELECT 1 FROM {streams}) \
         FROM {ledger.stores} WHERE name = $1 AND role = 'replica' FOR UPDATE",
    );
    let row = sqlx::query(AssertSqlSafe(sql))
        .bind(tables.store().as_str())
        .bind(RELAY)
        .fetch_optional(&mut *tx)
        .await
        .map_err(failed)?;
    let Some(written) = row.filter(|row| row.get::<bool, _>(0) != wanted) else {
        return Ok(());
    };
    if wanted {
        // What a replica that was never written holds is all in its log from the beginning.
        if written.get(1) {
            begin_anew(&mut tx, tables).await?;
        }
    } else {
        let followers = followers(&mut tx, tables).await?;
        if !followers.is_empty() {
            return Err(followed(tables.store(), &followers));
        }
        end_log(&mut tx, tables).await?;
    }
    let sql =
        tables.sql("UPDATE {ledger.stores} SET log = $2, schema_version = $3 WHERE name = $1");
    sqlx::query(AssertSqlSafe(sql))
        .bind(tables.store().as_str())
        .bind(wanted)
        .bind(if wanted { RELAY } else { PLAIN })
        .execute(&mut *tx)
        .await
        .map_err(failed)?;
    tx.commit().await.map_err(failed)
}

/// Ends the log and begins another one, of which no reader of the first has seen anything.
async fn begin_anew(conn: &mut PgConnection, tables: &Tables) -> Result<()> {
    end_log(conn, tables).await?;
    write_log(conn, tables, &[beginning(0)?]).await
}

/// Removes every row of the log and marks a number behind the last as pruned: who has read all of it
/// is told as well.
async fn end_log(conn: &mut PgConnection, tables: &Tables) -> Result<()> {
    for sql in [
        "TRUNCATE {log}",
        "UPDATE {ledger.stores} SET pruned_through = greatest(pruned_through, nextval('{log_seq}')) \
         WHERE name = '{store}'",
    ] {
        let sql = sql.replace("{store}", tables.store().as_str());
        sqlx::query(AssertSqlSafe(tables.sql(&sql)))
            .execute(&mut *conn)
            .await
            .map_err(|error| failed(OPERATION, format!("store {}", tables.store()), error))?;
    }
    Ok(())
}

/// Gives a relay that is emptied another history, in the caller's transaction: a new identity and a
/// new log.
pub async fn forget_log(conn: &mut PgConnection, tables: &Tables) -> Result<()> {
    begin_anew(conn, tables).await?;
    let sql = tables.sql("UPDATE {ledger.stores} SET uuid = $2 WHERE name = $1");
    sqlx::query(AssertSqlSafe(sql))
        .bind(tables.store().as_str())
        .bind(Uuid::new_v4())
        .execute(conn)
        .await
        .map(drop)
        .map_err(|error| failed(OPERATION, format!("store {}", tables.store()), error))
}

/// The consumers that are registered at a store, by name.
pub async fn followers(conn: &mut PgConnection, tables: &Tables) -> Result<Vec<String>> {
    let sql = "SELECT pipeline FROM {ledger.consumers} WHERE store = $1 ORDER BY pipeline";
    sqlx::query_scalar(AssertSqlSafe(tables.sql(sql)))
        .bind(tables.store().as_str())
        .fetch_all(conn)
        .await
        .map_err(|error| failed(OPERATION, format!("store {}", tables.store()), error))
}

/// Tells the readers of a log in all processes that something was committed. What a notice misses,
/// their poll finds, so one that cannot be sent is no error.
pub async fn notify(pool: &PgPool, channel: &str) {
    // Worth no wait for the disk.
    let notice =
        sqlx::query("SELECT set_config('synchronous_commit', 'off', true), pg_notify($1, '')");
    if let Err(error) = notice.bind(channel).execute(pool).await {
        tracing::debug!(%error, "could not wake the readers of other processes");
    }
}

/// The channel of a log's notices.
pub fn channel(tables: &Tables) -> String {
    // Channel names are cut at 63 bytes; the schema keeps stores of one name apart.
    format!("ledger_{:016x}", hash(&tables.of_store("log")))
}

/// FNV-1a: stable across versions of the program, which must agree on the channel.
fn hash(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}
