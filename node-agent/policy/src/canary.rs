//! Which containers a policy reaches that is rolled out to a percentage of them.
//!
//! Owns the dice: the same name always falls on the same side, on every node and in every
//! release, so that raising the percentage only ever adds containers.

use crate::observation::ContainerName;

/// Offset basis and prime of 64-bit FNV-1a, as its authors publish them.
const FNV_BASIS: u64 = 0xcbf2_9ce4_8422_2325;
const FNV_PRIME: u64 = 0x0000_0100_0000_01b3;

/// The container's place, 0 to 99.
#[must_use]
pub fn canary_place(name: &ContainerName) -> u8 {
    let bytes = name
        .namespace
        .bytes()
        .chain([b'/'])
        .chain(name.name.bytes());
    let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(FNV_PRIME);
    let hash = bytes.fold(FNV_BASIS, step);
    // Names of one set differ in their last characters only, which FNV leaves in the low bits.
    let mixed = (hash ^ (hash >> 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
    // A remainder of 100 fits.
    u8::try_from(mixed % 100).unwrap_or(0)
}

/// Whether a policy that reaches `percent` of the containers reaches this one. From 100 on it
/// reaches all.
#[must_use]
pub fn in_canary(name: &ContainerName, percent: u8) -> bool {
    canary_place(name) < percent
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pod(namespace: &str, name: &str) -> ContainerName {
        ContainerName {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        }
    }

    #[test]
    fn place_of_a_name_is_the_same_in_every_release() {
        let places = ["a", "b", "web-0/app"].map(|name| canary_place(&pod("default", name)));
        assert_eq!(places, [79, 82, 90]);
    }

    #[test]
    fn percentage_is_about_the_share_of_containers() {
        for percent in [1, 10, 50, 90] {
            let inside = (0..10_000)
                .filter(|index| in_canary(&pod("shop", &format!("web-{index}/app")), percent))
                .count();
            let expected = usize::from(percent) * 100;
            assert!(inside.abs_diff(expected) < 200, "{inside} of {expected}");
        }
    }

    proptest! {
        #[test]
        fn more_percent_never_lose_a_container(
            namespace in ".{0,12}", name in ".{0,24}", percent in 0_u8..100,
        ) {
            let pod = pod(&namespace, &name);
            prop_assert!(!in_canary(&pod, 0));
            prop_assert!(in_canary(&pod, 100));
            prop_assert!(!in_canary(&pod, percent) || in_canary(&pod, percent + 1));
        }
    }
}
