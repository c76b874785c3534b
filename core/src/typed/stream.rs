//! A stream of one type of value.

use std::future::ready;
use std::marker::PhantomData;
use std::sync::Arc;

use futures::stream::{BoxStream, StreamExt as _, TryStreamExt as _};

use super::change::{TypedChange, typed};
use super::{NewTyped, TypedEntry, TypedPage};
use crate::codec::Codec;
use crate::{
    Appended, Cursor, EntryId, Error, ErrorKind, ExpectedVersion, Labels, Pairs, ReadOptions,
    Result, Stat, Store, StoreExt as _, StreamName,
};

/// A typed view of one stream: cheap, made per use and dropped after.
///
/// The codec tells how values are stored; with [`Versioned`](crate::Versioned) it also reads what
/// earlier versions of the program wrote:
///
/// ```
/// use std::sync::Arc;
///
/// use futures::TryStreamExt as _;
/// use ledger_core::{
///     FieldMapper, Json, NewTyped, ReadOptions, Result, Schema, Store, StreamName, TypedStream,
///     Versioned,
/// };
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Serialize, Deserialize)]
/// struct OrderV1 {
///     customer: String,
/// }
///
/// /// The second version calls the customer a buyer, and has a currency.
/// #[derive(Debug, PartialEq, Serialize, Deserialize)]
/// struct Order {
///     buyer: String,
///     currency: String,
/// }
///
/// async fn run(store: Arc<dyn Store>) -> Result<()> {
///     let name = StreamName::new("user-123")?;
///
///     // What the first version of the program did.
///     let old = TypedStream::new(store.clone(), name.clone(), Json);
///     old.append(OrderV1 { customer: "ada".into() }).await?;
///
///     // The second version writes its own, and reads both.
///     let from_v1 = FieldMapper::new().rename("customer", "buyer").add_default("currency", "EUR");
///     let schema = Schema::new(2).upcast(1, from_v1)?;
///     let orders = TypedStream::<Order, _>::new(store, name, Versioned::new(Json, schema));
///     let order = Order { buyer: "bob".into(), currency: "CHF".into() };
///     orders.append(NewTyped::new(order).dedup_key("order-2").tag("web")).await?;
///
///     let read: Vec<_> = orders.read(ReadOptions::all()).try_collect().await?;
///     assert_eq!(read[0].value, Order { buyer: "ada".into(), currency: "EUR".into() });
///     assert_eq!((read[0].schema_version, read[1].schema_version), (1, 2));
///     Ok(())
/// }
/// # mod memory { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/memory/mod.rs")); }
/// # futures::executor::block_on(run(memory::MemoryStore::shared("orders"))).unwrap();
/// ```
#[derive(Debug)]
pub struct TypedStream<T, C, S: ?Sized = dyn Store> {
    store: Arc<S>,
    name: StreamName,
    codec: C,
    value: PhantomData<fn() -> T>,
}

impl<T, C: Clone, S: ?Sized> Clone for TypedStream<T, C, S> {
    fn clone(&self) -> Self {
        Self {
            store: Arc::clone(&self.store),
            name: self.name.clone(),
            codec: self.codec.clone(),
            value: PhantomData,
        }
    }
}

