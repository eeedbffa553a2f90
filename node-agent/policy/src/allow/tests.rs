//! The law, case by case, and what holds for any claims.

use proptest::prelude::*;

use super::*;

fn mib(mib: u32) -> Bytes {
    Bytes::from_mib(mib)
}

fn allotment(per_container: Option<Bytes>, per_namespace: Option<Bytes>) -> Allotment {
    Allotment {
        policy: "default/web".to_owned(),
        per_container,
        per_namespace,
    }
}

fn claim(selection: Selection) -> Claim {
    Claim {
        selection,
        limit: SwapLimit::NONE,
        swapped: Bytes::ZERO,
        original: None,
    }
}

fn name(namespace: &str, name: &str) -> ContainerName {
    ContainerName {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
    }
}

fn rulings(claims: &[(&str, Claim)], device: Device) -> Vec<Ruling> {
    let claims = claims
        .iter()
        .map(|(of, claim)| (name("default", of), claim.clone()))
        .collect();
    allow(&claims, device).into_values().collect()
}

fn ruling(claim: Claim, device: Device) -> Ruling {
    rulings(&[("web", claim)], device).remove(0)
}

#[test]
fn allowed_container_gets_its_bound_or_none_at_all() {
    let bounded = claim(Selection::Allowed(allotment(Some(mib(64)), None)));
    let bounded = ruling(bounded, Device::Open);
    assert_eq!(bounded.deed, Deed::Set(SwapLimit::Bytes(mib(64))));
    assert_eq!(
        bounded.reason.to_string(),
        "default/web allots each container 64Mi"
    );
    let free = ruling(
        claim(Selection::Allowed(allotment(None, None))),
        Device::Open,
    );
    assert_eq!(free.deed, Deed::Set(SwapLimit::Max));
}

#[test]
fn limit_that_is_right_is_left_and_one_that_the_runtime_reset_is_set_again() {
    let mut right = claim(Selection::Allowed(allotment(Some(mib(64)), None)));
    right.limit = SwapLimit::Bytes(mib(64));
    right.original = Some(SwapLimit::NONE);
    assert_eq!(ruling(right.clone(), Device::Open).deed, Deed::Leave);
    right.limit = SwapLimit::NONE;
    let again = Deed::Set(SwapLimit::Bytes(mib(64)));
    assert_eq!(ruling(right, Device::Open).deed, again);
}

#[test]
fn bound_that_is_no_whole_page_is_what_the_kernel_makes_of_it() {
    let odd = Some(Bytes::new(100_000_000));
    let mut claim = claim(Selection::Allowed(allotment(odd, None)));
    claim.limit = SwapLimit::Bytes(Bytes::new(99_999_744));
    assert_eq!(ruling(claim, Device::Open).deed, Deed::Leave);
}

#[test]
fn container_that_nobody_selects_keeps_what_its_runtime_gave_it() {
    for selection in [
        Selection::None,
        Selection::Barred(Barred::OptedOut),
        Selection::Barred(Barred::Critical),
        Selection::DryRun(allotment(None, None)),
    ] {
        let mut never = claim(selection.clone());
        never.limit = SwapLimit::Bytes(mib(7));
        assert_eq!(ruling(never, Device::Open).deed, Deed::Leave);
        let mut raised = claim(selection);
        raised.limit = SwapLimit::Max;
        raised.original = Some(SwapLimit::Bytes(mib(7)));
        let ruling = ruling(raised, Device::Open);
        assert_eq!(ruling.deed, Deed::Restore(SwapLimit::Bytes(mib(7))));
    }
}

#[test]
fn dry_run_says_what_it_would_do() {
    let dry = claim(Selection::DryRun(allotment(Some(mib(64)), None)));
    let ruling = ruling(dry, Device::Open);
    assert_eq!(ruling.limit, SwapLimit::NONE);
    assert_eq!(
        ruling.reason.to_string(),
        "default/web is a dry run, the limit would be 64Mi"
    );
}

#[test]
fn nobody_is_let_out_to_a_device_that_is_not_there() {
    let mut raised = claim(Selection::Allowed(allotment(None, None)));
    assert_eq!(ruling(raised.clone(), Device::Closed).deed, Deed::Leave);
    raised.limit = SwapLimit::Max;
    raised.original = Some(SwapLimit::NONE);
    assert_eq!(ruling(raised.clone(), Device::Unknown).deed, Deed::Leave);
    let closed = ruling(raised, Device::Closed);
    assert_eq!(closed.deed, Deed::Restore(SwapLimit::NONE));
}

