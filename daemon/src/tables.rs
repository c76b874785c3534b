//! What is said of tables in arguments and in the configuration.

use std::collections::{BTreeMap, BTreeSet};

use ledger::connect::{DatabaseUrl, Flow, collection_options};
use ledger::mongodb::capture::Documents;
use ledger::postgres::capture::{CaptureOptions, TableFilter, WalBudget};
use ledger::{ClusterOptions, ColumnOptions, Protection, TableName, TableOptions, TableRoutes};

use crate::cli::Run;
use crate::exit::Failure;

/// The key of hashes, for who starts a bridge by hand: everyone can read the arguments of a process.
const HASH_KEY: &str = "LEDGER_HASH_KEY";

/// What is set for single tables.
#[derive(Debug, Default)]
pub(crate) struct Settings {
    tables: BTreeMap<TableName, (TableFilter, TableOptions)>,
    /// Columns that are hashed, until the key is known.
    hashed: Vec<(TableName, String)>,
    /// The key of hashes.
    pub(crate) hash_key: Option<String>,
    /// Whether removed rows stay readable.
    pub(crate) soft_delete: bool,
    /// Whether updates and deletes of tables without a key are carried.
    pub(crate) keyless_changes: bool,
    /// Over which servers the copies are spread.
    pub(crate) cluster: ClusterOptions,
}

/// What takes an argument that stands for a table.
pub(crate) type Take = fn(&mut Settings, &str) -> Result<(), String>;

/// Reads `schema.table`; a name alone is one in `public`.
pub(crate) fn table_name(text: &str) -> ledger::Result<TableName> {
    let (schema, table) = text.split_once('.').unwrap_or(("public", text));
    if schema.is_empty() || table.is_empty() {
        let what = format!("table {text:?} is not schema.table");
        return Err(ledger::Error::invalid("read table name", what));
    }
    Ok(TableName::new(schema, table))
}

fn named(text: &str) -> Result<TableName, String> {
    table_name(text).map_err(|error| error.context().to_owned())
}

fn dimensions(text: &str) -> Result<usize, String> {
    let number = text.parse().ok().filter(|number| (1..=6).contains(number));
    number.ok_or_else(|| "must have dimensions:N with N from 1 to 6".to_owned())
}

impl Settings {
    /// Takes `schema.table.column=HOW`.
    pub(crate) fn column(&mut self, text: &str) -> Result<(), String> {
        let rule = "must be TABLE.COLUMN=HOW, where HOW is exclude, hash, text, mask:TEXT or \
                    dimensions:N";
        let (path, how) = text.split_once('=').ok_or(rule)?;
        let (table, column) = path.rsplit_once('.').ok_or(rule)?;
        let (table, column) = (named(table)?, column.to_owned());
        let (filter, options) = self.tables.entry(table.clone()).or_default();
        let carried = options.columns.entry(column.clone()).or_default();
        match how.split_once(':') {
            Some(("dimensions", number)) => carried.dimensions = Some(dimensions(number)?),
            Some(("mask", mask)) => carried.protect = Some(Protection::Mask(mask.to_owned())),
            None if how == "text" => carried.text = true,
            None if how == "hash" => self.hashed.push((table, column)),
            None if how == "exclude" => {
                options.columns.remove(&column);
                filter.exclude.insert(column);
            }
            _ => return Err(rule.to_owned()),
        }
        Ok(())
    }

    /// Takes `schema.table=NAME`.
    pub(crate) fn rename(&mut self, text: &str) -> Result<(), String> {
        let (table, name) = text.split_once('=').ok_or("must be TABLE=NAME")?;
        if name.is_empty() {
            return Err("must be TABLE=NAME".to_owned());
        }
        let (_, options) = self.tables.entry(named(table)?).or_default();
        options.target = Some(name.to_owned());
        Ok(())
    }

    /// Takes `schema.table.column=NAME`: what became of a column that vanished, nothing where it was
    /// dropped.
    pub(crate) fn column_rename(&mut self, text: &str) -> Result<(), String> {
        let rule = "must be TABLE.COLUMN=NAME, or TABLE.COLUMN= for one that was dropped";
        let (path, name) = text.split_once('=').ok_or(rule)?;
        let (table, column) = path.rsplit_once('.').ok_or(rule)?;
        if column.is_empty() {
            return Err(rule.to_owned());
        }
        let (_, options) = self.tables.entry(named(table)?).or_default();
        let name = (!name.is_empty()).then(|| name.to_owned());
        options.renames.insert(column.to_owned(), name);
        Ok(())
    }

