//! How disks, pools and kernels are while they run.

use super::references::{KERNEL_PANIC, SMART, TRIPLE_FAULT, ZFS_DATA_LOST, ZFS_FAILURES};
use crate::finding::book::Incident;
use crate::finding::model::{Draft, Rule, Severity, word};
use crate::finding::view::View;
use crate::probe::pool::{Pool, Vdev};
use crate::probe::smart::SmartDisk;

pub(super) const RULES: &[Rule] = &[
    Rule {
        id: "disk-failing",
        severity: Severity::Error,
        summary: "a disk says of itself that it is failing",
        explanation: "A SMART status of FAILED, an attribute at its threshold or a critical warning of an NVMe mean that the \
            disk expects to lose data soon.",
        reference: SMART,
        derive: disk_failing,
    },
    Rule {
        id: "disk-has-defects",
        severity: Severity::Warning,
        summary: "a disk has sectors that it cannot read or has replaced",
        explanation: "Reallocated, pending and uncorrectable sectors (attributes 5, 197, 198) are the best sign of a disk \
            that will fail, while its own verdict still says passed.",
        reference: SMART,
        derive: disk_has_defects,
    },
    Rule {
        id: "pool-suspended",
        severity: Severity::Error,
        summary: "a pool has stopped all input and output, because it lost too many of its disks",
        explanation: "ZFS holds every write until the disks are back. A controller that went away takes all of its disks at \
            once; what was acknowledged is on them.",
        reference: ZFS_FAILURES,
        derive: pool_suspended,
    },
    Rule {
        id: "pool-unavailable",
        severity: Severity::Error,
        summary: "a pool cannot be used: too many of its disks are missing or damaged",
        explanation: "The state FAULTED or UNAVAIL means that no copy of some data can be found. Where disks are at several \
            controllers, each needs a hostpci line of its own; a VM without one of them starts all the same, and ZFS may \
            call the data corrupted that is only out of its sight.",
        reference: ZFS_FAILURES,
        derive: pool_unavailable,
    },
    Rule {
        id: "pool-lost-data",
        severity: Severity::Error,
        summary: "a pool has lost data: some blocks can be read from no disk and put together from none",
        explanation: "More failed at one place than the pool has copies or parity for, as when one disk is gone and another has \
            unreadable sectors. ZFS gives an error in place of wrong data, and `zpool status -v` names the files. All \
            others are whole. Two scrubs after the named ones are restored or deleted, the list is empty.",
        reference: ZFS_DATA_LOST,
        derive: pool_lost_data,
    },
    Rule {
        id: "pool-degraded",
        severity: Severity::Warning,
        summary: "a pool runs without some of its disks",
        explanation: "Its data are there unless it says otherwise, and the next failure may cost them.",
        reference: ZFS_FAILURES,
        derive: pool_degraded,
    },
    Rule {
        id: "pool-has-errors",
        severity: Severity::Warning,
        summary: "a pool is online and has counted errors",
        explanation: "ZFS repairs from the other disks what one did not give or gave wrongly, and counts it. Cables, the \
            controller and the disk are the suspects, in that order.",
        reference: ZFS_FAILURES,
        derive: pool_has_errors,
    },
    Rule {
        id: "guest-panicked",
        severity: Severity::Error,
        summary: "the NAS guest's kernel panicked",
        explanation: "The guest is gone, not the host. What it had acknowledged is on the disks.",
        reference: KERNEL_PANIC,
        derive: guest_panicked,
    },
    Rule {
        id: "guest-reset",
        severity: Severity::Error,
        summary: "the NAS guest was reset while it ran",
        explanation: "Nobody had asked for it and its console shows no panic: a processor that cannot even report a fault \
            (a triple fault) and a watchdog both end so. What the guest had acknowledged is on the disks; what it only held \
            in memory is lost, and its pools have to be imported again.",
        reference: TRIPLE_FAULT,
        derive: guest_reset,
    },
    Rule {
        id: "host-panicked",
        severity: Severity::Error,
        summary: "the host's kernel panicked",
        explanation: "Every guest went down with it.",
        reference: KERNEL_PANIC,
        derive: host_panicked,
    },
];

fn serial(disk: &SmartDisk) -> &str {
    disk.serial.as_deref().unwrap_or(&disk.device)
}

