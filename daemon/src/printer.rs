//! What the program says: results on standard output, notices and errors on standard error.

use std::io::{self, IsTerminal as _, Write as _};

use indicatif::{ProgressBar, ProgressDrawTarget};
use serde_json::Value;

use crate::cli::Output;

/// Says things. Cloning shares it.
#[derive(Debug, Clone)]
pub(crate) struct Printer {
    /// The line that is rewritten; hidden where standard error is no terminal.
    bar: ProgressBar,
    terminal: bool,
    results_to_terminal: bool,
}

impl Printer {
    pub(crate) fn new() -> Self {
        let terminal = io::stderr().is_terminal();
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden());
        Self {
            bar,
            terminal,
            results_to_terminal: io::stdout().is_terminal(),
        }
    }

    /// Whether notices go to a terminal.
    pub(crate) fn is_terminal(&self) -> bool {
        self.terminal
    }

    /// The line that is rewritten.
    pub(crate) fn bar(&self) -> &ProgressBar {
        &self.bar
    }

    /// Begins to show the line, on a terminal.
    pub(crate) fn show_bar(&self) {
        if self.terminal {
            self.bar.set_draw_target(ProgressDrawTarget::stderr());
        }
    }

    /// Removes the line.
    pub(crate) fn clear_bar(&self) {
        self.bar.finish_and_clear();
    }

    /// Prints a line of the result.
    pub(crate) fn result(&self, line: &str) -> io::Result<()> {
        self.bar.suspend(|| {
            let mut out = io::stdout().lock();
            writeln!(out, "{line}")?;
            out.flush()
        })
    }

    /// Prints lines of the result that are whole already, whatever bytes they hold.
    pub(crate) fn lines(&self, lines: &[u8]) -> io::Result<()> {
        self.bar.suspend(|| {
            let mut out = io::stdout().lock();
            out.write_all(lines)?;
            out.flush()
        })
    }

    /// The form of a result that has none of its own: as asked for, else a table on a terminal and
    /// a JSON value a line elsewhere.
    pub(crate) fn form(&self, asked: Option<Output>) -> Output {
        asked.unwrap_or(if self.results_to_terminal {
            Output::Table
        } else {
            Output::Jsonl
        })
    }

    /// Prints rows under their headings, or the values that they are made of: as one list, or one a
    /// line.
    pub(crate) fn rows<const N: usize>(
        &self,
        form: Output,
        headings: [&str; N],
        rows: &[([String; N], Value)],
    ) -> anyhow::Result<()> {
        match form {
            Output::Table => {
                let widths: Vec<_> = (0..N)
                    .map(|column| {
                        let cells = rows.iter().filter_map(|(cells, _)| cells.get(column));
                        let heading = headings.get(column).map_or(0, |text| text.chars().count());
                        let widest = cells.map(|cell| cell.chars().count()).max();
                        widest.unwrap_or(0).max(heading)
                    })
                    .collect();
                let line = |cells: Vec<&str>| {
                    let padded: Vec<_> = cells
                        .iter()
                        .zip(&widths)
                        .map(|(cell, width)| format!("{cell:<width$}"))
                        .collect();
                    padded.join("  ").trim_end().to_owned()
                };
                self.result(&line(headings.to_vec()))?;
                for (cells, _) in rows {
                    self.result(&line(cells.iter().map(String::as_str).collect()))?;
                }
            }
            Output::Json => {
                let values: Vec<_> = rows.iter().map(|(_, value)| value).collect();
                self.result(&serde_json::to_string(&values)?)?;
            }
            Output::Jsonl => {
                for (_, value) in rows {
                    self.result(&value.to_string())?;
                }
            }
        }
        Ok(())
    }

    /// Prints a notice.
    pub(crate) fn notice(&self, line: &str) {
        // Nobody can be told that standard error is gone.
        self.bar
            .suspend(|| drop(writeln!(io::stderr().lock(), "{line}")));
    }

    /// Prints an error with its causes, on one line.
    pub(crate) fn error(&self, error: &anyhow::Error) {
        self.clear_bar();
        error_line(&chain(error));
    }
}

/// Prints `Error: ...` on standard error.
pub(crate) fn error_line(text: &str) {
    let text = text.replace(['\n', '\r'], " ");
    drop(writeln!(io::stderr().lock(), "Error: {text}"));
}

/// An error and its causes, each said once.
fn chain(error: &anyhow::Error) -> String {
    let mut line = String::new();
    for cause in error.chain() {
        let text = cause.to_string();
        if line.contains(&text) {
            continue;
        }
        if !line.is_empty() {
            line.push_str(": ");
        }
        line.push_str(&text);
    }
    line
}
