//! The command line that the running kernel was booted with.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::facts::{ProbeError, ask};
use super::{ParseError, Probe};
use crate::guest::{Exec, Guest};

/// `/proc/cmdline`, word by word.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct CmdlineFacts {
    /// The kernel's file as the boot loader names it, from `BOOT_IMAGE=`.
    pub boot_image: Option<String>,
    /// All other words, in their order, without the quotes around values.
    pub words: Vec<String>,
}

impl CmdlineFacts {
    /// Whether this very word is on the command line.
    pub fn has(&self, word: &str) -> bool {
        self.words.iter().any(|present| present == word)
    }
}

/// Reads the command line.
///
/// # Errors
/// [`ProbeError`].
pub async fn read<G: Guest>(
    pve: &G,
    limit: Duration,
) -> Result<(CmdlineFacts, String), ProbeError> {
    let exec = Exec::new("cat", ["/proc/cmdline"], limit);
    ask(Probe::Cmdline, pve, exec, parse).await
}

/// Parses `/proc/cmdline`. Double quotes keep spaces together, as they do for the kernel.
///
/// # Errors
/// [`ParseError`] for an empty or broken-off line.
pub fn parse(output: &str) -> Result<CmdlineFacts, ParseError> {
    if output.trim().is_empty() {
        return Err(ParseError::Empty);
    }
    let Some(line) = output.strip_suffix('\n') else {
        return Err(ParseError::shape(
            "/proc/cmdline",
            "its line end is missing",
        ));
    };
    if line.contains('\n') {
        return Err(ParseError::shape(
            "/proc/cmdline",
            "it has more than one line",
        ));
    }
    let mut words = Vec::new();
    let mut word = String::new();
    let mut quoted = false;
    for character in line.chars().chain([' ']) {
        match character {
            '"' => quoted = !quoted,
            ' ' | '\t' if !quoted => {
                if !word.is_empty() {
                    words.push(std::mem::take(&mut word));
                }
            }
            other => word.push(other),
        }
    }
    if quoted {
        return Err(ParseError::shape("/proc/cmdline", "a quote is not closed"));
    }
    let boot_image = words
        .iter()
        .find_map(|word| word.strip_prefix("BOOT_IMAGE="))
        .map(str::to_owned);
    words.retain(|word| !word.starts_with("BOOT_IMAGE="));
    Ok(CmdlineFacts { boot_image, words })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_keep_their_order_and_lose_their_quotes() {
        // The first as GRUB on Debian passes it, written by hand; the second captured on a Firecracker
        // machine (Linux 6.18).
        for (line, boot_image, words) in [
            (
                "BOOT_IMAGE=/boot/vmlinuz-6.12.43+deb13-amd64 root=UUID=6f1a ro quiet intel_iommu=on iommu=pt\n",
                Some("/boot/vmlinuz-6.12.43+deb13-amd64"),
                &[
                    "root=UUID=6f1a",
                    "ro",
                    "quiet",
                    "intel_iommu=on",
                    "iommu=pt",
                ][..],
            ),
            (
                "reboot=k panic=1  dyndbg=\"file drivers/vfio/* +p\"\n",
                None,
                &["reboot=k", "panic=1", "dyndbg=file drivers/vfio/* +p"][..],
            ),
        ] {
            let facts = parse(line).unwrap();
            assert_eq!(facts.boot_image.as_deref(), boot_image);
            assert_eq!(facts.words, words);
        }
    }

    #[test]
    fn what_is_no_command_line_is_refused() {
        for (output, says) in [
            ("", "no output"),
            ("\n", "no output"),
            ("quiet intel_iommu=o", "line end"),
            ("quiet\nquiet\n", "more than one line"),
            ("quiet x=\"a b\n", "quote"),
        ] {
            let error = parse(output).unwrap_err().to_string();
            assert!(error.contains(says), "{output:?}: {error}");
        }
    }
}
