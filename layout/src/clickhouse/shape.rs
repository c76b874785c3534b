//! How tables have to look: creating them, and refusing those that look otherwise.

use clickhouse::Row;
use ledger_core::{Error, ErrorKind, Result};
use serde::Deserialize;

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

/// Creates tables where they are absent, and checks those that are there.
pub(super) async fn open_shapes(connection: &Connection, shapes: &[(&str, Shape)]) -> Result<()> {
    let names: Vec<&str> = shapes.iter().map(|(name, _)| *name).collect();
    let cluster = &connection.config().cluster;
    let present = present(connection, &names).await?;
    let columns = columns(connection, &names).await?;
    for (name, shape) in shapes {
        check(name, shape, cluster, &present, &columns)?;
    }
    for (name, shape) in shapes {
        if !present.iter().any(|table| table.name == *name) {
            connection
                .execute(OPERATION, &shape.create(name, cluster))
                .await?;
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
    let on = connection.config().cluster.clause();
    for (name, shape) in shapes {
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
                    tracing::warn!(table = name, index, error = %error.chain(), "no index was added");
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

/// How tables are spread over a cluster; one server by default.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cluster {
    /// The cluster on which tables and views are created, altered and emptied (`ON CLUSTER`).
    pub name: Option<String>,
    /// Whether tables are replicated, with the server's own path.
    pub replicated: bool,
}

impl Cluster {
    /// The clause behind the name in a statement of definition.
    pub(super) fn clause(&self) -> String {
        match &self.name {
            Some(name) => format!(" ON CLUSTER {}", identifier(name)),
            None => String::new(),
        }
    }

    fn engine(&self, engine: &str) -> String {
        if self.replicated {
            format!("Replicated{engine}")
        } else {
            engine.to_owned()
        }
    }

    fn setting(&self, name: &str) -> String {
        match name {
            "non_replicated_deduplication_window" if self.replicated => {
                "replicated_deduplication_window".to_owned()
            }
            _ => name.to_owned(),
        }
    }
}

impl Shape {
    pub(super) fn create(&self, name: &str, cluster: &Cluster) -> String {
        let list = |pairs: &[(&str, &str)], between: &str| {
            let pairs: Vec<String> = pairs
                .iter()
                .map(|(name, value)| format!("{name}{between}{value}"))
                .collect();
            pairs.join(", ")
        };
        let settings = self.settings.iter();
        let settings: Vec<String> = settings
            .map(|(name, value)| format!("{} = {value}", cluster.setting(name)))
            .collect();
        let indexes = self.indexes.iter();
        let indexes = indexes.map(|(name, what)| format!(", INDEX {name} {what}"));
        format!(
            "CREATE TABLE IF NOT EXISTS {name}{} ({}{}) ENGINE = {} ORDER BY ({}) SETTINGS {}",
            cluster.clause(),
            list(self.columns, " "),
            indexes.collect::<String>(),
            cluster.engine(self.engine),
            self.sorting_key,
            settings.join(", "),
        )
    }
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

pub(super) fn check(
    name: &str,
    shape: &Shape,
    cluster: &Cluster,
    present: &[Table],
    columns: &[Column],
) -> Result<()> {
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
    // The engine as it was declared ends where its clauses begin.
    let engine = table
        .engine_full
        .split(" ORDER BY")
        .next()
        .unwrap_or_default();
    let engine = engine.split(" PARTITION BY").next().unwrap_or_default();
    expect(
        "engine",
        &cluster.engine(shape.engine),
        &without_path(engine),
    )?;
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
    };

    #[test]
    fn one_server_has_plain_tables() {
        assert_eq!(
            SHAPE.create("s_entries", &Cluster::default()),
            "CREATE TABLE IF NOT EXISTS s_entries (stream_key UInt64, id UInt64, INDEX by_id id TYPE \
             minmax GRANULARITY 1) ENGINE = ReplacingMergeTree(label_version) ORDER BY (stream_key, \
             id) SETTINGS non_replicated_deduplication_window = 1000, fsync_after_insert = 1"
        );
    }

    #[test]
    fn a_cluster_has_replicated_tables_that_remember_tokens() {
        let cluster = Cluster {
            name: Some("main".to_owned()),
            replicated: true,
        };
        assert_eq!(
            SHAPE.create("s_entries", &cluster),
            "CREATE TABLE IF NOT EXISTS s_entries ON CLUSTER `main` (stream_key UInt64, id UInt64, \
             INDEX by_id id TYPE minmax GRANULARITY 1) ENGINE = \
             ReplicatedReplacingMergeTree(label_version) ORDER BY (stream_key, id) SETTINGS \
             replicated_deduplication_window = 1000, fsync_after_insert = 1"
        );
    }

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
        let checked =
            |table, cluster: &Cluster| check("s_entries", &SHAPE, cluster, &[table], &columns);
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
