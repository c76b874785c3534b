//! How tables are spread over the servers of a cluster.

use super::identifier;
use super::shape::Shape;

/// The replica's name in a table that all servers of a cluster hold whole.
const EVERYWHERE: &str = "'/clickhouse/tables/{uuid}/all', '{shard}-{replica}'";

const REPLICATED_WINDOW: &str = "replicated_deduplication_window";
/// How long Keeper remembers a token, however few came since: a week. The default is an hour in newer
/// versions.
const WINDOW_SECONDS: u32 = 604_800;

/// How tables are spread over a cluster; one server by default.
///
/// With shards, entries and labels are held by the shard of their stream: each shard has the table
/// `..._shard`, and the table that is read and written is a `Distributed` one over these, by
/// `stream_key`. What else there is (names and versions of streams, the log, cursors) every server
/// holds whole where tables are replicated, and else the one server that is connected to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cluster {
    /// The cluster on which tables and views are created, altered and emptied (`ON CLUSTER`).
    pub name: Option<String>,
    /// Whether tables are replicated, with the server's own path.
    pub replicated: bool,
    /// Whether entries and labels are spread over the cluster's shards by their stream.
    pub sharded: bool,
}

/// A table as it has to be.
pub(super) struct Declared<'a> {
    pub(super) name: String,
    pub(super) shape: &'a Shape,
    /// The table that holds its rows, where it holds none itself.
    pub(super) distributed: Option<String>,
}

impl Cluster {
    /// The clause behind the name in a statement of definition.
    pub(super) fn clause(&self) -> String {
        match &self.name {
            Some(name) => format!(" ON CLUSTER {}", identifier(name)),
            None => String::new(),
        }
    }

    /// The same for a table that is spread by stream, or held whole.
    pub(super) fn on(&self, by_stream: bool) -> String {
        if by_stream || self.replicated {
            self.clause()
        } else {
            // Each server would hold rows of its own.
            String::new()
        }
    }

    /// The name of the table that holds the rows of this one.
    pub(super) fn rows_of(&self, table: &str, by_stream: bool) -> String {
        if self.sharded && by_stream {
            format!("{table}_shard")
        } else {
            table.to_owned()
        }
    }

    /// The tables that stand for one of a single server, in the order in which they are made.
    pub(super) fn tables<'a>(&self, name: &str, shape: &'a Shape) -> Vec<Declared<'a>> {
        let rows = self.rows_of(name, shape.by_stream);
        let mut tables = vec![Declared {
            name: rows.clone(),
            shape,
            distributed: None,
        }];
        if rows != name {
            tables.push(Declared {
                name: name.to_owned(),
                shape,
                distributed: Some(rows),
            });
        }
        tables
    }

    /// The engine of a table, without a path.
    pub(super) fn kind(&self, engine: &str) -> String {
        if self.replicated {
            format!("Replicated{engine}")
        } else {
            engine.to_owned()
        }
    }

    fn engine(&self, shape: &Shape) -> String {
        let kind = self.kind(shape.engine);
        if !self.replicated || !self.sharded || shape.by_stream {
            return kind;
        }
        // The server's own path is that of one shard.
        match kind.trim_end_matches(')').split_once('(') {
            Some((name, arguments)) => format!("{name}({EVERYWHERE}, {arguments})"),
            None => format!("{kind}({EVERYWHERE})"),
        }
    }

    /// The engine of a table over the shards.
    pub(super) fn distributed(&self, rows: &str, database: &str) -> String {
        let name = self.name.as_deref().unwrap_or_default();
        format!("Distributed('{name}', '{database}', '{rows}', stream_key)")
    }

    pub(super) fn setting(&self, name: &str) -> String {
        match name {
            "non_replicated_deduplication_window" if self.replicated => {
                REPLICATED_WINDOW.to_owned()
            }
            _ => name.to_owned(),
        }
    }
}

