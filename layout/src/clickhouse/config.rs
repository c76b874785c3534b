//! Connection settings.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use clickhouse::{Client, Compression};
use ledger_core::{Error, Result};
use url::{Host, Url};

use super::Cluster;

const OPERATION: &str = "parse ClickHouse URL";

/// A text that is never printed: `Debug` and `Display` show `***`.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Secret(String);

impl Secret {
    /// Keeps `text`.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text itself, for the one who sends it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// How to reach a ClickHouse database over HTTP.
///
/// Parses from `clickhouse://user:password@host:8123/database`, and from `http://` and `https://`
/// in the same form. Left out, the user is `default`, the password empty, the database `default`,
/// the port 8123, or 8443 over TLS. User, password and database may be percent-encoded. Query
/// parameters, any other being refused:
///
/// - `secure`: `true` or `false` (the default of `clickhouse://`): TLS.
/// - `compression`: `lz4` or `none`; by default `none` on a loopback address, where it costs both
///   sides more than it saves, and `lz4` elsewhere.
/// - `timeout`: seconds after which a call without an answer fails; 1 to 86400, 60 by default.
/// - `cluster`: the cluster on which tables are created (`ON CLUSTER`); only with `replicated=true` or
///   `sharded=true`, since each server would else hold rows of its own.
/// - `replicated`: `true` or `false` (the default): tables are `Replicated...MergeTree`, with the
///   server's default path. Inserts then wait for a majority of the replicas, one after the other,
///   and reads for all that a majority has, so that it does not matter which replica is asked.
/// - `sharded`: `true` or `false` (the default), with `cluster`: entries and labels are spread over the
///   cluster's shards by their stream, see [`Cluster`]. Inserts return when every shard has its part.
///   Without `replicated=true` the rest is on the server that the URL names: always name the same one.
///
/// `Display` shows the URL without the password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClickHouseConfig {
    /// Whether TLS is used.
    pub secure: bool,
    /// Host name or address; an IPv6 address in brackets.
    pub host: String,
    /// The port of the HTTP interface.
    pub port: u16,
    /// The user.
    pub user: String,
    /// The password.
    pub password: Secret,
    /// The database, which must exist.
    pub database: String,
    /// Whether requests and answers are compressed by LZ4.
    pub compress: bool,
    /// How long a call may wait for its answer.
    pub timeout: Duration,
    /// How tables are spread over a cluster.
    pub cluster: Cluster,
}

impl Default for ClickHouseConfig {
    fn default() -> Self {
        Self {
            secure: false,
            host: "localhost".to_owned(),
            port: 8123,
            user: "default".to_owned(),
            password: Secret::default(),
            database: "default".to_owned(),
            compress: true,
            timeout: Duration::from_mins(1),
            cluster: Cluster::default(),
        }
    }
}

/// What makes replicas answer as one server: without it an acknowledged insert ends with the one
/// server that had it, and a read may be of another one that does not have it yet.
const QUORUM: [(&str, &str); 3] = [
    ("insert_quorum", "auto"),
    ("insert_quorum_parallel", "0"),
    ("select_sequential_consistency", "1"),
];

/// What makes shards answer as one table: by default an insert returns before any shard has it.
const SHARDED: [(&str, &str); 3] = [
    ("distributed_foreground_insert", "1"),
    ("optimize_skip_unused_shards", "1"),
    ("skip_unavailable_shards", "0"),
];

impl ClickHouseConfig {
    /// Host and port.
    pub fn address(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }

    /// A client with these settings.
    pub(crate) fn client(&self) -> Client {
        let scheme = if self.secure { "https" } else { "http" };
        let compression = if self.compress {
            Compression::Lz4
        } else {
            Compression::None
        };
        let client = super::http::client()
            .with_url(format!("{scheme}://{}", self.address()))
            .with_user(&self.user)
            .with_password(self.password.expose())
            .with_database(&self.database)
            .with_compression(compression)
            .with_product_info("ledger", env!("CARGO_PKG_VERSION"));
        let quorum = QUORUM.iter().filter(|_| self.cluster.replicated);
        let sharded = SHARDED.iter().filter(|_| self.cluster.sharded);
        quorum.chain(sharded).fold(client, |client, (name, value)| {
            client.with_setting(*name, *value)
        })
    }
}

impl fmt::Display for ClickHouseConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "clickhouse://{}@{}/{}",
            self.user,
            self.address(),
            self.database
        )?;
        if self.secure {
            f.write_str("?secure=true")
        } else {
            Ok(())
        }
    }
}

