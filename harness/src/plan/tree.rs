//! The prefix tree: a node is a state, reached by the same moves from the same beginning.

use std::collections::HashMap;

use super::key::{Key, Setting};
use super::moves::{Move, first_lab, legs};
use crate::lab::Lab;
use crate::scenario::Scenario;

/// The place of a node in [`Plan::nodes`].
pub type NodeId = usize;

/// A state.
#[derive(Debug)]
pub struct Node {
    /// Its key.
    pub key: Key,
    /// The state before.
    pub parent: Option<NodeId>,
    /// What leads here from there.
    pub arrival: Move,
    /// The states that follow, in the order of their scenarios.
    pub children: Vec<NodeId>,
    /// The routes whose last move leads here.
    pub ends: Vec<usize>,
    /// Moves from the beginning, this one included.
    pub depth: usize,
}

/// A scenario's way through the tree.
#[derive(Debug)]
pub struct Route {
    /// The scenario's name.
    pub scenario: String,
    /// Its steps.
    pub legs: Vec<RouteLeg>,
}

/// One step on the way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteLeg {
    /// Its number, from 1; one more than there are for the closing expectations.
    pub step: usize,
    /// The states that it leads through; none when it only looks.
    pub nodes: Vec<NodeId>,
    /// The state that it ends in.
    pub at: NodeId,
    /// Whether it reads facts there.
    pub looks: bool,
}

impl Route {
    /// Every state on the way, in order.
    pub fn nodes(&self) -> impl DoubleEndedIterator<Item = NodeId> + '_ {
        self.legs.iter().flat_map(|leg| leg.nodes.iter().copied())
    }
}

/// How much a checkpoint of a state is wished for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Wish {
    /// Only if much time was spent since the last one.
    IfDear,
    /// The next run of one of its scenarios begins here, or one move before its end.
    ForTheNextRun,
    /// Another scenario of this plan goes on from here.
    Branch,
}

/// The ways of several scenarios.
#[derive(Debug, Default)]
pub struct Plan {
    nodes: Vec<Node>,
    routes: Vec<Route>,
    roots: Vec<NodeId>,
    by_arrival: HashMap<(Option<NodeId>, Move), NodeId>,
    by_name: HashMap<String, usize>,
}

impl Plan {
    /// The tree of these scenarios.
    pub fn new<'a>(
        scenarios: impl IntoIterator<Item = &'a Scenario>,
        setting: impl Fn(&Lab) -> Setting,
    ) -> Self {
        let mut plan = Plan::default();
        for scenario in scenarios {
            plan.add(scenario, &setting);
        }
        plan
    }

    fn add(&mut self, scenario: &Scenario, setting: &impl Fn(&Lab) -> Setting) {
        let number = self.routes.len();
        let mut at: Option<NodeId> = None;
        let mut route = Route {
            scenario: scenario.name.clone(),
            legs: Vec::new(),
        };
        for leg in legs(scenario) {
            let mut nodes = Vec::with_capacity(leg.moves.len());
            for one in leg.moves {
                // The disks are those of the machine that the scenario begins with.
                let here = || setting(first_lab(scenario));
                let node = self.step(at, one, here);
                nodes.push(node);
                at = Some(node);
            }
            // A scenario begins with its machine being switched on.
            let Some(here) = at else { continue };
            route.legs.push(RouteLeg {
                step: leg.step,
                nodes,
                at: here,
                looks: leg.looks,
            });
        }
        if let Some(end) = at {
            self.nodes[end].ends.push(number);
        }
        self.by_name.insert(scenario.name.clone(), number);
        self.routes.push(route);
    }

    /// The node that a move leads to. Its key is computed when it is new, so that the cost is that of
    /// distinct moves.
    fn step(&mut self, from: Option<NodeId>, one: Move, setting: impl Fn() -> Setting) -> NodeId {
        if let Some(node) = self.by_arrival.get(&(from, one.clone())) {
            return *node;
        }
        let before = from.map(|node| self.nodes[node].key);
        let id = self.nodes.len();
        self.nodes.push(Node {
            key: Key::after(before.as_ref(), &one, &setting()),
            parent: from,
            arrival: one.clone(),
            children: Vec::new(),
            ends: Vec::new(),
            depth: from.map_or(1, |node| self.nodes[node].depth + 1),
        });
        match from {
            Some(from) => self.nodes[from].children.push(id),
            None => self.roots.push(id),
        }
        self.by_arrival.insert((from, one), id);
        id
    }

    /// All states; a parent comes before its children.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The first states, one for each kind of machine.
    pub fn roots(&self) -> &[NodeId] {
        &self.roots
    }

    /// All ways, in the order in which the scenarios were given.
    pub fn routes(&self) -> &[Route] {
        &self.routes
    }

    /// The number of a scenario's way.
    pub fn number(&self, scenario: &str) -> Option<usize> {
        self.by_name.get(scenario).copied()
    }

    /// A scenario's way.
    pub fn route(&self, scenario: &str) -> Option<&Route> {
        self.number(scenario).map(|number| &self.routes[number])
    }

    /// The routes in the order of the tree: what has the most in common comes one after the other. Who looks
    /// at a state on the way goes first: it has to pass through that state, and leaves checkpoints of what
    /// comes after for those who have not.
    pub fn in_order(&self) -> Vec<usize> {
        let mut lookers: HashMap<NodeId, Vec<usize>> = HashMap::new();
        for (number, route) in self.routes.iter().enumerate() {
            for leg in route.legs.iter().filter(|leg| leg.looks) {
                lookers.entry(leg.at).or_default().push(number);
            }
        }
        let mut order = Vec::with_capacity(self.routes.len());
        let mut ordered = vec![false; self.routes.len()];
        let mut open: Vec<NodeId> = self.roots.iter().rev().copied().collect();
        while let Some(node) = open.pop() {
            let looking = lookers.get(&node).into_iter().flatten();
            for number in looking.chain(&self.nodes[node].ends) {
                if !std::mem::replace(&mut ordered[*number], true) {
                    order.push(*number);
                }
            }
            open.extend(self.nodes[node].children.iter().rev());
        }
        order
    }

    /// How much a checkpoint of a state is wished for.
    pub fn wish(&self, node: NodeId) -> Wish {
        let Node { children, ends, .. } = &self.nodes[node];
        if children.len() + ends.len() > 1 && !children.is_empty() {
            return Wish::Branch;
        }
        let last_but_one = |child: &NodeId| !self.nodes[*child].ends.is_empty();
        if !ends.is_empty() || children.iter().any(last_but_one) {
            return Wish::ForTheNextRun;
        }
        Wish::IfDear
    }

    /// Whether one of two states is the other or comes before it; gives the last that both ways share.
    pub fn shared(&self, one: &Route, other: &Route) -> Option<NodeId> {
        one.nodes()
            .zip(other.nodes())
            .take_while(|(one, other)| one == other)
            .last()
            .map(|(node, _)| node)
    }
}
