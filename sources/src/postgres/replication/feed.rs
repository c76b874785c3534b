//! The frames of the log, read by a task that also answers the server.
//!
//! The server ends a connection that is silent for `wal_sender_timeout`, also while nothing can be
//! read since the sink is slow. So one task owns the connection: it reads while there is room in a
//! queue that is bounded in bytes, and tells the server where it stands all the while.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::{Buf as _, Bytes};
use ledger_core::{Error, ErrorKind, Result};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::transport::Transport;

/// How many bytes of frames wait to be taken.
const ROOM: u32 = 8 << 20;
/// How often it is looked whether there is something to tell.
const TICK: Duration = Duration::from_millis(500);
/// How often the server is told something, whether or not anything is new.
const TELL: Duration = Duration::from_secs(5);
/// How long the server may be silent before it is asked for a sign of life, and before it is given
/// up.
const ASK: Duration = Duration::from_secs(30);
const GONE: Duration = Duration::from_mins(1);

/// What the server sends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::postgres) enum Frame {
    /// A message of the output plugin.
    Data(Bytes),
    /// Every transaction whose commit record begins below has been sent.
    Alive(u64),
}

impl Frame {
    /// How many bytes it holds.
    pub(in crate::postgres) fn size(&self) -> usize {
        match self {
            Self::Data(bytes) => bytes.len(),
            Self::Alive(_) => 0,
        }
    }
}

/// The frames, in order, and up to where the server may forget.
pub(in crate::postgres) struct Feed {
    frames: mpsc::UnboundedReceiver<Result<Taken>>,
    confirmed: Arc<AtomicU64>,
    ask: Arc<Notify>,
}

/// A frame, and the room that it takes as long as it is here.
type Taken = (Frame, OwnedSemaphorePermit);

impl Feed {
    /// Reads from here on. The task ends with an error, or when this is dropped.
    pub(in crate::postgres) fn new(transport: impl Transport, confirmed: u64) -> Self {
        let (sender, frames) = mpsc::unbounded_channel();
        let confirmed = Arc::new(AtomicU64::new(confirmed));
        let ask = Arc::new(Notify::new());
        let reader = Reader {
            transport,
            sender,
            room: Arc::new(Semaphore::new(ROOM as usize)),
            confirmed: Arc::clone(&confirmed),
            ask: Arc::clone(&ask),
            received: 0,
            told: 0,
            told_at: Instant::now(),
            heard_at: Instant::now(),
            asked: false,
        };
        tokio::spawn(reader.run());
        Self {
            frames,
            confirmed,
            ask,
        }
    }

    /// The next frame. Dropping the future loses none.
    pub(in crate::postgres) async fn next(&mut self) -> Result<Frame> {
        let taken = self.frames.recv().await.unwrap_or_else(|| {
            let what = "the reader ended";
            Err(Error::new(ErrorKind::Unavailable, "read the log", what))
        });
        taken.map(|(frame, _)| frame)
    }

    /// The next frame where one waits.
    pub(in crate::postgres) fn ready(&mut self) -> Option<Result<Frame>> {
        let taken = self.frames.try_recv().ok()?;
        Some(taken.map(|(frame, _)| frame))
    }

    /// What makes the server tell how far it has read, by [`Frame::Alive`].
    pub(in crate::postgres) fn ask(&self) -> Arc<Notify> {
        Arc::clone(&self.ask)
    }

    /// Where [`confirm`] writes.
    pub(in crate::postgres) fn confirmed(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.confirmed)
    }
}

/// Lets the server forget what is below `boundary`, which only moves forward.
pub(in crate::postgres) fn confirm(confirmed: &AtomicU64, boundary: u64) {
    confirmed.fetch_max(boundary, Ordering::AcqRel);
}

struct Reader<T> {
    transport: T,
    sender: mpsc::UnboundedSender<Result<Taken>>,
    room: Arc<Semaphore>,
    confirmed: Arc<AtomicU64>,
    ask: Arc<Notify>,
    received: u64,
    told: u64,
    told_at: Instant,
    heard_at: Instant,
    asked: bool,
}

impl<T: Transport> Reader<T> {
    async fn run(mut self) {
        if let Err(error) = self.read().await {
            // Who reads may be gone already.
            let _ = self.sender.send(Err(error));
        }
    }

    async fn read(&mut self) -> Result<()> {
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // A frame that has come, and for which there is no room yet.
        let mut held: Option<(Frame, u32)> = None;
        loop {
            tokio::select! {
                _ = tick.tick() => self.keep_alive(held.is_some()).await?,
                () = self.ask.notified() => self.tell(true).await?,
                () = self.sender.closed() => return self.tell(false).await,
                room = Arc::clone(&self.room).acquire_many_owned(
                    held.as_ref().map_or(0, |(_, size)| *size)
                ), if held.is_some() => {
                    let (Ok(room), Some((frame, _))) = (room, held.take()) else {
                        return Ok(());
                    };
                    // Nothing was read meanwhile, so nothing could be heard.
                    self.heard_at = Instant::now();
                    if self.sender.send(Ok((frame, room))).is_err() {
                        return self.tell(false).await;
                    }
                }
                frame = self.transport.frame(), if held.is_none() => {
                    held = self.took(frame?).await?;
                }
            }
        }
    }

    /// Takes a frame apart, and answers where an answer is asked for.
    async fn took(&mut self, frame: Bytes) -> Result<Option<(Frame, u32)>> {
        self.heard_at = Instant::now();
        self.asked = false;
        let size = u32::try_from(frame.len()).unwrap_or(ROOM).clamp(1, ROOM);
        let (frame, end, reply) = parse(frame)?;
        self.received = self.received.max(end);
        if reply {
            self.tell(false).await?;
        }
        Ok(Some((frame, size)))
    }

