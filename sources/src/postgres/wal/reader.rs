//! A reader of a store's changes in the write-ahead log.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use ledger_core::{Change, Cursor, Error, ErrorKind, Result};
use ledger_layout::postgres::wal;
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
        let uuid = inner.row.uuid;
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
        let kept_after = wal::find(&mut conn, &inner.tables).await?.kept_after;
        drop(conn);
        let kept_after = kept_after.ok_or_else(|| expired(inner, "its slot is being made"))?;
        if after < Position::from_cursor(&Cursor::from_bytes(kept_after)?, &uuid)? {
            return Err(expired(
                inner,
                "it has been forgotten up to a later position",
            ));
        }
        let start = after.commit.max(through).max(from);
        let replication = replication
            .start(&name, start, std::slice::from_ref(&row.slot), true)
            .await?;
        let feed = Feed::new(replication, start);
        Ok(Self {
            confirmed: feed.confirmed(),
            feed,
            decoder: Decoder::new(uuid, after, start == after.commit),
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
            Frame::Alive(end) => behind_header(end),
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

/// Where the log's end stands on the border of a page, the next record begins behind the page's header,
/// and by that the server tells the position of its end to others.
fn behind_header(end: u64) -> u64 {
    const PAGE: u64 = 8_192;
    const LONGEST_HEADER: u64 = 40;
    if end.is_multiple_of(PAGE) {
        end + LONGEST_HEADER
    } else {
        end
    }
}

/// Hands on every change behind `after`, in pages of bounded size, until an error or the store's end.
pub(super) async fn follow(inner: &Inner, after: &Cursor, pages: &Pages) -> Result<()> {
    let after = Position::from_cursor(after, &inner.row.uuid)?;
    let mut reader = Reader::open(inner, after, 0).await?;
    loop {
        let (mut came, size) = tokio::select! {
            came = reader.next() => came?,
            () = inner.wake.until_closed() => return Err(inner.closed_error(OPERATION)),
        };
        let (mut bytes, mut changes) = (size, Vec::new());
        loop {
            if let Came::Change(position, raw) = came {
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
        if !pages.send(changes).await {
            return Ok(());
        }
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
    fn the_end_on_a_pages_border_covers_the_pages_header() {
        assert_eq!(behind_header(8_192 * 3), 8_192 * 3 + 40);
        assert_eq!(behind_header(8_192 * 3 + 8), 8_192 * 3 + 8);
    }
}
