//! The statements on the table of a destination and its view.

use ledger_layout::clickhouse::{CapturedTables, identifier, literal};
use ledger_layout::tables::{Alteration, push_bytes};
use xxhash_rust::xxh3::xxh3_64;

use super::destination::{Destination, OWN, Slot};

impl Destination {
    /// The condition that a row stands behind this place, or up to it.
    pub(super) fn beside(&self, place: &[u8], behind: bool) -> String {
        let names = self.place_names();
        let (first, all) = (names.first().map_or("", String::as_str), names.join(", "));
        let place = self.keys(&[place]);
        let (outer, inner) = if behind { (">=", ">") } else { ("<=", "<=") };
        // The first column stands alone, since the index is not used for comparisons of tuples.
        format!(
            "{first} {outer} (SELECT {first} FROM {place}) \
             AND ({all}) {inner} (SELECT ({all}) FROM {place})"
        )
    }

    /// The condition that a row's key, as the destination writes it, is one of these.
    pub(super) fn among(&self, keys: &[&[u8]]) -> String {
        let names = self.order_names().join(", ");
        format!("({names}) IN (SELECT {names} FROM {})", self.keys(keys))
    }

    /// Keys as a table of the database.
    pub(super) fn keys(&self, keys: &[&[u8]]) -> String {
        let slots = self.order.iter().filter_map(|at| self.slots.get(*at));
        let columns = slots.map(|slot| format!("{} {}", identifier(&slot.name), slot.kind));
        let columns = if self.is_keyed() {
            columns.collect::<Vec<_>>().join(", ")
        } else {
            "`_version` UInt128, `_row` UInt128".to_owned()
        };
        let mut digits = Vec::new();
        push_bytes(&keys.concat(), &mut digits);
        let digits = String::from_utf8_lossy(digits.get(2..).unwrap_or_default());
        format!(
            "format(RowBinary, {}, unhex('{digits}'))",
            literal(&columns)
        )
    }

    fn on_cluster(&self) -> String {
        match &self.cluster.cluster {
            Some(cluster) => format!(" ON CLUSTER {}", identifier(cluster)),
            None => String::new(),
        }
    }

    pub(super) fn create(&self) -> String {
        let own = self.columns();
        let own = own.iter().filter(|(name, _)| OWN.contains(&name.as_str()));
        let own = own.map(|(name, kind)| format!("{} {kind}", identifier(name)));
        let columns: Vec<String> = self
            .slots
            .iter()
            .flat_map(Slot::declared)
            .chain(own)
            .collect();
        let order = if self.is_keyed() {
            let slots = self.order.iter().filter_map(|at| self.slots.get(*at));
            slots.map(|slot| identifier(&slot.name)).collect()
        } else {
            vec![identifier("_version"), identifier("_row")]
        };
        let settings: Vec<String> = self
            .settings
            .iter()
            .map(|(name, value)| format!("{name} = {value}"))
            .collect();
        format!(
            "CREATE TABLE IF NOT EXISTS {}{} ({}) ENGINE = {}({}) ORDER BY ({}) SETTINGS {} \
             COMMENT {}",
            identifier(&self.target),
            self.on_cluster(),
            columns.join(", "),
            self.engine(),
            identifier("_version"),
            order.join(", "),
            settings.join(", "),
            literal(&self.comment),
        )
    }

    /// The statement of alterations, given the names of the columns that are there; none where they
    /// were done before.
    pub(super) fn alter(&self, alterations: &[Alteration], there: &[String]) -> Option<String> {
        let parts = alterations.iter().flat_map(|one| self.parts(one, there));
        let parts: Vec<String> = parts.collect();
        if parts.is_empty() {
            return None;
        }
        Some(format!(
            "ALTER TABLE {}{} {} SETTINGS alter_sync = 2, mutations_sync = 2",
            identifier(&self.target),
            self.on_cluster(),
            parts.join(", ")
        ))
    }

