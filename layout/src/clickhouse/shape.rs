//! How tables have to look: creating them, and refusing those that look otherwise.

use clickhouse::Row;
use ledger_core::{Error, ErrorKind, Result};
use serde::Deserialize;

use super::cluster::{Cluster, Declared};
use super::{Connection, identifier};

pub(super) const OPERATION: &str = "open ClickHouse tables";

/// How a table has to look.
pub(super) struct Shape {
    /// As `engine_full` begins.
    pub(super) engine: &'static str,
    pub(super) sorting_key: &'static str,
    pub(super) columns: &'static [(&'static str, &'static str)],
    pub(super) settings: &'static [(&'static str, &'static str)],
    /// Skip indexes. They only save reading, so a table that lacks one gets it when it is opened.
    pub(super) indexes: &'static [(&'static str, &'static str)],
    /// Whether each shard of a cluster that has them holds the rows of its streams only.
    pub(super) by_stream: bool,
}

/// The engine of a replicated table without the path and the replica's name, which are the server's.
fn without_path(engine: &str) -> String {
    let Some((name, arguments)) = engine.split_once('(') else {
        return engine.to_owned();
    };
    let arguments = arguments.trim_end_matches(')').split(", ");
    let own: Vec<&str> = arguments.filter(|text| !text.starts_with('\'')).collect();
    if own.is_empty() {
        name.to_owned()
    } else {
        format!("{name}({})", own.join(", "))
    }
}

/// Creates tables where they are absent, and checks those that are there. Everything is checked before
/// anything is created: a refusal leaves no traces.
pub(super) async fn open_shapes(connection: &Connection, shapes: &[(&str, Shape)]) -> Result<()> {
    let present = check_shapes(connection, shapes).await?;
    create_shapes(connection, shapes, &present).await
}

/// Checks the tables that are there, and tells which these are.
pub(super) async fn check_shapes(
    connection: &Connection,
    shapes: &[(&str, Shape)],
) -> Result<Vec<Table>> {
    let cluster = &connection.config().cluster;
    let declared: Vec<_> = shapes
        .iter()
        .flat_map(|(name, shape)| cluster.tables(name, shape))
        .collect();
    let names: Vec<&str> = declared.iter().map(|table| table.name.as_str()).collect();
    let present = present(connection, &names).await?;
    let columns = columns(connection, &names).await?;
    for table in &declared {
        check(table, connection, &present, &columns)?;
    }
    Ok(present)
}

/// Creates the tables that are not `present`.
pub(super) async fn create_shapes(
    connection: &Connection,
    shapes: &[(&str, Shape)],
    present: &[Table],
) -> Result<()> {
    let config = connection.config();
    for (name, shape) in shapes {
        for table in config.cluster.tables(name, shape) {
            if !present.iter().any(|found| found.name == table.name) {
                let create = table.create(&config.cluster, &config.database);
                connection.execute(OPERATION, &create).await?;
            }
        }
    }
    Ok(())
}

/// Adds the indexes that a table made by an earlier version lacks. Who may not do that reads more.
pub(super) async fn add_indexes(
    connection: &Connection,
    shapes: &[(&str, Shape)],
    present: &[Table],
) {
    let cluster = &connection.config().cluster;
    for (name, shape) in shapes {
        let name = &cluster.rows_of(name, shape.by_stream);
        let on = cluster.on(shape.by_stream);
        let Some(table) = present.iter().find(|table| table.name == *name) else {
            continue;
        };
        for (index, definition) in shape.indexes {
            if table
                .create_table_query
                .contains(&format!("INDEX {index} "))
            {
                continue;
            }
            let add =
                format!("ALTER TABLE {name}{on} ADD INDEX IF NOT EXISTS {index} {definition}");
            let fill = format!("ALTER TABLE {name}{on} MATERIALIZE INDEX {index}");
            for sql in [add, fill] {
                if let Err(error) = connection.execute(OPERATION, &sql).await {
                    tracing::warn!(table = %name, index, error = %error.chain(), "no index was added");
                    break;
                }
            }
        }
    }
}

