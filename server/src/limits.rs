//! What one client may ask of the service.

use std::time::Duration;

/// What one client, and all of them together, may ask of the service. Whoever goes beyond one gets
/// an error of its own, or is disconnected where no request stands behind it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of a request or a response: `RESOURCE_EXHAUSTED` beyond it, both ways.
    pub message_bytes: usize,
    /// Entries of one append: `INVALID_ARGUMENT` beyond it.
    pub entries: usize,
    /// Requests at one time on one connection. HTTP/2 tells the client, which waits.
    pub concurrent_streams: u32,
    /// Tails and change streams at one time on all connections: `RESOURCE_EXHAUSTED` beyond it.
    pub tails: usize,
    /// Connections at one time; further ones wait in the listener's queue.
    pub connections: usize,
    /// Bytes of a request's headers, names and values together: `RESOURCE_EXHAUSTED` beyond it, and
    /// a broken connection beyond twice as much.
    pub header_bytes: u32,
    /// Headers of a request: `RESOURCE_EXHAUSTED` beyond it.
    pub headers: usize,
    /// From a request's headers to its response, its body included: `DEADLINE_EXCEEDED` beyond it.
    /// Does not hold for tails, change streams, bulk loads, and the verification of a bridge.
    pub request_time: Duration,
    /// From the connection to its first request: the TLS handshake, the headers. Also how long a
    /// connection without HTTP/2 may be idle.
    pub handshake_time: Duration,
    /// How long a client may take none of the bytes it was sent before it is disconnected.
    pub stall_time: Duration,
    /// After how much silence an HTTP/2 client is asked whether it is there, and a server-sent event
    /// stream gets a comment.
    pub keepalive_interval: Duration,
    /// How long it may take to answer that.
    pub keepalive_timeout: Duration,
    /// Bytes of recent changes that are kept for the tails of a store; one that is further behind
    /// reads from the store by itself.
    pub feed_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            message_bytes: 4 << 20,
            entries: 10_000,
            concurrent_streams: 1_024,
            tails: 20_000,
            connections: 16_384,
            header_bytes: 16 << 10,
            headers: 100,
            request_time: Duration::from_mins(1),
            handshake_time: Duration::from_secs(10),
            stall_time: Duration::from_mins(1),
            keepalive_interval: Duration::from_secs(20),
            keepalive_timeout: Duration::from_secs(20),
            feed_bytes: 16 << 20,
        }
    }
}
