//! The contracts of hooks: who takes deliveries, and what keeps the state of a hook.
//!
//! A hook is a pipeline whose sink is somebody's endpoint. Its order is each stream's; one stream
//! that fails holds no other. So its state is more than a cursor: the streams that wait for another
//! attempt, with what is behind them in the log, stand beside it, and the cursor moves on.

mod delivery;
mod state;

pub use delivery::{Answer, Delivery, Endpoint, Outcome};
pub use state::{
    Asked, Attempt, AttemptQuery, Claim, Counts, Letter, Plan, Queued, Settled, State, Waiting,
    Writes,
};
