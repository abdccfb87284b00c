//! Every VM of the host: whether it runs, and the part of its configuration that passthrough depends on,
//! section by section. What may be private (names of users, keys, notes) is not kept.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::facts::{ProbeError, ask};
use super::text::records;
use super::vm::ConfigLine;
use super::{ParseError, Probe};
use crate::guest::{Exec, Guest};
use crate::lab::PciAddress;
use crate::scenario::Vmid;

/// The VMs of the host, and the device mappings of its cluster.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct VmConfigFacts {
    /// By number.
    pub vms: Vec<VmConfigFile>,
    /// What `mapping=` may name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mappings: Vec<DeviceMapping>,
}

/// A VM's configuration file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct VmConfigFile {
    /// The VM's number.
    pub vmid: Vmid,
    /// Whether its process is there.
    pub running: bool,
    /// The first is the one that counts.
    pub sections: Vec<VmSection>,
    /// What Proxmox would say of the file's `hostpci` lines, in its own words.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

/// A section of the file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct VmSection {
    /// Its name; none for what comes before the first `[…]`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The lines that passthrough depends on, in their order.
    pub lines: Vec<ConfigLine>,
    /// Whether the file has a time for this snapshot, which Proxmox writes and nobody else does.
    #[serde(default)]
    pub has_snaptime: bool,
    /// The `hostpci` lines that stand where Proxmox, which sorts by name, would not have put them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub out_of_order: Vec<String>,
}

/// A PCI device under a name that all nodes of a cluster know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct DeviceMapping {
    /// Its name.
    pub name: String,
    /// The devices, on whichever node.
    pub devices: Vec<MappedDevice>,
    /// Whether VMs with it may be migrated while they run.
    #[serde(default)]
    pub live_migration: bool,
}

/// One device of a mapping.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct MappedDevice {
    /// Its address, or the beginning of it.
    pub path: String,
    /// Vendor and device id when it was mapped, such as `8086:2922`.
    pub id: Option<String>,
    /// The node that it is on.
    pub node: Option<String>,
    /// What else Proxmox compares with the hardware at a start; none in records made before it was read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hardware: Option<MappedHardware>,
}

/// What a device was when it was mapped, beside its ids, as the file has it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct MappedHardware {
    /// The number of its IOMMU group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub iommu_group: Option<String>,
    /// Vendor and device id of the subsystem, such as `1000:3020`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subsystem_id: Option<String>,
}

impl VmConfigFile {
    /// The section that counts as long as the VM runs.
    pub fn main(&self) -> Option<&VmSection> {
        self.sections.first()
    }

    /// The changes that the next start applies. Proxmox keeps the last section of this name.
    pub fn pending(&self) -> Option<&VmSection> {
        self.sections.iter().rfind(|section| section.is_pending())
    }

    /// The value of a key at the next start; of the last line where there are two, as Proxmox has it.
    pub fn value(&self, key: &str) -> Option<&str> {
        let lines = self.lines();
        let line = lines.into_iter().rev().find(|line| line.key == key);
        line.map(|line| line.value.as_str())
    }

    /// The lines of the next start whose keys are a name and a number, as [`VmSection::numbered`] has them.
    pub fn numbered(&self, name: &str) -> Vec<&ConfigLine> {
        numbered(self.lines(), name)
    }

    /// The lines that count at the next start: what is pending comes last and so takes the place of others.
    fn lines(&self) -> Vec<&ConfigLine> {
        let pending: Vec<&ConfigLine> = self.pending().iter().flat_map(|one| &one.lines).collect();
        let (deletions, set): (Vec<_>, Vec<_>) =
            pending.into_iter().partition(|line| line.key == DELETE);
        // A leading `!` asks for a forced removal, which is a matter of disks only.
        let names = deletions
            .iter()
            .flat_map(|line| line.value.split([',', ';', ' ']));
        let deleted: Vec<&str> = names.map(|name| name.trim_start_matches('!')).collect();
        let main = self.main().into_iter().flat_map(|main| &main.lines);
        let kept = main.filter(|line| !deleted.contains(&line.key.as_str()));
        kept.chain(set).collect()
    }
}

