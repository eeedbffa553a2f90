//! One table of policies, two judges: the strict parser, which an embedded cluster asks, and the
//! definition's schema and rules, which an API server asks. They agree on every row, and both say
//! what to write instead.

#![allow(
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests panic as tests do"
)]

mod support;

use dynamicswap_crds::{Kind, parse_policies};
use proptest::prelude::*;
use serde_json::{Value, json};

/// What the parser says of a spec in YAML; `None` if it takes it.
fn parser(spec: &str) -> Option<String> {
    let yaml = format!(
        "apiVersion: dynamicswap.io/v1alpha1\nkind: RemoteMemoryPolicy\n\
         metadata: {{name: web}}\nspec: {spec}\n"
    );
    parse_policies(&yaml).err().map(|error| error.to_string())
}

/// What an API server says of the same spec; empty if it takes it.
fn server(spec: &str) -> Vec<String> {
    let spec: Value = serde_saphyr::from_str(spec).expect("YAML");
    let object = json!({
        "apiVersion": "dynamicswap.io/v1alpha1",
        "kind": "RemoteMemoryPolicy",
        "metadata": {"name": "web", "namespace": "default"},
        "spec": spec,
    });
    support::judge(Kind::RemoteMemoryPolicy, &object, None)
}

const GOOD: [&str; 42] = [
    "{}",
    "{podSelector: {}}",
    "{podSelector: {matchLabels: {app: web, tier: \"1\"}}}",
    "{durability: {}}",
    "{durability: {copies: 1}}",
    "{durability: {copies: 3, spill: Async}}",
    "{durability: {spill: Only}}",
    "{durability: {spill: None}}",
    "{integrity: full}",
    "{integrity: tag64}",
    "{integrity: none}",
    "{limits: {}}",
    "{limits: {perContainer: 1}}",
    "{limits: {perContainer: 1Gi, perNamespace: 1Gi}}",
    "{limits: {perContainer: 1073741824, perNamespace: 1Gi}}",
    "{limits: {perContainer: 999M, perNamespace: 1G}}",
    "{limits: {perContainer: 1k, perNamespace: 1024Ti}}",
    "{limits: {perNamespace: 1125899906842624}}",
    "{limits: {perContainer: 007Mi}}",
    "{limits: {perContainer: 100Ti, perNamespace: 200Ti}}",
    "{pressure: {}}",
    "{pressure: {someAvg10Percent: 100, fullAvg10Percent: 100}}",
    "{pressure: {someAvg10Percent: \"100.00\", fullAvg10Percent: 0}}",
    "{pressure: {someAvg10Percent: \"10.1\", fullAvg10Percent: \"10.10\"}}",
    "{pressure: {someAvg10Percent: \"0.05\", fullAvg10Percent: \"0.05\"}}",
    "{pressure: {someAvg10Percent: 5, fullAvg10Percent: \"5\"}}",
    "{pressure: {calmAfter: 0s}}",
    "{pressure: {calmAfter: 1193h}}",
    "{pressure: {calmAfter: 4294967295ms}}",
    "{stall: {writeHold: 100ms}}",
    "{stall: {writeHold: 60s, readStall: 1s}}",
    "{stall: {writeHold: 1m, readStall: 60m}}",
    "{stall: {readStall: 1h}}",
    "{offload: {}, return: {}}",
    "{offload: {proactive: false, targetSomePercent: 0, limitHeadroomPercent: \"0.5\"}}",
    "{offload: {canaryPercent: 1, breakFullPercent: 100}}",
    "{return: {enabled: false, startRoomPercent: \"10.01\", stopRoomPercent: 10}}",
    "{return: {quietFor: 1s, bandwidthMax: 100Gi}}",
    "{rebuild: {bandwidthMax: 1Mi}}",
    "{rebuild: {bandwidthMax: 100Gi}}",
    "{rebuild: {bandwidthMax: 107374182400}}",
    "{paused: true, dryRun: false}",
];

