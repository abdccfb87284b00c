//! Cluster-wide names of devices, `/etc/pve/mapping/pci.cfg` (pve-guest-common, Mapping/PCI.pm).

use std::fs;

use super::{PciError, Sysfs};
use crate::{
    config::{Format, Key, Kind, parse_properties},
    host::Host,
};

const MAP: Format = Format {
    default_key: None,
    required: &["id", "node", "path"],
    keys: &[&[
        Key {
            name: "node",
            kind: Kind::Text,
        },
        Key {
            name: "id",
            kind: Kind::Text,
        },
        Key {
            name: "subsystem-id",
            kind: Kind::Text,
        },
        Key {
            name: "path",
            kind: Kind::Text,
        },
        Key {
            name: "iommugroup",
            kind: Kind::Integer(-1),
        },
        Key {
            name: "description",
            kind: Kind::Text,
        },
    ]],
};

/// What a mapping means on this node.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Mapping {
    /// Alternatives; each is a list of address prefixes separated by `;`.
    pub paths: Vec<String>,
    /// Whether the devices can be migrated.
    pub live_migration: bool,
}

/// Looks a mapping up and checks that the hardware is still what it says.
pub fn find(host: &Host, sysfs: &Sysfs, name: &str) -> Result<Mapping, PciError> {
    let text = fs::read_to_string(host.config_root.join("mapping/pci.cfg")).unwrap_or_default();
    let node = host.node();
    let mut found = Mapping::default();
    for (key, value) in section(&text, name) {
        match key {
            "live-migration-capable" => found.live_migration = value == "1",
            "map" => {
                let map = parse_properties(&MAP, value)?;
                if map.get("node").is_some_and(|on| *on == node) {
                    let path = map.get("path").cloned().unwrap_or_default();
                    let first = path.split(';').next().unwrap_or_default();
                    let expected = |key: &str| map.get(key).map(String::as_str);
                    assert_valid(sysfs, name, first, expected).map_err(PciError::MappingInvalid)?;
                    found.paths.push(path);
                }
            }
            _ => {}
        }
    }
    if found.paths.is_empty() {
        Err(PciError::MappingNotFound(name.to_owned()))
    } else {
        Ok(found)
    }
}

/// The `key value` lines below the line that is just the name.
fn section<'a>(text: &'a str, name: &str) -> impl Iterator<Item = (&'a str, &'a str)> {
    text.lines()
        .skip_while(move |line| line.trim_end() != name)
        .skip(1)
        .take_while(|line| line.starts_with([' ', '\t']))
        .filter_map(|line| line.trim().split_once(char::is_whitespace))
        .map(|(key, value)| (key, value.trim()))
}

fn assert_valid<'a>(
    sysfs: &Sysfs,
    name: &str,
    path: &str,
    configured: impl Fn(&str) -> Option<&'a str>,
) -> Result<(), String> {
    // A path without a function stands for all of them; the first is looked at.
    let device = sysfs
        .devices(path)
        .into_iter()
        .next()
        .ok_or_else(|| format!("pci device '{path}' not found"))?;
    let actual = [
        ("id", Some(format!("{}:{}", device.vendor, device.device))),
        (
            "iommugroup",
            sysfs.group(&device.id).map(|group| group.to_string()),
        ),
        ("subsystem-id", sysfs.subsystem(&device.id)),
    ];
    for (property, actual) in actual {
        match (actual, configured(property)) {
            (Some(actual), Some(configured)) if actual != configured => {
                return Err(format!(
                    "'{property}' does not match for '{name}' ({actual} != {configured})"
                ));
            }
            (Some(_), None) if property == "id" => {
                return Err(format!(
                    "missing expected property '{property}' for device '{path}'"
                ));
            }
            (None, Some(configured)) if configured != "-1" => {
                return Err(format!(
                    "unexpected property '{property}' configured for device '{path}'"
                ));
            }
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::testing::FakeHost;
    use super::*;

    const CONFIG: &str = "other\n\tmap id=1:2,node=pve,path=0000:05:00.0\n\nnas-hba\n\tdescription the controller\n\
                          \tmap id=8086:2922,iommugroup=9,node=pve,path=0000:00:1f.2,subsystem-id=1af4:1100\n\
                          \tmap id=8086:2922,iommugroup=8,node=pve,path=0000:01:00.0\n\
                          \tmap id=8086:2922,node=elsewhere,path=0000:02:00.0\n";

    fn check(config: &str, name: &str, expected: Result<&[&str], &str>) {
        let fake = FakeHost::q35();
        let host = Host::under(fake.root());
        fs::create_dir_all(host.config_root.join("mapping")).unwrap();
        fs::create_dir_all(host.proc.join("sys/kernel")).unwrap();
        fs::write(host.config_root.join("mapping/pci.cfg"), config).unwrap();
        fs::write(host.proc.join("sys/kernel/hostname"), "pve\n").unwrap();
        let found = find(&host, &fake.sysfs(), name);
        match (&found, expected) {
            (Ok(mapping), Ok(paths)) => assert_eq!(mapping.paths, paths),
            (Err(error), Err(message)) => assert_eq!(error.to_string(), message),
            _ => panic!("{found:?} instead of {expected:?}"),
        }
    }

    #[test]
    fn alternatives_of_this_node() {
        check(CONFIG, "nas-hba", Ok(&["0000:00:1f.2", "0000:01:00.0"]));
    }

    #[test]
    fn hardware_that_changed() {
        let invalid = "PCI device mapping invalid (hardware probably changed): ";
        check(CONFIG, "hba", Err("PCI device mapping not found for 'hba'"));
        check(
            CONFIG,
            "other",
            Err(&format!("{invalid}pci device '0000:05:00.0' not found")),
        );
        let config = CONFIG.replace("iommugroup=9", "iommugroup=4");
        check(
            &config,
            "nas-hba",
            Err(&format!(
                "{invalid}'iommugroup' does not match for 'nas-hba' (9 != 4)"
            )),
        );
    }
}
