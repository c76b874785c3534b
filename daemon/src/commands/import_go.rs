//! `ledger import go`

use std::cell::RefCell;

use anyhow::Context as _;
use indicatif::ProgressStyle;
use ledger::StoreName;
use ledger::connect::DatabaseUrl;
use serde_json::{Value, json};

use crate::cli::{Global, ImportGo};
use crate::exit::{Exit, Failure};
use crate::go::{Copied, Copy, Refused, Source, Table, Verified, verify};
use crate::printer::Printer;
use crate::urls;

/// How many refused rows a result lists; all of them are notices.
const LISTED: usize = 1_000;

const HEADINGS: [&str; 6] = ["STORE", "AS", "ENTRIES", "STREAMS", "NOT KEPT", "STATE"];

/// Copies stores one after the other. Fails at the end where something could not be kept.
pub(crate) async fn import_go(
    options: &ImportGo,
    global: &Global,
    printer: &Printer,
) -> anyhow::Result<Exit> {
    let from = urls::parse("--from", &options.from)?;
    let to = match &options.to {
        Some(to) => Some(urls::parse("--to", to)?),
        None => None,
    };
    if let Some(to) = &to {
        if !matches!(to.scheme(), "sqlite" | "postgres") {
            let text = format!("--to: {} takes no stores of its own", to.scheme());
            return Err(Failure::usage(text));
        }
        if from.scheme() == to.scheme() && from.target() == to.target() {
            return Err(Failure::usage("--to must be another database than --from"));
        }
    }
    let mut source = Source::open(&options.from).await.context("--from")?;
    let mut rows = Vec::new();
    let mut exit = Exit::Done;
    for (table, store) in chosen(options, &source)? {
        let one = One {
            table: &table,
            store: &store,
            to: to.as_ref().filter(|_| !options.dry_run),
            options,
            printer,
            refused: RefCell::default(),
        };
        let imported = Box::pin(one.run(&mut source)).await;
        printer.clear_bar();
        let imported = imported.with_context(|| format!("store {}", table.name))?;
        if !imported.is_whole() {
            exit = Exit::Failed;
        }
        rows.push(imported.row(&table.name, &store, &one.refused.into_inner()));
    }
    printer.rows(printer.form(global.output), HEADINGS, &rows)?;
    Ok(exit)
}

/// The stores that are asked for, each with its name in the copy.
fn chosen(options: &ImportGo, source: &Source) -> anyhow::Result<Vec<(Table, StoreName)>> {
    let found = source.tables();
    let place = source.place();
    let names: Vec<_> = found.iter().map(|table| table.name.as_str()).collect();
    if found.is_empty() {
        let text = format!("--from: {place} has no store of the Go implementation");
        return Err(Failure::new(Exit::NotFound, text).into());
    }
    let mut wanted = Vec::new();
    for store in &options.stores {
        let Some(table) = found.iter().find(|table| table.name == store.from) else {
            let (name, names) = (&store.from, names.join(", "));
            let text = format!("--store: {place} has no Go store {name:?}; it has {names}");
            return Err(Failure::new(Exit::NotFound, text).into());
        };
        wanted.push((table.clone(), store.to.clone()));
    }
    if wanted.is_empty() {
        wanted.extend(found.iter().map(|table| (table.clone(), None)));
    }
    let mut chosen = Vec::new();
    for (table, name) in wanted {
        let name = match name {
            Some(name) => name,
            None => StoreName::new(&table.name).map_err(|error| {
                let text = format!("{}; use --store {}=NEW", error.context(), table.name);
                Failure::usage(text)
            })?,
        };
        chosen.push((table, name));
    }
    Ok(chosen)
}

/// The import of one store.
struct One<'a> {
    table: &'a Table,
    store: &'a StoreName,
    to: Option<&'a DatabaseUrl>,
    options: &'a ImportGo,
    printer: &'a Printer,
    refused: RefCell<Vec<Refused>>,
}

/// How it went.
struct Imported {
    copied: Copied,
    /// What the comparison found, where one was made.
    verified: Option<Verified>,
    /// Of a store that was imported before: what has come to the source since.
    since: u64,
    state: &'static str,
}

