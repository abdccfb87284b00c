//! The write-up's listing of IOMMU groups, printed by own code line for line as its loop prints it,
//! from one `lspci` in place of one for each device.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::facts::{ProbeError, ask};
use super::text::records;
use super::{ParseError, Probe};
use crate::guest::{Exec, Guest};

/// The write-up's loop, byte for byte, without its `#!` line.
pub const WRITE_UP_LOOP: &str = r#"for d in /sys/kernel/iommu_groups/*/devices/*; do
    n=${d#*/iommu_groups/*}; n=${n%%/*}
    printf 'IOMMU Group %s ' "$n"
    lspci -nns "${d##*/}"
done
"#;

/// The listing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct GroupListingFacts {
    /// Its lines, in the order of the loop's glob: 0, 1, 10, 11, 2, …
    pub lines: Vec<String>,
}

impl GroupListingFacts {
    /// The listing as it would be printed.
    pub fn text(&self) -> String {
        self.lines
            .iter()
            .flat_map(|line| [line.as_str(), "\n"])
            .collect()
    }

    /// Whether this is what [`WRITE_UP_LOOP`] printed.
    pub fn matches_loop(&self, printed: &str) -> bool {
        self.text() == printed
    }
}

/// The shell's own glob gives the loop's order; `lspci` names the devices.
pub const SCRIPT: &str = r#"
for device in /sys/kernel/iommu_groups/*/devices/*; do
    group=${device#*/iommu_groups/*}
    printf 'member\t%s\t%s\n' "${group%%/*}" "${device##*/}"
done
echo lspci
lspci -Dnn || exit
echo end
"#;

/// Reads the listing.
///
/// # Errors
/// [`ProbeError`].
pub async fn read<G: Guest>(
    pve: &G,
    limit: Duration,
) -> Result<(GroupListingFacts, String), ProbeError> {
    ask(Probe::GroupListing, pve, Exec::shell(SCRIPT, limit), parse).await
}

/// Runs the write-up's loop itself, with `bash` as its first line says, and gives what it prints.
///
/// # Errors
/// [`ProbeError`].
pub async fn run_write_up_loop<G: Guest>(pve: &G, limit: Duration) -> Result<String, ProbeError> {
    let exec = Exec::new("bash", ["-c", WRITE_UP_LOOP], limit);
    let (printed, _) = ask(Probe::GroupListing, pve, exec, |out| Ok(out.to_owned())).await?;
    Ok(printed)
}

/// Parses what [`SCRIPT`] prints and lays it out as the loop does.
///
/// `lspci -s` shows the domain only where some device is in another than 0. With no groups the
/// loop's glob stays as it is, so that its one round prints `IOMMU Group * ` and asks `lspci` for
/// the slot `*`, which is every device there is.
///
/// # Errors
/// [`ParseError`] for output that is cut off or unknown, and for a group member that is no PCI device,
/// for which the loop's `lspci` fails.
pub fn parse(output: &str) -> Result<GroupListingFacts, ParseError> {
    let mut members = Vec::new();
    let mut devices: Option<Vec<(&str, &str)>> = None;
    for record in records(output)? {
        match (&mut devices, record.keyword) {
            (Some(devices), _) => devices.push(
                record
                    .text
                    .split_once(' ')
                    .filter(|(address, _)| address.parse::<crate::lab::PciAddress>().is_ok())
                    .ok_or_else(|| record.refuse("an address and a name were expected"))?,
            ),
            (None, "member") => members.push(record.fields::<2>()?),
            (None, "lspci") => devices = Some(Vec::new()),
            (None, _) => return Err(record.unknown()),
        }
    }
    let devices = devices.ok_or_else(|| ParseError::missing("the output of lspci"))?;
    if devices.is_empty() {
        return Err(ParseError::missing("any device in the output of lspci"));
    }
    let one_domain = devices
        .iter()
        .all(|(address, _)| address.starts_with("0000:"));
    let line = |(address, name): &(&str, &str)| {
        let shown = address.strip_prefix("0000:").filter(|_| one_domain);
        format!("{} {name}", shown.unwrap_or(address))
    };
    if members == [["*", "*"]] {
        let mut lines: Vec<String> = devices.iter().map(line).collect();
        lines[0].insert_str(0, "IOMMU Group * ");
        return Ok(GroupListingFacts { lines });
    }
    let mut lines = Vec::new();
    for [group, member] in members {
        let device = devices
            .iter()
            .find(|(address, _)| *address == member)
            .ok_or_else(|| {
                ParseError::shape(
                    format!("group {group}"),
                    format!("lspci does not know its member {member}"),
                )
            })?;
        lines.push(format!("IOMMU Group {group} {}", line(device)));
    }
    if lines.is_empty() {
        return Err(ParseError::missing("the groups' part"));
    }
    Ok(GroupListingFacts { lines })
}
