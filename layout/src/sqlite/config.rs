//! Where the database is, and how it is opened.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use ledger_core::{Error, Result};

/// Where a database is and how it is opened. Parses from `sqlite:PATH` and `sqlite::memory:`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SqliteConfig {
    /// Where it is.
    pub location: Location,
    /// What a confirmed write survives.
    pub durability: Durability,
    /// How long a call waits for other writers before it answers `Unavailable`.
    pub busy_timeout: Duration,
    /// How many connections read at the same time, at least one; opened when first needed.
    pub readers: usize,
    /// Whether a file and a store that do not exist are created; otherwise they are `NotFound`.
    pub create: bool,
}

/// Where a database is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Location {
    /// In this file.
    File(PathBuf),
    /// In the memory of this process, gone when it is closed. Each opening is a database of its
    /// own; reads and writes take turns on one connection.
    Memory,
}

/// What a confirmed write survives.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Durability {
    /// A crash of the process, of the system, and a loss of power.
    #[default]
    Full,
    /// A crash of the process only. **Risk:** a crash of the system or a loss of power can undo the
    /// last confirmed writes, also ones that a reader of the log has passed on already; such a
    /// reader then answers `SourceDiverged` and must be resynced.
    Relaxed,
}

impl SqliteConfig {
    /// The database in this file.
    pub fn file(path: impl Into<PathBuf>) -> Self {
        Self::at(Location::File(path.into()))
    }

    /// A database in memory.
    pub fn memory() -> Self {
        Self::at(Location::Memory)
    }

    fn at(location: Location) -> Self {
        Self {
            location,
            durability: Durability::Full,
            busy_timeout: Duration::from_secs(10),
            readers: 4,
            create: true,
        }
    }

    /// Sets what a confirmed write survives.
    #[must_use]
    pub fn durability(mut self, durability: Durability) -> Self {
        self.durability = durability;
        self
    }

    /// Sets how long a call waits for other writers.
    #[must_use]
    pub fn busy_timeout(mut self, timeout: Duration) -> Self {
        self.busy_timeout = timeout;
        self
    }

    /// Sets whether a file and a store that do not exist are created.
    #[must_use]
    pub fn create(mut self, create: bool) -> Self {
        self.create = create;
        self
    }
}

impl FromStr for SqliteConfig {
    type Err = Error;

    fn from_str(url: &str) -> Result<Self> {
        let invalid = |rule: &str| Error::invalid("parse SQLite URL", format!("{url:?} {rule}"));
        let path = url
            .strip_prefix("sqlite:")
            .ok_or_else(|| invalid("does not begin with sqlite:"))?;
        let path = path.strip_prefix("//").unwrap_or(path);
        match path {
            "" => Err(invalid(
                "names no file; write sqlite:PATH or sqlite::memory:",
            )),
            ":memory:" => Ok(Self::memory()),
            path => Ok(Self::file(path)),
        }
    }
}

impl fmt::Display for SqliteConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.location {
            Location::File(path) => write!(f, "sqlite:{}", path.display()),
            Location::Memory => f.write_str("sqlite::memory:"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_name_a_file_or_memory() {
        for (url, location) in [
            ("sqlite:a/b.db", Location::File("a/b.db".into())),
            ("sqlite:///a/b.db", Location::File("/a/b.db".into())),
            ("sqlite::memory:", Location::Memory),
        ] {
            let config: SqliteConfig = url.parse().unwrap();
            assert_eq!(config.location, location, "{url}");
        }
        for url in ["sqlite:", "sqlite://", "postgres://x", "a.db"] {
            let error = url.parse::<SqliteConfig>().unwrap_err();
            assert!(error.to_string().contains(url), "{error}");
        }
    }
}