impl FromStr for ClickHouseConfig {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let (scheme, rest) = text.split_once("://").ok_or_else(|| {
            invalid("it has no scheme; write clickhouse://user@host:8123/database")
        })?;
        let scheme = scheme.to_ascii_lowercase();
        let secure = match scheme.as_str() {
            "clickhouse" | "http" => false,
            "https" => true,
            "tcp" | "native" | "clickhouses" => {
                return Err(invalid(format!(
                    "{scheme}:// names the native protocol, which is not spoken; \
                     write clickhouse://user@host:8123/database (HTTP)"
                )));
            }
            // An unknown scheme may be anything, a password included.
            _ => return Err(invalid("its scheme is none of clickhouse, http, https")),
        };
        if rest.starts_with('/') {
            // The parser would skip the slash and take the database for the host.
            return Err(invalid("host is missing"));
        }
        // Hosts and ports are checked for schemes that the parser knows, so each is parsed as `http`.
        let url = Url::parse(&format!("http://{rest}"))
            .map_err(|error| invalid(format!("host or port: {error}")))?;
        let mut config = Self {
            secure,
            ..Self::default()
        };
        config.host = match url.host() {
            Some(Host::Ipv6(address)) => format!("[{address}]"),
            Some(host) => host.to_string(),
            None => return Err(invalid("host is missing")),
        };
        if !url.username().is_empty() {
            config.user = decode("user", url.username())?;
        }
        if let Some(password) = url.password() {
            config.password = Secret(decode("password", password)?);
        }
        let database = decode("database", url.path().trim_start_matches('/'))?;
        if !database.is_empty() {
            config.database = database;
        }
        if config.database.contains(['/', '\0']) {
            return Err(invalid("database must be one name without a slash"));
        }
        config.compress = !is_loopback(url.host().as_ref());
        for (name, value) in url.query_pairs() {
            config.set(&name, &value)?;
        }
        let Cluster {
            name,
            replicated,
            sharded,
        } = &config.cluster;
        if name.is_some() && !replicated && !sharded {
            return Err(invalid(
                "cluster needs replicated=true or sharded=true; each server would hold rows of its \
                 own",
            ));
        }
        if *sharded && name.is_none() {
            return Err(invalid("sharded=true needs cluster, whose shards they are"));
        }
        config.port = explicit_port(rest, &url).unwrap_or(if config.secure { 8443 } else { 8123 });
        if matches!(config.port, 9000 | 9440) {
            return Err(invalid(format!(
                "port {} is that of the native protocol, which is not spoken; \
                 use the HTTP port, 8123, or 8443 with secure=true",
                config.port
            )));
        }
        Ok(config)
    }
}

impl ClickHouseConfig {
    fn set(&mut self, name: &str, value: &str) -> Result<()> {
        match name {
            "secure" => {
                self.secure = match value {
                    "true" | "1" => true,
                    "false" | "0" if !self.secure => false,
                    "false" | "0" => return Err(invalid("secure=false contradicts https://")),
                    _ => return Err(invalid("secure must be true or false")),
                };
            }
            "compression" => {
                self.compress = match value {
                    "lz4" => true,
                    "none" => false,
                    _ => return Err(invalid("compression must be lz4 or none")),
                };
            }
            "timeout" => match value.parse() {
                Ok(seconds @ 1..=86_400) => self.timeout = Duration::from_secs(seconds),
                _ => return Err(invalid("timeout must be 1 to 86400 seconds")),
            },
            "cluster" => {
                let allowed = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
                if value.is_empty() || !value.chars().all(allowed) {
                    return Err(invalid("cluster must match ^[a-zA-Z0-9_.-]+$"));
                }
                self.cluster.name = Some(value.to_owned());
            }
            "replicated" => {
                self.cluster.replicated = match value {
                    "true" | "1" => true,
                    "false" | "0" => false,
                    _ => return Err(invalid("replicated must be true or false")),
                };
            }
            "sharded" => {
                self.cluster.sharded = match value {
                    "true" | "1" => true,
                    "false" | "0" => false,
                    _ => return Err(invalid("sharded must be true or false")),
                };
            }
            _ => {
                return Err(invalid(format!(
                    "parameter {name:?} is none of secure, compression, timeout, cluster, replicated, \
                     sharded"
                )));
            }
        }
        Ok(())
    }
}

fn is_loopback(host: Option<&Host<&str>>) -> bool {
    match host {
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        Some(Host::Domain(name)) => *name == "localhost",
        None => false,
    }
}

/// The port as it was written. The parser drops `:80`, being the default of the scheme that it saw.
fn explicit_port(rest: &str, url: &Url) -> Option<u16> {
    url.port().or_else(|| {
        let authority = rest.split(['/', '?', '#']).next().unwrap_or(rest);
        authority.ends_with(":80").then_some(80)
    })
}

fn invalid(what: impl Into<String>) -> Error {
    Error::invalid(OPERATION, what)
}

