//! The collections of a database, copied and then followed in a change stream, as rows: `_id`, the
//! key, and `doc`, the document as JSON; and, where that is asked for, a typed column for each field.
//!
//! A document's version is `(cluster time, number among the events of that time)`; copied documents
//! have `(the time at which the copy began, 0)`. A sink that keeps the highest version of a key is
//! right whatever comes twice or late.
//!
//! Columns are found out as the documents come, from the copy or from the stream, and only ever
//! widen (`types.rs`, `shapes.rs`). A wider table is told before the first row that needs it, and what
//! the sink has noted of it is where it goes on from.

mod contents;
mod copying;
mod events;
mod feed;
mod flatten;
mod follow;
mod options;
mod position;
mod shapes;
mod source;
mod types;
mod values;

pub use crate::select::TableSelection;
pub use options::{CollectionOptions, Documents};
pub use shapes::as_columns;
pub use source::MongoCapture;
pub use values::{id_text, json};
