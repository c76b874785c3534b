//! Stores and sinks by URL, as programs and configurations name them.
//!
//! | URL | store | sink | feature |
//! |---|---|---|---|
//! | `sqlite:PATH` | yes | yes | `sqlite` |
//! | `postgres://user:password@host:5432/database` | yes | yes | `postgres` |
//! | `mongodb://user:password@host:27017/database` | yes | yes | `mongodb` |
//! | `clickhouse://user:password@host:8123/database` | yes | yes | `clickhouse` |
//!
//! A scheme whose feature is off is `Unsupported`. No error and no output of [`DatabaseUrl`] holds a
//! password.

mod flow;
mod log;
mod promote;
mod replica;
mod stores;
#[cfg(any(feature = "mongodb", feature = "postgres"))]
mod tables;

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crate::{Error, ErrorKind, Result, Store, StoreName};

use ledger_layout::StoreOptions;

pub use flow::{Differing, Flow, Verified};
pub use log::LogKind;
pub use promote::Delivered;
pub use replica::ReplicaSink;
pub use stores::Stores;
#[cfg(all(feature = "mongodb", feature = "postgres"))]
pub use tables::collection_options;

const PARSE: &str = "read database URL";

/// Where a database is, from its URL. `Display` and `Debug` show no user and no password.
#[derive(Clone)]
pub struct DatabaseUrl(Kind);

#[derive(Clone)]
enum Kind {
    #[cfg(feature = "sqlite")]
    Sqlite(ledger_layout::sqlite::SqliteConfig),
    #[cfg(feature = "postgres")]
    Postgres(Box<ledger_layout::postgres::PostgresConfig>),
    #[cfg(feature = "mongodb")]
    Mongo(Box<ledger_layout::mongodb::MongoConfig>),
    #[cfg(feature = "clickhouse")]
    ClickHouse(ledger_layout::clickhouse::ClickHouseConfig),
}

impl FromStr for DatabaseUrl {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let Some((scheme, _)) = text.split_once(':') else {
            // The text may be anything, a password included, so it is not repeated.
            return Err(Error::invalid(
                PARSE,
                format!("it has no scheme; {UNDERSTOOD}"),
            ));
        };
        let scheme = scheme.to_ascii_lowercase();
        if scheme != "sqlite" && KNOWN.contains(&scheme.as_str()) {
            check_authority(text)?;
        }
        match scheme.as_str() {
            "sqlite" => sqlite(text),
            "postgres" | "postgresql" => postgres(text),
            "clickhouse" | "http" | "https" => clickhouse(text),
            "mongodb" | "mongodb+srv" => mongodb(text),
            "tcp" | "native" | "clickhouses" => Err(Error::invalid(
                PARSE,
                "ClickHouse's native protocol is not spoken; write \
                 clickhouse://user:password@host:8123/database (HTTP)",
            )),
            _ => Err(Error::invalid(
                PARSE,
                format!("the scheme{} is not known; {UNDERSTOOD}", shown(&scheme)),
            )),
        }
    }
}

/// What every refusal of a scheme tells.
const UNDERSTOOD: &str = "understood are sqlite:PATH, postgres://user:password@host:5432/database, \
                          clickhouse://user:password@host:8123/database, \
                          mongodb://host:27017/database";

/// The schemes of servers.
const KNOWN: [&str; 7] = [
    "postgres",
    "postgresql",
    "clickhouse",
    "http",
    "https",
    "mongodb",
    "mongodb+srv",
];

/// Refuses a URL in which a part of the password could be taken for the host, the database or a
/// parameter, which are printed.
fn check_authority(text: &str) -> Result<()> {
    let (_, rest) = text.split_once("://").ok_or_else(|| {
        Error::invalid(
            PARSE,
            format!("\"//\" is missing behind the scheme; {UNDERSTOOD}"),
        )
    })?;
    let behind = rest.split_once(['/', '?']).map_or("", |(_, behind)| behind);
    if rest.contains('#') || behind.contains('@') {
        return Err(Error::invalid(
            PARSE,
            "in a user or password each of / ? # @ is written percent-encoded, as in %2F",
        ));
    }
    Ok(())
}

/// The scheme as an error may show it: one that could be a name, and not the beginning of
/// `password:...` or of a path.
fn shown(scheme: &str) -> String {
    let named = scheme.len() <= 16
        && scheme
            .chars()
            .all(|c| c.is_ascii_lowercase() || "+-.".contains(c));
    if named {
        format!(" {scheme:?}")
    } else {
        String::new()
    }
}

#[allow(
    dead_code,
    reason = "depends on the features: with all of them nothing is absent"
)]
fn absent(feature: &str) -> Error {
    Error::new(
        ErrorKind::Unsupported,
        PARSE,
        format!("this build has no {feature}: it was made without that feature"),
    )
}

#[cfg(feature = "sqlite")]
fn sqlite(text: &str) -> Result<DatabaseUrl> {
    Ok(DatabaseUrl(Kind::Sqlite(text.parse()?)))
}

#[cfg(not(feature = "sqlite"))]
fn sqlite(_: &str) -> Result<DatabaseUrl> {
    Err(absent("sqlite"))
}

#[cfg(feature = "postgres")]
fn postgres(text: &str) -> Result<DatabaseUrl> {
    let config = ledger_layout::postgres::PostgresConfig::from_url(text)?;
    Ok(DatabaseUrl(Kind::Postgres(Box::new(config))))
}

#[cfg(not(feature = "postgres"))]
fn postgres(_: &str) -> Result<DatabaseUrl> {
    Err(absent("postgres"))
}

#[cfg(feature = "mongodb")]
fn mongodb(text: &str) -> Result<DatabaseUrl> {
    let config = ledger_layout::mongodb::MongoConfig::from_url(text)?;
    Ok(DatabaseUrl(Kind::Mongo(Box::new(config))))
}