#[test]
fn no_container_of_a_full_namespace_may_grow() {
    let of = |swapped| {
        let mut claim = claim(Selection::Allowed(allotment(Some(mib(64)), Some(mib(100)))));
        claim.swapped = swapped;
        claim
    };
    let (a, b) = (of(mib(60)), of(mib(45)));
    let rulings = rulings(&[("a", a), ("b", b)], Device::Open);
    assert_eq!(rulings[0].limit, SwapLimit::Bytes(mib(60)));
    assert_eq!(rulings[1].limit, SwapLimit::Bytes(mib(45)));
    assert_eq!(
        rulings[1].reason.to_string(),
        "default/web allots the namespace 100Mi on each node, of which 105Mi are in use here"
    );
}

#[test]
fn container_may_grow_by_what_its_own_namespace_has_left() {
    let of = |swapped| {
        let mut claim = claim(Selection::Allowed(allotment(None, Some(mib(100)))));
        claim.swapped = swapped;
        claim
    };
    let claims = BTreeMap::from([
        (name("default", "a"), of(mib(60))),
        (name("default", "b"), of(mib(10))),
        (name("other", "a"), of(mib(90))),
    ]);
    let limits = allow(&claims, Device::Open)
        .into_values()
        .map(|ruling| ruling.limit);
    let expected = [mib(90), mib(40), mib(100)].map(SwapLimit::Bytes);
    assert_eq!(limits.collect::<Vec<_>>(), expected);
}

#[test]
fn of_several_allotments_the_strictest_decides() {
    let named = |policy: &str, allotment: Allotment| Allotment {
        policy: policy.to_owned(),
        ..allotment
    };
    let strictest = |several: Vec<Allotment>| {
        Allotment::by_strictness(several.into_iter())
            .into_iter()
            .next()
            .expect("some")
            .policy
    };
    let free = named("a", allotment(None, None));
    let wide = named("b", allotment(Some(mib(9)), None));
    let narrow = named("c", allotment(Some(mib(9)), Some(mib(10))));
    assert_eq!(strictest(vec![free.clone(), wide.clone(), narrow]), "c");
    assert_eq!(strictest(vec![free, wide]), "b");
    let same = ["y", "x"].map(|policy| named(policy, allotment(None, None)));
    assert_eq!(strictest(same.to_vec()), "x");
    assert_eq!(Allotment::by_strictness(std::iter::empty()), []);
}

fn any_limit() -> impl Strategy<Value = SwapLimit> {
    prop_oneof![
        Just(SwapLimit::Max),
        (0_u32..200).prop_map(|of| SwapLimit::Bytes(mib(of))),
    ]
}

fn any_claim() -> impl Strategy<Value = Claim> {
    let bound = || proptest::option::of((1_u32..200).prop_map(mib));
    let selection = (bound(), bound(), 0_u8..4).prop_map(|(container, namespace, which)| {
        let allotment = allotment(container, namespace);
        match which {
            0 => Selection::None,
            1 => Selection::Barred(Barred::OptedOut),
            2 => Selection::DryRun(allotment),
            _ => Selection::Allowed(allotment),
        }
    });
    let original = proptest::option::of(any_limit());
    (selection, any_limit(), (0_u32..200).prop_map(mib), original).prop_map(
        |(selection, limit, swapped, original)| Claim {
            selection,
            limit,
            swapped,
            original,
        },
    )
}

proptest! {
    #[test]
    fn nobody_gets_more_than_allotted(
        claims in proptest::collection::vec(any_claim(), 1..8),
        which in 0_u8..3,
    ) {
        let device = [Device::Open, Device::Closed, Device::Unknown][usize::from(which)];
        let mut claims: BTreeMap<_, _> = (0..)
            .zip(claims)
            .map(|(index, claim): (u32, _)| (name("default", &index.to_string()), claim))
            .collect();
        let first = allow(&claims, device);
        for (of, ruling) in &first {
            let claim = claims.get_mut(of).expect("the same names");
            if let Deed::Set(limit) = ruling.deed {
                let Selection::Allowed(allotment) = &claim.selection else {
                    return Err(TestCaseError::fail("set without an allotment"));
                };
                prop_assert!(device == Device::Open);
                prop_assert!(limit <= SwapLimit::from(allotment.per_container));
                if let Some(per_namespace) = allotment.per_namespace {
                    let most = per_namespace.max(claim.swapped);
                    prop_assert!(limit <= SwapLimit::Bytes(most));
                }
            }
            // What the agent does: an original is noted before the first change.
            match ruling.deed {
                Deed::Set(limit) => {
                    claim.original = claim.original.or(Some(claim.limit));
                    claim.limit = limit;
                }
                Deed::Restore(limit) => claim.limit = limit,
                Deed::Leave => {}
            }
            prop_assert_eq!(claim.limit, ruling.limit);
        }
    }
}
