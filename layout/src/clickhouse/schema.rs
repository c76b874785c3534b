//! The tables and the view: creating them where they are absent, refusing those of another shape.

use ledger_core::{Result, StoreName};

use super::Connection;
use super::cluster::Cluster;
use super::shape::{
    Column, OPERATION, Shape, Table, add_indexes, check_columns, check_shapes, columns,
    create_shapes, open_shapes, present as present_tables, refuse,
};

/// The version of this layout; the view's comment carries it.
pub const LAYOUT_VERSION: u32 = 1;

/// What marks a view as ours; the version follows.
const COMMENT: &str = "ledger layout ";

// A MergeTree does not sync by default, so that an acknowledged insert could be lost with the
// machine. The window makes insert tokens work, which a table without replicas has off.
const DATA_SETTINGS: &[(&str, &str)] = &[
    ("non_replicated_deduplication_window", "1000"),
    ("fsync_after_insert", "1"),
    ("fsync_part_directory", "1"),
];

// No window: a cursor row that repeats an earlier one is written, not dropped.
pub(super) const STATE_SETTINGS: &[(&str, &str)] =
    &[("fsync_after_insert", "1"), ("fsync_part_directory", "1")];

const ENTRIES: Shape = Shape {
    engine: "ReplacingMergeTree(label_version)",
    sorting_key: "stream_key, id",
    columns: &[
        ("stream_key", "UInt64"),
        ("id", "UInt64"),
        ("label_version", "UInt64"),
        ("payload", "String"),
        ("order_key", "String"),
        ("dedup_key", "String"),
        ("schema_version", "Int64"),
        ("metadata", "Map(String, String)"),
        ("tags", "Array(String)"),
        ("annotations", "Map(String, String)"),
        ("created_at", "DateTime64(6, 'UTC')"),
    ],
    settings: DATA_SETTINGS,
    indexes: &[
        (
            "by_dedup_key",
            "dedup_key TYPE bloom_filter(0.01) GRANULARITY 1",
        ),
        (
            "by_payload",
            "lower(payload) TYPE ngrambf_v1(4, 32768, 3, 0) GRANULARITY 1",
        ),
    ],
    by_stream: true,
};

// Each state carries its version first, so that the maximum is the newest. That holds for
// `updated_at` too: of two label changes the later may have the earlier time, since a transaction
// takes its time when it begins.
const LABELS: Shape = Shape {
    engine: "AggregatingMergeTree",
    sorting_key: "stream_key, id",
    columns: &[
        ("stream_key", "UInt64"),
        ("id", "UInt64"),
        (
            "tags",
            "SimpleAggregateFunction(max, Tuple(UInt64, Array(String)))",
        ),
        (
            "annotations",
            "SimpleAggregateFunction(max, Tuple(UInt64, Array(Tuple(String, String))))",
        ),
        (
            "updated_at",
            "SimpleAggregateFunction(max, Tuple(UInt64, DateTime64(6, 'UTC')))",
        ),
    ],
    settings: DATA_SETTINGS,
    indexes: &[],
    by_stream: true,
};

const STREAMS: Shape = Shape {
    engine: "AggregatingMergeTree",
    sorting_key: "stream_key",
    columns: &[
        ("stream_key", "UInt64"),
        (
            "name",
            "SimpleAggregateFunction(max, Tuple(UInt64, String))",
        ),
        ("version", "SimpleAggregateFunction(max, UInt64)"),
        ("trimmed_through", "SimpleAggregateFunction(max, UInt64)"),
    ],
    settings: DATA_SETTINGS,
    indexes: &[(
        "by_name",
        "tupleElement(name, 2) TYPE bloom_filter(0.001) GRANULARITY 1",
    )],
    by_stream: false,
};

