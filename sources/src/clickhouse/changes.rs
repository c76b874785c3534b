//! Following the mutation log.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use futures::stream::{self, BoxStream, StreamExt as _};
use ledger_core::{Change, Cursor, Error, ErrorKind, Lag, Result, StoreName, Timestamp};
use ledger_layout::clickhouse::{Connection, LOG_TAG, LogTable, States};
use ledger_layout::log::{APPEND, Position};
use tokio::sync::watch;

use super::group::Sequencer;
use super::prune::pruned_through;
use super::store::Open;

const OPERATION: &str = "read the mutation log";
/// How many rows a page may have.
const PAGE_ROWS: usize = 512;
/// How often a reader looks for what other processes have written.
const POLL: Duration = Duration::from_millis(250);
/// How many rows are counted exactly to tell how far a reader is behind.
const COUNTED_ROWS: usize = 10_000;

/// What a reader of the log needs.
#[derive(Debug, Clone)]
pub(super) struct Reader {
    pub(super) open: Open,
    pub(super) store: StoreName,
    pub(super) log: LogTable,
    pub(super) states: States,
}

struct Follower {
    reader: Reader,
    written: watch::Receiver<i64>,
    at: Position,
    page: VecDeque<Change>,
    /// What ends the stream once the page is empty.
    failure: Option<Error>,
    /// Whether a position before the first row was looked at.
    begun: bool,
}

/// See [`ChangeLog::changes`](ledger_core::ChangeLog::changes).
pub(super) fn follow(
    reader: Reader,
    sequencer: &Arc<Sequencer>,
    after: &Cursor,
) -> BoxStream<'static, Result<Change>> {
    let written = sequencer.written();
    let follower = Position::from_cursor(after, LOG_TAG).map(|at| Follower {
        reader,
        written,
        at,
        page: VecDeque::new(),
        failure: None,
        begun: false,
    });
    match follower {
        Ok(follower) => stream::try_unfold(follower, |mut follower| async move {
            let change = follower.next().await?;
            Ok(Some((change, follower)))
        })
        .boxed(),
        Err(error) => stream::once(async { Err(error) }).boxed(),
    }
}

impl Follower {
    async fn next(&mut self) -> Result<Change> {
        loop {
            self.reader.open.check(OPERATION)?;
            if let Some(change) = self.page.pop_front() {
                return Ok(change);
            }
            if let Some(failure) = self.failure.take() {
                return Err(failure);
            }
            self.written.mark_unchanged();
            if !self.read().await? {
                tokio::select! {
                    // Ends without a word where the sequencer has gone; then only the clock wakes.
                    Ok(()) = self.written.changed() => {}
                    () = tokio::time::sleep(POLL) => {}
                    () = self.reader.open.closed() => {}
                }
            }
        }
    }

    /// Reads a page behind the position; whether there was anything.
    async fn read(&mut self) -> Result<bool> {
        if self.at.seq == 0 && !self.begun {
            self.reader.check_beginning(self.at).await?;
            self.begun = true;
        }
        let tail = self
            .reader
            .log
            .rows(OPERATION, self.at.seq, PAGE_ROWS)
            .await?;
        self.reader
            .check(self.at, tail.rows.iter().map(|row| row.seq), || {
                tail.rows.first().map(ledger_layout::log::LogRow::digest)
            })
            .await?;
        let mut read = false;
        for row in tail.rows {
            let end = row.last_position();
            if row.seq == self.at.seq && end.index <= self.at.index {
                continue;
            }
            read = true;
            let after = (row.seq == self.at.seq).then_some(self.at.index);
            match row.into_changes(LOG_TAG, after) {
                Ok(changes) => self.page.extend(changes),
                Err(error) => {
                    self.failure = Some(error);
                    break;
                }
            }
            self.at = end;
        }
        Ok(read)
    }
}

impl Reader {
    /// Checks a position before the first row. What a promoted replica held is not in its log, so who
    /// comes from the start has missed it.
    async fn check_beginning(&self, at: Position) -> Result<()> {
        let Some(beginning) = self.log.beginning(OPERATION).await? else {
            return Ok(());
        };
        let store = &self.store;
        if at == Position::START {
            if beginning.last_id == 0 {
                return Ok(());
            }
            let what = format!(
                "store {store} was a replica, whose content is not in its log; start with a snapshot"
            );
            return Err(Error::new(ErrorKind::CursorExpired, OPERATION, what));
        }
        if at == beginning.position() {
            return Ok(());
        }
        let what = format!(
            "store {store}: the log began otherwise than was read; start again with \
             `ledger bridge run --resync`"
        );
        Err(Error::new(ErrorKind::SourceDiverged, OPERATION, what))
    }

