//! The list of all cases, in one place for the tests and for their names.

/// Hands the list of all cases to a maker of tests or names.
#[doc(hidden)]
#[macro_export]
macro_rules! __conformance_list {
    ($($mode:tt)*) => {
        $crate::__conformance_make! {
            $($mode)*;
            append {
                ids_ascend_in_the_order_of_the_call,
                ids_are_unique_in_the_store,
                every_field_reads_back,
                defaults_are_empty,
                tags_are_a_sorted_set,
                an_empty_append_creates_nothing,
                an_unknown_stream_is_empty,
                ten_thousand_entries_are_one_append,
                concurrent_appends_keep_their_order,
                stat_tells_the_state,
                the_store_tells_its_name,
            }
            changes {
                the_log_is_there_or_declared_absent,
                from_the_start_everything_comes,
                an_append_is_told_entry_by_entry,
                labels_are_told_as_full_state,
                a_trim_tells_what_it_really_removed,
                what_changes_nothing_is_not_told,
                trimmed_entries_are_still_told,
                a_waiting_reader_is_pushed_to,
                an_empty_log_pushes_its_first_change,
                readers_are_independent,
                a_long_backlog_is_told_whole,
                large_payloads_pass_the_log,
                a_head_divides_before_from_after,
                the_lag_counts_what_is_behind,
                the_identity_stays,
                the_size_can_be_asked_for,
                cursors_survive_storing,
            }
            close {
                a_closed_store_says_so,
                a_closed_log_says_so,
                waiting_readers_end,
                another_handle_stays_open,
                a_reopened_store_holds_what_it_held,
            }
            consumers {
                registering_again_changes_nothing,
                confirming_never_moves_back,
                a_reset_moves_both_ways,
                unregistering_forgets,
                a_lease_has_one_holder,
                a_lease_expires,
                of_many_holders_one_wins,
                a_pause_is_told_at_the_renewal,
                consumers_outlive_the_handle,
            }
            contents {
                contents_agree_with_reads_and_log,
                ranges_hold_their_borders,
                entries_are_found_by_their_keys,
                streams_are_found_by_range_and_key,
            }
            cursors {
                any_cursor_resumes_exactly,
                cursors_outlive_the_handle,
                a_cursor_past_the_end_has_diverged,
                a_cursor_of_another_store_has_diverged,
                garbage_is_refused,
                a_pruned_position_has_expired,
                an_emptied_log_goes_on,
                what_a_consumer_needs_is_kept,
            }
            dead_letters {
                letters_are_listed_in_log_order,
                parking_again_adds_nothing,
                pipelines_do_not_share_letters,
                parked_keys_are_told,
                letters_are_removed_by_cursor,
                unregistering_forgets_the_letters,
            }
            dedup {
                within_a_batch_the_first_wins,
                across_batches_the_first_wins,
                streams_are_independent,
                the_empty_key_never_dedups,
                keys_are_compared_exactly,
                the_longest_keys_work,
                concurrent_writers_keep_each_key_once,
                a_trim_frees_its_keys,
            }
            handles {
                handles_see_each_others_writes,
                changes_are_pushed_across_handles,
                writers_on_two_handles_keep_one_order,
                stores_do_not_mix,
            }
            input {
                a_nul_in_an_order_key_is_refused,
                a_nul_in_a_dedup_key_is_refused,
                a_nul_in_a_tag_is_refused,
                a_nul_in_a_metadata_key_is_refused,
                a_nul_in_a_metadata_value_is_refused,
                a_dedup_key_that_is_too_long_is_refused,
                an_order_key_that_is_too_long_is_refused,
                a_schema_version_that_is_too_great_is_refused,
                a_nul_in_a_label_is_refused,
                odd_stream_names_work,
                odd_values_are_kept_and_found,
                a_nul_in_a_condition_finds_nothing,
                extreme_numbers_work,
            }
            labels {
                set_tags_replaces_all,
                set_annotations_merges_and_delete_wins,
                what_is_not_there_is_not_found,
                each_change_counts_and_is_timed,
                labels_change_what_is_found,
                odd_labels_are_kept,
                concurrent_annotations_lose_nothing,
            }
            payload {
                binary_payloads_are_kept,
                an_empty_payload_is_kept,
                text_payloads_are_kept,
                json_payloads_are_kept_to_the_byte,
                deeply_nested_json_is_kept,
                megabyte_payloads_are_kept,
                a_page_of_large_payloads_is_cut_short,
            }
            races {
                appends_and_labels_are_told_exactly,
                trims_are_told_exactly,
                renames_are_told_exactly,
                late_commits_and_rollbacks_are_told_exactly,
            }
            read {
                each_condition_holds,
                conditions_hold_together,
                a_time_range_holds,
                pages_join_without_a_seam,
                a_reader_pages_by_itself,
                streams_do_not_mix,
                a_reader_beside_writers_skips_nothing,
            }
            rename {
                entries_keep_their_ids,
                an_unknown_stream_is_not_found,
                a_taken_name_is_refused,
                the_same_name_is_fine,
                the_old_name_is_free_for_a_new_stream,
                labels_and_trims_work_after_a_rename,
                names_can_be_swapped,
                of_many_renames_to_one_name_one_wins,
            }
            search {
                a_substring_is_found,
                the_case_of_letters_does_not_matter,
                no_character_is_special,
                all_streams_are_searched,
                conditions_hold_in_a_search,
                pages_of_a_search_join,
                binary_payloads_do_not_disturb,
                full_text_finds_words_or_is_not_supported,
            }
            snapshot {
                a_snapshot_is_the_content,
                a_snapshot_resumes_behind_any_key,
                a_long_snapshot_is_whole,
                a_resumed_snapshot_converges,
                snapshot_and_follow_converge_beside_writers,
            }
            streams {
                names_ascend_by_their_bytes,
                after_and_limit_hold,
                an_emptied_stream_is_not_listed,
            }
            transactions {
                a_rollback_leaves_nothing,
                a_commit_is_an_append,
                a_refused_append_fails_its_transaction,
                a_late_commit_is_not_skipped,
                a_late_rollback_frees_the_readers,
                one_streams_appends_do_not_overtake,
                a_head_has_no_gap_below_it,
                an_expected_version_sees_the_open_transaction,
            }
            trim {
                a_trim_removes_through_its_id,
                a_trim_twice_removes_nothing_more,
                a_trim_beyond_the_end_spares_the_future,
                a_trim_touches_its_stream_only,
                ids_are_never_given_again,
                a_trim_keeps_the_version,
                trims_race_appends_without_harm,
            }
            version {
                each_expectation_is_checked,
                nothing_expected_creates_the_stream,
                the_version_counts_entries,
                duplicates_are_decided_first,
                a_partial_duplicate_with_a_stale_version_conflicts,
                trims_and_renames_keep_the_version,
                of_many_writers_exactly_one_wins,
                a_contended_counter_loses_nothing,
            }
        }
    };
}
