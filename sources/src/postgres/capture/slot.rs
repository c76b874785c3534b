//! Replication slots and publications: made, checked, and dropped when that is asked for.

use std::collections::BTreeMap;

use ledger_core::{Error, ErrorKind, PipelineId, Result, Table};
use ledger_layout::postgres::failed;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection, Postgres, Row as _, Transaction};
use xxhash_rust::xxh3::xxh3_64;

use super::catalog::{Found, sql_name};
use crate::postgres::replication::{literal, parsed, quoted, shown};

/// The longest name that PostgreSQL keeps whole.
const LONGEST: usize = 63;

/// The name of what belongs to a pipeline: its own, where that can stand, and else one that a digest
/// keeps apart from others.
pub(super) fn own_name(pipeline: &PipelineId, suffix: &str) -> String {
    let plain: String = pipeline
        .as_str()
        .chars()
        .map(|c| match c {
            'a'..='z' | '0'..='9' | '_' => c,
            'A'..='Z' => c.to_ascii_lowercase(),
            _ => '_',
        })
        .collect();
    let room = LONGEST - "ledger__0123456789abcdef".len() - suffix.len();
    // One that ends like the second publication of another would be taken for it.
    if plain == pipeline.as_str() && plain.len() <= room && !plain.ends_with("_inserts") {
        return format!("ledger_{plain}{suffix}");
    }
    let digest = xxh3_64(pipeline.as_str().as_bytes());
    let start: String = plain.chars().take(room).collect();
    format!("ledger_{start}_{digest:016x}{suffix}")
}

/// What the server says of a slot.
#[derive(Debug, Clone)]
pub(in crate::postgres) struct Slot {
    /// Up to where its reader has confirmed.
    pub(in crate::postgres) confirmed: u64,
    /// How many bytes may still be written before it is invalidated, where there is a bound.
    pub(in crate::postgres) left: Option<i64>,
    /// How many bytes of the log it holds back.
    pub(in crate::postgres) held: i64,
    /// Whether what it needs is gone.
    pub(in crate::postgres) lost: bool,
}

/// The slot, where there is one of this name. Refused: one of another database or plugin.
pub(in crate::postgres) async fn find(conn: &mut PgConnection, name: &str) -> Result<Option<Slot>> {
    const OPERATION: &str = "read replication slot";
    let row = sqlx::query(
        "SELECT coalesce(plugin, '') = 'pgoutput' AND coalesce(database, '') = current_database(), \
         confirmed_flush_lsn::text, wal_status, safe_wal_size, \
         pg_wal_lsn_diff(pg_current_wal_insert_lsn(), restart_lsn)::int8 \
         FROM pg_replication_slots WHERE slot_name = $1",
    )
    .bind(name)
    .fetch_optional(conn)
    .await
    .map_err(|error| failed(OPERATION, format!("slot {name}"), error))?;
    let Some(row) = row else {
        return Ok(None);
    };
    if !row.get::<bool, _>(0) {
        return Err(Error::new(
            ErrorKind::AlreadyExists,
            OPERATION,
            format!("slot {name} is not one of this database with the plugin pgoutput"),
        ));
    }
    let (confirmed, status): (Option<String>, Option<String>) = (row.get(1), row.get(2));
    Ok(Some(Slot {
        confirmed: confirmed.map_or(Ok(0), |text| parsed(&text))?,
        left: row.get(3),
        held: row.get::<Option<i64>, _>(4).unwrap_or(0),
        lost: status.as_deref() == Some("lost"),
    }))
}

/// Makes the slot, and tells the position from which on it gives every transaction. It waits for the
/// transactions that are running. On version 17 and newer the slot is carried over to standbys.
pub(in crate::postgres) async fn create(
    conn: &mut PgConnection,
    name: &str,
    lasting: bool,
) -> Result<u64> {
    const OPERATION: &str = "create replication slot";
    let failed = |error| failed(OPERATION, format!("slot {name}"), error);
    let version: i32 = sqlx::query_scalar("SELECT current_setting('server_version_num')::int")
        .fetch_one(&mut *conn)
        .await
        .map_err(failed)?;
    let options = match (lasting, version >= 170_000) {
        (false, _) => ", true",
        (true, true) => ", false, false, true",
        (true, false) => "",
    };
    let sql = format!(
        "SELECT lsn::text FROM pg_create_logical_replication_slot({}, 'pgoutput'{options})",
        literal(name)
    );
    let lsn: String = sqlx::query_scalar(AssertSqlSafe(sql))
        .fetch_one(conn)
        .await
        .map_err(|error| match &error {
            // `configuration_limit_exceeded`
            sqlx::Error::Database(cause) if cause.code().as_deref() == Some("53400") => failed(
                error,
            )
            .within(
                "all slots are in use; raise max_replication_slots, or drop one that nobody needs",
            ),
            _ => failed(error),
        })?;
    parsed(&lsn)
}

