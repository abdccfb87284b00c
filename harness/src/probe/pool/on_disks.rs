//! What `zpool import` says of the pools that it finds.

use serde::{Deserialize, Serialize};

use crate::probe::ParseError;

/// A pool that disks have and nobody has imported.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct PoolOnDisks {
    /// Its name.
    pub name: String,
    /// In which state it would be: `ONLINE`, `DEGRADED`, `UNAVAIL` or `FAULTED`.
    pub state: String,
    /// What is wrong with it, in ZFS's words; none where nothing is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<String>,
    /// The pool's own line, its vdevs and its disks, in ZFS's order.
    pub devices: Vec<DeviceOnDisks>,
}

/// A line of its configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct DeviceOnDisks {
    /// The pool, a vdev or a disk.
    pub name: String,
    /// Its state, such as `ONLINE` or `UNAVAIL`.
    pub state: String,
}

/// What it says where it finds none.
const NONE: &str = "no pools available to import";

/// Parses the text of `zpool import`: fields of a name, a colon and a value, whose further lines begin with a tab; the
/// field `config` is a tree.
///
/// # Errors
/// [`ParseError`] for a line before the first pool, and for a pool without its state or configuration.
pub(super) fn parse(text: &str) -> Result<Vec<PoolOnDisks>, ParseError> {
    let mut pools: Vec<PoolOnDisks> = Vec::new();
    let mut field = "";
    for line in text.lines().filter(|line| !line.trim().is_empty()) {
        if line.trim() == NONE {
            continue;
        }
        let (key, value) = match line.split_once(':') {
            Some((key, value)) if !line.starts_with('\t') => (key.trim(), value.trim()),
            _ => (field, line.trim()),
        };
        field = key;
        if key == "pool" {
            pools.push(PoolOnDisks {
                name: value.to_owned(),
                ..PoolOnDisks::default()
            });
            continue;
        }
        let Some(pool) = pools.last_mut() else {
            let shape = format!("`{}` stands before the first pool", line.trim());
            return Err(ParseError::shape("zpool import", shape));
        };
        match key {
            "state" => value.clone_into(&mut pool.state),
            "status" => {
                let status = pool.status.get_or_insert_default();
                if !status.is_empty() {
                    status.push(' ');
                }
                status.push_str(value);
            }
            "config" => {
                // Notes below the tree are sentences.
                if let [name, state, ..] = value.split_whitespace().collect::<Vec<_>>()[..]
                    && state.bytes().all(|byte| byte.is_ascii_uppercase())
                {
                    pool.devices.push(DeviceOnDisks {
                        name: name.to_owned(),
                        state: state.to_owned(),
                    });
                }
            }
            _ => {}
        }
    }
    for pool in &pools {
        if pool.state.is_empty() || pool.devices.is_empty() {
            return Err(ParseError::missing(format!(
                "state or configuration of the pool {}",
                pool.name
            )));
        }
    }
    Ok(pools)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pool_that_lacks_disks_names_them() {
        let pools = parse(include_str!("../samples/zpool-import-missing.txt")).unwrap();
        let [tank] = &pools[..] else {
            panic!("{pools:?}");
        };
        assert_eq!(
            (tank.name.as_str(), tank.state.as_str()),
            ("tank", "UNAVAIL")
        );
        assert!(
            tank.status.as_ref().unwrap().contains("corrupted data"),
            "{tank:?}"
        );
        let missing = tank.devices.iter().filter(|one| one.state == "UNAVAIL");
        // The pool, its vdev, and three of the four disks.
        assert_eq!(missing.count(), 5);
        assert_eq!(tank.devices.len(), 6);
    }

    #[test]
    fn none_is_an_answer_and_anything_else_is_refused() {
        assert_eq!(parse("").unwrap(), []);
        assert_eq!(parse("no pools available to import\n").unwrap(), []);
        for (text, says) in [
            (
                "cannot import: permission denied\n",
                "before the first pool",
            ),
            ("   pool: tank\n     id: 1\n", "state or configuration"),
        ] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
    }
}
