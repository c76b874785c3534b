//! Servers in processes of their own: the daemon, and the one that does nothing.

use std::net::TcpListener;
use std::process::Stdio;
use std::time::{Duration, Instant};

use ledger_server::v1::HealthRequest;
use ledger_server::v1::ledger_service_client::LedgerServiceClient;
use tempfile::TempDir;
use tokio::process::{Child, Command};

use crate::measure::database::Postgres;
use crate::measure::{Outcome, process};

/// Makes this program the server that does nothing, at the address that it holds.
const SERVE_NOTHING: &str = "LEDGER_BENCH_SERVE_NOTHING";
const PATIENCE: Duration = Duration::from_secs(30);

/// Where to serve nothing, where this process was started for that.
pub(crate) fn asked_to_serve_nothing() -> Option<String> {
    std::env::var(SERVE_NOTHING).ok()
}

/// A database of the daemon.
pub(crate) enum Database {
    Sqlite(TempDir),
    Postgres(Postgres),
}

impl Database {
    pub(crate) async fn create(backend: &str) -> Outcome<Self> {
        match backend {
            "sqlite" => Ok(Self::Sqlite(tempfile::tempdir()?)),
            "postgres" => Ok(Self::Postgres(Postgres::create().await?)),
            other => Err(format!("--backends: {other:?} is no store").into()),
        }
    }

    fn config(&self) -> String {
        match self {
            Self::Sqlite(folder) => {
                let path = folder.path().join("ledger.db");
                format!("type: sqlite\n  sqlite: {{path: \"{}\"}}\n", path.display())
            }
            Self::Postgres(database) => {
                format!(
                    "type: postgres\n  postgres: {{dsn: \"{}\"}}\n",
                    database.url
                )
            }
        }
    }

    pub(crate) async fn remove(self) -> Outcome {
        match self {
            Self::Sqlite(folder) => Ok(folder.close()?),
            Self::Postgres(database) => database.remove().await,
        }
    }
}

/// A server that answers.
pub(crate) struct Server {
    child: Child,
    /// Its process id.
    pub(crate) pid: u32,
    /// Its URL.
    pub(crate) url: String,
    _folder: Option<TempDir>,
}

impl Server {
    /// The daemon on this database.
    pub(crate) async fn daemon(database: &Database) -> Outcome<Self> {
        let address = free_address()?;
        let folder = tempfile::tempdir()?;
        let config = folder.path().join("config.yaml");
        let text = format!("listen: \"{address}\"\ndb:\n  {}", database.config());
        std::fs::write(&config, text)?;
        let mut command = Command::new(process::program()?);
        command
            .args(["start", "--foreground", "--config"])
            .arg(&config)
            .env("RUST_LOG", "warn");
        Self::start(command, &address, Some(folder)).await
    }

    /// The service that does nothing.
    pub(crate) async fn nothing() -> Outcome<Self> {
        let address = free_address()?;
        let mut command = Command::new(std::env::current_exe()?);
        command.env(SERVE_NOTHING, &address);
        Self::start(command, &address, None).await
    }

    async fn start(mut command: Command, address: &str, folder: Option<TempDir>) -> Outcome<Self> {
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .kill_on_drop(true)
            .spawn()?;
        let pid = child.id().ok_or("the server has no process id")?;
        let server = Self {
            child,
            pid,
            url: format!("http://{address}"),
            _folder: folder,
        };
        let begun = Instant::now();
        while !server.answers().await {
            if begun.elapsed() > PATIENCE {
                return Err(format!("the server does not answer after {PATIENCE:?}").into());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(server)
    }

    async fn answers(&self) -> bool {
        let Ok(mut client) = LedgerServiceClient::connect(self.url.clone()).await else {
            return false;
        };
        client.health(HealthRequest::default()).await.is_ok()
    }

    pub(crate) async fn stop(mut self) -> Outcome {
        self.child.start_kill()?;
        self.child.wait().await?;
        Ok(())
    }
}

fn free_address() -> Outcome<String> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    Ok(listener.local_addr()?.to_string())
}
