//! Findings in words: what the cause is, what proves it, what puts it right, where more is written.

use std::collections::BTreeMap;
use std::fmt::Write;

use console::style;

use crate::finding::{Finding, Severity, one_line};
use crate::probe::Probe;

/// How wide the column before the words is.
const MARGIN: usize = 10;

/// Findings as a person reads them, one below the other.
pub fn render_findings(findings: &[Finding]) -> String {
    let mut text = String::new();
    for finding in findings {
        let word = match finding.severity {
            Severity::Error => style("error").red().bold(),
            Severity::Warning => style("warning").yellow().bold(),
            Severity::Note => style("note").cyan(),
        };
        // The styled word has characters that take no room.
        let room = MARGIN.saturating_sub(finding.severity.to_string().len());
        // Writing to a String does not fail.
        let _ = writeln!(text, "{word}{:room$}{}", "", style(finding.id).bold());
        let _ = writeln!(text, "{:MARGIN$}{}", "", finding.cause);
        let width = finding
            .proof
            .iter()
            .map(|one| one.source.len())
            .max()
            .unwrap_or_default();
        for (index, proof) in finding.proof.iter().enumerate() {
            let label = if index == 0 { "  proof" } else { "" };
            let _ = writeln!(
                text,
                "{label:MARGIN$}{:width$}  {}",
                proof.source, proof.quote
            );
        }
        for (index, line) in finding.fix.iter().enumerate() {
            let label = if index == 0 { "  fix" } else { "" };
            let _ = writeln!(text, "{label:MARGIN$}{line}");
        }
        let label = "  read";
        let _ = writeln!(text, "{label:MARGIN$}{}", finding.reference.title);
        let _ = writeln!(text, "{:MARGIN$}{}\n", "", finding.reference.url);
    }
    text
}

/// What could not be read, and why not; nothing where all was.
pub fn render_unreadable(unreadable: &BTreeMap<Probe, String>) -> String {
    let mut text = String::new();
    for (probe, why) in unreadable {
        let why = one_line(why);
        let _ = writeln!(text, "not readable: {probe}: {why}");
    }
    text
}

/// How many there are of each severity.
pub fn summary_of(findings: &[Finding]) -> String {
    let count = |severity: Severity| {
        let count = findings
            .iter()
            .filter(|one| one.severity == severity)
            .count();
        let ending = if count == 1 { "" } else { "s" };
        format!("{count} {severity}{ending}")
    };
    [Severity::Error, Severity::Warning, Severity::Note]
        .map(count)
        .join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::finding::{Proof, Reference};

    #[test]
    fn a_finding_says_cause_proof_fix_and_where_to_read() {
        let finding = Finding {
            id: "initramfs-stale",
            severity: Severity::Error,
            cause: "the blacklist is not in the initramfs".to_owned(),
            proof: ["host-config", "pci"]
                .map(|source| Proof {
                    source,
                    quote: "one; two".to_owned(),
                })
                .into(),
            fix: vec!["update-initramfs -u -k all".to_owned(), "reboot".to_owned()],
            reference: Reference {
                title: "update-initramfs(8)",
                url: "https://example.org",
            },
        };
        let text = render_findings(std::slice::from_ref(&finding));
        assert_eq!(
            console::strip_ansi_codes(&text),
            "error     initramfs-stale
          the blacklist is not in the initramfs
  proof   host-config  one; two
          pci          one; two
  fix     update-initramfs -u -k all
          reboot
  read    update-initramfs(8)
          https://example.org

"
        );
        assert_eq!(summary_of(&[finding]), "1 error, 0 warnings, 0 notes");
        let unreadable = BTreeMap::from([(Probe::Iommu, "no\nway".to_owned())]);
        assert_eq!(
            render_unreadable(&unreadable),
            "not readable: iommu: no; way\n"
        );
    }
}
