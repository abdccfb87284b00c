//! The IOMMU as the kernel shows it: `/sys/class/iommu` and the groups. Log lines are no proof of an
//! IOMMU, these two folders are.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::facts::{ProbeError, ask};
use super::text::{optional, records};
use super::{ParseError, Probe};
use crate::guest::{Exec, Guest};
use crate::lab::{Iommu, PciAddress};

/// IOMMUs and their groups.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct IommuFacts {
    /// The entries of `/sys/class/iommu`, by name.
    pub units: Vec<IommuUnit>,
    /// The IOMMU groups, by number.
    pub groups: Vec<IommuGroup>,
}

/// An IOMMU.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct IommuUnit {
    /// Its name, such as `dmar0`, `ivhd0`, or a virtio-iommu's PCI address.
    pub name: String,
    /// Its make.
    pub kind: Iommu,
}

/// Devices that the IOMMU cannot tell apart.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct IommuGroup {
    /// The kernel's number for it.
    pub id: u32,
    /// Type of its default domain, such as `identity` or `DMA-FQ`; kernels before 5.11 do not tell.
    pub domain: Option<String>,
    /// Its PCI devices.
    pub members: Vec<PciAddress>,
    /// Members that are no PCI devices: what ACPI lists beside them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub other_members: Vec<String>,
}

impl IommuFacts {
    /// The make of the host's IOMMUs, [`Iommu::None`] where there is none.
    pub fn kind(&self) -> Iommu {
        self.units.first().map_or(Iommu::None, |unit| unit.kind)
    }

    /// The group that a device is in.
    pub fn group_of(&self, device: PciAddress) -> Option<&IommuGroup> {
        self.groups
            .iter()
            .find(|group| group.members.contains(&device))
    }
}

/// VT-d and AMD-Vi are told by the attribute folder that their drivers add. virtio-iommu adds none
/// and names its entry by PCI address, so there the driver of the parent device is asked. `cd -P`
/// resolves a link without starting a process.
pub const SCRIPT: &str = r#"
for unit in /sys/class/iommu/*; do
    [ -e "$unit" ] || continue
    if [ -d "$unit/intel-iommu" ]; then kind=intel
    elif [ -d "$unit/amd-iommu" ]; then kind=amd
    elif cd -P "$unit/device/driver" 2>/dev/null; then kind=${PWD##*/}
    else kind=unknown
    fi
    printf 'unit\t%s\t%s\n' "${unit##*/}" "$kind"
done
for group in /sys/kernel/iommu_groups/*; do
    [ -d "$group" ] || continue
    domain=-
    [ -e "$group/type" ] && read -r domain <"$group/type"
    members=
    for device in "$group"/devices/*; do
        [ -e "$device" ] && members="$members ${device##*/}"
    done
    printf 'group\t%s\t%s\t%s\n' "${group##*/}" "$domain" "${members# }"
done
echo end
"#;

/// Reads IOMMUs and groups.
///
/// # Errors
/// [`ProbeError`].
pub async fn read<G: Guest>(pve: &G, limit: Duration) -> Result<(IommuFacts, String), ProbeError> {
    ask(Probe::Iommu, pve, Exec::shell(SCRIPT, limit), parse).await
}

