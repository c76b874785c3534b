//! The sink: batches of a pipeline as deliveries, one after the other.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use ledger_core::hook::{Delivery, Endpoint, Outcome};
use ledger_core::{
    Batch, Change, CursorStore, Error, ErrorKind, Mutation, Result, Sink, StoreName,
};
use uuid::Uuid;

use super::{WebhookConfig, WebhookEndpoint};

/// The most entries of one request.
const ENTRIES: usize = 500;

/// Posts what a pipeline carries: each batch is cut where the stream or the kind changes, and its
/// parts are posted in order, each once the one before has been taken.
///
/// `Unavailable` is what may be taken another time, `Rejected` what will not be. It keeps no cursors.
/// The form `compat` carries appends, and lets everything else pass.
///
/// A batch that is delivered again with other borders has other ids: a receiver goes by the ids of
/// entries.
pub struct WebhookSink {
    endpoint: Arc<dyn Endpoint>,
    store: StoreName,
    appends_only: bool,
    most: usize,
}

impl WebhookSink {
    /// A sink for the changes of `store`.
    pub fn new(config: WebhookConfig, store: StoreName) -> Result<Self> {
        Self::over(config, store, |endpoint| endpoint)
    }

    /// The same as the target of a bridge: entries' ids are called `source_id`.
    pub fn of_replica(config: WebhookConfig, store: StoreName) -> Result<Self> {
        Self::over(config, store, WebhookEndpoint::of_replica)
    }

    fn over(
        config: WebhookConfig,
        store: StoreName,
        with: impl FnOnce(WebhookEndpoint) -> WebhookEndpoint,
    ) -> Result<Self> {
        use super::Format;
        let appends_only = config.format == Format::Compat;
        let single = config.format == Format::CloudEvents { batched: false };
        Ok(Self {
            endpoint: Arc::new(with(WebhookEndpoint::new(config)?)),
            store,
            appends_only,
            most: if single { 1 } else { ENTRIES },
        })
    }

    /// The parts of a batch, in its order.
    fn parts(&self, batch: &Batch<Change>) -> Vec<Vec<Change>> {
        let mut parts: Vec<Vec<Change>> = Vec::new();
        for (_, change) in &batch.items {
            let append = matches!(change.mutation, Mutation::Append { .. });
            let state = matches!(change.mutation, Mutation::Stream(_));
            if state || (self.appends_only && !append) {
                continue;
            }
            let joins = |part: &Vec<Change>| {
                append
                    && part.len() < self.most
                    && part.last().is_some_and(|last| {
                        last.stream.key == change.stream.key
                            && last.stream.name == change.stream.name
                            && matches!(last.mutation, Mutation::Append { .. })
                    })
            };
            match parts.last_mut().filter(|part| joins(part)) {
                Some(part) => part.push(change.clone()),
                None => parts.push(vec![change.clone()]),
            }
        }
        parts
    }
}

#[async_trait]
impl Sink<Change> for WebhookSink {
    async fn deliver(&self, batch: &Batch<Change>) -> Result<()> {
        for part in self.parts(batch) {
            let delivery = Delivery::new(&batch.pipeline, Uuid::nil(), &self.store, part);
            let Some(delivery) = delivery else { continue };
            let answer = self.endpoint.post(&delivery).await?;
            let kind = match answer.outcome {
                Outcome::Delivered => continue,
                Outcome::Failed | Outcome::Throttled => ErrorKind::Unavailable,
                Outcome::Refused | Outcome::Gone => ErrorKind::Rejected,
            };
            let what = format!("{}: {}", self.endpoint, answer.error.unwrap_or_default());
            return Err(Error::new(kind, "post webhook", what));
        }
        Ok(())
    }

    fn cursors(&self) -> Option<&dyn CursorStore> {
        None
    }
}

impl fmt::Display for WebhookSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.endpoint.fmt(f)
    }
}

impl fmt::Debug for WebhookSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WebhookSink({self})")
    }
}
