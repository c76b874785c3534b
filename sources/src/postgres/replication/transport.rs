//! The replication connection.

use async_trait::async_trait;
use bytes::Bytes;
use ledger_core::{Error, ErrorKind, Result};
use ledger_layout::postgres::PostgresConfig;
use pg_walstream::{CancellationToken, PgReplicationConnection, ReplicationError};
use url::Url;

/// What carries the frames of a started replication.
#[async_trait]
pub(in crate::postgres) trait Transport: Send + 'static {
    /// The next frame. Dropping the future loses none.
    async fn frame(&mut self) -> Result<Bytes>;

    /// Tells the server up to where everything was received, and up to where it may forget; `reply`
    /// asks it for an answer. The future MUST be polled to its end.
    async fn tell(&mut self, received: u64, flushed: u64, reply: bool) -> Result<()>;
}

/// A connection in replication mode to one database. The crate's calls block, all but those of a
/// started stream, so they run where blocking is allowed.
pub(in crate::postgres) struct Replication {
    connection: PgReplicationConnection,
    token: CancellationToken,
}

const CONNECT: &str = "connect for replication";

impl Replication {
    /// Connects with what the URL says of host, user, password and TLS.
    pub(in crate::postgres) async fn connect(config: &PostgresConfig) -> Result<Self> {
        let conninfo = conninfo(config)?;
        let target = config.target();
        let connecting = move || PgReplicationConnection::connect(&conninfo);
        let connection = blocking(CONNECT, &target, connecting).await?;
        Ok(Self {
            connection,
            token: CancellationToken::new(),
        })
    }

    /// Runs a command, and gives the rows of its answer.
    pub(in crate::postgres) async fn execute(
        self,
        operation: &'static str,
        command: String,
    ) -> Result<(Self, Vec<Vec<Option<String>>>)> {
        let run = move || {
            let Self {
                mut connection,
                token,
            } = self;
            let answer = connection.exec(&command)?;
            let (rows, columns) = (answer.ntuples(), answer.nfields());
            let row = |row| {
                let values = (0..columns).map(|column| answer.get_value(row, column));
                values.collect()
            };
            let rows = (0..rows).map(row).collect();
            Ok((Self { connection, token }, rows))
        };
        blocking(operation, "the server", run).await
    }

    /// Starts the stream of a slot; `messages` tells whether those of applications are wanted, which
    /// version 14 and newer can give.
    pub(in crate::postgres) async fn start(
        self,
        slot: &str,
        from: u64,
        publications: &[String],
        messages: bool,
    ) -> Result<Self> {
        let names: Vec<_> = publications.iter().map(|name| quoted(name)).collect();
        let (slot, names) = (slot.to_owned(), names.join(","));
        let what = format!("slot {slot}");
        let start = move || {
            let Self {
                mut connection,
                token,
            } = self;
            let mut options = vec![("proto_version", "1"), ("publication_names", &names)];
            if messages {
                options.push(("messages", "true"));
            }
            connection.start_replication(&slot, from, &options)?;
            Ok(Self { connection, token })
        };
        blocking("start replication", &what, start).await
    }
}

#[async_trait]
impl Transport for Replication {
    async fn frame(&mut self) -> Result<Bytes> {
        let frame = self.connection.get_copy_data_async(&self.token).await;
        frame.map_err(|error| failed("read the write-ahead log", "", error))
    }

    async fn tell(&mut self, received: u64, flushed: u64, reply: bool) -> Result<()> {
        let told = self
            .connection
            .send_standby_status_update(received, flushed, flushed, reply);
        told.await
            .map_err(|error| failed("acknowledge the write-ahead log", "", error))
    }
}

async fn blocking<T: Send + 'static>(
    operation: &'static str,
    what: &str,
    call: impl FnOnce() -> std::result::Result<T, ReplicationError> + Send + 'static,
) -> Result<T> {
    match tokio::task::spawn_blocking(call).await {
        Ok(done) => done.map_err(|error| failed(operation, what, error)),
        Err(error) => Err(Error::new(ErrorKind::Internal, operation, what).with_source(error)),
    }
}

/// What may pass is `Unavailable`: a server that is away or starting, a slot that the connection
/// before still holds.
fn failed(operation: &'static str, what: &str, error: ReplicationError) -> Error {
    let kind = match &error {
        ReplicationError::Authentication(_) | ReplicationError::Config(_) => {
            ErrorKind::InvalidInput
        }
        ReplicationError::PermanentConnection(text) | ReplicationError::ReplicationSlot(text)
            if !text.contains("is active for PID") =>
        {
            ErrorKind::Internal
        }
        _ => ErrorKind::Unavailable,
    };
    Error::new(kind, operation, what).with_source(error)
}

