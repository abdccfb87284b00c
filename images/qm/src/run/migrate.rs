//! `qm migrate` (qemu-server, QemuMigrate.pm, `prepare`), as far as a lab with one host can get: to the refusal.

use std::fs;

use serde_json::Value;

use super::{RunError, check_lock, process::running};
use crate::{
    config::{self, HOSTPCI, Section, parse_properties},
    host::Host,
};

/// How a VM is migrated.
#[derive(Debug, Clone, Copy, Default)]
pub struct MigrateOptions {
    /// Without stopping it.
    pub online: bool,
    /// In spite of local devices; only for a VM that is stopped.
    pub force: bool,
}

/// Migrates a VM to another node of the cluster. It always fails: what is left after every check is the connection to
/// a node that a lab does not have. `log` takes the lines of the task.
pub fn migrate(
    host: &Host,
    vmid: u32,
    target: &str,
    options: MigrateOptions,
    log: &mut dyn FnMut(&str),
) -> Result<(), RunError> {
    if target == host.node() {
        return Err(RunError::rule(
            "400 Parameter verification failed.\ntarget: target is local node.",
        ));
    }
    if !is_node(host, target) {
        return Err(RunError::Rule(format!("no such cluster node '{target}'")));
    }
    let config = config::load(host, vmid, log)?.main;
    let reason = refusal(&config, running(host, vmid).is_some(), options);
    let now = jiff::Timestamp::now().strftime("%F %T");
    log(&format!(
        "{now} ERROR: migration aborted (duration 00:00:00): {reason}"
    ));
    Err(RunError::rule("migration aborted"))
}

/// The cluster's nodes, as the cluster file system shows them.
fn is_node(host: &Host, name: &str) -> bool {
    let text = fs::read_to_string(host.config_root.join(".members")).unwrap_or_default();
    let members: Value = serde_json::from_str(&text).unwrap_or_default();
    members["nodelist"].get(name).is_some()
}

fn refusal(config: &Section, runs: bool, options: MigrateOptions) -> RunError {
    if let Err(error) = check_lock(config, false) {
        return error;
    }
    if runs && !options.online {
        return RunError::rule("can't migrate running VM without --online");
    }
    let local = local_devices(config);
    if !local.is_empty() && (runs || !options.force) {
        let list = local.join(", ");
        return RunError::Rule(format!("can't migrate VM which uses local devices: {list}"));
    }
    RunError::rule("Can't connect to destination address using public key")
}

/// What ties a VM to its node; a mapped device may be found on another one.
fn local_devices(config: &Section) -> Vec<&str> {
    let is_local = |key: &str, value: &str| {
        let stem = key.trim_end_matches(|letter: char| letter.is_ascii_digit());
        match stem {
            "hostpci" => parse_properties(&HOSTPCI, value)
                .is_ok_and(|properties| !properties.contains_key("mapping")),
            "serial" => value != "socket",
            "usb" => !value.contains("spice"),
            "parallel" => true,
            _ => false,
        }
    };
    config
        .settings
        .iter()
        .filter(|(key, value)| is_local(key, value))
        .map(|(key, _)| key.as_str())
        .collect()
}
