//! `ledger store`

use anyhow::Context as _;
use ledger::connect::LogKind;
use serde_json::json;

use crate::cli::{Global, Output, Place, Store, StoreLog};
use crate::exit::Exit;
use crate::printer::Printer;
use crate::urls;

/// Works on a store in its database.
pub(crate) async fn store(
    command: &Store,
    global: &Global,
    printer: &Printer,
) -> anyhow::Result<Exit> {
    match command {
        Store::Log(options) => log(options, global, printer).await,
        Store::Promote(place) => promote(place, global, printer).await,
    }
}

async fn log(options: &StoreLog, global: &Global, printer: &Printer) -> anyhow::Result<Exit> {
    let Place { url, store } = &options.place;
    let database = urls::parse("--in", url)?;
    if let Some(to) = options.to {
        let kind = database.log_kind(store).await.context("--in")?;
        // Also where it is there: a switch that was interrupted is finished.
        database
            .keep_log_in(store, to.into())
            .await
            .context("--to")?;
        if kind != Some(to.into()) {
            printer.notice(
                "bridges and hooks of this store begin anew with a copy; start a daemon that has it \
                 open again",
            );
        }
    }
    let kind = database.log_kind(store).await.context("--in")?;
    let kind = kind
        .as_ref()
        .map_or_else(|| "none".to_owned(), LogKind::to_string);
    tell(
        global,
        printer,
        &json!({"store": store.as_str(), "log": kind}),
        &kind,
    )
}

async fn promote(place: &Place, global: &Global, printer: &Printer) -> anyhow::Result<Exit> {
    let database = urls::parse("--in", &place.url)?;
    database.promote(&place.store).await.context("--in")?;
    let value = json!({"store": place.store.as_str(), "promoted": true});
    let line = format!("store {} takes appends now", place.store);
    tell(global, printer, &value, &line)
}

fn tell(
    global: &Global,
    printer: &Printer,
    value: &serde_json::Value,
    line: &str,
) -> anyhow::Result<Exit> {
    match printer.form(global.output) {
        Output::Table => printer.result(line)?,
        _ => printer.result(&value.to_string())?,
    }
    Ok(Exit::Done)
}