fn disk_failing(view: &View<'_>) -> Option<Draft> {
    let mut failing = Vec::new();
    for disk in &view.facts().smart.as_ref()?.disks {
        let name = format!("{} ({})", disk.device, serial(disk));
        if disk.passed == Some(false) {
            failing.push((disk, format!("{name}: SMART overall-health FAILED")));
        }
        if let Some(warning @ 1..) = disk.critical_warning {
            failing.push((disk, format!("{name}: critical warning {warning:#04x}")));
        }
        let now = disk
            .attributes
            .iter()
            .find(|one| one.failed.as_deref() == Some("now"));
        if let Some(one) = now {
            failing.push((
                disk,
                format!("{name}: {} is at its threshold, {}", one.name, one.value),
            ));
        }
    }
    let (disk, _) = failing.first()?;
    let cause = format!("the disk {} says that it is failing", serial(disk));
    let device = disk.device.clone();
    Some(
        Draft::new(cause)
            .proofs("smart", failing.into_iter().map(|(_, quote)| quote))
            .fix(format!("smartctl -a {}", word(&device)))
            .fix("# replace the disk: zpool replace POOL OLD NEW"),
    )
}

/// Reallocated, pending and uncorrectable sectors.
const DEFECTS: [u8; 3] = [5, 197, 198];

fn disk_has_defects(view: &View<'_>) -> Option<Draft> {
    let disks = &view.facts().smart.as_ref()?.disks;
    let quotes: Vec<(String, String)> = disks
        .iter()
        .flat_map(|disk| {
            let bad = disk
                .attributes
                .iter()
                .filter(|one| DEFECTS.contains(&one.id) && one.raw > 0);
            bad.map(|one| {
                (
                    serial(disk).to_owned(),
                    format!("{}: {} {}", disk.device, one.name, one.raw),
                )
            })
        })
        .collect();
    let (disk, _) = quotes.first()?;
    Some(
        Draft::new(format!(
            "the disk {disk} has sectors that it could not read or had to replace"
        ))
        .proofs("smart", quotes.iter().map(|(_, quote)| quote.clone()))
        .fix("# start a long self-test: smartctl -t long /dev/DISK; and a scrub: zpool scrub POOL"),
    )
}

fn pools<'a>(view: &View<'a>, states: &[&str]) -> Vec<&'a Pool> {
    let pools = view.facts().pool.iter().flat_map(|facts| &facts.pools);
    pools
        .filter(|pool| states.contains(&pool.state.as_str()))
        .collect()
}

/// A pool, and those of its devices that are not as they should be.
fn quote(pool: &Pool) -> Vec<String> {
    fn walk(vdevs: &[Vdev], quotes: &mut Vec<String>) {
        for vdev in vdevs {
            let errors = [vdev.read_errors, vdev.write_errors, vdev.checksum_errors];
            if vdev.state != "ONLINE" || errors.iter().any(|count| *count > 0) {
                let [read, write, checksum] = errors;
                let counts = format!("{read} read, {write} write, {checksum} checksum errors");
                quotes.push(format!("{} {}: {counts}", vdev.name, vdev.state));
            }
            walk(&vdev.vdevs, quotes);
        }
    }
    let status = pool
        .status
        .as_ref()
        .map(|status| format!(": {status}"))
        .unwrap_or_default();
    let mut quotes = vec![format!("{} {}{status}", pool.name, pool.state)];
    walk(&pool.vdevs, &mut quotes);
    quotes
}

fn pool_suspended(view: &View<'_>) -> Option<Draft> {
    let pools = pools(view, &["SUSPENDED"]);
    let pool = pools.first()?;
    Some(
        Draft::new(format!(
            "the pool {} has stopped all input and output",
            pool.name
        ))
        .proofs("pool", quote(pool))
        .fix("# bring the controller and its disks back")
        .fix(format!("zpool clear {}", word(&pool.name))),
    )
}

fn pool_unavailable(view: &View<'_>) -> Option<Draft> {
    let states = ["FAULTED", "UNAVAIL"];
    let pools = pools(view, &states);
    let Some(pool) = pools.first() else {
        return pool_not_importable(view, &states);
    };
    Some(
        Draft::new(format!("the pool {} cannot be used", pool.name))
            .proofs("pool", quote(pool))
            .fix("zpool status -v")
            .fix("# bring back the missing disks before anything else"),
    )
}