/// Drops the slot, where there is one; `Unavailable` while somebody reads it.
pub(in crate::postgres) async fn drop_slot(conn: &mut PgConnection, name: &str) -> Result<()> {
    let dropped = sqlx::query(
        "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots \
         WHERE slot_name = $1",
    )
    .bind(name)
    .execute(conn)
    .await;
    match dropped {
        Ok(_) => Ok(()),
        // `object_in_use`: the connection before has not ended yet.
        Err(sqlx::Error::Database(error)) if error.code().as_deref() == Some("55006") => {
            Err(Error::new(
                ErrorKind::Unavailable,
                "drop replication slot",
                format!("slot {name} is being read"),
            )
            .with_source(error.to_string()))
        }
        Err(error) => Err(failed(
            "drop replication slot",
            format!("slot {name}"),
            error,
        )),
    }
}

/// Checks that a slot still gives everything behind `from`.
pub(super) fn check(name: &str, slot: Option<&Slot>, from: u64) -> Result<()> {
    const RESYNC: &str = "changes are lost; copy the tables anew with \
                          `ledger bridge run --resync`, or `ledger bridge resync` of the daemon";
    let expired = |what: String| {
        Err(Error::new(
            ErrorKind::CursorExpired,
            "read the write-ahead log",
            format!("{what}: {RESYNC}"),
        ))
    };
    match slot {
        None => expired(format!("slot {name} is gone")),
        Some(slot) if slot.lost => expired(format!(
            "slot {name} was invalidated, as it held back more than max_slot_wal_keep_size"
        )),
        Some(slot) if slot.confirmed > from => expired(format!(
            "slot {name} stands at {}, and this bridge at {}: somebody else has moved it",
            shown(slot.confirmed),
            shown(from)
        )),
        Some(_) => Ok(()),
    }
}

/// What a publication that Ledger keeps tells of its tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Publishes {
    /// Everything.
    All,
    /// Inserts and truncates: of tables without a key, to which PostgreSQL would else refuse its
    /// users' updates and deletes.
    Inserts,
}

/// A publication as it is to be, not committed yet.
pub(super) struct Published<'c> {
    tx: Transaction<'c, Postgres>,
    /// Tables that were told under another condition until now: what they held goes by the old one.
    pub(super) filtered_anew: Vec<i64>,
}

impl Published<'_> {
    pub(super) async fn commit(self) -> Result<()> {
        let done = self.tx.commit().await;
        done.map_err(|error| failed("publish tables", "", error))
    }
}

/// The conditions of a publication's tables, as the server writes them; for version 15 and newer.
async fn conditions(conn: &mut PgConnection, name: &str) -> Result<BTreeMap<i64, Option<String>>> {
    let rows: Vec<(i64, Option<String>)> = sqlx::query_as(
        "SELECT r.prrelid::int8, pg_get_expr(r.prqual, r.prrelid) FROM pg_publication_rel r \
         JOIN pg_publication p ON p.oid = r.prpubid WHERE p.pubname = $1",
    )
    .bind(name)
    .fetch_all(conn)
    .await
    .map_err(|error| failed("publish tables", format!("publication {name}"), error))?;
    Ok(rows.into_iter().collect())
}

