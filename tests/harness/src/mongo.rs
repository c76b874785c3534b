//! A private MongoDB.

use std::process::Command;

use crate::server::{Server, Signals, helper, required};

/// A private MongoDB: a replica set of one, so that change streams and transactions work, or a
/// standalone server, which has neither.
#[derive(Debug)]
pub struct Mongo {
    server: Server,
    standalone: bool,
    mongod: String,
    python: String,
}

impl Mongo {
    /// Starts a new instance.
    ///
    /// # Panics
    /// If it does not start, or if `LEDGER_MONGOD` or `LEDGER_CLICKHOUSE_PYTHON` is not set.
    pub async fn start() -> Self {
        Self::start_as(false).await
    }

    /// Starts a new instance that is no member of a replica set.
    ///
    /// # Panics
    /// As [`start`](Self::start).
    pub async fn start_standalone() -> Self {
        Self::start_as(true).await
    }

    async fn start_as(standalone: bool) -> Self {
        let signals = Signals {
            stop: "TERM",
            abandon: "KILL",
        };
        let mut this = Self {
            mongod: required("LEDGER_MONGOD"),
            python: required("LEDGER_CLICKHOUSE_PYTHON"),
            server: Server::new("mongodb", signals),
            standalone,
        };
        this.launch().await;
        this
    }

    /// `mongodb://127.0.0.1:port/ledger?directConnection=true`.
    #[must_use]
    pub fn url(&self) -> String {
        format!(
            "mongodb://127.0.0.1:{}/ledger?directConnection=true",
            self.server.port()
        )
    }

    /// The loopback port; the same after a restart.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.server.port()
    }

    /// What the server has logged so far, its last lines.
    #[must_use]
    pub fn log(&self) -> String {
        self.server.log_tail()
    }

    /// Kills the server. Writes that were acknowledged with `j: true` are kept.
    ///
    /// # Panics
    /// If it does not end.
    pub async fn kill(&mut self) {
        self.server.kill().await;
    }

    /// Ends the server in an orderly manner.
    ///
    /// # Panics
    /// If it does not end.
    pub async fn stop(&mut self) {
        self.server.stop().await;
    }

    /// Starts the server again on the same port and data, stopping it first if it runs.
    ///
    /// Returns when it is primary again.
    ///
    /// # Panics
    /// If it does not start.
    pub async fn restart(&mut self) {
        self.stop().await;
        self.launch().await;
    }

    /// As [`restart`](Self::restart), as a server that is no member of a replica set any more.
    ///
    /// # Panics
    /// If it does not start.
    pub async fn restart_standalone(&mut self) {
        self.standalone = true;
        self.restart().await;
    }

    async fn launch(&mut self) {
        let data = self.server.folder().join("data");
        std::fs::create_dir_all(&data)
            .unwrap_or_else(|error| panic!("create {}: {error}", data.display()));
        let port = self.server.port().to_string();
        let mut command = Command::new(&self.mongod);
        command.args(["--bind_ip", "127.0.0.1", "--port", &port]);
        if !self.standalone {
            command.args(["--replSet", "rs0", "--oplogSize", "64"]);
        }
        command.arg("--dbpath").arg(data);
        command.args(["--wiredTigerCacheSizeGB", "0.25", "--nounixsocket"]);
        command.args(["--setParameter", "diagnosticDataCollectionEnabled=false"]);
        // An orderly stop would wait so long for another member to take over.
        command.args([
            "--setParameter",
            "shutdownTimeoutMillisForSignaledShutdown=100",
        ]);
        self.server.spawn(command);
        let mut initiate = Command::new(&self.python);
        initiate
            .arg(helper("mongo_replica.py"))
            .arg(&port)
            .arg("60")
            .arg(if self.standalone { "standalone" } else { "rs0" });
        self.server.run(initiate).await;
    }
}
