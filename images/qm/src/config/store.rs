//! Configurations on disk.

use std::{fs, io, path::Path};

use super::file::{VmConfig, parse, print};
use crate::host::Host;

/// Why a configuration could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// There is no such VM here.
    #[error("Configuration file 'nodes/{node}/qemu-server/{vmid}.conf' does not exist")]
    Missing {
        /// This node.
        node: String,
        /// The VM.
        vmid: u32,
    },
    /// The file is there and cannot be read or written.
    #[error("can't {action} '{path}' - {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> ConfigError {
    let path = path.display().to_string();
    move |source| ConfigError::Io {
        action,
        path,
        source,
    }
}

/// Reads a VM's configuration; what is wrong in it goes to `warn`.
pub fn load(host: &Host, vmid: u32, warn: &mut dyn FnMut(&str)) -> Result<VmConfig, ConfigError> {
    let path = host.config_file(vmid);
    let text = match fs::read(&path) {
        Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(ConfigError::Missing {
                node: host.node(),
                vmid,
            });
        }
        Err(error) => return Err(io_error("open", &path)(error)),
    };
    let (config, warnings) = parse(vmid, &text);
    warnings.iter().for_each(|warning| warn(warning));
    Ok(config)
}

/// Writes a VM's configuration: beside, then renamed.
pub fn write(host: &Host, vmid: u32, config: &VmConfig) -> Result<(), ConfigError> {
    let path = host.config_file(vmid);
    // The path may be a symlink, which the rename must not replace.
    let path = fs::canonicalize(&path).unwrap_or(path);
    let beside = path.with_extension(format!("conf.tmp.{}", std::process::id()));
    fs::write(&beside, print(config)).map_err(io_error("write", &beside))?;
    fs::rename(&beside, &path).map_err(io_error("write", &path))
}

/// The VMs that have a configuration here, in order.
pub fn list(host: &Host) -> Result<Vec<u32>, ConfigError> {
    let folder = host.config_root.join("qemu-server");
    let entries = match fs::read_dir(&folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(io_error("open", &folder)(error)),
    };
    let mut vmids: Vec<u32> = entries
        .filter_map(|entry| {
            entry
                .ok()?
                .file_name()
                .to_str()?
                .strip_suffix(".conf")?
                .parse()
                .ok()
        })
        .collect();
    vmids.sort_unstable();
    Ok(vmids)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_written_listed() {
        let root = tempfile::tempdir().unwrap();
        let host = Host::under(root.path());
        fs::create_dir_all(host.config_root.join("qemu-server")).unwrap();
        fs::create_dir_all(host.proc.join("sys/kernel")).unwrap();
        fs::write(host.proc.join("sys/kernel/hostname"), "pve.example\n").unwrap();
        let error = load(&host, 100, &mut |_| {}).unwrap_err();
        assert_eq!(
            error.to_string(),
            "Configuration file 'nodes/pve/qemu-server/100.conf' does not exist"
        );

        let (config, _) = parse(100, "cores: 2\n[snap]\ncores: 1\n");
        write(&host, 100, &config).unwrap();
        assert_eq!(load(&host, 100, &mut |_| {}).unwrap(), config);
        assert_eq!(list(&host).unwrap(), [100]);
    }
}
