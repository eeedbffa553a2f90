//! What a person writes, right and wrong, and what they are told.

#![allow(clippy::expect_used, reason = "helpers of tests panic as tests do")]

use dynamicswap_crds::{Percent, RemoteMemoryPolicy, parse_policies};
use dynamicswap_types::{Bytes, Copies, Spill};

const HEAD: &str =
    "apiVersion: dynamicswap.io/v1alpha1\nkind: RemoteMemoryPolicy\nmetadata:\n  name: web\n";

/// Parses a policy whose spec is `spec`, indented by two.
fn policy(spec: &str) -> Result<RemoteMemoryPolicy, String> {
    parse_policies(&format!("{HEAD}spec:\n{spec}"))
        .map_err(|error| error.to_string())
        .map(|mut policies| policies.remove(0))
}

fn refusal(yaml: &str) -> String {
    parse_policies(yaml)
        .expect_err("must be refused")
        .to_string()
}

fn spec_refusal(spec: &str) -> String {
    policy(spec).expect_err("must be refused")
}

#[test]
fn examples_are_accepted_as_they_stand() {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/examples");
    let mut count = 0;
    for entry in std::fs::read_dir(root).expect("examples") {
        let path = entry.expect("entry").path();
        let text = std::fs::read_to_string(&path).expect("text");
        if !text.contains(&format!("kind: {}", RemoteMemoryPolicy::KIND)) {
            continue;
        }
        let policies = parse_policies(&text).unwrap_or_else(|error| panic!("{path:?}: {error}"));
        count += policies.len();
    }
    assert!(count >= 3);
}

#[test]
fn full_example_shows_the_defaults() {
    let text = include_str!("../examples/full.yaml");
    let full = parse_policies(text).expect("valid").remove(0);
    let bare = policy("  {}\n").expect("valid");
    assert_eq!(full.spec.durability, bare.spec.durability);
    assert_eq!(full.spec.pressure, bare.spec.pressure);
    assert_eq!(full.spec.stall, bare.spec.stall);
    assert_eq!(full.spec.rebuild, bare.spec.rebuild);
    assert_eq!(full.spec.limits.per_container, Some(Bytes::from_mib(4096)));
}

#[test]
fn fields_mean_what_they_say() {
    let got = policy(
        "  durability: {copies: 3, spill: Async}\n  pressure: {someAvg10Percent: \"0.5\", fullAvg10Percent: 0}\n  stall: {writeHold: 500ms}\n",
    )
    .expect("valid");
    assert_eq!(got.key().expect("named").to_string(), "default/web");
    assert_eq!(got.spec.durability.copies.get(), 3);
    assert_eq!(got.spec.durability.spill, Spill::Async);
    assert_eq!(
        got.spec.pressure.some_avg10_percent,
        "0.5".parse::<Percent>().expect("valid")
    );
    assert_eq!(got.spec.stall.write_hold.as_millis(), 500);
    assert_eq!(got.spec.stall.read_stall.as_millis(), 30_000);
    assert!(got.in_force());
}

#[test]
fn stored_json_reads_back_the_same() {
    for policy in parse_policies(include_str!("../examples/full.yaml")).expect("valid") {
        let json = serde_json::to_string(&policy).expect("json");
        let back: RemoteMemoryPolicy = serde_json::from_str(&json).expect("same");
        assert_eq!(back, policy);
    }
}

#[test]
fn unknown_field_is_named_with_its_place() {
    let message = spec_refusal("  durability:\n    copys: 2\n");
    assert!(message.starts_with("line 7, column 5: "), "{message}");
    assert!(
        message.contains("copys") && message.contains("copies"),
        "{message}"
    );
}

