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
}

impl VmConfigFile {
    /// The section that counts.
    pub fn main(&self) -> Option<&VmSection> {
        self.sections.first()
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
    pub fn numbered<'s>(&'s self, name: &'s str) -> impl Iterator<Item = &'s ConfigLine> {
        let lines = self.lines.iter().enumerate();
        let standing = lines.filter(|(at, line)| {
            let mut later = self.lines[at + 1..].iter();
            !later.any(|one| one.key == line.key && is_readable(one))
        });
        standing.map(|(_, line)| line).filter(move |line| {
            let number = line.key.strip_prefix(name);
            number.is_some_and(|rest| !rest.is_empty() && rest.bytes().all(|b| b.is_ascii_digit()))
        })
    }
}

/// Whether Proxmox can read a line.
fn is_readable(line: &ConfigLine) -> bool {
    qm::config::check_type(&line.key, &line.value).is_ok()
}

/// A VM runs if the process that its pid file names is there: asking `qm` starts Perl, for each VM.
pub const SCRIPT: &str = r#"
for file in /etc/pve/qemu-server/*.conf; do
    [ -f "$file" ] || continue
    vmid=${file##*/} vmid=${vmid%.conf} state=stopped
    if read -r pid 2>/dev/null </run/qemu-server/$vmid.pid && [ -d "/proc/$pid" ]; then state=running; fi
    printf 'vm\t%s\t%s\n' "$vmid" "$state"
    while IFS= read -r line || [ -n "$line" ]; do printf 'line\t%s\n' "$line"; done <"$file"
done
if [ -f /etc/pve/mapping/pci.cfg ]; then
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

/// Keys without a number that are kept.
const PLAIN_KEYS: [&str; 12] = [
    "agent", "args", "balloon", "bios", "boot", "cores", "cpu", "machine", "memory", "onboot",
    "scsihw", "template",
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
mod tests {
    use super::*;

    // By hand, after files of Proxmox VE 9.
    const HOST: &str = "vm\t100\trunning
line\t#notes%3A secret
line\tagent: 1
line\tcipassword: $5$abc
line\thostpci0: 0000:00:1f.2,pcie=1
line\tmachine: q35
line\tscsi0: local-lvm:vm-100-disk-0,iothread=1
line\t
line\t[before]
line\tagent: 1
line\thostpci0: 0000:00:1f.2,pcie=1
line\tmachine: q35
line\tsnaptime: 1753000000
vm\t101\tstopped
line\tmachine: q35
line\thostpci1: 0000:00:1f.2 pcie=1
mapping\thba
mapping\t\tmap id=1000:0072,iommugroup=12,node=pve,path=0000:01:00.0,subsystem-id=1000:3020
mapping\t\tlive-migration-capable 1
end
";

    #[test]
    fn sections_are_kept_apart_and_private_lines_left_out() {
        let facts = parse(HOST).unwrap();
        let [first, second] = facts.vms.as_slice() else {
            panic!("{facts:?}")
        };
        assert!(first.running && !second.running);
        let main = first.main().unwrap();
        assert_eq!(main.value("hostpci0"), Some("0000:00:1f.2,pcie=1"));
        assert_eq!(main.numbered("scsi").count(), 1);
        assert!(!serde_json::to_string(&facts).unwrap().contains("secret"));
        assert!(
            !serde_json::to_string(&facts)
                .unwrap()
                .contains("cipassword")
        );
        assert!(first.sections[1].has_snaptime && first.sections[1].out_of_order.is_empty());
        assert_eq!(first.warnings, [""; 0]);

        assert_eq!(
            second.warnings,
            [
                "vm 101 - unable to parse value of 'hostpci1' - invalid key in comma-separated list property: 0000:00:1f.2 pcie"
            ]
        );
        assert_eq!(
            second.sections[0].out_of_order,
            ["hostpci1: 0000:00:1f.2 pcie=1"]
        );

        let mapping = &facts.mappings[0];
        assert_eq!(
            (mapping.name.as_str(), mapping.live_migration),
            ("hba", true)
        );
        assert_eq!(mapping.devices[0].id.as_deref(), Some("1000:0072"));
    }

    #[test]
    fn a_later_line_takes_the_place_of_an_earlier_one() {
        let lines = [
            "hostpci0: 00:1f.2",
            "scsi0: a:0",
            "hostpci1: 01:00.0",
            "hostpci0: 02:00.0",
            "hostpci1: 01:00.0 pcie=1",
            "scsi0: b:0",
        ];
        let section = &sections(&lines.join("\n"))[0];
        let shown = |name: &str| -> Vec<String> {
            let lines = section.numbered(name);
            lines
                .map(|line| format!("{}: {}", line.key, line.value))
                .collect()
        };
        // What cannot be read is none that could.
        assert_eq!(shown("hostpci"), [lines[2], lines[3], lines[4]]);
        assert_eq!(shown("scsi"), [lines[5]]);
    }

    #[test]
    fn a_number_that_proxmox_does_not_know_gives_no_device() {
        let section =
            &sections("hostpci15: 00:1f.2\nhostpci16: 01:00.0\nscsi30: a:0\nscsi030: b:0\n")[0];
        let keys: Vec<_> = section.lines.iter().map(|line| line.key.as_str()).collect();
        assert_eq!(keys, ["hostpci15", "scsi30"]);
    }

    #[test]
    fn addresses_may_be_short() {
        let address = "0000:00:1f.2".parse().unwrap();
        for (prefix, is) in [
            ("0000:00:1f.2", true),
            ("00:1f.2", true),
            ("00:1F.2", true),
            ("00:1f", true),
            ("0000:00:1f", true),
            ("00:1", false),
            ("00:1f.0", false),
            ("0001:00:1f.2", false),
        ] {
            assert_eq!(names(prefix, address), is, "{prefix}");
        }
    }

    #[test]
    fn what_is_not_known_is_refused() {
        for (output, says) in [
            ("", "no output"),
            ("vm\t100\trunning\n", "breaks off"),
            ("vm\tx\trunning\nend\n", "no number"),
            ("line\tmachine: q35\nend\n", "no VM was named"),
            ("vms\t100\nend\n", "`vms`"),
        ] {
            let error = parse(output).unwrap_err().to_string();
            assert!(error.contains(says), "{output:?}: {error}");
        }
        assert!(parse("end\n").unwrap().vms.is_empty());
    }
}
