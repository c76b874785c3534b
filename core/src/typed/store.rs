//! A store of one type of value.

use std::marker::PhantomData;
use std::sync::Arc;

use futures::stream::BoxStream;

use super::TypedStream;
use super::change::{TypedChange, typed};
use crate::codec::Codec;
use crate::{Cursor, Result, Store, StreamName};

/// A typed view of a store: all its streams hold values of type `T`.
#[derive(Debug)]
pub struct TypedStore<T, C, S: ?Sized = dyn Store> {
    store: Arc<S>,
    codec: C,
    value: PhantomData<fn() -> T>,
}

impl<T, C: Clone, S: ?Sized> Clone for TypedStore<T, C, S> {
    fn clone(&self) -> Self {
        Self {
            store: Arc::clone(&self.store),
            codec: self.codec.clone(),
            value: PhantomData,
        }
    }
}

impl<T, C, S> TypedStore<T, C, S>
where
    T: Send + 'static,
    C: Codec<T> + Clone,
    S: Store + ?Sized,
{
    /// Reads and writes `store` through `codec`.
    pub fn new(store: Arc<S>, codec: C) -> Self {
        Self {
            store,
            codec,
            value: PhantomData,
        }
    }

    /// The store inside.
    pub fn store(&self) -> &Arc<S> {
        &self.store
    }

    /// The stream of this name, whether it exists or not.
    pub fn stream(&self, name: StreamName) -> TypedStream<T, C, S> {
        TypedStream::new(Arc::clone(&self.store), name, self.codec.clone())
    }

    /// Every change of the store after `after`, as
    /// [`ChangeLog::changes`](crate::ChangeLog::changes) gives them; none where the store keeps no
    /// log. It ends at the first error, also at an entry that cannot be decoded.
    pub fn changes(&self, after: Cursor) -> Option<BoxStream<'static, Result<TypedChange<T>>>> {
        Some(typed(self.store.log()?.changes(after), self.codec.clone()))
    }
}
