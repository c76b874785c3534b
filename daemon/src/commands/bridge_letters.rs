//! `ledger bridge dead-letters`

use std::collections::BTreeSet;

use anyhow::Context as _;
use ledger::{Consumers, DeadLetter, PipelineId};
use serde_json::json;

use super::bridge_ask;
use crate::cli::{DeadLetters, Global, Output};
use crate::exit::{Exit, Failure};
use crate::printer::Printer;
use crate::urls::{self, Opened, Replica};

/// How many letters are read at a time.
const PAGE: usize = 500;

/// Lists the letters of a bridge, oldest first.
pub(crate) async fn run(
    options: &DeadLetters,
    global: &Global,
    printer: &Printer,
) -> anyhow::Result<Exit> {
    if let Some(bridge) = &options.bridge {
        return bridge_ask::dead_letters(bridge, options, global, printer).await;
    }
    let ends = &options.ends;
    let form = printer.form(global.output);
    if ends.tables.is_some() {
        let opened = Box::pin(urls::open(ends, Replica::Existing, None, None)).await?;
        let Opened { flow, pipeline } = opened;
        check_known(flow.consumers()?, &pipeline).await?;
        return print_all(flow.dead_letters()?, &pipeline, form, printer).await;
    }
    let (Some(from), Some(store)) = (&ends.from, &ends.store) else {
        return Err(urls::missing(ends, false));
    };
    let from = urls::parse("--from", from)?;
    let to = ends
        .to
        .as_ref()
        .map(|to| urls::parse("--to", to))
        .transpose()?;
    let pipeline = urls::name(ends, to.as_ref())?;
    let source = from.open_store(store).await.context("--from")?;
    let log = source
        .log()
        .with_context(|| format!("{source} keeps no mutation log"))?;
    check_known(log.consumers(), &pipeline).await?;
    let printed = print_all(log.dead_letters(), &pipeline, form, printer).await;
    source.close().await;
    printed
}

async fn print_all(
    letters: &dyn ledger::DeadLetters,
    pipeline: &PipelineId,
    form: Output,
    printer: &Printer,
) -> anyhow::Result<Exit> {
    let (mut after, mut count, mut keys) = (None, 0_u64, BTreeSet::new());
    loop {
        let page = letters.list(pipeline, after.as_ref(), PAGE).await?;
        let Some(last) = page.last() else { break };
        after = Some(last.cursor.clone());
        for letter in &page {
            count += 1;
            keys.insert(letter.key);
            print(letter, form, printer)?;
        }
    }
    if form == Output::Table {
        let streams = keys.len();
        printer.notice(&format!(
            "{count} dead letters of {pipeline}, in {streams} streams"
        ));
    }
    Ok(Exit::Done)
}

/// A mistyped name would look like a bridge without letters.
pub(super) async fn check_known(
    consumers: &dyn Consumers,
    pipeline: &PipelineId,
) -> anyhow::Result<()> {
    let consumers = consumers.list().await?;
    let mut names = consumers.iter().map(|consumer| &consumer.pipeline);
    if names.any(|name| name == pipeline) {
        return Ok(());
    }
    let names: Vec<_> = consumers
        .iter()
        .map(|consumer| consumer.pipeline.as_str())
        .collect();
    let known = if names.is_empty() {
        "none".to_owned()
    } else {
        names.join(", ")
    };
    let text = format!("there is no bridge {pipeline} at the source; it knows {known}");
    Err(Failure::new(Exit::NotFound, text).into())
}

fn print(letter: &DeadLetter, output: Output, printer: &Printer) -> anyhow::Result<()> {
    let line = match output {
        Output::Table => format!(
            "{}\t{}\t{}\t{}",
            letter.parked_at, letter.cursor, letter.description, letter.reason
        ),
        _ => json!({
            "cursor": letter.cursor.to_string(),
            "stream_key": letter.key.0,
            "description": letter.description,
            "reason": letter.reason,
            "parked_at": letter.parked_at.to_string(),
        })
        .to_string(),
    };
    Ok(printer.result(&line)?)
}
