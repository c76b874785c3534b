//! `ledger bridge replay`

use ledger::bridge::BridgeOptions;
use serde_json::json;

use super::bridge_ask;
use crate::cli::{Global, Output, Replay};
use crate::exit::Exit;
use crate::printer::Printer;
use crate::urls::{self, Opened, Replica};

/// Delivers the dead letters of a bridge again; fails where some are refused again.
pub(crate) async fn run(
    options: &Replay,
    global: &Global,
    printer: &Printer,
) -> anyhow::Result<Exit> {
    if let Some(bridge) = &options.bridge {
        return bridge_ask::replay(bridge, global, printer).await;
    }
    let opened = Box::pin(urls::open(&options.ends, Replica::Existing, None, None)).await?;
    let Opened { flow, pipeline } = opened;
    let bridge = flow.bridge(BridgeOptions::new(pipeline.clone()))?;
    let (delivered, left) = bridge.replay_dead_letters().await?;
    printer.result(&match printer.form(global.output) {
        Output::Table => format!("{delivered} dead letters delivered, {left} left"),
        _ => json!({"bridge": pipeline.as_str(), "delivered": delivered, "left": left}).to_string(),
    })?;
    Ok(if left == 0 { Exit::Done } else { Exit::Failed })
}
