//! The conformance suite on ClickHouse: today's engine, and the oldest supported one.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use ledger::clickhouse::{ClickHouseConfig, ClickHouseStore};
use ledger::conformance::{Ability, Harness};
use ledger::{Result, Retention, Store, StoreName, StoreOptions};
use ledger_layout::clickhouse::Tables;

/// Opens stores in the shared database, as a user would.
struct ClickHouseHarness {
    config: ClickHouseConfig,
}

impl ClickHouseHarness {
    fn new(url: &str) -> Self {
        Self {
            config: url.parse().unwrap(),
        }
    }

    async fn store(&self, name: &StoreName, retention: Retention) -> Result<ClickHouseStore> {
        let options = StoreOptions {
            retention,
            ..StoreOptions::default()
        };
        Box::pin(ClickHouseStore::open(&self.config, name.clone(), options)).await
    }
}

#[async_trait]
impl Harness for ClickHouseHarness {
    async fn open(&self, name: &StoreName) -> Result<Arc<dyn Store>> {
        Ok(Arc::new(self.store(name, Retention::default()).await?))
    }

    fn lacks(&self, ability: Ability) -> Option<&'static str> {
        match ability {
            Ability::FullText => Some("ClickHouse stores have no full-text search"),
            Ability::Transactions => Some("ClickHouse has no transactions over tables"),
            _ => None,
        }
    }

    async fn prune(&self, store: &Arc<dyn Store>) -> Option<Result<()>> {
        let pruned = async {
            let min = Duration::ZERO;
            let store = self
                .store(store.name(), Retention { min, max: None })
                .await?;
            let pruned = store.prune().await;
            store.close().await;
            pruned.map(drop)
        };
        Some(pruned.await)
    }
}

mod today {
    use super::*;
    ledger::conformance_tests!(ClickHouseHarness::new(
        &ledger_harness::shared::clickhouse_url()
    ));
}

mod oldest {
    use super::*;
    ledger::conformance_tests!(ClickHouseHarness::new(
        &ledger_harness::shared::clickhouse_old_url()
    ));
}

/// A store whose entries and labels are behind tables over shards. There is one shard, since the engine
/// listens at no port for another one; and tables on a cluster are made by way of Keeper, which no
/// registry holds, so they are there before.
struct Sharded(ClickHouseHarness);

impl Sharded {
    fn new(url: &str) -> Self {
        let sign = if url.contains('?') { '&' } else { '?' };
        let url = format!("{url}{sign}cluster=one_shard&sharded=true");
        Self(ClickHouseHarness::new(&url))
    }

    async fn make_tables(&self, name: &StoreName) -> Result<()> {
        let whole = ClickHouseConfig {
            cluster: ledger::clickhouse::Cluster::default(),
            ..self.0.config.clone()
        };
        let database = whole.database.clone();
        let connection = ledger_layout::clickhouse::Connection::new(whole);
        // What a store's tables look like on one server.
        static MODEL: tokio::sync::OnceCell<StoreName> = tokio::sync::OnceCell::const_new();
        let model = MODEL.get_or_try_init(async || {
            let model = StoreName::new(format!("m{}", uuid::Uuid::new_v4().simple())).unwrap();
            Tables::new(&model).open(&connection).await?;
            Ok::<_, ledger::Error>(model)
        });
        let model = model.await?;
        for table in ["entries", "labels"] {
            let (rows, model) = (format!("{name}_{table}_shard"), format!("{model}_{table}"));
            for statement in [
                format!("CREATE TABLE IF NOT EXISTS {rows} AS {model}"),
                format!(
                    "CREATE TABLE IF NOT EXISTS {name}_{table} AS {model} \
                     ENGINE = Distributed('one_shard', '{database}', '{rows}', stream_key)"
                ),
            ] {
                connection.execute("make shards", &statement).await?;
            }
        }
        Ok(())
    }
}

#[async_trait]
impl Harness for Sharded {
    async fn open(&self, name: &StoreName) -> Result<Arc<dyn Store>> {
        self.make_tables(name).await?;
        self.0.open(name).await
    }

    fn lacks(&self, ability: Ability) -> Option<&'static str> {
        self.0.lacks(ability)
    }

    async fn prune(&self, store: &Arc<dyn Store>) -> Option<Result<()>> {
        self.0.prune(store).await
    }
}

/// The cases of what is in tables over shards; the rest is as on one server.
mod sharded {
    use super::*;
    ledger_core::__conformance_make! {
        tests Sharded::new(&ledger_harness::shared::clickhouse_url());
        append {
            every_field_reads_back,
            ten_thousand_entries_are_one_append,
            concurrent_appends_keep_their_order,
            stat_tells_the_state,
        }
        contents {
            contents_agree_with_reads_and_log,
            ranges_hold_their_borders,
            entries_are_found_by_their_keys,
        }
        dedup {
            across_batches_the_first_wins,
            concurrent_writers_keep_each_key_once,
            a_trim_frees_its_keys,
        }
        handles {
            writers_on_two_handles_keep_one_order,
        }
        labels {
            set_tags_replaces_all,
            set_annotations_merges_and_delete_wins,
            labels_change_what_is_found,
            concurrent_annotations_lose_nothing,
        }
        read {
            each_condition_holds,
            conditions_hold_together,
            pages_join_without_a_seam,
            a_reader_beside_writers_skips_nothing,
        }
        rename {
            labels_and_trims_work_after_a_rename,
        }
        search {
            a_substring_is_found,
            all_streams_are_searched,
            pages_of_a_search_join,
        }
        snapshot {
            a_snapshot_is_the_content,
            a_resumed_snapshot_converges,
            snapshot_and_follow_converge_beside_writers,
        }
        streams {
            an_emptied_stream_is_not_listed,
        }
        trim {
            a_trim_removes_through_its_id,
            trims_race_appends_without_harm,
        }
    }
}
