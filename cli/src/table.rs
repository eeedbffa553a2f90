//! Tables without lines, as kubectl prints them.

use comfy_table::{ContentArrangement, Table, presets};

/// One without a heading yet. Its cells stay as long as they are.
#[must_use]
pub fn plain() -> Table {
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Disabled);
    table
}

/// Its lines, without the blanks around each.
#[must_use]
pub fn lines(table: &Table) -> String {
    let lines: Vec<String> = table.lines().map(|line| line.trim().to_owned()).collect();
    lines.join("\n") + "\n"
}