/// `name` as an identifier, in a list of names too.
pub(in crate::postgres) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// `text` as a literal.
pub(in crate::postgres) fn literal(text: &str) -> String {
    // With a backslash, what it means depends on a setting; this form does not.
    if text.contains('\\') {
        let text = text.replace('\\', "\\\\").replace('\'', "''");
        return format!("E'{text}'");
    }
    format!("'{}'", text.replace('\'', "''"))
}

/// Parameters that a pool's connection takes and that do not matter here.
const IGNORED: &[&str] = &[
    "application_name",
    "fallback_application_name",
    "statement-cache-capacity",
];

/// The URL in the form that the replication client takes. No error repeats a value.
fn conninfo(config: &PostgresConfig) -> Result<String> {
    let refused = |what: String| Error::new(ErrorKind::Unsupported, CONNECT, what);
    let url = config.url().ok_or_else(|| {
        refused("the connection must be given as a URL: postgres://user@host/database".to_owned())
    })?;
    let parsed = Url::parse(url)
        .map_err(|error| Error::invalid(CONNECT, format!("the URL is malformed: {error}")))?;
    let mut target = parsed.clone();
    // The scheme is one that the client knows; the parser would not let it be changed.
    target.set_query(None);
    target.set_fragment(None);
    let mut parameters = vec![
        ("replication".to_owned(), "database".to_owned()),
        ("connect_timeout".to_owned(), "10".to_owned()),
        ("tcp_user_timeout".to_owned(), "60000".to_owned()),
    ];
    for (name, value) in parsed.query_pairs() {
        let name = match &*name {
            "sslmode" | "ssl-mode" => "sslmode",
            "sslrootcert" | "ssl-root-cert" | "ssl-ca" => "sslrootcert",
            "host" if value.starts_with('/') => {
                return Err(refused(
                    "a replication connection goes over TCP, not over a socket's folder; \
                     name the host"
                        .to_owned(),
                ));
            }
            "host" | "hostaddr" => "host",
            "port" => "port",
            "user" => "user",
            "password" => "password",
            "dbname" => "dbname",
            ignored if IGNORED.contains(&ignored) => continue,
            other => {
                return Err(refused(format!(
                    "a replication connection does not know the parameter {other:?}"
                )));
            }
        };
        parameters.push((name.to_owned(), value.into_owned()));
    }
    if config.options().get_socket().is_some() {
        return Err(refused("a socket's folder is no host for it".to_owned()));
    }
    target.query_pairs_mut().extend_pairs(parameters);
    // There a plus sign stands for a space, and would be taken for itself.
    let query = target.query().unwrap_or_default().replace('+', "%20");
    target.set_query(Some(&query));
    Ok(target.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn converted(url: &str) -> Result<String> {
        conninfo(&PostgresConfig::from_url(url).unwrap())
    }

    #[test]
    fn what_concerns_the_connection_is_taken_over() {
        let text =
            converted("postgres://u:p%2Fw@h:5433/db?sslmode=require&application_name=x").unwrap();
        assert!(text.starts_with("postgres://u:p%2Fw@h:5433/db?"), "{text}");
        assert!(text.contains("sslmode=require") && text.contains("replication=database"));
        assert!(!text.contains("application_name"), "{text}");
    }

    #[test]
    fn a_password_is_the_same_for_both_connections() {
        let text = converted("postgres://u:p+w%20x@h/db?sslrootcert=/a%20b").unwrap();
        assert!(text.starts_with("postgres://u:p+w%20x@h/db?"), "{text}");
        assert!(text.contains("sslrootcert=%2Fa%20b"), "{text}");
    }

    #[test]
    fn what_it_cannot_do_is_refused_and_no_secret_told() {
        for url in [
            "postgres://u:hunter2@h/db?sslcert=/hunter2",
            "postgres://u:hunter2@h/db?host=/var/run/hunter2",
        ] {
            let error = converted(url).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unsupported, "{url}");
            assert!(!error.chain().contains("hunter2"), "{}", error.chain());
        }
    }

    #[test]
    fn a_literal_means_itself_whatever_it_holds() {
        assert_eq!(literal("a'b"), "'a''b'");
        assert_eq!(literal("a\\'b"), "E'a\\\\''b'");
        assert_eq!(quoted("My \"T\""), "\"My \"\"T\"\"\"");
    }
}
