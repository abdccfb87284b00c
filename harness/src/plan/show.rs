//! The plan as a person reads it.

use std::fmt::Write;

use super::key::Key;
use super::moves::Move;
use super::tree::{NodeId, Plan, Route};

/// What is known of states beside the plan.
pub trait Knowledge {
    /// Whether there is a checkpoint of a state.
    fn cached(&self, key: &Key) -> bool;
    /// How long a move took the last time, in seconds.
    fn seconds(&self, one: &Move) -> Option<f64>;
}

/// The tree as text: each state with the time it is expected to take and whether it is cached, each
/// scenario where its way ends, and at the bottom what a run would cost.
pub fn show(plan: &Plan, known: &impl Knowledge) -> String {
    let mut text = String::new();
    let needed = needed(plan, known);
    let mut open: Vec<(NodeId, usize)> = plan.roots().iter().rev().map(|id| (*id, 0)).collect();
    while let Some((id, indent)) = open.pop() {
        let node = &plan.nodes()[id];
        let time = match known.seconds(&node.arrival) {
            Some(seconds) => format!("{seconds:>6.1} s"),
            None => "      ? ".to_owned(),
        };
        let state = match (known.cached(&node.key), needed[id]) {
            (true, _) => "cached",
            (false, true) => "to do ",
            (false, false) => "passed",
        };
        let margin = "  ".repeat(indent);
        let title = node.arrival.title();
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{time}  {state}  {margin}{title}");
        for end in &node.ends {
            let name = &plan.routes()[*end].scenario;
            let _ = writeln!(text, "                  {margin}=> {name}");
        }
        // A way without branches is not indented further.
        let step = usize::from(node.children.len() > 1);
        open.extend(
            node.children
                .iter()
                .rev()
                .map(|child| (*child, indent + step)),
        );
    }
    let _ = write!(text, "\n{}", Totals::of(plan, known, &needed));
    text
}

/// Which states a run would have to reach by taking steps.
fn needed(plan: &Plan, known: &impl Knowledge) -> Vec<bool> {
    let mut needed = vec![false; plan.nodes().len()];
    for route in plan.routes() {
        for id in undone(plan, route, known) {
            needed[id] = true;
        }
    }
    needed
}

/// The states of a route after its deepest checkpoint.
fn undone(plan: &Plan, route: &Route, known: &impl Knowledge) -> Vec<NodeId> {
    route
        .nodes()
        .rev()
        .take_while(|id| !known.cached(&plan.nodes()[*id].key))
        .collect()
}

struct Totals {
    scenarios: usize,
    states: usize,
    to_do: usize,
    seconds: f64,
    one_by_one: f64,
    unknown: usize,
}

impl Totals {
    fn of(plan: &Plan, known: &impl Knowledge, needed: &[bool]) -> Self {
        let seconds = |id: NodeId| known.seconds(&plan.nodes()[id].arrival);
        let all: Vec<NodeId> = (0..plan.nodes().len()).filter(|id| needed[*id]).collect();
        Totals {
            scenarios: plan.routes().len(),
            states: plan.nodes().len(),
            to_do: all.len(),
            seconds: all.iter().filter_map(|id| seconds(*id)).sum(),
            one_by_one: plan
                .routes()
                .iter()
                .flat_map(Route::nodes)
                .filter_map(seconds)
                .sum(),
            unknown: all.iter().filter(|id| seconds(**id).is_none()).count(),
        }
    }
}

impl std::fmt::Display for Totals {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} scenarios, {} states, {} to do: {:.0} s",
            self.scenarios, self.states, self.to_do, self.seconds
        )?;
        if self.unknown > 0 {
            write!(f, " and {} steps that were never timed", self.unknown)?;
        }
        writeln!(
            f,
            " (one by one and without a cache: {:.0} s)",
            self.one_by_one
        )
    }
}