    fn parts(&self, alteration: &Alteration, there: &[String]) -> Vec<String> {
        let is_there = |name: &str| there.iter().any(|column| column == name);
        let slot = |name: &str| self.slots.iter().find(|slot| slot.name == name);
        let declared = |name: &str| slot(name).into_iter().flat_map(Slot::declared);
        match alteration {
            Alteration::Add(carried) => declared(&carried.name)
                .map(|column| format!("ADD COLUMN IF NOT EXISTS {column}"))
                .collect(),
            Alteration::Widen(carried) => declared(&carried.name)
                .map(|column| format!("MODIFY COLUMN {column}"))
                .collect(),
            Alteration::Rename { from, to } => {
                let companions = (format!("{from}_is_null"), format!("{to}_is_null"));
                let mut pairs = vec![(from, to)];
                if slot(to).is_some_and(|slot| slot.kind.is_composed()) {
                    pairs.push((&companions.0, &companions.1));
                }
                pairs
                    .into_iter()
                    .filter(|(from, to)| is_there(from) && !is_there(to))
                    .map(|(from, to)| {
                        format!("RENAME COLUMN {} TO {}", identifier(from), identifier(to))
                    })
                    .collect()
            }
        }
    }

    /// The statement that makes the view, and the comment by which it is known.
    pub(super) fn create_view(&self) -> (String, String) {
        let visible = |name: &String| {
            let slot = self.slots.iter().find(|slot| slot.name == *name);
            let names = slot.into_iter().flat_map(Slot::columns);
            names.map(|(name, _)| identifier(&name)).collect::<Vec<_>>()
        };
        let columns = self.present.iter().flat_map(visible);
        let columns = columns.collect::<Vec<_>>().join(", ");
        let shown = format!(
            "`_version` >= (SELECT tupleElement(max(boundary), 2) FROM {} WHERE target = {})",
            CapturedTables::NAME,
            literal(&self.target)
        );
        let table = identifier(&self.target);
        let select = if self.multiset {
            format!(
                "SELECT {columns} FROM (SELECT {columns}, \
                 sum(if(`_deleted` = 0, 1, -1)) AS `_copies` FROM {table} FINAL WHERE {shown} \
                 GROUP BY {columns}) ARRAY JOIN range(toUInt64(greatest(`_copies`, 0))) AS `_copy`"
            )
        } else if self.soft_delete {
            format!("SELECT {columns}, `_deleted` FROM {table} FINAL WHERE {shown}")
        } else {
            format!("SELECT {columns} FROM {table} FINAL WHERE `_deleted` = 0 AND {shown}")
        };
        // A view keeps the types that its columns had when it was made.
        let kinds: Vec<String> = self.columns().into_iter().map(|(_, kind)| kind).collect();
        let digest = xxh3_64(format!("{select} {}", kinds.join(", ")).as_bytes());
        let comment = format!("{} {digest:016x}", self.comment);
        let create = format!(
            "CREATE OR REPLACE VIEW {}{} AS {select} COMMENT {}",
            identifier(&self.view()),
            self.on_cluster(),
            literal(&comment)
        );
        (create, comment)
    }

    pub(super) fn insert(&self) -> String {
        let columns = self.columns();
        let names: Vec<String> = columns.iter().map(|(name, _)| identifier(name)).collect();
        format!(
            "INSERT INTO {} ({}) FORMAT RowBinary",
            identifier(&self.target),
            names.join(", ")
        )
    }

    pub(super) fn drop_statements(&self) -> [String; 2] {
        let cluster = self.on_cluster();
        // A replica's path is free only once the table is gone for good.
        let sync = if self.cluster.replicated { " SYNC" } else { "" };
        [
            format!("DROP VIEW IF EXISTS {}{cluster}", identifier(&self.view())),
            format!(
                "DROP TABLE IF EXISTS {}{cluster}{sync} SETTINGS max_table_size_to_drop = 0",
                identifier(&self.target)
            ),
        ]
    }
}

