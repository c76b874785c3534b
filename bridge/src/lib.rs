//! Bridges: a store's content and changes, carried into a sink.
//!
//! A bridge copies what the store holds, follows its log from where it stood before the copy, and
//! keeps its cursor where the sink keeps the data. It names no backend: it works on any
//! [`Store`](ledger_core::Store) with a log and any [`Sink`](ledger_core::Sink).

mod bridge;
pub mod hook;
mod isolate;
mod lease;
mod options;
mod replay;
mod stats;
mod steps;
mod verify;

pub use bridge::{Bridge, Summary};
pub use lease::under_lease;
pub use options::{BridgeOptions, OnFailure};
pub use stats::{State, Stats};
pub use verify::{Difference, Kind, Report, VerifyOptions, verify};
