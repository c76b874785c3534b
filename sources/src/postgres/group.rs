//! Group commit: appends that come at the same moment share transactions.
//!
//! A transaction costs a round trip, a commit and a wait for the disk, however small it is. The
//! first appends go each by itself. Those that come while these are under way wait in queues, one a
//! stream, from which a few tasks take as many as there are.
//!
//! A shared transaction never waits for a lock: a stream that somebody else has locked, and one that
//! does not exist yet, goes by itself. So one stream that is held up holds up no other, and nobody's
//! transaction meets a deadlock because of appends that have nothing to do with each other. While a
//! stream's appends are under way, the later ones to it wait here, in their order, and take no
//! connection.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use ledger_core::{Appended, Error, ErrorKind, Result, StreamName};
use sqlx::PgConnection;
use sqlx::postgres::{PgDatabaseError, PgSeverity};
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use super::PostgresTransaction;
use super::append::{Outcome, Prepared, append_all};
use super::store::Inner;

const OPERATION: &str = "append";

/// The most entries of a shared transaction, and the most bytes of their payloads: others wait for
/// its streams.
const MOST: (usize, usize) = (1_000, 4 << 20);

/// How many appends may go by themselves before others wait to share.
const ALONE: usize = 2;

/// How many shared transactions are under way at a time. While one waits for the disk another
/// computes.
const SHARED: usize = 3;

/// The appends that wait, and the streams whose appends are under way.
#[derive(Default)]
pub(super) struct Group(Mutex<Queues>);

#[derive(Default)]
struct Queues {
    busy: HashSet<StreamName>,
    waiting: HashMap<StreamName, VecDeque<Waiting>>,
    /// The streams which have waiting appends and none under way, in the order in which they came.
    ready: VecDeque<StreamName>,
    alone: usize,
    shared: usize,
}

struct Waiting {
    append: Prepared,
    answer: oneshot::Sender<Result<Vec<Appended>>>,
}

/// What an append is to do.
enum Turn {
    /// It goes by itself, at once.
    Now(Prepared),
    /// It is done by somebody else.
    Wait(oneshot::Receiver<Result<Vec<Appended>>>),
}

impl Queues {
    fn turn(&mut self, append: Prepared) -> Turn {
        let stream = append.stream();
        let free = !self.busy.contains(stream) && !self.waiting.contains_key(stream);
        if free && self.alone < ALONE && self.shared == 0 {
            self.alone += 1;
            self.busy.insert(stream.clone());
            return Turn::Now(append);
        }
        let (answer, answered) = oneshot::channel();
        let stream = stream.clone();
        let queue = self.waiting.entry(stream.clone()).or_default();
        if queue.is_empty() && !self.busy.contains(&stream) {
            self.ready.push_back(stream);
        }
        queue.push_back(Waiting { append, answer });
        Turn::Wait(answered)
    }

    /// Takes the next appends, those of one stream side by side; their streams are busy then.
    fn take(&mut self) -> Vec<Waiting> {
        let (mut taken, mut entries, mut bytes) = (Vec::new(), 0, 0);
        while let Some(stream) = self.ready.pop_front() {
            let Some(queue) = self.waiting.get_mut(&stream) else {
                continue;
            };
            let before = taken.len();
            let mut full = false;
            while let Some(waiting) = queue.front() {
                // Whoever has gone meanwhile asks for nothing any more.
                if waiting.answer.is_closed() {
                    queue.pop_front();
                    continue;
                }
                entries += waiting.append.len();
                bytes += waiting.append.bytes();
                full = (entries > MOST.0 || bytes > MOST.1) && !taken.is_empty();
                if full {
                    break;
                }
                taken.extend(queue.pop_front());
            }
            if queue.is_empty() {
                self.waiting.remove(&stream);
            }
            if taken.len() > before {
                self.busy.insert(stream);
            } else if full {
                self.ready.push_front(stream);
            }
            if full {
                break;
            }
        }
        taken
    }

