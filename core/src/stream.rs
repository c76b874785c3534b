//! Names and identities of stores and streams.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// The name of a store: one entity type, one table.
///
/// It matches `^[a-zA-Z_][a-zA-Z0-9_]*$` and has at most 48 characters, so that every backend can
/// derive its table names from it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct StoreName(Arc<str>);

const MAX_STORE_NAME: usize = 48;

impl StoreName {
    /// Checks the rule and takes the name.
    pub fn new(name: impl AsRef<str>) -> Result<Self> {
        let name = name.as_ref();
        let mut chars = name.chars();
        let head = chars
            .next()
            .is_some_and(|c| c.is_ascii_alphabetic() || c == '_');
        if !head || !chars.all(|c| c.is_ascii_alphanumeric() || c == '_') {
            return Err(Error::invalid(
                "check store name",
                format!("store {name:?} must match ^[a-zA-Z_][a-zA-Z0-9_]*$"),
            ));
        }
        if name.len() > MAX_STORE_NAME {
            return Err(Error::invalid(
                "check store name",
                format!("store {name:?} is longer than {MAX_STORE_NAME} characters"),
            ));
        }
        Ok(Self(name.into()))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The name of a stream: any text of 1 to 1,024 bytes without a NUL character.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct StreamName(Arc<str>);

const MAX_STREAM_NAME: usize = 1024;

impl StreamName {
    /// Checks the rule and takes the name.
    pub fn new(name: impl AsRef<str>) -> Result<Self> {
        let name = name.as_ref();
        if name.is_empty() {
            return Err(Error::invalid(
                "check stream name",
                "stream must not be empty",
            ));
        }
        if name.len() > MAX_STREAM_NAME {
            return Err(Error::invalid(
                "check stream name",
                format!(
                    "stream has {} bytes, at most {MAX_STREAM_NAME} are allowed",
                    name.len()
                ),
            ));
        }
        if name.contains('\0') {
            return Err(Error::invalid(
                "check stream name",
                "stream must not hold a NUL character",
            ));
        }
        Ok(Self(name.into()))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

macro_rules! name {
    ($name:ident) => {
        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(&self.0)
            }
        }
        impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                write!(f, "{:?}", &*self.0)
            }
        }
        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }
        impl std::str::FromStr for $name {
            type Err = Error;
            fn from_str(text: &str) -> Result<Self> {
                Self::new(text)
            }
        }
        impl TryFrom<String> for $name {
            type Error = Error;
            fn try_from(text: String) -> Result<Self> {
                Self::new(text)
            }
        }
        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0.as_ref().to_owned()
            }
        }
    };
}
name!(StoreName);
name!(StreamName);
pub(crate) use name;

/// The identity of a stream within its store: given at its creation, never changed by a rename and
/// never given again.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct StreamKey(pub u64);

impl std::fmt::Display for StreamKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// A stream as a change names it: its identity, and its name at that point of the log.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct StreamRef {
    /// The identity.
    pub key: StreamKey,
    /// The name at this point of the log.
    pub name: StreamName,
    /// Counts the names the stream has had, from 1; of two names the higher version is the later.
    pub name_version: u64,
}

/// The state of a stream beside its entries, as snapshots and verification carry it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamState {
    /// Identity and name.
    pub stream: StreamRef,
    /// How many entries were ever appended: the stream's version.
    pub version: u64,
    /// The highest id that a trim has removed; 0 where none has.
    pub trimmed_through: u64,
}