/// Makes the publication, or changes it, so that it holds exactly these tables.
pub(super) async fn publish<'c>(
    conn: &'c mut PgConnection,
    name: &str,
    publishes: Publishes,
    tables: &[&Found],
) -> Result<Published<'c>> {
    const OPERATION: &str = "publish tables";
    let failed = |error| {
        failed(OPERATION, format!("publication {name}"), error)
            .within("the user must own the tables and may create publications")
    };
    let mut wanted: Vec<(i64, String)> = tables
        .iter()
        .map(|found| {
            let condition = found.condition.as_ref();
            let rows = condition.map_or_else(String::new, |rows| format!(" WHERE ({rows})"));
            let listed = format!("{}{rows}", found.sql_name());
            (found.table.id.cast_signed(), listed)
        })
        .collect();
    wanted.sort();
    let filtered = tables.iter().any(|found| found.condition.is_some());
    let listed: Vec<_> = wanted.iter().map(|(_, listed)| listed.as_str()).collect();
    let listed = listed.join(", ");
    let mut tx = conn.begin().await.map_err(failed)?;
    let exists: bool =
        sqlx::query_scalar("SELECT EXISTS (SELECT FROM pg_publication WHERE pubname = $1)")
            .bind(name)
            .fetch_one(&mut *tx)
            .await
            .map_err(failed)?;
    let present: Vec<i64> = sqlx::query_scalar(
        "SELECT r.prrelid::int8 FROM pg_publication_rel r JOIN pg_publication p \
         ON p.oid = r.prpubid WHERE p.pubname = $1 ORDER BY 1",
    )
    .bind(name)
    .fetch_all(&mut *tx)
    .await
    .map_err(failed)?;
    // Filters of before: that of version 13 has none.
    let was_filtered: bool = sqlx::query_scalar(
        "SELECT coalesce(bool_or(to_jsonb(r) ->> 'prqual' IS NOT NULL \
         OR to_jsonb(r) ->> 'prattrs' IS NOT NULL), false) FROM pg_publication_rel r \
         JOIN pg_publication p ON p.oid = r.prpubid WHERE p.pubname = $1",
    )
    .bind(name)
    .fetch_one(&mut *tx)
    .await
    .map_err(failed)?;
    let unfiltered = !filtered && !was_filtered;
    let same = unfiltered && wanted.iter().map(|(id, _)| id).eq(present.iter());
    let statement = match (exists, listed.as_str()) {
        (true, _) if same => {
            let filtered_anew = Vec::new();
            return Ok(Published { tx, filtered_anew });
        }
        // A publication of no tables cannot be set to that.
        (true, "") => format!("DROP PUBLICATION {}", quoted(name)),
        (true, listed) => format!("ALTER PUBLICATION {} SET TABLE {listed}", quoted(name)),
        (false, _) => String::new(),
    };
    let before = if filtered || was_filtered {
        conditions(&mut tx, name).await?
    } else {
        BTreeMap::new()
    };
    if !statement.is_empty() {
        let done = sqlx::query(AssertSqlSafe(statement)).execute(&mut *tx);
        done.await.map_err(failed)?;
    }
    if !exists || listed.is_empty() {
        let what = match publishes {
            Publishes::All => "insert, update, delete, truncate",
            Publishes::Inserts => "insert, truncate",
        };
        let of = match listed.as_str() {
            "" => String::new(),
            listed => format!(" FOR TABLE {listed}"),
        };
        let statement = format!(
            "CREATE PUBLICATION {}{of} \
             WITH (publish = '{what}', publish_via_partition_root = true)",
            quoted(name)
        );
        let done = sqlx::query(AssertSqlSafe(statement)).execute(&mut *tx);
        done.await.map_err(failed)?;
    }
    if filtered && publishes == Publishes::All {
        check_conditions(&mut tx, name, tables).await?;
    }
    let mut filtered_anew = Vec::new();
    if !before.is_empty() {
        let now = conditions(&mut tx, name).await?;
        let other = |(id, condition): (i64, Option<String>)| {
            now.get(&id)
                .is_some_and(|now| *now != condition)
                .then_some(id)
        };
        filtered_anew = before.into_iter().filter_map(other).collect();
    }
    Ok(Published { tx, filtered_anew })
}

/// Refuses a condition on a column that is no part of the replica identity: PostgreSQL would refuse
/// every update and delete of such a table.
async fn check_conditions(conn: &mut PgConnection, name: &str, tables: &[&Found]) -> Result<()> {
    const OPERATION: &str = "publish tables";
    let named: Vec<(i64, String)> = sqlx::query_as(
        "SELECT r.prrelid::int8, a.attname::text FROM pg_publication p \
         JOIN pg_publication_rel r ON r.prpubid = p.oid \
         JOIN pg_depend d ON d.classid = 'pg_publication_rel'::regclass AND d.objid = r.oid \
         AND d.refclassid = 'pg_class'::regclass AND d.refobjid = r.prrelid AND d.refobjsubid > 0 \
         JOIN pg_attribute a ON a.attrelid = r.prrelid AND a.attnum = d.refobjsubid \
         WHERE p.pubname = $1",
    )
    .bind(name)
    .fetch_all(conn)
    .await
    .map_err(|error| failed(OPERATION, format!("publication {name}"), error))?;
    for (id, column) in named {
        let of = tables
            .iter()
            .find(|found| found.table.id.cast_signed() == id);
        let Some(table) = of.map(|found| &found.table) else {
            continue;
        };
        let key = table.columns.iter().any(|c| c.key && c.name == column);
        if !key && !table.full_identity {
            return Err(Error::invalid(
                OPERATION,
                format!(
                    "the condition on {} names column {column}, which is no part of its replica \
                     identity: PostgreSQL would refuse its updates; run ALTER TABLE {} REPLICA \
                     IDENTITY FULL, or use columns of the key only",
                    table.name,
                    sql_name(&table.name)
                ),
            ));
        }
    }
    Ok(())
}

