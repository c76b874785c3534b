//! What a hook reads: first what the store holds, then what its log tells.

use std::sync::Arc;

use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt as _};
use ledger_core::{Change, ChangeLog, Cursor, Error, ErrorKind, Progress, Result, Store};

/// What was read.
#[derive(Debug)]
pub(super) enum Read {
    /// A change, at the position that is stored for it.
    Change(Change),
    /// The copy has ended. The log is followed from `at`; behind `head` nothing was copied.
    CopyEnded { at: Cursor, head: Cursor },
}

/// The store's log, where it keeps one.
pub(super) fn log(store: &dyn Store) -> Result<&dyn ChangeLog> {
    store.log().ok_or_else(|| {
        let what = format!("{store} keeps no mutation log");
        Error::new(ErrorKind::Unsupported, "follow store", what)
    })
}

/// Everything behind `progress`.
pub(super) fn read(
    store: &Arc<dyn Store>,
    progress: Progress,
) -> Result<BoxStream<'static, Result<Read>>> {
    let log = log(store.as_ref())?;
    match progress {
        Progress::Follow(after) => Ok(follow(log, after)),
        Progress::Snapshot { start, key } => {
            let after = (!key.is_empty())
                .then(|| Cursor::from_bytes(key))
                .transpose()?;
            let from = start.clone();
            let copy = log.snapshot(after).map(move |change| {
                change.map(|mut change| {
                    let (start, key) = (from.clone(), change.cursor.into_bytes());
                    change.cursor = Progress::Snapshot { start, key }.to_cursor();
                    Read::Change(change)
                })
            });
            let (ended, at) = (Arc::clone(store), start.clone());
            let end = stream::once(async move {
                let head = self::log(ended.as_ref())?.head().await?;
                Ok(Read::CopyEnded { at, head })
            });
            Ok(copy.chain(end).chain(follow(log, start)).boxed())
        }
    }
}

fn follow(log: &dyn ChangeLog, after: Cursor) -> BoxStream<'static, Result<Read>> {
    let ended = stream::once(async {
        // A log never ends by itself.
        let what = "the stream of changes ended";
        Err(Error::new(ErrorKind::Unavailable, "follow store", what))
    });
    let changes = log.changes(after).map(|change| {
        change.map(|mut change| {
            change.cursor = Progress::Follow(change.cursor).to_cursor();
            Read::Change(change)
        })
    });
    changes.chain(ended).boxed()
}

/// Where a hook begins that has no cursor: at the start of every stream.
pub(super) async fn beginning(log: &dyn ChangeLog) -> Result<Progress> {
    Ok(Progress::Snapshot {
        start: log.head().await?,
        key: Bytes::new(),
    })
}
