//! Log lines, on standard error.

use std::io::{self, Write};
use std::path::Path;
use std::sync::Mutex;

use ledger_telemetry::Export;
use tracing::Level;
use tracing_subscriber::filter::{EnvFilter, FilterExt as _, LevelFilter, filter_fn};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::{Layer as _, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::cli::LogFormat;
use crate::printer::Printer;
use crate::telemetry;

/// Begins to log; `RUST_LOG` says what, `info` where it is not set.
pub(crate) fn start(format: Option<LogFormat>, printer: &Printer) {
    let format = format.unwrap_or(if printer.is_terminal() {
        LogFormat::Text
    } else {
        LogFormat::Json
    });
    let asked = asked();
    // What ends a pipeline for good is the error that the command ends with: it is said once.
    let once = filter_fn(|event| {
        *event.level() != Level::ERROR || !event.target().starts_with("ledger_core::pipeline")
    });
    let writer = Lines(printer.clone());
    let lines = tracing_subscriber::fmt::layer().with_writer(writer);
    let lines = match format {
        LogFormat::Text => lines
            .with_ansi(
                printer.is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty()),
            )
            .with_target(false)
            .boxed(),
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
    };
    tracing_subscriber::registry()
        .with(lines.with_filter(asked.and(once)))
        .with(telemetry::export().and_then(Export::layer))
        .init();
}

/// What is nobody's news: notices of a database that what is created exists already, and each
/// acknowledgement of its log.
const QUIET: [&str; 2] = ["sqlx::postgres::notice=warn", "pg_walstream=warn"];

/// What is logged.
fn asked() -> EnvFilter {
    let asked = EnvFilter::builder()
        .with_default_directive(LevelFilter::INFO.into())
        .from_env_lossy();
    let quiet = QUIET.iter().filter_map(|quiet| quiet.parse().ok());
    quiet.fold(asked, EnvFilter::add_directive)
}

/// Begins to log JSON lines into a file, which is created readable by its owner only.
pub(crate) fn start_in_file(path: &Path) -> anyhow::Result<()> {
    let file = crate::serve::launch::open_log(path)?;
    let asked = asked();
    let lines = tracing_subscriber::fmt::layer()
        .json()
        .flatten_event(true)
        .with_writer(Mutex::new(file));
    tracing_subscriber::registry()
        .with(lines.with_filter(asked))
        .with(telemetry::export().and_then(Export::layer))
        .init();
    Ok(())
}

/// Writes lines around the one that is rewritten.
struct Lines(Printer);

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Line<'a>;

    fn make_writer(&'a self) -> Self::Writer {
        Line(&self.0)
    }
}

struct Line<'a>(&'a Printer);

impl Write for Line<'_> {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        self.0
            .bar()
            .suspend(|| io::stderr().lock().write_all(text))?;
        Ok(text.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().lock().flush()
    }
}
