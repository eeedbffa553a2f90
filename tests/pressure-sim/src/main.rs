//! The comparison: prints its tables, draws a day under each law, and puts the tables into the
//! document that shows them.
#![forbid(unsafe_code)]

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use clap::Parser;
use dynamicswap_pressure_sim::device::{TIERS, Tier};
use dynamicswap_pressure_sim::figures::Figures;
use dynamicswap_pressure_sim::scenario::Scenario;
use dynamicswap_pressure_sim::{law, plot, run, table};

/// Where the tables stand in the document.
const BEGIN: &str = "<!-- tables: begin -->\n";
const END: &str = "<!-- tables: end -->";

/// Compares laws of pressure on simulated days.
#[derive(Debug, Parser)]
#[command(disable_version_flag = true)]
struct Cli {
    /// Folder for the drawings; its name with .md is the document that takes the tables, if it
    /// is there.
    #[arg(long, value_name = "DIR", default_value = "docs/pressure")]
    out: PathBuf,
    /// Days of each scenario.
    #[arg(long, default_value_t = 2)]
    days: u64,
    /// Seed of the first day.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// Makes the day of a seed.
type Days = fn(u64, Tier) -> Scenario;

fn main() -> Result<()> {
    let cli = Cli::parse();
    fs::create_dir_all(&cli.out).with_context(|| format!("cannot make {}", cli.out.display()))?;
    let mut text = String::new();
    let scenarios: [(&str, Tier, Days); 4] = [
        (
            "Busy days, remote memory at 100 us",
            TIERS[1],
            Scenario::day,
        ),
        (
            "Busy days, remote memory at 800 us",
            TIERS[2],
            Scenario::day,
        ),
        (
            "Steady days, remote memory at 20 us",
            TIERS[0],
            Scenario::steady,
        ),
        (
            "Steady days, remote memory at 800 us",
            TIERS[2],
            Scenario::steady,
        ),
    ];
    for (index, (title, tier, scenario)) in scenarios.into_iter().enumerate() {
        let rows = compare(&cli, |seed| scenario(seed, tier));
        text += &format!("### {title}\n\n{}\n", table::markdown(&rows));
        if index == 0 {
            draw(&cli.out, &rows)?;
        }
    }
    print!("{text}");
    put(&cli.out.with_extension("md"), &text)
}

/// Every law on the same days.
fn compare(cli: &Cli, scenario: impl Fn(u64) -> Scenario) -> Vec<(&'static str, Figures)> {
    let days: Vec<Scenario> = (cli.seed..cli.seed + cli.days).map(scenario).collect();
    let containers = days.first().map_or(0, |day| day.containers.len());
    let mut rows = Vec::new();
    for index in 0..law::all(containers).len() {
        let mut figures = Vec::new();
        let mut name = "";
        for day in &days {
            let law = law::all(containers).into_iter().nth(index);
            let Some(mut law) = law else { continue };
            name = law.name();
            figures.push(run::run(day, law.as_mut()));
        }
        rows.push((name, table::merge(&figures)));
    }
    rows
}

/// A drawing of the first day of each law.
fn draw(out: &Path, rows: &[(&str, Figures)]) -> Result<()> {
    for (law, figures) in rows {
        let name: String = law
            .chars()
            .map(|c| {
                if c.is_ascii_alphanumeric() {
                    c.to_ascii_lowercase()
                } else {
                    '-'
                }
            })
            .collect();
        let parts: Vec<&str> = name.split('-').filter(|part| !part.is_empty()).collect();
        let path = out.join(format!("{}.svg", parts.join("-")));
        fs::write(&path, plot::day(law, &figures.trace))
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

/// Replaces the tables in the document.
fn put(document: &Path, tables: &str) -> Result<()> {
    let Ok(text) = fs::read_to_string(document) else {
        return Ok(());
    };
    let parts = text.split_once(BEGIN).and_then(|(before, rest)| {
        let (_, after) = rest.split_once(END)?;
        Some((before, after))
    });
    let (before, after) = parts.with_context(|| {
        let path = document.display();
        format!("{path} has no place for the tables: write '{BEGIN}' and '{END}' where they go")
    })?;
    fs::write(document, format!("{before}{BEGIN}\n{tables}{END}{after}"))
        .with_context(|| format!("cannot write {}", document.display()))
}
