//! Captured tables in PostgreSQL and SQLite. `LEDGER_TEST_POSTGRES` names the server, as
//! `scripts/servers.sh env` prints.

// The exceptions for tests do not reach the helpers of an integration test.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

#[path = "../clickhouse_tables/changes.rs"]
mod changes;
mod database;
mod rows;

macro_rules! on_both {
    ($($name:ident,)*) => {
        mod postgres {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                crate::rows::$name(crate::database::Database::postgres().await).await;
            })*
        }
        mod sqlite {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                crate::rows::$name(crate::database::Database::sqlite().await).await;
            })*
        }
    };
}

on_both! {
    rows_are_inserted_updated_moved_and_deleted,
    a_batch_is_one_transaction_with_its_cursor,
    a_value_that_is_not_told_stays_as_it_is,
    truncations_and_copies_that_begin_empty_a_table,
    columns_come_widen_and_go,
    rows_without_a_key_are_counted,
    every_type_keeps_its_values,
    a_table_that_is_another_ones_is_refused,
    of_two_instances_the_earlier_is_fenced,
}
