//! `qm status` and `qm list` (qemu-server, `vmstatus`).

use std::{collections::BTreeMap, fs};

use serde_json::json;

use super::{RunError, process::running};
use crate::{
    argv::{self, drives, image_path},
    config::{self, Section},
    host::Host,
    monitor::Qmp,
};

/// A line of `qm list`.
#[derive(Debug, Clone, PartialEq)]
pub struct ListEntry {
    /// The VM.
    pub vmid: u32,
    /// Its name.
    pub name: String,
    /// `running` or `stopped`.
    pub status: String,
    /// Memory in MiB.
    pub memory: u64,
    /// Size of the boot disk in GiB.
    pub disk: f64,
    /// Its process, or 0.
    pub pid: u32,
}

/// `running`, `paused`, `stopped`, …: QEMU's own word where it runs and answers.
pub fn status(host: &Host, vmid: u32, warn: &mut dyn FnMut(&str)) -> Result<String, RunError> {
    config::load(host, vmid, warn)?;
    Ok(state(host, vmid, warn))
}

fn state(host: &Host, vmid: u32, warn: &mut dyn FnMut(&str)) -> String {
    if running(host, vmid).is_none() {
        return "stopped".to_owned();
    }
    match Qmp::run(host, vmid, "query-status", json!({})) {
        Ok(answer) => answer["status"].as_str().unwrap_or("unknown").to_owned(),
        Err(error) => {
            warn(&error.to_string());
            "running".to_owned()
        }
    }
}

/// Everything known of a VM, by name.
pub fn status_verbose(
    host: &Host,
    vmid: u32,
    warn: &mut dyn FnMut(&str),
) -> Result<BTreeMap<&'static str, String>, RunError> {
    let config = config::load(host, vmid, warn)?.main;
    let pid = running(host, vmid);
    let cpus = config.number("sockets").unwrap_or(1) * config.number("cores").unwrap_or(1);
    let mut facts = BTreeMap::from([
        ("cpus", cpus.to_string()),
        ("disk", "0".to_owned()),
        ("maxdisk", boot_disk_size(&config).to_string()),
        ("maxmem", (argv::memory(&config)? << 20).to_string()),
        ("mem", "0".to_owned()),
        (
            "name",
            config
                .get("name")
                .map_or_else(|| format!("VM {vmid}"), str::to_owned),
        ),
        ("netin", "0".to_owned()),
        ("netout", "0".to_owned()),
        ("qmpstatus", state(host, vmid, warn)),
        (
            "status",
            if pid.is_some() { "running" } else { "stopped" }.to_owned(),
        ),
        ("uptime", "0".to_owned()),
        ("vmid", vmid.to_string()),
    ]);
    facts.extend(config.get("lock").map(|lock| ("lock", lock.to_owned())));
    facts.extend(
        (0..4)
            .any(|n| config.get(&format!("serial{n}")).is_some())
            .then(|| ("serial", "1".to_owned())),
    );
    if let Some(pid) = pid {
        facts.insert("pid", pid.to_string());
        facts.insert("uptime", uptime(host, pid).unwrap_or(0).to_string());
        facts.insert("mem", (resident(host, pid).unwrap_or(0)).to_string());
        if let Err(error) = from_qemu(host, vmid, &mut facts) {
            warn(&error.to_string());
        }
    }
    Ok(facts)
}

fn from_qemu(
    host: &Host,
    vmid: u32,
    facts: &mut BTreeMap<&'static str, String>,
) -> Result<(), RunError> {
    let mut qmp = Qmp::open(host, vmid)?;
    let version = qmp.execute("query-version", json!({}))?;
    let part = |name: &str| version["qemu"][name].as_u64().unwrap_or(0);
    facts.insert(
        "running-qemu",
        format!("{}.{}.{}", part("major"), part("minor"), part("micro")),
    );
    let blocks = qmp.execute("query-blockstats", json!({}))?;
    let sum = |name: &str| -> u64 {
        blocks
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|block| block["stats"][name].as_u64())
            .sum()
    };
    facts.insert("diskread", sum("rd_bytes").to_string());
    facts.insert("diskwrite", sum("wr_bytes").to_string());
    let machine = qmp.execute("qom-get", json!({"path": "/machine", "property": "type"}))?;
    if let Some(name) = machine.as_str() {
        facts.insert(
            "running-machine",
            name.trim_end_matches("-machine").to_owned(),
        );
    }
    Ok(())
}

fn uptime(host: &Host, pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(host.proc.join(format!("{pid}/stat"))).ok()?;
    // The second field is the program's name in brackets, with whatever it contains.
    let ticks: u64 = stat
        .rsplit_once(')')?
        .1
        .split_whitespace()
        .nth(19)?
        .parse()
        .ok()?;
    let up: f64 = fs::read_to_string(host.proc.join("uptime"))
        .ok()?
        .split_whitespace()
        .next()?
        .parse()
        .ok()?;
    Some((up as u64).saturating_sub(ticks / 100))
}

fn resident(host: &Host, pid: u32) -> Option<u64> {
    let statm = fs::read_to_string(host.proc.join(format!("{pid}/statm"))).ok()?;
    Some(statm.split_whitespace().nth(1)?.parse::<u64>().ok()? * 4096)
}

/// The size that the configuration gives for the boot disk, else the file's.
fn boot_disk_size(config: &Section) -> u64 {
    let drives = drives(config).unwrap_or_default();
    let wanted = config
        .get("boot")
        .and_then(|boot| boot.strip_prefix("order="))
        .unwrap_or_default();
    let disks = || drives.iter().filter(|drive| !drive.is_cdrom());
    let first = wanted
        .split(';')
        .find_map(|id| disks().find(|drive| drive.id() == id));
    let Some(disk) = first.or_else(|| disks().next()) else {
        return 0;
    };
    let named = disk.get("size").and_then(config::parse_size);
    let of_file = || {
        let path = image_path(disk.file()?, false).ok()?;
        Some(fs::metadata(path).ok()?.len())
    };
    named.or_else(of_file).unwrap_or(0)
}

/// All VMs of this node.
pub fn list(host: &Host, warn: &mut dyn FnMut(&str)) -> Result<Vec<ListEntry>, RunError> {
    let mut entries = Vec::new();
    for vmid in config::list(host)? {
        let config = config::load(host, vmid, warn)?.main;
        let pid = running(host, vmid);
        entries.push(ListEntry {
            vmid,
            name: config
                .get("name")
                .map_or_else(|| format!("VM {vmid}"), str::to_owned),
            status: if pid.is_some() { "running" } else { "stopped" }.to_owned(),
            memory: argv::memory(&config)?,
            disk: boot_disk_size(&config) as f64 / f64::from(1 << 30),
            pid: pid.unwrap_or(0),
        });
    }
    Ok(entries)
}

/// The table of `qm list`; nothing where there are no VMs.
pub fn print_list(entries: &[ListEntry]) -> String {
    if entries.is_empty() {
        return String::new();
    }
    let mut text = format!(
        "{:>10} {:<20} {:<10} {:<10} {:>12} {:<10}\n",
        "VMID", "NAME", "STATUS", "MEM(MB)", "BOOTDISK(GB)", "PID"
    );
    for entry in entries {
        text.push_str(&format!(
            "{:>10} {:<20} {:<10} {:<10} {:>12.2} {:<10}\n",
            entry.vmid, entry.name, entry.status, entry.memory, entry.disk, entry.pid
        ));
    }
    text
}
