//! What the conformance suite needs of the store: opening, pruning, and transactions.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use futures::future::BoxFuture;
use ledger_core::conformance::{Ability, Ending, Harness};
use ledger_core::{
    Appended, Cursor, ExpectedVersion, NewEntry, Result, Store, StoreName, StreamName,
};

use super::{MemoryStore, Shared, checked};

/// Opens stores, each name's data once.
#[derive(Debug, Default)]
pub(crate) struct MemoryHarness {
    stores: Mutex<HashMap<StoreName, Arc<Shared>>>,
}

impl MemoryHarness {
    fn shared(&self, name: &StoreName) -> Arc<Shared> {
        let mut stores = self.stores.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(
            stores
                .entry(name.clone())
                .or_insert_with(|| Arc::new(Shared::new())),
        )
    }
}

#[async_trait]
impl Harness for MemoryHarness {
    async fn open(&self, name: &StoreName) -> Result<Arc<dyn Store>> {
        Ok(Arc::new(MemoryStore::new(name.clone(), self.shared(name))))
    }

    fn lacks(&self, ability: Ability) -> Option<&'static str> {
        match ability {
            Ability::FullText => Some("a store in memory has no full-text index"),
            _ => None,
        }
    }

    async fn prune(&self, store: &Arc<dyn Store>) -> Option<Result<()>> {
        let shared = self.shared(store.name());
        let mut state = shared.lock();
        let needed = state
            .consumers
            .values()
            .map(|consumer| consumer.confirmed.clone())
            .min();
        let unneeded = |cursor: &Cursor| needed.as_ref().is_none_or(|needed| cursor <= needed);
        while state
            .log
            .front()
            .is_some_and(|change| unneeded(&change.cursor))
        {
            state.log.pop_front();
            state.pruned += 1;
        }
        Some(Ok(()))
    }

    async fn append_in_transaction(
        &self,
        store: &Arc<dyn Store>,
        stream: &StreamName,
        entries: Vec<NewEntry>,
        ending: BoxFuture<'static, Ending>,
    ) -> Option<Result<Vec<Appended>>> {
        let shared = self.shared(store.name());
        let _writer = shared.writer.lock().await;
        // The transaction works on a copy, which takes the place of the state when it commits;
        // only it writes meanwhile.
        let mut copy = shared.lock().clone();
        let appended =
            checked(entries).and_then(|entries| copy.append(stream, entries, ExpectedVersion::Any));
        if appended.is_ok() && ending.await == Ending::Commit {
            *shared.lock() = copy;
            shared.committed.send_replace(());
        }
        Some(appended)
    }
}