#[cfg(not(feature = "mongodb"))]
fn mongodb(_: &str) -> Result<DatabaseUrl> {
    Err(absent("mongodb"))
}

#[cfg(feature = "clickhouse")]
fn clickhouse(text: &str) -> Result<DatabaseUrl> {
    Ok(DatabaseUrl(Kind::ClickHouse(text.parse()?)))
}

#[cfg(not(feature = "clickhouse"))]
fn clickhouse(_: &str) -> Result<DatabaseUrl> {
    Err(absent("clickhouse"))
}

impl DatabaseUrl {
    /// Reads a URL; an error says which part is wrong, and repeats no secret.
    pub fn parse(text: &str) -> Result<Self> {
        text.parse()
    }

    /// The backend, as in the URL's scheme.
    pub fn scheme(&self) -> &'static str {
        match &self.0 {
            #[cfg(feature = "sqlite")]
            Kind::Sqlite(_) => "sqlite",
            #[cfg(feature = "postgres")]
            Kind::Postgres(_) => "postgres",
            #[cfg(feature = "mongodb")]
            Kind::Mongo(_) => "mongodb",
            #[cfg(feature = "clickhouse")]
            Kind::ClickHouse(_) => "clickhouse",
        }
    }

    /// Which database: host, port and database, or the path. Neither user nor password.
    pub fn target(&self) -> String {
        match &self.0 {
            #[cfg(feature = "sqlite")]
            Kind::Sqlite(config) => match &config.location {
                ledger_layout::sqlite::Location::File(path) => path.display().to_string(),
                ledger_layout::sqlite::Location::Memory => ":memory:".to_owned(),
            },
            #[cfg(feature = "postgres")]
            Kind::Postgres(config) => config.target(),
            #[cfg(feature = "mongodb")]
            Kind::Mongo(config) => config.target(),
            #[cfg(feature = "clickhouse")]
            Kind::ClickHouse(config) => format!("{}/{}", config.address(), config.database),
        }
    }

    /// Opens a store that exists; `NotFound` where it does not.
    pub async fn open_store(&self, store: &StoreName) -> Result<Arc<dyn Store>> {
        match &self.0 {
            #[cfg(feature = "sqlite")]
            Kind::Sqlite(config) => {
                use ledger_sources::sqlite::SqliteStore;
                let config = config.clone().create(false);
                let options = StoreOptions::default();
                Ok(Arc::new(
                    SqliteStore::open(config, store.clone(), options).await?,
                ))
            }
            #[cfg(feature = "postgres")]
            Kind::Postgres(config) => {
                use ledger_sources::postgres::PostgresStore;
                let options = StoreOptions::default();
                let config = config.as_ref().clone();
                Ok(Arc::new(
                    PostgresStore::open_existing(config, store.clone(), options).await?,
                ))
            }
            #[cfg(feature = "mongodb")]
            Kind::Mongo(config) => {
                use ledger_sources::mongodb::MongoStore;
                let config = config.as_ref().clone().create(false);
                let options = StoreOptions::default();
                let opened = MongoStore::open(config, store.clone(), options);
                Ok(Arc::new(opened.await?))
            }
            #[cfg(feature = "clickhouse")]
            Kind::ClickHouse(config) => {
                use ledger_sources::clickhouse::ClickHouseStore;
                let options = StoreOptions::default();
                let opened = ClickHouseStore::open_existing(config, store.clone(), options);
                Ok(Arc::new(Box::pin(opened).await?))
            }
        }
    }
}

impl fmt::Display for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (scheme, target) = (self.scheme(), self.target());
        match scheme {
            "sqlite" => write!(f, "{scheme}:{target}"),
            _ => write!(f, "{scheme}://{target}"),
        }
    }
}

impl fmt::Debug for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DatabaseUrl({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_scheme_names_those_that_are_understood() {
        for url in ["mysql://h/db", "orders.db", "/tmp/x.db", ""] {
            let error = url.parse::<DatabaseUrl>().unwrap_err().to_string();
            for scheme in ["sqlite:", "postgres://", "clickhouse://"] {
                assert!(error.contains(scheme), "{url}: {error}");
            }
        }
        let error = "mysql://h/db".parse::<DatabaseUrl>().unwrap_err();
        assert!(error.to_string().contains("\"mysql\""), "{error}");
    }

    #[test]
    #[cfg(not(feature = "mongodb"))]
    fn a_scheme_that_is_not_built_in_says_so() {
        let error = "mongodb://h/db".parse::<DatabaseUrl>().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.to_string().contains("no mongodb"), "{error}");
    }

    #[test]
    fn no_secret_is_printed() {
        for url in [
            "postgres://u:hunter2@h:5432/db",
            "postgres://u:hunter2@h:5432/db?sslmode=hunter2",
            "postgres://u:hunter2@h:port/db",
            "clickhouse://u:hunter2@h:8123/db",
            "clickhouse://u:hunter2@h:9000/db",
            "clickhouse://u:hunter2@h/db?x=1",
            "mongodb://u:hunter2@h/db",
            "mysql://u:hunter2@h/db",
            "hunter2:x@h/db",
            "u:hunter2@h/db",
            "postgres:hunter2@h:5432/db",
            "postgres://u:1/hunter2@h:5432/db",
            "postgres://u:1?hunter2@h:5432/db",
            "clickhouse://u:1#hunter2@h:8123/db",
        ] {
            let shown = match url.parse::<DatabaseUrl>() {
                Ok(url) => format!("{url} {url:?} {}", url.target()),
                Err(error) => format!("{error:?} {}", error.chain()),
            };
            assert!(!shown.contains("hunter2"), "{url}: {shown}");
        }
    }
}