/// Parses what [`SCRIPT`] prints. No IOMMU and no groups are a fact like any other.
///
/// # Errors
/// [`ParseError`] for output that is cut off or unknown, and for IOMMUs of two makes.
pub fn parse(output: &str) -> Result<IommuFacts, ParseError> {
    let mut units: Vec<IommuUnit> = Vec::new();
    let mut groups: Vec<IommuGroup> = Vec::new();
    for record in records(output)? {
        match record.keyword {
            "unit" => {
                let [name, kind] = record.fields()?;
                let kind = match kind {
                    "intel" => Iommu::Intel,
                    "amd" => Iommu::Amd,
                    "virtio_iommu" => Iommu::Virtio,
                    other => {
                        return Err(
                            record.refuse(format!("no IOMMU of the kind `{other}` is known"))
                        );
                    }
                };
                if name.is_empty() {
                    return Err(record.refuse("the IOMMU has no name"));
                }
                units.push(IommuUnit {
                    name: name.to_owned(),
                    kind,
                });
            }
            "group" => {
                let [id, domain, members] = record.fields()?;
                let id = id
                    .parse()
                    .map_err(|_| record.refuse("the group's number is no number"))?;
                let mut group = IommuGroup {
                    id,
                    domain: optional(domain),
                    members: Vec::new(),
                    other_members: Vec::new(),
                };
                for member in members.split_whitespace() {
                    match member.parse() {
                        Ok(address) => group.members.push(address),
                        Err(_) => group.other_members.push(member.to_owned()),
                    }
                }
                group.members.sort_unstable();
                group.other_members.sort_unstable();
                groups.push(group);
            }
            _ => return Err(record.unknown()),
        }
    }
    units.sort_by(|a, b| a.name.cmp(&b.name));
    groups.sort_by_key(|group| group.id);
    if let Some(pair) = units.windows(2).find(|pair| pair[0].kind != pair[1].kind) {
        return Err(ParseError::shape(
            "/sys/class/iommu",
            format!(
                "{} is {} and {} is {}",
                pair[0].name, pair[0].kind, pair[1].name, pair[1].kind
            ),
        ));
    }
    Ok(IommuFacts { units, groups })
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::path::Path;

    use super::*;
    use crate::probe::text::run_on_a_fake_root;

    const INTEL: &str = include_str!("samples/iommu-q35-intel.txt");
    const NONE: &str = include_str!("samples/iommu-q35-no-iommu.txt");

    #[test]
    fn the_group_of_the_chipsets_sata_controller_has_three_members() {
        let facts = parse(INTEL).unwrap();
        assert_eq!(facts.kind(), Iommu::Intel);
        assert_eq!(facts.units[0].name, "dmar0");
        assert_eq!(facts.groups.len(), 7);
        let group = facts.group_of("0000:00:1f.2".parse().unwrap()).unwrap();
        assert_eq!(group.domain.as_deref(), Some("identity"));
        let members: Vec<String> = group.members.iter().map(PciAddress::to_string).collect();
        assert_eq!(members, ["0000:00:1f.0", "0000:00:1f.2", "0000:00:1f.3"]);
    }

    #[test]
    fn no_iommu_is_a_fact() {
        let facts = parse(NONE).unwrap();
        assert_eq!(facts.kind(), Iommu::None);
        assert!(facts.groups.is_empty());
    }

    #[test]
    fn what_is_not_known_is_refused() {
        for (output, says) in [
            ("", "no output"),
            ("unit\tdmar0\tintel\n", "breaks off"),
            ("unit\tdmar0\tintel\nend", ""),
            ("unit\tsmmu3.0\tarm_smmu\nend\n", "`arm_smmu`"),
            ("unit\tx\tunknown\nend\n", "`unknown`"),
            ("unit\tdmar0\nend\n", "2 fields"),
            ("group\tx\tDMA\t0000:00:00.0\nend\n", "no number"),
            ("groups\t1\nend\n", "`groups`"),
            (
                "unit\tdmar0\tintel\nunit\tivhd0\tamd\nend\n",
                "dmar0 is intel and ivhd0 is amd",
            ),
        ] {
            match parse(output) {
                Ok(_) => assert_eq!(says, "", "{output:?}"),
                Err(error) => assert!(error.to_string().contains(says), "{output:?}: {error}"),
            }
        }
    }

    #[test]
    fn the_script_tells_every_make_of_iommu() {
        let unit = |root: &Path, name: &str| {
            let unit = root.join("sys/class/iommu").join(name);
            fs::create_dir_all(&unit).unwrap();
            unit
        };
        for (make, kind) in [
            ("intel", Iommu::Intel),
            ("amd", Iommu::Amd),
            ("virtio", Iommu::Virtio),
        ] {
            let root = tempfile::tempdir().unwrap();
            match make {
                "virtio" => {
                    let driver = root.path().join("sys/bus/virtio/drivers/virtio_iommu");
                    let device = root.path().join("sys/devices/virtio1");
                    fs::create_dir_all(&driver).unwrap();
                    fs::create_dir_all(&device).unwrap();
                    symlink(&driver, device.join("driver")).unwrap();
                    symlink(&device, unit(root.path(), "0000:00:01.0").join("device")).unwrap();
                }
                make => {
                    fs::create_dir(unit(root.path(), "x0").join(format!("{make}-iommu"))).unwrap();
                }
            }
            for (group, member) in [
                ("0", "0000:00:00.0"),
                ("10", "0000:00:02.0"),
                ("2", "INTC1001:00"),
            ] {
                let group = root.path().join("sys/kernel/iommu_groups").join(group);
                fs::create_dir_all(group.join("devices").join(member)).unwrap();
                fs::write(group.join("type"), "DMA-FQ\n").unwrap();
            }
            let facts = parse(&run_on_a_fake_root("sh", SCRIPT, root.path())).unwrap();
            assert_eq!(facts.kind(), kind);
            assert_eq!(
                facts
                    .groups
                    .iter()
                    .map(|group| group.id)
                    .collect::<Vec<_>>(),
                [0, 2, 10]
            );
            assert_eq!(facts.groups[1].other_members, ["INTC1001:00"]);
            assert_eq!(facts.groups[2].domain.as_deref(), Some("DMA-FQ"));
        }
    }
}