    /// Takes `schema.table=COLUMN,COLUMN`.
    pub(crate) fn order_by(&mut self, text: &str) -> Result<(), String> {
        let rule = "must be TABLE=COLUMN,COLUMN";
        let (table, columns) = text.split_once('=').ok_or(rule)?;
        let columns: Vec<_> = columns
            .split(',')
            .map(|name| name.trim().to_owned())
            .collect();
        let distinct: BTreeSet<_> = columns.iter().collect();
        if columns.iter().any(String::is_empty) || distinct.len() < columns.len() {
            return Err(rule.to_owned());
        }
        let (_, options) = self.tables.entry(named(table)?).or_default();
        options.order_by = columns;
        Ok(())
    }

    /// Takes `schema.table=SETTING=VALUE`.
    pub(crate) fn setting(&mut self, text: &str) -> Result<(), String> {
        let rule = "must be TABLE=SETTING=VALUE";
        let (table, setting) = text.split_once('=').ok_or(rule)?;
        let (setting, value) = setting.split_once('=').ok_or(rule)?;
        if setting.is_empty() || value.is_empty() {
            return Err(rule.to_owned());
        }
        let (_, options) = self.tables.entry(named(table)?).or_default();
        options
            .settings
            .insert(setting.to_owned(), value.to_owned());
        Ok(())
    }

    /// Takes `schema.table=CONDITION`.
    pub(crate) fn rows(&mut self, text: &str) -> Result<(), String> {
        let (table, condition) = text.split_once('=').ok_or("must be TABLE=CONDITION")?;
        if condition.trim().is_empty() {
            return Err("must be TABLE=CONDITION".to_owned());
        }
        let (filter, _) = self.tables.entry(named(table)?).or_default();
        filter.rows = Some(condition.trim().to_owned());
        Ok(())
    }

    /// Sets what concerns the source, and returns what concerns the sink.
    pub(crate) fn apply(mut self, options: &mut CaptureOptions) -> Result<TableRoutes, String> {
        for (table, column) in std::mem::take(&mut self.hashed) {
            let key = self.hash_key.clone().ok_or_else(|| {
                format!(
                    "column {table}.{column} is to be hashed, and there is no key: hash_key in the \
                     configuration, {HASH_KEY} for `ledger bridge run`"
                )
            })?;
            let (_, options) = self.tables.entry(table).or_default();
            let carried: &mut ColumnOptions = options.columns.entry(column).or_default();
            carried.protect = Some(Protection::Hash(key.into_bytes()));
        }
        let mut routes = TableRoutes {
            cluster: self.cluster,
            ..TableRoutes::default()
        };
        options.keyless_changes = self.keyless_changes;
        routes.others.soft_delete = self.soft_delete;
        routes.others.keyless_changes = self.keyless_changes;
        for (table, (filter, mut of_sink)) in self.tables {
            of_sink.soft_delete = self.soft_delete;
            of_sink.keyless_changes = self.keyless_changes;
            options.filters.insert(table.clone(), filter);
            routes.tables.insert(table, of_sink);
        }
        Ok(routes)
    }
}

/// Whether what a database has in place of tables is collections.
pub(crate) fn has_collections(from: &DatabaseUrl) -> bool {
    from.scheme() == "mongodb"
}

/// The tables of a database, or its collections, and their copies.
pub(crate) async fn flow(
    from: &DatabaseUrl,
    to: &DatabaseUrl,
    options: CaptureOptions,
    documents: Option<Documents>,
    routes: TableRoutes,
) -> ledger::Result<Flow> {
    let Some(documents) = documents else {
        return Flow::tables(from, to, options, routes).await;
    };
    let mut options = collection_options(options)?;
    options.documents = documents;
    Box::pin(Flow::collections(from, to, options, routes)).await
}

