//! The stores and their change streams. Each backend has a folder with the same file names.

#[cfg(feature = "clickhouse")]
pub mod clickhouse;
#[cfg(feature = "mongodb")]
pub mod mongodb;
#[cfg(feature = "postgres")]
pub mod postgres;
#[cfg(feature = "postgres")]
mod prefetch;
#[cfg(any(feature = "mongodb", feature = "postgres"))]
mod select;
#[cfg(feature = "sqlite")]
pub mod sqlite;
