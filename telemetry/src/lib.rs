//! Where the numbers and the spans of Ledger go: to Prometheus ([`PrometheusRecorder`]) and to an
//! OpenTelemetry collector ([`OtelRecorder`], [`Export`]).
//!
//! A store, a sink or a bridge is observed by [`ledger_core::Observed`] with one of these
//! recorders, or with several of them ([`Recorders`]).

mod export;
mod otel;
mod parent;
mod prometheus;

use std::sync::Arc;
use std::time::Duration;

use ledger_core::PipelineId;
use ledger_core::observe::{Operation, Poll, Recorder};

pub use self::export::Export;
pub use self::otel::OtelRecorder;
pub use self::parent::continue_trace;
pub use self::prometheus::PrometheusRecorder;

/// Several recorders as one.
#[derive(Debug, Clone, Default)]
pub struct Recorders(Vec<Arc<dyn Recorder>>);

impl Recorders {
    /// Tells each of these of everything, in this order.
    pub fn new(recorders: impl IntoIterator<Item = Arc<dyn Recorder>>) -> Self {
        Self(recorders.into_iter().collect())
    }
}

impl Recorder for Recorders {
    fn operation(&self, operation: &Operation<'_>) {
        for recorder in &self.0 {
            recorder.operation(operation);
        }
    }

    fn poll(&self, poll: &Poll<'_>) {
        for recorder in &self.0 {
            recorder.poll(poll);
        }
    }

    fn skipped(&self, bridge: &PipelineId, kind: &'static str) {
        for recorder in &self.0 {
            recorder.skipped(bridge, kind);
        }
    }

    fn lag(&self, bridge: &PipelineId, lag: Duration) {
        for recorder in &self.0 {
            recorder.lag(bridge, lag);
        }
    }
}

/// The upper bounds of the buckets for durations, in seconds.
const BUCKETS: [f64; 14] = [
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0,
];

/// The value of the attribute `status`.
fn status(failed: bool) -> &'static str {
    if failed { "error" } else { "success" }
}
