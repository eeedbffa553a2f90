//! The lab: virtual machines with a distribution kernel, joined by a switch.
//!
//! Owns the image, the guests, the switch between them and the scenarios. A scenario is one
//! function: which guests, which processes, which faults, what must hold. Every wait has a
//! deadline, and whatever a scenario started is gone when it ends.
#![forbid(unsafe_code)]

pub mod control_plane;
pub mod daemons;
pub mod guest;
pub mod image;
pub mod load;
pub mod report;
pub mod scenarios;
pub mod switch;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use guest::{Guest, Init, Machine};
use image::Image;
use report::Figures;
use switch::Switch;

/// Time between two looks at a condition inside a guest.
const LOOK_EVERY: Duration = Duration::from_millis(300);

/// What a scenario works with.
#[derive(Debug)]
pub struct Lab {
    image: Image,
    directory: PathBuf,
    switch: Switch,
    shown: bool,
    guests: u8,
    /// What the scenario measured.
    pub figures: Figures,
}

impl Lab {
    /// For one scenario, whose logs go to `directory`; consoles are shown as well if `shown`.
    ///
    /// # Errors
    /// The host's.
    pub fn new(image: &Image, directory: &Path, shown: bool) -> Result<Self> {
        std::fs::create_dir_all(directory)
            .with_context(|| format!("cannot make {}", directory.display()))?;
        Ok(Self {
            image: image.clone(),
            directory: directory.to_owned(),
            switch: Switch::new()?,
            shown,
            guests: 0,
            figures: Figures::new(),
        })
    }

    /// Starts a guest; it boots while the next one is started.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn start(&mut self, name: &str, memory_mib: u32) -> Result<Guest> {
        self.start_with(Init::Own, name, memory_mib)
    }

    /// As [`Self::start`], with another first process.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn start_with(&mut self, init: Init, name: &str, memory_mib: u32) -> Result<Guest> {
        self.guests += 1;
        let machine = Machine {
            name: name.to_owned(),
            number: self.guests,
            memory_mib,
            port: self.switch.port()?,
            init,
        };
        Guest::start(&self.image, &machine, &self.directory, self.shown)
    }

    /// The switch that joins the guests.
    #[must_use]
    pub const fn switch(&self) -> &Switch {
        &self.switch
    }

    /// Notes a figure.
    pub fn note(&mut self, name: &str, value: impl Into<serde_json::Value>) {
        let value = value.into();
        println!("    {name}: {value}");
        self.figures.insert(name.to_owned(), value);
    }
}

/// Repeats a command in a guest until it succeeds; gives what it printed.
///
/// # Errors
/// If it does not within `time`, with what it printed last.
pub fn wait_for(guest: &mut Guest, what: &str, time: Duration, script: &str) -> Result<String> {
    let deadline = Instant::now() + time;
    loop {
        let (code, said) = guest.run(script, time)?;
        if code == 0 {
            return Ok(said);
        }
        if Instant::now() > deadline {
            bail!(
                "{}: waited {time:?} for: {what}. Last: {said}",
                guest.name()
            );
        }
        std::thread::park_timeout(LOOK_EVERY);
    }
}

/// Lets a fault last: it is its time that is played, so there is no condition to wait for.
pub fn stay(time: Duration) {
    let end = Instant::now() + time;
    while Instant::now() < end {
        std::thread::park_timeout(end.saturating_duration_since(Instant::now()));
    }
}
