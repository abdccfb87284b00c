//! Wrong files: what is said about them, where, and with which advice.

mod faults;
mod labs;
mod sense;
mod shape;

use super::super::ScenarioError;
use super::super::load::parse;
use super::two_labs;

/// What precedes the line that a case is about.
pub(super) const HEAD: &str = "summary = \"s\"\nlab = \"q35-ich9\"\n[[step]]\n";

pub(super) fn report(error: &ScenarioError) -> Vec<String> {
    error
        .problems()
        .iter()
        .map(|problem| {
            let (line, column) = problem.position().unwrap_or_default();
            let advice = problem
                .advice()
                .map(|advice| format!(" ({advice})"))
                .unwrap_or_default();
            format!("{line}:{column} {problem}{advice}")
        })
        .collect()
}

/// The problems of a whole scenario file, each as `line:column message (advice)`.
pub(super) fn mistakes(source: &str) -> Vec<String> {
    match parse("x.toml".as_ref(), source, &two_labs()) {
        Ok(_) => panic!("nothing is wrong with\n{source}"),
        Err(error) => report(&error),
    }
}

/// Steps and what is said about them. The first line of `step` is line 4 of the file.
#[track_caller]
pub(super) fn check(step: &str, said: &[&str]) {
    let seen = mistakes(&format!("{HEAD}{step}\n"));
    assert_eq!(seen, said, "{step}");
}

/// A step that is fine.
#[track_caller]
pub(super) fn fine(step: &str) {
    let source = format!("{HEAD}{step}\n");
    if let Err(error) = parse("x.toml".as_ref(), &source, &two_labs()) {
        panic!("{error}");
    }
}
