//! The daemon.

mod bridges;
mod hooks;
pub(crate) mod launch;
mod metrics;
pub(crate) mod pid;
mod secrets;
mod stores;
mod systemd;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use futures::FutureExt as _;
use futures::future::{Fuse, FusedFuture as _};
use ledger::StoreName;
use ledger_server::{
    ApiKeyGuard, Guard, Limits, OpenGuard, Protocol, RenderMetrics, Service, ServiceOptions,
    Shutdown, grpc_router, http_router,
};
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::config::{Config, Db, Overrides, Tls};
use crate::telemetry::{self, Counted};
use bridges::Running;
use hooks::Hooked;
use launch::Told;
use stores::{Handle, Served};

/// How often a daemon that is not ready looks whether it is.
const LOOK: Duration = Duration::from_millis(250);

/// How often a daemon that is ready looks whether its stores still can be reached.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

/// How much longer than the calls everything else may take to end.
const LAST_WAIT: Duration = Duration::from_secs(5);

/// Runs the daemon until it is asked to stop. It holds the pid file all the while.
pub(crate) async fn run(config: Config, overrides: &Overrides) -> anyhow::Result<()> {
    let held = match pid::take(&config.folder)? {
        pid::Taken::Held(held) => held,
        pid::Taken::Running(pid) => {
            launch::tell(&Told::Running(pid));
            bail!("ledger daemon already running (pid {pid})");
        }
    };
    let served = Box::pin(serve(config, overrides)).await;
    drop(held);
    served
}

async fn serve(config: Config, overrides: &Overrides) -> anyhow::Result<()> {
    config.check_for_daemon()?;
    if launch::in_background() {
        // Away from the terminal and its signals. It fails where that is so already.
        let _ = rustix::process::setsid();
    }
    for warning in config.warnings() {
        tracing::warn!("{warning}");
    }
    let Db { url, options, .. } = &config.db;
    // Before anything else, so that no signal ends the daemon out of order.
    let mut signals = Signals::new()?;
    // Some store must be asked for, or a database that is down would show at the first call only.
    let expected = StoreName::new(crate::cli::DEFAULT_STORE)?;
    let counted = Counted::new()?;
    let recorder = &counted.recorder;
    let stores = Served::new(
        (url.clone(), options.clone()),
        &config.allowed_stores,
        expected,
        Arc::clone(recorder),
    );

    let shutdown = Shutdown::new();
    let running = Running::new(
        Arc::clone(&stores),
        config.drain_timeout,
        Arc::clone(recorder),
    );
    let hooked = Hooked::new(
        Arc::clone(&stores),
        config.drain_timeout,
        Arc::clone(recorder),
    );
    let service = service(&config, &stores, &running, &hooked, &shutdown);
    let metrics = metrics::renderer(&stores, &running, &hooked, &counted.scraped);
    let mut servers = listen(&config, &service, metrics, &shutdown).await?;
    running.apply(&config.bridges).await;
    hooked.apply(&config.hooks).await;

    let drain = config.drain_timeout;
    // The configuration is with the reload, while there is one.
    let mut config = Some(config);
    let mut reloading = Fuse::terminated();
    let mut again = false;
    let mut ready = false;
    let (looks, mut looked) = mpsc::channel(1);
    let looking = tokio::spawn(look(Arc::clone(&stores), looks));
    let mut watchdog = std::pin::pin!(systemd::watchdog());
    let ended = loop {
        if again && let Some(present) = config.take() {
            again = false;
            systemd::reloading();
            reloading = Box::pin(reload(present, overrides, &running, &hooked)).fuse();
        }
        tokio::select! {
            () = &mut watchdog => {}
            Some(found) = looked.recv() => match found {
                Ok(()) => ready = tell_readiness(&stores, ready),
                Err(error) => break Err(anyhow::Error::new(error).context("db")),
            },
            asked = signals.next() => match asked {
                Asked::Stop(name) => {
                    tracing::info!(signal = name, "asked to stop");
                    break Ok(());
                }
                Asked::Reload => again = true,
            },
            // It waits for bridges that stop, and signals and the watchdog do not wait with it.
            present = &mut reloading, if !reloading.is_terminated() => {
                systemd::ready();
                config = Some(present);
            }
            // A server ends by itself only where it could not begin.
            Some(server) = servers.join_next() => {
                break match server {
                    Ok(Ok(())) => Err(anyhow!("a server ended by itself")),
                    Ok(Err(error)) => Err(anyhow::Error::new(error).context("serve")),
                    Err(error) => Err(anyhow::Error::new(error).context("serve")),
                };
            }
        }
    };
    looking.abort();
    systemd::stopping();
    let stopping = end(drain, &shutdown, &mut servers, (&running, &hooked), &stores);
    tokio::select! {
        () = stopping => tracing::info!("stopped"),
        () = signals.stop_again() => {
            tracing::warn!("asked to stop twice; ending at once");
            std::process::exit(1);
        }
    }
    ended
}