/// Checks that a publication that somebody else keeps holds these tables.
pub(super) async fn check_publication(
    conn: &mut PgConnection,
    name: &str,
    tables: &[&Table],
) -> Result<()> {
    const OPERATION: &str = "check publication";
    let failed = |error| failed(OPERATION, format!("publication {name}"), error);
    let found: Option<(bool, bool)> = sqlx::query_as(
        "SELECT pubviaroot, pubinsert AND pubupdate AND pubdelete AND pubtruncate \
         FROM pg_publication WHERE pubname = $1",
    )
    .bind(name)
    .fetch_optional(&mut *conn)
    .await
    .map_err(failed)?;
    let Some((root, whole)) = found else {
        return Err(Error::new(
            ErrorKind::NotFound,
            OPERATION,
            format!("there is no publication {name}; create it, or leave the name out"),
        ));
    };
    if !whole && tables.iter().any(|table| table.is_keyed()) {
        return Err(Error::invalid(
            OPERATION,
            format!(
                "publication {name} does not tell every kind of change; run ALTER PUBLICATION {} \
                 SET (publish = 'insert, update, delete, truncate')",
                quoted(name)
            ),
        ));
    }
    let ids: Vec<i64> = tables.iter().map(|table| table.id.cast_signed()).collect();
    let missing: Vec<String> = sqlx::query_scalar(
        "SELECT t.id::oid::regclass::text FROM unnest($2::int8[]) AS t (id) \
         JOIN pg_class c ON c.oid = t.id::oid JOIN pg_namespace n ON n.oid = c.relnamespace \
         WHERE NOT EXISTS (SELECT FROM pg_publication_tables p WHERE p.pubname = $1 \
         AND p.schemaname = n.nspname AND p.tablename = c.relname)",
    )
    .bind(name)
    .bind(ids)
    .fetch_all(&mut *conn)
    .await
    .map_err(failed)?;
    if missing.is_empty() {
        return Ok(());
    }
    let hint = if root {
        ""
    } else {
        " (a partitioned table needs publish_via_partition_root = true)"
    };
    Err(Error::invalid(
        OPERATION,
        format!(
            "publication {name} does not hold {}{hint}; run ALTER PUBLICATION {} ADD TABLE {}",
            missing.join(", "),
            quoted(name),
            missing.join(", ")
        ),
    ))
}

/// Drops the publications, where there are any.
pub(super) async fn drop_publications(conn: &mut PgConnection, names: &[String]) -> Result<()> {
    for name in names {
        let sql = format!("DROP PUBLICATION IF EXISTS {}", quoted(name));
        let dropped = sqlx::query(AssertSqlSafe(sql)).execute(&mut *conn).await;
        dropped.map_err(|error| failed("drop publication", name.clone(), error))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slot(confirmed: u64) -> Slot {
        Slot {
            confirmed,
            left: None,
            held: 0,
            lost: false,
        }
    }

    #[test]
    fn a_pipelines_own_name_can_stand_and_is_no_other_pipelines() {
        let of = |name: &str| own_name(&PipelineId::new(name).unwrap(), "_inserts");
        assert_eq!(of("orders"), "ledger_orders_inserts");
        let long = "x".repeat(100);
        let names = [of("a-b"), of("a_b"), of("A_b"), of("a.b"), of(&long)];
        for name in &names {
            assert!(name.len() <= LONGEST, "{name}");
            let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
            assert!(name.chars().all(fits), "{name}");
        }
        let distinct: std::collections::BTreeSet<_> = names.iter().collect();
        assert_eq!(distinct.len(), names.len());
    }

    #[test]
    fn a_slot_that_is_gone_lost_or_moved_is_never_read_from_where_it_stands() {
        for slot in [
            None,
            Some(slot(8)),
            Some(Slot {
                lost: true,
                ..slot(1)
            }),
        ] {
            let error = check("s", slot.as_ref(), 7).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::CursorExpired);
            assert!(error.to_string().contains("resync"), "{error}");
        }
        assert!(check("s", Some(&slot(7)), 7).is_ok());
    }
}
