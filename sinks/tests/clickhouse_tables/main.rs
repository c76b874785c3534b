//! Captured tables in ClickHouse on real engines: the newest one, and the oldest that is supported.
//!
//! `LEDGER_TEST_CLICKHOUSE` and `LEDGER_TEST_CLICKHOUSE_OLD` name them, as
//! `scripts/servers.sh env` prints.

// The exceptions for tests do not reach the helpers of an integration test.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

mod changes;
mod database;
mod model;
mod rows;
mod shapes;
mod types;

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
    model::any_history_comes_to_what_the_source_holds,
    model::any_history_that_tells_whole_rows_does_too,
    rows::rows_are_inserted_updated_moved_and_deleted,
    rows::replays_with_other_borders_converge,
    rows::a_truncation_hides_what_came_before_also_on_replay,
    rows::a_later_copy_hides_what_it_does_not_find,
    rows::a_value_that_is_not_told_is_never_made_up,
    rows::a_row_that_moved_before_the_copy_saw_it_is_taken_from_there,
    rows::what_a_row_lacks_is_waited_for_while_it_is_copied,
    rows::long_values_go_along_in_every_form,
    rows::a_written_batch_that_failed_is_written_again,
    rows::of_two_instances_the_earlier_is_fenced,
    rows::rows_without_a_key_are_told_apart,
    rows::of_equal_rows_without_a_key_one_is_removed,
    rows::removed_rows_stay_to_be_seen_where_asked,
    rows::rows_move_where_the_order_has_more_than_the_key,
    rows::a_value_that_does_not_fit_is_named,
    shapes::columns_come_widen_and_go_in_the_middle_of_a_batch,
    shapes::a_replay_across_changes_of_shape_converges,
    shapes::a_change_of_shape_that_broke_off_is_finished,
    shapes::a_copied_row_may_show_a_column_before_the_log_does,
    shapes::what_cannot_be_followed_stops_with_what_to_do,
    shapes::a_rename_is_followed_where_it_is_declared,
    shapes::a_table_of_another_shape_is_refused_and_left_alone,
    shapes::tables_have_targets_of_their_own,
    types::every_type_comes_back_value_by_value,
    types::any_value_comes_back,
    types::columns_go_as_text_hashed_or_masked_where_asked,
}
