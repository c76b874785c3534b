//! MessagePack.

use bytes::Bytes;
use rmp_serde::Deserializer;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Codec, cannot_decode, cannot_encode};
use crate::Result;

/// Payloads in MessagePack, with the names of fields, so that a schema can evolve.
///
/// As with JSON, a payload that is nested deeper than some 127 values is not read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MessagePack;

/// Reading is recursive: the deserializer's own bound is more than a thread's stack holds.
const MAX_DEPTH: usize = 128;

impl<T: Serialize + DeserializeOwned> Codec<T> for MessagePack {
    fn encode(&self, value: &T) -> Result<Bytes> {
        rmp_serde::to_vec_named(value)
            .map(Bytes::from)
            .map_err(|error| cannot_encode("MessagePack", error))
    }

    fn decode(&self, payload: &[u8]) -> Result<T> {
        let failed =
            || cannot_decode("the payload is not one MessagePack value of the expected shape");
        let mut reader = Deserializer::new(payload);
        reader.set_max_depth(MAX_DEPTH);
        let value = T::deserialize(&mut reader).map_err(|error| failed().with_source(error))?;
        // The deserializer stops behind the first value; bytes behind it are damage.
        if reader.get_ref().is_empty() {
            Ok(value)
        } else {
            Err(failed())
        }
    }
}
