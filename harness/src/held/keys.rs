//! A key for the way in and a key for the guests to be known by, made for one held lab; and the ssh client
//! that uses them.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;

use images::Toolbox;

/// Keys and client could not be made.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// `ssh-keygen` could not be run.
    #[error("failed to run the toolbox's ssh-keygen")]
    Start(#[source] io::Error),
    /// `ssh-keygen` failed.
    #[error("the toolbox's ssh-keygen ended with {status}: {words}")]
    Failed {
        /// How it ended.
        status: ExitStatus,
        /// What it said.
        words: String,
    },
    /// A file cannot be used.
    #[error("failed to write or read {}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// What a guest has to be given, and what L0 calls.
#[derive(Debug, Clone)]
pub struct Keys {
    /// The guests' own key, private.
    pub host_key: String,
    /// The line that lets the way's key in.
    pub authorized: String,
    /// The ssh client that knows the way in.
    pub ssh: PathBuf,
    /// The words in front of scp's arguments.
    pub scp: Vec<String>,
}

impl Keys {
    /// Makes them in a private folder. `knock` is the command that carries bytes to a guest: ssh's
    /// ProxyCommand, with `%h` for the guest's name.
    ///
    /// # Errors
    /// [`KeyError`].
    pub fn make(folder: &Path, toolbox: &Toolbox, knock: &[&str]) -> Result<Self, KeyError> {
        let user = folder.join("key");
        let host = folder.join("host-key");
        for path in [&user, &host] {
            generate(path, toolbox)?;
        }
        let read = |path: &Path| {
            fs::read_to_string(path).map_err(|source| KeyError::File {
                path: path.to_owned(),
                source,
            })
        };
        let authorized = read(&user.with_extension("pub"))?.trim().to_owned();
        let host_public = read(&host.with_extension("pub"))?;
        let known = folder.join("known-hosts");
        write(&known, &format!("lab {host_public}"), 0o600)?;
        let config = folder.join("ssh-config");
        write(&config, &configuration(&user, &known, knock), 0o600)?;
        let ssh = folder.join("ssh");
        let words = words(toolbox.argv_prefix("ssh"));
        write(&ssh, &wrapper(&words, &config), 0o700)?;
        let mut scp = self::words(toolbox.argv_prefix("scp"));
        scp.extend(["-S".to_owned(), ssh.to_string_lossy().into_owned()]);
        Ok(Keys {
            host_key: read(&host)?,
            authorized,
            ssh,
            scp,
        })
    }
}

fn generate(path: &Path, toolbox: &Toolbox) -> Result<(), KeyError> {
    let mut command = toolbox.command("ssh-keygen");
    command
        .args(["-q", "-t", "ed25519", "-N", "", "-C", "lab", "-f"])
        .arg(path);
    let output = command.output().map_err(KeyError::Start)?;
    if output.status.success() {
        return Ok(());
    }
    Err(KeyError::Failed {
        status: output.status,
        words: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
    })
}

fn write(path: &Path, text: &str, mode: u32) -> Result<(), KeyError> {
    let write = || {
        fs::write(path, text).and_then(|()| fs::set_permissions(path, Permissions::from_mode(mode)))
    };
    write().map_err(|source| KeyError::File {
        path: path.to_owned(),
        source,
    })
}

fn words(argv: Vec<std::ffi::OsString>) -> Vec<String> {
    argv.iter()
        .map(|word| word.to_string_lossy().into_owned())
        .collect()
}

/// ssh's configuration. Nothing of the user's own is read: neither keys nor agents nor settings.
fn configuration(key: &Path, known: &Path, knock: &[&str]) -> String {
    // A percent sign is ssh's own; the guest's name is the only one that is meant so.
    let knock: Vec<String> = knock
        .iter()
        .map(|word| match *word {
            "%h" => word.to_string(),
            other => quoted(&other.replace('%', "%%")),
        })
        .collect();
    let (key, known) = (in_file(key), in_file(known));
    format!(
        "Host pve nas
    User root
    HostKeyAlias lab
    GlobalKnownHostsFile none
    UserKnownHostsFile {known}
    StrictHostKeyChecking yes
    UpdateHostKeys no
    IdentityFile {key}
    IdentitiesOnly yes
    IdentityAgent none
    PreferredAuthentications publickey
    KexAlgorithms curve25519-sha256
    ProxyCommand {}
    ConnectTimeout 120
    ServerAliveInterval 20
    ServerAliveCountMax 3
    LogLevel ERROR
",
        knock.join(" ")
    )
}

/// A path in ssh's configuration, where quotes are double ones and percent signs are doubled.
fn in_file(path: &Path) -> String {
    format!("\"{}\"", path.to_string_lossy().replace('%', "%%"))
}

/// A script that is an ssh client with this configuration, for scp and for people.
fn wrapper(ssh: &[String], config: &Path) -> String {
    let ssh: Vec<String> = ssh.iter().map(|word| quoted(word)).collect();
    format!(
        "#!/bin/sh
# The shell that ssh runs its ProxyCommand with, whatever the user's own is; and no OpenSSL settings of L0's.
export SHELL=/bin/sh OPENSSL_CONF=/dev/null
exec {} -F {} \"$@\"
",
        ssh.join(" "),
        quoted(&config.to_string_lossy())
    )
}

/// A word for a POSIX shell.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_way_in_is_the_only_thing_that_ssh_is_told_of() {
        let knock = ["/it's/50%/xtask", "lab", "wire", "/run/control", "%h"];
        let text = configuration(Path::new("/k 1/key"), Path::new("/k 1/known"), &knock);
        for line in [
            "    IdentityFile \"/k 1/key\"",
            "    UserKnownHostsFile \"/k 1/known\"",
            r"    ProxyCommand '/it'\''s/50%%/xtask' 'lab' 'wire' '/run/control' %h",
        ] {
            assert!(text.lines().any(|one| one == line), "{line}\n{text}");
        }
    }
}
