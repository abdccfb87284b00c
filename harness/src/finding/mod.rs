//! Findings: named, explained causes of failure, derived from facts by rules that are pure functions. A
//! rule needs proof: what could not be read proves nothing.
//!
//! The facts of one moment are a [`FactBook`], one JSON document that can be recorded, masked and posted.
//! How the facts are read is [`crate::probe`]'s business, what a person sees is [`crate::report`]'s.

mod book;
mod gather;
mod mask;
mod model;
mod rules;
mod view;

pub use book::{BookError, FORMAT, FactBook, FactSet, Incident, RunContext};
pub use gather::{HOST_PROBES, NAS_PROBES, gather};
pub use mask::mask;
pub(crate) use model::one_line;
pub use model::{Finding, Proof, Reference, Rule, Severity};
pub use rules::{advice, derive, rule, rules};

#[cfg(test)]
mod tests;
