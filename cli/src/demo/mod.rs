//! `demo`: the whole story on one machine, told while it happens and written down at its end.
//!
//! Owns the order of the story, the verdict and the cleaning up, which happens however it ends.

mod circle;
mod load;
mod recorder;
mod sampler;
mod story;
mod verdict;

use std::path::Path;
use std::process::ExitCode;

use anyhow::Result;
use dynamicswap_types::{Bytes, Integrity, SlabSize, Spill};

use crate::args::{DemoArgs, WhenUnserved};
use crate::cluster::caution;
use crate::cluster::host;
use crate::cluster::paths::ClusterName;
use crate::cluster::record::Shape;
use crate::cluster::up;
use crate::failure::{Interrupted, Refusal, exit_code};
use crate::interrupt::Interrupt;
use crate::objects::read_objects;
use crate::refuse_unless;
use crate::report;
use crate::ui::{Tone, Ui, human_bytes};

use story::Demo;

/// The demo's own policy: the same kind of file that kubectl takes.
const POLICY: &str = include_str!("../../policies/demo.yaml");
/// Least memory for which the story has something to show.
const MEMORY_MIN: Bytes = Bytes::from_mib(64);
/// Slabs that donors have beyond what the workload can need, for the reserve.
const RESERVE_SLABS: u64 = 12;

/// Runs the demo.
///
/// # Errors
/// A refusal for bad input; anything that fails later is in the report and the exit code.
pub fn run(args: &DemoArgs) -> Result<ExitCode> {
    let (policy, spill, integrity) = policy(args)?;
    let settings = up::Settings {
        spill,
        integrity,
        ..settings(args)?
    };
    check_room(args, &settings.shape, host::available_now()?)?;
    host::check(&settings.shape)?;
    caution::refuse()?;
    check_out(&args.out)?;
    let interrupt = Interrupt::listen()?;
    let mut ui = Ui::new();
    ui.headline(&format!(
        "DynamicSwap demo: {} needs {}, gets {}, and borrows the rest from {} donors",
        args.workload.as_str(),
        human_bytes(args.memory.get()),
        human_bytes(args.memory.get() / 2),
        args.donors
    ));
    let mut demo = Demo::new(args, settings, interrupt);
    let played = demo.play(&policy, &mut ui);
    if played.is_err() {
        demo.save_logs(&args.out.join("logs"));
    }
    demo.clean_up(&mut ui);
    let played = match played {
        // Nothing ran, so there is nothing to report but the reason.
        Err(error) if !demo.has_started() => {
            // The directory was made for a report; with something in it, it stays.
            let _filled = std::fs::remove_dir(&args.out);
            return Err(error);
        }
        other => other,
    };
    let report = verdict::report(&demo, args, played.as_ref().err());
    let html = report::write(&report, &args.out)?;
    tell(&report, &html, &mut ui);
    match played {
        // What is left behind is worth more of a word than that it was interrupted.
        Err(error)
            if error.downcast_ref::<Interrupted>().is_some() && report.left_behind.is_empty() =>
        {
            Ok(exit_code(&error))
        }
        _ => Ok(ExitCode::from(u8::from(!report.passed))),
    }
}

/// The policies' text, whether they want a spill file, and the integrity that the device must have.
fn policy(args: &DemoArgs) -> Result<(String, bool, Integrity)> {
    let Some(path) = &args.policy else {
        return Ok((POLICY.to_owned(), false, Integrity::default()));
    };
    let text = read_objects(path)?;
    let policies = dynamicswap_crds::parse_policies(&text)
        .map_err(|error| Refusal::error(format!("{}: {error}", path.display())))?;
    let in_force = || policies.iter().filter(|policy| policy.in_force());
    let spills: Vec<Spill> = in_force().map(|p| p.spec.durability.spill).collect();
    refuse_unless!(
        !spills.is_empty(),
        "{}: every policy is paused or a dry run, so that nothing would be swapped: leave one in \
         force",
        path.display()
    );
    refuse_unless!(
        spills.iter().any(|spill| *spill != Spill::Only),
        "{}: with spill: Only no page is remote, and the demo has nothing to show: write Async or \
         None",
        path.display()
    );
    let copies = in_force().map(|p| p.spec.durability.copies.get());
    let copies = copies.max().unwrap_or_default();
    refuse_unless!(
        copies < args.donors as usize,
        "{}: with one of {} donors killed, {copies} copies find no place: give --donors {} or more, \
         or ask for fewer copies",
        path.display(),
        args.donors,
        copies + 1
    );
    let spill = spills.iter().any(|spill| *spill != Spill::None);
    let integrity = in_force().map(|policy| policy.spec.integrity).max();
    Ok((text, spill, integrity.unwrap_or_default()))
}

