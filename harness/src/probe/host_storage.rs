//! What the host itself does with its disks: which controller each is on, and whether it holds the host's
//! root, a mount, swap, a volume group, an array or an imported pool.

use std::collections::BTreeSet;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::facts::{ProbeError, ask};
use super::text::{Record, records};
use super::{ParseError, Probe};
use crate::guest::{Exec, Guest};
use crate::lab::PciAddress;

/// The host's disks and their uses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct HostStorageFacts {
    /// Whole disks, by name.
    pub disks: Vec<HostDisk>,
    /// The pools that the host has imported; none where ZFS is not loaded.
    pub pools: Option<Vec<HostPool>>,
    /// File systems that are still mounted and whose disk is gone, as `/dev/sda1 on /srv`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lost_mounts: Vec<String>,
}

/// A disk of the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct HostDisk {
    /// The kernel's name, such as `sda`.
    pub name: String,
    /// Capacity in bytes.
    pub size: u64,
    /// Model.
    pub model: Option<String>,
    /// Serial number.
    pub serial: Option<String>,
    /// The PCI device that it is behind; virtual disks have none.
    pub controller: Option<PciAddress>,
    /// What the host uses it for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub uses: Vec<DiskUse>,
}

/// A use of a disk.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct DiskUse {
    /// Which kind.
    pub kind: UseKind,
    /// The mount point, volume, array or pool.
    pub name: String,
}

/// A kind of use.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, strum::Display,
)]
#[serde(rename_all = "kebab-case")]
#[strum(serialize_all = "kebab-case")]
pub enum UseKind {
    /// The host's root file system.
    Root,
    /// What the host boots from besides its root.
    Boot,
    /// Swap.
    Swap,
    /// Another mounted file system.
    Mount,
    /// An active volume of LVM.
    Lvm,
    /// A running array of md.
    Raid,
    /// An open encrypted volume.
    Crypt,
    /// An imported pool of ZFS.
    Zfs,
}

/// A pool that the host has imported.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct HostPool {
    /// Its name.
    pub name: String,
    /// Its health, such as `ONLINE`.
    pub health: String,
    /// The disks that it is on.
    pub disks: Vec<String>,
    /// Devices of it that the host does not have any more.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub missing: Vec<String>,
}

impl HostDisk {
    /// Whether the host needs it to start and run.
    pub fn is_vital(&self) -> bool {
        let vital = [UseKind::Root, UseKind::Boot, UseKind::Swap];
        self.uses.iter().any(|one| vital.contains(&one.kind))
    }
}

impl HostStorageFacts {
    /// The disks behind a controller.
    pub fn behind(&self, controller: PciAddress) -> impl Iterator<Item = &HostDisk> {
        self.disks
            .iter()
            .filter(move |disk| disk.controller == Some(controller))
    }
}

/// A device's folder in sysfs is its path through the machine. An NVMe disk's may be virtual, so there
/// the folder of its controller is asked for. `zpool list -HPLv` is what Proxmox itself asks; where the
/// module is not loaded it would load it, and there can be no pool.
pub const SCRIPT: &str = r#"
for disk in /sys/block/*; do
    cd -P "$disk" 2>/dev/null && printf 'path\t%s\t%s\n' "${disk##*/}" "$PWD"
done
for controller in /sys/class/nvme/*; do
    cd -P "$controller" 2>/dev/null && printf 'nvme\t%s\t%s\n' "${controller##*/}" "$PWD"
