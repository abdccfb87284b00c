//! What the host itself does with its disks: which controller each is on, and whether it holds the host's
//! root, a mount, swap, a volume group, an array or an imported pool.

use std::collections::{BTreeMap, BTreeSet};
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
    /// What Proxmox keeps on disks of its nodes; empty as well where that could not be read.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub storages: Vec<Storage>,
}

/// A storage of `/etc/pve/storage.cfg`. One that is not disabled is activated again every few seconds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Storage {
    /// Its name.
    pub id: String,
    /// Its type.
    pub kind: StorageKind,
    /// The pool, with a dataset or without, the volume group or the folder that it is in.
    pub place: String,
    /// The nodes that have it; empty where all have.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nodes: Vec<String>,
    /// Whether it is disabled.
    #[serde(default)]
    pub disabled: bool,
}

/// A type of storage that is on a node's own disks.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, strum::Display, strum::EnumString,
)]
#[serde(rename_all = "kebab-case")]
#[strum(serialize_all = "kebab-case")]
pub enum StorageKind {
    /// A pool of ZFS.
    Zfspool,
    /// A volume group.
    Lvm,
    /// A thin pool in a volume group.
    Lvmthin,
    /// A folder.
    Dir,
    /// A folder on Btrfs.
    Btrfs,
}

impl StorageKind {
    /// The property that says where it is.
    pub fn property(self) -> &'static str {
        match self {
            StorageKind::Zfspool => "pool",
            StorageKind::Lvm | StorageKind::Lvmthin => "vgname",
            StorageKind::Dir | StorageKind::Btrfs => "path",
        }
    }
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
    /// The unit that imports it at boot, if it is enabled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub import_unit: Option<String>,
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
/// module is not loaded it would load it, and there can be no pool. It follows links, so that a mapper's
/// device is `dm-0` there, which `lsblk` calls its `KNAME`. A file system of Btrfs has the same `UUID` on each
/// of its disks, and `lsblk` shows its mounts at one of them only.
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
for unit in /etc/systemd/system/zfs-import.target.wants/zfs-import@*; do
    [ -L "$unit" ] && printf 'import-unit\t%s\n' "${unit##*/}"
done
if [ -r /etc/pve/storage.cfg ]; then
    while IFS= read -r line || [ -n "$line" ]; do printf 'storage\t%s\n' "$line"; done </etc/pve/storage.cfg
