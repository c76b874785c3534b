//! Bridges: a store's content and changes, carried into a sink.
//!
//! A bridge copies what the store holds, follows its log from where it stood before the copy, and
//! keeps its cursor where the sink keeps the data. It names no backend: it works on any
//! [`Store`](ledger_core::Store) with a log, any other [`Source`](ledger_core::Source), and any
//! [`Sink`](ledger_core::Sink).

mod any;
mod bridge;
pub mod hook;
mod isolate;
mod lease;
mod ledger;
mod options;
mod replay;
mod stats;
mod verify;

pub use any::AnyBridge;
pub use bridge::{Bridge, Summary};
pub use lease::under_lease;
pub use options::{BridgeOptions, OnFailure};
pub use stats::{State, Stats};
pub use verify::{
    Difference, Kind, Report, RowDifference, TableEnds, TableReport, VerifyOptions, verify,
    verify_tables,
};
