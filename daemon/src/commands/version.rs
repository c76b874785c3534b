//! `ledger version`

use crate::exit::Exit;
use crate::printer::Printer;

/// Prints the version, the commit and the day of the build.
pub(crate) fn version(printer: &Printer) -> anyhow::Result<Exit> {
    printer.result(&format!(
        "ledger {} (commit {}, built {})",
        env!("CARGO_PKG_VERSION"),
        env!("LEDGER_COMMIT"),
        env!("LEDGER_BUILT")
    ))?;
    Ok(Exit::Done)
}
