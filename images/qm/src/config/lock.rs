//! The lock that Proxmox holds around every change of a VM.

use std::{
    convert::Infallible,
    fs::{self, File, OpenOptions, TryLockError},
    io,
    time::Duration,
};

use crate::{host::Host, poll};

const LOCK_LIMIT: Duration = Duration::from_secs(10);

/// Why the lock could not be had.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Somebody else has it.
    #[error("can't lock file '{path}' - got timeout")]
    Timeout {
        /// The lock file.
        path: String,
    },
    /// The file cannot be made.
    #[error("can't open file '{path}' - {source}")]
    Open {
        /// The lock file.
        path: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

/// The lock on one VM's configuration; dropping it releases it.
#[derive(Debug)]
pub struct ConfigLock {
    _file: File,
}

impl ConfigLock {
    /// Waits at most ten seconds for the lock.
    pub fn take(host: &Host, vmid: u32) -> Result<Self, LockError> {
        Self::take_file(
            host,
            &host.lock.join(format!("lock-{vmid}.conf")),
            LOCK_LIMIT,
        )
    }

    /// Waits for the lock on any file.
    pub fn take_file(
        host: &Host,
        path: &std::path::Path,
        limit: Duration,
    ) -> Result<Self, LockError> {
        let shown = path.display().to_string();
        let open = || {
            if let Some(folder) = path.parent() {
                fs::create_dir_all(folder)?;
            }
            OpenOptions::new().create(true).append(true).open(path)
        };
        let file = open().map_err(|source| LockError::Open {
            path: shown.clone(),
            source,
        })?;
        let locked = poll::until::<_, Infallible>(host.limit(limit), || {
            Ok(match file.try_lock() {
                Ok(()) => Some(Ok(())),
                Err(TryLockError::WouldBlock) => None,
                Err(TryLockError::Error(error)) => Some(Err(error)),
            })
        });
        match locked {
            Ok(Some(Ok(()))) => Ok(Self { _file: file }),
            Ok(Some(Err(source))) => Err(LockError::Open {
                path: shown,
                source,
            }),
            Ok(None) | Err(_) => Err(LockError::Timeout { path: shown }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_exclusive_and_bounded() {
        let root = tempfile::tempdir().unwrap();
        let host = Host::under(root.path());
        let path = root.path().join("lock");
        let first = ConfigLock::take_file(&host, &path, Duration::from_secs(1)).unwrap();
        let error = ConfigLock::take_file(&host, &path, Duration::from_millis(20)).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("can't lock file '{}' - got timeout", path.display())
        );
        drop(first);
        ConfigLock::take_file(&host, &path, Duration::from_millis(20)).unwrap();
    }
}
