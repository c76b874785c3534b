//! Numbers for an OpenTelemetry meter.

use std::time::Duration;

use ledger_core::PipelineId;
use ledger_core::observe::{Operation, OperationKind, Poll, Recorder, error_type};
use opentelemetry::KeyValue;
use opentelemetry::metrics::{Counter, Gauge, Histogram, Meter};

use crate::{BUCKETS, status};

/// Records with the instruments of an OpenTelemetry meter: `ledger.operations.total` and its like.
#[derive(Debug, Clone)]
pub struct OtelRecorder {
    streams: bool,
    operations: Counter<u64>,
    errors: Counter<u64>,
    duration: Histogram<f64>,
    appended: Counter<u64>,
    read: Counter<u64>,
    trimmed: Counter<u64>,
    polls: Counter<u64>,
    poll_duration: Histogram<f64>,
    applied: Counter<u64>,
    skipped: Counter<u64>,
    failed: Counter<u64>,
    lag: Gauge<f64>,
}

impl OtelRecorder {
    /// Makes the instruments. Numbers are not told apart by stream.
    pub fn new(meter: &Meter) -> Self {
        let count = |name: &'static str, unit: &'static str, what: &'static str| {
            let counter = meter.u64_counter(name);
            counter.with_unit(unit).with_description(what).build()
        };
        let seconds = |name: &'static str, what: &'static str| {
            meter
                .f64_histogram(name)
                .with_unit("s")
                .with_description(what)
                .with_boundaries(BUCKETS.to_vec())
                .build()
        };
        Self {
            streams: false,
            operations: count("ledger.operations.total", "{operation}", "Calls to stores."),
            errors: count("ledger.errors.total", "{error}", "Calls that failed."),
            duration: seconds("ledger.operation.duration", "How long calls take."),
            appended: count("ledger.entries.appended", "{entry}", "Entries appended."),
            read: count("ledger.entries.read", "{entry}", "Entries read or found."),
            trimmed: count("ledger.entries.trimmed", "{entry}", "Entries trimmed."),
            polls: count("ledger.bridge.polls", "{poll}", "Deliveries of bridges."),
            poll_duration: seconds("ledger.bridge.poll.duration", "How long deliveries take."),
            applied: count(
                "ledger.bridge.mutations.applied",
                "{mutation}",
                "Mutations delivered.",
            ),
            skipped: count(
                "ledger.bridge.mutations.skipped",
                "{mutation}",
                "Mutations left out as configured.",
            ),
            failed: count(
                "ledger.bridge.mutations.errors",
                "{mutation}",
                "Mutations in deliveries that failed.",
            ),
            lag: meter
                .f64_gauge("ledger.bridge.lag")
                .with_unit("s")
                .with_description("The age of the oldest mutation not delivered.")
                .build(),
        }
    }

    /// Tells numbers apart by stream as well, in the attribute `ledger.stream`. Each stream is a
    /// series of its own in whatever stores them: for a store of few streams only.
    #[must_use]
    pub fn by_stream(mut self) -> Self {
        self.streams = true;
        self
    }
}

impl Recorder for OtelRecorder {
    fn operation(&self, operation: &Operation<'_>) {
        let mut attributes = Vec::with_capacity(5);
        attributes.push(KeyValue::new("operation", operation.kind.as_str()));
        attributes.push(KeyValue::new("ledger.backend", operation.backend));
        attributes.push(KeyValue::new(
            "ledger.store_type",
            operation.store.as_str().to_owned(),
        ));
        if let Some(stream) = operation.stream.filter(|_| self.streams) {
            attributes.push(KeyValue::new("ledger.stream", stream.as_str().to_owned()));
        }
        self.operations.add(1, &attributes);
        self.duration
            .record(operation.took.as_secs_f64(), &attributes);
        if operation.entries > 0 {
            let entries = match operation.kind {
                OperationKind::Append => Some(&self.appended),
                OperationKind::Trim => Some(&self.trimmed),
                OperationKind::Read | OperationKind::Search => Some(&self.read),
                _ => None,
            };
            if let Some(entries) = entries {
                entries.add(operation.entries, &attributes);
            }
        }
        if let Some(error) = operation.error {
            attributes.push(KeyValue::new("error_type", error_type(error)));
            self.errors.add(1, &attributes);
        }
    }

    fn poll(&self, poll: &Poll<'_>) {
        let name = KeyValue::new("bridge.name", poll.bridge.as_str().to_owned());
        let status = KeyValue::new("status", status(poll.error.is_some()));
        let attributes = [name.clone(), status];
        self.polls.add(1, &attributes);
        self.poll_duration
            .record(poll.took.as_secs_f64(), &attributes);
        let mutations = match poll.error {
            None => &self.applied,
            Some(_) => &self.failed,
        };
        for (kind, count) in poll.mutations {
            let kind = KeyValue::new("mutation.type", *kind);
            mutations.add(*count, &[name.clone(), kind]);
        }
    }

    fn skipped(&self, bridge: &PipelineId, kind: &'static str) {
        let name = KeyValue::new("bridge.name", bridge.as_str().to_owned());
        let kind = KeyValue::new("mutation.type", kind);
        self.skipped.add(1, &[name, kind]);
    }

    fn lag(&self, bridge: &PipelineId, lag: Duration) {
        let name = KeyValue::new("bridge.name", bridge.as_str().to_owned());
        self.lag.record(lag.as_secs_f64(), &[name]);
    }
}
