//! `ledger bridge remove`

use super::bridge_ask;
use crate::cli::{Global, Remove};
use crate::exit::{Exit, Failure};
use crate::printer::Printer;
use crate::urls::{self, Opened, Replica};

/// Ends a bridge for good: of the daemon, or between the ends that are named.
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
    let opened = Box::pin(urls::open(&options.ends, Replica::Existing, None)).await?;
    let Opened { flow, pipeline } = opened;
    flow.remove(&pipeline).await?;
    flow.close().await;
    bridge_ask::removed(pipeline.as_str(), global, printer)
}
