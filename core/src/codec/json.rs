//! JSON.

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Codec, cannot_decode, cannot_encode};
use crate::Result;

/// Payloads as JSON texts, on which the database's own JSON functions work.
///
/// Numbers come back exactly where their type is an integer of up to 64 bits or a finite float;
/// JSON has no infinity and no NaN, which are written as `null`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Json;

impl<T: Serialize + DeserializeOwned> Codec<T> for Json {
    fn encode(&self, value: &T) -> Result<Bytes> {
        serde_json::to_vec(value)
            .map(Bytes::from)
            .map_err(|error| cannot_encode("JSON", error))
    }

    fn decode(&self, payload: &[u8]) -> Result<T> {
        serde_json::from_slice(payload).map_err(|error| {
            cannot_decode("the payload is not JSON of the expected shape").with_source(error)
        })
    }
}