fi
echo lsblk
lsblk --json --bytes --output NAME,KNAME,TYPE,SIZE,MODEL,SERIAL,FSTYPE,UUID,MOUNTPOINTS || exit
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
    kname: Option<String>,
    #[serde(rename = "type")]
    kind: String,
    size: u64,
    model: Option<String>,
    serial: Option<String>,
    fstype: Option<String>,
    uuid: Option<String>,
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

    /// What ZFS may call this device and those below it, without `/dev/`.
    fn names(&self) -> Vec<String> {
        let names = |one: &Device| {
            let mapped = format!("mapper/{}", one.name);
            [Some(one.name.clone()), one.kname.clone(), Some(mapped)]
        };
        self.tree().into_iter().flat_map(names).flatten().collect()
    }

    /// The file system, if it is one that may be on several disks.
    fn btrfs(&self) -> Option<&str> {
        let btrfs = self.fstype.as_deref() == Some("btrfs");
        self.uuid.as_deref().filter(|_| btrfs)
    }

    /// What it is used for; `mounts` are those of the file systems on several disks.
    fn uses(&self, below: bool, mounts: &BTreeMap<&str, Vec<&str>>) -> Vec<DiskUse> {
        let own = self.mountpoints.iter().flatten().map(String::as_str);
        let shared = self.btrfs().and_then(|uuid| mounts.get(uuid));
        let points = own.chain(shared.into_iter().flatten().copied());
        let mounts = points.map(|point| DiskUse {
            kind: match point {
                "/" => UseKind::Root,
                "[SWAP]" => UseKind::Swap,
                "/boot" | "/boot/efi" | "/efi" => UseKind::Boot,
                _ => UseKind::Mount,
            },
            name: point.to_owned(),
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
    let listed = Listed::read(&lines)?;
    let lsblk: Lsblk = serde_json::from_str(json).map_err(ParseError::Json)?;
    let whole: Vec<&Device> = lsblk
        .blockdevices
        .iter()
        .filter(|one| one.kind == "disk" && one.size > 0)
        .collect();
    let mut mounts: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for one in lsblk.blockdevices.iter().flat_map(Device::tree) {
        if let Some(uuid) = one.btrfs() {
            let points = one.mountpoints.iter().flatten().map(String::as_str);
            mounts.entry(uuid).or_default().extend(points);
        }
    }
    let disk = |one: &&Device| listed.disk(one, &mounts);
    let mut disks: Vec<HostDisk> = whole.iter().map(disk).collect();
    if disks.is_empty() {
        return Err(ParseError::missing("any disk"));
    }
    disks.sort_by(|a, b| a.name.cmp(&b.name));
    let known: BTreeSet<String> = lsblk
        .blockdevices
        .iter()
        .flat_map(Device::names)
        .chain(listed.paths.iter().map(|(name, _)| name.clone()))
        .collect();
    let pools = listed.pools.as_ref().map(|pools| {
        let pool = |pool: &ListedPool| HostPool {
            import_unit: listed.import_unit(&pool.name),
            ..pool.on(&whole, &known)
        };
        pools.iter().map(pool).collect()
    });
    Ok(HostStorageFacts {
        disks,
        pools,
        lost_mounts: listed.lost_mounts,
        storages: storages(&listed.storage_lines),
    })
}

/// What [`SCRIPT`] prints before the output of `lsblk`.
#[derive(Default)]
struct Listed {
    /// All block devices but partitions, and the PCI devices on their paths.
    paths: Vec<(String, Option<PciAddress>)>,
    nvme: Vec<(String, Option<PciAddress>)>,
    root_pool: Option<String>,
    lost_mounts: Vec<String>,
    pools: Option<Vec<ListedPool>>,
    /// The units that import a pool each, such as `zfs-import@tank.service`.
    import_units: Vec<String>,
    storage_lines: Vec<String>,
}

/// A pool as ZFS lists it.
struct ListedPool {
    name: String,
    health: String,
    /// The devices that it is on, without `/dev/`.
    members: Vec<String>,
}

impl Listed {
    fn read(lines: &str) -> Result<Self, ParseError> {
        let mut listed = Listed::default();
        for record in records(lines)? {
            match record.keyword {
                "path" => listed.paths.push(path(&record)?),
                "nvme" => listed.nvme.push(path(&record)?),
                "zfs-root" => {
                    let source = record.one()?;
                    listed.root_pool = source.split('/').next().map(str::to_owned);
                }
                "lost" => {
                    let [source, target] = record.fields()?;
                    listed.lost_mounts.push(format!("{source} on {target}"));
                }
                "zfs" => listed.pools = Some(Vec::new()),
                "zpool" => {
                    let pools = listed.pools.as_mut();
                    let pools = pools.ok_or_else(|| record.refuse("no zpool was found before"))?;
                    pool_line(&record, pools)?;
                }
                "import-unit" => listed.import_units.push(record.one()?.to_owned()),
                "storage" => listed.storage_lines.push(record.one()?.to_owned()),
                _ => return Err(record.unknown()),
            }
        }
        Ok(listed)
    }

    fn import_unit(&self, pool: &str) -> Option<String> {
        let unit = format!("zfs-import@{}.service", escaped(pool));
        self.import_units.iter().find(|one| **one == unit).cloned()
    }

    fn disk(&self, device: &Device, mounts: &BTreeMap<&str, Vec<&str>>) -> HostDisk {
        let tree = device.tree();
        let layers = tree.iter().enumerate();
        let mut uses: BTreeSet<DiskUse> = layers
            .flat_map(|(index, one)| one.uses(index > 0, mounts))
            .collect();
        let names = device.names();
        let pools = self.pools.iter().flatten();
        uses.extend(pools.filter(|pool| pool.has_any(&names)).map(|pool| {
            let root = self.root_pool.as_ref() == Some(&pool.name);
            DiskUse {
                kind: if root { UseKind::Root } else { UseKind::Zfs },
                name: pool.name.clone(),
            }
        }));
        let text = |field: &Option<String>| {
            let text = field.as_deref().map(str::trim);
            text.filter(|text| !text.is_empty()).map(str::to_owned)
        };
        HostDisk {
            name: device.name.clone(),
            size: device.size,
            model: text(&device.model),
            serial: text(&device.serial),
            controller: self.controller(&device.name),
            uses: uses.into_iter().collect(),
        }
    }

    fn controller(&self, name: &str) -> Option<PciAddress> {
        let by_path = self.paths.iter().find(|(disk, _)| disk == name);
        let by_nvme = self
            .nvme
            .iter()
            .find(|(disk, _)| name.starts_with(&format!("{disk}n")));
        by_path
            .and_then(|(_, found)| *found)
            .or(by_nvme.and_then(|(_, found)| *found))
    }
}

impl ListedPool {
    fn has_any(&self, names: &[String]) -> bool {
        self.members.iter().any(|member| names.contains(member))
    }

    /// The pool on these disks; `known` are the names of all block devices.
    fn on(&self, disks: &[&Device], known: &BTreeSet<String>) -> HostPool {
        let holding = disks.iter().filter(|disk| self.has_any(&disk.names()));
        let gone = self.members.iter().filter(|one| !known.contains(*one));
        HostPool {
            name: self.name.clone(),
            health: self.health.clone(),
            disks: holding.map(|disk| disk.name.clone()).collect(),
            missing: gone.cloned().collect(),
            import_unit: None,
        }
    }
}

/// A name and the last PCI device on its path.
fn path(record: &Record<'_>) -> Result<(String, Option<PciAddress>), ParseError> {
    let [name, path] = record.fields()?;
    let mut parts = path.split('/').filter_map(|part| part.parse().ok());
    Ok((name.to_owned(), parts.next_back()))
}

/// A pool's line begins with its name; those of its devices begin with a tab. The heading of a class of
/// devices, such as `logs`, is padded with spaces and has no tab at all.
fn pool_line(record: &Record<'_>, pools: &mut Vec<ListedPool>) -> Result<(), ParseError> {
    let line = record.one()?;
    if !line.contains('\t') {
        return Ok(());
    }
    if let Some(rest) = line.strip_prefix('\t') {
        let device = rest.split('\t').next().unwrap_or_default();
        if let (Some(pool), Some(name)) = (pools.last_mut(), device.strip_prefix("/dev/")) {
            pool.members.push(name.to_owned());
        }
        return Ok(());
    }
    let fields: Vec<&str> = line.split('\t').collect();
    let health = fields.get(9);
    let health = health.ok_or_else(|| record.refuse("ten fields of a pool were expected"))?;
    pools.push(ListedPool {
        name: fields[0].to_owned(),
        health: (*health).to_owned(),
        members: Vec::new(),
    });
    Ok(())
}

/// A pool's name as a part of a unit's name, as systemd writes it.
fn escaped(pool: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || ":_.".contains(c);
    pool.chars()
        .map(|c| match plain(c) {
            true => c.to_string(),
            false => format!("\\x{:02x}", u32::from(c)),
        })
        .collect()
}

/// The storages on disks of nodes. A line `TYPE: NAME` begins each, and what is indented belongs to it.
fn storages(lines: &[String]) -> Vec<Storage> {
    let mut storages: Vec<Storage> = Vec::new();
    // Whether what is indented belongs to one that is kept.
    let mut kept = false;
    for line in lines {
        let text = line.trim();
        if text.is_empty() || text.starts_with('#') {
            continue;
        }
        if !line.starts_with([' ', '\t']) {
            let section = text
                .split_once(':')
                .and_then(|(kind, id)| Some((kind.parse().ok()?, id.trim())));
            kept = section.is_some();
            storages.extend(section.map(|(kind, id)| Storage {
                id: id.to_owned(),
                kind,
                place: String::new(),
                nodes: Vec::new(),
                disabled: false,
            }));
            continue;
        }
        let Some(storage) = storages.last_mut().filter(|_| kept) else {
            continue;
        };
        // A flag may stand alone.
        let (key, value) = text.split_once(char::is_whitespace).unwrap_or((text, "1"));
        let value = value.trim();
        match key {
            "disable" => storage.disabled = qm::config::parse_boolean(value) == Some(true),
            "nodes" => {
                let nodes = value.split([',', ';', ' ']).filter(|node| !node.is_empty());
                storage.nodes = nodes.map(str::to_owned).collect();
            }
            key if key == storage.kind.property() => value.clone_into(&mut storage.place),
            _ => {}
        }
    }
    storages.retain(|storage| !storage.place.is_empty());
    storages
}

#[cfg(test)]
mod tests;
