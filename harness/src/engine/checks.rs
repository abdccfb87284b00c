//! Judges facts: pure functions of what must hold, what the lab is, and what was read.

mod identity;

use std::collections::{BTreeMap, BTreeSet};

use self::identity::{Identity, Tool, identities, seen_by_lsblk, seen_by_midclt, seen_by_smartctl};
use super::failure::Failure;
use crate::lab::{Disk, Iommu, Lab, PciAddress};
use crate::probe::disks::DiskFacts;
use crate::probe::{Facts, Probe};
use crate::scenario::{DriverState, Expect, ExpectNas, ExpectPve, PoolExpectation, SmartVerdict};

/// A check that holds.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Held {
    /// Its name.
    pub(super) check: &'static str,
    /// What was seen.
    pub(super) seen: String,
}

type Judgement = Result<Held, Box<Failure>>;
type FactMap = BTreeMap<Probe, Facts>;

/// The facts that an expectation is judged by.
pub(super) fn needs(expect: &Expect) -> BTreeSet<Probe> {
    let mut probes = BTreeSet::new();
    if let Some(pve) = &expect.pve {
        let mut need = |wanted: bool, probe| {
            if wanted {
                probes.insert(probe);
            }
        };
        need(pve.firmware.is_some(), Probe::Platform);
        need(pve.cmdline.is_some(), Probe::Cmdline);
        need(
            pve.iommu.is_some() || pve.iommu_group.is_some(),
            Probe::Iommu,
        );
        need(pve.dmesg_iommu.is_some(), Probe::DmesgIommu);
        need(
            pve.driver.is_some() || pve.reset_method.is_some() || expects_no_group(pve),
            Probe::Pci,
        );
        need(pve.module.is_some(), Probe::Modules);
        need(pve.disks.is_some(), Probe::HostDisks);
        need(
            pve.group_listing_matches_loop.is_some(),
            Probe::GroupListing,
        );
    }
    if let Some(nas) = &expect.nas {
        if nas.disks.is_some() {
            probes.extend([Probe::NasDisks, Probe::DiskQuery, Probe::Smart]);
        }
        if nas.smart.is_some() || nas.family.is_some() {
            probes.insert(Probe::Smart);
        }
        if nas.boot_disk.is_some() {
            probes.insert(Probe::NasDisks);
        }
        if nas.pool.is_some() {
            probes.insert(Probe::Pool);
        }
    }
    probes
}

/// Whether a device is expected to be in no group.
fn expects_no_group(pve: &ExpectPve) -> bool {
    let mut groups = pve.iommu_group.iter().flatten();
    groups.any(|(_, members)| members.is_empty())
}

/// Whether an expectation is judged by the output of the write-up's own loop.
pub(super) fn needs_loop(expect: &Expect) -> bool {
    expect
        .pve
        .as_ref()
        .is_some_and(|pve| pve.group_listing_matches_loop.is_some())
}

/// Judges everything that must hold, in the order in which a host comes up; the first that does not
/// hold is the failure.
pub(super) fn judge(
    expect: &Expect,
    lab: &Lab,
    facts: &FactMap,
    loop_output: Option<&str>,
) -> Result<Vec<Held>, Box<Failure>> {
    let mut held = Vec::new();
    if let Some(pve) = &expect.pve {
        judge_pve(pve, lab, facts, loop_output, &mut held)?;
    }
    if let Some(nas) = &expect.nas {
        judge_nas(nas, lab, facts, &mut held)?;
    }
    Ok(held)
}

/// The facts of one probe; the engine reads all that [`needs`] names.
macro_rules! facts {
    ($map:expr, $kind:ident) => {
        match $map.get(&Probe::$kind) {
            Some(Facts::$kind(facts)) => facts,
            _ => return Err(missing(Probe::$kind)),
        }
    };
}

fn missing(probe: Probe) -> Box<Failure> {
    Failure::check(
        "facts",
        format!("the facts of `{probe}`"),
        "that they were not read",
    )
}