    fn done<'a>(&mut self, streams: impl IntoIterator<Item = &'a StreamName>) {
        for stream in streams {
            if self.busy.remove(stream) && self.waiting.contains_key(stream) {
                self.ready.push_back(stream.clone());
            }
        }
    }
}

impl Group {
    fn queues(&self) -> std::sync::MutexGuard<'_, Queues> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Streams whose appends are under way, for as long as this lives.
struct Busy {
    inner: Arc<Inner>,
    streams: Vec<StreamName>,
    /// Whether it counts among those that go by themselves.
    alone: bool,
}

impl Busy {
    fn of(inner: &Arc<Inner>, appends: &[Waiting]) -> Self {
        let mut streams: Vec<_> = appends
            .iter()
            .map(|waiting| waiting.append.stream().clone())
            .collect();
        streams.dedup();
        Self {
            inner: Arc::clone(inner),
            streams,
            alone: false,
        }
    }

    /// Hands one of the streams on.
    fn split_off(&mut self, stream: &StreamName) -> Self {
        self.streams.retain(|one| one != stream);
        Self {
            inner: Arc::clone(&self.inner),
            streams: vec![stream.clone()],
            alone: false,
        }
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        {
            let mut queues = self.inner.group.queues();
            queues.alone -= usize::from(self.alone);
            queues.done(&self.streams);
        }
        share(&self.inner);
    }
}

/// A task's place among those that share.
struct Place {
    inner: Arc<Inner>,
    given_up: bool,
}

impl Place {
    /// Takes the next appends; where there are none the place is given up.
    fn take(&mut self) -> Vec<Waiting> {
        let mut queues = self.inner.group.queues();
        let taken = queues.take();
        if taken.is_empty() {
            queues.shared -= 1;
            self.given_up = true;
        }
        taken
    }
}

impl Drop for Place {
    /// A task that ended before its time did so with the runtime that it ran on: who waits is
    /// refused, and the next append begins anew.
    fn drop(&mut self) {
        if !self.given_up {
            let mut queues = self.inner.group.queues();
            queues.shared -= 1;
            queues.ready.clear();
            // Their callers are told by the end of their channels.
            queues.waiting.clear();
        }
    }
}

/// Begins a task where appends wait and there is a place for one.
fn share(inner: &Arc<Inner>) {
    // Without a runtime, which is about to end, the next append begins one.
    let Ok(runtime) = Handle::try_current() else {
        return;
    };
    {
        let mut queues = inner.group.queues();
        if queues.ready.is_empty() || queues.shared >= SHARED {
            return;
        }
        queues.shared += 1;
    }
    let place = Place {
        inner: Arc::clone(inner),
        given_up: false,
    };
    // A task of its own: a caller that goes away must not take the others' transaction along.
    runtime.spawn(serve(place));
}

/// Appends, by itself or together with others.
pub(super) async fn append(inner: &Arc<Inner>, append: Prepared) -> Result<Vec<Appended>> {
    let turn = inner.group.queues().turn(append);
    match turn {
        Turn::Now(append) => {
            let _busy = Busy {
                inner: Arc::clone(inner),
                streams: vec![append.stream().clone()],
                alone: true,
            };
            by_itself(inner, &append).await
        }
        Turn::Wait(answered) => {
            share(inner);
            answered.await.unwrap_or_else(|_| {
                Err(Error::new(
                    ErrorKind::Unavailable,
                    OPERATION,
                    "the runtime ended before it was known whether the append was committed",
                ))
            })
        }
    }
}

async fn by_itself(inner: &Arc<Inner>, append: &Prepared) -> Result<Vec<Appended>> {
    let mut conn = inner.connection(OPERATION).await?;
    let mut transaction = PostgresTransaction::new(Arc::clone(inner), &mut conn);
    let appended = transaction.append_prepared(append).await?;
    drop(conn);
    inner.appended();
    Ok(appended)
}

/// Takes from the queues until they are empty.
async fn serve(mut place: Place) {
    let inner = &Arc::clone(&place.inner);
    loop {
        let conn = inner.connection(OPERATION).await;
        // Behind the wait for the connection, in which more came.
        let taken = place.take();
        if taken.is_empty() {
            return;
        }
        let busy = Busy::of(inner, &taken);
        match conn {
            Ok(mut conn) => shared(inner, &mut conn, taken, busy).await,
            Err(error) => refuse(taken, &error),
        }
    }
}

/// Appends to many streams in one transaction. Those that could not take part go by themselves.
async fn shared(inner: &Arc<Inner>, conn: &mut PgConnection, taken: Vec<Waiting>, mut busy: Busy) {
    let (appends, answers) = split(taken);
    match append_all(inner, conn, &appends, false).await {
        Ok(outcomes) => {
            inner.appended();
            let mut passed: Vec<Vec<Waiting>> = Vec::new();
            for ((append, answer), outcome) in appends.into_iter().zip(answers).zip(outcomes) {
                match outcome {
                    // Who does not wait any more has gone.
                    Outcome::Answered(result) => drop(answer.send(result)),
                    Outcome::Passed => of_stream(&mut passed, Waiting { append, answer }),
                }
            }
            apart(&mut busy, passed);
        }
        Err(error) if was_undone(&error) => {
            let mut streams = Vec::new();
            for (append, answer) in appends.into_iter().zip(answers) {
                of_stream(&mut streams, Waiting { append, answer });
            }
            apart(&mut busy, streams);
        }
        Err(error) => tell(answers, &inner.failed(OPERATION, error)),
    }
}

/// Adds to the last stream's appends, or begins the next stream's.
fn of_stream(streams: &mut Vec<Vec<Waiting>>, waiting: Waiting) {
    let same = |appends: &&mut Vec<Waiting>| {
        let last = appends.last();
        last.is_some_and(|last| last.append.stream() == waiting.append.stream())
    };
    match streams.last_mut().filter(same) {
        Some(appends) => appends.push(waiting),
        None => streams.push(vec![waiting]),
    }
}

/// Appends to each of these streams in a task of its own.
fn apart(busy: &mut Busy, streams: Vec<Vec<Waiting>>) {
    for appends in streams {
        let Some(first) = appends.first() else {
            continue;
        };
        let busy = busy.split_off(first.append.stream());
        tokio::spawn(async move { one_stream(&busy.inner, appends).await });
    }
}

/// Appends to one stream, for whose lock this may wait, in one transaction; and where the database
/// refuses that, each in one of its own.
async fn one_stream(inner: &Arc<Inner>, waiting: Vec<Waiting>) {
    let (appends, answers) = split(waiting);
    if appends.len() > 1 {
        let mut conn = match inner.connection(OPERATION).await {
            Ok(conn) => conn,
            Err(error) => return tell(answers, &error),
        };
        match append_all(inner, &mut conn, &appends, true).await {
            Ok(outcomes) => {
                inner.appended();
                for (answer, outcome) in answers.into_iter().zip(outcomes) {
                    if let Outcome::Answered(result) = outcome {
                        let _ = answer.send(result);
                    }
                }
                return;
            }
            Err(error) if was_undone(&error) => {}
            Err(error) => return tell(answers, &inner.failed(OPERATION, error)),
        }
    }
    for (append, answer) in appends.iter().zip(answers) {
        let _ = answer.send(by_itself(inner, append).await);
    }
}

/// Whether the database refused the statement and has undone it. What a connection that broke had
/// done is not known.
fn was_undone(error: &sqlx::Error) -> bool {
    let refused = error.as_database_error();
    let refused = refused.and_then(|error| error.try_downcast_ref::<PgDatabaseError>());
    refused.is_some_and(|error| error.severity() == PgSeverity::Error)
}

type Answers = Vec<oneshot::Sender<Result<Vec<Appended>>>>;

fn split(waiting: Vec<Waiting>) -> (Vec<Prepared>, Answers) {
    waiting
        .into_iter()
        .map(|waiting| (waiting.append, waiting.answer))
        .unzip()
}

fn refuse(waiting: Vec<Waiting>, error: &Error) {
    tell(split(waiting).1, error);
}

fn tell(answers: Answers, error: &Error) {
    for answer in answers {
        let _ = answer.send(Err(error.again()));
    }
}