impl<T, C, S> TypedStream<T, C, S>
where
    T: Send + 'static,
    C: Codec<T> + Clone,
    S: Store + ?Sized,
{
    /// The stream `name` of `store`, whether it exists or not.
    pub fn new(store: Arc<S>, name: StreamName, codec: C) -> Self {
        Self {
            store,
            name,
            codec,
            value: PhantomData,
        }
    }

    /// The stream's name.
    pub fn name(&self) -> &StreamName {
        &self.name
    }

    /// Appends one value, or a [`NewTyped`] with options.
    pub async fn append(&self, value: impl Into<NewTyped<T>>) -> Result<Appended> {
        let entry = value.into().encode(&self.codec)?;
        let appended = self
            .store
            .append(&self.name, vec![entry], ExpectedVersion::Any)
            .await?;
        appended.first().copied().ok_or_else(|| {
            let context = format!("{} said nothing of the entry", self.store);
            Error::new(ErrorKind::Internal, "append", context)
        })
    }

    /// Appends all values or none, in order, where the stream is at the expected version; see
    /// [`Store::append`]. A value that cannot be encoded is named by its place.
    pub async fn append_all<V: Into<NewTyped<T>>>(
        &self,
        values: impl IntoIterator<Item = V>,
        expected: ExpectedVersion,
    ) -> Result<Vec<Appended>> {
        let encode = |(index, value): (usize, V)| {
            let entry = value.into().encode(&self.codec);
            entry.map_err(|error| error.within(format!("values[{index}]")))
        };
        let entries = values
            .into_iter()
            .enumerate()
            .map(encode)
            .collect::<Result<Vec<_>>>()?;
        self.store.append(&self.name, entries, expected).await
    }

    /// Reads the stream to its end, page by page. An entry that cannot be decoded is one error that
    /// names it, and the entries behind it follow; any other error is the last item.
    pub fn read(&self, options: ReadOptions) -> BoxStream<'static, Result<TypedEntry<T>>> {
        let codec = self.codec.clone();
        let entries = self.store.read(&self.name, options);
        entries
            .map(move |entry| TypedEntry::decode(&codec, entry?))
            .boxed()
    }

    /// Reads up to `options.limit` entries; see [`Store::page`]. One that cannot be decoded is an
    /// error for the page.
    pub async fn page(&self, options: &ReadOptions) -> Result<TypedPage<T>> {
        let page = self.store.page(&self.name, options).await?;
        let decode = |entry| TypedEntry::decode(&self.codec, entry);
        let entries = page
            .entries
            .into_iter()
            .map(decode)
            .collect::<Result<_>>()?;
        Ok(TypedPage {
            entries,
            more: page.more,
        })
    }

    /// The stream's state.
    pub async fn stat(&self) -> Result<Stat> {
        self.store.stat(&self.name).await
    }

    /// Removes the entries with ids up to and including `through`; see [`Store::trim`].
    pub async fn trim(&self, through: EntryId) -> Result<u64> {
        self.store.trim(&self.name, through).await
    }

    /// Changing tags and annotations; none for an append-only store.
    pub fn labels(&self) -> Option<StreamLabels<'_>> {
        Some(StreamLabels {
            labels: self.store.labels()?,
            stream: &self.name,
        })
    }

    /// The changes after `after` of whichever stream has this name at that point of the log; none
    /// where the store keeps no log. It ends at the first error, also at an entry that cannot be
    /// decoded.
    ///
    /// A rename to this name is part of it, one away from it is not. The cursor moves with this
    /// stream only: who stores it for a quiet stream of a busy store may find it pruned, and
    /// should follow [`TypedStore::changes`](crate::TypedStore::changes).
    pub fn changes(&self, after: Cursor) -> Option<BoxStream<'static, Result<TypedChange<T>>>> {
        let name = self.name.clone();
        // Before decoding: another stream's entry that cannot be read is not this one's error.
        let changes = self
            .store
            .log()?
            .changes(after)
            .try_filter(move |change| ready(change.stream.name == name))
            .boxed();
        Some(typed(changes, self.codec.clone()))
    }
}

/// Changing the labels of a stream's entries.
#[derive(Clone, Copy)]
pub struct StreamLabels<'a> {
    labels: &'a dyn Labels,
    stream: &'a StreamName,
}

impl StreamLabels<'_> {
    /// Replaces all tags of an entry; see [`Labels::set_tags`].
    pub async fn set_tags(&self, id: EntryId, tags: Vec<String>) -> Result<()> {
        self.labels.set_tags(self.stream, id, tags).await
    }

    /// Merges `set` into an entry's annotations, then removes the keys in `delete`; see
    /// [`Labels::set_annotations`].
    pub async fn set_annotations(
        &self,
        id: EntryId,
        set: Pairs,
        delete: Vec<String>,
    ) -> Result<()> {
        self.labels
            .set_annotations(self.stream, id, set, delete)
            .await
    }
}

impl std::fmt::Debug for StreamLabels<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StreamLabels")
            .field("stream", self.stream)
            .finish_non_exhaustive()
    }
}
