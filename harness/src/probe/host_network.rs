//! Network interfaces: which PCI device each is, and whether the host is reached through it.

use std::collections::BTreeSet;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::facts::{ProbeError, ask};
use super::text::{Record, optional, records};
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
    /// Whether an address of the host's is on it or on what is built on it, or may be.
    pub carries_address: bool,
    /// Whether the host's default route goes through it; a port of Open vSwitch does not tell.
    pub default_route: bool,
}

/// What all ports of Open vSwitch have as their master. Which of them the address of a bridge is reached
/// by is not in sysfs.
const OPEN_VSWITCH: &str = "ovs-system";

impl Interface {
    /// Whether it is a port of Open vSwitch.
    pub fn is_in_open_vswitch(&self) -> bool {
        self.master.as_deref() == Some(OPEN_VSWITCH)
    }
}

/// Every address of IPv4 has a route for its network, so that the table of routes tells which interfaces
/// have one, without a tool. Those of IPv6 are in a table of their own; the scopes 10 and 20 are the host
/// itself and the link, whose address every interface that is up has.
pub const SCRIPT: &str = r#"
for interface in /sys/class/net/*; do
    [ -e "$interface/ifindex" ] || continue
    device=- master=-
    cd -P "$interface/device" 2>/dev/null && device=$PWD
    cd -P "$interface/master" 2>/dev/null && master=${PWD##*/}
    printf 'interface\t%s\t%s\t%s\n' "${interface##*/}" "$device" "$master"
    for upper in "$interface"/upper_*; do
        [ -e "$upper" ] && printf 'upper\t%s\t%s\n' "${interface##*/}" "${upper##*/upper_}"
    done
done
cd /
while read -r interface destination rest; do
    [ "$interface" = Iface ] || printf 'route\t%s\t%s\n' "$interface" "$destination"
done </proc/net/route
if [ -r /proc/net/if_inet6 ]; then
    while read -r address index length scope flags interface; do
        case $scope in 10 | 20) ;; *) printf 'address\t%s\n' "$interface" ;; esac
    done </proc/net/if_inet6
fi
if [ -r /proc/net/ipv6_route ]; then
    while read -r to length from from_length gateway metric references uses flags interface; do
        case $interface,$to$length in
        lo,* | *,*[!0]*) ;;
        *) printf 'route\t%s\t00000000\n' "$interface" ;;
        esac
    done </proc/net/ipv6_route
fi
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
    let mut interfaces: Vec<Interface> = Vec::new();
    let mut uppers: Vec<(String, String)> = Vec::new();
    let (mut routed, mut default) = (BTreeSet::new(), BTreeSet::new());
    for record in records(output)? {
        match record.keyword {
            "interface" => interfaces.push(interface(&record)?),
            "upper" => {
                let [name, upper] = record.fields()?.map(str::to_owned);
                uppers.push((name, upper));
            }
            "route" => {
                let [interface, destination] = record.fields()?.map(str::to_owned);
                if destination == "00000000" {
                    default.insert(interface.clone());
                }
                routed.insert(interface);
            }
            "address" => {
                let [interface] = record.fields()?.map(str::to_owned);
                routed.insert(interface);
            }
            _ => return Err(record.unknown()),
        }
    }
    uppers.extend(interfaces.iter().filter_map(|one| {
        let master = one.master.clone()?;
        Some((one.name.clone(), master))
    }));
    for interface in &mut interfaces {
        let built = built_on(&interface.name, &uppers);
        interface.carries_address = built.contains(OPEN_VSWITCH) || !built.is_disjoint(&routed);
        interface.default_route = !built.is_disjoint(&default);
    }
    interfaces.retain(|one| one.name != "lo");
    interfaces.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(HostNetworkFacts { interfaces })
}

fn interface(record: &Record<'_>) -> Result<Interface, ParseError> {
    let [name, path, master] = record.fields()?;
    let mut parts = path.split('/').filter_map(|part| part.parse().ok());
    Ok(Interface {
        name: name.to_owned(),
        device: parts.next_back(),
        master: optional(master),
        carries_address: false,
        default_route: false,
    })
}

