//! The three ways to become root of a tree: being root, a user namespace, or sudo without a password.
//!
//! Each gives mmdebstrap its own mount and PID namespace, so that nothing it mounts or starts is seen or left outside.

use std::path::Path;
use std::process::{Command, Stdio};

use crate::cancel::Cancel;
use crate::error::{Error, Result};
use crate::process::Job;

/// How trees are built on this host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, strum::Display)]
pub enum Privilege {
    /// This process is root.
    #[strum(to_string = "root")]
    Root,
    /// An ordinary user whose sub-ids are root's and the others' in a namespace.
    #[strum(to_string = "user namespace")]
    UserNamespace,
    /// An ordinary user who may use sudo without a password.
    #[strum(to_string = "sudo")]
    Sudo,
}

const NAMESPACES: &[&str] = &["--fork", "--pid", "--kill-child", "--mount-proc"];

impl Privilege {
    /// The first of the three that works here.
    pub fn detect() -> Result<Self> {
        let mut reasons = Vec::new();
        if rustix::process::geteuid().is_root() {
            match probe(Self::Root.words()) {
                Ok(()) => return Ok(Self::Root),
                Err(reason) => reasons.push(format!(
                    "root: no new namespaces ({reason}); if this is a container, start it with --privileged, or with \
                     --cap-add SYS_ADMIN and without a seccomp profile"
                )),
            }
            return Err(Error::NoPrivilege { reasons });
        }
        match user_namespace_problem() {
            None => return Ok(Self::UserNamespace),
            Some(reason) => reasons.push(format!("user namespace: {reason}")),
        }
        match probe(Self::Sudo.words()) {
            Ok(()) => return Ok(Self::Sudo),
            Err(reason) => reasons.push(format!("sudo without a password: {reason}")),
        }
        Err(Error::NoPrivilege { reasons })
    }

    /// The words in front of a command that make it root of its own namespaces.
    fn words(self) -> Vec<&'static str> {
        let mut words = match self {
            Self::Root => vec!["unshare"],
            Self::UserNamespace => vec!["unshare", "--user", "--map-root-user", "--map-auto"],
            Self::Sudo => vec!["sudo", "--non-interactive", "unshare"],
        };
        words.extend(NAMESPACES);
        words
    }

    /// A job that runs `argv` as root of its own namespaces.
    pub(crate) fn job(self, what: impl Into<String>, argv: &[&std::ffi::OsStr]) -> Job {
        let words = self.words();
        let (prefix, words) = match self {
            // The shell that kills the job when this process is gone must have the rights to.
            Self::Sudo => words.split_at(2),
            Self::Root | Self::UserNamespace => words.split_at(0),
        };
        Job::new(what, words[0])
            .args(&words[1..])
            .args(argv)
            .prefix_keeper(prefix)
    }

    /// Removes what a dead build left, whoever owns it.
    pub(crate) fn remove(self, path: &Path, log: &Path, cancel: &Cancel) -> Result<()> {
        let argv = [
            "rm".as_ref(),
            "-rf".as_ref(),
            "--".as_ref(),
            path.as_os_str(),
        ];
        self.job(format!("removing {}", path.display()), &argv)
            .run(log, cancel, &|_| {})
    }

    /// What makes this process own a file that a build made.
    pub(crate) fn owner(self) -> String {
        match self {
            // Root of the namespace is the user outside.
            Self::Root | Self::UserNamespace => "0:0".to_owned(),
            Self::Sudo => {
                format!(
                    "{}:{}",
                    rustix::process::getuid().as_raw(),
                    rustix::process::getgid().as_raw()
                )
            }
        }
    }
}

fn user_namespace_problem() -> Option<String> {
    for program in ["newuidmap", "newgidmap"] {
        if !crate::mmdebstrap::in_path(program) {
            return Some(format!(
                "`{program}` is not installed; next: sudo apt-get install uidmap"
            ));
        }
    }
    let reason = probe(Privilege::UserNamespace.words()).err()?;
    let read = |path: &str| {
        std::fs::read_to_string(path)
            .map(|text| text.trim().to_owned())
            .unwrap_or_default()
    };
    if read("/proc/sys/kernel/apparmor_restrict_unprivileged_userns") == "1" {
        return Some(format!(
            "AppArmor restricts it ({reason}); next: sudo sysctl kernel.apparmor_restrict_unprivileged_userns=0"
        ));
    }
    if read("/proc/sys/kernel/unprivileged_userns_clone") == "0" {
        return Some(format!(
            "the kernel refuses it ({reason}); next: sudo sysctl kernel.unprivileged_userns_clone=1"
        ));
    }
    let user = std::env::var("USER").unwrap_or_else(|_| "$USER".to_owned());
    Some(format!(
        "{reason}; if /etc/subuid or /etc/subgid lacks {user}, next: \
         sudo usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {user}"
    ))
}

/// Mounts something behind these words, as a build does: Ubuntu's AppArmor profile of `unshare` since 25.04 lets anybody have the
/// namespaces, and takes the right to do anything in them from whatever is started there.
fn probe(words: Vec<&str>) -> Result<(), String> {
    let output = Command::new(words[0])
        .args(&words[1..])
        .args(["mount", "-t", "tmpfs", "none", "/tmp"])
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("`{}`: {error}", words[0]))?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr);
    Err(text
        .lines()
        .next()
        .unwrap_or("no reason given")
        .trim()
        .to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_way_has_namespaces_of_its_own() {
        for way in [Privilege::Root, Privilege::UserNamespace, Privilege::Sudo] {
            assert!(way.words().ends_with(NAMESPACES), "{way}");
        }
        assert_eq!(Privilege::Sudo.words()[..2], ["sudo", "--non-interactive"]);
    }
}
