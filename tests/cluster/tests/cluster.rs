//! Cluster tests: Kubernetes' own API server, and what talks to it.
//!
//! One test at a time. Those that want an API server share one ([`shared::ApiServer`]), each in a
//! namespace or with names of its own; it starts with the first of them. Where the host cannot
//! run them they say SKIPPED and why, and fail if `DYNAMICSWAP_REQUIRE` names this layer.

#[path = "cluster/command.rs"]
mod command;
#[path = "cluster/control_plane.rs"]
mod control_plane;
#[path = "cluster/shared.rs"]
mod shared;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use dynamicswap_cluster::control_plane::ControlPlane;
use dynamicswap_cluster::host;
use dynamicswap_workload::layer;
use libtest_mimic::{Arguments, Failed, Trial};
use shared::ApiServer;

/// A test that takes longer hangs. The control planes end with this process.
const TEST_TIME_MAX: Duration = Duration::from_secs(300);

/// What a test wants.
#[derive(Clone, Copy)]
enum Test {
    /// Nothing: it starts what it needs.
    Alone(fn() -> anyhow::Result<()>),
    /// The API server that all such tests share.
    WithApiServer(fn(&ControlPlane) -> anyhow::Result<()>),
}

const TESTS: [(&str, Test); 4] = [
    (
        "object_that_is_made_is_read_back",
        Test::WithApiServer(control_plane::object_is_read_back),
    ),
    (
        "control_plane_that_is_dropped_leaves_nothing",
        Test::Alone(control_plane::dropped_leaves_nothing),
    ),
    (
        "control_plane_of_a_killed_process_is_gone",
        Test::Alone(control_plane::killed_owner),
    ),
    (
        "cluster_without_nodes_comes_up_and_goes_without_a_trace",
        Test::Alone(command::up_and_down),
    ),
];

fn trial(name: &'static str, test: Test, server: &Arc<ApiServer>) -> Trial {
    let server = Arc::clone(server);
    Trial::test(name, move || {
        // The start of an API server that is not built yet takes minutes and is not the test's.
        let run: Box<dyn FnOnce() -> anyhow::Result<()>> = match test {
            Test::Alone(run) => Box::new(run),
            Test::WithApiServer(run) => {
                let plane = server.get().map_err(Failed::from)?;
                Box::new(move || run(&plane))
            }
        };
        layer::run_within(name, TEST_TIME_MAX, run)
            .map_err(|error| Failed::from(format!("{error:#}")))
    })
}

fn main() -> ExitCode {
    if control_plane::is_owner_to_kill() {
        return control_plane::be_owner_to_kill();
    }
    let mut arguments = Arguments::from_args();
    arguments.test_threads = Some(1);
    if host::is_run_apart() {
        return ExitCode::SUCCESS;
    }
    if let Some(reason) = host::missing() {
        println!("SKIPPED cluster tests: {reason}");
        return if host::is_required() {
            ExitCode::FAILURE
        } else {
            ExitCode::SUCCESS
        };
    }
    let server = Arc::new(ApiServer::default());
    let trials = TESTS.map(|(name, test)| trial(name, test, &server));
    let conclusion = libtest_mimic::run(&arguments, trials.into());
    server.stop();
    conclusion.exit_code()
}
