//! Group commit: appends that come at the same moment share a transaction.
//!
//! A commit waits for the journal, and of two transactions on one store one fails and must be tried
//! again; so appends of many callers of this process stand in a queue, from which one task takes as
//! many as there are.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use ledger_core::{Appended, Error, ErrorKind, Result};
use ledger_layout::mongodb_transaction;
use tokio::sync::oneshot;

use super::MongoStore;
use super::append::{self, Asked, OPERATION};

/// The most entries of a shared transaction, and the most bytes of their payloads: others, of labels
/// and trims, wait for it.
const MOST: (usize, usize) = (2_000, 4 << 20);

/// The appends that wait.
#[derive(Default)]
pub(super) struct Group(Mutex<Queue>);

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Waiting>,
    /// Whether a task takes from the queue.
    served: bool,
}

struct Waiting {
    asked: Asked,
    answer: oneshot::Sender<Result<Vec<Appended>>>,
}

impl Group {
    fn queue(&self) -> std::sync::MutexGuard<'_, Queue> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the next appends; where there are none the task is done.
    fn take(&self) -> Vec<Waiting> {
        let mut queue = self.queue();
        let (mut taken, mut entries, mut bytes) = (Vec::new(), 0, 0);
        while let Some(waiting) = queue.waiting.front() {
            // Whoever has gone meanwhile asks for nothing any more.
            if waiting.answer.is_closed() {
                queue.waiting.pop_front();
                continue;
            }
            entries += waiting.asked.len();
            bytes += waiting.asked.bytes();
            if (entries > MOST.0 || bytes > MOST.1) && !taken.is_empty() {
                break;
            }
            taken.extend(queue.waiting.pop_front());
        }
        queue.served = !taken.is_empty();
        taken
    }
}

/// Ends the service of a queue whose task ended before its time, with the runtime it ran on: who
/// waits is refused, and the next append begins anew.
struct Serving<'a> {
    group: &'a Group,
    ended: bool,
}

impl Drop for Serving<'_> {
    fn drop(&mut self) {
        if !self.ended {
            let mut queue = self.group.queue();
            queue.served = false;
            // Their callers are told by the end of their channels.
            queue.waiting.clear();
        }
    }
}

/// Appends in a transaction that others may share.
pub(super) async fn append(store: &MongoStore, asked: Asked) -> Result<Vec<Appended>> {
    let (answer, answered) = oneshot::channel();
    let begins = {
        let mut queue = store.group().queue();
        queue.waiting.push_back(Waiting { asked, answer });
        !std::mem::replace(&mut queue.served, true)
    };
    if begins {
        // A task of its own: a caller that goes away must not take the others' transaction along.
        let store = store.clone();
        tokio::spawn(async move { serve(&store).await });
    }
    answered.await.unwrap_or_else(|_| {
        Err(Error::new(
            ErrorKind::Unavailable,
            OPERATION,
            "the runtime ended before it was known whether the append was committed",
        ))
    })
}

async fn serve(store: &MongoStore) {
    let mut serving = Serving {
        group: store.group(),
        ended: false,
    };
    loop {
        let turn = store.turn().await;
        // Behind the wait for the turn, in which more came.
        let taken = store.group().take();
        if taken.is_empty() {
            serving.ended = true;
            return;
        }
        let (asked, answers): (Vec<_>, Vec<_>) = taken
            .into_iter()
            .map(|waiting| (waiting.asked, waiting.answer))
            .unzip();
        let results = match together(store, &asked).await {
            Ok(results) => results,
            // What one of them has caused is its own.
            Err(error) if error.kind() != ErrorKind::Unavailable && asked.len() > 1 => {
                let mut results = Vec::with_capacity(asked.len());
                for asked in &asked {
                    let alone = together(store, std::slice::from_ref(asked)).await;
                    results.push(alone.and_then(|mut all| all.pop().unwrap_or(Ok(Vec::new()))));
                }
                results
            }
            Err(error) => asked.iter().map(|_| Err(error.again())).collect(),
        };
        drop(turn);
        store.committed();
        for (answer, result) in answers.into_iter().zip(results) {
            // Who does not wait any more has gone.
            let _ = answer.send(result);
        }
    }
}

async fn together(store: &MongoStore, asked: &[Asked]) -> Result<Vec<Result<Vec<Appended>>>> {
    let collections = store.collections();
    mongodb_transaction!(store.database(), OPERATION, tx => append::append(tx, collections, asked))
}
