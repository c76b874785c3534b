//! The sequencer: mutations in one order, many of them at a time.
//!
//! Whoever mutates leaves its work in a queue. A task takes as much of it as belongs together,
//! decides it, and writes it as one insert into the log; then the tables follow, and each caller is
//! answered. There is one sequencer a store and process. Sequencers of several processes keep each
//! other right by the log alone: who finds that a number went to another reads what came in
//! between, and decides anew.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use clickhouse::{Row, RowWrite};
use ledger_core::{Change, Error, ErrorKind, Result, StoreName};
use ledger_layout::clickhouse::rows::{EntryRow, LabelRow, StreamRow};
use ledger_layout::clickhouse::{
    ClickHouseConfig, Connection, Dedup, LOG_TAG, LogTable, Pacer, Tables, Written,
};
use ledger_layout::delta::Delta;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot, watch};
use uuid::Uuid;

use super::decide::{Decided, Done, Known, Touched, Work, decide};

const OPERATION: &str = "write";

/// The most entries of a group, and the most bytes; a single call may have more.
const MOST: (usize, usize) = (5_000, 8 << 20);
/// How long a group waits for others to join when none is being written.
const LINGER: Duration = Duration::from_millis(2);
/// How many callers may wait; more wait for a place.
const PLACES: usize = 4_096;
/// How long what is known of the log counts. The server forgets a token when as many others have come
/// as its window holds, so nobody may write by what was read long ago.
const FRESH: Duration = Duration::from_secs(5);
/// How often a group is decided anew because another process came first.
const ATTEMPTS: usize = 20;
/// How long to wait before the tables are made to follow again, where that failed; it doubles up to the
/// second.
const AGAIN: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));
/// How many log rows the tables follow at a time.
const FOLLOWED: usize = 512;

/// The sequencer of one store in this process.
pub(super) struct Sequencer {
    connection: Connection,
    tables: Arc<Tables>,
    log: LogTable,
    queue: Mutex<Queue>,
    state: tokio::sync::Mutex<State>,
    /// The last row that the tables are known to have followed.
    written: watch::Sender<i64>,
    places: Arc<Semaphore>,
    /// Whether a task waits to have the tables follow.
    following: AtomicBool,
    pacer: Pacer,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Waiting>,
    /// Whether a task takes from the queue.
    served: bool,
}

struct Waiting {
    work: Work,
    answer: oneshot::Sender<Result<Done>>,
    /// Its place in the queue, also when its caller has gone.
    _place: OwnedSemaphorePermit,
}

#[derive(Default)]
struct State {
    /// None where the log has to be read first.
    known: Option<Known>,
    /// When the log was read, or written by this process, last.
    known_at: Option<Instant>,
    /// Up to which row the tables have followed the log.
    applied: i64,
    /// How many numbers behind the head are burnt.
    burnt: i64,
}

impl State {
    fn is_fresh(&self) -> bool {
        self.known_at.is_some_and(|at| at.elapsed() < FRESH)
    }
}

type Key = (String, StoreName);

/// The sequencers of this process.
static SEQUENCERS: LazyLock<Mutex<HashMap<Key, Weak<Sequencer>>>> = LazyLock::new(Mutex::default);

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl fmt::Debug for Sequencer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sequencer")
            .field("store", &self.tables.store)
            .finish_non_exhaustive()
    }
}

impl Sequencer {
    /// The sequencer of a store, which all handles in this process share.
    pub(super) fn of(
        config: &ClickHouseConfig,
        connection: &Connection,
        tables: &Arc<Tables>,
    ) -> Arc<Self> {
        let place = format!("{}@{}/{}", config.user, config.address(), config.database);
        let key = (place, tables.store.clone());
        let mut sequencers = lock(&SEQUENCERS);
        if let Some(sequencer) = sequencers.get(&key).and_then(Weak::upgrade) {
            return sequencer;
        }
        sequencers.retain(|_, sequencer| sequencer.strong_count() > 0);
        let sequencer = Arc::new(Self {
            log: LogTable::new(connection.clone(), tables),
            connection: connection.clone(),
            tables: Arc::clone(tables),
            queue: Mutex::default(),
            state: tokio::sync::Mutex::default(),
            written: watch::Sender::new(0),
            places: Arc::new(Semaphore::new(PLACES)),
            following: AtomicBool::new(false),
            pacer: Pacer::of_calls(),
        });
        sequencers.insert(key, Arc::downgrade(&sequencer));
        sequencer
    }

    /// Tells of what this process writes.
    pub(super) fn written(&self) -> watch::Receiver<i64> {
        self.written.subscribe()
    }

