//! A receiver of webhooks: a small HTTP/1.1 server on threads of its own, that answers as it is told
//! and remembers what came.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A request that came.
#[derive(Debug, Clone)]
pub struct Received {
    /// When its body had come.
    pub at: Instant,
    /// Path and query.
    pub path: String,
    /// The headers, their names in lower case.
    pub headers: BTreeMap<String, String>,
    /// The body.
    pub body: Vec<u8>,
}

impl Received {
    /// A header; empty where it is absent.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// What a receiver does with a request.
#[derive(Debug, Clone)]
pub enum Reply {
    /// Answers with this status.
    Status(u16),
    /// Answers with status, headers and body.
    With(u16, Vec<(&'static str, String)>, Vec<u8>),
    /// Waits, then answers 204.
    Slow(Duration),
    /// Says nothing until the receiver ends.
    Hang,
    /// Sends half an answer, and closes the connection.
    Cut,
    /// Closes the connection without an answer.
    Close,
}

/// What to do with a request.
type Answer = dyn Fn(&Received) -> Reply + Send + Sync;

/// A receiver. Dropped, it takes nothing more.
pub struct Receiver {
    address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    answer: Mutex<Arc<Answer>>,
    received: Mutex<Vec<Received>>,
    changed: Condvar,
    connections: AtomicUsize,
    ended: AtomicBool,
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Receiver {
    /// Begins to receive on a free port of 127.0.0.1.
    pub fn start(answer: impl Fn(&Received) -> Reply + Send + Sync + 'static) -> Self {
        Self::at(SocketAddr::from(([127, 0, 0, 1], 0)), answer)
    }

    /// Begins to receive at an address.
    ///
    /// # Panics
    ///
    /// Where that is taken.
    pub fn at(
        address: SocketAddr,
        answer: impl Fn(&Received) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let bound = TcpListener::bind(address).and_then(|on| Ok((on.local_addr()?, on)));
        let Ok((address, listener)) = bound else {
            panic!("cannot receive at {address}");
        };
        let shared = Arc::new(Shared {
            answer: Mutex::new(Arc::new(answer)),
            received: Mutex::default(),
            changed: Condvar::new(),
            connections: AtomicUsize::new(0),
            ended: AtomicBool::new(false),
        });
        let accepting = Arc::clone(&shared);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if accepting.ended.load(Ordering::Acquire) {
                    return;
                }
                let Ok(stream) = stream else { continue };
                accepting.connections.fetch_add(1, Ordering::AcqRel);
                let shared = Arc::clone(&accepting);
                std::thread::spawn(move || drop(serve(stream, &shared)));
            }
        });
        Self { address, shared }
    }

    /// Where it is.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The URL of a path.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Answers otherwise from now on.
    pub fn answer(&self, answer: impl Fn(&Received) -> Reply + Send + Sync + 'static) {
        *lock(&self.shared.answer) = Arc::new(answer);
    }

    /// What came until now, in the order in which it had come.
    pub fn received(&self) -> Vec<Received> {
        lock(&self.shared.received).clone()
    }

    /// How many requests came until now.
    pub fn count(&self) -> usize {
        lock(&self.shared.received).len()
    }

    /// How many connections were made.
    pub fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::Acquire)
    }

    /// Waits until what came fulfils a condition, for up to two minutes, and returns it.
    ///
    /// # Panics
    ///
    /// Where that is over.
    pub fn wait(&self, what: &str, holds: impl Fn(&[Received]) -> bool) -> Vec<Received> {
        let end = Instant::now() + Duration::from_mins(2);
        let mut received = lock(&self.shared.received);
        while !holds(&received) {
            let left = end.saturating_duration_since(Instant::now());
            assert!(
                !left.is_zero(),
                "waited in vain: {what}; {} requests came",
                received.len()
            );
            let waited = self.shared.changed.wait_timeout(received, left);
            received = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        received.clone()
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::Release);
        // Wakes the thread that accepts.
        drop(TcpStream::connect(self.address));
    }
}

/// Reads requests of one connection until it ends.
fn serve(mut stream: TcpStream, shared: &Shared) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(stream.try_clone()?);
    loop {
        let Some(request) = read(&mut reader)? else {
            return Ok(());
        };
        let answer = Arc::clone(&lock(&shared.answer));
        let reply = answer(&request);
        lock(&shared.received).push(request);
        shared.changed.notify_all();
        let (status, headers, body) = match reply {
            Reply::Status(status) => (status, Vec::new(), Vec::new()),
            Reply::With(status, headers, body) => (status, headers, body),
            Reply::Slow(time) => {
                std::thread::sleep(time);
                (204, Vec::new(), Vec::new())
            }
            Reply::Hang => {
                while !shared.ended.load(Ordering::Acquire) {
                    std::thread::sleep(Duration::from_millis(20));
                }
                return Ok(());
            }
            Reply::Cut => {
                stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf")?;
                return stream.shutdown(std::net::Shutdown::Both);
            }
            Reply::Close => return stream.shutdown(std::net::Shutdown::Both),
        };
        let mut head = format!("HTTP/1.1 {status} X\r\n");
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        if status != 204 {
            head.push_str(&format!("content-length: {}\r\n", body.len()));
        }
        head.push_str("\r\n");
        let mut bytes = head.into_bytes();
        bytes.extend_from_slice(&body);
        stream.write_all(&bytes)?;
    }
}

/// Reads one request; none where the connection ends before it.
fn read(reader: &mut BufReader<TcpStream>) -> std::io::Result<Option<Received>> {
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let path = line.split(' ').nth(1).unwrap_or_default().to_owned();
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let line = line.trim_end();
        if line.is_empty() {
            break;
        }
        if let Some((name, value)) = line.split_once(':') {
            headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
        }
    }
    let length = headers.get("content-length");
    let length = length.and_then(|length| length.parse().ok()).unwrap_or(0);
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    Ok(Some(Received {
        at: Instant::now(),
        path,
        headers,
        body,
    }))
}
