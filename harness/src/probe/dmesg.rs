//! The write-up's own check, `dmesg | grep -e DMAR -e IOMMU`, literally. It proves less than it looks:
//! it finds lines with the IOMMU off too.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::facts::{ProbeError, understand};
use super::{ParseError, Probe};
use crate::guest::{Exec, Exit, Guest, GuestError};

/// The command as the write-up gives it.
pub const COMMAND: &str = "dmesg | grep -e DMAR -e IOMMU";

/// What the check prints.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct DmesgIommuFacts {
    /// Its lines without their time stamps, in the kernel's order.
    pub lines: Vec<String>,
}

impl DmesgIommuFacts {
    /// Whether some line contains this.
    pub fn says(&self, text: &str) -> bool {
        self.lines.iter().any(|line| line.contains(text))
    }
}

/// Runs the check. That grep finds nothing, exit code 1, is an answer: an empty list.
///
/// # Errors
/// [`ProbeError`]; also where `dmesg` was refused, which leaves grep with nothing to find.
pub async fn read<G: Guest>(
    pve: &G,
    limit: Duration,
) -> Result<(DmesgIommuFacts, String), ProbeError> {
    let failed = |source| ProbeError::Guest {
        probe: Probe::DmesgIommu,
        guest: pve.name(),
        source,
    };
    let output = pve
        .exec(Exec::shell(COMMAND, limit))
        .await
        .map_err(failed)?;
    let found = match output.exit {
        Exit::Code(0) => true,
        Exit::Code(1) => output.stdout.is_empty(),
        _ => false,
    };
    if !found || !output.stderr.is_empty() {
        return Err(failed(GuestError::Failed {
            guest: pve.name(),
            command: COMMAND.to_owned(),
            exit: output.exit,
            stdout: output.stdout_text(),
            stderr: output.stderr_text(),
        }));
    }
    understand(Probe::DmesgIommu, pve.name(), output.stdout_text(), parse)
}

/// Parses lines of `dmesg`.
///
/// # Errors
/// [`ParseError`] for a line without its time stamp.
pub fn parse(output: &str) -> Result<DmesgIommuFacts, ParseError> {
    let mut lines = Vec::new();
    for (index, text) in output.lines().enumerate() {
        let message = text
            .strip_prefix('[')
            .and_then(|rest| rest.split_once("] "))
            .filter(|(stamp, _)| is_stamp(stamp.trim_start()))
            .map(|(_, message)| message.trim_end().to_owned())
            .ok_or_else(|| ParseError::Line {
                line: index + 1,
                text: text.to_owned(),
                why: "it does not start with a time stamp".to_owned(),
            })?;
        lines.push(message);
    }
    Ok(DmesgIommuFacts { lines })
}

/// Seconds, a dot, microseconds.
fn is_stamp(text: &str) -> bool {
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    text.split_once('.')
        .is_some_and(|(seconds, fraction)| digits(seconds) && digits(fraction))
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTEL: &str = include_str!("samples/dmesg-q35-intel.txt");

    #[test]
    fn messages_lose_their_time_stamps() {
        let facts = parse(INTEL).unwrap();
        assert_eq!(facts.lines.len(), 14);
        assert_eq!(facts.lines[2], "DMAR: IOMMU enabled");
        assert!(facts.says("Directed I/O"));
        assert!(!facts.says("AMD-Vi"));
    }

    #[test]
    fn nothing_found_is_a_fact_and_other_text_is_not() {
        assert!(parse("").unwrap().lines.is_empty());
        for output in [
            "dmesg: read kernel buffer failed: Operation not permitted\n",
            "[Mon Nov 23 22:32:29 2026] DMAR: IOMMU enabled\n",
            "[    0.000000]\n",
        ] {
            let error = parse(output).unwrap_err().to_string();
            assert!(error.contains("time stamp"), "{output:?}: {error}");
        }
    }
}
