//! All guests of a node at once: what `pvenode startall` and `stopall` do when the host boots and goes down
//! (pve-manager, API2/Nodes.pm).

use std::time::Duration;

use super::{RunError, StartOptions, StopOptions, process::running, shutdown, start};
use crate::{config, host::Host, kernel::Kernel};

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
    for Guest { vmid, up, .. } in wanted {
        log(&format!("Starting VM {vmid}"));
        match start(host, kernel, vmid, StartOptions::default(), log) {
            Ok(_) if up > 0 => {
                log(&format!("Waiting for {up} seconds (startup delay)"));
                kernel.pause(Duration::from_secs(up));
            }
            Ok(_) => {}
            Err(error) => log(&format!("Starting VM {vmid} failed: {error}")),
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
    /// Seconds that the next one waits for it.
    up: u64,
    /// Seconds that it may take to go down.
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
        let order = config.startup("order").unwrap_or(u64::MAX);
        let guest = Guest {
            vmid,
            on_boot: config.is("onboot") == Some(true),
            up: config.startup("up").unwrap_or(0),
            down: config.startup("down").unwrap_or(DOWN_SECONDS),
        };
        found.push((order, guest));
    }
    found.sort_by_key(|(order, guest)| (*order, guest.vmid));
    Ok(found.into_iter().map(|(_, guest)| guest).collect())
}
