//! `top`: the same summary, live, with short histories as sparklines.
//!
//! Owns the screen while it runs and gives it back however it ends.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use anyhow::Result;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyModifiers};
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Style, Stylize};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, BorderType, Cell, Gauge, Paragraph, Row, Sparkline, Table};
use ratatui::{DefaultTerminal, Frame};

use super::fit::wrap;
use super::summary::{Device, Summary};
use super::text::{human_seconds, time_of_day};
use crate::client::Client;
use crate::failure::Refusal;
use crate::interrupt::Interrupt;
use crate::ui::{human_bytes, human_count, human_us};

/// Time between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Time over which a rate is taken: agents report once a second, so that a rate between two looks
/// would be nothing and twice what it is by turns.
const RATE_OVER: Duration = Duration::from_secs(2);
/// Looks that a history keeps.
const HISTORY: usize = 240;
/// Colours of the donors, the same as in the report.
const DONOR_COLOURS: [Color; 6] = [
    Color::Cyan,
    Color::Magenta,
    Color::Yellow,
    Color::Green,
    Color::Blue,
    Color::Red,
];

/// What the screen shows.
#[derive(Debug, Default)]
pub struct Screen {
    title: String,
    summary: Summary,
    problem: String,
    pages_read: History,
    pages_written: History,
    pressure: History,
}

/// A rate or a level over the last looks.
#[derive(Debug, Default)]
struct History {
    values: VecDeque<u64>,
    /// A counter's values within the last [`RATE_OVER`], and when they were seen.
    counted: VecDeque<(Instant, u64)>,
}

impl History {
    fn push(&mut self, value: u64) {
        if self.values.len() == HISTORY {
            self.values.pop_front();
        }
        self.values.push_back(value);
    }

    /// Takes a counter; keeps its rate. A counter that has begun anew has none yet.
    fn count(&mut self, counter: u64, now: Instant) {
        if self.counted.back().is_some_and(|(_, last)| *last > counter) {
            self.counted.clear();
        }
        self.counted.push_back((now, counter));
        let is_old = |at: &Instant| now.duration_since(*at) >= RATE_OVER;
        while self.counted.get(1).is_some_and(|(at, _)| is_old(at)) {
            self.counted.pop_front();
        }
        let Some((since, first)) = self.counted.front() else {
            return;
        };
        let millis = u64::try_from(now.duration_since(*since).as_millis());
        let grown = (counter - first).saturating_mul(1000);
        if let Some(rate) = grown.checked_div(millis.unwrap_or(u64::MAX)) {
            self.push(rate);
        }
    }

    fn latest(&self) -> u64 {
        self.values.back().copied().unwrap_or(0)
    }

    /// The newest values that fit into `width` columns.
    fn tail(&self, width: u16) -> Vec<u64> {
        let skipped = self.values.len().saturating_sub(width.into());
        self.values.iter().skip(skipped).copied().collect()
    }
}

impl Screen {
    /// A screen for the cluster called `title`.
    #[must_use]
    pub fn new(title: &str) -> Self {
        Self {
            title: title.to_owned(),
            ..Self::default()
        }
    }

    /// Takes a new look at the cluster, or the reason why there is none.
    pub fn update(&mut self, look: Result<Summary>, now: Instant) {
        match look {
            Err(error) => self.problem = format!("{error:#}"),
            Ok(summary) => {
                let sum = |field: fn(&Device) -> u64| summary.devices.iter().map(field).sum();
                self.pages_read.count(sum(|d| d.pages_read), now);
                self.pages_written.count(sum(|d| d.pages_written), now);
                let some = summary
                    .containers
                    .iter()
                    .map(|c| c.some)
                    .fold(0.0, f64::max);
                self.pressure.push(percent(some));
                self.problem.clear();
                self.summary = summary;
            }
        }
    }

