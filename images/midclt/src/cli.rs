//! `midclt call METHOD [ARGUMENT…]`; each argument is JSON, or else a text as it stands.

use std::{
    ffi::OsString,
    io::{self, Write},
    process::ExitCode,
};

use serde_json::Value;

use crate::{
    device::{DeviceError, Host},
    disk::{Entry, describe},
    json,
    pool::{self, PoolError},
    query::{Answer, Query, QueryError},
};

const USAGE: &str = "usage: midclt [-h] [-q] [-u URI] [-t TIMEOUT] call [-j] method [args ...]";

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The command line cannot be understood.
    #[error("{USAGE}\nmidclt: error: {0}")]
    Usage(String),
    /// There is no such method, here at least.
    #[error("[ENOMETHOD] Method '{0}' not found")]
    NoMethod(String),
    /// The method takes fewer arguments.
    #[error("[EINVAL] Too many arguments (expected 2, found {0})")]
    TooMany(usize),
    /// About filters and options.
    #[error(transparent)]
    Query(#[from] QueryError),
    /// About disks.
    #[error("[EFAULT] {0}")]
    Device(#[from] DeviceError),
    /// About pools.
    #[error("[EFAULT] {0}")]
    Pool(#[from] PoolError),
    /// About the answer.
    #[error("[EFAULT] {0}")]
    Json(#[from] serde_json::Error),
}

/// Runs the program.
pub fn main(arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let arguments: Vec<String> = arguments
        .map(|argument| argument.to_string_lossy().into_owned())
        .collect();
    let result = run(&Host::from_env(), &arguments);
    let written = match &result {
        Ok(line) => writeln!(io::stdout(), "{line}"),
        Err(error) => writeln!(io::stderr(), "{error}"),
    };
    match (result, written) {
        (Ok(_), Ok(())) => ExitCode::SUCCESS,
        (Err(CallError::Usage(_)), _) => ExitCode::from(2),
        _ => ExitCode::FAILURE,
    }
}

/// Runs one command line; gives the line to print.
pub fn run(host: &Host, arguments: &[String]) -> Result<String, CallError> {
    let (method, arguments) = method(arguments)?;
    match method {
        "disk.query" => Ok(json::line(&disk_query(host, arguments)?)?),
        // What tools use to see whether the middleware is there.
        "core.ping" => Ok("pong".to_owned()),
        other => Err(CallError::NoMethod(other.to_owned())),
    }
}

/// Passes over the options of the real program, none of which matter here.
fn method(arguments: &[String]) -> Result<(&str, &[String]), CallError> {
    let usage = |text: &str| CallError::Usage(text.to_owned());
    let mut rest = arguments;
    let mut called = false;
    loop {
        match rest {
            [option, more @ ..] if matches!(option.as_str(), "-q" | "--quiet" | "-j" | "--job") => {
                rest = more
            }
            [option, _, more @ ..]
                if matches!(option.as_str(), "-u" | "--uri" | "-t" | "--timeout") =>
            {
                rest = more
            }
            [option, ..] if option.starts_with('-') => {
                return Err(CallError::Usage(format!(
                    "unrecognized arguments: {option}"
                )));
            }
            [word, more @ ..] if word == "call" && !called => {
                called = true;
                rest = more;
            }
            [method, more @ ..] if called => return Ok((method, more)),
            [word, ..] => {
                return Err(CallError::Usage(format!(
                    "argument name: invalid choice: '{word}'"
                )));
            }
            [] if called => return Err(usage("the following arguments are required: method")),
            [] => return Err(usage("the following arguments are required: name")),
        }
    }
}

fn disk_query(host: &Host, arguments: &[String]) -> Result<Answer, CallError> {
    if arguments.len() > 2 {
        return Err(CallError::TooMany(arguments.len()));
    }
    let argument = |index: usize| {
        arguments
            .get(index)
            .map_or(Value::Null, |text| parse_argument(text))
    };
    let query = Query::parse(&argument(0), &argument(1))?;
    let members = pool::members(host)?;
    let disks = host.disks()?;
    let entries: Vec<Entry> = disks
        .iter()
        .map(|disk| describe(disk, members.get(&disk.name), query.pools))
        .collect();
    Ok(query.answer(entries)?)
}

fn parse_argument(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|_| Value::String(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::testing::Fake;

    fn fake() -> Fake {
        let fake = Fake::new();
        fake.qemu_scsi("sda", &[("ID_SERIAL_SHORT", "drive-scsi0")]);
        fake.ata("sdb", "ZTM09FD7", "0x5000c500a1b2c3d0");
        fake.partition("sdb", 1, &[]);
        fake.zpool(r#"echo '{"pools": {"tank": {"vdevs": {"sdb": {"vdev_type": "disk", "guid": 5, "path": "/dev/sdb1"}}}}}'"#);
        fake
    }

    fn check(fake: &Fake, arguments: &[&str], expected: &str) {
        let arguments: Vec<String> = arguments
            .iter()
            .map(|argument| (*argument).to_owned())
            .collect();
        let shown = run(&fake.host(), &arguments).unwrap_or_else(|error| error.to_string());
        assert_eq!(shown, expected, "{arguments:?}");
    }

    #[test]
    fn calls() {
        let fake = fake();
        let select = r#"{"select": ["name", "serial", "pool", "zfs_guid"]}"#;
        check(
            &fake,
            &["call", "disk.query", "[]", select],
            r#"[{"name": "sda", "serial": "drive-scsi0", "zfs_guid": null, "pool": null}, {"name": "sdb", "serial": "ZTM09FD7", "zfs_guid": "5", "pool": null}]"#,
        );
        let joined = r#"{"get": true, "select": ["pool"], "extra": {"pools": true}}"#;
        check(
            &fake,
            &["call", "disk.query", r#"[["name", "=", "sdb"]]"#, joined],
            r#"{"pool": "tank"}"#,
        );
        check(
            &fake,
            &[
                "-q",
                "-t",
                "5",
                "call",
                "-j",
                "disk.query",
                "[]",
                r#"{"count": true}"#,
            ],
            "2",
        );
        check(&fake, &["call", "core.ping"], "pong");
        let all = run(&fake.host(), &["call".to_owned(), "disk.query".to_owned()]).unwrap();
        assert!(
            all.starts_with(
                r#"[{"identifier": "{serial}drive-scsi0", "name": "sda", "subsystem": "scsi", "#
            ),
            "{all}"
        );
        assert!(!all.contains('\n'));
    }

    #[test]
    fn failures() {
        let fake = fake();
        check(
            &fake,
            &["call", "pool.query"],
            "[ENOMETHOD] Method 'pool.query' not found",
        );
        check(
            &fake,
            &["call", "disk.query", "[]", "{}", "1"],
            "[EINVAL] Too many arguments (expected 2, found 3)",
        );
        check(
            &fake,
            &["call", "disk.query", "sda"],
            "[EINVAL] query-filters: a list is expected, not \"sda\"",
        );
        check(
            &fake,
            &[],
            &format!("{USAGE}\nmidclt: error: the following arguments are required: name"),
        );
        check(
            &fake,
            &["call"],
            &format!("{USAGE}\nmidclt: error: the following arguments are required: method"),
        );
        fake.zpool("echo broken >&2; exit 2");
        check(
            &fake,
            &["call", "disk.query"],
            "[EFAULT] 'zpool status -j' failed (exit status: 2): broken",
        );
    }
}
