//! The contract of drivers: one suite, each test on every backend of this platform.
//!
//! A test is a function of the backend, written down once in `tests/contract/` and once in the list
//! below; one that is missing here is dead code, and a warning says so.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "contract/cancel.rs"]
mod cancel;
#[path = "contract/close.rs"]
mod close;
#[path = "contract/ops.rs"]
mod ops;
#[path = "contract/queues.rs"]
mod queues;
#[path = "contract/stashed.rs"]
mod stashed;
#[path = "contract/support.rs"]
mod support;
#[path = "contract/waiters.rs"]
mod waiters;
#[path = "contract/waits.rs"]
mod waits;

macro_rules! on_every_backend {
    ($($list:tt)*) => {
        on_backend!(uring Uring $($list)*);
        on_backend!(epoll Epoll $($list)*);
        on_backend!(poll Poll $($list)*);
        on_backend!(select Select $($list)*);
    };
}

macro_rules! on_backend {
    ($module:ident $kind:ident $($file:ident { $($test:ident)* })*) => {
        mod $module {
            $($(
                #[test]
                fn $test() {
                    crate::$file::$test(fibra_driver::BackendKind::$kind);
                }
            )*)*
        }
    };
}

on_every_backend! {
    ops {
        every_op_gives_its_answer_once
        ops_end_in_whatever_order_their_causes_come
        several_buffers_are_sent_and_filled_in_order
        a_peek_leaves_the_bytes
        a_refused_connect_says_so
        readiness_is_told_and_takes_nothing
        a_half_closed_connection_goes_on_in_the_other_direction
        a_peer_that_vanishes_is_an_error_or_an_end
        a_large_transfer_arrives_byte_for_byte
    }
    cancel {
        a_cancel_before_the_kernel_saw_the_op
        a_cancel_while_the_op_waits
        a_cancel_after_the_op_has_ended
        success_wins_over_cancel_and_no_byte_is_lost
        a_cancel_ends_one_op_and_no_other
        a_connect_that_nobody_answers_can_be_given_up
    }
    queues {
        a_full_submission_queue_takes_a_thousand_ops
        an_overflowing_completion_queue_loses_nothing
        ten_thousand_receives_end_once_each
        beyond_the_limit_ops_are_refused
        late_doubled_zero_and_unknown_answers_are_counted_and_dropped
    }
    waiters {
        eight_readers_share_one_byte_messages
        eight_owned_readers_are_served_in_order
        eight_writers_send_whole_messages_through_the_gate
        data_and_the_end_in_one_event
        a_reader_and_a_writer_do_not_wait_for_each_other
        two_drivers_and_a_thread_share_a_socket
    }
    waits {
        a_wait_never_ends_early_for_its_deadline_alone
        a_wait_that_only_looks_does_not_sleep
        a_notification_before_the_wait_ends_it
        notifications_during_the_wait_end_it
        a_notifier_outlives_its_driver
        what_was_written_before_a_notification_is_seen_after_it
    }
    stashed {
        an_abandoned_receive_that_had_won_keeps_its_bytes
        an_abandoned_receive_that_had_won_unnoticed_keeps_its_bytes
        abandoned_receives_lose_no_byte_whenever_they_are_abandoned
        abandoned_vectored_bytes_come_first_too
        an_end_and_an_error_that_were_won_are_told_to_the_next
        an_abandoned_accept_that_had_won_hands_its_connection_on
        an_abandoned_accept_that_had_won_is_closed_with_the_listener
        an_abandoned_send_is_whole_or_not_there
        a_send_that_was_cut_fails_the_write_side
        a_thread_waits_for_an_abandoned_receive_and_takes_its_bytes
        an_op_abandoned_at_its_gate_holds_nobody_up
    }
    close {
        dropping_the_last_handle_cancels_and_then_closes
        a_number_is_not_reused_between_queueing_and_submission
        ops_of_both_faces_do_not_swallow_each_other
        a_driver_dropped_with_raw_ops_in_flight_lets_go_of_them
        a_driver_dropped_with_owned_ops_in_flight_loses_nothing
        an_owned_op_beyond_the_limit_gives_its_buffer_back
    }
}