    /// Draws everything.
    pub fn draw(&self, frame: &mut Frame<'_>) {
        let nodes = u16::try_from(self.summary.nodes.len()).unwrap_or(8).min(8);
        let donors = u16::try_from(self.summary.donors.len()).unwrap_or(8).min(8);
        let containers = u16::try_from(self.summary.containers.len())
            .unwrap_or(4)
            .clamp(1, 4);
        let [title, upper, middle, lower, events, keys] = Layout::vertical([
            Constraint::Length(1),
            Constraint::Length(nodes.max(donors) + 2),
            Constraint::Length(8),
            Constraint::Length(containers + 3),
            Constraint::Min(3),
            Constraint::Length(1),
        ])
        .areas(frame.area());
        frame.render_widget(self.title_line(), title);
        let [left, right] =
            Layout::horizontal([Constraint::Percentage(45), Constraint::Percentage(55)])
                .areas(upper);
        self.draw_nodes(frame, left);
        self.draw_donors(frame, right);
        let [left, right] =
            Layout::horizontal([Constraint::Percentage(45), Constraint::Percentage(55)])
                .areas(middle);
        self.draw_device(frame, left);
        self.draw_histories(frame, right);
        self.draw_containers(frame, lower);
        self.draw_news(frame, events);
        frame.render_widget(Line::from(" q ends ").dim(), keys);
    }