    /// Has work done in its turn.
    pub(super) async fn run(self: &Arc<Self>, work: Work) -> Result<Done> {
        let place = Arc::clone(&self.places).acquire_owned().await;
        let place = place.map_err(|_| Error::new(ErrorKind::Closed, OPERATION, "the sequencer"))?;
        let (answer, answered) = oneshot::channel();
        let begins = {
            let mut queue = lock(&self.queue);
            queue.waiting.push_back(Waiting {
                work,
                answer,
                _place: place,
            });
            !std::mem::replace(&mut queue.served, true)
        };
        if begins {
            // A task of its own: a caller that goes away must not take the others' work along.
            let sequencer = Arc::clone(self);
            tokio::spawn(async move { sequencer.serve().await });
        }
        answered.await.unwrap_or_else(|_| {
            Err(Error::new(
                ErrorKind::Unavailable,
                OPERATION,
                "the runtime ended before it was known whether this was written",
            ))
        })
    }

    /// Takes what belongs together from the queue; where there is nothing the task is done.
    fn take(&self) -> Vec<Waiting> {
        let mut queue = lock(&self.queue);
        let (mut taken, mut entries, mut bytes) = (Vec::new(), 0, 0);
        let mut touched = Touched::default();
        while let Some(waiting) = queue.waiting.front() {
            // Whoever has gone meanwhile asks for nothing any more.
            if waiting.answer.is_closed() {
                queue.waiting.pop_front();
                continue;
            }
            let size = waiting.work.size();
            entries += size.0;
            bytes += size.1;
            let full = !taken.is_empty() && (entries > MOST.0 || bytes > MOST.1);
            if full || !touched.admits(&waiting.work) {
                break;
            }
            taken.extend(queue.waiting.pop_front());
        }
        queue.served = !taken.is_empty();
        taken
    }

    async fn serve(self: Arc<Self>) {
        let mut serving = Serving {
            sequencer: &self,
            ended: false,
        };
        loop {
            let delay = self
                .pacer
                .delay(&self.connection, &self.every_table())
                .await;
            tokio::time::sleep(delay.max(LINGER)).await;
            let taken = self.take();
            if taken.is_empty() {
                serving.ended = true;
                break;
            }
            let mut state = self.state.lock().await;
            let works: Vec<&Work> = taken.iter().map(|waiting| &waiting.work).collect();
            let done = Box::pin(self.group(&mut state, &works)).await;
            drop(state);
            match done {
                Ok(answers) => {
                    for (waiting, answer) in taken.into_iter().zip(answers) {
                        // Who does not wait any more has gone.
                        let _ = waiting.answer.send(answer);
                    }
                }
                Err(error) => {
                    for waiting in taken {
                        let _ = waiting.answer.send(Err(error.again()));
                    }
                    if !self.following.swap(true, Ordering::AcqRel) {
                        tokio::spawn(follow_later(Arc::downgrade(&self)));
                    }
                }
            }
        }
    }

    fn every_table(&self) -> [&str; 4] {
        let Tables {
            entries,
            labels,
            streams,
            log,
            ..
        } = &*self.tables;
        [entries, labels, streams, log]
    }

    /// Decides and writes a group.
    async fn group(&self, state: &mut State, works: &[&Work]) -> Result<Vec<Result<Done>>> {
        for _ in 0..ATTEMPTS {
            let decided = {
                let known = self.known(state).await?;
                decide(&self.connection, &self.tables, known, works).await
            };
            let decided = match decided {
                Ok(decided) => decided,
                Err(error) => {
                    state.known = None;
                    return Err(error);
                }
            };
            if let Some(answers) = self.write(state, decided).await? {
                return Ok(answers);
            }
        }
        Err(Error::new(
            ErrorKind::Unavailable,
            OPERATION,
            format!(
                "store {}: other processes write it at the same time; try again",
                self.tables.store
            ),
        ))
    }

