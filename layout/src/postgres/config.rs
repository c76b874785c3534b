//! How to reach a PostgreSQL server.

use std::fmt;
use std::str::FromStr as _;
use std::time::Duration;

use ledger_core::{Error, Result};
use sqlx::ConnectOptions as _;
use sqlx::Connection as _;
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};

/// How long a connection that has just been used counts as working.
const TESTED_FOR: Duration = Duration::from_secs(1);

/// How to reach a PostgreSQL server, and how to use it.
#[derive(Clone)]
pub struct PostgresConfig {
    connect: PgConnectOptions,
    /// As it was given; never printed.
    url: Option<std::sync::Arc<str>>,
    /// The most connections of a store's pool; 10 by default.
    pub max_connections: u32,
    /// How long to wait for a connection before a call is `Unavailable`; 10 seconds by default.
    pub acquire_timeout: Duration,
    /// How often a waiting reader of changes looks for itself. It finds at the latest then what no
    /// notice told: appends in a caller's own transaction, appends after which the process died.
    /// 200 milliseconds by default.
    pub poll_interval: Duration,
}

impl PostgresConfig {
    /// Reads `postgres://user:password@host:port/database?sslmode=...`.
    pub fn from_url(url: &str) -> Result<Self> {
        const OPERATION: &str = "read PostgreSQL URL";
        // The parser's own error may quote the URL with its password, so it is not attached.
        let parsed = url::Url::parse(url)
            .map_err(|error| Error::invalid(OPERATION, format!("the URL is malformed: {error}")))?;
        if !matches!(parsed.scheme(), "postgres" | "postgresql") {
            return Err(Error::invalid(
                OPERATION,
                format!("scheme {:?} is not postgres", parsed.scheme()),
            ));
        }
        let connect = PgConnectOptions::from_str(url).map_err(|_| {
            Error::invalid(OPERATION, "the URL has a parameter that is not understood")
        })?;
        let config = Self::from_options(connect);
        Ok(Self {
            url: Some(url.into()),
            ..config
        })
    }

    /// Uses connection options made elsewhere.
    pub fn from_options(connect: PgConnectOptions) -> Self {
        Self {
            connect: connect
                .application_name("ledger")
                .disable_statement_logging(),
            url: None,
            max_connections: 10,
            acquire_timeout: Duration::from_secs(10),
            poll_interval: Duration::from_millis(200),
        }
    }

    /// Host, port and database, without user and password.
    pub fn target(&self) -> String {
        let database = self.connect.get_database().unwrap_or_default();
        format!(
            "{}:{}/{database}",
            self.connect.get_host(),
            self.connect.get_port()
        )
    }

    /// The URL, with its password, where the settings were read from one: for connections of another
    /// kind than those of a pool. It MUST NOT be printed.
    pub fn url(&self) -> Option<&str> {
        self.url.as_deref()
    }

    /// The options of a connection that is not one of a pool.
    pub fn options(&self) -> &PgConnectOptions {
        &self.connect
    }

    /// Opens a pool and tries one connection.
    pub async fn connect(&self) -> Result<PgPool> {
        self.check_authority()?;
        // One attempt outside the pool: the pool would retry a refused connection or a wrong
        // password until its timeout and then tell only of the timeout.
        let attempt = tokio::time::timeout(self.acquire_timeout, self.connect.connect()).await;
        let context = || format!("server {}", self.target());
        match attempt {
            Ok(Ok(connection)) => drop(sqlx::Connection::close(connection).await),
            Ok(Err(error)) => return Err(super::failed("connect to PostgreSQL", context(), error)),
            Err(_) => {
                return Err(Error::new(
                    ledger_core::ErrorKind::Unavailable,
                    "connect to PostgreSQL",
                    format!("{} did not answer in {:?}", context(), self.acquire_timeout),
                ));
            }
        }
        PgPoolOptions::new()
            .max_connections(self.max_connections)
            .acquire_timeout(self.acquire_timeout)
            .test_before_acquire(false)
            .before_acquire(|connection, used| {
                Box::pin(async move {
                    // A round trip before each call would double the cost of the small ones.
                    if used.idle_for > TESTED_FOR {
                        connection.ping().await?;
                    }
                    Ok(true)
                })
            })
            .connect_with(self.connect.clone())
            .await
            .map_err(|error| super::failed("connect to PostgreSQL", context(), error))
    }

    /// Tells of a certificate authority's file that cannot be read, which a connection would report as
    /// a server that is away.
    fn check_authority(&self) -> Result<()> {
        let url = self.url().and_then(|url| url::Url::parse(url).ok());
        let mut pairs = url.iter().flat_map(url::Url::query_pairs);
        let names = ["sslrootcert", "ssl-root-cert", "ssl-ca"];
        let Some((_, path)) = pairs.find(|(name, _)| names.contains(&&**name)) else {
            return Ok(());
        };
        std::fs::metadata(&*path).map(|_| ()).map_err(|error| {
            let what = format!("sslrootcert {path:?} must be a file that can be read");
            Error::invalid("connect to PostgreSQL", what).with_source(error)
        })
    }
}

impl fmt::Debug for PostgresConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresConfig")
            .field("target", &self.target())
            .field("max_connections", &self.max_connections)
            .field("poll_interval", &self.poll_interval)
            .finish_non_exhaustive()
    }
}
