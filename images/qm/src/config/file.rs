//! The text of a configuration: description, settings, `[PENDING]`, `[special:…]`, and a section for each snapshot
//! (qemu-server, QemuServer.pm, `parse_vm_config` and `write_vm_config`).

use std::collections::BTreeMap;

use super::schema::check_type;
use crate::text::{percent_decode, percent_encode};

/// The settings of one section.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Section {
    /// Comment lines, decoded, without the `#`.
    pub description: Option<String>,
    /// Settings by name.
    pub settings: BTreeMap<String, String>,
}

impl Section {
    /// The value of a setting.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.settings.get(name).map(String::as_str)
    }

    /// A boolean setting.
    pub fn is(&self, name: &str) -> Option<bool> {
        self.get(name).map(|value| value == "1")
    }

    /// A number of `startup: order=1,up=30,down=60`; a bare number is the order.
    pub fn startup(&self, name: &str) -> Option<u64> {
        self.get("startup")?.split(',').find_map(|part| {
            let (key, value) = part.split_once('=').unwrap_or(("order", part));
            (key.trim() == name).then(|| value.trim().parse().ok())?
        })
    }

    /// A whole number.
    pub fn number(&self, name: &str) -> Option<u64> {
        self.get(name)?.parse().ok()
    }

    fn is_empty(&self) -> bool {
        self.description.is_none() && self.settings.is_empty()
    }
}

/// A whole configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VmConfig {
    /// What counts.
    pub main: Section,
    /// Changes that wait for the next start; `delete` names settings to remove.
    pub pending: Section,
    /// Special sections by name (`cloudinit`, `fleecing`).
    pub special: BTreeMap<String, Section>,
    /// Snapshots by name.
    pub snapshots: BTreeMap<String, Section>,
}

impl VmConfig {
    /// The settings as they will be once the pending changes are applied.
    pub fn with_pending(&self) -> Section {
        let mut section = self.main.clone();
        for (name, value) in &self.pending.settings {
            if name == "delete" {
                // A leading `!` asks for a forced removal, which is a matter of disks only.
                for name in value.split([',', ' ']) {
                    section.settings.remove(name.trim_start_matches('!'));
                }
            } else {
                section.settings.insert(name.clone(), value.clone());
            }
        }
        if self.pending.description.is_some() {
            section.description.clone_from(&self.pending.description);
        }
        section
    }

    /// Applies the pending changes; says whether there were any.
    pub fn apply_pending(&mut self) -> bool {
        let changed = !self.pending.is_empty();
        self.main = self.with_pending();
        self.pending = Section::default();
        changed
    }
}

enum Place {
    Main,
    Pending,
    Special(String),
    Snapshot(String),
    Unknown,
}

/// Reads a configuration. What is wrong in it is dropped and named in the warnings, as Proxmox does.
pub fn parse(vmid: u32, text: &str) -> (VmConfig, Vec<String>) {
    let mut config = VmConfig::default();
    let mut warnings = Vec::new();
    let mut place = Place::Main;
    let mut seen_pending = false;
    for line in text
        .lines()
        .map(|line| line.trim_end_matches('\r'))
        .filter(|line| !line.trim().is_empty())
    {
        if let Some(name) = section_name(line) {
            place = enter(vmid, name, &mut config, &mut seen_pending, &mut warnings);
            continue;
        }
        let section = match &place {
            Place::Main => &mut config.main,
            Place::Pending => &mut config.pending,
            Place::Special(name) => config.special.entry(name.clone()).or_default(),
            Place::Snapshot(name) => config.snapshots.entry(name.clone()).or_default(),
            Place::Unknown => continue,
        };
        read_line(vmid, line, &place, section, &mut warnings);
    }
    for section in [&mut config.main, &mut config.pending]
        .into_iter()
        .chain(config.special.values_mut())
        .chain(config.snapshots.values_mut())
    {
        if let Some(description) = &mut section.description {
            description.truncate(description.trim_end().len());
        }
    }
    (config, warnings)
}

fn section_name(line: &str) -> Option<&str> {
    line.trim_end()
        .strip_prefix('[')?
        .strip_suffix(']')
        .filter(|name| !name.contains(']'))
}

fn enter(
    vmid: u32,
    name: &str,
    config: &mut VmConfig,
    seen_pending: &mut bool,
    warnings: &mut Vec<String>,
) -> Place {
    let snapshot = |name: &str| {
        name.len() > 1
            && name.starts_with(|first: char| first.is_ascii_alphabetic())
            && name
                .chars()
                .all(|letter| letter.is_ascii_alphanumeric() || letter == '_' || letter == '-')
    };
    if name.eq_ignore_ascii_case("pending") {
        if std::mem::replace(seen_pending, true) {
            warnings.push(format!("vm {vmid} - duplicate section: pending"));
        }
        config.pending = Section::default();
        return Place::Pending;
    }
    match name.to_ascii_lowercase().strip_prefix("special:") {
        Some(special @ ("cloudinit" | "fleecing")) => {
            if config
                .special
                .insert(special.to_owned(), Section::default())
                .is_some()
            {
                warnings.push(format!("vm {vmid} - duplicate special section: {special}"));
            }
            Place::Special(special.to_owned())
        }
        None if snapshot(name) => {
            if config
                .snapshots
                .insert(name.to_owned(), Section::default())
                .is_some()
            {
                warnings.push(format!("vm {vmid} - duplicate snapshot section: {name}"));
            }
            Place::Snapshot(name.to_owned())
        }
        _ => {
            warnings.push(format!("vm {vmid} - skipping unknown section: '{name}'"));
            Place::Unknown
        }
    }
}

