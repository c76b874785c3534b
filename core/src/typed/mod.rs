//! Typed views of stores and streams: values in, values out, through a codec.

mod change;
mod entry;
mod store;
mod stream;

pub use self::change::TypedChange;
pub use self::entry::{NewTyped, TypedEntry, TypedPage};
pub use self::store::TypedStore;
pub use self::stream::{StreamLabels, TypedStream};
