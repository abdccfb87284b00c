//! ZFS pools: those that are imported, from `zpool status -j`, which ZFS has since 2.3, and those that disks have and nobody
//! has imported, from `zpool import`, which has no JSON.

mod on_disks;

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use self::on_disks::{DeviceOnDisks, PoolOnDisks};
use super::facts::{ProbeError, understand};
use super::{ParseError, Probe};
use crate::guest::{Exec, Guest};

/// The pools.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct PoolFacts {
    /// Those that are imported, by name.
    pub pools: Vec<Pool>,
    /// Those that are not.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub on_disks: Vec<PoolOnDisks>,
}

/// A pool.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Pool {
    /// Its name.
    pub name: String,
    /// Its state, such as `ONLINE` or `DEGRADED`.
    pub state: String,
    /// What is wrong with it, in ZFS's words; none where nothing is.
    pub status: Option<String>,
    /// The last scrub or resilver.
    pub scan: Option<Scan>,
    /// The top-level vdevs that hold data.
    pub vdevs: Vec<Vdev>,
    /// The top-level vdevs of other classes: `logs`, `special`, `dedup`, `l2cache`, `spares`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub classes: BTreeMap<String, Vec<Vdev>>,
    /// Files and objects with unrecoverable errors; a pool that is not readable does not tell.
    pub data_errors: Option<u64>,
}

/// A scrub or resilver.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Scan {
    /// `SCRUB`, `RESILVER`, …
    pub function: String,
    /// `FINISHED`, `SCANNING`, `CANCELED`, …
    pub state: String,
    /// Errors that it could not repair.
    pub errors: u64,
}

/// A virtual device: a disk, or a group of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Vdev {
    /// Its name, such as `raidz1-0` or `sda`.
    pub name: String,
    /// Its type, such as `raidz`, `mirror`, `disk`.
    pub kind: String,
    /// Its state, such as `ONLINE`.
    pub state: String,
    /// Read errors.
    pub read_errors: u64,
    /// Write errors.
    pub write_errors: u64,
    /// Checksum errors.
    pub checksum_errors: u64,
    /// What it is made of, by name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub vdevs: Vec<Vdev>,
}

impl PoolFacts {
    /// The pool of this name.
    pub fn pool(&self, name: &str) -> Option<&Pool> {
        self.pools.iter().find(|pool| pool.name == name)
    }
}

impl Pool {
    /// The types of its top-level vdevs that hold data.
    pub fn top_level_types(&self) -> Vec<String> {
        self.vdevs.iter().map(|vdev| vdev.kind.clone()).collect()
    }

    /// Read, write and checksum errors over all devices, and data errors, together.
    pub fn errors(&self) -> u64 {
        let devices = self.vdevs.iter().chain(self.classes.values().flatten());
        devices.map(Vdev::errors).sum::<u64>() + self.data_errors.unwrap_or(0)
    }
}

impl Vdev {
    fn errors(&self) -> u64 {
        self.read_errors
            + self.write_errors
            + self.checksum_errors
            + self.vdevs.iter().map(Vdev::errors).sum::<u64>()
    }
}

/// Without its module, which `zpool` would load for six seconds under emulation, there is no pool. What
/// is said then is what `zpool` itself says. The disks are searched, for seconds as well, only where one has a label of ZFS
/// that is of no imported pool.
pub const SCRIPT: &str = r#"
used=
if [ -e /sys/module/zfs ]; then
    zpool status -j --json-int || exit
    used=$(zpool status -LP 2>/dev/null)
else
    echo 'no pools available'
fi
lsblk -nrpo NAME,FSTYPE | while read -r disk kind; do
    [ "$kind" = zfs_member ] || continue
    case $used in *"$disk "*) continue ;; esac
    echo
    echo 'on disks:'
    # Its exit code is 1 where there is none.
    zpool import
    break
done
exit 0
"#;

/// Reads the pools.
///
/// # Errors
/// [`ProbeError`].
pub async fn read<G: Guest>(nas: &G, limit: Duration) -> Result<(PoolFacts, String), ProbeError> {
    let exec = Exec::shell(SCRIPT, limit);
    let guest = nas.name();
    let output = nas.run(exec).await.map_err(|source| ProbeError::Guest {
        probe: Probe::Pool,
        guest,
        source,
    })?;
    // With no pool there may be no JSON, but only a message.
    let mut raw = output.stdout_text();
    if raw.trim().is_empty() {
        raw = output.stderr_text();
    }
    understand(Probe::Pool, guest, raw, parse)
}