fn judge_pve(
    pve: &ExpectPve,
    lab: &Lab,
    facts: &FactMap,
    loop_output: Option<&str>,
    held: &mut Vec<Held>,
) -> Result<(), Box<Failure>> {
    if let Some(firmware) = pve.firmware {
        let seen = facts!(facts, Platform).firmware;
        let (good, seen) = (seen == firmware, seen.to_string());
        held.push(check("pve.firmware", good, firmware.to_string(), seen)?);
    }
    if let Some(words) = &pve.cmdline {
        let seen = facts!(facts, Cmdline);
        let absent: Vec<&String> = words.iter().filter(|word| !seen.has(word)).collect();
        let line = seen.words.join(" ");
        held.push(check(
            "pve.cmdline",
            absent.is_empty(),
            words.join(" "),
            line,
        )?);
    }
    if let Some(kind) = pve.iommu {
        let seen = facts!(facts, Iommu);
        // Groups without a unit, or a unit without groups, is neither an IOMMU nor none.
        let whole = (seen.kind() == Iommu::None) == seen.groups.is_empty();
        let text = format!("{} with {} groups", seen.kind(), seen.groups.len());
        held.push(check(
            "pve.iommu",
            seen.kind() == kind && whole,
            kind.to_string(),
            text,
        )?);
    }
    if let Some(parts) = &pve.dmesg_iommu {
        let seen = facts!(facts, DmesgIommu);
        let absent: Vec<&String> = parts
            .iter()
            .filter(|part| !seen.lines.iter().any(|line| line.contains(*part)))
            .collect();
        let text = if absent.is_empty() {
            parts.join("; ")
        } else {
            seen.lines.join("; ")
        };
        held.push(check(
            "pve.dmesg-iommu",
            absent.is_empty(),
            parts.join("; "),
            or_nothing(&text),
        )?);
    }
    for (address, members) in pve.iommu_group.iter().flatten() {
        // What is not there is in no group either.
        if members.is_empty() {
            device(facts!(facts, Pci), *address, "pve.iommu-group")?;
        }
        let seen = facts!(facts, Iommu);
        let mut members = members.clone();
        members.sort_unstable();
        let seen = seen
            .group_of(*address)
            .map(|group| group.members.as_slice())
            .unwrap_or_default();
        let (expected, text) = (addresses(&members), addresses(seen));
        held.push(check(
            "pve.iommu-group",
            seen == members,
            expected,
            or_nothing(&text),
        )?);
    }
    for (address, state) in pve.driver.iter().flatten() {
        let seen = device(facts!(facts, Pci), *address, "pve.driver")?
            .driver
            .clone();
        let name = |state: DriverState| format!("{address} bound to {}", String::from(state));
        held.push(check(
            "pve.driver",
            seen == *state,
            name(state.clone()),
            name(seen),
        )?);
    }
    for (address, methods) in pve.reset_method.iter().flatten() {
        let seen = &device(facts!(facts, Pci), *address, "pve.reset-method")?.reset_methods;
        let name =
            |methods: &[String]| format!("{address} with {}", or_nothing(&methods.join(" ")));
        held.push(check(
            "pve.reset-method",
            seen == methods,
            name(methods),
            name(seen),
        )?);
    }
    for (module, loaded) in pve.module.iter().flatten() {
        let seen = facts!(facts, Modules).is_loaded(module);
        let name = |loaded| format!("{module} {}", if loaded { "loaded" } else { "not loaded" });
        held.push(check(
            "pve.module",
            seen == *loaded,
            name(*loaded),
            name(seen),
        )?);
    }
    if let Some(serials) = &pve.disks {
        let seen = serials_of_lab(lab, facts!(facts, HostDisks));
        held.push(serial_sets("pve.disks", serials, &seen)?);
    }
    if let Some(wanted) = pve.group_listing_matches_loop {
        let own = facts!(facts, GroupListing).text();
        let seen = loop_output.unwrap_or_default();
        let same = own == seen && !seen.is_empty();
        let text = if same {
            format!("{} lines, the same", seen.lines().count())
        } else {
            format!("the loop printed:\n{seen}\nthe listing says:\n{own}")
        };
        let expected = if wanted {
            "the same lines"
        } else {
            "other lines"
        };
        held.push(check(
            "pve.group-listing-matches-loop",
            same == wanted,
            expected,
            text,
        )?);
    }
    Ok(())
}

fn judge_nas(
    nas: &ExpectNas,
    lab: &Lab,
    facts: &FactMap,
    held: &mut Vec<Held>,
) -> Result<(), Box<Failure>> {
    if let Some(serials) = &nas.disks {
        let (block, query, smart) = (
            facts!(facts, NasDisks),
            facts!(facts, DiskQuery),
            facts!(facts, Smart),
        );
        let wanted: Vec<&Disk> = lab
            .disks()
            .filter(|disk| serials.contains(&disk.serial))
            .collect();
        let ways = [
            (Tool::Lsblk, seen_by_lsblk(block)),
            (Tool::Midclt, seen_by_midclt(query)),
            (Tool::Smartctl, seen_by_smartctl(smart)),
        ];
        for (way, mut seen) in ways {
            let given = wanted.iter().map(|disk| Identity::given(disk, way));
            let expected = identities(given.collect());
            seen.retain(|identity| !identity.is_virtual());
            let seen = identities(seen);
            let text = format!("by {way} {}", or_nothing(&seen));
            let good = seen == expected && wanted.len() == serials.len();
            held.push(check("nas.disks", good, or_nothing(&expected), text)?);
        }
    }
    if nas.smart.is_some() || nas.family.is_some() {
        let smart = facts!(facts, Smart);
        let drives: Vec<_> = smart
            .disks
            .iter()
            .filter(|disk| {
                lab.disks()
                    .any(|one| disk.serial.as_ref() == Some(&one.serial))
            })
            .collect();
        if let Some(verdict) = nas.smart {
            let seen: Vec<String> = drives
                .iter()
                .map(|disk| {
                    let word = match disk.passed {
                        Some(true) => SmartVerdict::Passed.to_string(),
                        Some(false) => SmartVerdict::Failed.to_string(),
                        None => "no verdict".to_owned(),
                    };
                    format!("{} {word}", disk.serial.as_deref().unwrap_or("?"))
                })
                .collect();
            let good = !drives.is_empty()
                && drives
                    .iter()
                    .all(|disk| disk.passed == Some(verdict == SmartVerdict::Passed));
            held.push(check(
                "nas.smart",
                good,
                format!("{verdict} by every disk"),
                or_nothing(&seen.join(", ")),
            )?);
        }
        if let Some(family) = &nas.family {
            let seen: BTreeSet<&str> = drives
                .iter()
                .map(|disk| disk.family.as_deref().unwrap_or("no family"))
                .collect();
            let text = seen.iter().copied().collect::<Vec<_>>().join(", ");
            let good = seen.len() == 1 && seen.contains(family.as_str());
            held.push(check("nas.family", good, family, or_nothing(&text))?);
        }
    }
    if let Some(model) = &nas.boot_disk {
        let seen = facts!(facts, NasDisks)
            .boot_disk()
            .and_then(|disk| disk.model.clone());
        let text = seen
            .clone()
            .unwrap_or_else(|| "a disk without a model".to_owned());
        held.push(check(
            "nas.boot-disk",
            seen.as_ref() == Some(model),
            model,
            text,
        )?);
    }
    if let Some(pool) = &nas.pool {
        held.push(judge_pool(pool, facts)?);
    }
    Ok(())
}

