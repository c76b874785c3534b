//! The collections of a database, copied and then followed in a change stream, as rows of two
//! columns: `_id`, the key, and `doc`, the document as JSON.
//!
//! A document's version is `(cluster time, number among the events of that time)`; copied documents
//! have `(the time at which the copy began, 0)`. A sink that keeps the highest version of a key is
//! right whatever comes twice or late.

mod contents;
mod feed;
mod follow;
mod options;
mod position;
mod source;
mod values;

pub use crate::select::TableSelection;
pub use options::CollectionOptions;
pub use source::MongoCapture;
pub use values::{id_text, json};
