//! `qm set` (qemu-server, API2/Qemu.pm, `update_vm`).

use std::collections::BTreeMap;

use super::{RunError, check_lock, process::running};
use crate::{
    config::{self, ConfigLock, Section, check_value, setting},
    host::Host,
};

/// The changes of one `qm set`.
#[derive(Debug, Clone, Default)]
pub struct Update {
    /// Settings to set, in the order given.
    pub set: Vec<(String, String)>,
    /// Settings to remove.
    pub delete: Vec<String>,
    /// Pending changes to forget.
    pub revert: Vec<String>,
    /// Change in spite of the configuration's `lock`.
    pub skip_lock: bool,
}

/// Checks everything, then writes everything. On a running VM most changes wait for the next start. Returns the lines
/// that Proxmox prints.
pub fn update(
    host: &Host,
    vmid: u32,
    update: &Update,
    warn: &mut dyn FnMut(&str),
) -> Result<Vec<String>, RunError> {
    let checked = check(update)?;
    config::load(host, vmid, &mut |_| {})?;
    let _lock = ConfigLock::take(host, vmid)?;
    let mut config = config::load(host, vmid, warn)?;
    let unlocks = update.delete.iter().any(|name| name == "lock");
    check_lock(&config.main, update.skip_lock || unlocks)?;
    let runs = running(host, vmid).is_some();

    for name in &update.revert {
        config.pending.settings.remove(name);
    }
    let mut lines = Vec::new();
    for name in &update.delete {
        if name == "description" {
            config.main.description = None;
        } else if !config.main.settings.contains_key(name)
            && !config.pending.settings.contains_key(name)
        {
            warn(&format!(
                "cannot delete '{name}' - not set in current configuration!"
            ));
        } else if waits(runs, name) {
            config.pending.settings.remove(name);
            add_deletion(&mut config.pending, name);
        } else {
            config.main.settings.remove(name);
            config.pending.settings.remove(name);
        }
    }
    for (name, value) in checked {
        lines.push(format!("update VM {vmid}: -{name} {value}"));
        if name == "description" {
            config.main.description = Some(value);
            continue;
        }
        drop_deletion(&mut config.pending, &name);
        let unchanged = config.main.get(&name) == Some(&value);
        if waits(runs, &name) && !unchanged {
            config.pending.settings.insert(name, value);
        } else {
            config.pending.settings.remove(&name);
            config.main.settings.insert(name, value);
        }
    }
    config::write(host, vmid, &config)?;
    Ok(lines)
}

fn waits(runs: bool, name: &str) -> bool {
    runs && !setting(name).is_some_and(|setting| setting.fast)
}

fn check(update: &Update) -> Result<Vec<(String, String)>, RunError> {
    let mut errors = BTreeMap::new();
    let mut checked = Vec::new();
    for (name, value) in &update.set {
        match check_value(name, value) {
            Ok(value) => checked.push((
                if name == "cdrom" {
                    "ide2".to_owned()
                } else {
                    name.clone()
                },
                value,
            )),
            Err(error @ config::FormatError::Other(_)) => {
                drop(errors.insert(name.clone(), error.to_string()))
            }
            // The format's own message is that of its first property.
            Err(error) => drop(errors.insert(name.clone(), format!("invalid format - {error}\n"))),
        }
    }
    for name in update.delete.iter().chain(&update.revert) {
        if setting(name).is_none() {
            errors.insert("delete".to_owned(), format!("unknown setting '{name}'"));
        } else if update.set.iter().any(|(set, _)| set == name) {
            errors.insert(
                "delete".to_owned(),
                format!("you can't use '-{name}' and -delete '{name}' at the same time"),
            );
        }
    }
    if errors.is_empty() {
        return Ok(checked);
    }
    let lines: Vec<String> = errors
        .iter()
        .map(|(name, message)| format!("{name}: {message}"))
        .collect();
    Err(RunError::Rule(format!(
        "400 Parameter verification failed.\n{}",
        lines.join("\n")
    )))
}

fn add_deletion(pending: &mut Section, name: &str) {
    let mut names = deletions(pending);
    if !names.iter().any(|known| known == name) {
        names.push(name.to_owned());
    }
    pending
        .settings
        .insert("delete".to_owned(), names.join(","));
}

fn drop_deletion(pending: &mut Section, name: &str) {
    let names: Vec<String> = deletions(pending)
        .into_iter()
        .filter(|known| known != name)
        .collect();
    if names.is_empty() {
        pending.settings.remove("delete");
    } else {
        pending
            .settings
            .insert("delete".to_owned(), names.join(","));
    }
}

fn deletions(pending: &Section) -> Vec<String> {
    let names = pending.get("delete").unwrap_or_default().split([',', ' ']);
    names
        .filter(|name| !name.is_empty())
        .map(str::to_owned)
        .collect()
}
