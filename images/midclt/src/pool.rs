//! Which disk belongs to which pool, asked of `zpool status -j` (middleware, `disk_/zfs_guid.py`). Nobody is asked while
//! ZFS is not loaded; a `zpool` that fails or hangs is an error, not an empty answer.

use std::{
    collections::BTreeMap,
    fs,
    io::Read,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::device::Host;

const LIMIT: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(10);

/// A disk's place in a pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Membership {
    /// The pool.
    pub pool: String,
    /// The disk's identity in it.
    pub guid: String,
}

/// Why the pools are not known.
#[derive(Debug, thiserror::Error)]
pub enum PoolError {
    /// `zpool` could not be run.
    #[error("can't run 'zpool status -j': {0}")]
    Run(std::io::Error),
    /// It failed.
    #[error("'zpool status -j' failed ({status}): {message}")]
    Failed {
        /// Its exit status.
        status: std::process::ExitStatus,
        /// What it said.
        message: String,
    },
    /// It did not end.
    #[error("'zpool status -j' did not end within {0:?}")]
    Timeout(Duration),
    /// It printed something else.
    #[error("'zpool status -j' printed no JSON: {0}")]
    Json(#[from] serde_json::Error),
}

/// The members of all pools, by disk.
pub fn members(host: &Host) -> Result<BTreeMap<String, Membership>, PoolError> {
    members_within(host, LIMIT)
}

fn members_within(host: &Host, limit: Duration) -> Result<BTreeMap<String, Membership>, PoolError> {
    let program = ["sbin/zpool", "usr/sbin/zpool"]
        .into_iter()
        .map(|place| host.path(place))
        .find(|path| path.exists());
    let Some(program) = program.filter(|_| host.path("sys/module/zfs").exists()) else {
        return Ok(BTreeMap::new());
    };
    let child = Command::new(program)
        .args(["status", "-j"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(PoolError::Run)?;
    parse(host, &output(child, limit)?)
}

fn output(mut child: Child, limit: Duration) -> Result<String, PoolError> {
    let (out, err) = (child.stdout.take(), child.stderr.take());
    // The pipes are emptied beside, so that a long answer does not block its writer.
    let out = thread::spawn(move || drain(out));
    let err = thread::spawn(move || drain(err));
    let start = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().map_err(PoolError::Run)? {
            break status;
        }
        if start.elapsed() > limit {
            // A suspended pool can keep it from ending; it is not waited for.
            let _ = child.kill();
            return Err(PoolError::Timeout(limit));
        }
        thread::sleep(PAUSE);
    };
    let text = out.join().unwrap_or_default();
    if status.success() {
        return Ok(text);
    }
    let message = err.join().unwrap_or_default().trim().to_owned();
    Err(PoolError::Failed { status, message })
}

fn drain(pipe: Option<impl Read>) -> String {
    let mut bytes = Vec::new();
    if let Some(mut pipe) = pipe {
        // What came before an error is still worth showing.
        let _ = pipe.read_to_end(&mut bytes);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn parse(host: &Host, text: &str) -> Result<BTreeMap<String, Membership>, PoolError> {
    // With no pool at all zpool may print nothing.
    if text.trim().is_empty() {
        return Ok(BTreeMap::new());
    }
    let status: Value = serde_json::from_str(text)?;
    let mut found = BTreeMap::new();
    for (name, pool) in status["pools"].as_object().into_iter().flatten() {
        walk(host, name, pool, &mut found);
    }
    Ok(found)
}

fn walk(host: &Host, pool: &str, node: &Value, found: &mut BTreeMap<String, Membership>) {
    let Some(fields) = node.as_object() else {
        return;
    };
    if fields.get("vdev_type").and_then(Value::as_str) == Some("disk") {
        // A disk that is gone has no device; there is nothing to say of it.
        let path = fields
            .get("path")
            .and_then(Value::as_str)
            .unwrap_or_default();
        if let Some(disk) = disk_at(host, path) {
            let guid = match &fields["guid"] {
                Value::String(text) => text.clone(),
                other => other.to_string(),
            };
            found.insert(
                disk,
                Membership {
                    pool: pool.to_owned(),
                    guid,
                },
            );
        }
    }
    fields
        .values()
        .for_each(|value| walk(host, pool, value, found));
}

/// The disk of `/dev/sda1` or of a link to it.
fn disk_at(host: &Host, path: &str) -> Option<String> {
    let real = fs::canonicalize(host.path(path.strip_prefix('/')?)).ok()?;
    host.disk_of(real.file_name()?.to_str()?)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::device::testing::Fake;

    const STATUS: &str = r#"{"pools": {"tank": {"name": "tank", "vdevs": {"tank": {"vdev_type": "root", "vdevs": {
        "raidz1-0": {"vdev_type": "raidz", "guid": 7, "vdevs": {
            "sda1": {"vdev_type": "disk", "guid": "1000", "path": "/dev/sda1"},
            "uuid": {"vdev_type": "disk", "guid": 1001, "path": "/dev/disk/by-partuuid/b"},
            "gone": {"vdev_type": "disk", "guid": 1002, "path": "/dev/sdz1"}}}}}},
        "spares": {"sdc1": {"vdev_type": "disk", "guid": 1003, "path": "/dev/sdc1"}}}}}"#;

    fn fake() -> Fake {
        let fake = Fake::new();
        for name in ["sda", "sdb", "sdc"] {
            fake.plain(name);
            fake.partition(name, 1, &[]);
        }
        fs::create_dir_all(fake.path("dev/disk/by-partuuid")).unwrap();
        symlink("../../sdb1", fake.path("dev/disk/by-partuuid/b")).unwrap();
        fake
    }

    #[test]
    fn members_of_every_kind() {
        let fake = fake();
        fs::write(fake.path("status"), STATUS).unwrap();
        fake.zpool(&format!(
            "[ \"$*\" = \"status -j\" ] && cat {}",
            fake.path("status").display()
        ));
        let found = members(&fake.host()).unwrap();
        let shown: Vec<String> = found
            .iter()
            .map(|(disk, m)| format!("{disk} {} {}", m.pool, m.guid))
            .collect();
        assert_eq!(shown, ["sda tank 1000", "sdb tank 1001", "sdc tank 1003"]);
    }

    #[test]
    fn nothing_to_ask() {
        let fake = fake();
        assert_eq!(members(&fake.host()).unwrap(), BTreeMap::new());
        fake.zpool("true");
        assert_eq!(members(&fake.host()).unwrap(), BTreeMap::new());
        fake.zpool("exit 1");
        fs::remove_dir(fake.path("sys/module/zfs")).unwrap();
        assert_eq!(members(&fake.host()).unwrap(), BTreeMap::new());
    }

    #[test]
    fn failures_are_told() {
        let fake = fake();
        fake.zpool("echo no devices >&2; exit 1");
        let error = members(&fake.host()).unwrap_err();
        assert_eq!(
            error.to_string(),
            "'zpool status -j' failed (exit status: 1): no devices"
        );
        fake.zpool("echo pool: tank");
        assert!(matches!(members(&fake.host()), Err(PoolError::Json(_))));
        fake.zpool("exec sleep 20");
        assert!(matches!(
            members_within(&fake.host(), Duration::from_millis(50)),
            Err(PoolError::Timeout(_))
        ));
    }
}