/// What ZFS prints.
#[derive(Deserialize)]
struct Status {
    output_version: OutputVersion,
    pools: BTreeMap<String, RawPool>,
}

#[derive(Deserialize)]
struct OutputVersion {
    command: String,
    vers_major: u64,
}

#[derive(Deserialize)]
struct RawPool {
    name: String,
    state: String,
    status: Option<String>,
    scan_stats: Option<Scan>,
    vdevs: BTreeMap<String, RawVdev>,
    logs: Option<BTreeMap<String, RawVdev>>,
    special: Option<BTreeMap<String, RawVdev>>,
    dedup: Option<BTreeMap<String, RawVdev>>,
    l2cache: Option<BTreeMap<String, RawVdev>>,
    spares: Option<BTreeMap<String, RawVdev>>,
    error_count: Option<u64>,
}

#[derive(Deserialize)]
struct RawVdev {
    name: String,
    vdev_type: String,
    state: String,
    read_errors: Option<u64>,
    write_errors: Option<u64>,
    checksum_errors: Option<u64>,
    #[serde(default)]
    vdevs: BTreeMap<String, RawVdev>,
}

/// What `zpool status` says where there is no pool.
const NO_POOLS: &str = "no pools available";

/// What [`SCRIPT`] puts before what `zpool import` says.
const ON_DISKS: &str = "\non disks:\n";

/// The version of `zpool status`'s JSON that this module knows.
const KNOWN_VERSION: u64 = 0;

/// Parses ZFS's JSON. No pool is a fact like any other.
///
/// # Errors
/// [`ParseError`] for anything but the JSON of `zpool status -j --json-int`, and for vdevs that do
/// not count their errors; only spares need not.
pub fn parse(output: &str) -> Result<PoolFacts, ParseError> {
    let (output, on_disks) = match output.split_once(ON_DISKS) {
        Some((output, rest)) => (output, on_disks::parse(rest)?),
        None => (output, Vec::new()),
    };
    if output.trim().is_empty() {
        return Err(ParseError::Empty);
    }
    if output.trim() == NO_POOLS {
        return Ok(PoolFacts {
            pools: Vec::new(),
            on_disks,
        });
    }
    let status: Status = serde_json::from_str(output).map_err(ParseError::Json)?;
    let version = &status.output_version;
    if version.command != "zpool status" || version.vers_major != KNOWN_VERSION {
        return Err(ParseError::shape(
            "output_version",
            format!(
                "`{}` version {} is not known",
                version.command, version.vers_major
            ),
        ));
    }
    let pools = status
        .pools
        .into_values()
        .map(pool)
        .collect::<Result<_, _>>()?;
    Ok(PoolFacts { pools, on_disks })
}

fn pool(raw: RawPool) -> Result<Pool, ParseError> {
    // The tree's root stands for the pool itself and bears its name.
    let mut roots = raw.vdevs.into_values();
    let (Some(root), None) = (roots.next(), roots.next()) else {
        return Err(ParseError::shape(
            raw.name,
            "it does not have one root vdev",
        ));
    };
    if root.vdevs.is_empty() {
        return Err(ParseError::shape(raw.name, "its root vdev is empty"));
    }
    let mut classes = BTreeMap::new();
    for (class, vdevs) in [
        ("logs", raw.logs),
        ("special", raw.special),
        ("dedup", raw.dedup),
        ("l2cache", raw.l2cache),
        ("spares", raw.spares),
    ] {
        if let Some(vdevs) = vdevs {
            classes.insert(class.to_owned(), tree(vdevs, class == "spares")?);
        }
    }
    Ok(Pool {
        name: raw.name,
        state: raw.state,
        status: raw.status.filter(|status| status != "OK"),
        scan: raw.scan_stats,
        vdevs: tree(root.vdevs, false)?,
        classes,
        data_errors: raw.error_count,
    })
}

