//! `ledger bridge remove`

use anyhow::Context as _;
use ledger::Consumer;

use super::bridge_ask;
use super::bridge_letters::check_known;
use crate::cli::{Global, Remove};
use crate::exit::{Exit, Failure};
use crate::printer::Printer;
use crate::urls::{self, Opened, Replica};

/// Gives back what a bridge holds at its source. The replica stays as it is.
pub(crate) async fn run(
    options: &Remove,
    global: &Global,
    printer: &Printer,
) -> anyhow::Result<Exit> {
    if !options.yes {
        return Err(Failure::usage(
            "remove gives back what the bridge holds at its source, so that it can only begin anew; \
             say --yes to do it",
        ));
    }
    if let Some(bridge) = &options.bridge {
        return bridge_ask::remove(bridge, global, printer).await;
    }
    let ends = &options.ends;
    if ends.tables.is_some() {
        let opened = Box::pin(urls::open(ends, Replica::Existing, None, None)).await?;
        let Opened { flow, pipeline } = opened;
        check_known(flow.consumers()?, &pipeline).await?;
        flow.remove(&pipeline).await?;
        flow.close().await;
        return bridge_ask::removed(pipeline.as_str(), global, printer);
    }
    let (Some(from), Some(store)) = (&ends.from, &ends.store) else {
        return Err(urls::missing(ends, false));
    };
    let from = urls::parse("--from", from)?;
    let to = ends.to.as_ref().map(|to| urls::parse("--to", to));
    let pipeline = urls::name(ends, to.transpose()?.as_ref())?;
    let source = from.open_store(store).await.context("--from")?;
    let log = source
        .log()
        .with_context(|| format!("{source} keeps no mutation log"))?;
    check_known(log.consumers(), &pipeline).await?;
    let consumers = log.consumers().list().await?;
    let held = |consumer: &Consumer| consumer.pipeline == pipeline && consumer.holder.is_some();
    if consumers.iter().any(held) {
        let text = format!("bridge {pipeline} is running; stop it first");
        return Err(Failure::new(Exit::Unavailable, text).into());
    }
    log.consumers().unregister(&pipeline).await?;
    source.close().await;
    bridge_ask::removed(pipeline.as_str(), global, printer)
}
