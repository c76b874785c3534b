//! Where the daemon's spans and numbers go.

use std::sync::{Arc, OnceLock};

use ledger::observe::Recorder;
use ledger_telemetry::{Export, PrometheusRecorder, Recorders};

/// The export that the environment asks for. It belongs to the process, as the subscriber of its
/// log lines does.
static EXPORT: OnceLock<Export> = OnceLock::new();

/// Begins to export, where the environment asks for it. To be called within the runtime.
pub(crate) fn start() -> anyhow::Result<()> {
    if let Some(export) = Export::from_environment()? {
        EXPORT.get_or_init(|| export);
    }
    Ok(())
}

/// The export, where there is one.
pub(crate) fn export() -> Option<&'static Export> {
    EXPORT.get()
}

/// Sends what is left. It blocks until that is done or took too long.
pub(crate) fn end() {
    if let Some(export) = export() {
        export.end();
    }
}

/// What counts in a daemon.
#[derive(Debug, Clone)]
pub(crate) struct Counted {
    /// For `/metrics`, always.
    pub(crate) scraped: PrometheusRecorder,
    /// For everything that is observed.
    pub(crate) recorder: Arc<dyn Recorder>,
}

impl Counted {
    pub(crate) fn new() -> ledger::Result<Self> {
        let scraped = PrometheusRecorder::new()?;
        let own: Arc<dyn Recorder> = Arc::new(scraped.clone());
        let recorder = match export().and_then(Export::recorder) {
            Some(exported) => Arc::new(Recorders::new([own, exported])),
            None => own,
        };
        Ok(Self { scraped, recorder })
    }
}