/// The cluster that the workload needs: two copies of everything must fit when one donor is gone.
fn settings(args: &DemoArgs) -> Result<up::Settings> {
    refuse_unless!(
        args.memory >= MEMORY_MIN,
        "--memory {} is too small to show anything: give at least {MEMORY_MIN}",
        args.memory
    );
    refuse_unless!(
        args.memory <= Bytes::from_mib(64 << 10),
        "--memory {} is more than the demo can hold: give at most 64Gi",
        args.memory
    );
    refuse_unless!(
        args.calm.is_finite() && (0.5..=600.0).contains(&args.calm),
        "--calm {} is no time: give 0.5 to 600 seconds",
        args.calm
    );
    refuse_unless!(
        args.donors >= 3,
        "{} donors are too few: with one killed, two copies need two more, so give at least 3",
        args.donors
    );
    let slab = SlabSize::try_from(Bytes::from_mib(16))?;
    let slabs = slab.slabs_for(args.memory) + RESERVE_SLABS;
    let survivors = u64::from(args.donors - 1).min(2);
    // The kernel spreads its pages over the whole device, so every slab of it may be in use, and
    // a reserve stands beside.
    let device_slabs = slabs + slabs / 2;
    let granted = device_slabs + device_slabs / 8 + RESERVE_SLABS;
    let per_donor = (granted * 2).div_ceil(survivors) * slab.bytes().get();
    Ok(up::Settings {
        name: "demo".parse::<ClusterName>().map_err(Refusal::error)?,
        shape: Shape {
            donors: args.donors,
            donor_capacity: Bytes::new(per_donor),
            device_size: Bytes::new(device_slabs * slab.bytes().get()),
            slab,
        },
        controller_port: None,
        spill: false,
        integrity: Integrity::default(),
        when_unserved: WhenUnserved::Abort,
    })
}

/// Refuses a workload whose donors do not fit, in the demo's own terms.
fn check_room(args: &DemoArgs, shape: &Shape, available: Bytes) -> Result<()> {
    let donors = shape.donor_capacity.get() * u64::from(shape.donors);
    let needed = Bytes::new(donors).saturating_add(host::RESERVE);
    refuse_unless!(
        needed <= available,
        "--memory {} makes {} donors lock {:.1} GiB, and only {:.1} GiB is available: give less \
         --memory",
        args.memory,
        shape.donors,
        Bytes::new(donors).as_mib_f64() / 1024.0,
        available.as_mib_f64() / 1024.0
    );
    Ok(())
}

/// Refuses early what would fail after a minute.
fn check_out(out: &Path) -> Result<()> {
    let probe = out.join(".dynamicswap-probe");
    let made = std::fs::create_dir_all(out).and_then(|()| std::fs::write(&probe, ""));
    made.and_then(|()| std::fs::remove_file(&probe))
        .map_err(|error| {
            Refusal::error(format!(
                "cannot write reports into {} ({error}): choose another --out",
                out.display()
            ))
        })
}

