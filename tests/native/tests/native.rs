//! Native tests: a real swap device on this machine, real processes, kill -9.
//!
//! One test at a time: each makes a cluster of its own and takes the whole of the machine's swap.
//! Where the host cannot run them they say SKIPPED and why, and fail if `DYNAMICSWAP_REQUIRE`
//! names this layer. `DYNAMICSWAP_SEED` replays the random moments of the kill matrix.

#[path = "native/damage.rs"]
mod damage;
#[path = "native/demo.rs"]
mod demo;
#[path = "native/down.rs"]
mod down;
#[path = "native/input.rs"]
mod input;
#[path = "native/kills.rs"]
mod kills;
#[path = "native/moves.rs"]
mod moves;

use std::process::ExitCode;
use std::time::Duration;

use dynamicswap_native_tests::host;
use dynamicswap_workload::layer;
use libtest_mimic::{Arguments, Failed, Trial};

/// A test: its name and what it does.
type Test = (&'static str, fn() -> anyhow::Result<()>);

/// A test that takes longer hangs. The watchdog of its cluster swaps the device off once this
/// process is gone. The slowest takes about a minute on two processors.
const TEST_TIME_MAX: Duration = Duration::from_secs(300);

const TESTS: [Test; 18] = [
    (
        "pages_go_to_donors_and_come_back_right",
        kills::pages_go_to_donors_and_come_back_right,
    ),
    (
        "kill_matrix_loses_no_page_and_no_process",
        kills::kill_matrix,
    ),
    (
        "hung_engine_is_replaced_within_three_seconds",
        kills::hung_engine,
    ),
    ("data_path_needs_no_control_plane", kills::no_control_plane),
    (
        "controller_killed_at_any_moment_forgets_nothing",
        kills::controller_forgets_nothing,
    ),
    (
        "drained_donor_is_emptied_under_load",
        moves::drained_donor_is_emptied,
    ),
    ("flipped_bit_is_found_and_repaired", damage::flipped_bit),
    (
        "both_copies_gone_kills_their_owner_and_nobody_else",
        damage::both_copies_gone,
    ),
    (
        "full_pool_fails_writes_early_and_the_workload_lives",
        damage::full_pool,
    ),
    ("disk_stands_in_for_the_only_donor", damage::disk_stands_in),
    (
        "device_of_a_dead_holder_is_taken_down_with_its_pages_home",
        down::dead_holder,
    ),
    (
        "device_whose_pages_cannot_come_home_is_kept",
        down::pages_that_cannot_come_home,
    ),
    (
        "device_that_nobody_serves_is_swapped_off",
        down::nobody_serves,
    ),
    (
        "policy_that_is_deleted_under_load_kills_nobody",
        down::policy_deleted,
    ),
    (
        "demo_with_redis_keeps_its_data_set",
        demo::redis_keeps_its_data_set,
    ),
    (
        "demo_that_is_interrupted_leaves_nothing",
        demo::interrupted_demo_leaves_nothing,
    ),
    ("bad_input_is_refused_and_leaves_nothing", input::bad_input),
    (
        "spoilt_host_is_refused_with_one_sentence_and_left_as_it_was",
        input::spoilt_host,
    ),
];

fn trial((name, run): Test) -> Trial {
    Trial::test(name, move || {
        layer::run_within(name, TEST_TIME_MAX, run)
            .inspect_err(|error| eprintln!("{name} failed: {error:#}"))
            .map_err(|error| Failed::from(format!("{error:#}")))
    })
}

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    arguments.test_threads = Some(1);
    if host::is_run_apart() {
        return ExitCode::SUCCESS;
    }
    if let Some(reason) = host::missing() {
        println!("SKIPPED native tests: {reason}");
        return if host::is_required() {
            ExitCode::FAILURE
        } else {
            ExitCode::SUCCESS
        };
    }
    libtest_mimic::run(&arguments, TESTS.map(trial).into()).exit_code()
}
