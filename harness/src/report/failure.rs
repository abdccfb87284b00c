//! A failure, in the words that a person needs: what was expected, what was seen, the consoles' last
//! lines, and where the rest is.

use std::fmt::Write;
use std::path::Path;

use super::findings::render_findings;
use crate::engine::Failure;
use crate::event::Verdict;
use crate::finding::{Finding, Severity};

/// How many console lines a report shows; the rest is in the folder.
const SHOWN_LINES: usize = 12;

/// The text of a verdict that is not good; empty for one that is.
pub fn render_failure(verdict: &Verdict, folder: &Path) -> String {
    let mut text = String::new();
    // Writing to a String does not fail.
    let _ = match verdict {
        Verdict::Held
        | Verdict::FailedAsExpected { .. }
        | Verdict::Measured { .. }
        | Verdict::Skipped { .. } => Ok(()),
        Verdict::Failed { failure } => write_failure(&mut text, failure, folder),
        Verdict::SetUpFailed { message } => {
            writeln!(
                text,
                "the lab could not be set up: {message}\nevidence: {}",
                folder.display()
            )
        }
        Verdict::Interrupted => writeln!(text, "interrupted\nevidence: {}", folder.display()),
    };
    text
}

fn write_failure(text: &mut String, failure: &Failure, folder: &Path) -> std::fmt::Result {
    writeln!(
        text,
        "step {} ({}) failed: {}",
        failure.step, failure.title, failure.kind
    )?;
    writeln!(text, "{}", failure.message)?;
    for (label, value) in [("expected", &failure.expected), ("seen", &failure.seen)] {
        if let Some(value) = value {
            writeln!(text, "  {label}: {value}")?;
        }
    }
    let causes = |one: &&Finding| one.severity > Severity::Note;
    let causes: Vec<Finding> = failure.findings.iter().filter(causes).cloned().collect();
    if !causes.is_empty() {
        writeln!(text, "what the facts prove:")?;
        for line in render_findings(&causes).trim_end().lines() {
            writeln!(text, "  {line}")?;
        }
    }
    for (name, lines) in [("pve", &failure.console), ("nas", &failure.nas_console)] {
        if lines.is_empty() {
            continue;
        }
        writeln!(text, "last lines of the console of {name}:")?;
        for line in &lines[lines.len().saturating_sub(SHOWN_LINES)..] {
            writeln!(text, "  | {line}")?;
        }
    }
    writeln!(text, "evidence: {}", folder.display())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::FailureKind;

    #[test]
    fn a_failure_says_what_was_expected_and_seen_and_where_the_rest_is() {
        let failure = Failure {
            kind: FailureKind::Check,
            check: Some("pve.driver".to_owned()),
            step: 4,
            title: "the drivers".to_owned(),
            message: "pve.driver does not hold".to_owned(),
            expected: Some("none".to_owned()),
            seen: Some("ahci".to_owned()),
            console: (0..30).map(|number| format!("line {number}")).collect(),
            nas_console: Vec::new(),
            findings: Vec::new(),
        };
        let verdict = Verdict::Failed {
            failure: Box::new(failure),
        };
        let text = render_failure(&verdict, Path::new("/runs/one"));
        for part in [
            "step 4",
            "expected: none",
            "seen: ahci",
            "| line 29",
            "evidence: /runs/one",
        ] {
            assert!(text.contains(part), "{part} is missing in\n{text}");
        }
        assert!(!text.contains("line 17\n"), "{text}");
    }
}