fn tell(report: &report::Report, html: &Path, ui: &mut Ui) {
    ui.line("");
    for failure in &report.failures {
        ui.bad("failed", failure);
    }
    let figures = verdict::figures(report);
    let (tone, word) = if report.passed {
        (Tone::Good, "passed")
    } else {
        (Tone::Bad, "failed")
    };
    let verdict = ui.paint(tone, word);
    ui.line(&format!("{verdict}: {figures}"));
    ui.line(&format!("report: {}", html.display()));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{Cli, Command};
    use clap::Parser;

    fn args(words: &[&str]) -> DemoArgs {
        let words = ["dynamicswap", "demo"].iter().chain(words);
        let Command::Demo(args) = Cli::try_parse_from(words).expect("valid").command else {
            panic!("not a demo");
        };
        args
    }

    #[test]
    fn own_policy_is_valid() {
        let policies = dynamicswap_crds::parse_policies(POLICY).expect("valid");
        assert_eq!(policies.len(), 1);
    }

    #[test]
    fn two_copies_fit_on_the_survivors() {
        let args = args(&["--memory", "512Mi"]);
        let shape = settings(&args).expect("possible").shape;
        let survivors = u64::from(shape.donors - 1);
        assert!(shape.donor_capacity.get() * survivors >= 2 * args.memory.get());
        assert!(shape.device_size > args.memory);
    }

    #[test]
    fn workload_that_does_not_fit_is_refused_with_the_option_that_would_do() {
        let args = args(&["--memory", "8Gi"]);
        let shape = settings(&args).expect("possible").shape;
        let error = check_room(&args, &shape, Bytes::from_mib(8192)).expect_err("too much");
        assert!(error.to_string().ends_with("give less --memory"), "{error}");
        assert!(check_room(&args, &shape, Bytes::from_mib(1 << 20)).is_ok());
    }

    /// What is made of a policy file with these specs.
    fn policy_of(specs: &[&str]) -> Result<bool> {
        made_of(specs).map(|(_, spill, _)| spill)
    }

    fn made_of(specs: &[&str]) -> Result<(String, bool, Integrity)> {
        let file = tempfile::NamedTempFile::new().expect("a file");
        let documents = specs.iter().enumerate().map(|(number, spec)| {
            format!(
                "apiVersion: dynamicswap.io/v1alpha1\nkind: RemoteMemoryPolicy\n\
                 metadata: {{name: p{number}}}\nspec: {spec}\n"
            )
        });
        let text = documents.collect::<Vec<_>>().join("---\n");
        std::fs::write(file.path(), text).expect("written");
        let path = file.path().display().to_string();
        policy(&args(&["--policy", &path]))
    }

    #[test]
    fn device_gets_the_strictest_integrity_that_is_asked_for() {
        let of = |specs: &[&str]| made_of(specs).expect("fine").2;
        assert_eq!(of(&["{}"]), Integrity::Tag64);
        assert_eq!(of(&["{}", "{integrity: full}"]), Integrity::Full);
        assert_eq!(of(&["{integrity: none}"]), Integrity::None);
        assert_eq!(
            of(&["{}", "{paused: true, integrity: full}"]),
            Integrity::Tag64
        );
    }

    #[test]
    fn policy_decides_whether_there_is_a_spill_file() {
        assert!(!policy_of(&["{}"]).expect("fine"));
        assert!(policy_of(&["{durability: {spill: Async}}"]).expect("fine"));
        assert!(!policy_of(&["{}", "{paused: true, durability: {spill: Async}}"]).expect("fine"));
        let only = policy_of(&["{durability: {spill: Only}}"]).expect_err("nothing is remote");
        assert!(only.to_string().contains("Async or None"), "{only}");
        let paused = policy_of(&["{paused: true}"]).expect_err("nothing is in force");
        assert!(
            paused.to_string().contains("leave one in force"),
            "{paused}"
        );
    }

    #[test]
    fn impossible_demands_are_refused() {
        for words in [
            &["--memory", "1Mi"][..],
            &["--memory", "1Ti"],
            &["--donors", "2"],
            &["--calm", "0"],
        ] {
            let error = settings(&args(words)).expect_err("impossible");
            assert!(error.downcast_ref::<Refusal>().is_some(), "{error}");
        }
        let error = policy(&args(&["--policy", "/nonexistent"])).expect_err("missing");
        assert!(error.to_string().starts_with("cannot read /nonexistent"));
    }
}
