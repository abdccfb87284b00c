//! Network interfaces: which PCI device each is, and whether the host is reached through it.

use std::collections::BTreeSet;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::facts::{ProbeError, ask};
use super::text::{optional, records};
use super::{ParseError, Probe};
use crate::guest::{Exec, Guest};
use crate::lab::PciAddress;

/// The host's network interfaces.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct HostNetworkFacts {
    /// By name; the loopback is left out.
    pub interfaces: Vec<Interface>,
}

/// A network interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Interface {
    /// Its name, such as `enp1s0` or `vmbr0`.
    pub name: String,
    /// The PCI device that it is.
    pub device: Option<PciAddress>,
    /// The bridge or bond that it is a port of.
    pub master: Option<String>,
    /// Whether an address of the host's is on it, or on what it is a port of.
    pub carries_address: bool,
    /// Whether the host's default route goes through it.
    pub default_route: bool,
}

/// Every address has a route for its network, so that the table of routes tells which interfaces have
/// one, without a tool.
pub const SCRIPT: &str = r#"
for interface in /sys/class/net/*; do
    [ -e "$interface/ifindex" ] || continue
    device=- master=-
    cd -P "$interface/device" 2>/dev/null && device=$PWD
    cd -P "$interface/master" 2>/dev/null && master=${PWD##*/}
    printf 'interface\t%s\t%s\t%s\n' "${interface##*/}" "$device" "$master"
done
cd /
while read -r interface destination rest; do
    [ "$interface" = Iface ] || printf 'route\t%s\t%s\n' "$interface" "$destination"
done </proc/net/route
echo end
"#;

/// Reads the interfaces.
///
/// # Errors
/// [`ProbeError`].
pub async fn read<G: Guest>(
    pve: &G,
    limit: Duration,
) -> Result<(HostNetworkFacts, String), ProbeError> {
    ask(Probe::HostNetwork, pve, Exec::shell(SCRIPT, limit), parse).await
}

/// Parses what [`SCRIPT`] prints.
///
/// # Errors
/// [`ParseError`] for output that is cut off or unknown.
pub fn parse(output: &str) -> Result<HostNetworkFacts, ParseError> {
    let mut interfaces = Vec::new();
    let (mut routed, mut default) = (BTreeSet::new(), BTreeSet::new());
    for record in records(output)? {
        match record.keyword {
            "interface" => {
                let [name, path, master] = record.fields()?;
                let mut parts = path.split('/').filter_map(|part| part.parse().ok());
                interfaces.push(Interface {
                    name: name.to_owned(),
                    device: parts.next_back(),
                    master: optional(master),
                    carries_address: false,
                    default_route: false,
                });
            }
            "route" => {
                let [interface, destination] = record.fields()?.map(str::to_owned);
                if destination == "00000000" {
                    default.insert(interface.clone());
                }
                routed.insert(interface);
            }
            _ => return Err(record.unknown()),
        }
    }
    let masters: Vec<(String, Option<String>)> = interfaces
        .iter()
        .map(|one: &Interface| (one.name.clone(), one.master.clone()))
        .collect();
    for interface in &mut interfaces {
        // A port of a bond that is a port of a bridge: two steps are all there are.
        let mut chain = vec![interface.name.clone()];
        for _ in 0..2 {
            let last = chain.last();
            let up = masters.iter().find(|(name, _)| Some(name) == last);
            chain.extend(up.and_then(|(_, master)| master.clone()));
        }
        interface.carries_address = chain.iter().any(|name| routed.contains(name));
        interface.default_route = chain.iter().any(|name| default.contains(name));
    }
    interfaces.retain(|one| one.name != "lo");
    interfaces.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(HostNetworkFacts { interfaces })
}

#[cfg(test)]
mod tests {
    use super::*;

    // By hand, after a Proxmox VE 9 host.
    const HOST: &str = "interface\tlo\t-\t-
interface\tenp2s0\t/sys/devices/pci0000:00/0000:00:1c.1/0000:02:00.0\tvmbr0
interface\tenp3s0\t/sys/devices/pci0000:00/0000:00:1c.2/0000:03:00.0\t-
interface\tens1\t/sys/devices/pci0000:00/0000:00:03.0/virtio0\t-
interface\tvmbr0\t-\t-
route\tvmbr0\t00000000
route\tvmbr0\t0001A8C0
route\tens1\t0000000A
end
";

    #[test]
    fn a_port_carries_what_its_bridge_carries() {
        let facts = parse(HOST).unwrap();
        let seen: Vec<_> = facts
            .interfaces
            .iter()
            .map(|one| {
                let device = one.device.map(|device| device.to_string());
                (
                    one.name.as_str(),
                    device.unwrap_or_default(),
                    one.carries_address,
                    one.default_route,
                )
            })
            .collect();
        assert_eq!(
            seen,
            [
                ("enp2s0", "0000:02:00.0".to_owned(), true, true),
                ("enp3s0", "0000:03:00.0".to_owned(), false, false),
                ("ens1", "0000:00:03.0".to_owned(), true, false),
                ("vmbr0", String::new(), true, true),
            ]
        );
    }

    #[test]
    fn what_is_not_known_is_refused() {
        for (output, says) in [
            ("", "no output"),
            ("interface\tlo\t-\t-\n", "breaks off"),
            ("interface\tlo\nend\n", "3 fields"),
            ("link\tlo\nend\n", "`link`"),
        ] {
            let error = parse(output).unwrap_err().to_string();
            assert!(error.contains(says), "{output:?}: {error}");
        }
        assert!(parse("end\n").unwrap().interfaces.is_empty());
    }
}
