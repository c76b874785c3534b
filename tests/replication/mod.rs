//! A replica holds what its source holds: one suite, run for each pair of backends.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test"
)]

mod cases;
mod chains;
pub(crate) mod content;
mod fan_out;
mod loops;
mod matrix;
pub(crate) mod pair;
mod relay_logs;
pub(crate) mod run;

use pair::{Kind, Pair};

/// The cases of every pair, as `group::case`.
macro_rules! cases {
    ($($group:ident :: $case:ident),* $(,)?) => {
        /// Their names.
        const CASES: &[&str] = &[$(concat!(stringify!($group), "::", stringify!($case))),*];

        /// One named test a case, for a pair.
        macro_rules! pair_tests {
            ($from:ident, $to:ident) => {
                $(
                    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                    async fn $case() {
                        use crate::replication::{Kind, Pair, cases};
                        let pair = Pair::open(Kind::$from, Kind::$to).await;
                        Box::pin(cases::$group::$case(pair)).await;
                    }
                )*
            };
        }
    };
}

cases!(
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
    promote::a_replica_is_read_only_until_it_is_promoted,
    promote::a_promoted_replica_knows_what_was_appended_again_after_a_trim,
);

/// Every pair of a source and a sink. A new backend is one more word in both lists; older versions of
/// one are pairs of their own behind them.
macro_rules! pairs {
    ($($source:ident: $from:ident => [$($sink:ident: $to:ident),*]),* $(,)?) => {
        $(
            mod $source {
                $(
                    mod $sink {
                        pair_tests!($from, $to);
                    }
                )*
            }
        )*

        /// Source and sink of each.
        const PAIRS: &[(&str, &str)] = &[
            $($((stringify!($source), stringify!($sink))),*),*
        ];
    };
}

pairs!(
    sqlite: Sqlite => [
        sqlite: Sqlite, postgres: Postgres, mongodb: Mongo, clickhouse: ClickHouse
    ],
    postgres: Postgres => [
        sqlite: Sqlite, postgres: Postgres, mongodb: Mongo, clickhouse: ClickHouse,
        clickhouse_24_8: ClickHouseOld
    ],
    postgres_wal: PostgresWal => [
        sqlite: Sqlite, postgres: Postgres, mongodb: Mongo, clickhouse: ClickHouse
    ],
    mongodb: Mongo => [
        sqlite: Sqlite, postgres: Postgres, mongodb: Mongo, clickhouse: ClickHouse
    ],
    clickhouse: ClickHouse => [
        sqlite: Sqlite, postgres: Postgres, mongodb: Mongo, clickhouse: ClickHouse
    ],
    clickhouse_24_8: ClickHouseOld => [postgres: Postgres],
);
