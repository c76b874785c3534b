//! The commands, one file each.

mod bridge_ask;
mod bridge_letters;
mod bridge_remove;
mod bridge_replay;
mod bridge_run;
mod bridge_verify;
mod completions;
mod config;
mod demo;
mod doctor;
mod hook;
mod hook_letters;
mod hook_verify;
mod import_go;
mod process;
mod store;
mod stream;
mod top;
mod version;

pub(crate) use completions::{completions, man};
pub(crate) use config::config;
pub(crate) use demo::demo;
pub(crate) use doctor::doctor;
pub(crate) use hook::run as hook;
pub(crate) use import_go::import_go;
pub(crate) use process::{reload, start, status, stop};
pub(crate) use store::store;
pub(crate) use stream::stream;
pub(crate) use top::top;
pub(crate) use version::version;

use crate::cli::{Bridge, Global};
use crate::exit::Exit;
use crate::printer::Printer;

/// The commands around bridges.
pub(crate) async fn bridge(
    command: &Bridge,
    global: &Global,
    printer: &Printer,
) -> anyhow::Result<Exit> {
    match command {
        Bridge::Run(options) => Box::pin(bridge_run::run(options, global, printer)).await,
        Bridge::List => bridge_ask::list(global, printer).await,
        Bridge::Status(named) => bridge_ask::status(&named.bridge, global, printer).await,
        Bridge::Pause(named) => bridge_ask::pause(&named.bridge, global, printer).await,
        Bridge::Resume(named) => bridge_ask::resume(&named.bridge, global, printer).await,
        Bridge::Resync(options) => {
            let table = options.table.as_deref();
            bridge_ask::resync(&options.named.bridge, table, options.yes, global, printer).await
        }
        Bridge::Verify(options) => Box::pin(bridge_verify::run(options, global, printer)).await,
        Bridge::DeadLetters(options) => bridge_letters::run(options, global, printer).await,
        Bridge::Remove(options) => Box::pin(bridge_remove::run(options, global, printer)).await,
        Bridge::Replay(options) => Box::pin(bridge_replay::run(options, global, printer)).await,
    }
}