    async fn keep_alive(&mut self, stalled: bool) -> Result<()> {
        let silent = self.heard_at.elapsed();
        if !stalled && silent >= GONE {
            let what = format!("the server has been silent for {silent:?}");
            return Err(Error::new(ErrorKind::Unavailable, "read the log", what));
        }
        if !stalled && silent >= ASK && !self.asked {
            self.asked = true;
            return self.tell(true).await;
        }
        let news = self.confirmed.load(Ordering::Acquire) > self.told;
        if news || self.told_at.elapsed() >= TELL {
            return self.tell(false).await;
        }
        Ok(())
    }

    async fn tell(&mut self, reply: bool) -> Result<()> {
        let confirmed = self.confirmed.load(Ordering::Acquire);
        self.told = confirmed;
        self.told_at = Instant::now();
        let received = self.received.max(confirmed);
        self.transport.tell(received, confirmed, reply).await
    }
}

/// The frame, up to where the log is known by it, and whether the server asks for an answer.
///
/// Source: PostgreSQL's documentation, "Streaming Replication Protocol", `XLogData` and `Primary
/// keepalive message`.
fn parse(mut bytes: Bytes) -> Result<(Frame, u64, bool)> {
    let cut = |_| {
        let what = "a frame is cut short";
        Error::new(ErrorKind::Corrupt, "read the log", what)
    };
    match bytes.try_get_u8().map_err(cut)? {
        b'w' => {
            let start = bytes.try_get_u64().map_err(cut)?;
            let end = bytes.try_get_u64().map_err(cut)?;
            bytes.try_get_u64().map_err(cut)?;
            Ok((Frame::Data(bytes), start.max(end), false))
        }
        b'k' => {
            let end = bytes.try_get_u64().map_err(cut)?;
            bytes.try_get_u64().map_err(cut)?;
            let reply = bytes.try_get_u8().map_err(cut)? == 1;
            Ok((Frame::Alive(end), end, reply))
        }
        other => {
            let what = format!("a frame of kind {:?} is not known", char::from(other));
            Err(Error::new(ErrorKind::Corrupt, "read the log", what))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use async_trait::async_trait;
    use bytes::BufMut as _;

    use super::*;

    /// Gives frames as they come, and notes what it is told.
    struct Scripted {
        frames: mpsc::UnboundedReceiver<Bytes>,
        told: Arc<Mutex<Vec<(u64, u64, bool)>>>,
    }

    #[async_trait]
    impl Transport for Scripted {
        async fn frame(&mut self) -> Result<Bytes> {
            match self.frames.recv().await {
                Some(frame) => Ok(frame),
                None => std::future::pending().await,
            }
        }

        async fn tell(&mut self, received: u64, flushed: u64, reply: bool) -> Result<()> {
            self.told.lock().unwrap().push((received, flushed, reply));
            Ok(())
        }
    }

    type Told = Arc<Mutex<Vec<(u64, u64, bool)>>>;

    fn scripted() -> (mpsc::UnboundedSender<Bytes>, Told, Feed) {
        let (sender, frames) = mpsc::unbounded_channel();
        let told = Arc::new(Mutex::new(Vec::new()));
        let transport = Scripted {
            frames,
            told: Arc::clone(&told),
        };
        (sender, told, Feed::new(transport, 5))
    }

    fn data(end: u64, payload: &[u8]) -> Bytes {
        let mut frame = vec![b'w'];
        frame.put_u64(end);
        frame.put_u64(end);
        frame.put_u64(0);
        frame.extend_from_slice(payload);
        frame.into()
    }

    fn alive(end: u64, reply: u8) -> Bytes {
        let mut frame = vec![b'k'];
        frame.put_u64(end);
        frame.put_u64(0);
        frame.put_u8(reply);
        frame.into()
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_asks_is_answered_while_nothing_is_confirmed() {
        let (sender, told, mut feed) = scripted();
        sender.send(data(9, b"x")).unwrap();
        sender.send(alive(12, 1)).unwrap();
        assert_eq!(
            feed.next().await.unwrap(),
            Frame::Data(Bytes::from_static(b"x"))
        );
        assert_eq!(feed.next().await.unwrap(), Frame::Alive(12));
        // Received, and not acknowledged beyond what was confirmed.
        assert!(told.lock().unwrap().contains(&(12, 5, false)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_stalled_reader_is_kept_alive_and_reads_no_further() {
        let (sender, told, mut feed) = scripted();
        let large = vec![0; 5 << 20];
        for end in 1..=4 {
            sender.send(data(end, &large)).unwrap();
        }
        // Far beyond the time after which a silent server would be given up.
        tokio::time::sleep(GONE * 5).await;
        assert!(told.lock().unwrap().len() >= 50);
        let received = told.lock().unwrap().last().unwrap().0;
        assert!(received <= 5, "{received}");
        for _ in 0..4 {
            assert!(matches!(feed.next().await.unwrap(), Frame::Data(_)));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_confirmed_is_told_soon_and_never_taken_back() {
        let (_sender, told, feed) = scripted();
        confirm(&feed.confirmed(), 40);
        confirm(&feed.confirmed(), 30);
        tokio::time::sleep(TICK * 3).await;
        assert_eq!(told.lock().unwrap().last().unwrap().1, 40);
        drop(feed);
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_server_is_asked_and_then_given_up() {
        let (_sender, told, mut feed) = scripted();
        let error = feed.next().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        assert!(told.lock().unwrap().iter().any(|(_, _, reply)| *reply));
    }
}
