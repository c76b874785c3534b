//! Stores around stores. Each wrapper forwards every method by name, and its `Display` shows the
//! nesting.

mod append_only;
mod fan_out;
mod observed;
mod observed_sink;
mod read_only;
mod shared;

pub use self::append_only::AppendOnly;
pub use self::fan_out::FanOut;
pub use self::observed::Observed;
pub use self::read_only::ReadOnly;