    fn title_line(&self) -> Line<'_> {
        let mut spans = vec![
            Span::from(format!(" {} ", self.title)).bold(),
            Span::from(format!(
                " up {}  term {}  {} policies ",
                human_seconds(self.summary.uptime_ms / 1000),
                self.summary.term,
                self.summary.policies
            ))
            .dim(),
        ];
        if !self.problem.is_empty() {
            spans.push(Span::from(format!(" {} ", self.problem)).on_red());
        }
        Line::from(spans)
    }

    fn draw_nodes(&self, frame: &mut Frame<'_>, area: Rect) {
        let rows = self.summary.nodes.iter().map(|node| {
            let state = if node.problem.is_empty() {
                Cell::from("● ready").green()
            } else {
                Cell::from(format!("● {}", node.problem)).red()
            };
            Row::new([
                Cell::from(node.name.clone()).bold(),
                Cell::from(node.role.clone()),
                state,
            ])
        });
        let widths = [
            Constraint::Length(12),
            Constraint::Length(9),
            Constraint::Min(8),
        ];
        frame.render_widget(Table::new(rows, widths).block(block("nodes")), area);
    }

    fn draw_donors(&self, frame: &mut Frame<'_>, area: Rect) {
        let outer = block("remote memory");
        let inner = outer.inner(area);
        frame.render_widget(outer, area);
        for (position, donor) in self.summary.donors.iter().enumerate() {
            let y = inner
                .y
                .saturating_add(u16::try_from(position).unwrap_or(u16::MAX));
            if y >= inner.bottom() {
                break;
            }
            let row = Rect {
                y,
                height: 1,
                ..inner
            };
            let [name, bar, link] = Layout::horizontal([
                Constraint::Length(11),
                Constraint::Min(10),
                Constraint::Length(11),
            ])
            .areas(row);
            let link_style = match donor.link.as_str() {
                "up" => Style::new().green(),
                "" | "connecting" => Style::new().dim(),
                _ => Style::new().red(),
            };
            frame.render_widget(Line::from(donor.node.clone()).bold(), name);
            frame.render_widget(
                Gauge::default()
                    .ratio(share(donor.held, donor.capacity))
                    .label(format!(
                        "{} of {}",
                        human_bytes(donor.held),
                        human_bytes(donor.capacity)
                    ))
                    .gauge_style(
                        Style::new()
                            .fg(DONOR_COLOURS[position % DONOR_COLOURS.len()])
                            .bg(Color::DarkGray),
                    )
                    .use_unicode(true),
                bar,
            );
            frame.render_widget(
                Line::from(format!("  {}", donor.link)).style(link_style),
                link,
            );
        }
    }

    fn draw_device(&self, frame: &mut Frame<'_>, area: Rect) {
        let Some(device) = self.summary.devices.first() else {
            frame.render_widget(
                Paragraph::new("none yet").dim().block(block("swap device")),
                area,
            );
            return;
        };
        let attached = if device.attached {
            Span::from("● attached as swap").green()
        } else {
            Span::from("○ detached").yellow()
        };
        let mut lines = vec![
            Line::from(vec![
                Span::from(format!("{} {}  ", device.node, device.path)).bold(),
                attached,
            ]),
            Line::from(format!("{}: {}", device.front_end, device.front_end_reason)).dim(),
            Line::from(format!(
                "{} of {}, {} slabs mapped, {} in reserve",
                human_bytes(device.used),
                human_bytes(device.size),
                device.slabs_mapped,
                device.sets_reserve
            )),
            Line::from(format!(
                "read p50 {} p99 {}   write p50 {} p99 {}",
                human_us(device.read.p50_us),
                human_us(device.read.p99_us),
                human_us(device.write.p50_us),
                human_us(device.write.p99_us)
            )),
            Line::from(format!(
                "engine pid {}, {} started",
                device.engine_pid, device.engine_starts
            )),
        ];
        if device.pages_lost > 0 {
            lines.push(
                Line::from(format!("{} pages LOST", human_count(device.pages_lost)))
                    .red()
                    .bold(),
            );
        } else if device.degraded > 0 {
            let text = format!("{} have too few copies", human_bytes(device.degraded));
            lines.push(Line::from(text).yellow());
        }
        frame.render_widget(Paragraph::new(lines).block(block("swap device")), area);
    }

    fn draw_histories(&self, frame: &mut Frame<'_>, area: Rect) {
        let areas: [Rect; 3] = Layout::horizontal([Constraint::Fill(1); 3]).areas(area);
        let pages = |history: &History| format!("{}/s", human_bytes(history.latest() * 4096));
        let plots = [
            (
                "read",
                pages(&self.pages_read),
                &self.pages_read,
                Color::Cyan,
            ),
            (
                "written",
                pages(&self.pages_written),
                &self.pages_written,
                Color::Magenta,
            ),
            (
                "pressure",
                format!("{} %", self.pressure.latest()),
                &self.pressure,
                Color::Yellow,
            ),
        ];
        for ((title, value, history, colour), area) in plots.into_iter().zip(areas) {
            let block = block(&format!("{title} {value}"));
            let data = history.tail(block.inner(area).width);
            frame.render_widget(
                Sparkline::default().data(data).style(colour).block(block),
                area,
            );
        }
    }

    fn draw_containers(&self, frame: &mut Frame<'_>, area: Rect) {
        let rows = self.summary.containers.iter().map(|container| {
            let state = Cell::from(container.state.clone());
            let state = match container.state.as_str() {
                "Calm" => state.green(),
                "Stalled" => state.red(),
                _ => state.yellow(),
            };
            Row::new([
                Cell::from(container.name.clone()).bold(),
                Cell::from(human_bytes(container.memory)),
                Cell::from(human_bytes(container.limit)),
                Cell::from(human_bytes(container.swap)),
                Cell::from(format!("{:.0} %", container.some)),
                Cell::from(format!("{:.0} %", container.full)),
                state,
                Cell::from(container.policy.clone()),
            ])
        });
        let titles = [
            "NAME", "RAM", "LIMIT", "SWAPPED", "SOME", "FULL", "STATE", "POLICY",
        ];
        let widths = [
            Constraint::Min(18),
            Constraint::Length(10),
            Constraint::Length(10),
            Constraint::Length(10),
            Constraint::Length(6),
            Constraint::Length(6),
            Constraint::Length(10),
            Constraint::Min(10),
        ];
        let table = Table::new(rows, widths).header(Row::new(titles).dim());
        frame.render_widget(table.block(block("containers")), area);
    }

    /// What a person should know, and below it the newest events.
    fn draw_news(&self, frame: &mut Frame<'_>, area: Rect) {
        let notes = !self.summary.notes.is_empty();
        let block = block(if notes { "notes and events" } else { "events" });
        let inner = block.inner(area);
        let height = usize::from(inner.height);
        // One line at least is left to the events.
        let wrapped = |note: &String| wrap(note, inner.width.into(), 2);
        let mut lines: Vec<Line<'_>> = self
            .summary
            .notes
            .iter()
            .flat_map(wrapped)
            .take(height.saturating_sub(1))
            .map(|line| Line::from(line).yellow())
            .collect();
        let room = height.saturating_sub(lines.len());
        let skipped = self.summary.events.len().saturating_sub(room);
        lines.extend(self.summary.events[skipped..].iter().map(|event| {
            Line::from(vec![
                Span::from(format!("{} ", time_of_day(event.unix_ms))).dim(),
                Span::from(format!("{:<10} ", event.node)),
                Span::from(format!("{} ", event.kind)).bold(),
                Span::from(event.message.clone()),
            ])
        }));
        frame.render_widget(Paragraph::new(lines).block(block), area);
    }
}

fn block(title: &str) -> Block<'static> {
    Block::bordered()
        .border_type(BorderType::Rounded)
        .border_style(Style::new().dim())
        .title(Span::from(format!(" {title} ")).bold())
}

