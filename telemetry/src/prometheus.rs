//! Numbers for a scrape.

use std::time::Duration;

use ledger_core::observe::{Operation, OperationKind, Poll, Recorder, error_type};
use ledger_core::{Error, ErrorKind, PipelineId, Result};
use prometheus::{
    Encoder as _, HistogramOpts, HistogramVec, IntCounterVec, Opts, Registry, TextEncoder,
};

use crate::{BUCKETS, status};

const OPERATION: [&str; 3] = ["operation", "ledger_backend", "ledger_store_type"];
const ERROR: [&str; 4] = [
    "operation",
    "ledger_backend",
    "ledger_store_type",
    "error_type",
];
const POLL: [&str; 2] = ["bridge_name", "status"];
const MUTATION: [&str; 2] = ["bridge_name", "mutation_type"];

/// Keeps the numbers, and renders them in Prometheus' text format: `ledger_operations_total` and
/// its like. A series begins with its first event. Numbers are not told apart by stream.
///
/// The lag is not among them: whoever renders it asks the bridge, which knows it at that moment.
#[derive(Debug, Clone)]
pub struct PrometheusRecorder {
    registry: Registry,
    operations: IntCounterVec,
    errors: IntCounterVec,
    duration: HistogramVec,
    appended: IntCounterVec,
    read: IntCounterVec,
    trimmed: IntCounterVec,
    polls: IntCounterVec,
    poll_duration: HistogramVec,
    applied: IntCounterVec,
    skipped: IntCounterVec,
    failed: IntCounterVec,
}

impl PrometheusRecorder {
    /// A recorder with nothing counted yet. `Internal` where the names of two numbers are the same,
    /// which is a bug.
    pub fn new() -> Result<Self> {
        Self::build().map_err(|error| {
            let context = "a number cannot be registered";
            Error::new(ErrorKind::Internal, "make metrics", context).with_source(error)
        })
    }

    fn build() -> prometheus::Result<Self> {
        let registry = Registry::new();
        let count = |name: &str, help: &str, labels: &[&str]| {
            let counter = IntCounterVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(counter.clone()))?;
            prometheus::Result::Ok(counter)
        };
        let seconds = |name: &str, help: &str, labels: &[&str]| {
            let options = HistogramOpts::new(name, help).buckets(BUCKETS.to_vec());
            let histogram = HistogramVec::new(options, labels)?;
            registry.register(Box::new(histogram.clone()))?;
            prometheus::Result::Ok(histogram)
        };
        Ok(Self {
            operations: count("ledger_operations_total", "Calls to stores.", &OPERATION)?,
            errors: count("ledger_errors_total", "Calls that failed.", &ERROR)?,
            duration: seconds(
                "ledger_operation_duration_seconds",
                "How long calls to stores take.",
                &OPERATION,
            )?,
            appended: count(
                "ledger_entries_appended_total",
                "Entries appended.",
                &OPERATION,
            )?,
            read: count(
                "ledger_entries_read_total",
                "Entries read or found.",
                &OPERATION,
            )?,
            trimmed: count(
                "ledger_entries_trimmed_total",
                "Entries trimmed.",
                &OPERATION,
            )?,
            polls: count("ledger_bridge_polls_total", "Deliveries of bridges.", &POLL)?,
            poll_duration: seconds(
                "ledger_bridge_poll_duration_seconds",
                "How long deliveries take.",
                &POLL,
            )?,
            applied: count(
                "ledger_bridge_mutations_applied_total",
                "Mutations delivered.",
                &MUTATION,
            )?,
            skipped: count(
                "ledger_bridge_mutations_skipped_total",
                "Mutations left out as configured.",
                &MUTATION,
            )?,
            failed: count(
                "ledger_bridge_mutations_errors_total",
                "Mutations in deliveries that failed.",
                &MUTATION,
            )?,
            registry,
        })
    }

    /// All numbers in the text format, version 0.0.4.
    pub fn render(&self) -> Result<String> {
        let cannot = |error: Box<dyn std::error::Error + Send + Sync>| {
            let context = "the numbers cannot be written";
            Error::new(ErrorKind::Internal, "render metrics", context).with_source(error)
        };
        let mut text = Vec::new();
        TextEncoder::new()
            .encode(&self.registry.gather(), &mut text)
            .map_err(|error| cannot(error.into()))?;
        String::from_utf8(text).map_err(|error| cannot(error.into()))
    }
}

impl Recorder for PrometheusRecorder {
    fn operation(&self, operation: &Operation<'_>) {
        let kind = operation.kind.as_str();
        let labels = [kind, operation.backend, operation.store.as_str()];
        self.operations.with_label_values(&labels).inc();
        self.duration
            .with_label_values(&labels)
            .observe(operation.took.as_secs_f64());
        if operation.entries > 0 {
            let entries = match operation.kind {
                OperationKind::Append => Some(&self.appended),
                OperationKind::Trim => Some(&self.trimmed),
                OperationKind::Read | OperationKind::Search => Some(&self.read),
                _ => None,
            };
            if let Some(entries) = entries {
                entries.with_label_values(&labels).inc_by(operation.entries);
            }
        }
        if let Some(error) = operation.error {
            let [kind, backend, store] = labels;
            self.errors
                .with_label_values(&[kind, backend, store, error_type(error)])
                .inc();
        }
    }

    fn poll(&self, poll: &Poll<'_>) {
        let name = poll.bridge.as_str();
        let labels = [name, status(poll.error.is_some())];
        self.polls.with_label_values(&labels).inc();
        self.poll_duration
            .with_label_values(&labels)
            .observe(poll.took.as_secs_f64());
        let mutations = match poll.error {
            None => &self.applied,
            Some(_) => &self.failed,
        };
        for (kind, count) in poll.mutations {
            mutations.with_label_values(&[name, kind]).inc_by(*count);
        }
    }

    fn skipped(&self, bridge: &PipelineId, kind: &'static str) {
        self.skipped
            .with_label_values(&[bridge.as_str(), kind])
            .inc();
    }

    fn lag(&self, _: &PipelineId, _: Duration) {}
}