// The window is what makes a sequence number given once: of two inserts with one token the server
// takes the first (see `log.rs`).
const LOG: Shape = Shape {
    engine: "MergeTree",
    sorting_key: "seq",
    columns: &[
        ("seq", "Int64"),
        ("at", "DateTime64(6, 'UTC')"),
        ("stream_key", "UInt64"),
        ("stream_name", "String"),
        ("name_version", "UInt64"),
        ("kind", "Int16"),
        ("ids", "Array(Int64)"),
        ("version", "Int64"),
        ("body", "String"),
        ("writer", "UInt128"),
        ("last_id", "UInt64"),
        ("last_key", "UInt64"),
        ("applied", "Int64"),
    ],
    settings: &[
        ("non_replicated_deduplication_window", "10000"),
        ("fsync_after_insert", "1"),
        ("fsync_part_directory", "1"),
    ],
    indexes: &[],
    by_stream: false,
};

// (version, text): the newest version's text. Each version is written once, as in the log.
const STATES: Shape = Shape {
    engine: "AggregatingMergeTree",
    sorting_key: "store, kind, key",
    columns: &[
        ("store", "String"),
        ("kind", "String"),
        ("key", "String"),
        (
            "state",
            "SimpleAggregateFunction(max, Tuple(UInt64, String))",
        ),
    ],
    settings: &[
        ("non_replicated_deduplication_window", "10000"),
        ("fsync_after_insert", "1"),
        ("fsync_part_directory", "1"),
    ],
    indexes: &[],
    by_stream: false,
};

const DEAD_LETTERS: Shape = Shape {
    engine: "ReplacingMergeTree",
    sorting_key: "store, pipeline, cursor",
    columns: &[
        ("store", "String"),
        ("pipeline", "String"),
        ("cursor", "String"),
        ("stream_key", "UInt64"),
        ("description", "String"),
        ("reason", "String"),
        ("item", "String"),
        ("parked_at", "DateTime64(6, 'UTC')"),
    ],
    settings: STATE_SETTINGS,
    indexes: &[],
    by_stream: false,
};

// (fence, cursor in hexadecimal, source): the newest fence's furthest cursor is the maximum.
const CURSORS: Shape = Shape {
    engine: "AggregatingMergeTree",
    sorting_key: "store, pipeline",
    columns: &[
        ("store", "String"),
        ("pipeline", "String"),
        (
            "state",
            "SimpleAggregateFunction(max, Tuple(UInt64, String, String))",
        ),
    ],
    settings: STATE_SETTINGS,
    indexes: &[],
    by_stream: false,
};

// (epoch, state, source): 1 where the store is bound to a source, 0 where released, 2 where it is a
// store of its own.
const STORES: Shape = Shape {
    engine: "AggregatingMergeTree",
    sorting_key: "store",
    columns: &[
        ("store", "String"),
        (
            "binding",
            "SimpleAggregateFunction(max, Tuple(UInt64, UInt8, String))",
        ),
    ],
    settings: STATE_SETTINGS,
    indexes: &[],
    by_stream: false,
};

const VIEW_COLUMNS: &[(&str, &str)] = &[
    ("stream", "String"),
    ("id", "UInt64"),
    ("payload", "String"),
    ("order_key", "String"),
    ("dedup_key", "String"),
    ("schema_version", "Int64"),
    ("metadata", "Map(String, String)"),
    ("tags", "Array(String)"),
    ("annotations", "Map(String, String)"),
    ("created_at", "DateTime64(6, 'UTC')"),
    ("updated_at", "Nullable(DateTime64(6, 'UTC'))"),
];

/// The names of a store's tables. They consist of letters, digits and underscores, and need no
/// quoting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tables {
    /// The store's name, which is its key in the two shared tables.
    pub store: StoreName,
    /// The entries as they were appended.
    pub entries: String,
    /// The newer label states.
    pub labels: String,
    /// Names, versions and trim boundaries.
    pub streams: String,
    /// The mutation log of a store of its own; a replica has none.
    pub log: String,
    /// The view of the present content.
    pub current: String,
}

