//! The conformance suite, on a store that a third party could have written.

#[path = "../../examples/third_party_store/store/mod.rs"]
mod third_party_store;

#[path = "recorded/mod.rs"]
mod recorded;

mod memory {
    use crate::third_party_store::MemoryHarness;

    ledger_core::conformance_tests!(MemoryHarness::default());
}

mod observed {
    use std::sync::Arc;

    use async_trait::async_trait;
    use futures::future::BoxFuture;
    use ledger_core::conformance::{Ability, Ending, Harness};
    use ledger_core::{Appended, NewEntry, Observed, Result, Store, StoreName, StreamName};

    use crate::third_party_store::MemoryHarness;

    /// The same store, each handle with the wrapper around it.
    struct ObservedHarness(MemoryHarness);

    #[async_trait]
    impl Harness for ObservedHarness {
        async fn open(&self, name: &StoreName) -> Result<Arc<dyn Store>> {
            let store = self.0.open(name).await?;
            let recorder = Arc::new(crate::recorded::Recorded::default());
            Ok(Arc::new(
                Observed::new(store, "memory").recorded_by(recorder),
            ))
        }

        fn lacks(&self, ability: Ability) -> Option<&'static str> {
            self.0.lacks(ability)
        }

        async fn prune(&self, store: &Arc<dyn Store>) -> Option<Result<()>> {
            self.0.prune(store).await
        }

        async fn append_in_transaction(
            &self,
            store: &Arc<dyn Store>,
            stream: &StreamName,
            entries: Vec<NewEntry>,
            ending: BoxFuture<'static, Ending>,
        ) -> Option<Result<Vec<Appended>>> {
            self.0
                .append_in_transaction(store, stream, entries, ending)
                .await
        }
    }

    ledger_core::conformance_tests!(ObservedHarness(MemoryHarness::default()));
}

mod fan_out {
    use std::sync::Arc;

    use async_trait::async_trait;
    use futures::future::BoxFuture;
    use ledger_core::conformance::{Ability, Ending, Harness};
    use ledger_core::{Appended, FanOut, NewEntry, Result, Store, StoreName, StreamName};

    use crate::third_party_store::MemoryHarness;

    /// The same store, each handle with the wrapper around it.
    struct FanOutHarness(MemoryHarness);

    #[async_trait]
    impl Harness for FanOutHarness {
        async fn open(&self, name: &StoreName) -> Result<Arc<dyn Store>> {
            let store = self.0.open(name).await?;
            // So few bytes that followers fall out of the shared reading all the time.
            Ok(Arc::new(FanOut::new(store, 4_000)))
        }

        fn lacks(&self, ability: Ability) -> Option<&'static str> {
            self.0.lacks(ability)
        }

        async fn prune(&self, store: &Arc<dyn Store>) -> Option<Result<()>> {
            self.0.prune(store).await
        }

        async fn append_in_transaction(
            &self,
            store: &Arc<dyn Store>,
            stream: &StreamName,
            entries: Vec<NewEntry>,
            ending: BoxFuture<'static, Ending>,
        ) -> Option<Result<Vec<Appended>>> {
            self.0
                .append_in_transaction(store, stream, entries, ending)
                .await
        }
    }

    ledger_core::conformance_tests!(FanOutHarness(MemoryHarness::default()));
}
