//! The harness: boots a lab, walks a scenario's steps through it, reads typed facts out of its
//! guests and judges them.
//!
//! ARCHITECTURE.md has the map. What images are made of is the `images` crate's business, what a
//! person types is `xtask`'s.

pub mod accel;
pub mod checkpoint;
mod dice;
pub mod engine;
pub mod event;
pub mod evidence;
pub mod finding;
pub mod guest;
pub mod held;
pub mod host;
pub mod lab;
pub mod machine;
pub mod matrix;
pub mod plan;
pub mod poll;
pub mod probe;
pub mod report;
pub mod scenario;
pub mod signals;
