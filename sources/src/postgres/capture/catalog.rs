//! What the database says of its tables.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use ledger_core::{Column, Error, ErrorKind, Result, Table, TableName};
use ledger_layout::postgres::failed;
use sqlx::{PgConnection, Row as _};

use super::options::{CaptureOptions, TableFilter};
use super::types::Types;
use crate::postgres::replication::{Relation, quoted};

/// A table that is carried.
#[derive(Debug, Clone)]
pub(super) struct Found {
    pub(super) table: Arc<Table>,
    /// The condition that the carried rows fulfil.
    pub(super) condition: Option<String>,
    /// Whether its rows stand in its partitions.
    pub(super) partitioned: bool,
    /// About how many rows it has, and how many bytes they take.
    pub(super) rows: u64,
    pub(super) bytes: u64,
}

impl Found {
    /// The table as SQL takes it: without the tables that inherit from it, which are carried by
    /// themselves.
    pub(super) fn sql_name(&self) -> String {
        let only = if self.partitioned { "" } else { "ONLY " };
        format!("{only}{}", sql_name(&self.table.name))
    }
}

/// The name as SQL takes it.
pub(super) fn sql_name(name: &TableName) -> String {
    format!("{}.{}", quoted(&name.schema), quoted(&name.table))
}

/// The tables that are selected, by their numbers: ordinary ones, and partitioned ones for their
/// partitions.
pub(super) async fn tables(
    conn: &mut PgConnection,
    options: &CaptureOptions,
    types: &Types,
) -> Result<BTreeMap<u32, Found>> {
    let selection = &options.tables;
    // The key is that of the replica identity. Where that is all of the row, it is the primary key;
    // a table with none is one whose rows have no key. Generated columns are not in the log before
    // version 18, so they are left out of the copy too.
    let rows = sqlx::query(
        "SELECT c.oid::int8, n.nspname::text, c.relname::text, c.relreplident::text, \
         greatest(coalesce(p.rows, c.reltuples), 0)::float8, \
         coalesce(p.bytes, pg_relation_size(c.oid))::int8, \
         a.attname::text, a.atttypid::int8, a.atttypmod, format_type(a.atttypid, a.atttypmod), \
         k.indkey IS NOT NULL \
         AND a.attnum = ANY((k.indkey::int2[])[0:k.indnkeyatts - 1]), \
         c.relkind = 'p' FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
         JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped \
         AND a.attgenerated = '' \
         LEFT JOIN pg_index k ON k.indrelid = c.oid AND CASE c.relreplident \
           WHEN 'i' THEN k.indisreplident WHEN 'n' THEN false ELSE k.indisprimary END \
         AND k.indimmediate AND k.indisvalid \
         LEFT JOIN LATERAL (SELECT sum(greatest(l.reltuples, 0)) AS rows, \
           sum(pg_relation_size(l.oid)) AS bytes FROM pg_partition_tree(c.oid) t \
           JOIN pg_class l ON l.oid = t.relid WHERE t.isleaf) p ON c.relkind = 'p' \
         WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition AND c.relpersistence = 'p' \
         AND n.nspname NOT IN ('pg_catalog', 'information_schema') \
         AND n.nspname NOT LIKE 'pg\\_toast%' \
         ORDER BY c.oid, a.attnum",
    )
    .fetch_all(conn)
    .await
    .map_err(|error| failed("list tables", selection.to_string(), error))?;
    let mut found: BTreeMap<u32, Found> = BTreeMap::new();
    for row in &rows {
        let name = TableName::new(row.get::<&str, _>(1), row.get::<&str, _>(2));
        if !selection.holds(&name) {
            continue;
        }
        let id = number(row.get(0));
        let filter = options.filters.get(&name);
        let bytes = row.get::<i64, _>(5).max(0).cast_unsigned();
        let entry = found.entry(id).or_insert_with(|| Found {
            table: Arc::new(Table {
                id: u64::from(id),
                name,
                columns: Vec::new(),
                full_identity: row.get::<&str, _>(3) == "f",
            }),
            condition: filter.and_then(|filter| filter.rows.clone()),
            partitioned: row.get(11),
            rows: rows_of(row.get(4), bytes),
            bytes,
        });
        let key: bool = row.get(10);
        if excluded(filter, &entry.table.name, row.get(6), key)? {
            continue;
        }
        let column = Column {
            name: row.get(6),
            kind: types.column(number(row.get(7)), row.get(8)),
            key,
            nullable: !key,
            declared: row.get(9),
        };
        Arc::make_mut(&mut entry.table).columns.push(column);
    }
    Ok(found)
}

/// Whether a column is not carried; `InvalidInput` for one of the key.
fn excluded(
    filter: Option<&TableFilter>,
    table: &TableName,
    column: &str,
    key: bool,
) -> Result<bool> {
    let excluded = filter.is_some_and(|filter| filter.exclude.contains(column));
    if excluded && key {
        return Err(Error::invalid(
            "select columns",
            format!("column {table}.{column} is a part of the key and cannot be left out"),
        ));
    }
    Ok(excluded)
}

fn number(number: i64) -> u32 {
    u32::try_from(number).unwrap_or_default()
}

/// About how many rows there are: what the server's statistics say, or, without any, what fits.
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "an estimate"
)]
fn rows_of(estimate: f64, bytes: u64) -> u64 {
    const USUAL: u64 = 100;
    match estimate as u64 {
        0 => bytes / USUAL,
        rows => rows,
    }
}