/// Undoes percent-encoding; the value itself is not part of the error.
fn decode(field: &str, text: &str) -> Result<String> {
    let refuse = || invalid(format!("{field} is not percent-encoded UTF-8"));
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        rest = tail;
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let (digits, tail) = rest.split_at_checked(2).ok_or_else(refuse)?;
        let digits = std::str::from_utf8(digits).map_err(|_| refuse())?;
        if !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return Err(refuse());
        }
        bytes.push(u8::from_str_radix(digits, 16).map_err(|_| refuse())?);
        rest = tail;
    }
    String::from_utf8(bytes).map_err(|_| refuse())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<ClickHouseConfig> {
        text.parse()
    }

    #[test]
    fn what_is_left_out_has_its_documented_default() {
        let config = parse("clickhouse://db.example").unwrap();
        let expected = ClickHouseConfig {
            host: "db.example".to_owned(),
            ..ClickHouseConfig::default()
        };
        assert_eq!(config, expected);
        assert_eq!(parse("clickhouse://h?secure=true").unwrap().port, 8443);
        assert_eq!(parse("https://h/db").unwrap().port, 8443);
        assert_eq!(parse("http://h:80/db").unwrap().port, 80);
    }

    #[test]
    fn every_part_is_taken_and_decoded() {
        let config =
            parse("clickhouse://us%40er:p%2Fa%3Ass@[::1]:18123/my%20db?timeout=5&compression=none")
                .unwrap();
        assert_eq!(config.user, "us@er");
        assert_eq!(config.password.expose(), "p/a:ss");
        assert_eq!(config.address(), "[::1]:18123");
        assert_eq!(config.database, "my db");
        assert_eq!(config.cluster, Cluster::default());
        assert_eq!(config.timeout, Duration::from_secs(5));
        assert!(!config.compress && !config.secure);
    }

    #[test]
    fn a_cluster_is_replicated() {
        let config = parse("clickhouse://h/db?cluster=main&replicated=true").unwrap();
        assert_eq!(config.cluster.name.as_deref(), Some("main"));
        assert!(config.cluster.replicated);
        assert!(!config.cluster.sharded);
        let config = parse("clickhouse://h/db?cluster=main&sharded=true").unwrap();
        assert!(config.cluster.sharded && !config.cluster.replicated);
    }

    #[test]
    fn only_what_crosses_a_network_is_compressed_by_default() {
        for (url, compress) in [
            ("clickhouse://db.example.org/db", true),
            ("clickhouse://10.0.0.1/db", true),
            ("clickhouse://localhost/db", false),
            ("clickhouse://127.0.0.5:8123/db", false),
            ("clickhouse://[::1]/db", false),
            ("clickhouse://localhost/db?compression=lz4", true),
            ("clickhouse://10.0.0.1/db?compression=none", false),
        ] {
            assert_eq!(parse(url).unwrap().compress, compress, "{url}");
        }
    }

    #[test]
    fn the_native_protocol_is_refused_with_the_http_form() {
        for url in [
            "tcp://h:9000/db",
            "clickhouse://h:9000/db",
            "clickhouse://h:9440/db",
        ] {
            let message = parse(url).unwrap_err().to_string();
            assert!(
                message.contains("8123") && message.contains("HTTP"),
                "{message}"
            );
        }
    }

    #[test]
    fn what_is_not_known_is_refused_by_name() {
        for (url, word) in [
            ("clickhouse://h/db?sercure=true", "sercure"),
            ("clickhouse://h/db?secure=maybe", "secure"),
            ("clickhouse://h/db?timeout=0", "timeout"),
            ("clickhouse://h/db?cluster=main", "replicated"),
            ("clickhouse://h/db?sharded=true", "cluster"),
            ("clickhouse://h/db?sharded=yes&cluster=main", "sharded"),
            ("clickhouse://h/db?cluster=a'b&replicated=true", "cluster"),
            ("clickhouse://h/db?replicated=yes", "replicated"),
            ("clickhouse://h/a/b", "database"),
            ("clickhouse://h:99999/db", "port"),
            ("clickhouse:///db", "host"),
            ("clickhouse://%ff@h/db", "user"),
            ("localhost", "scheme"),
        ] {
            let message = parse(url).unwrap_err().to_string();
            assert!(message.contains(word), "{url}: {message}");
        }
    }

    #[test]
    fn a_password_is_never_printed() {
        let secret = "hunter2";
        let config = parse(&format!("clickhouse://u:{secret}@h/db")).unwrap();
        assert!(!format!("{config} {config:?} {}", config.password).contains(secret));
        for url in [
            format!("foo{secret}://u:{secret}@h/db"),
            format!("clickhouse://u:{secret}@h:9000/db"),
            format!("clickhouse://u:{secret}%zz@h/db"),
            format!("clickhouse://u:{secret}@h:port/db"),
            format!("clickhouse://u:{secret}@h/db?x=1"),
            format!("u:{secret}@h"),
        ] {
            let error = parse(&url).unwrap_err();
            assert!(
                !format!("{error:?} {}", error.chain()).contains(secret),
                "{error}"
            );
        }
    }
}