impl Tables {
    /// The cursors of all pipelines into this database.
    pub const CURSORS: &'static str = "ledger_cursors";
    /// Which source each store of this database is bound to.
    pub const STORES: &'static str = "ledger_stores";
    /// Consumers, leases and the like, each a versioned text.
    pub const STATES: &'static str = "ledger_states";
    /// What the consumers of all stores of this database could not deliver.
    pub const DEAD_LETTERS: &'static str = "ledger_dead_letters";

    /// The names for a store.
    pub fn new(store: &StoreName) -> Self {
        Self {
            store: store.clone(),
            entries: format!("{store}_entries"),
            labels: format!("{store}_labels"),
            streams: format!("{store}_streams"),
            log: format!("{store}_log"),
            current: format!("{store}_current"),
        }
    }

    /// Creates the two shared tables where they are absent, and checks them.
    pub async fn open_shared(connection: &Connection) -> Result<()> {
        open_shapes(
            connection,
            &[(Self::CURSORS, CURSORS), (Self::STORES, STORES)],
        )
        .await
    }

    /// Creates what is absent, and checks what is there: `InvalidInput` for a table of another
    /// shape, naming table and difference; nothing is altered then.
    pub async fn open(&self, connection: &Connection) -> Result<()> {
        let shapes = self.shapes();
        let present = check_shapes(connection, &shapes).await?;
        let view = [self.current.as_str()];
        let (is_there, columns) = (
            present_tables(connection, &view).await?,
            columns(connection, &view).await?,
        );
        let replace = self.check_view(&is_there, &columns)?;
        create_shapes(connection, &shapes, &present).await?;
        add_indexes(connection, &shapes, &present).await;
        if let Some(create) = replace {
            let view = self.view(create, &connection.config().cluster);
            connection.execute(OPERATION, &view).await?;
        }
        Ok(())
    }

    /// Creates the states of all stores of the database.
    pub async fn open_states(connection: &Connection) -> Result<()> {
        open_shapes(connection, &[(Self::STATES, STATES)]).await
    }

    /// Creates the mutation log, and what stands beside it; for a store of its own.
    pub async fn open_log(&self, connection: &Connection) -> Result<()> {
        open_shapes(
            connection,
            &[
                (self.log.as_str(), LOG),
                (Self::STATES, STATES),
                (Self::DEAD_LETTERS, DEAD_LETTERS),
            ],
        )
        .await
    }

    /// Whether the store has a mutation log: it is no replica then.
    pub async fn has_log(&self, connection: &Connection) -> Result<bool> {
        Ok(!present_tables(connection, &[&self.log]).await?.is_empty())
    }

    /// The names of the stores and replicas of the database, ascending.
    pub async fn stores(connection: &Connection) -> Result<Vec<StoreName>> {
        let query = connection
            .client()
            .query(
                "SELECT substring(name, 1, length(name) - 8) AS name FROM system.tables \
                 WHERE database = ? AND endsWith(name, '_current') AND engine = 'View' \
                 AND startsWith(comment, ?) ORDER BY name",
            )
            .bind(&connection.config().database)
            .bind(COMMENT);
        let names: Vec<String> = connection.fetch_all("list stores", query).await?;
        Ok(names
            .into_iter()
            .filter_map(|name| StoreName::new(name).ok())
            .collect())
    }

    /// Whether the store's tables are there, whatever their shape.
    pub async fn exist(&self, connection: &Connection) -> Result<bool> {
        Ok(!present_tables(connection, &[&self.entries])
            .await?
            .is_empty())
    }

    /// Removes the content of the three tables; the view stays, and so do cursors and binding.
    pub async fn clear(&self, connection: &Connection) -> Result<()> {
        let cluster = &connection.config().cluster;
        // The streams first: without them nothing is visible.
        for (table, by_stream) in [
            (&self.streams, false),
            (&self.labels, true),
            (&self.entries, true),
        ] {
            let (table, on) = (cluster.rows_of(table, by_stream), cluster.on(by_stream));
            // The setting lifts the server's guard against dropping large tables by mistake.
            let sql = format!("TRUNCATE TABLE {table}{on} SETTINGS max_table_size_to_drop = 0");
            connection.execute("clear ClickHouse tables", &sql).await?;
        }
        Ok(())
    }