fn read_line(
    vmid: u32,
    line: &str,
    place: &Place,
    section: &mut Section,
    warnings: &mut Vec<String>,
) {
    if let Some(comment) = line.strip_prefix('#') {
        let description = section.description.get_or_insert_default();
        description.push_str(&percent_decode(comment));
        description.push('\n');
        return;
    }
    let Some((key, value)) = split_setting(line) else {
        warnings.push(format!("vm {vmid} - unable to parse config: {line}"));
        return;
    };
    match (key, place) {
        ("description", _) => section
            .description
            .get_or_insert_default()
            .push_str(&percent_decode(value)),
        ("snapstate", _) if value == "prepare" || value == "delete" => {}
        ("delete", Place::Pending) => {
            drop(section.settings.insert(key.to_owned(), value.to_owned()))
        }
        ("delete", _) => warnings.push(format!(
            "vm {vmid} - property 'delete' is only allowed in [PENDING]"
        )),
        // Special sections have schemas of their own, which this program only carries along.
        ("args", _) | (_, Place::Special(_)) => {
            drop(section.settings.insert(key.to_owned(), value.to_owned()))
        }
        _ => match check_type(key, value) {
            Ok(value) => {
                let key = if key == "cdrom" { "ide2" } else { key };
                section.settings.insert(key.to_owned(), value);
            }
            Err(error) => warnings.push(format!(
                "vm {vmid} - unable to parse value of '{key}' - {error}"
            )),
        },
    }
}

/// `[a-z][a-z_-]*[0-9]*: value`.
fn split_setting(line: &str) -> Option<(&str, &str)> {
    let (key, value) = line.split_once(':')?;
    let value = value.trim();
    let stem = key.trim_end_matches(|letter: char| letter.is_ascii_digit());
    let good = stem.starts_with(|first: char| first.is_ascii_lowercase())
        && stem
            .chars()
            .all(|letter| letter.is_ascii_lowercase() || letter == '_' || letter == '-')
        && !value.is_empty();
    good.then_some((key, value))
}

/// Writes a configuration: sections in Proxmox's order, settings sorted.
pub fn print(config: &VmConfig) -> String {
    let mut text = String::new();
    print_section(&mut text, &config.main);
    if !config.pending.is_empty() {
        text.push_str("\n[PENDING]\n");
        print_section(&mut text, &config.pending);
    }
    for (name, section) in &config.special {
        text.push_str(&format!("\n[special:{name}]\n"));
        print_section(&mut text, section);
    }
    for (name, section) in &config.snapshots {
        text.push_str(&format!("\n[{name}]\n"));
        print_section(&mut text, section);
    }
    text
}

fn print_section(text: &mut String, section: &Section) {
    for line in section
        .description
        .iter()
        .flat_map(|description| description.lines())
    {
        text.push_str(&format!("#{}\n", percent_encode(line)));
    }
    for (name, value) in &section.settings {
        text.push_str(&format!("{name}: {value}\n"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "#The NAS%3A\n#second line\nagent: 1\ncores: 2\nhostpci0: 0000:00:1f.2,pcie=1\nmachine: q35\n\n\
                        [PENDING]\ncores: 4\ndelete: machine\n\n[special:cloudinit]\nname: nas\n\n[before]\n\
                        hostpci0: 01:00\nsnaptime: 7\n";

    #[test]
    fn round_trips() {
        let (config, warnings) = parse(100, TEXT);
        assert_eq!(warnings, [""; 0]);
        assert_eq!(
            config.main.description.as_deref(),
            Some("The NAS:\nsecond line")
        );
        assert_eq!(config.main.get("cores"), Some("2"));
        assert_eq!(config.snapshots["before"].get("hostpci0"), Some("01:00"));
        assert_eq!(print(&config), TEXT);
    }

    #[test]
    fn pending_changes() {
        let (mut config, _) = parse(100, TEXT);
        let section = config.with_pending();
        assert_eq!(
            (section.get("cores"), section.get("machine")),
            (Some("4"), None)
        );
        assert!(config.apply_pending());
        assert!(!config.apply_pending());
        assert_eq!(config.main, section);
    }

    #[test]
    fn lines_after_a_snapshot_belong_to_it() {
        let (config, warnings) = parse(
            100,
            "machine: q35\n[snap]\nmemory: 1024\nhostpci0: 0000:00:1f.2,pcie=1\n",
        );
        assert_eq!(warnings, [""; 0]);
        assert_eq!(config.main.get("hostpci0"), None);
        assert_eq!(
            config.snapshots["snap"].get("hostpci0"),
            Some("0000:00:1f.2,pcie=1")
        );
    }

    #[test]
    fn what_is_wrong_is_named_and_dropped() {
        let text = "hostpci0: 0000:00:1f.2 pcie=1\nHostpci1: 00:1f.2\nhostpci16: 00:1f.2\ndelete: cores\nmemory: 1G\n\
                    nonsense\n[no such section!]\ncores: 9\n[PENDING]\n[PENDING]\n";
        let (config, warnings) = parse(100, text);
        assert_eq!(config.main, Section::default());
        assert_eq!(
            warnings,
            [
                "vm 100 - unable to parse value of 'hostpci0' - invalid key in comma-separated list property: 0000:00:1f.2 pcie",
                "vm 100 - unable to parse config: Hostpci1: 00:1f.2",
                "vm 100 - unable to parse value of 'hostpci16' - unknown setting 'hostpci16'",
                "vm 100 - property 'delete' is only allowed in [PENDING]",
                "vm 100 - unable to parse value of 'memory' - format error\ncurrent: type check ('integer') failed - got '1G'",
                "vm 100 - unable to parse config: nonsense",
                "vm 100 - skipping unknown section: 'no such section!'",
                "vm 100 - duplicate section: pending",
            ]
        );
    }
}
