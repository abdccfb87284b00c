//! Which VM has which device, in `pci-id-reservations` (qemu-server, PCI.pm, `reserve_pci_usage`). A reservation holds
//! until a time while its VM is being started, and as long as its VM runs afterwards.

use std::{
    collections::BTreeMap,
    fs, io,
    path::PathBuf,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use super::PciError;
use crate::{config::ConfigLock, host::Host};

const LOCK_LIMIT: Duration = Duration::from_secs(5);
/// A reservation outlives the time that a start may take by this.
const GRACE: u64 = 5;

/// How long a reservation holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Holder {
    /// Until this second since 1970.
    Time(u64),
    /// While this process runs.
    Process(u32),
}

/// Reservations by device: the VM and how long it holds.
pub type Reservations = BTreeMap<String, (u32, Holder)>;

/// Reserves devices for a VM: for the seconds that its start may take, or for its process once it runs.
/// `running` tells the process of a running VM.
pub fn reserve(
    host: &Host,
    vmid: u32,
    ids: &[String],
    holder: Holder,
    running: &dyn Fn(u32) -> Option<u32>,
    warn: &mut dyn FnMut(&str),
) -> Result<(), PciError> {
    if ids.is_empty() {
        return Ok(());
    }
    let _lock = lock(host)?;
    let mut reservations = read(host);
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs();
    let holder = match holder {
        Holder::Time(seconds) => Holder::Time(now + seconds + GRACE),
        process => process,
    };
    for id in ids {
        match reservations.get(id) {
            Some(&(other, Holder::Time(until))) if other != vmid && until > now => {
                return Err(PciError::Reserved {
                    id: id.clone(),
                    vmid: other,
                });
            }
            Some(&(other, Holder::Process(pid))) if other != vmid => {
                if running(other) == Some(pid) {
                    return Err(PciError::InUse {
                        id: id.clone(),
                        vmid: other,
                    });
                }
                warn(&format!(
                    "leftover PCI reservation found for {id}, lets take it..."
                ));
            }
            _ => {}
        }
        reservations.insert(id.clone(), (vmid, holder));
    }
    write(host, &reservations)
}

/// Gives up every reservation of a VM.
pub fn release(host: &Host, vmid: u32) -> Result<(), PciError> {
    if !file(host).exists() {
        return Ok(());
    }
    let _lock = lock(host)?;
    let mut reservations = read(host);
    reservations.retain(|_, (holder, _)| *holder != vmid);
    write(host, &reservations)
}

fn file(host: &Host) -> PathBuf {
    host.run.join("pci-id-reservations")
}

fn lock(host: &Host) -> Result<ConfigLock, PciError> {
    Ok(ConfigLock::take_file(
        host,
        &file(host).with_extension("lock"),
        LOCK_LIMIT,
    )?)
}

fn read(host: &Host) -> Reservations {
    fs::read_to_string(file(host))
        .unwrap_or_default()
        .lines()
        .filter_map(parse_line)
        .collect()
}

fn parse_line(line: &str) -> Option<(String, (u32, Holder))> {
    let mut words = line.split(' ');
    let (id, vmid, held) = (words.next()?, words.next()?.parse().ok()?, words.next()?);
    let holder = match held.split_once(':')? {
        ("time", until) => Holder::Time(until.parse().ok()?),
        ("pid", pid) => Holder::Process(pid.parse().ok()?),
        _ => return None,
    };
    Some((id.to_owned(), (vmid, holder)))
}

fn write(host: &Host, reservations: &Reservations) -> Result<(), PciError> {
    let text: String = reservations
        .iter()
        .map(|(id, (vmid, holder))| match holder {
            Holder::Time(until) => format!("{id} {vmid} time:{until}\n"),
            Holder::Process(pid) => format!("{id} {vmid} pid:{pid}\n"),
        })
        .collect();
    let path = file(host);
    let beside = path.with_extension("tmp");
    let failed = |source: io::Error| PciError::Io {
        path: path.display().to_string(),
        source,
    };
    fs::write(&beside, text)
        .and_then(|()| fs::rename(&beside, &path))
        .map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_vm_at_a_time() {
        let root = tempfile::tempdir().unwrap();
        let host = Host::under(root.path());
        let ids = ["0000:00:1f.2".to_owned()];
        let mut warnings = Vec::new();
        let mut reserve_for = |vmid: u32, holder: Holder, running: &dyn Fn(u32) -> Option<u32>| {
            let result = reserve(&host, vmid, &ids, holder, running, &mut |line| {
                warnings.push(line.to_owned())
            });
            result.map_or_else(|error| error.to_string(), |()| "reserved".to_owned())
        };
        let nobody = |_: u32| None;
        let first_runs = |vmid: u32| (vmid == 100).then_some(4711);

        assert_eq!(reserve_for(100, Holder::Time(10), &nobody), "reserved");
        assert_eq!(
            reserve_for(101, Holder::Time(10), &nobody),
            "PCI device '0000:00:1f.2' is currently reserved for use by VMID '100'"
        );
        assert_eq!(reserve_for(100, Holder::Process(4711), &nobody), "reserved");
        assert_eq!(
            reserve_for(101, Holder::Time(10), &first_runs),
            "PCI device '0000:00:1f.2' already in use by VMID '100'"
        );
        assert_eq!(reserve_for(101, Holder::Time(10), &nobody), "reserved");
        assert_eq!(
            warnings,
            ["leftover PCI reservation found for 0000:00:1f.2, lets take it..."]
        );
        release(&host, 101).unwrap();
        assert_eq!(read(&host), Reservations::new());
    }
}
