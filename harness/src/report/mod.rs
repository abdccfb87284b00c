//! What a person sees of a run: folds over the event stream.

mod failure;
mod lines;
mod phases;

pub use failure::render_failure;
pub use lines::Lines;
pub use phases::{Breakdown, Phase, Stopwatch};
