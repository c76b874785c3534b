// A recorder that keeps everything as lines.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use ledger_core::PipelineId;
use ledger_core::observe::{Operation, Poll, Recorder, error_type};

#[derive(Debug, Default)]
pub(crate) struct Recorded(Mutex<Vec<String>>);

impl Recorded {
    #[allow(dead_code, reason = "not every test that has a recorder looks into it")]
    pub(crate) fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn add(&self, line: String) {
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        lines.push(line);
    }
}

impl Recorder for Recorded {
    fn operation(&self, operation: &Operation<'_>) {
        let Operation {
            kind,
            backend,
            store,
            stream,
            entries,
            error,
            ..
        } = operation;
        let stream = stream.map_or("-", |stream| stream.as_str());
        let error = error.map_or("ok", error_type);
        self.add(format!(
            "{kind} {backend}/{store}/{stream} {entries} {error}"
        ));
    }

    fn poll(&self, poll: &Poll<'_>) {
        let error = poll.error.map_or("ok", error_type);
        let mutations: Vec<_> = poll
            .mutations
            .iter()
            .map(|(kind, count)| format!("{kind}={count}"))
            .collect();
        self.add(format!("{} {} {error}", poll.bridge, mutations.join(",")));
    }

    fn skipped(&self, bridge: &PipelineId, kind: &'static str) {
        self.add(format!("{bridge} skipped {kind}"));
    }

    fn lag(&self, bridge: &PipelineId, lag: Duration) {
        self.add(format!("{bridge} {lag:?}"));
    }
}