pub(super) async fn present(connection: &Connection, names: &[&str]) -> Result<Vec<Table>> {
    let query = connection
        .client()
        .query(
            "SELECT name, engine, engine_full, sorting_key, primary_key, partition_key, comment, \
             create_table_query \
             FROM system.tables WHERE database = ? AND name IN ?",
        )
        .bind(&connection.config().database)
        .bind(names);
    connection.fetch_all(OPERATION, query).await
}

pub(super) async fn columns(connection: &Connection, names: &[&str]) -> Result<Vec<Column>> {
    let query = connection
        .client()
        .query(
            "SELECT table, name, type FROM system.columns \
             WHERE database = ? AND table IN ? ORDER BY table, position",
        )
        .bind(&connection.config().database)
        .bind(names);
    connection.fetch_all(OPERATION, query).await
}

#[derive(Debug, Row, Deserialize)]
pub(super) struct Table {
    pub(super) name: String,
    pub(super) engine: String,
    engine_full: String,
    sorting_key: String,
    primary_key: String,
    partition_key: String,
    pub(super) comment: String,
    create_table_query: String,
}

#[derive(Debug, Row, Deserialize)]
pub(super) struct Column {
    table: String,
    name: String,
    r#type: String,
}

fn check(
    declared: &Declared<'_>,
    connection: &Connection,
    present: &[Table],
    columns: &[Column],
) -> Result<()> {
    let config = connection.config();
    check_as(
        declared,
        &config.cluster,
        &config.database,
        present,
        columns,
    )
}

fn check_as(
    declared: &Declared<'_>,
    cluster: &Cluster,
    database: &str,
    present: &[Table],
    columns: &[Column],
) -> Result<()> {
    let (name, shape) = (declared.name.as_str(), declared.shape);
    let Some(table) = present.iter().find(|table| table.name == name) else {
        return Ok(());
    };
    let expect = |what: &str, expected: &str, found: &str| {
        if expected == found {
            return Ok(());
        }
        Err(refuse(
            name,
            &format!("its {what} is {found:?} instead of {expected:?}"),
        ))
    };
    if let Some(rows) = &declared.distributed {
        expect(
            "engine",
            &cluster.distributed(rows, database),
            &table.engine_full,
        )?;
        return check_columns(name, shape.columns, columns);
    }
    // The engine as it was declared ends where its clauses begin.
    let engine = table
        .engine_full
        .split(" ORDER BY")
        .next()
        .unwrap_or_default();
    let engine = engine.split(" PARTITION BY").next().unwrap_or_default();
    expect("engine", &cluster.kind(shape.engine), &without_path(engine))?;
    // Newer versions keep the parentheses around a single column.
    expect(
        "sorting key",
        shape.sorting_key,
        table.sorting_key.trim_matches(['(', ')']),
    )?;
    // Where the two differ, a deletion by the sorting key reads by another one than it is sorted by.
    expect("primary key", &table.sorting_key, &table.primary_key)?;
    expect("partition key", "", &table.partition_key)?;
    check_columns(name, shape.columns, columns)?;
    let settings = table
        .engine_full
        .split(" SETTINGS ")
        .nth(1)
        .unwrap_or_default();
    for (setting, value) in shape.settings {
        let setting = &cluster.setting(setting);
        let found = settings
            .split(", ")
            .find_map(|pair| pair.split_once(" = ").filter(|(found, _)| found == setting))
            .map_or("not set", |(_, value)| value);
        expect(&format!("setting {setting}"), value, found)?;
    }
    Ok(())
}

pub(super) fn check_columns(
    table: &str,
    expected: &[(&str, &str)],
    columns: &[Column],
) -> Result<()> {
    let found: Vec<&Column> = columns
        .iter()
        .filter(|column| column.table == table)
        .collect();
    for (name, kind) in expected {
        let Some(column) = found.iter().find(|column| column.name == *name) else {
            return Err(refuse(
                table,
                &format!("its column {} is missing", identifier(name)),
            ));
        };
        if column.r#type != *kind {
            let what = format!("its column {} is {} instead of {kind}", name, column.r#type);
            return Err(refuse(table, &what));
        }
    }
    match found
        .iter()
        .find(|column| !expected.iter().any(|(name, _)| column.name == *name))
    {
        Some(other) => Err(refuse(
            table,
            &format!("its column {} is unknown", other.name),
        )),
        None => Ok(()),
    }
}

