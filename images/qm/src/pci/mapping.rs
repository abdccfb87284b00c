//! Cluster-wide names of devices, `/etc/pve/mapping/pci.cfg` (pve-guest-common, Mapping/PCI.pm).

use std::fs;

use super::{PciError, Sysfs};
use crate::{
    config::{Format, Key, Kind, Properties, parse_properties},
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

/// The file, below `/etc/pve`.
const FILE: &str = "mapping/pci.cfg";

/// Looks a mapping up and checks that the hardware is still what it says. A `map` that cannot be read is left out and
/// said to `warn` (pve-common, SectionConfig.pm, `parse_config`).
pub fn find(
    host: &Host,
    sysfs: &Sysfs,
    name: &str,
    warn: &mut dyn FnMut(&str),
) -> Result<Mapping, PciError> {
    let text = fs::read_to_string(host.config_root.join(FILE)).unwrap_or_default();
    let node = host.node();
    let lines: Vec<_> = section(&text, name).collect();
    let is_set = |wanted: &str| {
        lines
            .iter()
            .any(|&(_, key, value)| (key, value) == (wanted, "1"))
    };
    let mut found = Mapping {
        live_migration: is_set("live-migration-capable"),
        ..Mapping::default()
    };
    for (number, _, value) in lines.iter().filter(|(_, key, _)| *key == "map") {
        let map = match parse_properties(&MAP, value) {
            Ok(map) => map,
            Err(error) => {
                warn(&format!(
                    "file /etc/pve/{FILE} line {number} (section '{name}') - unable to parse value of 'map': \
                     invalid format - {error}"
                ));
                continue;
            }
        };
        if map.get("node").is_some_and(|on| *on == node) {
            assert_valid(sysfs, name, &map, is_set("mdev")).map_err(PciError::MappingInvalid)?;
            found.paths.extend(map.get("path").cloned());
        }
    }
    if found.paths.is_empty() {
        Err(PciError::MappingNotFound(name.to_owned()))
    } else {
        Ok(found)
    }
}

/// The `key value` lines below the line that is just the name, each with its number.
fn section<'a>(text: &'a str, name: &str) -> impl Iterator<Item = (usize, &'a str, &'a str)> {
    text.lines()
        .zip(1..)
        .skip_while(move |(line, _)| line.trim_end() != name)
        .skip(1)
        .take_while(|(line, _)| line.starts_with([' ', '\t']))
        .filter_map(|(line, number)| {
            let (key, value) = line.trim().split_once(char::is_whitespace)?;
            Some((number, key, value.trim()))
        })
}

