//! Bytes as they are.

use bytes::Bytes;

use super::Codec;
use crate::Result;

/// Payloads that are their own value.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Raw;

impl Codec<Bytes> for Raw {
    fn encode(&self, value: &Bytes) -> Result<Bytes> {
        Ok(value.clone())
    }

    fn decode(&self, payload: &[u8]) -> Result<Bytes> {
        Ok(Bytes::copy_from_slice(payload))
    }
}
