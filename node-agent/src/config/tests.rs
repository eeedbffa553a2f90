//! What the command line takes and refuses.

use clap::CommandFactory as _;

use super::*;
use crate::cgroup::fixture::Host;

fn config(more: &[&str]) -> Result<Config, String> {
    let directory = tempfile::tempdir().expect("a directory");
    let state = directory.path().join("state").display().to_string();
    let mut line = vec!["agent", "--node", "n1"];
    line.extend(["--state-dir", &state]);
    let has = |flag: &str| more.contains(&flag);
    if !has("--controller") {
        line.extend(["--controller", "http://127.0.0.1:7700"]);
    }
    if !has("--kubernetes") && !has("--failure-domain") {
        line.extend(["--failure-domain", "r1"]);
    }
    line.extend(more);
    let cli = Cli::try_parse_from(line).map_err(|error| error.to_string())?;
    let args = cli.run.ok_or("nothing to run with")?;
    Config::try_from(args).map_err(|error| format!("{:#}", anyhow::Error::from(error)))
}

const DONOR: [&str; 2] = ["--memory-server-socket", "/run/m.sock"];

#[test]
fn command_line_is_well_formed_and_shows_its_defaults() {
    Cli::command().debug_assert();
    let help = Cli::command().render_long_help().to_string();
    for default in ["[default: /sys/fs/cgroup]", "[default: 1000]"] {
        assert!(help.contains(default), "{help}");
    }
}

#[test]
fn donor_needs_no_cgroups() {
    let config = config(&DONOR).expect("enough");
    assert!(config.layout.is_none() && config.swapd.is_none());
    assert_eq!(config.failure_domain.as_str(), "r1");
    assert!(!config.keep_system_off);
    assert_eq!(config.look_every, Duration::from_secs(1));
}

#[test]
fn bad_input_is_refused_with_one_sentence_that_names_it() {
    let long = format!("/{}", "x".repeat(108));
    let cases: [(&[&str], &str); 12] = [
        (&[], "no role"),
        (&["--controller", "127.0.0.1:7700"], "'127.0.0.1:7700'"),
        (&["--controller", "ftp://c:7700"], "'ftp://c:7700'"),
        (&["--controller", "https://c:7700"], "--enroll-token"),
        (&["--tls-ca", "ca.crt"], "--controller https://"),
        (&["--controller", "http://c"], "'http://c'"),
        (&["--controller", "http://c:1/path"], "http://HOST:PORT"),
        (&["--look-every-ms", "0"], "--look-every-ms 0"),
        (&["--look-every-ms", "60001"], "50 to 60000"),
        (&["--swapd-socket", &long], "--swapd-socket"),
        (&["--containers-dir", "/nonexistent"], "--containers-dir"),
        (
            &["--containers-dir", "/", "--cgroup-root", "/nonexistent"],
            "--cgroup-root /nonexistent",
        ),
    ];
    for (more, cause) in cases {
        let mut line = more.to_vec();
        if !more.is_empty() {
            line.extend(DONOR);
        }
        let sentence = config(&line).expect_err("bad input");
        assert!(sentence.contains(cause), "{more:?}: {sentence}");
        assert_eq!(sentence.lines().count(), 1, "{sentence}");
    }
}

#[test]
fn cgroup_root_without_a_memory_controller_says_what_to_mount() {
    let directory = tempfile::tempdir().expect("a directory");
    let root = directory.path().display().to_string();
    let mut line = DONOR.to_vec();
    line.extend(["--containers-dir", &root, "--cgroup-root", &root]);
    let sentence = config(&line).expect_err("nothing there");
    assert!(sentence.contains("mount cgroup2"), "{sentence}");
}

#[test]
fn cgroup_root_without_containers_is_refused() {
    let mut line = DONOR.to_vec();
    line.extend(["--cgroup-root", "/sys/fs/cgroup"]);
    let sentence = config(&line).expect_err("it would be ignored");
    assert!(sentence.contains("--containers-dir"), "{sentence}");
}

#[test]
fn controller_has_a_name_in_a_cluster() {
    let address = "http://dynamicswap-controller.dynamicswap-system.svc:7700";
    let mut line = DONOR.to_vec();
    line.extend(["--controller", address]);
    assert_eq!(config(&line).expect("plain").controller_name, address);
}

#[test]
fn agent_shows_a_token_or_a_certificate_and_never_both() {
    let with = |more: &[&str]| {
        let mut line = DONOR.to_vec();
        line.extend(["--controller", "https://c:7700", "--tls-ca", "ca.crt"]);
        line.extend(more);
        config(&line).map(|config| config.credentials)
    };
    let authorities = std::path::PathBuf::from("ca.crt");
    let enrolled = Credentials::Enrolled {
        authorities: authorities.clone(),
        token: "token".into(),
    };
    assert_eq!(with(&["--enroll-token", "token"]), Ok(enrolled));
    let given = Credentials::Given {
        authorities,
        certificate: "tls.crt".into(),
        key: "tls.key".into(),
    };
    let certificate = ["--tls-cert", "tls.crt", "--tls-key", "tls.key"];
    assert_eq!(with(&certificate), Ok(given));
    assert!(with(&["--tls-cert", "tls.crt"]).is_err(), "no key");
    let both = [&certificate[..], &["--enroll-token", "token"]].concat();
    assert!(with(&both).is_err());
}

#[test]
fn labels_choose_among_the_sockets() {
    let host = Host::unified();
    let root = host.root().display().to_string();
    let both = [
        "--kubernetes",
        "--cgroup-root",
        &root,
        "--swapd-socket",
        "/run/s.sock",
    ];
    let mut line = both.to_vec();
    line.extend(DONOR);
    let mut config = config(&line).expect("plain");
    assert!(config.keep_system_off && config.kubernetes.is_some());
    assert_eq!(config.failure_domain.as_str(), "n1");
    let station = |borrower, donor| Station {
        borrower,
        donor,
        failure_domain: "rack-1".parse().expect("a name"),
        zone: "zone-1".parse().ok(),
    };
    config
        .settle(&station(true, false))
        .expect("it has a socket");
    assert!(config.swapd.is_some() && config.memory_server.is_none());
    assert_eq!(config.failure_domain.as_str(), "rack-1");
    assert_eq!(config.zone, "zone-1".parse().ok());
    let refusal = config.settle(&station(true, true)).expect_err("dropped");
    let sentence = refusal.to_string();
    assert!(sentence.contains("--memory-server-socket"), "{sentence}");
}

#[test]
fn flags_that_would_be_ignored_are_refused() {
    for (more, cause) in [
        (["--kubernetes", "--failure-domain=r1"], "--failure-domain"),
        (["--kubernetes", "--containers-dir=/"], "--containers-dir"),
        (
            ["--look-every-ms=1000", "--allow-unknown-kubelet"],
            "--failure-domain",
        ),
    ] {
        let mut line = DONOR.to_vec();
        line.extend(more);
        let sentence = config(&line).expect_err("it would be ignored");
        assert!(sentence.contains(cause), "{more:?}: {sentence}");
    }
}

#[test]
fn restore_needs_nothing_that_running_needs() {
    let line = ["agent", "restore", "--state-dir", "/run/d/agent"];
    let cli = Cli::try_parse_from(line).expect("plain");
    let Some(Task::Restore(args)) = cli.command else {
        panic!("a task");
    };
    assert_eq!(args.cgroup_root, Path::new("/sys/fs/cgroup"));
    assert!(cli.run.is_none());
    assert!(
        Cli::try_parse_from(["agent"]).is_err(),
        "running needs much"
    );
}
