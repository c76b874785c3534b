//! Bridges whatever their items are.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use ledger_core::pipeline::Stop;
use ledger_core::{Item, PipelineId, Result};

use crate::{Bridge, Stats, Summary};

/// A [`Bridge`] of any items, as those look after it who need not know them. Cloning shares it.
#[derive(Clone)]
pub struct AnyBridge(Arc<dyn Carries>);

#[async_trait]
trait Carries: fmt::Debug + Send + Sync {
    fn pipeline(&self) -> &PipelineId;
    fn stats(&self) -> Stats;
    async fn run(&self, stop: &Stop) -> Result<Summary>;
    async fn replay_dead_letters(&self) -> Result<(u64, u64)>;
}

#[async_trait]
impl<T: Item> Carries for Bridge<T> {
    fn pipeline(&self) -> &PipelineId {
        Self::pipeline(self)
    }

    fn stats(&self) -> Stats {
        Self::stats(self)
    }

    async fn run(&self, stop: &Stop) -> Result<Summary> {
        Self::run(self, stop).await
    }

    async fn replay_dead_letters(&self) -> Result<(u64, u64)> {
        Self::replay_dead_letters(self).await
    }
}

impl AnyBridge {
    /// Its name.
    pub fn pipeline(&self) -> &PipelineId {
        self.0.pipeline()
    }

    /// Its numbers at this moment.
    pub fn stats(&self) -> Stats {
        self.0.stats()
    }

    /// See [`Bridge::run`].
    pub async fn run(&self, stop: &Stop) -> Result<Summary> {
        self.0.run(stop).await
    }

    /// See [`Bridge::replay_dead_letters`].
    pub async fn replay_dead_letters(&self) -> Result<(u64, u64)> {
        self.0.replay_dead_letters().await
    }
}

impl<T: Item> From<Bridge<T>> for AnyBridge {
    fn from(bridge: Bridge<T>) -> Self {
        Self(Arc::new(bridge))
    }
}

impl fmt::Debug for AnyBridge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