/// Binds what the configuration names, and serves there until the daemon shuts down.
async fn listen(
    config: &Config,
    service: &Service,
    metrics: RenderMetrics,
    shutdown: &Shutdown,
) -> anyhow::Result<JoinSet<std::io::Result<()>>> {
    let mut servers = JoinSet::new();
    let mut listen = |listener, router, protocol, tls: Option<ledger_server::Tls>| {
        let limits = service.options().limits.clone();
        let shutdown = shutdown.clone();
        servers.spawn(async move {
            ledger_server::serve(listener, router, protocol, tls, &limits, shutdown).await
        });
    };
    let listener = bind("listen", &config.listen).await?;
    let tls = tls("tls", &config.tls)?;
    let port = listener.local_addr().ok().map(|at| at.port());
    tracing::info!(listen = %config.listen, port, tls = tls.is_some(), "serving gRPC");
    pid::note_address(&config.folder, &config.listen)?;
    listen(listener, grpc_router(service), Protocol::Grpc, tls);
    if let Some(address) = &config.http_listen {
        let listener = bind("http_listen", address).await?;
        let tls = self::tls("http_tls", &config.http_tls)?;
        let port = listener.local_addr().ok().map(|at| at.port());
        tracing::info!(http_listen = %address, port, tls = tls.is_some(), "serving HTTP");
        let router = http_router(service, Some(metrics));
        listen(listener, router, Protocol::Http, tls);
    }
    Ok(servers)
}

/// Looks again and again whether the database answers, beside everything else: a server that is away
/// may take long to say so. An error that waiting will not mend, as of a database that is another
/// software's, is the last thing it tells.
async fn look(stores: Arc<Served>, looks: mpsc::Sender<ledger::Result<()>>) {
    let mut answered = false;
    loop {
        let mut found = stores.try_named().await;
        stores.check().await;
        match &found {
            Ok(()) => answered = true,
            // A database that has served shows in readiness what is wrong now; what is open works on.
            Err(error) if answered => {
                tracing::warn!(error = error.chain(), "a store cannot be opened");
                found = Ok(());
            }
            Err(_) => {}
        }
        let fatal = found.is_err();
        if looks.send(found).await.is_err() || fatal {
            return;
        }
        let waiting = stores.waiting().is_some();
        tokio::time::sleep(if waiting { LOOK } else { LOOK_AGAIN }).await;
    }
}

/// Ends in order: not ready, nothing accepted, calls finished, bridges and hooks drained, stores closed, which
/// writes what stands in write-ahead logs to its place.
async fn end(
    drain: Duration,
    shutdown: &Shutdown,
    servers: &mut JoinSet<std::io::Result<()>>,
    (running, hooked): (&Running, &Hooked),
    stores: &Served,
) {
    shutdown.begin(drain);
    let limit = drain + LAST_WAIT;
    let drained = async {
        let calls = async { while servers.join_next().await.is_some() {} };
        tokio::join!(calls, running.stop(), hooked.stop());
    };
    if tokio::time::timeout(limit, drained).await.is_err() {
        tracing::warn!("what is under way is given up: it took longer than drain_timeout");
    }
    if tokio::time::timeout(LAST_WAIT, stores.close())
        .await
        .is_err()
    {
        tracing::warn!("the stores could not be closed in time");
    }
}

fn service(
    config: &Config,
    stores: &Arc<Served>,
    running: &Arc<Running>,
    hooked: &Arc<Hooked>,
    shutdown: &Shutdown,
) -> Service {
    let guard: Arc<dyn Guard> = match &config.api_key {
        Some(key) => Arc::new(ApiKeyGuard::new(key.expose())),
        None => Arc::new(OpenGuard),
    };
    let options = ServiceOptions {
        guard,
        bridges: Arc::clone(running) as _,
        hooks: Arc::clone(hooked) as _,
        allowed_stores: config.allowed_stores.clone(),
        limits: limits(config),
        shutdown: shutdown.clone(),
        span: telemetry::export()
            .filter(|export| export.has_traces())
            .map(|_| Arc::new(ledger_telemetry::continue_trace) as _),
    };
    Service::new(Arc::new(Handle(Arc::clone(stores))), options)
}

fn limits(config: &Config) -> Limits {
    let (asked, defaults) = (&config.limits, Limits::default());
    let narrow = |number: Option<usize>, default: u32| {
        number
            .and_then(|number| u32::try_from(number).ok())
            .unwrap_or(default)
    };
    Limits {
        message_bytes: asked.message_bytes.unwrap_or(defaults.message_bytes),
        entries: asked.entries_per_call.unwrap_or(defaults.entries),
        concurrent_streams: narrow(asked.concurrent_streams, defaults.concurrent_streams),
        header_bytes: narrow(asked.header_bytes, defaults.header_bytes),
        request_time: asked.request_timeout.unwrap_or(defaults.request_time),
        ..defaults
    }
}

