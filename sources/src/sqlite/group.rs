//! Group commit: appends that wait for the write lock at the same moment share a transaction.
//!
//! A commit waits for the disk, and SQLite has one writer at a time; so single appends of many
//! callers would come one disk wait after the other. Whoever finds the lock free appends by itself.
//! The others leave their appends in a queue, from which a task takes as many as there are.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use ledger_core::{Appended, Error, ErrorKind, ExpectedVersion, Result, StreamName};
use sqlx::Connection as _;
use tokio::sync::oneshot;

use super::SqliteStore;
use super::append::{self, Prepared};
use super::store::commit;

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
    stream: StreamName,
    prepared: Prepared,
    expected: ExpectedVersion,
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
            entries += waiting.prepared.len();
            bytes += waiting.prepared.bytes();
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
pub(super) async fn append(
    store: &SqliteStore,
    stream: &StreamName,
    prepared: Prepared,
    expected: ExpectedVersion,
) -> Result<Vec<Appended>> {
    let (answer, answered) = oneshot::channel();
    let begins = {
        let mut queue = store.group().queue();
        queue.waiting.push_back(Waiting {
            stream: stream.clone(),
            prepared,
            expected,
            answer,
        });
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
            "append",
            "the runtime ended before it was known whether the append was committed",
        ))
    })
}

async fn serve(store: &SqliteStore) {
    let mut serving = Serving {
        group: store.group(),
        ended: false,
    };
    loop {
        let writer = store.database().writer().await;
        // Behind the wait for the lock, in which more came.
        let taken = store.group().take();
        if taken.is_empty() {
            serving.ended = true;
            return;
        }
        let mut writer = match writer {
            Ok(writer) => writer,
            Err(error) => {
                refuse(taken, &error);
                continue;
            }
        };
        let (asked, answers): (Vec<_>, Vec<_>) = taken
            .into_iter()
            .map(|waiting| {
                (
                    (waiting.stream, waiting.prepared, waiting.expected),
                    waiting.answer,
                )
            })
            .unzip();
        match together(store, &mut writer, asked).await {
            Ok(results) => {
                drop(writer);
                for (answer, result) in answers.into_iter().zip(results) {
                    // Who does not wait any more has gone.
                    let _ = answer.send(result);
                }
            }
            Err(error) => {
                for answer in answers {
                    let _ = answer.send(Err(error.again()));
                }
            }
        }
    }
}

/// Appends all in one transaction. One that is refused is undone alone; any other failure is the
/// database's, and that of all.
async fn together(
    store: &SqliteStore,
    writer: &mut ledger_layout::sqlite::Writer,
    asked: Vec<(StreamName, Prepared, ExpectedVersion)>,
) -> Result<Vec<Result<Vec<Appended>>>> {
    let fail = |error| ledger_layout::sqlite::failed("append", error);
    let mut transaction = writer.begin().await?;
    let mut results = Vec::with_capacity(asked.len());
    for (stream, prepared, expected) in asked {
        let tables = store.tables();
        // Only an expectation can be refused after rows were written.
        let result = if expected == ExpectedVersion::Any {
            append::append(&mut transaction, tables, &stream, prepared, expected).await
        } else {
            let mut part = transaction.begin().await.map_err(fail)?;
            let result = append::append(&mut part, tables, &stream, prepared, expected).await;
            match &result {
                Ok(_) => part.commit().await.map_err(fail)?,
                Err(_) => part.rollback().await.map_err(fail)?,
            }
            result
        };
        match result {
            Err(error) if error.kind() != ErrorKind::Conflict => return Err(error),
            result => results.push(result),
        }
    }
    commit(transaction, "append").await?;
    Ok(results)
}

fn refuse(taken: Vec<Waiting>, error: &Error) {
    for waiting in taken {
        let _ = waiting.answer.send(Err(error.again()));
    }
}