#[expect(clippy::cast_precision_loss, reason = "a bar has some dozen columns")]
fn share(part: u64, whole: u64) -> f64 {
    if whole == 0 {
        return 0.0;
    }
    (part as f64 / whole as f64).clamp(0.0, 1.0)
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "clamped to 0..=100 first"
)]
fn percent(value: f64) -> u64 {
    value.clamp(0.0, 100.0).round() as u64
}

/// Shows the screen until q, Escape or Ctrl-C.
///
/// # Errors
/// A refusal if there is no terminal.
pub fn run(client: &mut Client, title: &str, interrupt: &Interrupt) -> Result<()> {
    let mut terminal = ratatui::try_init().map_err(|error| {
        Refusal::error(format!(
            "top needs a terminal ({error}): use 'dynamicswap status' where there is none"
        ))
    })?;
    let result = watch(&mut terminal, client, title, interrupt);
    ratatui::restore();
    result
}

fn watch(
    terminal: &mut DefaultTerminal,
    client: &mut Client,
    title: &str,
    interrupt: &Interrupt,
) -> Result<()> {
    let mut screen = Screen::new(title);
    loop {
        let look = client.status(0).map(|status| Summary::of(&status));
        screen.update(look, Instant::now());
        terminal.draw(|frame| screen.draw(frame))?;
        let next = Instant::now() + LOOK_EVERY;
        while event::poll(next.saturating_duration_since(Instant::now()))? {
            match event::read()? {
                Event::Key(key) => {
                    let control_c = key.code == KeyCode::Char('c')
                        && key.modifiers.contains(KeyModifiers::CONTROL);
                    if control_c || matches!(key.code, KeyCode::Char('q') | KeyCode::Esc) {
                        return Ok(());
                    }
                }
                Event::Resize(..) => {
                    terminal.draw(|frame| screen.draw(frame))?;
                }
                _ => {}
            }
        }
        if interrupt.check().is_err() {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::summary::tests::status;
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    fn drawn(screen: &Screen, width: u16, height: u16) -> String {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).expect("a screen");
        terminal.draw(|frame| screen.draw(frame)).expect("drawn");
        terminal.backend().to_string()
    }

    #[test]
    fn screen_shows_nodes_device_donors_containers_and_events() {
        let mut screen = Screen::new("cluster local");
        let start = Instant::now();
        screen.update(Ok(Summary::of(&status())), start);
        screen.update(Ok(Summary::of(&status())), start + Duration::from_secs(1));
        let text = drawn(&screen, 110, 32);
        for part in [
            "cluster local",
            "/dev/loop3",
            "default/verify",
            "ServerLost",
            "800 KiB of 1.0 GiB",
            "connection refused",
        ] {
            assert!(text.contains(part), "{part} is not in\n{text}");
        }
    }

    #[test]
    fn notes_are_shown_above_the_events_on_the_smallest_screen_too() {
        let mut summary = Summary::of(&status());
        summary.notes = vec!["the plan waits with 3 sets for borrower: no donor fits".to_owned()];
        let mut screen = Screen::new("cluster local");
        screen.update(Ok(summary), Instant::now());
        let text = drawn(&screen, 100, 25);
        for part in ["no donor fits", "notes and events", "ServerLost"] {
            assert!(text.contains(part), "{part} is not in\n{text}");
        }
    }

    #[test]
    fn controller_that_is_away_leaves_the_last_look_and_says_so() {
        let mut screen = Screen::new("t");
        screen.update(Ok(Summary::of(&status())), Instant::now());
        screen.update(Err(anyhow::anyhow!("no answer")), Instant::now());
        let text = drawn(&screen, 110, 32);
        assert!(
            text.contains("no answer") && text.contains("/dev/loop3"),
            "{text}"
        );
    }

    #[test]
    fn small_terminal_does_not_panic() {
        let mut screen = Screen::new("t");
        screen.update(Ok(Summary::of(&status())), Instant::now());
        for (width, height) in [(1, 1), (20, 5), (80, 24), (200, 60)] {
            drawn(&screen, width, height);
        }
    }

    #[test]
    fn rate_is_per_second_and_even_though_reports_come_at_every_second_look() {
        let (mut history, began) = (History::default(), Instant::now());
        for look in 0..12_u64 {
            let at = began + LOOK_EVERY * u32::try_from(look).expect("few");
            history.count(1000 + look / 2 * 500, at);
        }
        assert_eq!(history.tail(6), [500; 6], "{history:?}");
        history.count(3, began + Duration::from_secs(7));
        history.count(7, began + Duration::from_secs(9));
        assert_eq!(history.latest(), 2, "counted anew");
    }
}
