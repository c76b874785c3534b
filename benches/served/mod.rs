//! The parts of the benchmark of the service.

pub(crate) mod calls;
mod clients;
pub(crate) mod nothing;
pub(crate) mod server;
pub(crate) mod tails;

/// What the stores of this benchmark are called.
const STORE: &str = "orders";
