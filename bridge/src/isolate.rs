//! Finding the item that a sink refuses, and setting it aside.

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use ledger_core::{
    Batch, Cursor, CursorStore, DeadLetter, Error, ErrorKind, Item, Replica, Result, Sink, Source,
    StreamKey, Timestamp,
};
use tokio::sync::Mutex;

use crate::stats::Shared;
use crate::{BridgeOptions, OnFailure};

/// How many items a sink may refuse in a row, having taken none, before it is the sink that is
/// held to be broken and not the items.
const ALL_REFUSED: usize = 32;

/// A sink that delivers what the inner one takes, and deals with the rest by the policy.
///
/// When the inner sink refuses a batch, its halves are delivered without moving the cursor, and so
/// on down to the items that are refused alone. These are set aside durably, with every later one of
/// their streams, and then the cursor moves. Where everything is refused nothing is set aside.
pub(crate) struct Isolated<T> {
    sink: Arc<dyn Sink<T>>,
    source: Arc<dyn Source<T>>,
    policy: OnFailure,
    timeout: Duration,
    stats: Shared,
    parked: Mutex<HashSet<StreamKey>>,
    /// How many items were refused since the sink took one.
    refused: AtomicUsize,
}

/// Delivers to a sink, which has to answer within `timeout`.
pub(crate) async fn deliver_in_time<T: Item>(
    sink: &dyn Sink<T>,
    batch: &Batch<T>,
    timeout: Duration,
) -> Result<()> {
    let answer = tokio::time::timeout(timeout, sink.deliver(batch)).await;
    answer.unwrap_or_else(|_| {
        Err(Error::new(
            ErrorKind::Unavailable,
            "deliver",
            format!("{sink} gave no answer in {timeout:?}"),
        ))
    })
}

/// An item that is not delivered, and why.
type Aside<T> = (Cursor, T, String);

impl<T: Item> Isolated<T> {
    /// Reads which streams are parked.
    pub(crate) async fn new(
        sink: Arc<dyn Sink<T>>,
        source: Arc<dyn Source<T>>,
        options: &BridgeOptions,
        stats: Shared,
    ) -> Result<Self> {
        // Whatever the policy is now: what was parked before stays parked until it is replayed.
        let parked = source.dead_letters().parked_keys(&options.pipeline).await?;
        Ok(Self {
            sink,
            source,
            policy: options.on_failure,
            timeout: options.delivery_timeout,
            stats,
            parked: Mutex::new(parked.into_iter().collect()),
            refused: AtomicUsize::new(0),
        })
    }

    async fn send(&self, batch: &Batch<T>) -> Result<()> {
        deliver_in_time(self.sink.as_ref(), batch, self.timeout).await
    }

    async fn park(&self, batch: &Batch<T>, items: &[Aside<T>]) -> Result<()> {
        if items.is_empty() {
            return Ok(());
        }
        let letters = items
            .iter()
            .map(|(cursor, change, reason)| letter(&batch.pipeline, cursor, change, reason))
            .collect::<Result<Vec<_>>>()?;
        self.source.dead_letters().park(letters).await?;
        self.stats
            .update(|stats| stats.parked += items.len() as u64);
        Ok(())
    }

    /// Splits off what belongs to parked streams.
    async fn without_parked(&self, batch: &Batch<T>) -> Result<Option<Batch<T>>> {
        let parked = self.parked.lock().await;
        let is_parked = |change: &T| parked.contains(&change.key());
        if parked.is_empty() || !batch.items.iter().any(|(_, change)| is_parked(change)) {
            return Ok(None);
        }
        let (behind, rest): (Vec<_>, Vec<_>) = batch
            .items
            .iter()
            .cloned()
            .partition(|(_, change)| is_parked(change));
        drop(parked);
        let behind: Vec<_> = behind_parked(behind).collect();
        self.park(batch, &behind).await?;
        Ok(Some(Batch {
            items: rest,
            ..batch.clone()
        }))
    }

