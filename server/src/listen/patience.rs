//! How long a connection is waited for.

use std::future::Future as _;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

use crate::{Limits, Protocol};

/// The bytes with which every HTTP/2 connection begins.
const PREFACE: usize = 24;

/// A connection that breaks when its client does not begin, or does not take what it is sent.
///
/// What lies between is watched where it is understood: HTTP/1 has a time for its headers, HTTP/2
/// asks silent clients whether they are there.
pub(super) struct Patient<I> {
    io: I,
    protocol: Protocol,
    /// Runs until the client has begun.
    beginning: Option<Pin<Box<Sleep>>>,
    read: usize,
    /// Runs while the client takes nothing.
    stalled: Option<Pin<Box<Sleep>>>,
    stall_time: Duration,
}

impl<I> Patient<I> {
    pub(super) fn new(io: I, protocol: Protocol, limits: &Limits) -> Self {
        Self {
            io,
            protocol,
            beginning: Some(Box::pin(sleep(limits.handshake_time))),
            read: 0,
            stalled: None,
            stall_time: limits.stall_time,
        }
    }

    /// Whether the client has taken something; breaks the connection where it has not for too long.
    fn taken<T>(&mut self, cx: &mut Context<'_>, poll: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if poll.is_ready() {
            self.stalled = None;
            return poll;
        }
        let time = self.stall_time;
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(sleep(time)));
        match stalled.as_mut().poll(cx) {
            Poll::Ready(()) => Poll::Ready(Err(io::Error::new(
                io::ErrorKind::TimedOut,
                "the client takes nothing of what it is sent",
            ))),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for Patient<I> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let poll = Pin::new(&mut self.io).poll_read(cx, buffer);
        self.read += buffer.filled().len() - before;
        if self.read >= PREFACE {
            self.beginning = None;
        }
        if poll.is_pending()
            && let Some(beginning) = &mut self.beginning
            && beginning.as_mut().poll(cx).is_ready()
        {
            return Poll::Ready(Err(io::Error::new(
                io::ErrorKind::TimedOut,
                "the client sends no request",
            )));
        }
        poll
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Patient<I> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        // Over HTTP/1 an answer means that there was a request, which may be shorter.
        if self.protocol == Protocol::Http {
            self.beginning = None;
        }
        let poll = Pin::new(&mut self.io).poll_write(cx, bytes);
        self.taken(cx, poll)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.protocol == Protocol::Http {
            self.beginning = None;
        }
        let poll = Pin::new(&mut self.io).poll_write_vectored(cx, buffers);
        self.taken(cx, poll)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let poll = Pin::new(&mut self.io).poll_flush(cx);
        self.taken(cx, poll)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let poll = Pin::new(&mut self.io).poll_shutdown(cx);
        self.taken(cx, poll)
    }
}