impl VmSection {
    /// The value of a key; of the last line where there are two, as Proxmox has it.
    pub fn value(&self, key: &str) -> Option<&str> {
        let line = self.lines.iter().rev().find(|line| line.key == key);
        line.map(|line| line.value.as_str())
    }

    /// The lines whose keys are a name and a number, such as `hostpci0`, and that no later one takes the place
    /// of: Proxmox keeps the last line of a key that it can read.
    pub fn numbered(&self, name: &str) -> Vec<&ConfigLine> {
        numbered(self.lines.iter().collect(), name)
    }

    /// Whether it holds changes that wait for a start.
    pub fn is_pending(&self) -> bool {
        let name = self.name.as_deref();
        name.is_some_and(|name| name.eq_ignore_ascii_case("pending"))
    }
}

fn numbered<'l>(mut lines: Vec<&'l ConfigLine>, name: &str) -> Vec<&'l ConfigLine> {
    lines.retain(|line| {
        let number = line.key.strip_prefix(name);
        number.is_some_and(|rest| !rest.is_empty() && rest.bytes().all(|b| b.is_ascii_digit()))
    });
    let standing = lines.iter().enumerate().filter(|(at, line)| {
        let mut later = lines[at + 1..].iter();
        !later.any(|one| one.key == line.key && is_readable(one))
    });
    standing.map(|(_, line)| *line).collect()
}

/// Whether Proxmox can read a line.
fn is_readable(line: &ConfigLine) -> bool {
    qm::config::check_type(&line.key, &line.value).is_ok()
}

/// A VM runs if the process that its pid file names is there: asking `qm` starts Perl, for each VM. Where
/// `pve-cluster` is down there is no such folder, and for anybody but root there are files that cannot be
/// read: neither is a host without VMs. Proxmox takes no notice of files whose names are no numbers.
pub const SCRIPT: &str = r#"
readable() { [ -r "$1" ] || { echo "$1 cannot be read: only root may" >&2; exit 1; }; }
cd /etc/pve/qemu-server || exit
for file in "$PWD"/*.conf; do
    vmid=${file##*/} vmid=${vmid%.conf} state=stopped
    case $vmid in '' | 0* | *[!0-9]*) continue ;; esac
    [ -f "$file" ] || continue
    readable "$file"
    if read -r pid 2>/dev/null </run/qemu-server/$vmid.pid && [ -d "/proc/$pid" ]; then state=running; fi
    printf 'vm\t%s\t%s\n' "$vmid" "$state"
    while IFS= read -r line || [ -n "$line" ]; do printf 'line\t%s\n' "$line"; done <"$file"
done
if [ -f /etc/pve/mapping/pci.cfg ]; then
    readable /etc/pve/mapping/pci.cfg
    while IFS= read -r line || [ -n "$line" ]; do printf 'mapping\t%s\n' "$line"; done </etc/pve/mapping/pci.cfg
fi
echo end
"#;

/// Reads all configuration files.
///
/// # Errors
/// [`ProbeError`].
pub async fn read<G: Guest>(
    pve: &G,
    limit: Duration,
) -> Result<(VmConfigFacts, String), ProbeError> {
    ask(Probe::VmConfigs, pve, Exec::shell(SCRIPT, limit), parse).await
}

/// The key of the pending changes that names settings to remove.
const DELETE: &str = "delete";

/// Keys without a number that are kept.
const PLAIN_KEYS: [&str; 13] = [
    "agent", "args", "balloon", "bios", "boot", "cores", "cpu", DELETE, "machine", "memory",
    "onboot", "scsihw", "template",
];

/// Keys with a number that are kept.
const NUMBERED_KEYS: [&str; 5] = ["hostpci", "ide", "sata", "scsi", "virtio"];