fn tree(raw: BTreeMap<String, RawVdev>, spare: bool) -> Result<Vec<Vdev>, ParseError> {
    raw.into_values()
        .map(|vdev| {
            let count = |count: Option<u64>, what: &str| match count {
                Some(count) => Ok(count),
                None if spare => Ok(0),
                None => Err(ParseError::missing(format!("{what} of {}", vdev.name))),
            };
            Ok(Vdev {
                read_errors: count(vdev.read_errors, "read_errors")?,
                write_errors: count(vdev.write_errors, "write_errors")?,
                checksum_errors: count(vdev.checksum_errors, "checksum_errors")?,
                name: vdev.name,
                kind: vdev.vdev_type,
                state: vdev.state,
                vdevs: tree(vdev.vdevs, spare)?,
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONLINE: &str = include_str!("samples/zpool-online.json");
    const NONE: &str = include_str!("samples/zpool-none.json");
    const DEGRADED: &str = include_str!("samples/zpool-degraded.json");

    #[test]
    fn a_pool_is_a_tree_of_vdevs() {
        let facts = parse(ONLINE).unwrap();
        let tank = facts.pool("tank").unwrap();
        assert_eq!((tank.state.as_str(), tank.errors()), ("ONLINE", 0));
        assert_eq!(tank.status, None);
        assert_eq!(tank.data_errors, Some(0));
        assert_eq!(tank.top_level_types(), ["raidz"]);
        let disks: Vec<&str> = tank.vdevs[0]
            .vdevs
            .iter()
            .map(|disk| disk.name.as_str())
            .collect();
        assert_eq!(
            disks,
            [
                "ata-ST12000NM0008-2H3101_ZLM2BF4E",
                "ata-ST12000NM0008-2H3101_ZTM093QT",
                "ata-ST12000NM0008-2H3101_ZTM09FD7",
            ]
        );
        let scan = tank.scan.as_ref().unwrap();
        assert_eq!(
            (scan.function.as_str(), scan.state.as_str(), scan.errors),
            ("SCRUB", "FINISHED", 0)
        );
    }

    #[test]
    fn errors_are_counted_over_the_whole_tree() {
        let tank = parse(DEGRADED).unwrap().pools.remove(0);
        assert_eq!((tank.state.as_str(), tank.errors()), ("DEGRADED", 0));
        assert_eq!(tank.vdevs[0].vdevs[0].state, "OFFLINE");
        assert!(
            tank.status
                .is_some_and(|status| status.contains("taken offline"))
        );

        // The three disks and the vdev over them; the root is the pool itself.
        let errors = DEGRADED
            .replace("\"read_errors\":0", "\"read_errors\":3")
            .replace("\"error_count\":0", "\"error_count\":1");
        assert_eq!(parse(&errors).unwrap().pools[0].errors(), 4 * 3 + 1);
    }

    #[test]
    fn no_pool_is_a_fact() {
        assert!(parse(NONE).unwrap().pools.is_empty());
        assert!(parse("no pools available\n").unwrap().pools.is_empty());
    }

    #[test]
    fn what_is_on_the_disks_stands_below() {
        let missing = include_str!("samples/zpool-import-missing.txt");
        let facts = parse(&format!("{NO_POOLS}\n\non disks:\n{missing}")).unwrap();
        assert_eq!(facts.on_disks[0].name, "tank");
        assert!(facts.pools.is_empty());
        let both = parse(&format!("{ONLINE}\n\non disks:\n{missing}")).unwrap();
        assert_eq!((both.pools.len(), both.on_disks.len()), (1, 1));
    }

    #[test]
    fn what_is_not_known_is_refused() {
        for (output, says) in [
            (String::new(), "no output"),
            (
                "cannot open 'tank': no such pool\n".to_owned(),
                "not the JSON",
            ),
            (ONLINE[..ONLINE.len() / 2].to_owned(), "not the JSON"),
            (
                ONLINE.replace("\"vers_major\":0", "\"vers_major\":1"),
                "version 1",
            ),
            (ONLINE.replace("zpool status", "zpool list"), "`zpool list`"),
            (
                ONLINE.replace("\"checksum_errors\"", "\"cksum\""),
                "checksum_errors of raidz1-0",
            ),
            // Without --json-int numbers are texts, and large ones are rounded.
            (
                ONLINE.replace("\"read_errors\":0", "\"read_errors\":\"0\""),
                "not the JSON",
            ),
        ] {
            let error = parse(&output).unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
    }
}