async fn bind(key: &str, address: &str) -> anyhow::Result<TcpListener> {
    // No host stands for every address, of both protocols where the machine has both.
    let candidates = match address.strip_prefix(':') {
        Some(port) => vec![format!("[::]:{port}"), format!("0.0.0.0:{port}")],
        None => vec![address.to_owned()],
    };
    let mut last = None;
    for candidate in candidates {
        match TcpListener::bind(&candidate).await {
            Ok(listener) => return Ok(listener),
            Err(error) => last = Some(error),
        }
    }
    let error = last.map_or_else(|| anyhow!("no address"), anyhow::Error::new);
    Err(error.context(format!("{key}: listen on {address}")))
}

fn tls(key: &str, tls: &Tls) -> anyhow::Result<Option<ledger_server::Tls>> {
    let (Some(cert), Some(private)) = (&tls.cert, &tls.key) else {
        return Ok(None);
    };
    let read = |name: &str, path: &Path| {
        std::fs::read(path).with_context(|| format!("{key}.{name}: read {}", path.display()))
    };
    let ca = tls.ca.as_ref().map(|ca| read("ca", ca)).transpose()?;
    let (cert, private) = (read("cert", cert)?, read("key", private)?);
    let tls = ledger_server::Tls {
        certificate: cert,
        key: private,
        client_authorities: ca,
    };
    tls.check().with_context(|| key.to_owned())?;
    Ok(Some(tls))
}

/// Tells who waits for it when the daemon becomes ready, and whether it is.
fn tell_readiness(stores: &Served, was: bool) -> bool {
    match stores.waiting() {
        None => {
            if !was {
                tracing::info!("ready");
                launch::tell(&Told::Ready);
                systemd::ready();
            }
            true
        }
        // A backend that went away later is the business of readiness probes.
        Some(_) if was => true,
        Some(reason) => {
            launch::tell(&Told::Waiting(reason));
            false
        }
    }
}

/// Takes what a changed configuration says of bridges and hooks; a bad one is refused whole.
async fn reload(
    mut config: Config,
    overrides: &Overrides,
    running: &Running,
    hooked: &Hooked,
) -> Config {
    let new = Config::load(overrides).and_then(|new| new.check_for_daemon().map(|()| new));
    let new = match new {
        Ok(new) => new,
        Err(error) => {
            tracing::error!(
                error = format!("{error:#}"),
                "the new configuration is refused; the old one stays"
            );
            return config;
        }
    };
    for warning in new.warnings() {
        tracing::warn!("{warning}");
    }
    for key in needs_restart(&config, &new) {
        tracing::warn!(key, "a changed key takes effect at the next start only");
    }
    let mut changed = running.apply(&new.bridges).await;
    let of_hooks = hooked.apply(&new.hooks).await;
    for (kind, stopped) in [("bridge", &changed.stopped), ("hook", &of_hooks.stopped)] {
        for name in stopped {
            tracing::warn!(
                "{kind} {name} keeps its place in the log, which is kept for it; `ledger {kind} remove \
                 {name}` lets it go"
            );
        }
    }
    changed.extend(of_hooks);
    tracing::info!(
        started = changed.started.join(", "),
        stopped = changed.stopped.join(", "),
        changed = changed.altered.join(", "),
        "the configuration was read again"
    );
    config.bridges = new.bridges;
    config.hooks = new.hooks;
    config
}

/// The keys that differ and are read at the start only.
fn needs_restart(old: &Config, new: &Config) -> Vec<&'static str> {
    let db = |config: &Config| format!("{:?}", config.db);
    [
        ("listen", old.listen != new.listen),
        ("http_listen", old.http_listen != new.http_listen),
        ("log_file", old.log_file != new.log_file),
        ("api_key", old.api_key != new.api_key),
        ("allowed_stores", old.allowed_stores != new.allowed_stores),
        ("drain_timeout", old.drain_timeout != new.drain_timeout),
        ("tls", old.tls != new.tls),
        ("http_tls", old.http_tls != new.http_tls),
        ("db", db(old) != db(new)),
        ("limits", old.limits != new.limits),
    ]
    .into_iter()
    .filter_map(|(key, differs)| differs.then_some(key))
    .collect()
}

/// What somebody asks of the daemon.
enum Asked {
    Stop(&'static str),
    Reload,
}

struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
}

impl Signals {
    fn new() -> anyhow::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt()).context("listen to signals")?,
            terminate: signal(SignalKind::terminate()).context("listen to signals")?,
            hangup: signal(SignalKind::hangup()).context("listen to signals")?,
        })
    }

    async fn next(&mut self) -> Asked {
        tokio::select! {
            _ = self.interrupt.recv() => Asked::Stop("SIGINT"),
            _ = self.terminate.recv() => Asked::Stop("SIGTERM"),
            _ = self.hangup.recv() => Asked::Reload,
        }
    }

    /// Waits until it is asked to stop once more.
    async fn stop_again(&mut self) {
        loop {
            if let Asked::Stop(_) = self.next().await {
                return;
            }
        }
    }
}

/// Where the configuration of a first start goes; none where there is one, or one is named.
pub(crate) fn first_file(overrides: &Overrides) -> anyhow::Result<Option<PathBuf>> {
    let (path, exists) = crate::config::path(overrides)?;
    Ok((!exists).then_some(path))
}
