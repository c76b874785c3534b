//! The registered consumers of the log, and their leases.

use std::time::Duration;

use async_trait::async_trait;
use ledger_core::{
    Consumer, Consumers, Cursor, Error, ErrorKind, Lease, PipelineId, Result, Timestamp,
};
use ledger_layout::clickhouse::{LOG_TAG, States};
use ledger_layout::log::Position;
use serde::{Deserialize, Serialize};

use super::dead_letters::ClickHouseDeadLetters;
use super::prune::pruned_through;
use super::store::Open;

const KIND: &str = "consumer";

/// The consumers of a store's log.
#[derive(Debug)]
pub(super) struct ClickHouseConsumers {
    pub(super) open: Open,
    pub(super) states: States,
    pub(super) dead_letters: ClickHouseDeadLetters,
}

/// A consumer as it is stored.
#[derive(Debug, Serialize, Deserialize)]
struct Stored {
    confirmed: String,
    seq: i64,
    /// Microseconds, by the server's clock.
    confirmed_at: i64,
    holder: Option<String>,
    /// Microseconds, by the server's clock.
    leased_until: i64,
    paused: bool,
}

impl Stored {
    fn parse(operation: &'static str, text: &str) -> Result<Self> {
        serde_json::from_str(text).map_err(|error| {
            Error::new(ErrorKind::Corrupt, operation, "a stored consumer").with_source(error)
        })
    }

    fn text(&self, operation: &'static str) -> Result<String> {
        serde_json::to_string(self).map_err(|error| {
            Error::new(ErrorKind::Internal, operation, "encode a consumer").with_source(error)
        })
    }

    fn holder_at(&self, now: Timestamp) -> Option<&String> {
        let held = self.leased_until > now.as_micros();
        self.holder.as_ref().filter(|_| held)
    }
}

/// The row that the slowest registered consumer has confirmed; none where there are none.
pub(super) async fn slowest(operation: &'static str, states: &States) -> Result<Option<i64>> {
    let (listed, _) = states.list(operation, KIND).await?;
    let mut slowest = None;
    for (_, text) in listed {
        let seq = Stored::parse(operation, &text)?.seq;
        slowest = Some(slowest.map_or(seq, |other: i64| other.min(seq)));
    }
    Ok(slowest)
}

fn unknown(operation: &'static str, pipeline: &PipelineId) -> Error {
    let what = format!("consumer {pipeline} is not registered");
    Error::new(ErrorKind::NotFound, operation, what)
}

impl ClickHouseConsumers {
    /// Changes a consumer that is registered.
    async fn change<T: Send>(
        &self,
        operation: &'static str,
        pipeline: &PipelineId,
        change: impl Fn(&mut Stored, Timestamp) -> T + Send + Sync,
    ) -> Result<T> {
        self.open.check(operation)?;
        self.states
            .update(operation, KIND, pipeline.as_str(), |text, now| {
                if text.is_empty() {
                    return Err(unknown(operation, pipeline));
                }
                let mut stored = Stored::parse(operation, text)?;
                let answer = change(&mut stored, now);
                Ok((Some(stored.text(operation)?), answer))
            })
            .await
    }
}

#[async_trait]
impl Consumers for ClickHouseConsumers {
    async fn register(&self, pipeline: &PipelineId, at: &Cursor) -> Result<()> {
        const OPERATION: &str = "register consumer";
        self.open.check(OPERATION)?;
        let seq = Position::from_cursor(at, LOG_TAG)?.seq;
        let registered = self
            .states
            .update(OPERATION, KIND, pipeline.as_str(), |text, now| {
                if !text.is_empty() {
                    return Ok((None, false));
                }
                let stored = Stored {
                    confirmed: at.to_string(),
                    seq,
                    confirmed_at: now.as_micros(),
                    holder: None,
                    leased_until: 0,
                    paused: false,
                };
                Ok((Some(stored.text(OPERATION)?), true))
            })
            .await?;
        // Looked at afterwards: what is pruned from now on, the consumer keeps.
        let pruned = if registered {
            pruned_through(OPERATION, &self.states).await?
        } else {
            0
        };
        if pruned > 0 && seq <= pruned {
            self.unregister(pipeline).await?;
            let what = format!(
                "consumer {pipeline}: the log was pruned through row {pruned}; start it at the \
                 log's head, with a snapshot"
            );
            return Err(Error::new(ErrorKind::CursorExpired, OPERATION, what));
        }
        Ok(())
    }

