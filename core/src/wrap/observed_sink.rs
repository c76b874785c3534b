//! A sink whose deliveries are traced and counted.

use std::time::Instant;

use async_trait::async_trait;
use tracing::field;

use super::Observed;
use super::observed::traced;
use crate::observe::Poll;
use crate::{Batch, CursorStore, Item, Replica, Result, Sink};

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl<T: Item, S: Sink<T>> Sink<T> for Observed<S> {
    async fn deliver(&self, batch: &Batch<T>) -> Result<()> {
        let span = tracing::debug_span!(
            "ledger.bridge.Poll",
            bridge.name = batch.pipeline.as_str(),
            mutations = batch.items.len(),
            error_type = field::Empty,
            otel.status_code = field::Empty,
        );
        let Some(recorder) = self.recorder() else {
            return traced(span, self.inner().deliver(batch)).await;
        };
        let begun = Instant::now();
        let answer = traced(span, self.inner().deliver(batch)).await;
        recorder.poll(&Poll {
            bridge: &batch.pipeline,
            took: begun.elapsed(),
            mutations: &by_kind(batch),
            error: answer.as_ref().err(),
        });
        answer
    }

    fn cursors(&self) -> Option<&dyn CursorStore> {
        self.inner().cursors()
    }

    fn replica(&self) -> Option<&dyn Replica> {
        self.inner().replica()
    }
}

/// How many mutations of each kind there are. There are so few kinds that a list is shorter than a
/// map.
fn by_kind<T: Item>(batch: &Batch<T>) -> Vec<(&'static str, u64)> {
    let mut counts: Vec<(&'static str, u64)> = Vec::new();
    for (_, item) in &batch.items {
        let kind = item.kind();
        match counts.iter_mut().find(|(other, _)| *other == kind) {
            Some((_, count)) => *count += 1,
            None => counts.push((kind, 1)),
        }
    }
    counts
}
