//! A reader of a log that cannot hang.

use std::sync::Arc;
use std::time::Duration;

use futures::stream::{BoxStream, StreamExt as _};
use tokio::time::timeout;
use uuid::Uuid;

use super::case::{append, entry, name};
use crate::{Change, ChangeLog, Cursor, Error, Mutation, Result, Store};

/// Within which time a pushed change must have arrived.
pub(super) const PUSHED_WITHIN: Duration = Duration::from_secs(2);

/// How long to wait for a change before the reader counts as stuck.
const PATIENCE: Duration = Duration::from_secs(20);

/// The stream that [`mark`] appends to.
pub(super) const MARKS: &str = "conformance.marks";

/// Reads changes; panics where one is overdue.
pub(super) struct Follower {
    changes: BoxStream<'static, Result<Change>>,
}

impl Follower {
    /// Follows the log from here.
    pub(super) fn new(log: &dyn ChangeLog, after: &Cursor) -> Self {
        Self::from_stream(log.changes(after.clone()))
    }

    /// Reads these changes, a snapshot's for example.
    pub(super) fn from_stream(changes: BoxStream<'static, Result<Change>>) -> Self {
        Self { changes }
    }

    /// The next change, or the end.
    async fn poll(&mut self) -> Option<Result<Change>> {
        let next = timeout(PATIENCE, self.changes.next()).await;
        next.unwrap_or_else(|_| panic!("nothing came from the log within {PATIENCE:?}"))
    }

    /// The next change.
    pub(super) async fn next(&mut self) -> Change {
        self.poll()
            .await
            .expect("the log goes on")
            .expect("read the log")
    }

    /// The next changes.
    pub(super) async fn take(&mut self, count: usize) -> Vec<Change> {
        let mut changes = Vec::with_capacity(count);
        while changes.len() < count {
            changes.push(self.next().await);
        }
        changes
    }

    /// Every change before this [`mark`], without other marks.
    pub(super) async fn until(&mut self, mark: &Mark) -> Vec<Change> {
        let mut changes = Vec::new();
        loop {
            let change = self.next().await;
            match &change.mutation {
                Mutation::Append { entry, .. } if entry.payload == mark.0.as_bytes() => {
                    return changes;
                }
                _ if change.stream.name.as_str() == MARKS => {}
                _ => changes.push(change),
            }
        }
    }

    /// The error with which the stream ends, without a change before it.
    pub(super) async fn refused(mut self) -> Error {
        let error = match self.poll().await {
            Some(Err(error)) => error,
            other => panic!("an error was due, not {other:?}"),
        };
        let after = self.poll().await;
        assert!(
            after.is_none(),
            "after its error a stream ends, but this one gave {after:?}"
        );
        error
    }

    /// Everything up to the end, which must come without an error.
    pub(super) async fn all(mut self) -> Vec<Change> {
        let mut changes = Vec::new();
        while let Some(change) = self.poll().await {
            changes.push(change.expect("read to the end"));
        }
        changes
    }

    /// Waits for the end, by an error or not; changes may come before.
    pub(super) async fn ended(mut self) {
        while let Some(Ok(_)) = self.poll().await {}
    }
}

/// An entry that tells a reader that it has seen everything before.
#[derive(Debug)]
pub(super) struct Mark(String);

/// Appends a mark to a stream of its own.
pub(super) async fn mark(store: &Arc<dyn Store>) -> Mark {
    let mark = Uuid::new_v4().to_string();
    append(store, &name(MARKS), vec![entry(&mark)]).await;
    Mark(mark)
}

/// Every change behind a position at this moment, without marks.
pub(super) async fn rest(store: &Arc<dyn Store>, after: &Cursor) -> Vec<Change> {
    let log = store.log().expect("a log");
    let mark = mark(store).await;
    Follower::new(log, after).until(&mark).await
}