    /// Checks that `after` is a position of this history and that the rows read behind it are all
    /// there. Where one is missing, it was pruned, or the position is of another history, or its
    /// number was never used; which of these, it stands noted, and was before the row was removed.
    async fn check(
        &self,
        after: Position,
        rows: impl Iterator<Item = i64> + Send,
        digest: impl FnOnce() -> Option<u64> + Send,
    ) -> Result<()> {
        // The row that began the log is never read; the first behind it has the number 1.
        let (mut next, mut missing, mut found) = (after.seq.max(1), None, after.seq == 0);
        for seq in rows {
            if seq == after.seq {
                found = true;
            } else if seq != next && missing.is_none() {
                missing = Some(next);
            }
            next = seq + 1;
        }
        let same = after.seq == 0 || (found && digest() == Some(after.digest));
        if same && missing.is_none() {
            return Ok(());
        }
        let pruned = pruned_through(OPERATION, &self.states).await?;
        let store = &self.store;
        let lacks = if found { missing } else { Some(after.seq) };
        if lacks.is_some_and(|seq| seq <= pruned) {
            let what = format!(
                "store {store}: the log was pruned through row {pruned}, which the reader at row {} \
                 still needs; start it again with a snapshot",
                after.seq
            );
            return Err(Error::new(ErrorKind::CursorExpired, OPERATION, what));
        }
        if same {
            return Ok(());
        }
        let what = format!(
            "store {store}: row {} of the log is not the one that was read, as after restoring an \
             older copy; start again with `ledger bridge run --resync`",
            after.seq
        );
        Err(Error::new(ErrorKind::SourceDiverged, OPERATION, what))
    }

    /// The position of the last row at or before a number.
    pub(super) async fn position(&self, through: i64) -> Result<Cursor> {
        let position = match self.log.last(OPERATION, through).await? {
            Some((row, _)) => row.last_position(),
            None => match self.log.beginning(OPERATION).await? {
                Some(beginning) if beginning.last_id > 0 => beginning.position(),
                _ => Position::START,
            },
        };
        Ok(position.to_cursor(LOG_TAG))
    }

    /// See [`ChangeLog::lag`](ledger_core::ChangeLog::lag).
    pub(super) async fn lag(&self, connection: &Connection, after: &Cursor) -> Result<Lag> {
        const OPERATION: &str = "measure lag";
        let after = Position::from_cursor(after, LOG_TAG)?;
        let table = self.log.table();
        let sql = format!(
            "SELECT sum(changes) AS entries, count() AS rows, min(micros) AS oldest, \
             max(seq) AS last, assumeNotNull((SELECT max(seq) FROM {table})) AS head \
             FROM (SELECT seq, toUnixTimestamp64Micro(at) AS micros, \
             if(kind = {APPEND}, arrayCount(id -> id != 0, ids), 1) AS changes \
             FROM {table} WHERE seq > {} ORDER BY seq LIMIT {COUNTED_ROWS})",
            after.seq
        );
        let query = connection.client().query_raw(&sql);
        let rows: Vec<(u64, u64, i64, i64, i64)> = connection.fetch_all(OPERATION, query).await?;
        let (mut entries, rows, oldest, last, head) = rows.into_iter().next().unwrap_or_default();
        let mut oldest = (rows > 0).then_some(oldest);
        let uncounted = u64::try_from(head.saturating_sub(last)).unwrap_or(0);
        entries += entries
            .saturating_mul(uncounted)
            .checked_div(rows)
            .unwrap_or(0);
        if let Some((row, _)) = self.log.last(OPERATION, after.seq).await?
            && row.seq == after.seq
        {
            let index = usize::try_from(after.index).unwrap_or(usize::MAX);
            let behind = row.ids.iter().skip(index.saturating_add(1));
            let left = behind.filter(|id| **id != 0).count();
            if left > 0 {
                entries += u64::try_from(left).unwrap_or(u64::MAX);
                oldest = Some(row.at.as_micros());
            }
        }
        let since = |at| Timestamp::now().since(Timestamp::from_micros(at));
        Ok(Lag {
            entries,
            age: oldest.map_or_else(Duration::default, since),
            bytes: None,
            held_by: Vec::new(),
        })
    }
}
