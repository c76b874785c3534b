//! Digests of entries, by which a source and its replica are compared.

use std::collections::BTreeSet;

use xxhash_rust::xxh3::Xxh3;

use crate::{Entry, MutationKind, Pairs, StreamState};

/// A digest over every field of an entry that a pipeline with these skips carries: without
/// `set_tags` the tags may differ, without either kind of label change the time of the last one.
/// The stream's name is not part of it, since a rename changes it for all entries at once: names
/// are compared stream by stream.
pub fn entry_digest(entry: &Entry, skip: &BTreeSet<MutationKind>) -> u128 {
    let mut digest = Digest(Xxh3::new());
    digest.number(entry.id.0);
    digest.bytes(&entry.payload);
    digest.bytes(entry.order_key.as_bytes());
    digest.bytes(entry.dedup_key.as_bytes());
    digest.number(u64::from(entry.schema_version));
    digest.pairs(&entry.metadata);
    digest.number(entry.created_at.as_micros().cast_unsigned());
    let tags = !skip.contains(&MutationKind::SetTags);
    let annotations = !skip.contains(&MutationKind::SetAnnotations);
    if tags {
        digest.number(entry.tags.len() as u64);
        for tag in &entry.tags {
            digest.bytes(tag.as_bytes());
        }
    }
    if annotations {
        digest.pairs(&entry.annotations);
    }
    if tags && annotations {
        digest.number(entry.label_version);
        let updated = entry
            .updated_at
            .map_or(i64::MIN, crate::Timestamp::as_micros);
        digest.number(updated.cast_unsigned());
    }
    digest.0.digest128()
}

/// A digest over what a pipeline with these skips carries of a stream beside its entries: its name
/// and its trim boundary.
pub fn stream_digest(state: &StreamState, skip: &BTreeSet<MutationKind>) -> u128 {
    let mut digest = Digest(Xxh3::new());
    digest.number(state.stream.key.0);
    if !skip.contains(&MutationKind::Rename) {
        digest.bytes(state.stream.name.as_str().as_bytes());
    }
    if !skip.contains(&MutationKind::Trim) {
        digest.number(state.trimmed_through);
    }
    digest.0.digest128()
}

struct Digest(Xxh3);

impl Digest {
    fn number(&mut self, number: u64) {
        self.0.update(&number.to_le_bytes());
    }

    /// With its length, so that no two rows of fields run into the same bytes.
    fn bytes(&mut self, bytes: &[u8]) {
        self.number(bytes.len() as u64);
        self.0.update(bytes);
    }

    fn pairs(&mut self, pairs: &Pairs) {
        self.number(pairs.len() as u64);
        for (key, value) in pairs {
            self.bytes(key.as_bytes());
            self.bytes(value.as_bytes());
        }
    }
}
