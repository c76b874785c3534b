//! A private ClickHouse.

use std::process::Command;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::server::{Server, Signals, helper, required};

/// A private ClickHouse that speaks HTTP: today's engine, or the oldest supported one.
///
/// Its user is `default`, its database `default`.
#[derive(Debug)]
pub struct ClickHouse {
    server: Server,
    python: String,
}

const PASSWORD: &str = "ledger";

impl ClickHouse {
    /// Starts a new instance of today's engine.
    ///
    /// # Panics
    /// If it does not start, or if `LEDGER_CLICKHOUSE_PYTHON` is not set.
    pub async fn start() -> Self {
        Self::start_on(required("LEDGER_CLICKHOUSE_PYTHON")).await
    }

    /// Starts a new instance of the oldest supported engine, 24.8.
    ///
    /// It runs one query at a time.
    ///
    /// # Panics
    /// If it does not start, or if `LEDGER_CLICKHOUSE_OLD_PYTHON` is not set.
    pub async fn start_old() -> Self {
        Self::start_on(required("LEDGER_CLICKHOUSE_OLD_PYTHON")).await
    }

    async fn start_on(python: String) -> Self {
        let signals = Signals {
            stop: "TERM",
            abandon: "KILL",
        };
        let mut this = Self {
            server: Server::new("clickhouse", signals),
            python,
        };
        this.launch().await;
        this
    }

    /// `clickhouse://default:password@127.0.0.1:port/default`.
    #[must_use]
    pub fn url(&self) -> String {
        format!(
            "clickhouse://default:{PASSWORD}@127.0.0.1:{}/default",
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

    /// Kills the server.
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
    /// # Panics
    /// If it does not start.
    pub async fn restart(&mut self) {
        self.stop().await;
        self.launch().await;
    }

    /// Runs one query; returns its result in the format that it names, else tab-separated.
    ///
    /// # Panics
    /// If it fails.
    pub async fn query(&self, sql: &str) -> String {
        let body = format!(
            "POST /?wait_end_of_query=1 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
             X-ClickHouse-User: default\r\nX-ClickHouse-Key: {PASSWORD}\r\n\
             Content-Length: {}\r\n\r\n{sql}",
            sql.len()
        );
        let answer = exchange(self.server.port(), &body)
            .await
            .unwrap_or_else(|error| panic!("ask ClickHouse {sql}: {error}"));
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
        assert!(
            head.starts_with("HTTP/1.1 200 "),
            "ClickHouse failed on {sql}: {body}"
        );
        body.to_owned()
    }

    async fn launch(&mut self) {
        let front = std::env::var_os("LEDGER_CLICKHOUSE_FRONT")
            .map_or_else(|| helper("clickhouse_front.py"), Into::into);
        let mut command = Command::new(&self.python);
        command
            .arg(front)
            .arg("--path")
            .arg(self.server.folder().join("data"));
        command.arg("--port").arg(self.server.port().to_string());
        command.env("LEDGER_FRONT_PASSWORD", PASSWORD);
        self.server.spawn(command);
        let port = self.server.port();
        let up = self
            .server
            .answers(async || {
                let ping = "GET /ping HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
                exchange(port, ping)
                    .await
                    .is_ok_and(|answer| answer.ends_with("Ok.\n"))
            })
            .await;
        assert!(
            up,
            "ClickHouse does not start; the end of its log:\n{}",
            self.server.log_tail()
        );
    }
}

/// Sends a request and reads until the server closes the connection.
async fn exchange(port: u16, request: &str) -> std::io::Result<String> {
    let talk = async {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
        stream.write_all(request.as_bytes()).await?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await?;
        Ok(String::from_utf8_lossy(&answer).into_owned())
    };
    tokio::time::timeout(Duration::from_mins(5), talk).await?
}
