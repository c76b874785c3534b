//! `ledger config`

use serde_json::json;

use crate::cli::{ConfigCommand, Global, Output};
use crate::config::{self, Config};
use crate::exit::Exit;
use crate::printer::Printer;

/// Checks the configuration, or shows what is in effect.
pub(crate) fn config(
    command: &ConfigCommand,
    global: &Global,
    printer: &Printer,
) -> anyhow::Result<Exit> {
    let config = Config::load(&global.overrides())?;
    match command {
        ConfigCommand::Show => printer.lines(config::show(&config).as_bytes())?,
        ConfigCommand::Check => {
            config.check_for_daemon()?;
            let warnings = config.warnings();
            let file = config
                .file
                .as_deref()
                .map(|path| path.display().to_string());
            match global.output {
                None | Some(Output::Table) => {
                    for warning in &warnings {
                        printer.notice(&format!("Warning: {warning}"));
                    }
                    printer.result(&match file {
                        Some(file) => format!("{file} is good"),
                        None => "there is no file; the built-in defaults are good".to_owned(),
                    })?;
                }
                Some(_) => {
                    let value = json!({ "file": file, "good": true, "warnings": warnings });
                    printer.result(&value.to_string())?;
                }
            }
        }
    }
    Ok(Exit::Done)
}
