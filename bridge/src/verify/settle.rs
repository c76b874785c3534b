//! Waiting until the sink has what the source's chunk showed.

use std::time::Duration;

use ledger_core::{
    Change, ChangeLog, Consumer, CursorStore, EntryKey, Error, ErrorKind, Progress, Result, Sink,
    StreamKey,
};
use tokio::time::Instant;

use super::VerifyOptions;
use super::pending::{Pending, pending};

/// How often the sink's cursor is looked at.
const LOOK: Duration = Duration::from_millis(50);

pub(super) struct Settle<'a> {
    log: &'a dyn ChangeLog,
    cursors: &'a dyn CursorStore,
    options: &'a VerifyOptions,
    /// Whether no bridge moves the sink's cursor.
    stopped: bool,
}

impl<'a> Settle<'a> {
    pub(super) fn new(
        log: &'a dyn ChangeLog,
        sink: &'a dyn Sink<Change>,
        options: &'a VerifyOptions,
    ) -> Result<Self> {
        let cursors = sink.cursors().ok_or_else(|| {
            Error::new(
                ErrorKind::Unsupported,
                "verify",
                format!("{sink} keeps no cursors"),
            )
        })?;
        Ok(Self {
            log,
            cursors,
            options,
            stopped: false,
        })
    }

    async fn position(&self) -> Result<Option<Progress>> {
        let stored = self.cursors.stored(&self.options.pipeline).await?;
        stored.as_ref().map(Progress::from_cursor).transpose()
    }

    /// Checks that the bridge has copied what there was.
    pub(super) async fn check_copied(&self) -> Result<()> {
        let pipeline = &self.options.pipeline;
        match self.position().await? {
            Some(Progress::Follow(_)) => Ok(()),
            Some(Progress::Snapshot { .. }) => Err(Error::new(
                ErrorKind::Conflict,
                "verify",
                format!("the copy of bridge {pipeline} has not ended; let it run, then verify"),
            )),
            None => Err(Error::new(
                ErrorKind::NotFound,
                "verify",
                format!("bridge {pipeline} has written nothing to this sink; run it, then verify"),
            )),
        }
    }

    /// Waits until the sink's cursor has reached the log's present head, or no bridge moves it.
    pub(super) async fn reach_head(&mut self) -> Result<()> {
        let head = self.log.head().await?;
        let mut last = None;
        let mut moved = Instant::now();
        loop {
            let Some(Progress::Follow(cursor)) = self.position().await? else {
                return self.check_copied().await;
            };
            if cursor >= head {
                return Ok(());
            }
            if last.as_ref() != Some(&cursor) {
                (last, moved) = (Some(cursor), Instant::now());
                self.stopped = !self.is_running().await?;
            }
            self.stopped |= moved.elapsed() > self.options.patience;
            if self.stopped {
                return Ok(());
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    async fn is_running(&self) -> Result<bool> {
        let mine = self.registered().await?;
        Ok(mine.is_some_and(|consumer| consumer.holder.is_some()))
    }

    /// What this source knows of the bridge; nothing, where the sink is at the end of a chain from it.
    async fn registered(&self) -> Result<Option<Consumer>> {
        let consumers = self.log.consumers().list().await?;
        Ok(consumers
            .into_iter()
            .find(|consumer| consumer.pipeline == self.options.pipeline))
    }

    /// Which of these rows differ only because the sink is not that far.
    pub(super) async fn pending(
        &self,
        streams: &[StreamKey],
        entries: &[EntryKey],
    ) -> Result<Pending> {
        if self.registered().await?.is_none() {
            // The bridge's cursor is a position in another log.
            return Ok(Pending::default());
        }
        let head = self.log.head().await?;
        match self.position().await? {
            Some(Progress::Follow(cursor)) if cursor < head => {
                pending(self.log, cursor, &head, streams, entries).await
            }
            _ => Ok(Pending::default()),
        }
    }
}
