//! `<VMID>.conf`: its schema, its sections, reading and writing it, the lock around it.

mod cpus;
mod file;
mod formats;
mod lock;
mod property;
mod schema;
mod store;

pub use cpus::{check_cpu, cpu_vendor};
pub use file::{Section, VmConfig, parse, print};
pub use formats::{
    AGENT, BOOT, CPU, DRIVE_IDE, DRIVE_SATA, DRIVE_SCSI, DRIVE_VIRTIO, HOSTPCI, MACHINE, MEMORY,
    NET, SMBIOS1, VGA, parse_size,
};
pub use lock::{ConfigLock, LockError};
pub use property::{Format, FormatError, Key, Kind, Properties, parse_boolean, parse_properties};
pub use schema::{Setting, SettingKind, check_type, check_value, setting};
pub use store::{ConfigError, list, load, write};