/// Parses what [`SCRIPT`] prints.
///
/// # Errors
/// [`ParseError`] for output that is cut off or unknown.
pub fn parse(output: &str) -> Result<VmConfigFacts, ParseError> {
    let mut facts = VmConfigFacts::default();
    let mut texts: Vec<(Vmid, bool, String)> = Vec::new();
    for record in records(output)? {
        match record.keyword {
            "vm" => {
                let [vmid, state] = record.fields()?;
                let vmid = vmid
                    .parse()
                    .map_err(|_| record.refuse("the VM's number is no number"))?;
                texts.push((vmid, state == "running", String::new()));
            }
            "line" => {
                let Some((_, _, text)) = texts.last_mut() else {
                    return Err(record.refuse("no VM was named before"));
                };
                text.push_str(record.one()?);
                text.push('\n');
            }
            "mapping" => mapping_line(&mut facts.mappings, record.one()?),
            _ => return Err(record.unknown()),
        }
    }
    facts.vms = texts
        .into_iter()
        .map(|(vmid, running, text)| VmConfigFile {
            vmid,
            running,
            sections: sections(&text),
            warnings: warnings(vmid, &text),
        })
        .collect();
    facts.vms.sort_by_key(|vm| vm.vmid);
    Ok(facts)
}

/// Proxmox's words on the lines that name devices, from the same code that the lab's `qm` has.
fn warnings(vmid: Vmid, text: &str) -> Vec<String> {
    let (_, warnings) = qm::config::parse(vmid, text);
    warnings
        .into_iter()
        .filter(|words| words.contains("hostpci"))
        .collect()
}

fn sections(text: &str) -> Vec<VmSection> {
    let mut sections = vec![VmSection::default()];
    let mut last_key = String::new();
    for line in text.lines() {
        let name = line
            .trim_end()
            .strip_prefix('[')
            .and_then(|rest| rest.strip_suffix(']'));
        if let Some(name) = name {
            last_key.clear();
            sections.push(VmSection {
                name: Some(name.to_owned()),
                ..VmSection::default()
            });
            continue;
        }
        let (Some(section), Some((key, value))) = (sections.last_mut(), line.split_once(':'))
        else {
            continue;
        };
        if line.starts_with('#') || key.contains(char::is_whitespace) {
            continue;
        }
        let value = value.trim();
        section.has_snaptime |= key == "snaptime";
        let plain = key.trim_end_matches(|c: char| c.is_ascii_digit());
        // Proxmox drops `hostpci16` and above, and says so.
        let numbered = NUMBERED_KEYS.contains(&plain) && qm::config::setting(key).is_some();
        if PLAIN_KEYS.contains(&key) || numbered {
            section.lines.push(ConfigLine {
                key: key.to_owned(),
                value: value.to_owned(),
            });
        }
        if numbered && plain == "hostpci" && last_key.as_str() > key {
            section.out_of_order.push(format!("{key}: {value}"));
        }
        key.clone_into(&mut last_key);
    }
    sections
}

/// A name alone begins a mapping; what is indented belongs to it.
fn mapping_line(mappings: &mut Vec<DeviceMapping>, line: &str) {
    let indented = line.starts_with([' ', '\t']);
    let line = line.trim();
    if line.is_empty() || line.starts_with('#') {
        return;
    }
    if !indented {
        mappings.push(DeviceMapping {
            name: line.to_owned(),
            devices: Vec::new(),
            live_migration: false,
        });
        return;
    }
    let Some(mapping) = mappings.last_mut() else {
        return;
    };
    match line.split_once(char::is_whitespace) {
        Some(("map", value)) => {
            let property = |name: &str| {
                let mut parts = value
                    .split(',')
                    .filter_map(|part| part.trim().split_once('='));
                parts
                    .find(|(key, _)| *key == name)
                    .map(|(_, value)| value.to_owned())
            };
            if let Some(path) = property("path") {
                mapping.devices.push(MappedDevice {
                    path,
                    id: property("id"),
                    node: property("node"),
                    hardware: Some(MappedHardware {
                        iommu_group: property("iommugroup"),
                        subsystem_id: property("subsystem-id"),
                    }),
                });
            }
        }
        Some(("live-migration-capable", value)) => mapping.live_migration = value.trim() == "1",
        _ => {}
    }
}

/// Whether an address is one that a `host=` value names: a whole address, or the beginning of one that
/// takes all functions; the domain may be left out.
pub fn names(prefix: &str, address: PciAddress) -> bool {
    let full = match prefix.matches(':').count() {
        0 | 1 => format!("0000:{prefix}"),
        _ => prefix.to_owned(),
    };
    let address = address.to_string();
    match full.contains('.') {
        true => address == full.to_ascii_lowercase(),
        false => address.starts_with(&format!("{}.", full.to_ascii_lowercase())),
    }
}

#[cfg(test)]
mod tests;
