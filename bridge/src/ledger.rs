//! A ledger's store as the source of a bridge: first what it holds, then what its log tells.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use futures::future::ready;
use futures::stream::{self, BoxStream, Stream, StreamExt as _};
use ledger_core::pipeline::Step;
use ledger_core::{
    Change, ChangeLog, Consumers, Cursor, DeadLetters, Error, ErrorKind, Lag, PipelineId, Progress,
    Result, Source, SourceId, Store,
};

/// A store that keeps a log.
pub(crate) struct Ledger(Arc<dyn Store>);

impl Ledger {
    /// `Unsupported` where the store keeps no log.
    pub(crate) fn new(store: Arc<dyn Store>) -> Result<Self> {
        log(store.as_ref())?;
        Ok(Self(store))
    }

    #[allow(
        clippy::expect_used,
        reason = "`new` has seen that there is a log, and a store does not lose it"
    )]
    fn log(&self) -> &dyn ChangeLog {
        log(self.0.as_ref()).expect("a log")
    }
}

/// The store's log, where it keeps one.
pub(crate) fn log(store: &dyn Store) -> Result<&dyn ChangeLog> {
    store.log().ok_or_else(|| {
        Error::new(
            ErrorKind::Unsupported,
            "follow store",
            format!("{store} keeps no mutation log"),
        )
    })
}

/// The steps from `progress` on, each at the cursor that is stored for it. With `until` they end
/// when the log has been followed that far.
fn steps(
    log: &dyn ChangeLog,
    progress: Progress,
    until: Option<Cursor>,
) -> Result<BoxStream<'static, Result<Step<Change>>>> {
    match progress {
        Progress::Follow(after) => Ok(follow(log, after, until).boxed()),
        Progress::Snapshot { start, key } => {
            let after = (!key.is_empty())
                .then(|| Cursor::from_bytes(key))
                .transpose()?;
            let from = start.clone();
            let copy = log.snapshot(after).map(move |change| {
                change.map(|mut change| {
                    let (start, key) = (from.clone(), change.cursor.into_bytes());
                    change.cursor = Progress::Snapshot { start, key }.to_cursor();
                    Step::of(change)
                })
            });
            // The end of the copy is a position of its own, or a bridge that stops right behind it
            // would begin the copy's end again.
            let end = Step::empty(Progress::Follow(start.clone()).to_cursor());
            let follow = follow(log, start, until);
            Ok(copy
                .chain(stream::once(ready(Ok(end))))
                .chain(follow)
                .boxed())
        }
    }
}

fn follow(
    log: &dyn ChangeLog,
    after: Cursor,
    until: Option<Cursor>,
) -> impl Stream<Item = Result<Step<Change>>> + Send + 'static {
    let done = until.as_ref() == Some(&after);
    let changes = match &until {
        Some(until) if after > *until => stream::once(ready(Err(past_the_end(&after)))).boxed(),
        _ if done => stream::empty().boxed(),
        _ => log.changes(after),
    };
    stream::unfold(
        (changes, done, until),
        |(mut changes, done, until)| async move {
            if done {
                return None;
            }
            // A log never ends by itself.
            let change = changes.next().await.unwrap_or_else(|| {
                Err(Error::new(
                    ErrorKind::Unavailable,
                    "follow store",
                    "the stream of changes ended",
                ))
            });
            let done = match (&change, &until) {
                (Ok(change), Some(until)) => change.cursor >= *until,
                _ => false,
            };
            let step = change.map(|mut change| {
                change.cursor = Progress::Follow(change.cursor).to_cursor();
                Step::of(change)
            });
            Some((step, (changes, done, until)))
        },
    )
}

/// The head was asked for after the cursor was stored, so in one history it is no lower.
fn past_the_end(after: &Cursor) -> Error {
    Error::new(
        ErrorKind::SourceDiverged,
        "follow store",
        format!(
            "cursor {after} is past the end of the log, which may be that of a restored backup; \
             start the replica anew with `ledger bridge run --resync`"
        ),
    )
}

#[async_trait]
impl Source<Change> for Ledger {
    async fn identity(&self) -> Result<SourceId> {
        self.log().identity().await
    }

    async fn head(&self) -> Result<Cursor> {
        self.log().head().await
    }

    async fn lag(&self, after: &Cursor) -> Result<Lag> {
        self.log().lag(after).await
    }

    async fn size(&self) -> Result<u64> {
        self.log().size().await
    }

    async fn steps(
        &self,
        _: &PipelineId,
        progress: Progress,
        until: Option<Cursor>,
    ) -> Result<BoxStream<'static, Result<Step<Change>>>> {
        steps(self.log(), progress, until)
    }

    fn consumers(&self) -> &dyn Consumers {
        self.log().consumers()
    }

    fn dead_letters(&self) -> &dyn DeadLetters {
        self.log().dead_letters()
    }
}

impl fmt::Display for Ledger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for Ledger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}
