//! Codecs: how a value becomes a payload, and a payload a value.

mod json;
mod message_pack;
mod protobuf;
mod raw;
mod zstd;

use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

pub use self::json::Json;
pub use self::message_pack::MessagePack;
pub use self::protobuf::Protobuf;
pub use self::raw::Raw;
pub use self::zstd::Zstd;
use crate::{Error, ErrorKind, Result};

/// How values of type `T` become payloads and come back.
///
/// Implementations MUST give back from [`decode`](Self::decode) what [`encode`](Self::encode) was
/// given, and MUST answer any bytes whatever with a value or an error: never with a panic, and
/// never with memory out of proportion to the payload beyond a bound of their own. A codec around
/// another one forwards every method.
pub trait Codec<T>: fmt::Debug + Send + Sync + 'static {
    /// Turns a value into a payload. `InvalidInput` for a value that the format cannot hold.
    fn encode(&self, value: &T) -> Result<Bytes>;

    /// Turns a payload of the present version into a value. `Corrupt` where it is none.
    fn decode(&self, payload: &[u8]) -> Result<T>;

    /// The schema version of what [`encode`](Self::encode) makes; 1 where there is no schema.
    fn version(&self) -> u32 {
        1
    }

    /// Turns a payload that was written with this schema version into a value. Without a schema
    /// every version decodes as it is.
    fn decode_version(&self, version: u32, payload: &[u8]) -> Result<T> {
        let _ = version;
        self.decode(payload)
    }
}

/// A codec that is shared, for those that cannot be cloned.
impl<T, C: Codec<T> + ?Sized> Codec<T> for Arc<C> {
    fn encode(&self, value: &T) -> Result<Bytes> {
        (**self).encode(value)
    }

    fn decode(&self, payload: &[u8]) -> Result<T> {
        (**self).decode(payload)
    }

    fn version(&self) -> u32 {
        (**self).version()
    }

    fn decode_version(&self, version: u32, payload: &[u8]) -> Result<T> {
        (**self).decode_version(version, payload)
    }
}

/// The value cannot be written in this format.
pub(crate) fn cannot_encode(
    format: &str,
    source: impl Into<Box<dyn StdError + Send + Sync>>,
) -> Error {
    let context = format!("the value cannot be written as {format}");
    Error::invalid("encode payload", context).with_source(source)
}

/// The payload is not what it should be.
pub(crate) fn cannot_decode(context: impl Into<String>) -> Error {
    Error::new(ErrorKind::Corrupt, "decode payload", context)
}
