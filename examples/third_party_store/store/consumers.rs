//! Consumers, their leases, and dead letters.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use ledger_core::{
    Consumer, Consumers, Cursor, DeadLetter, DeadLetters, Error, ErrorKind, Lease, PipelineId,
    Result, StreamKey, Timestamp,
};

use super::MemoryStore;
use super::state::State;

/// A consumer as it is kept.
#[derive(Debug, Clone)]
pub(super) struct Registered {
    pub(super) confirmed: Cursor,
    confirmed_at: Timestamp,
    lease: Option<(String, Instant)>,
    paused: bool,
}

impl Registered {
    fn new(confirmed: &Cursor) -> Self {
        let confirmed_at = Timestamp::now();
        Self {
            confirmed: confirmed.clone(),
            confirmed_at,
            lease: None,
            paused: false,
        }
    }

    /// Who has the lease now.
    fn holder(&self) -> Option<&str> {
        let (holder, until) = self.lease.as_ref()?;
        (Instant::now() < *until).then_some(holder)
    }

    fn move_to(&mut self, at: &Cursor) {
        self.confirmed = at.clone();
        self.confirmed_at = Timestamp::now();
    }
}

impl State {
    fn consumer(&mut self, pipeline: &PipelineId) -> Result<&mut Registered> {
        self.consumers.get_mut(pipeline).ok_or_else(|| {
            let context = format!("consumer {pipeline} is not registered");
            Error::new(ErrorKind::NotFound, "find consumer", context)
        })
    }
}

#[async_trait]
impl Consumers for MemoryStore {
    async fn register(&self, pipeline: &PipelineId, at: &Cursor) -> Result<()> {
        self.mutate(|state| {
            state
                .consumers
                .entry(pipeline.clone())
                .or_insert_with(|| Registered::new(at));
            Ok(())
        })
        .await
    }

    async fn confirm(&self, pipeline: &PipelineId, at: &Cursor) -> Result<()> {
        self.mutate(|state| {
            let consumer = state.consumer(pipeline)?;
            if *at > consumer.confirmed {
                consumer.move_to(at);
            }
            Ok(())
        })
        .await
    }

    async fn reset(&self, pipeline: &PipelineId, at: &Cursor) -> Result<()> {
        self.mutate(|state| {
            state.consumer(pipeline)?.move_to(at);
            Ok(())
        })
        .await
    }

    async fn unregister(&self, pipeline: &PipelineId) -> Result<()> {
        self.mutate(|state| {
            state.consumers.remove(pipeline);
            state.letters.retain(|(of, _), _| of != pipeline);
            Ok(())
        })
        .await
    }

    async fn list(&self) -> Result<Vec<Consumer>> {
        self.view(|state| {
            let consumer = |(pipeline, registered): (&PipelineId, &Registered)| Consumer {
                pipeline: pipeline.clone(),
                confirmed: registered.confirmed.clone(),
                confirmed_at: registered.confirmed_at,
                holder: registered.holder().map(str::to_owned),
                paused: registered.paused,
            };
            Ok(state.consumers.iter().map(consumer).collect())
        })
    }

    async fn lease(&self, pipeline: &PipelineId, holder: &str, ttl: Duration) -> Result<Lease> {
        self.mutate(|state| {
            let consumer = state.consumer(pipeline)?;
            if let Some(other) = consumer.holder().filter(|other| *other != holder) {
                return Ok(Lease::HeldBy {
                    holder: other.to_owned(),
                });
            }
            consumer.lease = Some((holder.to_owned(), Instant::now() + ttl));
            Ok(Lease::Held {
                paused: consumer.paused,
            })
        })
        .await
    }

    async fn release(&self, pipeline: &PipelineId, holder: &str) -> Result<()> {
        self.mutate(|state| {
            let consumer = state.consumer(pipeline)?;
            consumer.lease.take_if(|(by, _)| by == holder);
            Ok(())
        })
        .await
    }

    async fn set_paused(&self, pipeline: &PipelineId, paused: bool) -> Result<()> {
        self.mutate(|state| {
            state.consumer(pipeline)?.paused = paused;
            Ok(())
        })
        .await
    }
}

#[async_trait]
impl DeadLetters for MemoryStore {
    async fn park(&self, letters: Vec<DeadLetter>) -> Result<()> {
        self.mutate(|state| {
            for letter in letters {
                let key = (letter.pipeline.clone(), letter.cursor.clone());
                state.letters.entry(key).or_insert(letter);
            }
            Ok(())
        })
        .await
    }

    async fn list(
        &self,
        pipeline: &PipelineId,
        after: Option<&Cursor>,
        limit: usize,
    ) -> Result<Vec<DeadLetter>> {
        self.view(|state| {
            let behind = |letter: &&DeadLetter| after.is_none_or(|after| letter.cursor > *after);
            Ok(letters(state, pipeline)
                .filter(behind)
                .take(limit)
                .cloned()
                .collect())
        })
    }

    async fn parked_keys(&self, pipeline: &PipelineId) -> Result<Vec<StreamKey>> {
        self.view(|state| {
            let keys: BTreeSet<_> = letters(state, pipeline).map(|letter| letter.key).collect();
            Ok(keys.into_iter().collect())
        })
    }

    async fn count(&self, pipeline: &PipelineId) -> Result<u64> {
        self.view(|state| Ok(u64::try_from(letters(state, pipeline).count()).unwrap_or(u64::MAX)))
    }

    async fn remove(&self, pipeline: &PipelineId, cursors: &[Cursor]) -> Result<()> {
        self.mutate(|state| {
            for cursor in cursors {
                state.letters.remove(&(pipeline.clone(), cursor.clone()));
            }
            Ok(())
        })
        .await
    }
}

/// A pipeline's letters in log order.
fn letters<'a>(state: &'a State, pipeline: &'a PipelineId) -> impl Iterator<Item = &'a DeadLetter> {
    state
        .letters
        .iter()
        .filter(move |((of, _), _)| of == pipeline)
        .map(|(_, letter)| letter)
}
