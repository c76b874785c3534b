//! The ClickHouse sink on real engines: the newest one, and the oldest that is supported.
//!
//! `LEDGER_TEST_CLICKHOUSE` and `LEDGER_TEST_CLICKHOUSE_OLD` name them, as
//! `scripts/servers.sh env` prints.

// The exceptions for tests do not reach the helpers of an integration test.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

mod content;
mod converge;
mod database;
mod model;
mod pipeline;
mod tables;

macro_rules! on_both_engines {
    ($($module:ident::$name:ident,)*) => {
        mod newest {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                let database = crate::database::Database::create("LEDGER_TEST_CLICKHOUSE").await;
                crate::$module::$name(database).await;
            })*
        }
        mod oldest {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                let database = crate::database::Database::create("LEDGER_TEST_CLICKHOUSE_OLD").await;
                crate::$module::$name(database).await;
            })*
        }
    };
}

on_both_engines! {
    converge::replays_with_other_borders_converge,
    content::labels_before_and_after_their_entry_come_to_the_same,
    content::a_replayed_append_below_the_boundary_stays_invisible,
    content::a_name_goes_from_stream_to_stream,
    pipeline::of_two_instances_the_earlier_is_fenced,
    pipeline::claims_at_the_same_moment_get_different_fences,
    pipeline::a_cursor_is_committed_claimed_and_reset,
    pipeline::a_store_belongs_to_one_source_until_a_resync,
    pipeline::what_is_emptied_is_not_promoted_and_the_other_way_round,
    tables::a_table_of_another_shape_is_refused_and_left_alone,
    content::a_repair_mends_what_hands_have_changed,
    content::an_insert_sent_twice_is_one_block_written_once,
    content::large_payloads_cut_a_chunk_short,
    tables::a_wrong_password_or_database_is_named_and_no_secret_told,
    tables::a_hanging_server_fails_the_call_in_time,
    pipeline::a_dropped_table_is_no_loss_of_a_batch,
}
