//! What came of deliveries.

use ledger_core::hook::{Answer, Delivery, Outcome};
use ledger_core::observe::Poll;
use ledger_core::{Error, ErrorKind, Item as _, Result, StreamKey};
use tokio::time::Instant;

use super::{Carrier, Event};
use crate::hook::attempt;

impl Carrier<'_> {
    pub(super) fn event(&mut self, event: Event) -> Result<()> {
        match event {
            Event::Loaded { stream, at, found } => self.loaded(stream, at, &found?),
            Event::Sent {
                stream,
                delivery,
                answer,
            } => {
                self.under_way = self.under_way.saturating_sub(1);
                match (delivery, answer?) {
                    (Some(delivery), Some(answer)) => self.answered(stream, &delivery, &answer)?,
                    // Somebody has discarded what waited.
                    _ => self.forms_now(stream),
                }
            }
        }
        Ok(())
    }

    /// Deals with an answer.
    pub(super) fn answered(
        &mut self,
        stream: StreamKey,
        delivery: &Delivery,
        answer: &Answer,
    ) -> Result<()> {
        let now = Instant::now();
        self.journal.attempted(attempt(delivery, answer));
        self.count(delivery, answer);
        match answer.outcome {
            Outcome::Delivered => {
                self.pace.success();
                if self.breaker.success() {
                    tracing::info!(hook = %self.pipeline(), "the endpoint answers again");
                    self.hurry(now);
                }
                if self.held.contains_key(&stream) {
                    self.delivered_queued(stream);
                } else {
                    self.delivered(stream);
                }
                return Ok(());
            }
            Outcome::Failed => {
                if self.breaker.failure(stream, now) {
                    let error = answer.error.as_deref().unwrap_or_default();
                    tracing::warn!(hook = %self.pipeline(), error, "the endpoint fails; leaving it alone");
                }
            }
            Outcome::Throttled => self.pace.throttle(answer.retry_after, now),
            // It answers, whatever it says.
            Outcome::Refused | Outcome::Gone => {
                self.breaker.success();
            }
        }
        self.failed(stream, answer, now)
    }

    /// The items of a lane were taken.
    pub(super) fn delivered(&mut self, stream: StreamKey) {
        let Some(lane) = self.lanes.get_mut(&stream) else {
            return;
        };
        let count = std::mem::take(&mut lane.under_way);
        let done: Vec<_> = lane.queue.drain(..count.min(lane.queue.len())).collect();
        let empty = lane.queue.is_empty();
        for item in done {
            self.bytes = self.bytes.saturating_sub(item.change.size());
            self.settle(item.slot, &item.change, false);
        }
        if empty {
            self.lanes.remove(&stream);
        } else {
            self.line_up(stream);
        }
    }

    pub(super) fn count(&self, delivery: &Delivery, answer: &Answer) {
        let items = delivery.changes.len() as u64;
        let failed = answer
            .error
            .as_deref()
            .map(|error| Error::new(ErrorKind::Unavailable, "post webhook", error));
        if let Some(recorder) = &self.hook.options.recorder {
            recorder.poll(&Poll {
                bridge: self.pipeline(),
                took: answer.took,
                mutations: &[(delivery.kind().as_str(), items)],
                error: failed.as_ref(),
            });
        }
        self.hook.stats.update(|stats| {
            if answer.outcome == Outcome::Delivered {
                stats.delivered += items;
                stats.requests += 1;
                stats.bytes += answer.sent as u64;
                stats.last_error = None;
            } else {
                stats.failures += 1;
                stats.last_error.clone_from(&answer.error);
            }
        });
    }
}
