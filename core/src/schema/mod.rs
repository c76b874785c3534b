//! Schemas: reading payloads that earlier versions of a program wrote.

mod field_mapper;
mod upcaster;
mod versioned;

pub use self::field_mapper::FieldMapper;
pub use self::upcaster::{Schema, Upcaster};
pub use self::versioned::Versioned;