/// A spec, and the words of either judge that say what to write.
const BAD: [(&str, &str, &str); 60] = [
    (
        "{durability: {copies: 0}}",
        "write 1, 2 or 3",
        "greater than or equal to Some(1.0)",
    ),
    (
        "{durability: {copies: 4}}",
        "write 1, 2 or 3",
        "less than or equal to Some(3.0)",
    ),
    (
        "{durability: {copies: -1}}",
        "write 1, 2 or 3",
        "greater than",
    ),
    (
        "{durability: {copies: 1.5}}",
        "write 1, 2 or 3",
        "of type integer",
    ),
    (
        "{durability: {copies: two}}",
        "write 1, 2 or 3",
        "of type integer",
    ),
    (
        "{durability: {spill: async}}",
        "None, Async or Only",
        "\"Async\"",
    ),
    (
        "{durability: {spill: \"\"}}",
        "None, Async or Only",
        "\"Async\"",
    ),
    ("{durability: {copys: 2}}", "copies", "unknown field"),
    ("{integrity: Full}", "full, tag64 or none", "\"full\""),
    ("{integrity: \"\"}", "full, tag64 or none", "\"full\""),
    ("{integrity: 64}", "full, tag64 or none", "of type string"),
    (
        "{limits: {perContainer: 0}}",
        "leave it out for no limit",
        "leave it out for no limit",
    ),
    (
        "{limits: {perNamespace: 0}}",
        "paused: true",
        "paused: true",
    ),
    (
        "{limits: {perNamespace: 0Gi}}",
        "paused: true",
        "paused: true",
    ),
    (
        "{limits: {perNamespace: \"000\"}}",
        "paused: true",
        "paused: true",
    ),
    (
        "{limits: {perContainer: 2Gi, perNamespace: 1Gi}}",
        "write at most 1Gi",
        "at most what perNamespace has",
    ),
    (
        "{limits: {perContainer: 1073741825, perNamespace: 1Gi}}",
        "write at most",
        "at most what perNamespace has",
    ),
    (
        "{limits: {perContainer: 1Gi, perNamespace: 1G}}",
        "write at most 1000000000",
        "at most what perNamespace has",
    ),
    (
        "{limits: {perContainer: 1024Ti, perNamespace: 1023Ti}}",
        "write at most 1023Ti",
        "at most what perNamespace has",
    ),
    (
        "{limits: {perContainer: 1025Ti}}",
        "write at most 1024Ti",
        "write at most 1024Ti",
    ),
    (
        "{limits: {perContainer: 1125899906842625}}",
        "write at most 1024Ti",
        "write at most 1024Ti",
    ),
    (
        "{limits: {perContainer: 1.5Gi}}",
        "such as 512Mi",
        "such as 512Mi",
    ),
    (
        "{limits: {perContainer: -1}}",
        "such as 512Mi",
        "such as 512Mi",
    ),
    (
        "{limits: {perContainer: 1Pi}}",
        "such as 512Mi",
        "such as 512Mi",
    ),
    (
        "{limits: {perContainer: 1Ei}}",
        "such as 512Mi",
        "such as 512Mi",
    ),
    (
        "{limits: {perContainer: 500m}}",
        "such as 512Mi",
        "such as 512Mi",
    ),
    (
        "{limits: {perContainer: \"1e3\"}}",
        "such as 512Mi",
        "such as 512Mi",
    ),
    (
        "{limits: {perContainer: \" 1Gi\"}}",
        "such as 512Mi",
        "such as 512Mi",
    ),
    (
        "{limits: {perContainer: \"\"}}",
        "such as 512Mi",
        "such as 512Mi",
    ),
    (
        "{limits: {perContainer: much}}",
        "such as 512Mi",
        "such as 512Mi",
    ),
    (
        "{limits: {perContainer: true}}",
        "such as 512Mi",
        "of type integer or string",
    ),
    ("{limits: {perPod: 1Gi}}", "perContainer", "unknown field"),
    (
        "{pressure: {someAvg10Percent: 101}}",
        "write 0 to 100",
        "write 0 to 100",
    ),
    (
        "{pressure: {someAvg10Percent: \"100.01\"}}",
        "write 0 to 100",
        "write 0 to 100",
    ),
    (
        "{pressure: {fullAvg10Percent: -1}}",
        "write 0 to 100",
        "write 0 to 100",
    ),
    (
        "{pressure: {someAvg10Percent: 10%}}",
        "such as 10",
        "such as 10",
    ),
    (
        "{pressure: {someAvg10Percent: \"0.005\"}}",
        "two decimals",
        "two decimals",
    ),
    (
        "{pressure: {someAvg10Percent: 0.5}}",
        "quote it",
        "of type integer or string",
    ),
    (
        "{pressure: {someAvg10Percent: 5, fullAvg10Percent: 6}}",
        "write at most 5",
        "at most what someAvg10Percent has",
    ),
    (
        "{pressure: {someAvg10Percent: 4}}",
        "write at most 4",
        "at most what someAvg10Percent has",
    ),
    (
        "{pressure: {someAvg10Percent: \"9.1\", fullAvg10Percent: \"9.11\"}}",
        "write at most 9.1",
        "at most what someAvg10Percent has",
    ),
    ("{pressure: {calmAfter: 10}}", "write 10s", "of type string"),
    ("{pressure: {calmAfter: soon}}", "such as 2s", "such as 10s"),
    ("{pressure: {calmAfter: 1194h}}", "1193h", "1193h"),
    ("{pressure: {calmAfter: 4294967296ms}}", "1193h", "1193h"),
    (
        "{pressure: {calmAfter: 1m30s}}",
        "such as 2s",
        "such as 10s",
    ),
    (
        "{stall: {writeHold: 99ms}}",
        "write 100ms to 1m",
        "write 100ms to 1m",
    ),
    (
        "{stall: {writeHold: 61s}}",
        "write 100ms to 1m",
        "write 100ms to 1m",
    ),
    (
        "{stall: {readStall: 999ms}}",
        "write 1s to 1h",
        "write 1s to 1h",
    ),
    (
        "{stall: {readStall: 2h}}",
        "write 1s to 1h",
        "write 1s to 1h",
    ),
    (
        "{rebuild: {bandwidthMax: 1048575}}",
        "write 1Mi to 100Gi",
        "write 1Mi to 100Gi",
    ),
    (
        "{rebuild: {bandwidthMax: 101Gi}}",
        "write 1Mi to 100Gi",
        "write 1Mi to 100Gi",
    ),
    (
        "{rebuild: {bandwidthMax: fast}}",
        "such as 512Mi",
        "such as 512Mi",
    ),
    (
        "{offload: {targetSomePercent: 101}}",
        "write 0 to 100",
        "write 0 to 100",
    ),
    (
        "{offload: {proactive: sometimes}}",
        "true nor false",
        "of type boolean",
    ),
    (
        "{return: {startRoomPercent: 10}}",
        "write less than 10",
        "write less than startRoomPercent has",
    ),
    (
        "{return: {startRoomPercent: 30, stopRoomPercent: \"30.00\"}}",
        "write less than 30",
        "write less than startRoomPercent has",
    ),
    (
        "{return: {bandwidthMax: 1Ki}}",
        "write 1Mi to 100Gi",
        "write 1Mi to 100Gi",
    ),
    ("{return: {quietFor: 10}}", "write 10s", "of type string"),
    ("{paused: \"yes\"}", "true nor false", "of type boolean"),
];