done
cd /
while read -r source target type rest; do
    [ "$type" = zfs ] && [ "$target" = / ] && printf 'zfs-root\t%s\n' "$source"
    case $source in
    /dev/sd* | /dev/nvme* | /dev/md* | /dev/mapper/*) [ -b "$source" ] || printf 'lost\t%s\t%s\n' "$source" "$target" ;;
    esac
done </proc/self/mounts
if [ -e /sys/module/zfs ] && command -v zpool >/dev/null; then
    echo zfs
    pools=$(zpool list -HPLv 2>/dev/null) && printf '%s\n' "$pools" | sed 's/^/zpool\t/'
fi
echo lsblk
lsblk --json --bytes --output NAME,TYPE,SIZE,MODEL,SERIAL,FSTYPE,MOUNTPOINTS || exit
echo end
"#;

/// Reads the host's disks.
///
/// # Errors
/// [`ProbeError`].
pub async fn read<G: Guest>(
    pve: &G,
    limit: Duration,
) -> Result<(HostStorageFacts, String), ProbeError> {
    ask(Probe::HostStorage, pve, Exec::shell(SCRIPT, limit), parse).await
}

#[derive(Deserialize)]
struct Lsblk {
    blockdevices: Vec<Device>,
}

#[derive(Deserialize)]
struct Device {
    name: String,
    #[serde(rename = "type")]
    kind: String,
    size: u64,
    model: Option<String>,
    serial: Option<String>,
    #[serde(default)]
    mountpoints: Vec<Option<String>>,
    #[serde(default)]
    children: Vec<Device>,
}

impl Device {
    /// This device and all below it.
    fn tree(&self) -> Vec<&Device> {
        let below = self.children.iter().flat_map(Device::tree);
        std::iter::once(self).chain(below).collect()
    }

    fn uses(&self, below: bool) -> Vec<DiskUse> {
        let mounts = self.mountpoints.iter().flatten().map(|point| DiskUse {
            kind: match point.as_str() {
                "/" => UseKind::Root,
                "[SWAP]" => UseKind::Swap,
                "/boot" | "/boot/efi" | "/efi" => UseKind::Boot,
                _ => UseKind::Mount,
            },
            name: point.clone(),
        });
        let layer = match self.kind.as_str() {
            "lvm" => Some(UseKind::Lvm),
            "crypt" => Some(UseKind::Crypt),
            kind if kind.starts_with("raid") || kind == "linear" => Some(UseKind::Raid),
            _ => None,
        };
        let layer = layer.filter(|_| below).map(|kind| DiskUse {
            kind,
            name: self.name.clone(),
        });
        mounts.chain(layer).collect()
    }
}

/// Parses what [`SCRIPT`] prints.
///
/// # Errors
/// [`ParseError`] for output that is cut off or unknown, and for a host without any disk.
pub fn parse(output: &str) -> Result<HostStorageFacts, ParseError> {
    let (lines, json) = match output.split_once("\nlsblk\n") {
        Some((lines, json)) => (format!("{lines}\nend\n"), json),
        None if output.trim().is_empty() => return Err(ParseError::Empty),
        None => return Err(ParseError::missing("the output of lsblk")),
    };
    let Some(json) = json.strip_suffix("end\n") else {
        let last = json.lines().last().unwrap_or_default().to_owned();
        return Err(ParseError::Truncated { last });
    };
    let mut paths = Vec::new();
    let mut nvme = Vec::new();
    let mut root_pool = None;
    let mut lost_mounts = Vec::new();
    let mut pools: Option<Vec<(String, String, Vec<String>)>> = None;
    for record in records(&lines)? {
        match record.keyword {
            "path" => paths.push(path(&record)?),
            "nvme" => nvme.push(path(&record)?),
            "zfs-root" => {
                let source = record.one()?;
                root_pool = source.split('/').next().map(str::to_owned);
            }
            "lost" => {
                let [source, target] = record.fields()?;
                lost_mounts.push(format!("{source} on {target}"));
            }
            "zfs" => pools = Some(Vec::new()),
            "zpool" => {
                let pools = pools.as_mut();
                let pools = pools.ok_or_else(|| record.refuse("no zpool was found before"))?;
                pool_line(&record, pools)?;
            }
            _ => return Err(record.unknown()),
        }
    }
    let lsblk: Lsblk = serde_json::from_str(json).map_err(ParseError::Json)?;
    let controller = |name: &str| {
        let by_path = paths.iter().find(|(disk, _)| disk == name);
        let by_nvme = nvme
            .iter()
            .find(|(disk, _)| name.starts_with(&format!("{disk}n")));
        by_path
            .and_then(|(_, found)| *found)
            .or(by_nvme.and_then(|(_, found)| *found))
    };
    let mut disks: Vec<HostDisk> = Vec::new();
    let mut known = Vec::new();
    for device in lsblk
        .blockdevices
        .iter()
        .filter(|one| one.kind == "disk" && one.size > 0)
    {
        let tree = device.tree();
        let mut uses: BTreeSet<DiskUse> = tree
            .iter()
            .enumerate()
            .flat_map(|(index, one)| one.uses(index > 0))
            .collect();
        let names: Vec<String> = tree.iter().map(|one| one.name.clone()).collect();
        for (pool, _, members) in pools.iter().flatten() {
            if members.iter().any(|member| names.contains(member)) {
                let root = root_pool.as_ref() == Some(pool);
                uses.insert(DiskUse {
                    kind: if root { UseKind::Root } else { UseKind::Zfs },
                    name: pool.clone(),
                });
            }
        }
        let text = |field: &Option<String>| {
            let text = field.as_deref().map(str::trim);
            text.filter(|text| !text.is_empty()).map(str::to_owned)
        };
        known.push((device.name.clone(), names));
        disks.push(HostDisk {
            name: device.name.clone(),
            size: device.size,
            model: text(&device.model),
            serial: text(&device.serial),
            controller: controller(&device.name),
            uses: uses.into_iter().collect(),
        });
    }
    if disks.is_empty() {
        return Err(ParseError::missing("any disk"));
    }
    disks.sort_by(|a, b| a.name.cmp(&b.name));
    let gone = |members: &[String]| -> Vec<String> {
        let here = |member: &&String| known.iter().any(|(_, names)| names.contains(member));
        members
            .iter()
            .filter(|member| !here(member))
            .cloned()
            .collect()
    };
    let whole = |members: Vec<String>| -> Vec<String> {
        let holds = |names: &[String]| members.iter().any(|member| names.contains(member));
        let holding = known.iter().filter(|(_, names)| holds(names));
        holding.map(|(disk, _)| disk.clone()).collect()
    };
    let pools = pools.map(|pools| {
        let pool = |(name, health, members): (String, String, Vec<String>)| HostPool {
            name,
            health,
            missing: gone(&members),
            disks: whole(members),
        };
        pools.into_iter().map(pool).collect()
    });
    Ok(HostStorageFacts {
        disks,
        pools,
        lost_mounts,
    })
}

/// A name and the last PCI device on its path.
fn path(record: &Record<'_>) -> Result<(String, Option<PciAddress>), ParseError> {
    let [name, path] = record.fields()?;
    let mut parts = path.split('/').filter_map(|part| part.parse().ok());
    Ok((name.to_owned(), parts.next_back()))
}

/// A pool's line begins with its name; those of its devices begin with a tab.
fn pool_line(
    record: &Record<'_>,
    pools: &mut Vec<(String, String, Vec<String>)>,
) -> Result<(), ParseError> {
    let line = record.one()?;
    let fields: Vec<&str> = line.split('\t').collect();
    if let Some(rest) = line.strip_prefix('\t') {
        let device = rest.split('\t').next().unwrap_or_default();
        if let (Some((_, _, members)), Some(name)) =
            (pools.last_mut(), device.strip_prefix("/dev/"))
        {
            members.push(name.to_owned());
        }
        return Ok(());
    }
    let health = fields.get(9);
    let health = health.ok_or_else(|| record.refuse("ten fields of a pool were expected"))?;
    pools.push((fields[0].to_owned(), (*health).to_owned(), Vec::new()));
    Ok(())
}

#[cfg(test)]
mod tests;
