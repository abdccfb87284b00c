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
