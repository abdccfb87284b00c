//! What a person sees of a run: folds over the event stream; and of facts: the findings that they prove.

mod failure;
mod findings;
mod lines;
mod phases;

pub use failure::render_failure;
pub use findings::{render_findings, render_unreadable, summary_of};
pub use lines::Lines;
pub use phases::{Breakdown, Phase, Stopwatch};