/// An interface and all that is built on it, however far up: bonds, bridges, VLANs.
fn built_on(interface: &str, uppers: &[(String, String)]) -> BTreeSet<String> {
    let mut found = BTreeSet::from([interface.to_owned()]);
    let mut open = vec![interface];
    while let Some(lower) = open.pop() {
        for (_, upper) in uppers.iter().filter(|(name, _)| name == lower) {
            if found.insert(upper.clone()) {
                open.push(upper);
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probe::text::run_on_a_fake_root;

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

    /// The interfaces that carry an address, and those that the default route goes through.
    #[track_caller]
    fn check(output: &str, carrying: &[&str], default: &[&str]) {
        let facts = parse(output).unwrap();
        let names = |is: fn(&Interface) -> bool| -> Vec<&str> {
            let found = facts.interfaces.iter().filter(|one| is(one));
            found.map(|one| one.name.as_str()).collect()
        };
        assert_eq!(names(|one| one.carries_address), carrying);
        assert_eq!(names(|one| one.default_route), default);
    }

    #[test]
    fn what_is_built_on_a_card_counts_for_it() {
        // A bond below a bridge, whose address is on a VLAN of it.
        let vlan = "interface\teno1\t-\tbond0\nupper\teno1\tbond0\ninterface\teno2\t-\t-\n\
            interface\tbond0\t-\tvmbr0\nupper\tbond0\tvmbr0\ninterface\tvmbr0\t-\t-\n\
            upper\tvmbr0\tvmbr0.10\ninterface\tvmbr0.10\t-\t-\nroute\tvmbr0.10\t00000000\nend\n";
        let all = ["bond0", "eno1", "vmbr0", "vmbr0.10"];
        check(vlan, &all, &all);
        // The host has IPv6 only; `lo` and a VM's bridge have nothing.
        let six = "interface\tlo\t-\t-\ninterface\teno1\t-\tvmbr0\ninterface\tvmbr0\t-\t-\n\
            interface\tvmbr1\t-\t-\naddress\tvmbr0\nend\n";
        check(six, &["eno1", "vmbr0"], &[]);
        // An Open vSwitch bridge is not above its ports.
        let switch = "interface\teno1\t-\tovs-system\nupper\teno1\tovs-system\ninterface\teno2\t-\t-\n\
            interface\tovs-system\t-\t-\ninterface\tvmbr0\t-\t-\nroute\tvmbr0\t00000000\nend\n";
        check(switch, &["eno1", "ovs-system", "vmbr0"], &["vmbr0"]);
        assert!(parse(switch).unwrap().interfaces[0].is_in_open_vswitch());
        // Links in a circle come to an end.
        let circle = "interface\ta\t-\tb\ninterface\tb\t-\ta\nend\n";
        check(circle, &[], &[]);
    }

    #[test]
    fn the_script_reads_what_is_built_on_what() {
        let root = tempfile::tempdir().unwrap();
        let net = root.path().join("sys/class/net");
        for name in ["eno1", "vmbr0", "vmbr0.10"] {
            std::fs::create_dir_all(net.join(name)).unwrap();
            std::fs::write(net.join(name).join("ifindex"), "2\n").unwrap();
        }
        for (at, to) in [
            ("eno1/master", "vmbr0"),
            ("eno1/upper_vmbr0", "vmbr0"),
            ("vmbr0/upper_vmbr0.10", "vmbr0.10"),
            ("vmbr0/lower_eno1", "eno1"),
        ] {
            std::os::unix::fs::symlink(net.join(to), net.join(at)).unwrap();
        }
        let proc = root.path().join("proc/net");
        std::fs::create_dir_all(&proc).unwrap();
        let none = "0".repeat(32);
        for (name, content) in [
            ("route", "Iface\tDestination\tGateway\n".to_owned()),
            (
                "if_inet6",
                "fe800000000000000000000000000001 04 40 20 80     eno1\n\
                 fd000000000000000000000000000002 05 40 00 80 vmbr0.10\n\
                 00000000000000000000000000000001 01 80 10 80       lo\n"
                    .to_owned(),
            ),
            (
                "ipv6_route",
                format!(
                    "{none} 00 {none} 00 fd000000000000000000000000000001 00000400 00000002 00000000 00000003 vmbr0.10\n\
                     fd000000000000000000000000000000 40 {none} 00 {none} 00000100 00000001 00000000 00000001     eno1\n\
                     {none} 00 {none} 00 {none} ffffffff 00000001 00000000 00200200       lo\n"
                ),
            ),
        ] {
            std::fs::write(proc.join(name), content).unwrap();
        }
        let script = SCRIPT.replace("/proc/", &format!("{}/proc/", root.path().display()));
        let output = run_on_a_fake_root("sh", &script, root.path());
        let expected = "interface\teno1\t-\tvmbr0\nupper\teno1\tvmbr0\ninterface\tvmbr0\t-\t-\n\
            upper\tvmbr0\tvmbr0.10\ninterface\tvmbr0.10\t-\t-\naddress\tvmbr0.10\nroute\tvmbr0.10\t00000000\nend\n";
        assert_eq!(output, expected);
        let all = ["eno1", "vmbr0", "vmbr0.10"];
        check(&output, &all, &all);
        // Without IPv6 its tables are not there.
        std::fs::remove_file(proc.join("if_inet6")).unwrap();
        std::fs::remove_file(proc.join("ipv6_route")).unwrap();
        check(&run_on_a_fake_root("sh", &script, root.path()), &[], &[]);
    }

    #[test]
    fn what_is_not_known_is_refused() {
        for (output, says) in [
            ("", "no output"),
            ("interface\tlo\t-\t-\n", "breaks off"),
            ("interface\tlo\nend\n", "3 fields"),
            ("link\tlo\nend\n", "`link`"),
            ("upper\tlo\nend\n", "2 fields"),
        ] {
            let error = parse(output).unwrap_err().to_string();
            assert!(error.contains(says), "{output:?}: {error}");
        }
        assert!(parse("end\n").unwrap().interfaces.is_empty());
    }
}