impl Declared<'_> {
    /// The statement that makes it.
    pub(super) fn create(&self, cluster: &Cluster, database: &str) -> String {
        let list = |pairs: &[(&str, &str)], between: &str| {
            let pairs: Vec<String> = pairs
                .iter()
                .map(|(name, value)| format!("{name}{between}{value}"))
                .collect();
            pairs.join(", ")
        };
        let (name, shape) = (&self.name, self.shape);
        let (on, columns) = (cluster.on(shape.by_stream), list(shape.columns, " "));
        if let Some(rows) = &self.distributed {
            let engine = cluster.distributed(rows, database);
            return format!("CREATE TABLE IF NOT EXISTS {name}{on} ({columns}) ENGINE = {engine}");
        }
        let settings = shape.settings.iter();
        let mut settings: Vec<String> = settings
            .map(|(name, value)| format!("{} = {value}", cluster.setting(name)))
            .collect();
        if settings
            .iter()
            .any(|set| set.starts_with(REPLICATED_WINDOW))
        {
            settings.push(format!("{REPLICATED_WINDOW}_seconds = {WINDOW_SECONDS}"));
        }
        let indexes = shape.indexes.iter();
        let indexes = indexes.map(|(name, what)| format!(", INDEX {name} {what}"));
        format!(
            "CREATE TABLE IF NOT EXISTS {name}{on} ({columns}{}) ENGINE = {} ORDER BY ({}) \
             SETTINGS {}",
            indexes.collect::<String>(),
            cluster.engine(shape),
            shape.sorting_key,
            settings.join(", "),
        )
    }
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

    fn created(cluster: &Cluster, shape: &Shape) -> Vec<String> {
        let tables = cluster.tables("s_entries", shape);
        tables
            .iter()
            .map(|table| table.create(cluster, "db"))
            .collect()
    }

    fn main(replicated: bool, sharded: bool) -> Cluster {
        Cluster {
            name: Some("main".to_owned()),
            replicated,
            sharded,
        }
    }

    #[test]
    fn one_server_has_plain_tables() {
        assert_eq!(
            created(&Cluster::default(), &SHAPE),
            [
                "CREATE TABLE IF NOT EXISTS s_entries (stream_key UInt64, id UInt64, INDEX by_id id \
                 TYPE minmax GRANULARITY 1) ENGINE = ReplacingMergeTree(label_version) ORDER BY \
                 (stream_key, id) SETTINGS non_replicated_deduplication_window = 1000, \
                 fsync_after_insert = 1"
            ]
        );
    }

    #[test]
    fn a_cluster_has_replicated_tables_that_remember_tokens() {
        assert_eq!(
            created(&main(true, false), &SHAPE),
            [
                "CREATE TABLE IF NOT EXISTS s_entries ON CLUSTER `main` (stream_key UInt64, id \
                 UInt64, INDEX by_id id TYPE minmax GRANULARITY 1) ENGINE = \
                 ReplicatedReplacingMergeTree(label_version) ORDER BY (stream_key, id) SETTINGS \
                 replicated_deduplication_window = 1000, fsync_after_insert = 1, \
                 replicated_deduplication_window_seconds = 604800"
            ]
        );
    }

    #[test]
    fn shards_hold_the_rows_of_their_streams() {
        assert_eq!(
            created(&main(true, true), &SHAPE),
            [
                "CREATE TABLE IF NOT EXISTS s_entries_shard ON CLUSTER `main` (stream_key UInt64, id \
                 UInt64, INDEX by_id id TYPE minmax GRANULARITY 1) ENGINE = \
                 ReplicatedReplacingMergeTree(label_version) ORDER BY (stream_key, id) SETTINGS \
                 replicated_deduplication_window = 1000, fsync_after_insert = 1, \
                 replicated_deduplication_window_seconds = 604800",
                "CREATE TABLE IF NOT EXISTS s_entries ON CLUSTER `main` (stream_key UInt64, id \
                 UInt64) ENGINE = Distributed('main', 'db', 's_entries_shard', stream_key)",
            ]
        );
    }

    #[test]
    fn what_is_whole_is_on_every_server_or_on_one() {
        let whole = |engine| Shape {
            engine,
            by_stream: false,
            indexes: &[],
            ..SHAPE
        };
        let engine = |cluster: &Cluster, shape: &Shape| {
            let created = created(cluster, shape);
            assert_eq!(created.len(), 1);
            let (before, after) = created[0].split_once(" ENGINE = ").unwrap();
            let on = before.contains("ON CLUSTER");
            let (engine, _) = after.split_once(" ORDER BY").unwrap();
            (on, engine.to_owned())
        };
        let (plain, merging) = (
            whole("MergeTree"),
            whole("ReplacingMergeTree(label_version)"),
        );
        assert_eq!(
            engine(&main(true, true), &plain),
            (
                true,
                "ReplicatedMergeTree('/clickhouse/tables/{uuid}/all', '{shard}-{replica}')".into()
            )
        );
        assert_eq!(
            engine(&main(true, true), &merging),
            (
                true,
                "ReplicatedReplacingMergeTree('/clickhouse/tables/{uuid}/all', \
                 '{shard}-{replica}', label_version)"
                    .into()
            )
        );
        assert_eq!(
            engine(&main(false, true), &plain),
            (false, "MergeTree".into())
        );
    }
}
