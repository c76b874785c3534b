//! How a bridge behaves.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use ledger_core::observe::Recorder;
use ledger_core::pipeline::{Backoff, BatchOptions};
use ledger_core::{Error, MutationKind, PipelineId, Result};

/// How a bridge behaves.
#[derive(Debug, Clone)]
pub struct BridgeOptions {
    /// Its name, which its cursor, lease and dead letters go by. Two processes that run a bridge of
    /// one name share its work: one does it, the other waits.
    pub pipeline: PipelineId,
    /// The kinds of mutation that are not carried.
    pub skip: BTreeSet<MutationKind>,
    /// What happens to an item that the sink refuses.
    pub on_failure: OnFailure,
    /// End when everything that stood in the log at the start has been delivered.
    pub once: bool,
    /// How large deliveries get, and how they are paced.
    pub batch: BatchOptions,
    /// How many deliveries run side by side, each with its own streams. One by default, which
    /// keeps the order across streams as well.
    pub lanes: usize,
    /// The waits between attempts while source or sink cannot be reached.
    pub backoff: Backoff,
    /// How long the lease lasts that keeps a second instance waiting: it takes over that long after
    /// this one has died. Five seconds by default.
    pub lease: Duration,
    /// How long a delivery may take before it is given up and made again: a sink that never answers
    /// must not hold the bridge for ever. Five minutes by default.
    pub delivery_timeout: Duration,
    /// How long a stop or a pause waits for what is being delivered. What has not been acknowledged
    /// then is given up, and delivered by the next run. 30 seconds by default.
    pub drain: Duration,
    /// Counts deliveries, what is left out, and the lag. Nobody, unless given.
    pub recorder: Option<Arc<dyn Recorder>>,
}

impl BridgeOptions {
    /// The defaults, for a bridge of this name.
    pub fn new(pipeline: PipelineId) -> Self {
        Self {
            pipeline,
            skip: BTreeSet::new(),
            on_failure: OnFailure::default(),
            once: false,
            batch: BatchOptions::default(),
            lanes: 1,
            backoff: Backoff::default(),
            lease: Duration::from_secs(5),
            delivery_timeout: Duration::from_mins(5),
            drain: Duration::from_secs(30),
            recorder: None,
        }
    }
}

/// What happens to an item that a healthy sink refuses. An unreachable sink is never a reason: that
/// is waited for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum OnFailure {
    /// The bridge ends with the error, the cursor before the item.
    #[default]
    Stop,
    /// The item, and every later one of its stream, becomes a dead letter; the other streams go
    /// on.
    Park,
    /// The item is left out, with a line in the log of the process.
    Skip,
}

impl FromStr for OnFailure {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "stop" => Ok(Self::Stop),
            "park" => Ok(Self::Park),
            "skip" => Ok(Self::Skip),
            other => Err(Error::invalid(
                "parse on_failure",
                format!("{other:?} is none of stop, park, skip"),
            )),
        }
    }
}

impl fmt::Display for OnFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Stop => "stop",
            Self::Park => "park",
            Self::Skip => "skip",
        })
    }
}
