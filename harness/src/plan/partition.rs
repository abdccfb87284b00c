//! Parts of a plan for machines that know nothing of each other: each scenario is in exactly one part,
//! whoever computes it, so nothing measured goes into it.

use super::moves::Move;
use super::tree::{NodeId, Plan};
use crate::scenario::Action;

/// Seconds that a move is expected to take under emulation; only the proportions count.
fn weight(one: &Move) -> u64 {
    match one {
        Move::PowerOn { .. } => 20,
        Move::PowerOff => 3,
        Move::Act(action) => match &**action {
            // Each has a boot of the host's in it.
            Action::Reboot | Action::Reset | Action::PowerCut | Action::CutDuring(_) => 28,
            // Each is imported and read anew.
            Action::PowerCuts(cuts) => 40 + 7 * cuts.cuts as u64,
            // A guest that comes up, or a countdown of minutes.
            Action::Start(_) | Action::WaitFor(_) => 45,
            Action::Measure(_) => 12,
            Action::Run(run) if run.command.contains("update-initramfs") => 45,
            Action::Run(_) => 4,
            _ => 1,
        },
    }
}

/// What a scenario's looking costs, whatever it looks at.
const LOOKS: u64 = 3;

impl Plan {
    /// The routes of part `part` of `parts`, the first part being 1: whole subtrees, spread so that all
    /// parts take about as long. A subtree is divided where it is too large for one part; its trunk is
    /// then travelled by several.
    pub fn part(&self, part: usize, parts: usize) -> Vec<usize> {
        let sizes = self.subtree_weights();
        let total: u64 = self.roots().iter().map(|root| sizes[*root]).sum();
        // Four pieces a part are enough to balance them.
        let largest = (total / (4 * parts.max(1) as u64)).max(1);
        let mut pieces: Vec<(u64, Vec<usize>)> = Vec::new();
        for root in self.roots() {
            self.pieces(*root, 0, largest, &sizes, &mut pieces);
        }
        pieces.sort_by(|one, other| other.0.cmp(&one.0).then_with(|| one.1.cmp(&other.1)));
        let mut bins = vec![(0, Vec::new()); parts.max(1)];
        for (weight, routes) in pieces {
            if let Some(lightest) = bins.iter_mut().min_by_key(|bin| bin.0) {
                lightest.0 += weight;
                lightest.1.extend(routes);
            }
        }
        let chosen = bins.into_iter().nth(part.saturating_sub(1));
        let mut routes = chosen.unwrap_or_default().1;
        routes.sort_unstable();
        routes
    }

    fn subtree_weights(&self) -> Vec<u64> {
        let nodes = self.nodes();
        let mut sizes: Vec<u64> = nodes
            .iter()
            .map(|node| weight(&node.arrival) + LOOKS * node.ends.len() as u64)
            .collect();
        // A parent comes before its children.
        for id in (0..nodes.len()).rev() {
            if let Some(parent) = nodes[id].parent {
                sizes[parent] += sizes[id];
            }
        }
        sizes
    }

    /// Divides a subtree into pieces that are no larger than need be; `trunk` is the way to it.
    fn pieces(
        &self,
        node: NodeId,
        trunk: u64,
        largest: u64,
        sizes: &[u64],
        pieces: &mut Vec<(u64, Vec<usize>)>,
    ) {
        let here = &self.nodes()[node];
        if sizes[node] <= largest || here.children.is_empty() {
            pieces.push((trunk + sizes[node], self.routes_below(node)));
            return;
        }
        let trunk = trunk + weight(&here.arrival);
        if !here.ends.is_empty() {
            pieces.push((trunk, here.ends.clone()));
        }
        for child in &here.children {
            self.pieces(*child, trunk, largest, sizes, pieces);
        }
    }

    fn routes_below(&self, node: NodeId) -> Vec<usize> {
        let here = &self.nodes()[node];
        let below = here
            .children
            .iter()
            .flat_map(|child| self.routes_below(*child));
        here.ends.iter().copied().chain(below).collect()
    }
}