    /// Delivers the halves of a refused batch, and of these the refused ones, and so on.
    async fn bisect(&self, refused: &Batch<T>, error: Error) -> Result<()> {
        let mut pending = vec![(refused.items.clone(), Some(error))];
        let (mut aside, mut blocked) = (Vec::new(), HashSet::new());
        let before = self.refused.load(Ordering::Relaxed);
        let (mut taken, mut refusals) = (false, 0);
        while let Some((mut items, error)) = pending.pop() {
            if !blocked.is_empty() {
                let (behind, rest) = items
                    .into_iter()
                    .partition(|(_, change)| blocked.contains(&change.key()));
                items = rest;
                aside.extend(behind_parked(behind));
            }
            if items.is_empty() {
                continue;
            }
            let part = Batch {
                items,
                ack: None,
                ..refused.clone()
            };
            let error = match error {
                Some(error) => error,
                None => match self.send(&part).await {
                    Ok(()) => {
                        taken = true;
                        continue;
                    }
                    Err(error) if error.kind() == ErrorKind::Rejected => error,
                    Err(error) => return Err(error),
                },
            };
            let mut items = part.items;
            if items.len() > 1 {
                let right = items.split_off(items.len() / 2);
                pending.push((right, None));
                pending.push((items, None));
                continue;
            }
            refusals += 1;
            if !taken && before + refusals >= ALL_REFUSED {
                return Err(error.within(format!(
                    "the sink refused {} items in a row",
                    before + refusals
                )));
            }
            for (cursor, change) in items {
                if self.policy == OnFailure::Park {
                    blocked.insert(change.key());
                }
                aside.push((cursor, change, error.chain()));
            }
        }
        let row = if taken { 0 } else { before + refusals };
        self.refused.store(row, Ordering::Relaxed);
        self.set_aside(refused, aside).await?;
        self.parked.lock().await.extend(blocked);
        Ok(())
    }

    async fn set_aside(&self, batch: &Batch<T>, aside: Vec<Aside<T>>) -> Result<()> {
        let done = match self.policy {
            OnFailure::Park => "parked",
            OnFailure::Skip | OnFailure::Stop => "left out",
        };
        for (_, change, reason) in aside.iter().filter(|(_, _, reason)| reason != BEHIND) {
            let what = change.describe();
            tracing::warn!(pipeline = %batch.pipeline, what, reason, "{done} a refused item");
        }
        if self.policy == OnFailure::Park {
            return self.park(batch, &aside).await;
        }
        self.stats
            .update(|stats| stats.refused += aside.len() as u64);
        Ok(())
    }
}

/// The reason of what was not refused itself.
const BEHIND: &str = "behind a parked item";

fn behind_parked<T>(items: Vec<(Cursor, T)>) -> impl Iterator<Item = Aside<T>> {
    items
        .into_iter()
        .map(|(cursor, change)| (cursor, change, BEHIND.to_owned()))
}

fn letter<T: Item>(
    pipeline: &ledger_core::PipelineId,
    cursor: &Cursor,
    change: &T,
    reason: &str,
) -> Result<DeadLetter> {
    let item = rmp_serde::to_vec(change).map_err(|error| {
        Error::new(ErrorKind::Internal, "park item", change.describe()).with_source(error)
    })?;
    Ok(DeadLetter {
        pipeline: pipeline.clone(),
        cursor: cursor.clone(),
        key: change.key(),
        description: change.describe(),
        reason: reason.to_owned(),
        item: item.into(),
        parked_at: Timestamp::now(),
    })
}

/// How deep an item's MessagePack may nest: more than any has, and far less than a stack holds.
const DEPTH: usize = 32;

/// Reads the item of a dead letter back.
pub(crate) fn item<T: Item>(letter: &DeadLetter) -> Result<T> {
    let mut reader = rmp_serde::Deserializer::from_read_ref(letter.item.as_ref());
    reader.set_max_depth(DEPTH);
    serde::Deserialize::deserialize(&mut reader).map_err(|error: rmp_serde::decode::Error| {
        Error::new(
            ErrorKind::Corrupt,
            "replay dead letter",
            letter.description.clone(),
        )
        .with_source(error)
    })
}

#[async_trait]
impl<T: Item> Sink<T> for Isolated<T> {
    async fn deliver(&self, batch: &Batch<T>) -> Result<()> {
        let rest = self.without_parked(batch).await?;
        let batch = rest.as_ref().unwrap_or(batch);
        let error = match self.send(batch).await {
            Ok(()) => {
                if !batch.items.is_empty() {
                    self.refused.store(0, Ordering::Relaxed);
                }
                return Ok(());
            }
            Err(error) if error.kind() == ErrorKind::Rejected => error,
            Err(error) => return Err(error),
        };
        if self.policy == OnFailure::Stop {
            return Err(error);
        }
        self.bisect(batch, error).await?;
        self.send(&Batch {
            items: Vec::new(),
            ..batch.clone()
        })
        .await
    }

    fn cursors(&self) -> Option<&dyn CursorStore> {
        self.sink.cursors()
    }

    fn replica(&self) -> Option<&dyn Replica> {
        self.sink.replica()
    }
}

impl<T> fmt::Display for Isolated<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "isolated({})", self.sink)
    }
}

impl<T> fmt::Debug for Isolated<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Isolated({self})")
    }
}
