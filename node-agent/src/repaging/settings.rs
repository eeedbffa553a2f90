//! What policies say about re-paging, as the laws take it: pure.

use dynamicswap_crds::{OffloadSpec, Percent, ReturnSpec};
use dynamicswap_policy::{
    AheadSettings, BreakerSettings, ContainerName, OffloadSettings, ReturnSettings, Share,
    in_canary,
};

/// What the policy that decides about a container says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wishes {
    /// When its pages leave.
    pub offload: OffloadSpec,
    /// When they come home.
    pub homecoming: ReturnSpec,
    /// Decide and tell, but do nothing.
    pub dry_run: bool,
}

fn share(percent: Percent) -> Share {
    Share::from_hundredths(percent.hundredths())
}

/// The law of offload for one container.
#[must_use]
pub fn offload(spec: &OffloadSpec) -> OffloadSettings {
    let default = OffloadSettings::default();
    OffloadSettings {
        pressure_max: share(spec.target_some_percent),
        ratio: if spec.proactive {
            default.ratio
        } else {
            Share::ZERO
        },
        ahead: AheadSettings {
            room: share(spec.limit_headroom_percent),
            ..default.ahead
        },
        ..default
    }
}

/// The law of return for the node: the most careful of what the policies on it say. The room that
/// offload keeps is not filled again.
#[must_use]
pub fn homecoming<'a>(wishes: impl Iterator<Item = &'a Wishes>) -> ReturnSettings {
    let default = ReturnSettings::default();
    let mut headroom = default.ahead.room;
    let specs = wishes.map(|wishes| {
        headroom = headroom.max(share(wishes.offload.limit_headroom_percent));
        wishes.homecoming
    });
    let careful = specs.reduce(|a, b| ReturnSpec {
        enabled: true,
        start_room_percent: a.start_room_percent.max(b.start_room_percent),
        stop_room_percent: a.stop_room_percent.max(b.stop_room_percent),
        quiet_for: a.quiet_for.max(b.quiet_for),
        bandwidth_max: a.bandwidth_max.min(b.bandwidth_max),
        rest_for: a.rest_for.max(b.rest_for),
    });
    let spec = careful.unwrap_or_default();
    let (start, stop) = (
        share(spec.start_room_percent),
        share(spec.stop_room_percent),
    );
    ReturnSettings {
        node_start: start,
        node_stop: stop,
        container_start: start,
        container_stop: stop,
        quiet_min: spec.quiet_for.as_duration(),
        cool_down: spec.rest_for.as_duration(),
        bytes_per_s: spec.bandwidth_max,
        // A step is a second's worth at most.
        step_max: spec.bandwidth_max,
        ahead: AheadSettings {
            room: headroom,
            ..default.ahead
        },
        ..default
    }
}

/// The breaker of the node: the most careful of what the policies on it say.
#[must_use]
pub fn breaker<'a>(specs: impl Iterator<Item = &'a OffloadSpec>) -> BreakerSettings {
    let mut settings = BreakerSettings::default();
    if let Some(percent) = specs.map(|spec| spec.break_full_percent).min() {
        settings.full.over = share(percent);
    }
    settings
}

/// Whether a container's limit counts for staying ahead of it.
#[must_use]
pub fn stays_ahead(spec: &OffloadSpec) -> bool {
    spec.limit_headroom_percent.hundredths() > 0
}

/// The room in whose middle a container gets a `memory.high`; none if its policy wants none.
#[must_use]
pub fn guard(wishes: &Wishes, container: &ContainerName) -> Option<AheadSettings> {
    let spec = &wishes.offload;
    let keeps_room = stays_ahead(spec) && in_canary(container, canary_percent(spec));
    let wanted = spec.guard_limit && keeps_room && !wishes.dry_run;
    wanted.then(|| offload(spec).ahead)
}

/// Whole percent, rounded up: a canary of a tenth of a percent is one in a hundred.
#[must_use]
pub fn canary_percent(spec: &OffloadSpec) -> u8 {
    u8::try_from(spec.canary_percent.hundredths().div_ceil(100)).unwrap_or(100)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use dynamicswap_crds::PolicyDuration;
    use dynamicswap_types::Bytes;

    use super::*;

    #[test]
    fn policy_that_says_nothing_has_the_laws_own_figures() {
        let settings = offload(&OffloadSpec::default());
        assert_eq!(settings, OffloadSettings::default());
        assert!(stays_ahead(&OffloadSpec::default()));
        assert_eq!(canary_percent(&OffloadSpec::default()), 100);
    }

    #[test]
    fn most_careful_of_several_policies_decides_about_return() {
        let a = ReturnSpec {
            start_room_percent: Percent::from_whole(30),
            bandwidth_max: Bytes::from_mib(64),
            ..ReturnSpec::default()
        };
        let b = ReturnSpec {
            quiet_for: PolicyDuration::from_secs(30),
            stop_room_percent: Percent::from_whole(15),
            rest_for: PolicyDuration::from_secs(600),
            ..ReturnSpec::default()
        };
        let wishes = |homecoming| Wishes {
            offload: OffloadSpec::default(),
            homecoming,
            dry_run: false,
        };
        let mut roomy = wishes(b);
        roomy.offload.limit_headroom_percent = Percent::from_whole(25);
        let settings = homecoming([wishes(a), roomy].iter());
        assert_eq!(settings.ahead.room, Share::from_hundredths(2_500));
        let hundredths = Share::from_hundredths;
        assert_eq!(
            (settings.node_start, settings.node_stop),
            (hundredths(3_000), hundredths(1_500))
        );
        assert_eq!(settings.quiet_min, Duration::from_secs(30));
        assert_eq!(settings.cool_down, Duration::from_secs(600));
        assert_eq!(settings.bytes_per_s, Bytes::from_mib(64));
    }
}
