//! A replica holds what its source holds: one suite, run for each pair of backends.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test"
)]

mod cases;
pub(crate) mod content;
pub(crate) mod pair;
pub(crate) mod run;

use pair::{Kind, Pair};

/// One named test a case.
macro_rules! cases {
    ($from:ident, $to:ident, [$($group:ident :: $case:ident),* $(,)?]) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                crate::replication::cases::$group::$case(
                    crate::replication::Pair::open(
                        crate::replication::Kind::$from,
                        crate::replication::Kind::$to,
                    )
                    .await,
                )
                .await;
            }
        )*
    };
}

/// The cases that hold for every pair.
macro_rules! pair_tests {
    ($pair:ident, $from:ident, $to:ident) => {
        mod $pair {
            cases!(
                $from,
                $to,
                [
                    follow::everything_a_ledger_can_do_arrives,
                    follow::what_was_there_is_copied_and_followed_without_a_seam,
                    follow::a_copy_stopped_in_the_middle_goes_on_where_it_was,
                    follow::skipped_kinds_are_not_carried,
                    follow::once_ends_at_the_log_as_it_stood,
                    control::a_pause_holds_the_bridge_until_it_is_lifted,
                    control::a_second_instance_waits_and_takes_over,
                    control::bridges_side_by_side_do_not_disturb_each_other,
                    history::a_resync_copies_everything_anew,
                    history::another_source_is_refused,
                    history::a_pruned_log_is_said_and_a_resync_mends_it,
                    history::a_source_restored_from_a_backup_is_refused,
                    verify::rows_altered_by_hand_are_named_and_mended,
                    verify::no_difference_is_seen_while_both_sides_move,
                    verify::what_the_stopped_bridge_has_not_carried_is_pending,
                ]
            );
        }
    };
}

/// The cases of replicas that are stores.
macro_rules! store_tests {
    ($pair:ident, $from:ident, $to:ident) => {
        mod $pair {
            cases!(
                $from,
                $to,
                [
                    promote::a_replica_is_read_only_until_it_is_promoted,
                    promote::a_promoted_replica_knows_what_was_appended_again_after_a_trim,
                ]
            );
        }
    };
}

pair_tests!(sqlite_to_sqlite, Sqlite, Sqlite);
pair_tests!(sqlite_to_postgres, Sqlite, Postgres);
pair_tests!(sqlite_to_clickhouse, Sqlite, ClickHouse);
pair_tests!(postgres_to_sqlite, Postgres, Sqlite);
pair_tests!(postgres_to_postgres, Postgres, Postgres);
pair_tests!(postgres_to_clickhouse, Postgres, ClickHouse);
pair_tests!(sqlite_to_mongodb, Sqlite, Mongo);
pair_tests!(postgres_to_mongodb, Postgres, Mongo);
pair_tests!(mongodb_to_sqlite, Mongo, Sqlite);
pair_tests!(mongodb_to_postgres, Mongo, Postgres);
pair_tests!(mongodb_to_clickhouse, Mongo, ClickHouse);
pair_tests!(mongodb_to_mongodb, Mongo, Mongo);
pair_tests!(postgres_to_clickhouse_old, Postgres, ClickHouseOld);

store_tests!(sqlite_as_a_store_from_sqlite, Sqlite, Sqlite);
store_tests!(sqlite_as_a_store_from_postgres, Postgres, Sqlite);
store_tests!(postgres_as_a_store_from_sqlite, Sqlite, Postgres);
store_tests!(postgres_as_a_store_from_postgres, Postgres, Postgres);
store_tests!(mongodb_as_a_store_from_sqlite, Sqlite, Mongo);
store_tests!(mongodb_as_a_store_from_postgres, Postgres, Mongo);
store_tests!(mongodb_as_a_store_from_mongodb, Mongo, Mongo);
