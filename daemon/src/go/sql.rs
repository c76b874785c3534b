//! The statements that read a Go store. Both databases give the same columns.

use std::collections::BTreeMap;

/// Which database a statement is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dialect {
    Sqlite,
    Postgres,
}

/// The columns of a table, with their types.
pub(super) type Columns = BTreeMap<String, String>;

/// What every version of a Go store's table has.
pub(super) const ALWAYS: [&str; 7] = [
    "id",
    "stream",
    "payload",
    "order_key",
    "dedup_key",
    "schema_version",
    "created_at",
];

impl Dialect {
    /// An expression as UTF-8 bytes: text that is none is found when it is looked at, row by row.
    fn bytes(self, expression: &str) -> String {
        match self {
            Self::Sqlite => format!("CAST({expression} AS BLOB)"),
            Self::Postgres => format!("convert_to(({expression})::text, 'UTF8')"),
        }
    }

    fn integer(self, expression: &str) -> String {
        match self {
            Self::Sqlite => format!("CAST({expression} AS INTEGER)"),
            Self::Postgres => format!("({expression})::bigint"),
        }
    }

    /// The session's time zone is UTC.
    fn time(self, expression: &str) -> String {
        match self {
            Self::Sqlite => self.bytes(expression),
            Self::Postgres => self.bytes(&format!(
                "to_char({expression}, 'YYYY-MM-DD\"T\"HH24:MI:SS.US')"
            )),
        }
    }

    /// The first parameter.
    fn parameter(self) -> &'static str {
        match self {
            Self::Sqlite => "?1",
            Self::Postgres => "$1",
        }
    }
}

/// The statements for one table. Its name has been checked: letters, digits and underscores.
pub(super) struct Statements<'a> {
    pub(super) dialect: Dialect,
    pub(super) table: &'a str,
    pub(super) columns: &'a Columns,
    /// Whether there is a table of names.
    pub(super) names: bool,
}

impl Statements<'_> {
    /// `id, key, stream, name, shadowed, payload, order_key, dedup_key, schema_version, metadata,
    /// tags, annotations, source_id, created_at, updated_at` of the rows behind an id, by id.
    pub(super) fn rows(&self) -> String {
        let (dialect, table) = (self.dialect, self.table);
        let text = |column: &str| dialect.bytes(&format!("e.{column}"));
        // Older versions had fewer columns.
        let has = |column: &str| self.columns.contains_key(column);
        let absent = || dialect.bytes("NULL");
        let optional = |column: &str| {
            if has(column) { text(column) } else { absent() }
        };
        let payload = match self.columns.get("payload").map(String::as_str) {
            Some("bytea") => "e.payload".to_owned(),
            _ => text("payload"),
        };
        let updated_at = if has("updated_at") {
            dialect.time("e.updated_at")
        } else {
            absent()
        };
        let columns = [
            dialect.integer("e.id"),
            self.key(),
            text("stream"),
            self.name(),
            self.shadowed(),
            payload,
            text("order_key"),
            text("dedup_key"),
            dialect.integer("e.schema_version"),
            optional("metadata"),
            optional("tags"),
            optional("annotations"),
            optional("source_id"),
            dialect.time("e.created_at"),
            updated_at,
        ];
        let (columns, join) = (columns.join(", "), self.join());
        let after = dialect.parameter();
        format!("SELECT {columns} FROM \"{table}\" e {join} WHERE e.id > {after} ORDER BY e.id")
    }

    /// `key, entries, stream, name, shadowed` of every stream that has an entry.
    pub(super) fn streams(&self) -> String {
        let (dialect, table, join) = (self.dialect, self.table, self.join());
        let (key, count) = (dialect.integer("min(e.id)"), dialect.integer("count(*)"));
        let (stream, name, shadowed) = (dialect.bytes("e.stream"), self.name(), self.shadowed());
        let by_name = if self.names { ", m.name" } else { "" };
        format!(
            "SELECT {key}, {count}, {stream}, {name}, {shadowed} FROM \"{table}\" e {join} \
             GROUP BY e.stream{by_name}"
        )
    }

    /// The names, by name, whose streams have no entry any more.
    pub(super) fn emptied(&self) -> Option<String> {
        let (name, table) = (self.dialect.bytes("m.name"), self.table);
        self.names.then(|| {
            format!(
                "SELECT {name} FROM ledger_stream_metadata m WHERE m.store_name = '{table}' \
                 AND NOT EXISTS (SELECT 1 FROM \"{table}\" e WHERE e.stream = m.stream_id) \
                 ORDER BY m.name"
            )
        })
    }

    /// `entries, highest id` of what is behind an id.
    pub(super) fn size(&self) -> String {
        let (dialect, table, after) = (self.dialect, self.table, self.dialect.parameter());
        let (count, last) = (
            dialect.integer("count(*)"),
            dialect.integer("coalesce(max(id), 0)"),
        );
        format!("SELECT {count}, {last} FROM \"{table}\" WHERE id > {after}")
    }

    /// The last id that was ever given, where the database tells; else NULL, or no row.
    pub(super) fn last_given(&self) -> String {
        let table = self.table;
        match self.dialect {
            Dialect::Sqlite => format!("SELECT seq FROM sqlite_sequence WHERE name = '{table}'"),
            Dialect::Postgres => {
                format!(
                    "SELECT pg_sequence_last_value(pg_get_serial_sequence('\"{table}\"', 'id'))"
                )
            }
        }
    }

    /// A stream goes by the id of its first entry: it is the same however often the copy is begun.
    fn key(&self) -> String {
        let table = self.table;
        let first = format!("(SELECT min(f.id) FROM \"{table}\" f WHERE f.stream = e.stream)");
        self.dialect.integer(&first)
    }

    fn name(&self) -> String {
        self.dialect
            .bytes(if self.names { "m.name" } else { "NULL" })
    }

    /// Whether a stream without a name of its own is called as another one is named.
    fn shadowed(&self) -> String {
        let shadowed = if self.names {
            format!(
                "CASE WHEN EXISTS (SELECT 1 FROM ledger_stream_metadata o \
                 WHERE o.store_name = '{}' AND o.name = e.stream AND o.stream_id <> e.stream) \
                 THEN 1 ELSE 0 END",
                self.table
            )
        } else {
            "0".to_owned()
        };
        self.dialect.integer(&shadowed)
    }

    fn join(&self) -> String {
        if self.names {
            format!(
                "LEFT JOIN ledger_stream_metadata m ON m.store_name = '{}' \
                 AND m.stream_id = e.stream",
                self.table
            )
        } else {
            String::new()
        }
    }
}
