//! What a run will do: scenarios as ways through one prefix tree of states, so that what several of
//! them begin with is done once. Pure: nothing here runs a machine or looks at a disk.

mod key;
mod moves;
mod partition;
mod show;
mod tree;

pub use key::{FORMAT, Key, Setting};
pub use moves::{Bays, Leg, Move, first_lab, legs};
pub use show::{Knowledge, show};
pub use tree::{Node, NodeId, Plan, Route, RouteLeg, Wish};

#[cfg(test)]
mod tests;
