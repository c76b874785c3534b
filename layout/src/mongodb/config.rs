//! How to reach a MongoDB deployment.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use ledger_core::{Error, Result};
use mongodb::options::{
    Acknowledgment, ClientOptions, ConnectionString, HostInfo, ReadConcern, ReadPreference,
    SelectionCriteria, WriteConcern,
};

use super::error::failed;

const OPERATION: &str = "read MongoDB URL";

/// How to reach a MongoDB deployment, and how to use it.
#[derive(Clone)]
pub struct MongoConfig {
    /// As it was given; never printed.
    url: Arc<str>,
    hosts: String,
    /// The database that holds the stores.
    pub database: String,
    /// Whether a store that does not exist is created; otherwise it is `NotFound`.
    pub create: bool,
    /// How long a call waits for a server, and a mutation for others of its store, before it is
    /// `Unavailable`; 10 seconds by default.
    pub acquire_timeout: Duration,
    /// How often a waiting reader of changes looks for itself, in case that no event told it of a
    /// commit; a second by default.
    pub poll_interval: Duration,
}

impl MongoConfig {
    /// Reads `mongodb://user:password@host:27017/database`, or `mongodb+srv://`. The database may be
    /// missing, and is `ledger` then.
    ///
    /// Reads and writes go to the primary, with the majority read and write concern and the journal,
    /// whatever the URL says: a cursor must not tell of what may be rolled back.
    pub fn from_url(url: &str) -> Result<Self> {
        // The parser's own error may quote the URL with its password, so it is not attached.
        let parsed = ConnectionString::parse(url).map_err(|_| {
            Error::invalid(
                OPERATION,
                "the URL is malformed; write mongodb://user:password@host:27017/database",
            )
        })?;
        let hosts = match &parsed.host_info {
            HostInfo::HostIdentifiers(addresses) => {
                let addresses: Vec<_> = addresses.iter().map(ToString::to_string).collect();
                addresses.join(",")
            }
            HostInfo::DnsRecord(name) => name.clone(),
            _ => "a MongoDB deployment".to_owned(),
        };
        let config = Self {
            url: url.into(),
            hosts,
            database: String::new(),
            create: true,
            acquire_timeout: Duration::from_secs(10),
            poll_interval: Duration::from_secs(1),
        };
        config.with_database(parsed.default_database.as_deref().unwrap_or("ledger"))
    }

    /// Uses another database of the deployment.
    pub fn with_database(mut self, database: &str) -> Result<Self> {
        const REFUSED: &str = "/\\. \"$*<>:|?\0";
        if database.is_empty() || database.len() > 63 || database.contains(|c| REFUSED.contains(c))
        {
            return Err(Error::invalid(
                OPERATION,
                "database: a name has 1 to 63 bytes, without / \\ . \" $ * < > : | ? and spaces",
            ));
        }
        database.clone_into(&mut self.database);
        Ok(self)
    }

    /// Sets whether a store that does not exist is created.
    #[must_use]
    pub fn create(mut self, create: bool) -> Self {
        self.create = create;
        self
    }

    /// Hosts and database, without user and password.
    pub fn target(&self) -> String {
        format!("{}/{}", self.hosts, self.database)
    }

    /// The driver's options: the primary, and nothing that may be rolled back.
    pub async fn client_options(&self) -> Result<ClientOptions> {
        let mut options = ClientOptions::parse(self.url.as_ref())
            .await
            .map_err(|error| failed("connect", self.to_string(), error))?;
        let concern = WriteConcern::builder()
            .w(Acknowledgment::Majority)
            .journal(true)
            .build();
        options.write_concern = Some(concern);
        options.read_concern = Some(ReadConcern::majority());
        options.selection_criteria =
            Some(SelectionCriteria::ReadPreference(ReadPreference::Primary));
        options.app_name.get_or_insert_with(|| "ledger".to_owned());
        options
            .server_selection_timeout
            .get_or_insert(self.acquire_timeout);
        options.connect_timeout.get_or_insert(self.acquire_timeout);
        Ok(options)
    }
}

impl fmt::Display for MongoConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "mongodb://{}", self.target())
    }
}

impl fmt::Debug for MongoConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MongoConfig({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_name_hosts_and_database_and_show_no_password() {
        let config = MongoConfig::from_url("mongodb://me:hunter2@a:1,b/app?replicaSet=x").unwrap();
        assert_eq!(config.target(), "a:1,b:27017/app");
        assert!(!format!("{config:?} {config}").contains("hunter2"));
        let config = MongoConfig::from_url("mongodb://a").unwrap();
        assert_eq!(config.target(), "a:27017/ledger");
        for url in [
            "mongodb://",
            "mysql://me:hunter2@a",
            "mongodb://me:hunter2@a/b?tls=perhaps",
        ] {
            let error = MongoConfig::from_url(url).unwrap_err();
            assert!(!error.chain().contains("hunter2"), "{error}");
        }
        let error = config.with_database("a.b").unwrap_err();
        assert!(error.to_string().contains("database"), "{error}");
    }
}
