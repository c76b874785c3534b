//! The contract of a store.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use futures::stream::{self, BoxStream, StreamExt as _, TryStreamExt as _};

use crate::{
    Appended, ChangeLog, Entry, EntryId, NewEntry, Pairs, Result, StoreName, StreamName, Timestamp,
};

/// An append-only store of one entity type: many streams of entries.
///
/// Implementations MUST pass the conformance suite. Rules that hold for every call:
///
/// - A stream is created by its first append; an append of no entries creates nothing. Reading,
///   counting, trimming a stream that does not exist gives the empty result.
/// - Within a stream, the order of ids is the order in which appends took effect, which is the
///   order of the log. Reading a stream by id therefore never skips a committed entry.
/// - `Ok` means durable.
/// - A future that is dropped before it is ready may or may not have taken effect, wholly.
#[async_trait]
pub trait Store: fmt::Debug + fmt::Display + Send + Sync + 'static {
    /// The store's name.
    fn name(&self) -> &StoreName;

    /// Appends all entries or none, in order; the result tells of each what became of it.
    ///
    /// Dedup is decided first: a call whose entries are all duplicates succeeds whatever version
    /// was expected. Otherwise a version that differs from the expected one is
    /// [`ErrorKind::Conflict`](crate::ErrorKind::Conflict).
    async fn append(
        &self,
        stream: &StreamName,
        entries: Vec<NewEntry>,
        expected: ExpectedVersion,
    ) -> Result<Vec<Appended>>;

    /// Reads up to `options.limit` entries. A page whose payloads add up to more than about 16 MiB
    /// is cut short; [`Page::more`] tells whether entries are left.
    async fn page(&self, stream: &StreamName, options: &ReadOptions) -> Result<Page>;

    /// The state of a stream; of one that does not exist, that of an empty one.
    async fn stat(&self, stream: &StreamName) -> Result<Stat>;

    /// Removes the entries with ids up to and including `through`, and tells how many there were.
    /// Dedup keys of removed entries are free again.
    async fn trim(&self, stream: &StreamName, through: EntryId) -> Result<u64>;

    /// Up to `limit` names of streams that have an entry, ascending by their bytes, after `after`.
    async fn streams(&self, after: Option<&StreamName>, limit: usize) -> Result<Vec<StreamName>>;

    /// Gives a stream another name, in constant time. `NotFound` for an unknown stream,
    /// `AlreadyExists` where the new name is held by another one, also by an emptied one.
    async fn rename(&self, from: &StreamName, to: &StreamName) -> Result<()>;

    /// Changing tags and annotations; none for an append-only store.
    fn labels(&self) -> Option<&dyn Labels>;

    /// Searching payloads.
    fn search(&self) -> Option<&dyn Search>;

    /// The mutation log, from which consumers follow the store; none where it is switched off.
    fn log(&self) -> Option<&dyn ChangeLog>;

    /// Ends what runs in the background and gives connections back. Every later call answers
    /// [`ErrorKind::Closed`](crate::ErrorKind::Closed). Closing twice is fine.
    async fn close(&self);
}

/// Changing the labels of an entry. Both calls are `NotFound` where stream or entry do not exist.
#[async_trait]
pub trait Labels: Send + Sync {
    /// Replaces all tags.
    async fn set_tags(&self, stream: &StreamName, id: EntryId, tags: Vec<String>) -> Result<()>;

    /// Merges `set` into the annotations, then removes the keys in `delete`: a key in both is
    /// removed.
    async fn set_annotations(
        &self,
        stream: &StreamName,
        id: EntryId,
        set: Pairs,
        delete: Vec<String>,
    ) -> Result<()>;
}

/// Searching payloads.
#[async_trait]
pub trait Search: Send + Sync {
    /// Reads the entries of one stream, or of all, whose payload matches; the other options hold
    /// as well.
    async fn search(
        &self,
        stream: Option<&StreamName>,
        query: &Query,
        options: &ReadOptions,
    ) -> Result<Page>;
}

/// What to search for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Query {
    /// Payloads that contain this text, whatever the case of its letters; no character is special.
    Substring(String),
    /// Payloads that the backend's full-text index finds; `Unsupported` without that option.
    FullText(String),
}

/// Which entries to read, and how many. All conditions hold together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadOptions {
    /// Only entries behind this id: above it, or below it when descending.
    pub after: Option<EntryId>,
    /// At most this many entries; none for all. A page without a limit has at most 1,000.
    pub limit: Option<usize>,
    /// Newest first.
    pub descending: bool,
    /// Only entries with exactly this order key.
    pub order_key: Option<String>,
    /// Only entries with this tag.
    pub tag: Option<String>,
    /// Only entries with each of these tags.
    pub all_tags: Vec<String>,
    /// Only entries with each of these metadata pairs.
    pub metadata: Pairs,
    /// Only entries with each of these annotations.
    pub annotations: Pairs,
    /// Only entries appended at or after this time.
    pub since: Option<Timestamp>,
    /// Only entries appended before this time.
    pub until: Option<Timestamp>,
}

