//! `ledger version`

use serde_json::json;

use crate::cli::{Global, Output};
use crate::exit::Exit;
use crate::printer::Printer;

/// The program's version.
pub(crate) const VERSION: &str = env!("CARGO_PKG_VERSION");
const COMMIT: &str = env!("LEDGER_COMMIT");
const BUILT: &str = env!("LEDGER_BUILT");

/// Prints the version, the commit and the day of the build.
pub(crate) fn version(global: &Global, printer: &Printer) -> anyhow::Result<Exit> {
    printer.result(&match global.output {
        None | Some(Output::Table) => {
            format!("ledger {VERSION} (commit {COMMIT}, built {BUILT})")
        }
        Some(_) => json!({ "version": VERSION, "commit": COMMIT, "built": BUILT }).to_string(),
    })?;
    Ok(Exit::Done)
}
