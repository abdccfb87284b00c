//! `hostpciN` values and the devices they mean (qemu-server, PCI.pm, `parse_hostpci` and what follows it).

use std::collections::BTreeSet;

use super::{PciDevice, PciError, Sysfs, mapping};
use crate::{
    config::{HOSTPCI, Section, parse_properties},
    host::Host,
};

/// How many `hostpciN` there can be.
const MAX_DEVICES: u32 = 16;

/// One `hostpciN`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HostPci {
    /// N.
    pub index: u32,
    /// Behind a root port of its own instead of on the conventional bus.
    pub pcie: bool,
    /// Whether the ROM shows; `None` where it is not said.
    pub rombar: Option<bool>,
    /// A ROM to use instead.
    pub romfile: Option<String>,
    /// Primary graphics.
    pub x_vga: bool,
    /// Intel graphics the old way.
    pub legacy_igd: bool,
    /// The type of a mediated device.
    pub mdev: Option<String>,
    /// `driver=keep`: leave the device and its group with the drivers they have.
    pub keep_driver: bool,
    /// Migratable, by its mapping.
    pub live_migration: bool,
    /// Ids shown to the guest: `vendor-id` and so on, with their values.
    pub overrides: Vec<(&'static str, String)>,
    /// Lists of devices, of which one list is used.
    pub alternatives: Vec<Vec<PciDevice>>,
}

impl HostPci {
    /// `hostpci0`.
    pub fn id(&self) -> String {
        format!("hostpci{}", self.index)
    }

    /// The devices that are used, once [`choose`] has chosen.
    pub fn devices(&self) -> &[PciDevice] {
        self.alternatives.first().map_or(&[], Vec::as_slice)
    }
}

/// Reads every `hostpciN` of a configuration and finds its devices.
pub fn parse_all(
    host: &Host,
    sysfs: &Sysfs,
    config: &Section,
    q35: bool,
    warn: &mut dyn FnMut(&str),
) -> Result<Vec<HostPci>, PciError> {
    let mut found: Vec<HostPci> = Vec::new();
    for index in 0..MAX_DEVICES {
        let Some(value) = config.get(&format!("hostpci{index}")) else {
            continue;
        };
        let parsed = parse(host, sysfs, index, value, warn)?;
        if parsed.pcie && !q35 {
            return Err(PciError::NotQ35);
        }
        if parsed.legacy_igd {
            let second = found.iter().any(|other| other.legacy_igd);
            check_legacy_igd(&parsed, config, q35, second)
                .map_err(|rule| PciError::Rule(rule.to_owned()))?;
        }
        found.push(parsed);
    }
    Ok(found)
}

fn parse(
    host: &Host,
    sysfs: &Sysfs,
    index: u32,
    value: &str,
    warn: &mut dyn FnMut(&str),
) -> Result<HostPci, PciError> {
    let mut properties = parse_properties(&HOSTPCI, value)?;
    let mut parsed = HostPci {
        index,
        ..HostPci::default()
    };
    let paths = match (properties.remove("host"), properties.remove("mapping")) {
        (Some(_), Some(_)) => return Err(PciError::HostAndMapping),
        (None, None) => return Err(PciError::NeitherHostNorMapping),
        (Some(path), None) => vec![path],
        (None, Some(name)) => {
            let mapping = mapping::find(host, sysfs, &name, warn)?;
            parsed.live_migration = mapping.live_migration;
            mapping.paths
        }
    };
    let flag = |name: &str| properties.get(name).is_some_and(|value| value == "1");
    parsed.pcie = flag("pcie");
    parsed.x_vga = flag("x-vga");
    parsed.legacy_igd = flag("legacy-igd");
    parsed.rombar = properties.get("rombar").map(|value| value == "1");
    parsed.keep_driver = properties
        .get("driver")
        .is_some_and(|driver| driver == "keep");
    parsed.romfile = properties.remove("romfile");
    parsed.mdev = properties.remove("mdev");
    for name in ["vendor-id", "device-id", "sub-vendor-id", "sub-device-id"] {
        parsed
            .overrides
            .extend(properties.remove(name).map(|value| (name, value)));
    }
    for path in paths {
        let mut devices = Vec::new();
        for prefix in path.split(';') {
            let found = sysfs.devices(prefix);
            if found.is_empty() {
                return Err(PciError::NotFound(prefix.to_owned()));
            }
            devices.extend(found);
        }
        if devices.len() > 1 && parsed.mdev.is_some() {
            return Err(PciError::Rule(
                "cannot use mediated device with multifunction device".to_owned(),
            ));
        }
        parsed.alternatives.push(devices);
    }
    Ok(parsed)
}

fn check_legacy_igd(
    parsed: &HostPci,
    config: &Section,
    q35: bool,
    second: bool,
) -> Result<(), &'static str> {
    let first = parsed
        .devices()
        .first()
        .map(|device| device.id.as_str())
        .unwrap_or_default();
    let rules = [
        (second, "only one device can be assigned in legacy-igd mode"),
        (
            config.get("vga") != Some("none"),
            "legacy IGD assignment requires VGA mode to be 'none'",
        ),
        (
            parsed.rombar == Some(false),
            "legacy IGD assignment requires rombar to be enabled",
        ),
        (
            parsed.x_vga,
            "legacy IGD assignment is not compatible with x-vga",
        ),
        (
            parsed.mdev.is_some(),
            "legacy IGD assignment is not compatible with mdev",
        ),
        (q35, "legacy IGD assignment is not compatible with q35"),
        (
            parsed.alternatives.iter().any(|devices| devices.len() > 1),
            "legacy IGD assignment is not compatible with multifunction devices",
        ),
        (
            parsed.alternatives.len() > 1,
            "legacy IGD assignment is not compatible with alternate devices",
        ),
        (
            !first.ends_with("02.0"),
            "legacy IGD assignment only works for devices on host bus 00:02.0",
        ),
    ];
    match rules.into_iter().find(|(broken, _)| *broken) {
        Some((_, rule)) => Err(rule),
        None => Ok(()),
    }
}

