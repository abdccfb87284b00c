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

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::probe::text::run_on_a_fake_root;

    #[test]
    fn the_listing_is_what_the_loop_printed() {
        for (own, printed) in [
            (
                include_str!("samples/listing-q35-intel.txt"),
                include_str!("samples/loop-q35-intel.txt"),
            ),
            (
                include_str!("samples/listing-q35-no-iommu.txt"),
                include_str!("samples/loop-q35-no-iommu.txt"),
            ),
        ] {
            let facts = parse(own).unwrap();
            assert_eq!(facts.text(), printed);
            assert!(facts.matches_loop(printed));
            assert!(!facts.matches_loop(&printed[1..]));
        }
    }

    /// Twelve groups, so that the glob's order is not that of the numbers, and a second PCI domain, so that
    /// `lspci` shows domains.
    #[test]
    fn many_groups_come_in_the_order_of_the_loops_glob() {
        for domain in ["0000", "0001"] {
            let root = tempfile::tempdir().unwrap();
            let mut names = String::new();
            for number in 0..12 {
                let address = format!(
                    "{}:00:{number:02x}.0",
                    if number == 11 { domain } else { "0000" }
                );
                let group = root.path().join(format!(
                    "sys/kernel/iommu_groups/{number}/devices/{address}"
                ));
                fs::create_dir_all(group).unwrap();
                names.push_str(&format!(
                    "{address} Host bridge [0600]: Device [8086:{number:04x}]\n"
                ));
            }
            fs::create_dir(root.path().join("bin")).unwrap();
            fs::write(root.path().join("names"), names).unwrap();
            let lspci = root.path().join("bin/lspci");
            let short = if domain == "0000" {
                "sed s/^0000://"
            } else {
                "cat"
            };
            fake_program::write(
                &lspci,
                &format!(
                    "#!/bin/sh\ncase $1 in\n-Dnn) cat {0} ;;\n-nns) grep \"^$2 \" {0} | {short} ;;\nesac\n",
                    root.path().join("names").display()
                ),
            );

            let facts = parse(&run_on_a_fake_root("sh", SCRIPT, root.path())).unwrap();
            assert_eq!(
                facts.text(),
                run_on_a_fake_root("bash", WRITE_UP_LOOP, root.path())
            );
            assert!(
                facts.lines[2].starts_with("IOMMU Group 10 "),
                "{:?}",
                facts.lines
            );
        }
    }

    #[test]
    fn what_is_not_known_is_refused() {
        let lspci = "lspci\n0000:00:00.0 Host bridge [0600]: Device [8086:29c0]\nend\n";
        for (output, says) in [
            (String::new(), "no output"),
            ("member\t0\t0000:00:00.0\nend\n".to_owned(), "lspci"),
            (
                "member\t0\t0000:00:00.0\nlspci\nend\n".to_owned(),
                "any device",
            ),
            (lspci.to_owned(), "groups' part"),
            (
                format!("member\t0\t0000:00:01.0\n{lspci}"),
                "does not know its member",
            ),
            (
                format!("member\t0\tINTC1001:00\n{lspci}"),
                "does not know its member",
            ),
            (
                format!(
                    "member\t*\t*\n{}",
                    lspci.replace("0000:00:00.0 ", "lspci: ")
                ),
                "an address",
            ),
        ] {
            let error = parse(&output).unwrap_err().to_string();
            assert!(error.contains(says), "{output:?}: {error}");
        }
    }
}
