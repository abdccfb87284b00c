//! What every guest channel can do, whichever guest it leads to.

use std::fmt;
use std::future::Future;
use std::time::Duration;

/// A command to run in a guest.
#[derive(Debug, Clone)]
pub struct Exec {
    /// Program, found on the guest's PATH.
    pub program: String,
    /// Its arguments.
    pub args: Vec<String>,
    /// What it reads from standard input.
    pub input: Option<Vec<u8>>,
    /// How long it may take.
    pub limit: Duration,
}

impl Exec {
    /// A program with arguments.
    pub fn new<I, S>(program: &str, args: I, limit: Duration) -> Self
    where
        I: IntoIterator<Item = S>,
        S: Into<String>,
    {
        Exec {
            program: program.to_owned(),
            args: args.into_iter().map(Into::into).collect(),
            input: None,
            limit,
        }
    }

    /// A shell script, given to `sh -c`.
    pub fn shell(script: &str, limit: Duration) -> Self {
        Exec::new("/bin/sh", ["-c", script], limit)
    }

    /// Waits, inside a guest, until its boot is over and every device that was found has been handed to
    /// its driver. An agent answers long before that, and what is read then changes under the reader.
    /// A unit that failed leaves the boot `degraded` and over, so the exit code is 0 all the same. Prints the
    /// kernel's boot id, another one after every boot.
    pub fn settled(limit: Duration) -> Self {
        Exec::shell(
            "systemctl is-system-running --wait >/dev/null\n\
             udevadm settle && cat /proc/sys/kernel/random/boot_id",
            limit,
        )
    }

    /// Prints the kernel's boot id.
    pub fn boot_id(limit: Duration) -> Self {
        Exec::new("cat", ["/proc/sys/kernel/random/boot_id"], limit)
    }

    /// The command as a person would type it.
    pub fn command_line(&self) -> String {
        if self.program == "/bin/sh" && self.args.len() == 2 && self.args[0] == "-c" {
            return self.args[1].clone();
        }
        std::iter::once(&self.program)
            .chain(&self.args)
            .cloned()
            .collect::<Vec<_>>()
            .join(" ")
    }
}

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Exit {
    /// It exited with this code.
    Code(i32),
    /// This signal killed it.
    Signal(i32),
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Exit::Code(code) => write!(f, "exit code {code}"),
            Exit::Signal(signal) => write!(f, "signal {signal}"),
        }
    }
}

/// What a finished command left behind.
#[derive(Debug, Clone)]
pub struct Output {
    /// How it ended.
    pub exit: Exit,
    /// Standard output.
    pub stdout: Vec<u8>,
    /// Standard error.
    pub stderr: Vec<u8>,
}

impl Output {
    /// Whether it exited with code 0.
    pub fn success(&self) -> bool {
        self.exit == Exit::Code(0)
    }

    /// Standard output as text.
    pub fn stdout_text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Standard error as text.
    pub fn stderr_text(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }
}

/// Why a guest did not do what it was asked to.
#[derive(Debug, thiserror::Error)]
pub enum GuestError {
    /// The command ran and did not succeed.
    #[error("`{command}` in {guest} ended with {exit}: {}", stderr.trim())]
    Failed {
        /// Which guest.
        guest: &'static str,
        /// The command.
        command: String,
        /// How it ended.
        exit: Exit,
        /// Its standard output.
        stdout: String,
        /// Its standard error.
        stderr: String,
    },
    /// The guest agent refused the request.
    #[error("the guest agent of {guest} refused {request}: {message}")]
    Refused {
        /// Which guest.
        guest: &'static str,
        /// What was asked.
        request: String,
        /// The agent's own words.
        message: String,
    },
    /// No answer in time.
    #[error("{guest} did not answer {request} within {} s", limit.as_secs())]
    Timeout {
        /// Which guest.
        guest: &'static str,
        /// What was asked.
        request: String,
        /// How long was waited.
        limit: Duration,
    },
    /// The channel broke: the guest or its agent went away.
    #[error("the channel to {guest} broke during {request}: {message}")]
    Broken {
        /// Which guest.
        guest: &'static str,
        /// What was under way.
        request: String,
        /// What was seen of it.
        message: String,
    },
}

/// A guest that runs commands and holds files.
pub trait Guest: Sync {
    /// `pve` or `nas`.
    fn name(&self) -> &'static str;

    /// Runs a command to its end and gives whatever it left, a failure too.
    ///
    /// # Errors
    /// Only where the channel failed: [`GuestError::Refused`], `Timeout` or `Broken`.
    fn exec(&self, exec: Exec) -> impl Future<Output = Result<Output, GuestError>> + Send;

    /// Reads a whole file.
    ///
    /// # Errors
    /// As [`Guest::exec`]; a file that is not there is `Refused` or `Failed`.
    fn read_file(&self, path: &str) -> impl Future<Output = Result<Vec<u8>, GuestError>> + Send;

    /// Writes a whole file, replacing it.
    ///
    /// # Errors
    /// As [`Guest::read_file`].
    fn write_file(
        &self,
        path: &str,
        content: &[u8],
    ) -> impl Future<Output = Result<(), GuestError>> + Send;

    /// Runs a command that has to succeed.
    ///
    /// # Errors
    /// As [`Guest::exec`], and [`GuestError::Failed`] when the command's exit code is not 0.
    fn run(&self, exec: Exec) -> impl Future<Output = Result<Output, GuestError>> + Send {
        async move {
            let command = exec.command_line();
            let output = self.exec(exec).await?;
            if output.success() {
                return Ok(output);
            }
            Err(GuestError::Failed {
                guest: self.name(),
                command,
                exit: output.exit,
                stdout: output.stdout_text(),
                stderr: output.stderr_text(),
            })
        }
    }
}
