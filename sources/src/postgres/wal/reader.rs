//! A reader of a store's changes in the write-ahead log.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use ledger_core::{Change, Cursor, Error, ErrorKind, Result};
use ledger_layout::postgres::wal;
use sqlx::{PgConnection, Row as _};
use tokio::sync::Notify;
use uuid::Uuid;

use super::decoder::{Decoder, Met};
use super::position::Position;
use crate::postgres::capture::{end, slot};
use crate::postgres::replication::{
    Feed, Frame, Replication, confirm, decode, literal, parsed, shown,
};
use crate::postgres::store::Inner;
use crate::prefetch::Pages;

const OPERATION: &str = "read the write-ahead log";

/// At how many bytes a page ends.
const PAGE_BYTES: usize = 1 << 20;
/// At how many changes a page ends.
const PAGE_CHANGES: usize = 4_096;
/// How often a reader that waits for who takes its changes looks whether they are still kept.
const LOOK: Duration = Duration::from_secs(30);
/// How long to wait before looking again whether a transaction can be seen; it doubles up to the second.
const WAIT: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(50));

/// Reads on a temporary copy of the store's slot, which goes with the connection.
pub(super) struct Reader {
    feed: Feed,
    confirmed: Arc<AtomicU64>,
    decoder: Decoder,
}

/// What a reader has come to.
pub(super) enum Came {
    /// A change.
    Change(Position, super::decoder::Raw),
    /// Every change whose transaction's commit record begins below has come.
    Through(u64),
    /// Nothing that matters.
    Nothing,
}

impl Reader {
    /// A reader of what is behind `after`; with `through` it is known that nothing comes up to there.
    ///
    /// `CursorExpired` where the log is no longer kept from there on; `SourceDiverged` where it does
    /// not reach that far.
    pub(super) async fn open(inner: &Inner, after: Position, through: u64) -> Result<Self> {
        let uuid = inner.history;
        let publication = wal::publication(&inner.row.uuid);
        let row = {
            let mut conn = inner.connection(OPERATION).await?;
            let row = wal::find(&mut conn, &inner.tables).await?;
            let end = end(&mut conn).await?;
            if after.commit > end {
                return Err(diverged(inner, after, end));
            }
            let slot = slot::find(&mut conn, &row.slot).await?;
            if slot.is_none_or(|slot| slot.lost) {
                return Err(expired(inner, "its replication slot is gone"));
            }
            check_publication(inner, &mut conn, &publication).await?;
            row
        };
        let replication = Replication::connect(&inner.config).await?;
        // Values are written by the settings of this connection.
        let settings = "SET timezone = 'UTC'; SET datestyle = 'ISO'; SET bytea_output = 'hex'";
        let (replication, _) = replication
            .execute("set up replication", settings.to_owned())
            .await?;
        let name = format!("ledger_reader_{}", Uuid::new_v4().simple());
        let copy = format!(
            "SELECT lsn FROM pg_copy_logical_replication_slot({}, {}, true)",
            literal(&row.slot),
            literal(&name)
        );
        let (replication, answer) = replication.execute("copy replication slot", copy).await?;
        let copied = answer.into_iter().flatten().next().flatten();
        let from = parsed(&copied.unwrap_or_default())?;
        // Who moves the slot notes it before, so what is noted now is true of the copy.
        let mut conn = inner.connection(OPERATION).await?;
        let noted = wal::find(&mut conn, &inner.tables).await?;
        drop(conn);
        let kept_after = noted.kept_after;
        let kept_after = kept_after.ok_or_else(|| expired(inner, "its slot is being made"))?;
        let kept_after = Position::from_cursor(&Cursor::from_bytes(kept_after)?, &uuid)?;
        if after < kept_after {
            return Err(expired(
                inner,
                "it has been forgotten up to a later position",
            ));
        }
        if from > noted.kept_lsn {
            return Err(expired(inner, "somebody else has moved its slot"));
        }
        // Behind the newest change nothing was kept, and no other change lies there.
        if after.commit < from && after != kept_after {
            return Err(diverged(inner, after, from));
        }
        let start = after.commit.max(through).max(from);
        let replication = replication
            .start(&name, start, std::slice::from_ref(&publication), true)
            .await?;
        let feed = Feed::new(replication, start);
        let prefix = wal::prefix(&inner.row.uuid);
        Ok(Self {
            confirmed: feed.confirmed(),
            feed,
            decoder: Decoder::new(uuid, prefix, after, start == after.commit),
        })
    }

    /// What makes the server tell how far it has read.
    pub(super) fn ask(&self) -> Arc<Notify> {
        self.feed.ask()
    }

    /// The next thing that comes. Dropping the future loses nothing.
    pub(super) async fn next(&mut self) -> Result<(Came, usize)> {
        let frame = self.feed.next().await?;
        self.take(frame)
    }

    /// The next thing where one has come.
    pub(super) fn ready(&mut self) -> Result<Option<(Came, usize)>> {
        let frame = self.feed.ready().transpose()?;
        frame.map(|frame| self.take(frame)).transpose()
    }

    pub(super) fn change(&self, position: Position, raw: super::decoder::Raw) -> Result<Change> {
        self.decoder.change(position, raw)
    }

    fn take(&mut self, frame: Frame) -> Result<(Came, usize)> {
        let size = frame.size();
        let through = match frame {
            Frame::Alive(_) if self.decoder.is_within() => return Ok((Came::Nothing, 0)),
            Frame::Alive(end) => end,
            Frame::Data(bytes) => match self.decoder.read(decode(bytes)?)? {
                Met::Change(position, raw) => return Ok((Came::Change(position, raw), size)),
                Met::Nothing => return Ok((Came::Nothing, size)),
                Met::Committed(end) => end,
            },
        };
        // The copy of the slot is only for this reader; what has come need not come again.
        confirm(&self.confirmed, through);
        Ok((Came::Through(through), size))
    }
}

