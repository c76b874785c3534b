//! Typed changes.

use std::future::ready;

use futures::stream::{BoxStream, StreamExt as _};

use super::entry::decode_value;
use crate::codec::Codec;
use crate::{Change, Mutation, Result};

/// A change, with the value that it appended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TypedChange<T> {
    /// The change as the log tells it.
    pub change: Change,
    /// The payload's value where the change is an append; none where it is anything else.
    pub value: Option<T>,
}

impl<T> TypedChange<T> {
    /// Decodes what a change appended; an error names the entry and the versions.
    pub fn decode(codec: &impl Codec<T>, change: Change) -> Result<Self> {
        let value = match &change.mutation {
            Mutation::Append { entry, .. } => Some(decode_value(codec, entry)?),
            _ => None,
        };
        Ok(Self { change, value })
    }
}

/// Decodes the changes up to the first error, so that no position behind an entry that could not
/// be read is ever taken for done.
pub(super) fn typed<T: Send + 'static>(
    changes: BoxStream<'static, Result<Change>>,
    codec: impl Codec<T>,
) -> BoxStream<'static, Result<TypedChange<T>>> {
    changes
        .map(move |change| TypedChange::decode(&codec, change?))
        .scan(false, |failed, change| {
            let item = (!*failed).then_some(change);
            *failed |= item.as_ref().is_some_and(Result::is_err);
            ready(item)
        })
        .boxed()
}