#[test]
fn impossible_values_are_answered_with_possible_ones() {
    for (spec, place, answer) in [
        ("  durability: {copies: 4}\n", "line 6", "write 1, 2 or 3"),
        ("  durability: {copies: -1}\n", "line 6", "write 1, 2 or 3"),
        (
            "  durability: {spill: async}\n",
            "line 6",
            "choose None, Async or Only",
        ),
        ("  stall: {writeHold: 2}\n", "line 6", "write 2s or 2ms"),
        (
            "  rebuild: {bandwidthMax: 4Ki}\n",
            "line 6",
            "write 1Mi to 100Gi",
        ),
        (
            "  rebuild: {bandwidthMax: fast}\n",
            "line 6",
            "such as 512Mi",
        ),
        (
            "  stall: {writeHold: 10ms}\n",
            "line 6",
            "write 100ms to 1m",
        ),
        ("  stall: {readStall: 2h}\n", "line 6", "write 1s to 1h"),
        ("  stall: {readStall: soon}\n", "line 6", "such as 2s"),
        (
            "  limits: {perContainer: 1.5Gi}\n",
            "line 6",
            "such as 512Mi",
        ),
        ("  limits: {perContainer: 1.5}\n", "line 6", "such as 512Mi"),
        ("  pressure: {someAvg10Percent: 0.5}\n", "line 6", "\"0.5\""),
        (
            "  pressure: {someAvg10Percent: 101}\n",
            "line 6",
            "write 0 to 100",
        ),
        (
            "  pressure: {someAvg10Percent: 10%}\n",
            "line 6",
            "such as 10",
        ),
    ] {
        let message = spec_refusal(spec);
        assert!(message.starts_with(place), "{spec}: {message}");
        assert!(message.contains(answer), "{spec}: {message}");
        assert!(!message.contains('\n'), "one sentence: {message}");
        assert!(
            !message.contains(" at line "),
            "the place stands once: {message}"
        );
    }
}

#[test]
fn rules_between_fields_are_checked() {
    for (spec, answer) in [
        (
            "  limits: {perContainer: 2Gi, perNamespace: 1Gi}\n",
            "write at most 1Gi",
        ),
        ("  limits: {perNamespace: 0}\n", "leave it out"),
        (
            "  pressure: {someAvg10Percent: 5, fullAvg10Percent: 6}\n",
            "write at most 5",
        ),
    ] {
        let message = spec_refusal(spec);
        assert!(
            message.starts_with("line 2: RemoteMemoryPolicy default/web: "),
            "{message}"
        );
        assert!(message.contains(answer), "{message}");
    }
}

#[test]
fn other_objects_are_refused_by_kind_and_version() {
    let wrong_kind = HEAD.replace("RemoteMemoryPolicy", "MemoryServer");
    assert!(
        refusal(&wrong_kind)
            .contains("line 2: kind 'MemoryServer' is written by the controller alone")
    );
    let wrong_kind = HEAD.replace("RemoteMemoryPolicy", "Pod");
    assert!(refusal(&wrong_kind).contains("does not exist in this group"));
    let wrong_version = HEAD.replace("v1alpha1", "v1");
    assert!(
        refusal(&wrong_version).contains("line 1: apiVersion 'dynamicswap.io/v1' is not known")
    );
}

#[test]
fn text_without_an_object_is_refused() {
    for yaml in ["", "---\n", "# only a comment\n"] {
        assert!(refusal(yaml).contains("no object"), "{yaml:?}");
    }
    assert!(refusal("just words").starts_with("line 1"));
    assert!(refusal("a: [1, 2").starts_with("line 1"));
}

#[test]
fn second_document_is_checked_as_the_first() {
    let good = format!("{HEAD}spec: {{}}\n");
    let twice = format!("{good}---\n{good}");
    assert!(refusal(&twice).contains("line 8: RemoteMemoryPolicy default/web stands twice"));
    let second = good.replace("web", "db").replace("{}", "{nope: 1}");
    let message = refusal(&format!("{good}---\n{second}"));
    assert!(message.starts_with("line 11,"), "{message}");
}

#[test]
fn duplicate_key_is_refused() {
    let message = spec_refusal("  paused: true\n  paused: false\n");
    assert_eq!(
        message,
        "line 7, column 3: 'paused' stands twice: remove one"
    );
}

#[test]
fn missing_name_and_missing_spec_are_named() {
    let message = refusal(
        "apiVersion: dynamicswap.io/v1alpha1\nkind: RemoteMemoryPolicy\nmetadata: {}\nspec: {}\n",
    );
    assert!(message.contains("name"), "{message}");
    assert!(refusal(HEAD).contains("spec"));
    assert_eq!(
        Copies::TWO,
        policy("  {}\n").expect("valid").spec.durability.copies
    );
}

#[test]
fn only_fields_that_are_said_and_do_nothing_are_named() {
    let without_effect = |spec: &str| policy(spec).expect("valid").without_effect();
    assert!(without_effect("  {durability: {copies: 1}, podSelector: {}}\n").is_empty());
    let told = without_effect(
        "  {limits: {perContainer: 1Gi, perNamespace: 2Gi}, podSelector: {matchLabels: {a: b}}}\n",
    );
    assert_eq!(told.len(), 3);
    assert!(told[0].starts_with("limits.perContainer is stored"));
}
