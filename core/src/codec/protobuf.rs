//! Protocol Buffers.

use bytes::Bytes;
use prost::Message;

use super::{Codec, cannot_decode};
use crate::Result;

/// Payloads as Protocol Buffers messages.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Protobuf;

impl<T: Message + Default> Codec<T> for Protobuf {
    fn encode(&self, value: &T) -> Result<Bytes> {
        Ok(value.encode_to_vec().into())
    }

    fn decode(&self, payload: &[u8]) -> Result<T> {
        T::decode(payload).map_err(|error| {
            cannot_decode("the payload is not the expected Protobuf message").with_source(error)
        })
    }
}
