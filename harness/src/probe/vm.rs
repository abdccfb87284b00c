//! A VM's configuration file and status, from Proxmox's own interfaces.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::facts::{ProbeError, ask};
use super::text::records;
use super::{ParseError, Probe};
use crate::guest::{Exec, Guest};
use crate::scenario::Vmid;

/// The VM that the lab's NAS runs in.
pub const STORAGE_VM: Vmid = 100;

/// A VM as its host describes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct VmFacts {
    /// Its number.
    pub vmid: Vmid,
    /// `running`, `stopped`, `paused` or `suspended`: what `qm status` says.
    pub status: String,
    /// The part of the file that counts at the next start.
    pub config: ConfigSection,
    /// The sections after it, such as `PENDING` or a snapshot's name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sections: Vec<ConfigSection>,
}

/// A section of a VM's configuration file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct ConfigSection {
    /// Its name; none for what comes before the first `[…]`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Lines of the form `key: value`, in their order.
    pub lines: Vec<ConfigLine>,
    /// Comments and lines of no known form, which Proxmox warns about and drops.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub other: Vec<String>,
}

/// `key: value`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct ConfigLine {
    /// What is configured.
    pub key: String,
    /// How.
    pub value: String,
}

impl ConfigSection {
    /// The value of a key; of the last line where there are two, as Proxmox has it.
    pub fn value(&self, key: &str) -> Option<&str> {
        self.lines
            .iter()
            .rev()
            .find(|line| line.key == key)
            .map(|line| line.value.as_str())
    }
}

/// The script for a VM.
pub fn script(vmid: Vmid) -> String {
    format!(
        r#"status=$(qm status {vmid}) || exit
printf 'status\t%s\n' "$status"
while IFS= read -r line || [ -n "$line" ]; do printf 'config\t%s\n' "$line"; done \
    </etc/pve/qemu-server/{vmid}.conf || exit
echo end
"#
    )
}

/// Reads a VM's configuration and status.
///
/// # Errors
/// [`ProbeError`].
pub async fn read<G: Guest>(
    pve: &G,
    vmid: Vmid,
    limit: Duration,
) -> Result<(VmFacts, String), ProbeError> {
    let exec = Exec::shell(&script(vmid), limit);
    ask(Probe::Vm, pve, exec, |output| parse(vmid, output)).await
}

/// Parses what [`script`] prints.
///
/// # Errors
/// [`ParseError`] for output that is cut off or unknown.
pub fn parse(vmid: Vmid, output: &str) -> Result<VmFacts, ParseError> {
    let mut status = None;
    let mut sections = vec![ConfigSection::default()];
    for record in records(output)? {
        match record.keyword {
            "status" => {
                let said = record.one()?;
                let word = said
                    .strip_prefix("status: ")
                    .filter(|word| {
                        !word.is_empty()
                            && word.bytes().all(|b| b.is_ascii_lowercase() || b == b'-')
                    })
                    .ok_or_else(|| record.refuse("`status: ` and one word were expected"))?;
                status = Some(word.to_owned());
            }
            "config" => {
                let line = record.one()?;
                if let Some(name) = line
                    .trim()
                    .strip_prefix('[')
                    .and_then(|l| l.strip_suffix(']'))
                {
                    sections.push(ConfigSection {
                        name: Some(name.to_owned()),
                        ..ConfigSection::default()
                    });
                } else if let Some(section) = sections.last_mut() {
                    section.add(line);
                }
            }
            _ => return Err(record.unknown()),
        }
    }
    let status = status.ok_or_else(|| ParseError::missing("the answer of qm status"))?;
    let config = sections.remove(0);
    Ok(VmFacts {
        vmid,
        status,
        config,
        sections,
    })
}

impl ConfigSection {
    fn add(&mut self, line: &str) {
        match line.split_once(':') {
            _ if line.trim().is_empty() => {}
            Some((key, value)) if is_key(key) => self.lines.push(ConfigLine {
                key: key.to_owned(),
                value: value.trim().to_owned(),
            }),
            _ => self.other.push(line.to_owned()),
        }
    }
}

/// A key of Proxmox's configuration: a letter, then letters, digits, `_` and `-`.
fn is_key(text: &str) -> bool {
    text.starts_with(|first: char| first.is_ascii_alphabetic())
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sections_are_kept_apart_and_what_does_not_parse_is_kept() {
        // Written by hand after what Proxmox VE 9 writes.
        let output = "status\tstatus: stopped
config\t# NAS
config\tbios: ovmf
config\thostpci0: 0000:00:1f.2,pcie=1
config\thostpci0 0000:00:1f.2
config\t
config\t[PENDING]
config\tmemory: 4096
config\t[before]
config\thostpci0: 0000:00:1f.3
end
";
        let facts = parse(100, output).unwrap();
        assert_eq!(facts.status, "stopped");
        assert_eq!(facts.config.value("hostpci0"), Some("0000:00:1f.2,pcie=1"));
        assert_eq!(facts.config.other, ["# NAS", "hostpci0 0000:00:1f.2"]);
        let names: Vec<_> = facts
            .sections
            .iter()
            .map(|section| section.name.as_deref())
            .collect();
        assert_eq!(names, [Some("PENDING"), Some("before")]);
        assert_eq!(facts.sections[0].value("memory"), Some("4096"));
    }

    #[test]
    fn what_is_not_known_is_refused() {
        for (output, says) in [
            ("", "no output"),
            ("status\tstatus: running\n", "breaks off"),
            ("config\tmemory: 1\nend\n", "qm status"),
            (
                "status\tConfiguration file does not exist\nend\n",
                "`status: `",
            ),
            ("status\tstatus: \nend\n", "`status: `"),
            ("state\trunning\nend\n", "`state`"),
        ] {
            let error = parse(100, output).unwrap_err().to_string();
            assert!(error.contains(says), "{output:?}: {error}");
        }
    }
}