pub(super) fn refuse(table: &str, difference: &str) -> Error {
    Error::new(
        ErrorKind::InvalidInput,
        OPERATION,
        format!(
            "table {table} has another shape: {difference}; \
             nothing was changed, rename that table or choose another database"
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: Shape = Shape {
        engine: "ReplacingMergeTree(label_version)",
        sorting_key: "stream_key, id",
        columns: &[("stream_key", "UInt64"), ("id", "UInt64")],
        settings: &[
            ("non_replicated_deduplication_window", "1000"),
            ("fsync_after_insert", "1"),
        ],
        indexes: &[("by_id", "id TYPE minmax GRANULARITY 1")],
        by_stream: true,
    };

    #[test]
    fn what_loses_rows_elsewhere_is_refused() {
        let column = |name: &str| Column {
            table: "s_entries".to_owned(),
            name: name.to_owned(),
            r#type: "UInt64".to_owned(),
        };
        let columns = [column("stream_key"), column("id")];
        let table = |engine: &str, engine_full: &str, primary_key: &str| Table {
            name: "s_entries".to_owned(),
            engine: engine.to_owned(),
            engine_full: format!(
                "{engine_full} ORDER BY (stream_key, id) SETTINGS \
                 non_replicated_deduplication_window = 1000, fsync_after_insert = 1"
            ),
            sorting_key: "stream_key, id".to_owned(),
            primary_key: primary_key.to_owned(),
            partition_key: String::new(),
            comment: String::new(),
            create_table_query: String::new(),
        };
        let checked = |table: Table, cluster: &Cluster| {
            let tables = cluster.tables("s_entries", &SHAPE);
            let declared = tables.iter().find(|declared| declared.name == table.name);
            check_as(declared.unwrap(), cluster, "db", &[table], &columns)
        };
        let (alone, own) = (Cluster::default(), "ReplacingMergeTree(label_version)");
        let good = table("ReplacingMergeTree", own, "stream_key, id");
        checked(good, &alone).unwrap();
        // An insert into it is not durable when it returns, nor one block.
        let engine = "Distributed('main', 'db', 's_entries_local')";
        let distributed = table("Distributed", engine, "stream_key, id");
        let error = checked(distributed, &alone).unwrap_err().to_string();
        assert!(error.contains("engine is \"Distributed"), "{error}");
        let short = table("ReplacingMergeTree", own, "stream_key");
        let error = checked(short, &alone).unwrap_err().to_string();
        assert!(error.contains("primary key"), "{error}");
        // Nor is one that spreads its rows otherwise.
        let sharded = Cluster {
            name: Some("main".to_owned()),
            sharded: true,
            ..Cluster::default()
        };
        for (engine, fits) in [
            (
                "Distributed('main', 'db', 's_entries_shard', stream_key)",
                true,
            ),
            (
                "Distributed('main', 'other', 's_entries_shard', stream_key)",
                false,
            ),
            ("Distributed('main', 'db', 's_entries_shard')", false),
            (
                "Distributed('main', 'db', 's_entries_shard', rand())",
                false,
            ),
            (
                "Distributed('other', 'db', 's_entries_shard', stream_key)",
                false,
            ),
        ] {
            let table = Table {
                engine_full: engine.to_owned(),
                ..table("Distributed", engine, "")
            };
            assert_eq!(checked(table, &sharded).is_ok(), fits, "{engine}");
        }
        let good = table("ReplacingMergeTree", own, "stream_key, id");
        assert!(checked(good, &sharded).is_err(), "the rows of all shards");
        // One that is replicated is not taken for one that is not.
        let path = "ReplicatedReplacingMergeTree('/tables/{uuid}', '{replica}', label_version)";
        let replicated = table("ReplicatedReplacingMergeTree", path, "stream_key, id");
        assert!(checked(replicated, &alone).is_err());
    }

    #[test]
    fn the_path_of_a_replicated_table_is_the_servers() {
        let engine =
            "ReplicatedReplacingMergeTree('/t/{uuid}/{shard}', '{replica}', label_version)";
        assert_eq!(
            without_path(engine),
            "ReplicatedReplacingMergeTree(label_version)"
        );
        assert_eq!(
            without_path("ReplicatedMergeTree('/t', 'r')"),
            "ReplicatedMergeTree"
        );
        assert_eq!(without_path("MergeTree"), "MergeTree");
    }
}
