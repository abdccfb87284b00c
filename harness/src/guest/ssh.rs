//! A host behind the system's own `ssh`: one connection, which asks for whatever it has to ask once, and
//! all commands through it. It only reads.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use tempfile::TempDir;
use tokio::process::{Child, Command};

use super::exec::{Exec, Exit, Guest, GuestError, Output};
use super::local::{only_read, run};
use crate::poll::{Pace, TimedOut, poll};

const NAME: &str = "the host";

/// What ssh exits with when it is itself that failed.
const SSH_FAILED: i32 = 255;

/// How long the connection may take to come up, with a person who types a password.
const CONNECT_LIMIT: Duration = Duration::from_secs(180);

/// A host behind ssh.
#[derive(Debug)]
pub struct Ssh {
    destination: String,
    socket: PathBuf,
    /// Ends with this value, and the connection with it.
    _connection: Child,
    /// Holds the socket.
    _folder: TempDir,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum SshError {
    /// The destination would be taken for an option.
    #[error("`{0}` is not a destination; write root@HOST")]
    Destination(String),
    /// ssh could not be started.
    #[error("failed to start ssh; the package openssh-client has it")]
    Start(#[source] std::io::Error),
    /// ssh ended. Its own words are on the terminal already.
    #[error("ssh could not connect to {destination} ({status})")]
    Ended {
        /// Where to.
        destination: String,
        /// How it ended.
        status: std::process::ExitStatus,
    },
    /// Nothing happened in time.
    #[error(transparent)]
    TimedOut(#[from] TimedOut),
}

impl Ssh {
    /// Connects. ssh asks at the terminal what it has to ask, unless `quiet`.
    ///
    /// # Errors
    /// [`SshError`].
    pub async fn connect(destination: &str, quiet: bool) -> Result<Self, SshError> {
        if destination.starts_with('-') || destination.trim().is_empty() {
            return Err(SshError::Destination(destination.to_owned()));
        }
        let folder = tempfile::Builder::new()
            .prefix("ssh")
            .tempdir()
            .map_err(SshError::Start)?;
        let socket = folder.path().join("s");
        let mut master = ssh(&socket);
        master.args([
            "-M",
            "-o",
            "ControlPersist=no",
            "-o",
            "ServerAliveInterval=15",
        ]);
        if quiet {
            master.args(["-o", "BatchMode=yes"]);
        }
        // It ends when its input does: with this program, whatever ends that.
        master.args(["--", destination, "cat"]);
        master
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .kill_on_drop(true);
        let mut connection = master.spawn().map_err(SshError::Start)?;
        let what = format!("the connection to {destination}");
        poll(&what, CONNECT_LIMIT, Pace::SLOW, async || {
            if let Some(status) = connection.try_wait().map_err(SshError::Start)? {
                return Err(SshError::Ended {
                    destination: destination.to_owned(),
                    status,
                });
            }
            let mut check = ssh(&socket);
            check.args(["-O", "check", "--", destination]);
            check
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null());
            let there = check.status().await.map_err(SshError::Start)?;
            Ok(there.success().then_some(()))
        })
        .await?;
        Ok(Ssh {
            destination: destination.to_owned(),
            socket,
            _connection: connection,
            _folder: folder,
        })
    }
}

fn ssh(socket: &std::path::Path) -> Command {
    let mut command = Command::new("ssh");
    command.arg("-S").arg(socket);
    command
}

/// A word as any shell reads it back.
pub(crate) fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

impl Guest for Ssh {
    fn name(&self) -> &'static str {
        NAME
    }

    async fn exec(&self, exec: Exec) -> Result<Output, GuestError> {
        let words = std::iter::once(&exec.program).chain(&exec.args);
        let words: Vec<String> = words.map(|word| quoted(word)).collect();
        let mut command = ssh(&self.socket);
        // Without its connection ssh would make another, so it is given no way to.
        command.args([
            "-o",
            "ProxyCommand=false",
            "-o",
            "BatchMode=yes",
            "--",
            &self.destination,
        ]);
        command.arg(format!("env LC_ALL=C {}", words.join(" ")));
        let request = exec.command_line();
        let output = run(NAME, command, exec).await?;
        if output.exit == Exit::Code(SSH_FAILED) {
            return Err(GuestError::Broken {
                guest: NAME,
                request,
                message: output.stderr_text().trim().to_owned(),
            });
        }
        Ok(output)
    }

    async fn read_file(&self, path: &str) -> Result<Vec<u8>, GuestError> {
        let exec = Exec::new("cat", ["--", path], CONNECT_LIMIT);
        Ok(self.run(exec).await?.stdout)
    }

    async fn write_file(&self, path: &str, _: &[u8]) -> Result<(), GuestError> {
        Err(only_read(NAME, path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_come_back_as_they_were() {
        for word in ["plain", "two words", "it's", "$HOME `id` \"x\"", "a\nb\\"] {
            let echo = format!("printf %s {}", quoted(word));
            let output = std::process::Command::new("sh")
                .args(["-c", &echo])
                .output()
                .unwrap();
            assert_eq!(String::from_utf8(output.stdout).unwrap(), word);
        }
    }

    #[tokio::test]
    async fn an_option_is_no_destination() {
        for wrong in ["-oProxyCommand=id", "", " "] {
            let error = Ssh::connect(wrong, true).await.unwrap_err();
            assert!(matches!(error, SshError::Destination(_)), "{error}");
        }
    }
}