impl ReadOptions {
    /// Everything, oldest first.
    pub const fn all() -> Self {
        Self {
            after: None,
            limit: None,
            descending: false,
            order_key: None,
            tag: None,
            all_tags: Vec::new(),
            metadata: Pairs::new(),
            annotations: Pairs::new(),
            since: None,
            until: None,
        }
    }

    /// How many entries a page may have.
    pub fn page_limit(&self) -> usize {
        self.limit.unwrap_or(1_000)
    }

    /// Every tag asked for, `tag` and `all_tags` together.
    pub fn tags(&self) -> Vec<&str> {
        self.tag
            .iter()
            .chain(&self.all_tags)
            .map(String::as_str)
            .collect()
    }

    /// Whether any entry at all can fulfil the conditions: none holds a NUL character, which no
    /// stored text has and not every backend can compare with.
    pub fn can_match(&self) -> bool {
        let pairs = self.metadata.iter().chain(&self.annotations);
        let texts = pairs.flat_map(|(key, value)| [key, value]);
        let texts = texts
            .chain(&self.order_key)
            .chain(&self.tag)
            .chain(&self.all_tags);
        texts.into_iter().all(|text| !text.contains('\0'))
    }

    /// Whether an entry fulfils every condition but `after` and `limit`.
    pub fn matches(&self, entry: &Entry) -> bool {
        let holds = |have: &Pairs, want: &Pairs| want.iter().all(|(k, v)| have.get(k) == Some(v));
        self.order_key
            .as_ref()
            .is_none_or(|key| *key == entry.order_key)
            && self
                .tags()
                .iter()
                .all(|tag| entry.tags.iter().any(|have| have == tag))
            && holds(&entry.metadata, &self.metadata)
            && holds(&entry.annotations, &self.annotations)
            && self.since.is_none_or(|since| entry.created_at >= since)
            && self.until.is_none_or(|until| entry.created_at < until)
    }
}

impl Default for ReadOptions {
    fn default() -> Self {
        Self::all()
    }
}

/// Some entries, and whether there are more behind the last one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Page {
    /// The entries, in the order asked for.
    pub entries: Vec<Entry>,
    /// Whether the same conditions with `after` set to the last entry's id may give more.
    pub more: bool,
}

/// The state of a stream.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stat {
    /// How many entries there are.
    pub count: u64,
    /// The lowest id.
    pub first_id: Option<EntryId>,
    /// The highest id.
    pub last_id: Option<EntryId>,
    /// How many entries were ever appended: what [`ExpectedVersion::Exactly`] is compared with.
    pub version: u64,
}

/// The version a stream must have for an append to take place. A stream's version is the number of
/// entries ever appended to it: trims, renames and skipped duplicates do not change it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ExpectedVersion {
    /// Whatever it is.
    #[default]
    Any,
    /// Nothing was ever appended.
    None,
    /// Something was appended before, even if it has been trimmed since.
    Exists,
    /// Exactly this many entries were ever appended.
    Exactly(u64),
}

impl ExpectedVersion {
    /// Whether a stream with this many entries ever appended is what was expected.
    pub fn accepts(self, version: u64) -> bool {
        match self {
            Self::Any => true,
            Self::None => version == 0,
            Self::Exists => version > 0,
            Self::Exactly(expected) => version == expected,
        }
    }
}

impl fmt::Display for ExpectedVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("any"),
            Self::None => f.write_str("0 (none)"),
            Self::Exists => f.write_str("1 or more"),
            Self::Exactly(version) => write!(f, "exactly {version}"),
        }
    }
}

/// Convenience on shared stores.
pub trait StoreExt {
    /// Reads a stream to its end, page by page, in memory bounded by a page. An entry appended
    /// while the stream is read may or may not be part of it; none is skipped.
    fn read(&self, stream: &StreamName, options: ReadOptions) -> BoxStream<'static, Result<Entry>>;
}

impl<S: Store + ?Sized> StoreExt for Arc<S> {
    fn read(&self, stream: &StreamName, options: ReadOptions) -> BoxStream<'static, Result<Entry>> {
        const PAGE: usize = 500;
        let left = options.limit.unwrap_or(usize::MAX);
        let first = (Arc::clone(self), stream.clone(), options, left, true);
        stream::try_unfold(
            first,
            |(store, stream, mut options, left, more)| async move {
                if !more || left == 0 {
                    return Ok(None);
                }
                options.limit = Some(left.min(PAGE));
                let page = store.page(&stream, &options).await?;
                let left = left.saturating_sub(page.entries.len());
                let more = page.more && !page.entries.is_empty();
                options.after = page.entries.last().map(|entry| entry.id).or(options.after);
                let entries = stream::iter(page.entries.into_iter().map(Ok));
                Ok(Some((entries, (store, stream, options, left, more))))
            },
        )
        .try_flatten()
        .boxed()
    }
}