    async fn confirm(&self, pipeline: &PipelineId, at: &Cursor) -> Result<()> {
        const OPERATION: &str = "confirm";
        let seq = Position::from_cursor(at, LOG_TAG)?.seq;
        let text = at.to_string();
        self.change(OPERATION, pipeline, |stored, now| {
            // The digits of cursors of one kind and length are in their order.
            if stored.confirmed < text {
                stored.confirmed.clone_from(&text);
                stored.seq = seq;
            }
            stored.confirmed_at = now.as_micros();
        })
        .await
    }

    async fn reset(&self, pipeline: &PipelineId, at: &Cursor) -> Result<()> {
        const OPERATION: &str = "reset consumer";
        let seq = Position::from_cursor(at, LOG_TAG)?.seq;
        self.change(OPERATION, pipeline, |stored, now| {
            stored.confirmed = at.to_string();
            stored.seq = seq;
            stored.confirmed_at = now.as_micros();
        })
        .await
    }

    async fn unregister(&self, pipeline: &PipelineId) -> Result<()> {
        const OPERATION: &str = "unregister consumer";
        self.open.check(OPERATION)?;
        let forget = |_: &str, _| Ok((Some(String::new()), ()));
        self.states
            .update(OPERATION, KIND, pipeline.as_str(), forget)
            .await?;
        self.dead_letters.forget(pipeline).await
    }

    async fn list(&self) -> Result<Vec<Consumer>> {
        const OPERATION: &str = "list consumers";
        self.open.check(OPERATION)?;
        let (listed, now) = self.states.list(OPERATION, KIND).await?;
        listed
            .into_iter()
            .map(|(pipeline, text)| {
                let stored = Stored::parse(OPERATION, &text)?;
                Ok(Consumer {
                    pipeline: PipelineId::new(pipeline)?,
                    confirmed: stored.confirmed.parse()?,
                    confirmed_at: Timestamp::from_micros(stored.confirmed_at),
                    holder: stored.holder_at(now).cloned(),
                    paused: stored.paused,
                })
            })
            .collect()
    }

    async fn lease(&self, pipeline: &PipelineId, holder: &str, ttl: Duration) -> Result<Lease> {
        let ttl = i64::try_from(ttl.as_micros()).unwrap_or(i64::MAX);
        self.change("take lease", pipeline, |stored, now| {
            if let Some(other) = stored.holder_at(now).filter(|other| *other != holder) {
                let holder = other.clone();
                return Lease::HeldBy { holder };
            }
            stored.holder = Some(holder.to_owned());
            stored.leased_until = now.as_micros().saturating_add(ttl);
            let paused = stored.paused;
            Lease::Held { paused }
        })
        .await
    }

    async fn release(&self, pipeline: &PipelineId, holder: &str) -> Result<()> {
        const OPERATION: &str = "release lease";
        let released = self
            .change(OPERATION, pipeline, |stored, _| {
                if stored.holder.as_deref() == Some(holder) {
                    stored.holder = None;
                    stored.leased_until = 0;
                }
            })
            .await;
        match released {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            released => released,
        }
    }

    async fn set_paused(&self, pipeline: &PipelineId, paused: bool) -> Result<()> {
        self.change("pause pipeline", pipeline, |stored, _| {
            stored.paused = paused;
        })
        .await
    }
}