/// A publication that is gone is an error of the server's up to version 17, and later none at all.
async fn check_publication(inner: &Inner, conn: &mut PgConnection, name: &str) -> Result<()> {
    let sql = "SELECT EXISTS (SELECT FROM pg_publication WHERE pubname = $1)";
    let there: bool = sqlx::query_scalar(sql)
        .bind(name)
        .fetch_one(conn)
        .await
        .map_err(|error| inner.failed(OPERATION, error))?;
    if there {
        return Ok(());
    }
    let what = format!(
        "store {}: the publication {name} was dropped; keep the log in a table and then in the \
         write-ahead log again with `ledger store log --to`",
        inner.tables.store()
    );
    Err(Error::new(ErrorKind::Unsupported, OPERATION, what))
}

/// Hands on every change behind `after`, in pages of bounded size, until an error or the store's end.
pub(super) async fn follow(inner: &Inner, after: &Cursor, pages: &Pages) -> Result<()> {
    let after = Position::from_cursor(after, &inner.history)?;
    let mut reader = Reader::open(inner, after, 0).await?;
    let mut at = after;
    loop {
        let (mut came, size) = tokio::select! {
            came = reader.next() => came?,
            () = inner.wake.until_closed() => return Err(inner.closed_error(OPERATION)),
        };
        let (mut bytes, mut changes, mut transactions) = (size, Vec::new(), Vec::new());
        loop {
            if let Came::Change(position, raw) = came {
                if transactions.last() != Some(&raw.xid) {
                    transactions.push(raw.xid);
                }
                at = position;
                changes.push(reader.change(position, raw)?);
            }
            if bytes >= PAGE_BYTES || changes.len() >= PAGE_CHANGES {
                break;
            }
            let Some((next, size)) = reader.ready()? else {
                break;
            };
            came = next;
            bytes += size;
        }
        if changes.is_empty() {
            continue;
        }
        until_visible(inner, &transactions).await?;
        let mut sending = Box::pin(pages.send(changes));
        loop {
            tokio::select! {
                taken = &mut sending => {
                    if taken {
                        break;
                    }
                    return Ok(());
                }
                // Who holds a reader and does not read keeps no more of the log than others.
                () = tokio::time::sleep(LOOK) => check_kept(inner, at).await?,
            }
        }
    }
}

/// Waits until the transactions can be seen by who reads the store. The log tells them a little
/// earlier: before their writer has left the list of those that run, and with a synchronous standby
/// before that has them.
async fn until_visible(inner: &Inner, transactions: &[u32]) -> Result<()> {
    const SQL: &str = "SELECT pg_snapshot_xmax(s)::text::bigint, \
         ARRAY(SELECT x::text::bigint FROM pg_snapshot_xip(s) x) FROM pg_current_snapshot() s";
    let mut wait = WAIT.0;
    loop {
        let mut conn = inner.connection(OPERATION).await?;
        let row = sqlx::query(SQL).fetch_one(&mut *conn).await;
        let row = row.map_err(|error| inner.failed(OPERATION, error))?;
        drop(conn);
        let running: Vec<i64> = row.get(1);
        if transactions
            .iter()
            .all(|xid| is_over(*xid, row.get(0), &running))
        {
            return Ok(());
        }
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(WAIT.1);
    }
}

/// Whether a snapshot with this end and these running transactions sees one, of whose number the epoch
/// is not known: it lies less than half of all numbers from the end.
fn is_over(xid: u32, xmax: i64, running: &[i64]) -> bool {
    let low = |xid: i64| u32::try_from(xid & i64::from(u32::MAX)).unwrap_or(0);
    let before_end = xid.wrapping_sub(low(xmax)) > u32::MAX / 2;
    before_end && running.iter().all(|running| low(*running) != xid)
}

/// Ends a reader that stands before what is kept.
async fn check_kept(inner: &Inner, at: Position) -> Result<()> {
    let mut conn = inner.connection(OPERATION).await?;
    let kept_after = wal::find(&mut conn, &inner.tables).await?.kept_after;
    let kept_after = kept_after.map(Cursor::from_bytes).transpose()?;
    match kept_after {
        Some(kept_after) if at < Position::from_cursor(&kept_after, &inner.history)? => {
            Err(expired(inner, "it was not read on in time"))
        }
        Some(_) => Ok(()),
        None => Err(expired(inner, "its slot is being made")),
    }
}

fn expired(inner: &Inner, why: &str) -> Error {
    Error::new(
        ErrorKind::CursorExpired,
        OPERATION,
        format!(
            "store {}: the write-ahead log is not kept from the cursor on, {why}; start again from \
             a snapshot (--resync)",
            inner.tables.store()
        ),
    )
}

fn diverged(inner: &Inner, after: Position, end: u64) -> Error {
    Error::new(
        ErrorKind::SourceDiverged,
        OPERATION,
        format!(
            "store {}: the cursor stands at {}, and the log ends at {}: this is another history, as \
             after restoring a backup; start again from a snapshot (--resync)",
            inner.tables.store(),
            shown(after.commit),
            shown(end)
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transaction_is_seen_once_it_is_before_the_end_and_runs_no_longer() {
        let epoch = 7_i64 << 32;
        assert!(is_over(99, epoch + 100, &[epoch + 98]));
        assert!(!is_over(99, epoch + 100, &[epoch + 99]));
        assert!(!is_over(100, epoch + 100, &[]));
        assert!(!is_over(101, epoch + 100, &[]));
        // Over the border of an epoch.
        assert!(is_over(u32::MAX, epoch + 3, &[]));
        assert!(!is_over(2, epoch - 3, &[]));
    }
}