/// Settles which alternative each `hostpciN` uses; `try_reserve` says whether a list of devices is free.
pub fn choose(
    parsed: Vec<HostPci>,
    try_reserve: &mut dyn FnMut(&[PciDevice]) -> bool,
) -> Result<Vec<HostPci>, PciError> {
    let mut used = BTreeSet::new();
    parsed
        .into_iter()
        .map(|mut hostpci| {
            let free =
                |devices: &Vec<PciDevice>| !devices.iter().any(|device| used.contains(&device.id));
            let chosen = match hostpci.alternatives.len() {
                0 | 1 => 0,
                _ => hostpci
                    .alternatives
                    .iter()
                    .position(|devices| free(devices) && try_reserve(devices))
                    .ok_or_else(|| PciError::NoneFree(hostpci.id()))?,
            };
            hostpci.alternatives.swap(0, chosen);
            hostpci.alternatives.truncate(1);
            if hostpci.mdev.is_none() {
                for device in hostpci.devices() {
                    if !used.insert(device.id.clone()) {
                        return Err(PciError::AssignedTwice(device.id.clone()));
                    }
                }
            }
            Ok(hostpci)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::testing::FakeHost;
    use super::*;
    use crate::config;

    fn check(text: &str, expected: Result<&[&str], &str>) {
        let fake = FakeHost::q35();
        let host = Host::under(fake.root());
        let (config, _) = config::parse(100, text);
        let q35 = config.main.get("machine") == Some("q35");
        let found = parse_all(&host, &fake.sysfs(), &config.main, q35, &mut |line| {
            panic!("{line}")
        })
        .and_then(|parsed| choose(parsed, &mut |_| true));
        match (&found, expected) {
            (Ok(found), Ok(expected)) => {
                let shown: Vec<String> = found
                    .iter()
                    .flat_map(|hostpci| {
                        hostpci
                            .devices()
                            .iter()
                            .map(move |device| format!("{} {}", hostpci.index, device.id))
                    })
                    .collect();
                assert_eq!(shown, expected, "{text}");
            }
            (Err(error), Err(message)) => assert_eq!(error.to_string(), message, "{text}"),
            _ => panic!("{text}: {found:?} instead of {expected:?}"),
        }
    }

    #[test]
    fn devices_of_a_configuration() {
        check(
            "machine: q35\nhostpci0: 0000:00:1f.2,pcie=1\n",
            Ok(&["0 0000:00:1f.2"]),
        );
        check(
            "hostpci3: 00:1f\n",
            Ok(&["3 0000:00:1f.0", "3 0000:00:1f.2", "3 0000:00:1f.3"]),
        );
        check(
            "hostpci0: 01:00.0;00:1f.2\n",
            Ok(&["0 0000:01:00.0", "0 0000:00:1f.2"]),
        );
        check("memory: 512\n", Ok(&[]));
    }

    #[test]
    fn rules_in_proxmoxs_words() {
        check(
            "hostpci0: 0000:00:1f.2,pcie=1\n",
            Err("q35 machine model is not enabled"),
        );
        check(
            "hostpci0: 0000:00:1e.2\n",
            Err("no PCI device found for '0000:00:1e.2'"),
        );
        check(
            "hostpci0: host=00:1f.2,mapping=hba\n",
            Err("Cannot set both 'host' and 'mapping'."),
        );
        check(
            "hostpci0: pcie=0\n",
            Err("Either 'host' or 'mapping' must be set."),
        );
        check(
            "hostpci0: mapping=hba\n",
            Err("PCI device mapping not found for 'hba'"),
        );
        check(
            "hostpci0: 00:1f.2\nhostpci1: 00:1f\n",
            Err("device '0000:00:1f.2' assigned more than once"),
        );
        check(
            "hostpci0: 00:1f,mdev=x\n",
            Err("cannot use mediated device with multifunction device"),
        );
        check(
            "hostpci0: 00:1f.2,legacy-igd=1\n",
            Err("legacy IGD assignment requires VGA mode to be 'none'"),
        );
    }

    #[test]
    fn the_first_free_alternative() {
        let device = |id: &str| PciDevice {
            id: id.to_owned(),
            vendor: String::new(),
            device: String::new(),
        };
        let hostpci = |index: u32| HostPci {
            index,
            alternatives: vec![vec![device("a")], vec![device("b")], vec![device("c")]],
            ..HostPci::default()
        };
        let chosen = choose(vec![hostpci(0), hostpci(1)], &mut |devices| {
            devices[0].id != "a"
        })
        .unwrap();
        assert_eq!(
            [&chosen[0].devices()[0].id, &chosen[1].devices()[0].id],
            ["b", "c"]
        );
        let error = choose(vec![hostpci(7)], &mut |_| false).unwrap_err();
        assert_eq!(
            error.to_string(),
            "could not find a free device for 'hostpci7'"
        );
    }
}