    /// What is known, read where it is not; the tables have followed the log then.
    async fn known<'s>(&self, state: &'s mut State) -> Result<&'s mut Known> {
        if state.known.is_none() || !state.is_fresh() {
            state.known = None;
            self.catch_up(state).await?;
        }
        Ok(state.known.get_or_insert_default())
    }

    async fn catch_up(&self, state: &mut State) -> Result<()> {
        state.burnt = 0;
        loop {
            let read_at = Instant::now();
            let head = self.log.head(OPERATION).await?;
            state.applied = state.applied.max(head.applied).min(head.seq);
            if state.applied == head.seq {
                self.written.send_if_modified(|written| {
                    let moved = *written < head.seq;
                    *written = head.seq.max(*written);
                    moved
                });
                state.known = Some(Known {
                    head,
                    streams: HashMap::new(),
                });
                state.known_at = Some(read_at);
                return Ok(());
            }
            let tail = self
                .log
                .rows(OPERATION, state.applied + 1, FOLLOWED)
                .await?;
            let Some(last) = tail.rows.last().map(|row| row.seq) else {
                // The rows behind were pruned, which nothing is that the tables have not followed.
                state.applied = head.seq;
                continue;
            };
            let mut changes = Vec::new();
            for row in tail.rows {
                changes.extend(row.into_changes(LOG_TAG, None)?);
            }
            self.apply(&changes).await?;
            state.applied = last;
        }
    }

    /// Writes what was decided. None where it has to be decided anew. After an error nothing is known
    /// any more: whether the rows are there, the log tells.
    async fn write(
        &self,
        state: &mut State,
        decided: Decided,
    ) -> Result<Option<Vec<Result<Done>>>> {
        let Some(mut known) = state.known.take() else {
            return Ok(None);
        };
        if decided.rows.is_empty() {
            // What was found may be of yesterday, if another process has written since.
            let head = self.log.head(OPERATION).await?;
            if head.seq != known.head.seq {
                return Ok(None);
            }
            let answers = answers(decided.answers, head.seq);
            state.known = Some(known);
            return Ok(Some(answers));
        }
        if !state.is_fresh() {
            // This process stood still while it decided.
            return Ok(None);
        }
        let sent_at = Instant::now();
        let mut head = known.head;
        (head.last_id, head.last_key) = (decided.last_id, decided.last_key);
        head.applied = state.applied;
        let first = known.head.seq + 1 + state.burnt;
        let written = self
            .log
            .append(OPERATION, first, &decided.rows, head, Uuid::new_v4())
            .await?;
        let rows = match written {
            Written::Lost => return Ok(None),
            Written::Burnt => {
                state.burnt += 1;
                state.known = Some(known);
                return Ok(None);
            }
            Written::Committed(rows) => rows,
        };
        let mut changes = Vec::new();
        for row in rows {
            head.seq = row.seq;
            changes.extend(row.into_changes(LOG_TAG, None)?);
        }
        self.apply(&changes).await?;
        (state.applied, state.burnt) = (head.seq, 0);
        self.written.send_replace(head.seq);
        known.head = head;
        known.streams.extend(decided.changed);
        state.known = Some(known);
        state.known_at = Some(sent_at);
        Ok(Some(answers(decided.answers, head.seq)))
    }

    /// Has the tables follow changes of the log.
    async fn apply(&self, changes: &[Change]) -> Result<()> {
        let delta = Delta::of_changes(changes);
        let Tables {
            entries,
            labels,
            streams,
            ..
        } = &*self.tables;
        let appended: Vec<_> = delta
            .entries
            .iter()
            .map(|(key, entry)| EntryRow::new(*key, entry))
            .collect();
        let named: Vec<_> = delta
            .streams
            .values()
            .map(|stream| StreamRow::new(stream, true))
            .collect();
        let labelled = LabelRow::all(&delta);
        let connection = &self.connection;
        futures::try_join!(
            insert::<EntryRow<'static>>(connection, entries, appended),
            insert::<StreamRow<'static>>(connection, streams, named),
            insert::<LabelRow<'static>>(connection, labels, labelled),
        )?;
        Ok(())
    }
}

async fn insert<'v, T>(connection: &Connection, table: &str, rows: Vec<T::Value<'v>>) -> Result<()>
where
    T: Row + RowWrite,
    T::Value<'v>: Send,
{
    if rows.is_empty() {
        return Ok(());
    }
    let (count, rows) = (rows.len(), rows.into_iter());
    connection
        .insert::<T, _>(OPERATION, table, rows, count, Dedup::Off)
        .await
}

/// The answers of a group; who asked for the head is told it.
fn answers(answers: Vec<Result<Done>>, head: i64) -> Vec<Result<Done>> {
    let told = |done| match done {
        Done::At(_) => Done::At(head),
        done => done,
    };
    answers.into_iter().map(|answer| answer.map(told)).collect()
}

/// After a failure: has the tables follow what may have been committed, though nobody asks.
async fn follow_later(sequencer: Weak<Sequencer>) {
    let mut wait = AGAIN.0;
    loop {
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(AGAIN.1);
        let Some(sequencer) = sequencer.upgrade() else {
            return;
        };
        // A group that is being written does it itself.
        let Ok(mut state) = sequencer.state.try_lock() else {
            continue;
        };
        match sequencer.known(&mut state).await {
            Ok(_) => {
                sequencer.following.store(false, Ordering::Release);
                return;
            }
            Err(error) => tracing::debug!(error = %error.chain(), "the tables do not follow yet"),
        }
    }
}

/// Ends the service of a queue whose task ended before its time, with the runtime it ran on: who
/// waits is refused, and the next call begins anew.
struct Serving<'a> {
    sequencer: &'a Sequencer,
    ended: bool,
}

impl Drop for Serving<'_> {
    fn drop(&mut self) {
        if !self.ended {
            let mut queue = lock(&self.sequencer.queue);
            queue.served = false;
            // Their callers are told by the end of their channels.
            queue.waiting.clear();
        }
    }
}
