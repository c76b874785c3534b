//! Captured tables, as far as no destination is concerned: reading the text that stands for a
//! source's value, writing it again, and what is set for each table.
//!
//! The texts are those of [`ColumnType`](ledger_core::ColumnType). Every parser here reads bytes
//! that another program has written: none of them panics, and each either gives the exact value or
//! says in a [`Refused`] which rule the text breaks. Nothing is clamped, cut or replaced.

mod array;
mod binary;
mod note;
mod number;
mod options;
mod pairs;
mod protect;
mod time;

pub use array::{Array, Event, Events, push_element};
pub use binary::{bytes, push_bytes, push_uuid, uuid};
pub use note::{Alteration, Carried, Note, resync};
pub use number::{
    Decimal, boolean, decimal, float32, float64, integer, push_float32, push_float64, vector,
};
pub use options::{ClusterOptions, ColumnOptions, TableOptions, TableRoutes};
pub use pairs::{Pairs, push_pair};
pub use protect::Protection;
pub use time::{Bounded, date, push_date, push_timestamp, timestamp};

/// Why a text is not the value that it should be; completes "the value ...".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refused(pub &'static str);

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for Refused {}
