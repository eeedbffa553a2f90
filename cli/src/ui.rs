//! What a command prints while it works: steps that begin and end, and one live line below.
//!
//! Owns the terminal. On anything else than a terminal every step is one plain line.

use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

/// Pictures of the spinner, one a call.
const SPINNER: [char; 10] = ['⠋', '⠙', '⠹', '⠸', '⠼', '⠴', '⠦', '⠧', '⠇', '⠏'];

/// Colours by meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tone {
    /// As it is.
    Plain,
    /// Less important.
    Dim,
    /// Stands out.
    Bold,
    /// All right.
    Good,
    /// Worth a look, or done on purpose.
    Warn,
    /// Wrong.
    Bad,
    /// A figure or a name.
    Accent,
}

/// A terminal, or a file.
#[derive(Debug)]
pub struct Ui {
    live: bool,
    colour: bool,
    began: Instant,
    frame: usize,
}

impl Default for Ui {
    fn default() -> Self {
        Self::new()
    }
}

impl Ui {
    /// Looks at what standard output is.
    #[must_use]
    pub fn new() -> Self {
        let live = io::stdout().is_terminal();
        Self {
            live,
            colour: live && std::env::var_os("NO_COLOR").is_none(),
            began: Instant::now(),
            frame: 0,
        }
    }

    /// `text` in a tone, if the output has colours.
    #[must_use]
    pub fn paint(&self, tone: Tone, text: &str) -> String {
        let code = match tone {
            Tone::Plain => return text.to_owned(),
            Tone::Dim => "2",
            Tone::Bold => "1",
            Tone::Good => "32",
            Tone::Warn => "33",
            Tone::Bad => "31",
            Tone::Accent => "36",
        };
        if self.colour {
            format!("\u{1b}[{code}m{text}\u{1b}[0m")
        } else {
            text.to_owned()
        }
    }

    /// A headline.
    pub fn headline(&mut self, text: &str) {
        let text = self.paint(Tone::Bold, text);
        self.line(&text);
    }

    /// A step that is done, with its time since the start.
    pub fn done(&mut self, what: &str, detail: &str) {
        let mark = self.paint(Tone::Good, "✓");
        self.step(&mark, what, detail);
    }

    /// Something that was done on purpose and hurts.
    pub fn strike(&mut self, what: &str, detail: &str) {
        let mark = self.paint(Tone::Warn, "✗");
        self.step(&mark, what, detail);
    }

    /// Something to think of.
    pub fn warn(&mut self, what: &str, detail: &str) {
        let mark = self.paint(Tone::Warn, "!");
        self.step(&mark, what, detail);
    }

    /// Something that is wrong.
    pub fn bad(&mut self, what: &str, detail: &str) {
        let mark = self.paint(Tone::Bad, "!");
        self.step(&mark, what, detail);
    }

    /// A line of explanation below a step.
    pub fn note(&mut self, text: &str) {
        let text = self.paint(Tone::Dim, text);
        self.line(&format!("             {text}"));
    }

    fn step(&mut self, mark: &str, what: &str, detail: &str) {
        let clock = self.paint(Tone::Dim, &clock(self.began.elapsed()));
        self.line(&format!("  {clock}  {mark} {what:<26} {detail}"));
    }

    /// One whole line.
    pub fn line(&mut self, text: &str) {
        self.clear_live();
        // A reader that went away (a closed pipe) ends nothing here: cleaning up matters more.
        let _closed = writeln!(io::stdout(), "{text}");
    }

    /// The live line: replaced by whatever is printed next. Nothing on anything but a terminal.
    pub fn live(&mut self, text: &str) {
        if !self.live {
            return;
        }
        self.frame = (self.frame + 1) % SPINNER.len();
        let width = usize::from(terminal_width());
        let text: String = text.chars().take(width.saturating_sub(14)).collect();
        let clock = self.paint(Tone::Dim, &clock(self.began.elapsed()));
        let spinner = self.paint(Tone::Accent, &SPINNER[self.frame].to_string());
        let mut stdout = io::stdout();
        let _closed = write!(stdout, "\r\u{1b}[K  {clock}  {spinner} {text}");
        let _closed = stdout.flush();
    }

    /// Takes the live line away.
    pub fn clear_live(&mut self) {
        if self.live {
            let mut stdout = io::stdout();
            let _closed = write!(stdout, "\r\u{1b}[K");
            let _closed = stdout.flush();
        }
    }
}

fn terminal_width() -> u16 {
    ratatui::crossterm::terminal::size().map_or(100, |(width, _)| width)
}

/// Seconds and tenths, right-aligned.
fn clock(elapsed: Duration) -> String {
    format!("{:6.1} s", elapsed.as_secs_f64())
}

/// Bytes for people: three digits and a binary unit.
#[must_use]
pub fn human_bytes(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    #[expect(clippy::cast_precision_loss, reason = "three digits are printed")]
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1000.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 || value >= 100.0 {
        format!("{value:.0} {}", UNITS[unit])
    } else {
        format!("{value:.1} {}", UNITS[unit])
    }
}

/// Microseconds for people.
#[must_use]
pub fn human_us(us: u64) -> String {
    #[expect(clippy::cast_precision_loss, reason = "three digits are printed")]
    let value = us as f64;
    if us < 1000 {
        format!("{us} µs")
    } else if us < 10_000 {
        format!("{:.1} ms", value / 1e3)
    } else if us < 1_000_000 {
        format!("{:.0} ms", value / 1e3)
    } else {
        format!("{:.1} s", value / 1e6)
    }
}

/// A count with thin separators, for people.
#[must_use]
pub fn human_count(count: u64) -> String {
    let digits = count.to_string();
    let mut text = String::new();
    for (position, digit) in digits.chars().enumerate() {
        if position > 0 && (digits.len() - position).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_have_three_digits() {
        assert_eq!(human_bytes(0), "0 B");
        assert_eq!(human_bytes(1536), "1.5 KiB");
        assert_eq!(human_bytes(1000 << 10), "1.0 MiB");
        assert_eq!(human_bytes(357 << 20), "357 MiB");
        assert_eq!(human_us(999), "999 µs");
        assert_eq!(human_us(1500), "1.5 ms");
        assert_eq!(human_us(123_456), "123 ms");
        assert_eq!(human_us(2_500_000), "2.5 s");
        assert_eq!(human_count(1_234_567), "1,234,567");
        assert_eq!(human_count(12), "12");
    }
}