/// Checks every device of a list: all are to be of the kind that the map names, and the first is to be in its group.
fn assert_valid(sysfs: &Sysfs, name: &str, map: &Properties, mediated: bool) -> Result<(), String> {
    let paths = map.get("path").map_or("", String::as_str).split(';');
    for (index, path) in paths.enumerate() {
        // A path without a function stands for all of them; the first has to be there and is looked at.
        let path = match path.contains('.') {
            true => path.to_owned(),
            false => format!("{path}.0"),
        };
        let device = sysfs
            .info(&path)
            .ok_or_else(|| format!("pci device '{path}' not found"))?;
        let id = format!("{}:{}", device.vendor, device.device);
        let group = sysfs.group(&path).map(|group| group.to_string());
        let flag = |on: bool| Some(u8::from(on).to_string());
        // Sorted by name, as Proxmox has them: the first that differs is the one that is named.
        for (property, actual, configured) in [
            ("id", Some(id), map.get("id").cloned()),
            ("iommugroup", group, map.get("iommugroup").cloned()),
            ("mdev", flag(sysfs.is_mediated(&path)), flag(mediated)),
            (
                "subsystem-id",
                sysfs.subsystem(&path),
                map.get("subsystem-id").cloned(),
            ),
        ] {
            if property == "iommugroup" && index > 0 {
                continue;
            }
            match (actual, configured) {
                (Some(_), None) => Err(format!(
                    "missing expected property '{property}' for device '{path}'"
                )),
                (None, Some(_)) => Err(format!(
                    "unexpected property '{property}' configured for device '{path}'"
                )),
                (Some(actual), Some(configured)) if actual != configured => Err(format!(
                    "'{property}' does not match for '{name}' ({actual} != {configured})"
                )),
                _ => Ok(()),
            }?;
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
                          \tmap id=8086:2922,iommugroup=8,node=pve,path=0000:01:00.0,subsystem-id=1af4:1100\n\
                          \tmap id=8086:2922,node=elsewhere,path=0000:02:00.0\n";
    const INVALID: &str = "PCI device mapping invalid (hardware probably changed): ";

    fn check(config: &str, name: &str, expected: Result<&[&str], &str>) {
        check_on(&FakeHost::q35(), config, name, expected);
    }

    /// What is found on a host with this configuration, and the warnings.
    fn find_on(
        fake: &FakeHost,
        config: &str,
        name: &str,
    ) -> (Result<Mapping, PciError>, Vec<String>) {
        let host = Host::under(fake.root());
        fs::create_dir_all(host.config_root.join("mapping")).unwrap();
        fs::create_dir_all(host.proc.join("sys/kernel")).unwrap();
        fs::write(host.config_root.join(FILE), config).unwrap();
        fs::write(host.proc.join("sys/kernel/hostname"), "pve\n").unwrap();
        let mut warnings = Vec::new();
        let found = find(&host, &fake.sysfs(), name, &mut |line| {
            warnings.push(line.to_owned())
        });
        (found, warnings)
    }

    fn check_on(fake: &FakeHost, config: &str, name: &str, expected: Result<&[&str], &str>) {
        let (found, warnings) = find_on(fake, config, name);
        assert_eq!(warnings, [""; 0], "{config}");
        match (&found, expected) {
            (Ok(mapping), Ok(paths)) => assert_eq!(mapping.paths, paths, "{config}"),
            (Err(error), Err(message)) => assert_eq!(error.to_string(), message, "{config}"),
            _ => panic!("{config}: {found:?} instead of {expected:?}"),
        }
    }

    /// A mapping `hba` of one list of paths, with the lines after it.
    fn check_list(paths: &str, more: &str, expected: Result<(), &str>) {
        let config = format!(
            "hba\n\tmap id=8086:2922,iommugroup=9,node=pve,path={paths},subsystem-id=1af4:1100\n{more}"
        );
        match expected {
            Ok(()) => check(&config, "hba", Ok(&[paths])),
            Err(words) => check(&config, "hba", Err(&format!("{INVALID}{words}"))),
        }
    }

    #[test]
    fn alternatives_of_this_node() {
        check(CONFIG, "nas-hba", Ok(&["0000:00:1f.2", "0000:01:00.0"]));
    }

    #[test]
    fn a_line_that_cannot_be_read_is_named_and_left_out() {
        let config = CONFIG.replace(",node=pve,path=0000:01:00.0", ",node=pve");
        let (found, warnings) = find_on(&FakeHost::q35(), &config, "nas-hba");
        assert_eq!(found.unwrap().paths, ["0000:00:1f.2"]);
        assert_eq!(
            warnings,
            [
                "file /etc/pve/mapping/pci.cfg line 7 (section 'nas-hba') - unable to parse value of 'map': \
                 invalid format - format error\npath: property is missing and it is not optional"
            ]
        );
    }

    #[test]
    fn hardware_that_changed() {
        check(CONFIG, "hba", Err("PCI device mapping not found for 'hba'"));
        check(
            CONFIG,
            "other",
            Err(&format!("{INVALID}pci device '0000:05:00.0' not found")),
        );
        for (from, to, message) in [
            (
                "iommugroup=9",
                "iommugroup=4",
                "'iommugroup' does not match for 'nas-hba' (9 != 4)",
            ),
            (
                "iommugroup=9,",
                "",
                "missing expected property 'iommugroup' for device '0000:00:1f.2'",
            ),
            (
                ",subsystem-id=1af4:1100",
                "",
                "missing expected property 'subsystem-id' for device '0000:00:1f.2'",
            ),
            // By name: the first that differs is the id.
            (
                "id=8086:2922,iommugroup=9",
                "id=8086:2829,iommugroup=4",
                "'id' does not match for 'nas-hba' (8086:2922 != 8086:2829)",
            ),
        ] {
            let config = CONFIG.replace(from, to);
            check(&config, "nas-hba", Err(&format!("{INVALID}{message}")));
        }
    }

    #[test]
    fn what_the_hardware_no_longer_has() {
        let fake = FakeHost::q35();
        fake.remove_iommu();
        check_on(
            &fake,
            CONFIG,
            "nas-hba",
            Err(&format!(
                "{INVALID}unexpected property 'iommugroup' configured for device '0000:00:1f.2'"
            )),
        );
    }

    #[test]
    fn every_path_of_a_list() {
        // Only the first has to be in the group.
        check_list("0000:00:1f.2;0000:01:00.0", "", Ok(()));
        check_list("0000:00:1f.2;0000:01:00", "", Ok(()));
        check_list(
            "0000:00:1f.2;0000:05:00.0",
            "",
            Err("pci device '0000:05:00.0' not found"),
        );
        check_list(
            "0000:00:1f.2;0000:00:1f.3",
            "",
            Err("'id' does not match for 'hba' (8086:2930 != 8086:2922)"),
        );
        check_list(
            "0000:01:00.0;0000:00:1f.2",
            "",
            Err("'iommugroup' does not match for 'hba' (8 != 9)"),
        );
    }

    #[test]
    fn a_path_without_a_function_is_judged_by_its_first() {
        check_list(
            "0000:00:1f.2;0000:00:1f",
            "",
            Err("'id' does not match for 'hba' (8086:2918 != 8086:2922)"),
        );
        check_list("0000:05:00", "", Err("pci device '0000:05:00.0' not found"));
    }

    #[test]
    fn mediated_devices() {
        check_list("0000:00:1f.2", "\tmdev 0\n", Ok(()));
        check_list(
            "0000:00:1f.2",
            "\tmdev 1\n",
            Err("'mdev' does not match for 'hba' (0 != 1)"),
        );
    }
}