#[test]
fn good_policies_are_taken_by_both() {
    for spec in GOOD {
        assert_eq!(parser(spec), None, "{spec}");
        assert_eq!(server(spec), Vec::<String>::new(), "{spec}");
    }
}

#[test]
fn bad_policies_are_refused_by_both_with_what_to_write() {
    for (spec, of_parser, of_server) in BAD {
        let said = parser(spec).unwrap_or_else(|| panic!("the parser takes {spec}"));
        assert!(said.contains(of_parser), "{spec}: {said}");
        let said = server(spec).join("\n");
        assert!(said.contains(of_server), "{spec}: {said}");
        for noise in ["no such", "Undeclared", "error:"] {
            assert!(!said.contains(noise), "{spec}: a rule fails itself: {said}");
        }
    }
}

#[test]
fn name_that_is_no_label_is_refused_by_both() {
    for (name, is_good) in [("web-1", true), ("a.b", false), (&*"x".repeat(64), false)] {
        let object = json!({"metadata": {"name": name}, "spec": {}});
        let said = support::judge(Kind::RemoteMemoryPolicy, &object, None);
        assert_eq!(said.is_empty(), is_good, "{name}: {said:?}");
        assert!(is_good || said[0].contains("at most 63"), "{said:?}");
        let yaml = format!(
            "apiVersion: dynamicswap.io/v1alpha1\nkind: RemoteMemoryPolicy\n\
             metadata: {{name: {name}}}\nspec: {{}}\n"
        );
        assert_eq!(parse_policies(&yaml).is_ok(), is_good, "{name}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    #[test]
    fn both_agree_on_any_quantity(text in "[0-9]{1,6}(|Ki|Mi|Gi|Ti|Pi|k|M|G|T|m|e1|[.]5Gi)") {
        let limits = format!("{{limits: {{perContainer: \"{text}\"}}}}");
        prop_assert_eq!(parser(&limits).is_none(), server(&limits).is_empty(), "{}", text);
        let rebuild = format!("{{rebuild: {{bandwidthMax: \"{text}\"}}}}");
        prop_assert_eq!(parser(&rebuild).is_none(), server(&rebuild).is_empty(), "{}", text);
    }

    #[test]
    fn both_agree_on_any_two_limits(one in "[1-9][0-9]{0,3}(|Ki|Mi|k|M)", two in "[1-9][0-9]{0,3}(|Ki|Mi|k|M)") {
        let limits = format!("{{limits: {{perContainer: {one}, perNamespace: {two}}}}}");
        prop_assert_eq!(parser(&limits).is_none(), server(&limits).is_empty(), "{}", limits);
    }

    #[test]
    fn both_agree_on_any_two_percentages(some in "(0|[1-9][0-9]?|100)([.][0-9]{1,3})?", full in "[0-9]{1,2}([.][0-9]{1,2})?") {
        let pressure = format!(
            "{{pressure: {{someAvg10Percent: \"{some}\", fullAvg10Percent: \"{full}\"}}}}"
        );
        prop_assert_eq!(parser(&pressure).is_none(), server(&pressure).is_empty(), "{}", pressure);
    }

    #[test]
    fn both_agree_on_any_duration(text in "[0-9]{1,11}(ms|s|m|h|d|)") {
        for place in ["stall: {writeHold", "stall: {readStall", "pressure: {calmAfter"] {
            let spec = format!("{{{place}: \"{text}\"}}}}");
            prop_assert_eq!(parser(&spec).is_none(), server(&spec).is_empty(), "{}", spec);
        }
    }
}