    fn shapes(&self) -> [(&str, Shape); 5] {
        [
            (self.entries.as_str(), ENTRIES),
            (self.labels.as_str(), LABELS),
            (self.streams.as_str(), STREAMS),
            (Self::CURSORS, CURSORS),
            (Self::STORES, STORES),
        ]
    }

    /// Whether the view has to be made, and if so by which words.
    fn check_view(&self, present: &[Table], columns: &[Column]) -> Result<Option<&'static str>> {
        let name = &self.current;
        let Some(view) = present.iter().find(|table| table.name == *name) else {
            return Ok(Some("CREATE VIEW IF NOT EXISTS"));
        };
        if view.engine != "View" {
            return Err(refuse(
                name,
                &format!("it is a {}, not a view", view.engine),
            ));
        }
        let version = view
            .comment
            .strip_prefix(COMMENT)
            .and_then(|text| text.parse::<u32>().ok());
        match version {
            None => Err(refuse(name, "it is a view that Ledger did not make")),
            Some(version) if version > LAYOUT_VERSION => {
                let what = format!("it has layout {version}, made by a newer version of Ledger");
                Err(refuse(name, &what))
            }
            Some(version) if version < LAYOUT_VERSION => Ok(Some("CREATE OR REPLACE VIEW")),
            Some(_) => check_columns(name, VIEW_COLUMNS, columns).map(|()| None),
        }
    }

    /// A label state wins over the entry's own where its version is higher. Labels of an entry that
    /// is not there, and entries at or below their stream's boundary, stay invisible: a replay of
    /// anything changes nothing.
    fn view(&self, create: &str, cluster: &Cluster) -> String {
        let Self {
            streams, current, ..
        } = self;
        // Joined as it stands, a table over shards would be joined on each of them.
        let from = |table: &str, alias: &str| {
            if cluster.sharded {
                format!("(SELECT * FROM {table} FINAL) AS {alias}")
            } else {
                format!("{table} AS {alias} FINAL")
            }
        };
        let (entries, labels) = (from(&self.entries, "e"), from(&self.labels, "l"));
        // Without replicas it reads what only one server has.
        let on = cluster.on(!cluster.sharded);
        format!(
            "{create} {current}{on} AS SELECT \
             tupleElement(s.name, 2) AS stream, e.id AS id, e.payload AS payload, \
             e.order_key AS order_key, e.dedup_key AS dedup_key, \
             e.schema_version AS schema_version, e.metadata AS metadata, \
             {} AS tags, {} AS annotations, e.created_at AS created_at, {} AS updated_at \
             FROM {entries} \
             INNER JOIN {streams} AS s FINAL ON s.stream_key = e.stream_key \
             LEFT JOIN {labels} ON l.stream_key = e.stream_key AND l.id = e.id \
             WHERE e.id > s.trimmed_through \
             SETTINGS join_use_nulls = 0 \
             COMMENT '{COMMENT}{LAYOUT_VERSION}'",
            Self::TAGS,
            Self::ANNOTATIONS,
            Self::UPDATED_AT,
        )
    }

    /// The present tags of entry `e` with labels `l`.
    pub const TAGS: &'static str = "if(tupleElement(l.tags, 1) > e.label_version, \
         tupleElement(l.tags, 2), e.tags)";
    /// The present annotations of entry `e` with labels `l`.
    pub const ANNOTATIONS: &'static str = "if(tupleElement(l.annotations, 1) > e.label_version, \
         CAST(tupleElement(l.annotations, 2), 'Map(String, String)'), e.annotations)";
    /// When the labels `l` changed last; NULL where they never did.
    pub const UPDATED_AT: &'static str =
        "if(tupleElement(l.updated_at, 1) > 0, tupleElement(l.updated_at, 2), NULL)";
}
