//! All guests of a node at once: what `pvenode startall` and `stopall` do when the host boots and goes down
//! (pve-manager, API2/Nodes.pm).

use super::{RunError, StartOptions, StopOptions, process::running, shutdown, start};
use crate::{
    config::{self, Section},
    host::Host,
    kernel::Kernel,
};

/// How long a guest may take to go down, unless its `startup` says otherwise.
const DOWN_SECONDS: u64 = 180;

/// Starts every VM that has `onboot`, in the order of `startup`. One that does not start is no reason to leave the others.
pub fn start_all(
    host: &Host,
    kernel: &dyn Kernel,
    log: &mut dyn FnMut(&str),
) -> Result<(), RunError> {
    let mut wanted = guests(host, log)?;
    wanted.retain(|guest| guest.on_boot && running(host, guest.vmid).is_none());
    if wanted.is_empty() {
        return Ok(());
    }
    // Disks and controllers of the host may still be on their way.
    kernel.settle();
    for Guest { vmid, .. } in wanted {
        log(&format!("Starting VM {vmid}"));
        if let Err(error) = start(host, kernel, vmid, StartOptions::default(), log) {
            log(&format!("Starting VM {vmid} failed: {error}"));
        }
    }
    Ok(())
}

/// Shuts every VM down that runs, the last one started first.
pub fn stop_all(
    host: &Host,
    kernel: &dyn Kernel,
    log: &mut dyn FnMut(&str),
) -> Result<(), RunError> {
    let mut running_now = guests(host, log)?;
    running_now.retain(|guest| running(host, guest.vmid).is_some());
    for Guest { vmid, down, .. } in running_now.into_iter().rev() {
        log(&format!("Stopping VM {vmid} (timeout = {down} seconds)"));
        let options = StopOptions {
            timeout: Some(down),
            skip_lock: false,
            force: true,
        };
        if let Err(error) = shutdown(host, kernel, vmid, options, log) {
            log(&format!("Stopping VM {vmid} failed: {error}"));
        }
    }
    Ok(())
}

struct Guest {
    vmid: u32,
    on_boot: bool,
    down: u64,
}

/// The VMs of this node in the order in which they start: those with an order first.
fn guests(host: &Host, log: &mut dyn FnMut(&str)) -> Result<Vec<Guest>, RunError> {
    let mut found = Vec::new();
    for vmid in config::list(host)? {
        let config = config::load(host, vmid, log)?.main;
        if config.is("template") == Some(true) {
            continue;
        }
        let order = startup(&config, "order").unwrap_or(u64::MAX);
        let guest = Guest {
            vmid,
            on_boot: config.is("onboot") == Some(true),
            down: startup(&config, "down").unwrap_or(DOWN_SECONDS),
        };
        found.push((order, guest));
    }
    found.sort_by_key(|(order, guest)| (*order, guest.vmid));
    Ok(found.into_iter().map(|(_, guest)| guest).collect())
}

/// A number in `startup: order=1,up=30,down=60`; a bare number is the order.
fn startup(config: &Section, name: &str) -> Option<u64> {
    config.get("startup")?.split(',').find_map(|part| {
        let (key, value) = part.split_once('=').unwrap_or(("order", part));
        (key.trim() == name).then(|| value.trim().parse().ok())?
    })
}
