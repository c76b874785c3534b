//! Entries: what is appended, and what is read back.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{Error, Result, StreamName, Timestamp};

/// The identity of an entry within its store. Ids begin at 1, grow with every append of a stream,
/// and are never given again, not even after a trim.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct EntryId(pub u64);

impl fmt::Display for EntryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for EntryId {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        // `u64` would also take a leading plus sign.
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        match text.parse() {
            // Backends store ids in signed 64-bit columns.
            Ok(id) if digits && id <= i64::MAX.unsigned_abs() => Ok(Self(id)),
            _ => Err(Error::invalid(
                "parse id",
                format!("id {text:?} is not an entry id"),
            )),
        }
    }
}

/// String pairs: metadata and annotations.
pub type Pairs = BTreeMap<String, String>;

/// An entry to append. Only the payload is required; see [`NewEntry::new`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewEntry {
    /// Any bytes, kept exactly. Where they are a JSON text, the database's own JSON functions work
    /// on them.
    pub payload: Bytes,
    /// A key to filter reads by; empty for none.
    pub order_key: String,
    /// An entry with a dedup key that the stream already holds is skipped; empty never dedups.
    pub dedup_key: String,
    /// The version of the payload's schema, 1 or more; 0 is stored as 1.
    pub schema_version: u32,
    /// Immutable pairs.
    pub metadata: Pairs,
    /// The first tags; a set, kept sorted.
    pub tags: Vec<String>,
}

impl NewEntry {
    /// An entry with this payload, and nothing else.
    pub fn new(payload: impl Into<Bytes>) -> Self {
        Self {
            payload: payload.into(),
            order_key: String::new(),
            dedup_key: String::new(),
            schema_version: 1,
            metadata: Pairs::new(),
            tags: Vec::new(),
        }
    }

    /// Sets the order key.
    #[must_use]
    pub fn order_key(mut self, key: impl Into<String>) -> Self {
        self.order_key = key.into();
        self
    }

    /// Sets the dedup key.
    #[must_use]
    pub fn dedup_key(mut self, key: impl Into<String>) -> Self {
        self.dedup_key = key.into();
        self
    }

    /// Sets the schema version.
    #[must_use]
    pub fn schema_version(mut self, version: u32) -> Self {
        self.schema_version = version;
        self
    }

    /// Adds a metadata pair.
    #[must_use]
    pub fn meta(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.metadata.insert(key.into(), value.into());
        self
    }

    /// Adds a tag.
    #[must_use]
    pub fn tag(mut self, tag: impl Into<String>) -> Self {
        self.tags.push(tag.into());
        self
    }

    /// Checks the rules every backend shares, and puts the entry in its stored form: version 0
    /// becomes 1, tags are sorted and each kept once. `index` is the entry's place in the call.
    pub fn checked(mut self, index: usize) -> Result<Self> {
        let field = |name: &'static str| Field(index, name);
        check_text(field("order_key"), &self.order_key)?;
        check_text(field("dedup_key"), &self.dedup_key)?;
        if self.dedup_key.len() > MAX_KEY || self.order_key.len() > MAX_KEY {
            let name = if self.dedup_key.len() > MAX_KEY {
                "dedup_key"
            } else {
                "order_key"
            };
            return Err(Error::invalid(
                "check entry",
                format!("{} is longer than {MAX_KEY} bytes", field(name)),
            ));
        }
        for (key, value) in &self.metadata {
            check_text(field("metadata"), key)?;
            check_text(field("metadata"), value)?;
        }
        self.schema_version = self.schema_version.max(1);
        if i32::try_from(self.schema_version).is_err() {
            return Err(Error::invalid(
                "check entry",
                format!("{} is above {}", field("schema_version"), i32::MAX),
            ));
        }
        self.tags = checked_tags(field("tags"), self.tags)?;
        Ok(self)
    }
}

/// The name of a field of one entry of a call; written out for an error only.
#[derive(Clone, Copy)]
struct Field(usize, &'static str);

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "entries[{}].{}", self.0, self.1)
    }
}

/// The most bytes of an order or dedup key: what a B-tree index entry of every backend holds.
const MAX_KEY: usize = 1024;

/// Checks a text that a backend must keep exactly: no NUL character, which not every backend can.
pub fn check_text(field: impl fmt::Display, text: &str) -> Result<()> {
    if text.contains('\0') {
        return Err(Error::invalid(
            "check entry",
            format!("{field} must not hold a NUL character"),
        ));
    }
    Ok(())
}

/// Checks tags and puts them in their stored form: sorted, each once.
pub fn checked_tags(field: impl fmt::Display, mut tags: Vec<String>) -> Result<Vec<String>> {
    for tag in &tags {
        check_text(&field, tag)?;
    }
    tags.sort_unstable();
    tags.dedup();
    Ok(tags)
}

/// What became of one entry of an append.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Appended {
    /// The entry's id; for a duplicate, the id of the entry that already had its dedup key.
    pub id: EntryId,
    /// Whether the entry was skipped because its dedup key was taken.
    pub duplicate: bool,
}

/// An entry as it is read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The identity.
    pub id: EntryId,
    /// The stream's present name.
    pub stream: StreamName,
    /// The bytes that were appended.
    pub payload: Bytes,
    /// The order key; empty for none.
    pub order_key: String,
    /// The dedup key; empty for none.
    pub dedup_key: String,
    /// The schema version it was written with.
    pub schema_version: u32,
    /// Immutable pairs.
    pub metadata: Pairs,
    /// The tags, sorted.
    pub tags: Vec<String>,
    /// The annotations.
    pub annotations: Pairs,
    /// Counts the changes of tags and annotations, from 0.
    pub label_version: u64,
    /// When it was appended, by the backend's clock.
    pub created_at: Timestamp,
    /// When its labels changed last; none when they never did.
    pub updated_at: Option<Timestamp>,
}

/// Whether `payload` is a JSON text that every backend can hold as JSON: well-formed UTF-8 JSON,
/// nested at most 127 deep.
pub fn is_json(payload: &[u8]) -> bool {
    serde_json::from_slice::<&serde_json::value::RawValue>(payload).is_ok()
}
