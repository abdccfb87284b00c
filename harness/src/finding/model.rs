//! What a finding and a rule are.

use serde::{Deserialize, Serialize};

use super::view::View;

/// How bad it is.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, strum::Display,
)]
#[serde(rename_all = "kebab-case")]
#[strum(serialize_all = "kebab-case")]
pub enum Severity {
    /// Worth knowing; nothing is wrong.
    Note,
    /// It works, or may work, and something about it can go wrong.
    Warning,
    /// The passthrough does not work because of it, or data or the host are in danger.
    Error,
}

/// A named, explained cause.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Finding {
    /// The rule's name.
    pub id: &'static str,
    /// How bad it is here.
    pub severity: Severity,
    /// What the cause is, in one sentence.
    pub cause: String,
    /// The facts that prove it.
    pub proof: Vec<Proof>,
    /// Commands that put it right, in their order; a line that begins with `#` is for a person to do.
    pub fix: Vec<String>,
    /// Where more about it is written.
    pub reference: Reference,
}

/// A fact that proves a finding.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Proof {
    /// The probe that read it, or `run` for what was seen while a scenario ran.
    pub source: &'static str,
    /// The fact.
    pub quote: String,
}

/// A piece of documentation or code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Reference {
    /// Its title.
    pub title: &'static str,
    /// Its address.
    pub url: &'static str,
}

/// How a finding is derived.
#[derive(Debug, Clone, Copy)]
pub struct Rule {
    /// Its name, in kebab-case.
    pub id: &'static str,
    /// How bad its findings are; one may be milder or worse where the facts say so.
    pub severity: Severity,
    /// What it is about, in one sentence.
    pub summary: &'static str,
    /// Why that matters, for somebody who has not met it before.
    pub explanation: &'static str,
    /// Where more about it is written.
    pub reference: Reference,
    pub(super) derive: fn(&View<'_>) -> Option<Draft>,
}

/// A finding without what its rule knows.
#[derive(Debug)]
pub(super) struct Draft {
    cause: String,
    severity: Option<Severity>,
    proof: Vec<Proof>,
    fix: Vec<String>,
}

impl Draft {
    pub(super) fn new(cause: impl Into<String>) -> Self {
        Draft {
            cause: one_line(&cause.into()),
            severity: None,
            proof: Vec::new(),
            fix: Vec::new(),
        }
    }

    pub(super) fn proof(mut self, source: &'static str, quote: impl Into<String>) -> Self {
        let quote = one_line(&quote.into());
        self.proof.push(Proof { source, quote });
        self
    }

    pub(super) fn proofs(
        self,
        source: &'static str,
        quotes: impl IntoIterator<Item = String>,
    ) -> Self {
        quotes
            .into_iter()
            .fold(self, |draft, quote| draft.proof(source, quote))
    }

    pub(super) fn fix(mut self, command: impl Into<String>) -> Self {
        self.fix.push(one_line(&command.into()));
        self
    }

    /// Another severity than the rule's.
    pub(super) fn severity(mut self, severity: Severity) -> Self {
        self.severity = Some(severity);
        self
    }

    /// The severity where `condition` holds.
    pub(super) fn severity_if(self, condition: bool, severity: Severity) -> Self {
        if condition {
            self.severity(severity)
        } else {
            self
        }
    }
}

impl Rule {
    /// The finding, where the facts prove it.
    pub(super) fn apply(&self, view: &View<'_>) -> Option<Finding> {
        let draft = (self.derive)(view)?;
        Some(Finding {
            id: self.id,
            severity: draft.severity.unwrap_or(self.severity),
            cause: draft.cause,
            proof: draft.proof,
            fix: draft.fix,
            reference: self.reference,
        })
    }
}

/// A text without line ends and other characters that a terminal acts on: facts may come from anybody.
pub(crate) fn one_line(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    let text = lines.join("; ");
    text.chars().filter(|c| !c.is_control()).collect()
}

/// A text from a host as one word of a command: facts may come from anybody, and names may have spaces.
pub(super) fn word(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_./:=,@%+-".contains(c);
    match !text.is_empty() && text.chars().all(plain) {
        true => text.to_owned(),
        false => crate::guest::quoted(text),
    }
}