fn pool_not_importable(view: &View<'_>, states: &[&str]) -> Option<Draft> {
    let mut pools = view.facts().pool.iter().flat_map(|facts| &facts.on_disks);
    let pool = pools.find(|pool| states.contains(&pool.state.as_str()))?;
    let status = pool
        .status
        .as_ref()
        .map(|status| format!(": {status}"))
        .unwrap_or_default();
    let devices = pool
        .devices
        .iter()
        .map(|one| format!("{} {}", one.name, one.state));
    Some(
        Draft::new(format!(
            "the pool {} is on the disks and cannot be imported",
            pool.name
        ))
        .proof("pool", format!("{} {}{status}", pool.name, pool.state))
        .proofs("pool", devices.skip(1))
        .fix("lsblk -o NAME,SERIAL,MODEL")
        .fix("# on the host, is each controller of its disks given to the VM? grep hostpci /etc/pve/qemu-server/*.conf")
        .fix("zpool import"),
    )
}

fn pool_lost_data(view: &View<'_>) -> Option<Draft> {
    // A pool without its disks counts what it could not reach, which is another matter.
    let (pool, lost) = pools(view, &["ONLINE", "DEGRADED"])
        .into_iter()
        .find_map(|pool| Some((pool, pool.data_errors.filter(|lost| *lost > 0)?)))?;
    let name = word(&pool.name);
    Some(
        Draft::new(format!("the pool {} has lost data", pool.name))
            .proof("pool", format!("{}: {lost} errors in data", pool.name))
            .proofs("pool", quote(pool))
            .fix(format!("zpool status -v {name}"))
            .fix("# restore the files that it names from a backup, or delete them")
            .fix(format!("zpool scrub {name}")),
    )
}

fn pool_degraded(view: &View<'_>) -> Option<Draft> {
    let pools = pools(view, &["DEGRADED"]);
    let pool = pools.first()?;
    Some(
        Draft::new(format!(
            "the pool {} runs without some of its disks",
            pool.name
        ))
        .proofs("pool", quote(pool))
        .fix(format!("zpool status -v {}", word(&pool.name)))
        .fix("# bring the disk back, or: zpool replace POOL OLD NEW"),
    )
}

fn pool_has_errors(view: &View<'_>) -> Option<Draft> {
    let pools = pools(view, &["ONLINE"]);
    let pool = pools.into_iter().find(|pool| pool.errors() > 0)?;
    Some(
        Draft::new(format!(
            "the pool {} is online and has counted {} errors",
            pool.name,
            pool.errors()
        ))
        .proofs("pool", quote(pool))
        .fix(format!("zpool status -v {}", word(&pool.name)))
        .fix(format!("zpool scrub {}", word(&pool.name)))
        .fix(format!("zpool clear {}", word(&pool.name))),
    )
}

const PANIC: &str = "Kernel panic - not syncing";

fn guest_panicked(view: &View<'_>) -> Option<Draft> {
    let line = view
        .run()?
        .nas_console
        .iter()
        .find(|line| line.contains(PANIC))?;
    Some(
        Draft::new("the kernel of the NAS guest panicked")
            .proof("run", format!("console of the NAS: {}", line.trim()))
            .fix("qm reset 100"),
    )
}

fn guest_reset(view: &View<'_>) -> Option<Draft> {
    let run = view.run()?;
    let reset = |incident: &Incident| matches!(incident, Incident::NasReset);
    run.incidents.iter().find(|one| reset(one))?;
    Some(
        Draft::new("the NAS guest was reset while it ran")
            .proof("run", "its kernel has another boot id than when it came up")
            .fix("qm guest exec 100 -- zpool status")
            .fix("qm guest exec 100 -- zpool import -a"),
    )
}

fn host_panicked(view: &View<'_>) -> Option<Draft> {
    let run = view.run()?;
    let told = run.incidents.iter().find_map(|incident| match incident {
        Incident::Panicked { action } => Some(format!("GUEST_PANICKED, action {action}")),
        _ => None,
    });
    // Without its root a kernel ends in a panic too, and that has a name of its own.
    let root = view.console("Unable to mount root").is_some();
    let line = view.console(PANIC).filter(|_| !root);
    if told.is_none() && line.is_none() {
        return None;
    }
    Some(
        Draft::new("the kernel of the host panicked")
            .proofs("run", told)
            .proofs(
                "run",
                line.map(|line| format!("console of the host: {}", line.trim())),
            )
            .fix("# see the lines before it on the console"),
    )
}