impl One<'_> {
    async fn run(&self, source: &mut Source) -> anyhow::Result<Imported> {
        let (rows, _) = source.size(self.table, 0).await?;
        self.show(rows);
        let copy = Copy {
            table: self.table,
            to: self.to.map(|to| (to, self.store)),
            restart: self.options.restart,
            source_id_key: self.options.source_id_key.as_deref(),
            refused: &|refused| self.hear(refused),
            progress: &|rows| self.printer.bar().inc(rows),
        };
        let copied = Box::pin(copy.run(source)).await?;
        if copied.source_ids > 0 {
            self.printer.notice(&format!(
                "store {}: {} entries carry an id that the Go bridge gave them, which is not kept; \
                 --source-id-key keeps it as metadata",
                self.table.name, copied.source_ids
            ));
        }
        let mut imported = Imported {
            copied,
            verified: None,
            since: 0,
            state: "dry run",
        };
        if let Some(through) = copied.before {
            (imported.since, _) = source.size(self.table, through).await?;
            imported.state = "imported before";
            if imported.since > 0 {
                self.printer.notice(&format!(
                    "store {}: {} entries have come to the source since it was imported, and are \
                     not copied; import it under another name with --store {}=NEW",
                    self.table.name, imported.since, self.table.name
                ));
            }
            return Ok(imported);
        }
        let Some(to) = self.to else {
            return Ok(imported);
        };
        let verified = Box::pin(verify(source, self.table, to, self.store)).await?;
        // The copy may lack what could not be kept, and no more.
        if verified.extra == 0 && verified.missing == copied.refused {
            to.promote(self.store).await.context("--to")?;
            imported.state = "imported";
        } else {
            imported.state = "differs";
            self.differs(&verified);
        }
        imported.verified = Some(verified);
        Ok(imported)
    }

    fn show(&self, rows: u64) {
        let bar = self.printer.bar();
        bar.set_length(rows);
        bar.set_position(0);
        let template = "{msg} {bar:30} {pos}/{len} {per_sec}, {eta} left";
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        bar.set_message(self.table.name.clone());
        self.printer.show_bar();
    }

    fn hear(&self, refused: &Refused) {
        let Refused {
            table,
            stream,
            id,
            rule,
        } = refused;
        let id = id.map_or_else(String::new, |id| format!(", id {id}"));
        self.printer.notice(&format!(
            "not kept: table {table}, stream {stream:?}{id}: {rule}"
        ));
        let mut listed = self.refused.borrow_mut();
        if listed.len() < LISTED {
            listed.push(refused.clone());
        }
    }

    fn differs(&self, verified: &Verified) {
        for (stream, source, copy) in &verified.different {
            self.printer.notice(&format!(
                "differs: table {}, stream {stream:?}: {source} entries in the source, {copy} in \
                 the copy",
                self.table.name
            ));
        }
        self.printer.notice(&format!(
            "store {} is left unfinished: the source has changed while it was copied; stop the Go \
             program, and run this again with --restart",
            self.table.name
        ));
    }
}

impl Imported {
    /// Whether nothing is left behind.
    fn is_whole(&self) -> bool {
        let refused = self.copied.refused + self.copied.names_refused;
        refused == 0 && self.since == 0 && self.state != "differs"
    }

    fn row(&self, table: &str, store: &StoreName, refused: &[Refused]) -> ([String; 6], Value) {
        let not_kept = self.copied.refused + self.copied.names_refused;
        let cells = [
            table.to_owned(),
            store.to_string(),
            self.copied.entries.to_string(),
            self.verified
                .as_ref()
                .map_or_else(|| "-".to_owned(), |verified| verified.streams.to_string()),
            not_kept.to_string(),
            self.state.to_owned(),
        ];
        let listed: Vec<_> = refused
            .iter()
            .map(|refused| {
                json!({
                    "table": refused.table,
                    "stream": refused.stream,
                    "id": refused.id,
                    "rule": refused.rule,
                })
            })
            .collect();
        let value = json!({
            "store": table,
            "as": store.as_str(),
            "state": self.state,
            "copied": self.copied.entries,
            "resumed_behind": self.copied.resumed,
            "entries": self.verified.as_ref().map(|verified| verified.entries),
            "streams": self.verified.as_ref().map(|verified| verified.streams),
            "not_kept": not_kept,
            "refused": listed,
            "since": self.since,
        });
        (cells, value)
    }
}
