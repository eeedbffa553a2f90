//! `rebalance`: which copies move from fuller donors to emptier ones, and why.

use anyhow::Result;
use comfy_table::Table;
use dynamicswap_proto::control::v1::{DonorUse, RebalanceMove, RebalanceResponse, SlotUse};
use serde_json::{Value, json};

use crate::args::{RebalanceArgs, RebalanceOutput};
use crate::client::Client;
use crate::table;

/// Begins a rebalance, or shows what it would do.
///
/// # Errors
/// If the controller does not answer.
pub fn run(args: &RebalanceArgs, client: &mut Client) -> Result<()> {
    let answer = client.rebalance(args.dry_run)?;
    match args.output {
        RebalanceOutput::Table => print!("{}", text(&answer, args.dry_run)),
        RebalanceOutput::Json => println!("{:#}", as_json(&answer)),
    }
    Ok(())
}

/// The answer for people.
fn text(answer: &RebalanceResponse, dry_run: bool) -> String {
    let mut text = String::new();
    if !answer.moves.is_empty() {
        text += &table::lines(&moves(&answer.moves));
        text.push('\n');
    }
    if !answer.donors.is_empty() {
        text += &table::lines(&donors(&answer.donors));
        text.push('\n');
    }
    text += &sentence(answer, dry_run);
    text.push('\n');
    if !answer.held.is_empty() {
        text += &format!("It waits: {}.\n", answer.held);
    }
    text
}

/// What is, or would be, done.
fn sentence(answer: &RebalanceResponse, dry_run: bool) -> String {
    let count = answer.moves.len();
    let copies = if count == 1 { "copy" } else { "copies" };
    if answer.donors.len() < 2 {
        return "Nothing to even out: fewer than two donors take new slabs.".to_owned();
    }
    if count == 0 {
        return "Nothing to move: no copy on a fuller donor can go to an emptier one, or all lend \
                alike."
            .to_owned();
    }
    if !dry_run {
        return format!(
            "Begun: {count} {copies} to move, a few at a time; 'dynamicswap status' says how far it is."
        );
    }
    let by_itself = match (answer.uneven, answer.automatic) {
        (true, true) => "the controller does so by itself, a few at a time",
        (true, false) => "the controller would, but runs with --rebalance never",
        (false, _) => "the donors are within the dead band, so the controller leaves them alone",
    };
    format!("Dry run: {count} {copies} would move. Nothing was changed; {by_itself}.")
}

fn moves(moves: &[RebalanceMove]) -> Table {
    let mut table = table::plain();
    table.set_header(["SET", "BORROWER", "FROM", "TO", "SLAB", "WHY"]);
    for one in moves {
        table.add_row([
            one.set_id.to_string(),
            one.borrower.clone(),
            one.from.clone(),
            one.to.clone(),
            if one.bound { "copied" } else { "none yet" }.to_owned(),
            reason(one),
        ]);
    }
    table
}

fn reason(one: &RebalanceMove) -> String {
    let (from, to) = (slots(one.from_use), slots(one.to_use));
    format!("{} lends {from}, {} {to}", one.from, one.to)
}

fn donors(donors: &[DonorUse]) -> Table {
    let mut table = table::plain();
    table.set_header(["DONOR", "LENT", "AFTER"]);
    for donor in donors {
        let node = donor.node.clone();
        table.add_row([node, slots(donor.before), slots(donor.after)]);
    }
    table
}

fn slots(slots: Option<SlotUse>) -> String {
    let SlotUse { lent, lendable } = slots.unwrap_or_default();
    format!("{lent} of {lendable} ({} %)", percent(lent, lendable))
}

fn percent(lent: u32, lendable: u32) -> u64 {
    u64::from(lent) * 100 / u64::from(lendable.max(1))
}

/// The answer for programs.
fn as_json(answer: &RebalanceResponse) -> Value {
    let slots = |slots: Option<SlotUse>| {
        let SlotUse { lent, lendable } = slots.unwrap_or_default();
        json!({"lent": lent, "lendable": lendable})
    };
    let one_move = |one: &RebalanceMove| {
        json!({
            "set": one.set_id,
            "borrower": one.borrower,
            "from": one.from,
            "to": one.to,
            "bound": one.bound,
            "fromUse": slots(one.from_use),
            "toUse": slots(one.to_use),
            "reason": reason(one),
        })
    };
    let donor = |donor: &DonorUse| {
        json!({
            "node": donor.node,
            "before": slots(donor.before),
            "after": slots(donor.after),
        })
    };
    json!({
        "started": answer.started,
        "uneven": answer.uneven,
        "automatic": answer.automatic,
        "held": answer.held,
        "moves": answer.moves.iter().map(one_move).collect::<Vec<_>>(),
        "donors": answer.donors.iter().map(donor).collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn used(lent: u32, lendable: u32) -> Option<SlotUse> {
        Some(SlotUse { lent, lendable })
    }

    fn uneven() -> RebalanceResponse {
        RebalanceResponse {
            moves: vec![RebalanceMove {
                set_id: 17,
                borrower: "b1".to_owned(),
                from: "d1".to_owned(),
                to: "d2".to_owned(),
                from_use: used(40, 64),
                to_use: used(7, 64),
                bound: true,
            }],
            donors: vec![
                DonorUse {
                    node: "d1".to_owned(),
                    before: used(40, 64),
                    after: used(39, 64),
                },
                DonorUse {
                    node: "d2".to_owned(),
                    before: used(7, 64),
                    after: used(8, 64),
                },
            ],
            uneven: true,
            automatic: true,
            held: String::new(),
            started: false,
        }
    }

    #[test]
    fn dry_run_shows_each_move_with_its_reason_and_says_that_nothing_changed() {
        let text = text(&uneven(), true);
        assert!(
            text.contains("d1 lends 40 of 64 (62 %), d2 7 of 64 (10 %)"),
            "{text}"
        );
        assert!(text.contains("39 of 64 (60 %)"), "{text}");
        assert!(
            text.contains("Dry run: 1 copy would move. Nothing was changed"),
            "{text}"
        );
    }

    #[test]
    fn what_comes_first_is_said() {
        let mut answer = uneven();
        answer.held = "3 of 4 donors are gone at once".to_owned();
        assert!(text(&answer, false).contains("Begun: 1 copy to move"));
        assert!(text(&answer, false).contains("It waits: 3 of 4 donors are gone at once."));
    }

    #[test]
    fn even_donors_are_shown_all_the_same() {
        let mut answer = uneven();
        answer.moves.clear();
        let text = text(&answer, true);
        assert!(text.contains("Nothing to move"), "{text}");
        assert!(text.contains("40 of 64"), "{text}");
        answer.donors.clear();
        assert!(super::text(&answer, true).contains("fewer than two donors"));
    }

    #[test]
    fn programs_get_the_same() {
        let json = as_json(&uneven());
        assert_eq!(json["moves"][0]["set"], 17);
        assert_eq!(json["donors"][1]["after"]["lent"], 8);
        assert_eq!(json["started"], false);
    }
}
