//! A codec with a schema.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use serde_json::Value;

use super::Schema;
use crate::Result;
use crate::codec::Codec;

/// A codec that writes the present version of a schema and reads every earlier one.
///
/// The codec must know two types: the value's, and the one that the schema's steps work on.
pub struct Versioned<C, V = Value> {
    codec: C,
    schema: Arc<Schema<V>>,
}

impl<C, V> Versioned<C, V> {
    /// Reads what `codec` wrote under any version of `schema`.
    pub fn new(codec: C, schema: impl Into<Arc<Schema<V>>>) -> Self {
        Self {
            codec,
            schema: schema.into(),
        }
    }

    /// The schema.
    pub fn schema(&self) -> &Schema<V> {
        &self.schema
    }
}

// Derives would ask for `V: Clone` and `V: Debug`, although no `V` is held.
impl<C: Clone, V> Clone for Versioned<C, V> {
    fn clone(&self) -> Self {
        Self {
            codec: self.codec.clone(),
            schema: Arc::clone(&self.schema),
        }
    }
}

impl<C: fmt::Debug, V> fmt::Debug for Versioned<C, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { codec, schema } = self;
        f.debug_struct("Versioned")
            .field("codec", codec)
            .field("schema", schema)
            .finish()
    }
}

impl<T, C: Codec<T> + Codec<V>, V: 'static> Codec<T> for Versioned<C, V> {
    fn encode(&self, value: &T) -> Result<Bytes> {
        self.codec.encode(value)
    }

    fn decode(&self, payload: &[u8]) -> Result<T> {
        self.codec.decode(payload)
    }

    fn version(&self) -> u32 {
        self.schema.version()
    }

    fn decode_version(&self, version: u32, payload: &[u8]) -> Result<T> {
        if !self.schema.needs_upcast(version)? {
            return self.codec.decode(payload);
        }
        let value: V = self.codec.decode(payload)?;
        let value = self.schema.upcast_value(version, value)?;
        // Through the codec again: the one way from `V` to `T` that every format has.
        let payload = self.codec.encode(&value)?;
        self.codec.decode(&payload)
    }
}