#[cfg(test)]
mod tests {
    use ledger_core::{Column, ColumnType, Version};

    use ledger_core::{Result, Table, TableName};
    use ledger_layout::tables::{Note, TableOptions};

    use super::*;
    use crate::clickhouse::tables::ClusterOptions;

    fn note() -> Note {
        let column = |name: &str, kind, key| Column {
            name: name.to_owned(),
            kind,
            key,
            nullable: !key,
            declared: String::new(),
        };
        let table = Table {
            id: 7,
            name: TableName::new("public", "t"),
            columns: vec![
                column("id", ColumnType::Int64, true),
                column(
                    "it's `a`",
                    ColumnType::Array(Box::new(ColumnType::Text)),
                    false,
                ),
            ],
            full_identity: false,
        };
        Note::first(&table, Version::default())
    }

    fn destination(cluster: &ClusterOptions, options: &TableOptions) -> Result<Destination> {
        Destination::new("t", &note(), options, cluster, "p")
    }

    #[test]
    fn a_cluster_is_in_every_statement_and_replicas_in_the_engine() {
        let cluster = ClusterOptions {
            cluster: Some("main".to_owned()),
            replicated: true,
        };
        let this = destination(&cluster, &TableOptions::default()).unwrap();
        assert_eq!(
            this.create(),
            r"CREATE TABLE IF NOT EXISTS `t` ON CLUSTER `main` (`id` Int64, `it's \`a\`` \
            Array(Nullable(String)), `it's \`a\`_is_null` Bool DEFAULT true, `_version` UInt128, \
            `_deleted` UInt8) ENGINE = ReplicatedReplacingMergeTree(`_version`) ORDER BY (`id`) \
            SETTINGS non_replicated_deduplication_window = 1000, fsync_after_insert = 1, \
            fsync_part_directory = 1 COMMENT 'ledger table 7 of p'"
                .replace("\\\n            ", "")
        );
        let (view, _) = this.create_view();
        assert!(view.starts_with("CREATE OR REPLACE VIEW `t_current` ON CLUSTER `main` AS "));
        let added = note().columns.remove(1);
        let sql = this.alter(&[Alteration::Add(added)], &[]).unwrap();
        assert!(sql.starts_with("ALTER TABLE `t` ON CLUSTER `main` ADD COLUMN IF NOT EXISTS "));
        for sql in this.drop_statements() {
            assert!(sql.contains("ON CLUSTER `main`"), "{sql}");
        }
        let alone = destination(&ClusterOptions::default(), &TableOptions::default()).unwrap();
        assert!(!alone.create().contains("CLUSTER") && !alone.create().contains("Replicated"));
    }

    #[test]
    fn settings_are_added_and_the_tables_own_are_kept() {
        let with = |name: &str, value: &str| TableOptions {
            settings: [(name.to_owned(), value.to_owned())].into(),
            ..TableOptions::default()
        };
        let open = |options| destination(&ClusterOptions::default(), &options);
        let create = open(with("storage_policy", "fast 'ssd'")).unwrap().create();
        assert!(
            create.contains(r", storage_policy = 'fast \'ssd\'' COMMENT"),
            "{create}"
        );
        let create = open(with("index_granularity", "1024")).unwrap().create();
        assert!(
            create.contains(", index_granularity = 1024 COMMENT"),
            "{create}"
        );
        for (name, value) in [("fsync_after_insert", "0"), ("a = 1, b", "2")] {
            let error = open(with(name, value)).unwrap_err().to_string();
            assert!(error.contains(name), "{error}");
        }
    }

    #[test]
    fn options_of_columns_that_are_not_there_are_refused() {
        let options = TableOptions {
            columns: [(
                "absent".to_owned(),
                ledger_layout::tables::ColumnOptions::default(),
            )]
            .into(),
            ..TableOptions::default()
        };
        let error = destination(&ClusterOptions::default(), &options).unwrap_err();
        assert!(error.to_string().contains("absent"), "{error}");
    }
}