/// What the arguments say of tables; none where a store is carried.
pub(crate) fn options(run: &Run) -> anyhow::Result<Option<(CaptureOptions, TableRoutes)>> {
    let capture = &run.capture;
    let Some(tables) = &run.ends.tables else {
        // The parser does not ask for what the store excludes.
        let given = [
            ("--slot", capture.slot.is_some()),
            ("--publication", capture.publication.is_some()),
            ("--no-copy", capture.no_copy),
            ("--copy-width", capture.copy_width.is_some()),
            ("--wal-budget", capture.wal_budget.is_some()),
            ("--column", !capture.column.is_empty()),
            ("--rename", !capture.rename.is_empty()),
            ("--rows", !capture.rows.is_empty()),
            ("--keyless-changes", capture.keyless_changes),
            ("--resync-table", !capture.resync_table.is_empty()),
            ("--soft-delete", capture.soft_delete),
            ("--column-rename", !capture.column_rename.is_empty()),
            ("--order-by", !capture.order_by.is_empty()),
            ("--setting", !capture.setting.is_empty()),
            ("--cluster", capture.cluster.is_some()),
            ("--replicated", capture.replicated),
            ("--documents", run.form.documents.is_some()),
        ];
        let mut given = given.into_iter().filter(|(_, given)| *given);
        return match given.next() {
            Some((argument, _)) => Err(Failure::usage(format!("{argument} goes with --tables"))),
            None => Ok(None),
        };
    };
    let mut settings = Settings {
        hash_key: std::env::var(HASH_KEY).ok(),
        soft_delete: capture.soft_delete,
        keyless_changes: capture.keyless_changes,
        cluster: ClusterOptions {
            cluster: capture.cluster.clone(),
            replicated: capture.replicated,
        },
        ..Settings::default()
    };
    let given: [(_, _, Take); 6] = [
        ("--column", &capture.column, Settings::column),
        ("--rename", &capture.rename, Settings::rename),
        ("--rows", &capture.rows, Settings::rows),
        (
            "--column-rename",
            &capture.column_rename,
            Settings::column_rename,
        ),
        ("--order-by", &capture.order_by, Settings::order_by),
        ("--setting", &capture.setting, Settings::setting),
    ];
    for (argument, texts, take) in given {
        for text in texts {
            let taken = take(&mut settings, text);
            taken.map_err(|rule| Failure::usage(format!("{argument} {text}: {rule}")))?;
        }
    }
    let mut options = CaptureOptions {
        slot: capture.slot.clone(),
        publication: capture.publication.clone(),
        copy: !capture.no_copy,
        wal_budget: capture.wal_budget.map(|megabytes| WalBudget {
            bytes: u64::from(megabytes) << 20,
            exceeded: capture.on_wal_budget.unwrap_or_default(),
        }),
        ..CaptureOptions::new(tables.clone())
    };
    if let Some(width) = capture.copy_width {
        options.copy_width = usize::from(width);
    }
    let routes = settings.apply(&mut options).map_err(Failure::usage)?;
    Ok(Some((options, routes)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(columns: &[&str], key: Option<&str>) -> Result<(CaptureOptions, TableRoutes), String> {
        let mut settings = Settings {
            hash_key: key.map(str::to_owned),
            ..Settings::default()
        };
        for column in columns {
            settings.column(column)?;
        }
        settings.rename("t=people")?;
        settings.rows("sales.o=region = 7")?;
        settings.order_by("sales.o=region, id")?;
        settings.setting("sales.o=index_granularity=4096")?;
        settings.column_rename("t.mail=email")?;
        settings.column_rename("public.t.fax=")?;
        settings.cluster.cluster = Some("all".to_owned());
        settings.cluster.replicated = true;
        let mut options = CaptureOptions::new("*.*".parse().unwrap());
        let routes = settings.apply(&mut options)?;
        Ok((options, routes))
    }

    #[test]
    fn each_side_is_told_what_concerns_it() {
        let columns = [
            "t.a=exclude",
            "public.t.b=mask:***",
            "t.c=hash",
            "t.d=text",
            "t.e=dimensions:2",
        ];
        let (options, routes) = read(&columns, Some("k")).unwrap();
        let table = TableName::new("public", "t");
        assert!(options.filters[&table].exclude.contains("a"));
        let of_sink = &routes.tables[&table];
        assert_eq!(of_sink.target.as_deref(), Some("people"));
        assert_eq!(of_sink.columns.len(), 4);
        assert_eq!(of_sink.columns["e"].dimensions, Some(2));
        assert_eq!(of_sink.renames["mail"].as_deref(), Some("email"));
        assert_eq!(of_sink.renames["fax"], None);
        assert_eq!(routes.cluster.cluster.as_deref(), Some("all"));
        assert!(routes.cluster.replicated);
        assert!(of_sink.columns["d"].text && of_sink.columns["c"].protect.is_some());
        let sales = TableName::new("sales", "o");
        assert_eq!(routes.tables[&sales].order_by, ["region", "id"]);
        assert_eq!(routes.tables[&sales].settings["index_granularity"], "4096");
        let other = &options.filters[&sales];
        assert_eq!(other.rows.as_deref(), Some("region = 7"));
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        for column in [
            "",
            "a",
            "a=hash",
            "t.a",
            "t.a=shred",
            "t.a=mask",
            ".a.b=hash",
            "t.a=dimensions:0",
            "t.a=dimensions:7",
        ] {
            assert!(read(&[column], Some("k")).is_err(), "{column}");
        }
        let mut settings = Settings::default();
        let wrong: [(Take, &[&str]); 3] = [
            (Settings::order_by, &["t", "t=", "t=a,", "t=a,a", "=a"]),
            (Settings::setting, &["t", "t=a", "t==1", "t=a=", "=a=1"]),
            (Settings::column_rename, &["t.a", "a=b", "t.=b", ".t.a=b"]),
        ];
        for (take, texts) in wrong {
            for text in texts {
                assert!(take(&mut settings, text).is_err(), "{text}");
            }
        }
        let error = read(&["t.a=hash"], None).unwrap_err();
        assert!(error.contains("hash_key"), "{error}");
    }
}
