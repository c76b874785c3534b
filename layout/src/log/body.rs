//! The bodies of log rows, in MessagePack.

use bytes::Bytes;
use ledger_core::{
    Entry, EntryId, Error, ErrorKind, NewEntry, Pairs, Result, StreamRef, Timestamp,
};
use serde::{Deserialize, Serialize};

use super::{WHOLE, corrupt};

/// An entry in the body of an append. Field order is the stored form: add at the end only.
#[derive(Serialize, Deserialize)]
struct Logged<'a> {
    #[serde(with = "serde_bytes", borrow)]
    payload: &'a [u8],
    order_key: &'a str,
    dedup_key: &'a str,
    schema_version: u32,
    metadata: Vec<(&'a str, &'a str)>,
    tags: Vec<&'a str>,
}

/// An entry that exists, in the body of an append. Field order is the stored form: add at the end
/// only.
#[derive(Serialize, Deserialize)]
pub(crate) struct Told<'a> {
    #[serde(borrow)]
    logged: Logged<'a>,
    annotations: Vec<(&'a str, &'a str)>,
    label_version: u64,
    created_at: Timestamp,
    updated_at: Option<Timestamp>,
}

impl<'a> Told<'a> {
    /// All of an entry but its id and its stream.
    pub(crate) fn of(entry: &'a Entry) -> Self {
        Self {
            logged: Logged {
                payload: &entry.payload,
                order_key: &entry.order_key,
                dedup_key: &entry.dedup_key,
                schema_version: entry.schema_version,
                metadata: texts_of(&entry.metadata),
                tags: entry.tags.iter().map(String::as_str).collect(),
            },
            annotations: texts_of(&entry.annotations),
            label_version: entry.label_version,
            created_at: entry.created_at,
            updated_at: entry.updated_at,
        }
    }
}

fn texts_of(pairs: &Pairs) -> Vec<(&str, &str)> {
    pairs
        .iter()
        .map(|(k, v)| (k.as_str(), v.as_str()))
        .collect()
}

pub(super) struct Decoded {
    payload: Bytes,
    order_key: String,
    dedup_key: String,
    schema_version: u32,
    metadata: Pairs,
    tags: Vec<String>,
    /// What only an entry that is told whole has.
    whole: Option<Labelled>,
}

struct Labelled {
    annotations: Pairs,
    label_version: u64,
    created_at: Timestamp,
    updated_at: Option<Timestamp>,
}

impl Decoded {
    fn of(entry: Logged<'_>, body: &Bytes, whole: Option<Labelled>) -> Self {
        Self {
            payload: body.slice_ref(entry.payload),
            order_key: entry.order_key.to_owned(),
            dedup_key: entry.dedup_key.to_owned(),
            schema_version: entry.schema_version,
            metadata: owned(entry.metadata),
            tags: entry.tags.into_iter().map(str::to_owned).collect(),
            whole,
        }
    }

    pub(super) fn into_entry(self, id: EntryId, stream: &StreamRef, at: Timestamp) -> Entry {
        let whole = self.whole.unwrap_or_else(|| Labelled {
            annotations: Pairs::new(),
            label_version: 0,
            created_at: at,
            updated_at: None,
        });
        Entry {
            id,
            stream: stream.name.clone(),
            payload: self.payload,
            order_key: self.order_key,
            dedup_key: self.dedup_key,
            schema_version: self.schema_version,
            metadata: self.metadata,
            tags: self.tags,
            annotations: whole.annotations,
            label_version: whole.label_version,
            created_at: whole.created_at,
            updated_at: whole.updated_at,
        }
    }
}

fn owned(pairs: Vec<(&str, &str)>) -> Pairs {
    pairs
        .into_iter()
        .map(|(k, v)| (k.to_owned(), v.to_owned()))
        .collect()
}

/// The body of an append.
pub fn encode_entries(entries: &[NewEntry]) -> Result<Vec<u8>> {
    let logged: Vec<Logged<'_>> = entries
        .iter()
        .map(|entry| Logged {
            payload: &entry.payload,
            order_key: &entry.order_key,
            dedup_key: &entry.dedup_key,
            schema_version: entry.schema_version,
            metadata: texts_of(&entry.metadata),
            tags: entry.tags.iter().map(String::as_str).collect(),
        })
        .collect();
    encode(&logged)
}

/// The body of an append of entries that exist: whole for a row of that kind, as
/// [`encode_entries`] writes it for others.
pub(crate) fn encode_told(kind: i16, entries: &[Told<'_>]) -> Result<Vec<u8>> {
    if kind == WHOLE {
        return encode(entries);
    }
    let logged: Vec<&Logged<'_>> = entries.iter().map(|entry| &entry.logged).collect();
    encode(&logged)
}

/// The body of the state of a stream: how far it is trimmed.
pub(crate) fn encode_state(trimmed_through: u64) -> Result<Vec<u8>> {
    encode(&trimmed_through)
}

/// The payloads share `body`'s memory.
pub(super) fn decode_entries(body: &Bytes) -> Result<Vec<Decoded>> {
    let logged: Vec<Logged<'_>> = decode(body)?;
    let decoded = logged.into_iter();
    Ok(decoded
        .map(|entry| Decoded::of(entry, body, None))
        .collect())
}

/// As [`decode_entries`], of entries that are told whole.
pub(super) fn decode_whole(body: &Bytes) -> Result<Vec<Decoded>> {
    let told: Vec<Told<'_>> = decode(body)?;
    let decoded = told.into_iter().map(|entry| {
        let whole = Labelled {
            annotations: owned(entry.annotations),
            label_version: entry.label_version,
            created_at: entry.created_at,
            updated_at: entry.updated_at,
        };
        Decoded::of(entry.logged, body, Some(whole))
    });
    Ok(decoded.collect())
}

/// The body of a `set_tags`.
pub fn encode_tags(tags: &[String]) -> Result<Vec<u8>> {
    encode(tags)
}

/// The body of a `set_annotations`.
pub fn encode_annotations(annotations: &Pairs) -> Result<Vec<u8>> {
    encode(annotations)
}

fn encode<T: Serialize + ?Sized>(value: &T) -> Result<Vec<u8>> {
    rmp_serde::to_vec(value).map_err(|error| {
        Error::new(ErrorKind::Internal, "write the mutation log", "encode").with_source(error)
    })
}

/// A body nests four deep. What a damaged one nests in a place that is skipped is read by recursion,
/// and the deserializer's own bound is more than a thread's stack holds.
const MAX_DEPTH: usize = 16;

pub(super) fn decode<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T> {
    let mut reader = rmp_serde::Deserializer::from_read_ref(body);
    reader.set_max_depth(MAX_DEPTH);
    T::deserialize(&mut reader).map_err(|error| corrupt("its body").with_source(error))
}