/// The table that a message of the log describes. What the log does not tell is asked for: the names
/// of the types, and the key of a table whose identity is all of its row.
pub(super) async fn described(
    conn: &mut PgConnection,
    relation: &Relation,
    filter: Option<&TableFilter>,
    types: &mut Types,
) -> Result<Arc<Table>> {
    const OPERATION: &str = "read the shape of a table";
    let name = TableName::new(&relation.schema, &relation.table);
    let failed = |error| failed(OPERATION, name.to_string(), error);
    if relation.columns.iter().any(|c| !types.knows(c.kind)) {
        *types = Types::load(conn).await?;
    }
    let full = relation.identity == b'f';
    let primary: Vec<String> = if full {
        sqlx::query_scalar(
            "SELECT a.attname::text FROM pg_index k JOIN pg_attribute a \
             ON a.attrelid = k.indrelid \
             AND a.attnum = ANY((k.indkey::int2[])[0:k.indnkeyatts - 1]) \
             WHERE k.indrelid = $1::int8::oid AND k.indisprimary \
             AND k.indimmediate AND k.indisvalid",
        )
        .bind(i64::from(relation.id))
        .fetch_all(&mut *conn)
        .await
        .map_err(failed)?
    } else {
        Vec::new()
    };
    let kinds: Vec<i64> = relation.columns.iter().map(|c| i64::from(c.kind)).collect();
    let modifiers: Vec<i32> = relation.columns.iter().map(|c| c.modifier).collect();
    let declared: Vec<String> = sqlx::query_scalar(
        "SELECT format_type(t.kind::oid, t.modifier) \
         FROM unnest($1::int8[], $2::int4[]) WITH ORDINALITY AS t (kind, modifier, place) \
         ORDER BY t.place",
    )
    .bind(kinds)
    .bind(modifiers)
    .fetch_all(&mut *conn)
    .await
    .map_err(failed)?;
    let mut columns = Vec::new();
    for (column, declared) in relation.columns.iter().zip(declared) {
        let key = match relation.identity {
            b'f' => primary.contains(&column.name),
            b'n' => false,
            _ => column.key,
        };
        if excluded(filter, &name, &column.name, key)? {
            continue;
        }
        columns.push(Column {
            name: column.name.clone(),
            kind: types.column(column.kind, column.modifier),
            key,
            nullable: !key,
            declared,
        });
    }
    Ok(Arc::new(Table {
        id: u64::from(relation.id),
        columns,
        name,
        full_identity: full,
    }))
}

/// Of these columns of a table, those that rows of before have another value in than NULL although
/// no row was written: the default that they were added with.
pub(super) async fn filled_at_once(
    conn: &mut PgConnection,
    table: &Table,
    added: &[&str],
) -> Result<bool> {
    // Without `atthasmissing` the default was computed for each row, and the table written anew.
    let filled: Option<bool> = sqlx::query_scalar(
        "SELECT bool_or(a.atthasmissing OR a.atthasdef OR a.attidentity <> '') \
         FROM pg_attribute a WHERE a.attrelid = $1::int8::oid AND a.attname = ANY($2::text[]) \
         AND NOT a.attisdropped",
    )
    .bind(table.id.cast_signed())
    .bind(added)
    .fetch_one(conn)
    .await
    .map_err(|error| failed("read the shape of a table", table.name.to_string(), error))?;
    Ok(filled.unwrap_or(false))
}

/// What must be right at the server, each with what mends it.
pub(super) async fn check_server(conn: &mut PgConnection) -> Result<()> {
    const OPERATION: &str = "capture tables";
    let row = sqlx::query(
        "SELECT current_setting('server_version_num')::int, current_setting('wal_level'), \
         pg_is_in_recovery(), current_setting('server_encoding'), \
         (SELECT rolreplication OR rolsuper FROM pg_roles WHERE rolname = current_user), \
         current_user::text",
    )
    .fetch_one(conn)
    .await
    .map_err(|error| failed(OPERATION, "", error))?;
    let refused = |what: String| Err(Error::new(ErrorKind::Unsupported, OPERATION, what));
    let (version, level): (i32, String) = (row.get(0), row.get(1));
    if version < 130_000 {
        let version = version / 10_000;
        return refused(format!(
            "PostgreSQL 13 or newer is needed, this is {version}"
        ));
    }
    if level != "logical" {
        return refused(format!(
            "wal_level is {level}; run ALTER SYSTEM SET wal_level = 'logical' and restart the server"
        ));
    }
    if row.get(2) {
        return refused("the server is a standby; name the primary".to_owned());
    }
    let encoding: String = row.get(3);
    if encoding != "UTF8" {
        return refused(format!(
            "the database's encoding must be UTF8, it is {encoding}"
        ));
    }
    if row.get::<Option<bool>, _>(4) != Some(true) {
        let user: String = row.get(5);
        return refused(format!(
            "user {user} may not replicate; run ALTER ROLE {} REPLICATION",
            quoted(&user)
        ));
    }
    Ok(())
}

/// What the log calls the columns, with their places in the carried table; for tables of which not
/// every column is carried.
pub(super) fn places(relation: &Relation, table: &Table) -> Vec<Option<usize>> {
    let names: HashMap<&str, usize> = relation
        .columns
        .iter()
        .enumerate()
        .map(|(place, column)| (column.name.as_str(), place))
        .collect();
    let place = |column: &Column| names.get(column.name.as_str()).copied();
    table.columns.iter().map(place).collect()
}
