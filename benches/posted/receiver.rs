//! Receivers on a thread of their own.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};

use crate::measure::Outcome;

/// A request that came: its headers and its body.
pub(crate) type Posted = (HeaderMap, Bytes);

#[derive(Clone, Default)]
struct Shared(Arc<Taken>);

#[derive(Default)]
struct Taken {
    requests: AtomicU64,
    entries: AtomicU64,
    keeps: std::sync::atomic::AtomicBool,
    kept: Mutex<Vec<Posted>>,
    /// When the entry with this number came.
    arrived: Mutex<Vec<(u64, Instant)>>,
}

/// Some receivers, each at a port of its own.
pub(crate) struct Receivers {
    pub(crate) urls: Vec<String>,
    shared: Shared,
}

impl Receivers {
    pub(crate) fn start(count: usize) -> Outcome<Self> {
        let shared = Shared::default();
        let (told, urls) = mpsc::channel();
        let state = shared.clone();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build();
            let Ok(runtime) = runtime else { return };
            runtime.block_on(async {
                let mut servers = Vec::new();
                for _ in 0..count {
                    let router = Router::new().fallback(take).with_state(state.clone());
                    let Ok(listener) = tokio::net::TcpListener::bind("127.0.0.1:0").await else {
                        return;
                    };
                    let Ok(address) = listener.local_addr() else {
                        return;
                    };
                    let _ = told.send(format!("http://{address}/hook"));
                    servers.push(tokio::spawn(
                        async move { axum::serve(listener, router).await },
                    ));
                }
                drop(told);
                for server in servers {
                    let _ = server.await;
                }
            });
        });
        let urls: Vec<_> = urls.iter().collect();
        if urls.len() != count {
            return Err("the receivers did not begin".into());
        }
        Ok(Self { urls, shared })
    }

    /// How many requests came.
    pub(crate) fn requests(&self) -> u64 {
        self.shared.0.requests.load(Ordering::Acquire)
    }

    /// How many entries came.
    pub(crate) fn entries(&self) -> u64 {
        self.shared.0.entries.load(Ordering::Acquire)
    }

    /// Keeps what comes from now on.
    pub(crate) fn keep(&self) {
        self.shared.0.keeps.store(true, Ordering::Release);
    }

    /// What was kept.
    pub(crate) fn kept(&self) -> Vec<Posted> {
        self.shared.0.keeps.store(false, Ordering::Release);
        std::mem::take(&mut *lock(&self.shared.0.kept))
    }

    /// When entries came, by the number in their payload.
    pub(crate) fn arrived(&self) -> Vec<(u64, Instant)> {
        std::mem::take(&mut *lock(&self.shared.0.arrived))
    }

    /// Waits until so many requests came.
    pub(crate) async fn wait(&self, what: impl Fn(&Self) -> bool) -> Outcome {
        let begun = Instant::now();
        while !what(self) {
            if begun.elapsed() > Duration::from_mins(5) {
                return Err("the receivers waited in vain".into());
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        Ok(())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

const MARK: &[u8] = b"\"order\":";

async fn take(State(shared): State<Shared>, headers: HeaderMap, body: Bytes) -> StatusCode {
    let now = Instant::now();
    let shared = &shared.0;
    let (mut entries, mut rest) = (0, &body[..]);
    let mut arrived = lock(&shared.arrived);
    while let Some(at) = rest.windows(MARK.len()).position(|part| part == MARK) {
        rest = rest.get(at + MARK.len()..).unwrap_or_default();
        let digits = rest.iter().take_while(|byte| byte.is_ascii_digit());
        let number = digits.fold(0, |number, digit| number * 10 + u64::from(digit - b'0'));
        arrived.push((number, now));
        entries += 1;
        // In a batch only the first is looked for: a receiver is no part of what is measured.
        if body.len() > 2_000 {
            entries = 100;
            break;
        }
    }
    drop(arrived);
    if shared.keeps.load(Ordering::Acquire) {
        lock(&shared.kept).push((headers, body));
    }
    shared.entries.fetch_add(entries, Ordering::AcqRel);
    shared.requests.fetch_add(1, Ordering::AcqRel);
    StatusCode::NO_CONTENT
}