fn judge_pool(pool: &PoolExpectation, facts: &FactMap) -> Judgement {
    let seen = facts!(facts, Pool)
        .pools
        .iter()
        .find(|one| one.name == pool.name);
    let vdev = |name: &str| format!(", {name}");
    let lost = |count: &str| format!(", {count} of them data");
    let expected = format!(
        "{} {}, {}{} errors{}{}",
        pool.name,
        pool.state,
        pool.min_errors.map_or("", |_| "at least "),
        pool.min_errors.unwrap_or(pool.errors),
        pool.data_errors
            .map_or_else(String::new, |count| lost(&count.to_string())),
        pool.vdev.as_deref().map(vdev).unwrap_or_default()
    );
    let Some(one) = seen else {
        let on_disks = facts!(facts, Pool).on_disks.iter();
        let on_disks = on_disks.map(|one| format!("; on the disks: {} {}", one.name, one.state));
        let text = format!(
            "no pool called {} imported{}",
            pool.name,
            on_disks.collect::<String>()
        );
        return check("nas.pool", false, expected, text);
    };
    let (kinds, errors) = (one.top_level_types(), one.errors());
    let count = match one.data_errors {
        Some(count) => count.to_string(),
        None => "an unknown number".to_owned(),
    };
    let text = format!(
        "{} {}, {errors} errors{}{}",
        one.name,
        one.state,
        pool.data_errors.map_or_else(String::new, |_| lost(&count)),
        pool.vdev
            .as_ref()
            .map(|_| vdev(&kinds.join("+")))
            .unwrap_or_default()
    );
    let good = one.state == pool.state
        && pool
            .min_errors
            .map_or(errors == pool.errors, |least| errors >= least)
        && pool
            .data_errors
            .is_none_or(|count| one.data_errors == Some(count))
        && pool
            .vdev
            .as_ref()
            .is_none_or(|vdev| kinds == [vdev.as_str()]);
    check("nas.pool", good, expected, text)
}

fn check(
    name: &'static str,
    good: bool,
    expected: impl Into<String>,
    seen: impl Into<String>,
) -> Judgement {
    let seen = seen.into();
    if good {
        Ok(Held { check: name, seen })
    } else {
        Err(Failure::check(name, expected, seen))
    }
}

fn or_nothing(text: &str) -> String {
    if text.is_empty() {
        "nothing".to_owned()
    } else {
        text.to_owned()
    }
}

fn addresses(list: &[PciAddress]) -> String {
    list.iter()
        .map(PciAddress::to_string)
        .collect::<Vec<_>>()
        .join(" ")
}

fn device<'f>(
    facts: &'f crate::probe::pci::PciFacts,
    address: PciAddress,
    check: &str,
) -> Result<&'f crate::probe::pci::PciDevice, Box<Failure>> {
    facts
        .device(address)
        .ok_or_else(|| Failure::check(check, format!("a device at {address}"), "no such device"))
}

fn serials_of_lab(lab: &Lab, disks: &DiskFacts) -> Vec<String> {
    let ours = |serial: &String| lab.disks().any(|disk| disk.serial == *serial);
    disks
        .disks
        .iter()
        .filter_map(|disk| disk.serial.clone())
        .filter(ours)
        .collect()
}

fn serial_sets(name: &'static str, expected: &[String], seen: &[String]) -> Judgement {
    let list = |serials: &[String]| {
        let mut serials: Vec<&str> = serials.iter().map(String::as_str).collect();
        serials.sort_unstable();
        or_nothing(&serials.join(" "))
    };
    let (expected, seen) = (list(expected), list(seen));
    check(name, expected == seen, expected, seen)
}

#[cfg(test)]
mod tests;
