//! Running the programs of a build so that none outlives it.
//!
//! Each program runs below a small shell in a process group of its own, and the shell holds the read end of a pipe whose
//! write end only this process has. When the pipe closes, because the build was stopped or because this process died in
//! whatever way, the shell kills its group. That works across `sudo`, where this process may not send signals.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{BufRead, BufReader, PipeReader, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};

use crate::cancel::Cancel;
use crate::error::{Error, Result};

/// `$0` is a name for `ps`, `"$@"` the program. A background command's stdin is /dev/null unless told otherwise, so the
/// pipe comes to the watcher by descriptor 3.
const KEEPER: &str = r#"
exec 3<&0
"$@" </dev/null 3<&- &
program=$!
(read -r _ <&3; kill -KILL 0) 2>/dev/null &
watcher=$!
exec 3<&-
wait "$program"
status=$?
kill "$watcher" 2>/dev/null
exit "$status"
"#;

const TAIL_LINES: usize = 15;

/// A program to run as a part of a build.
pub(crate) struct Job {
    what: String,
    argv: Vec<OsString>,
    before_keeper: Vec<OsString>,
    envs: Vec<(OsString, OsString)>,
    env_removed: Vec<OsString>,
    dir: Option<PathBuf>,
}

impl Job {
    /// `what` completes "... failed".
    pub(crate) fn new(what: impl Into<String>, program: impl AsRef<OsStr>) -> Self {
        Self {
            what: what.into(),
            argv: vec![program.as_ref().to_owned()],
            before_keeper: Vec::new(),
            envs: Vec::new(),
            env_removed: Vec::new(),
            dir: None,
        }
    }

    pub(crate) fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.argv.push(arg.as_ref().to_owned());
        self
    }

    pub(crate) fn args<A: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.argv
            .extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self
    }

    pub(crate) fn env(mut self, key: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.envs
            .push((key.as_ref().to_owned(), value.as_ref().to_owned()));
        self
    }

    pub(crate) fn env_remove(mut self, key: impl AsRef<OsStr>) -> Self {
        self.env_removed.push(key.as_ref().to_owned());
        self
    }

    pub(crate) fn current_dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.dir = Some(dir.into());
        self
    }

    /// Puts a program such as `sudo` in front of the shell that watches over this one.
    pub(crate) fn prefix_keeper<A: AsRef<OsStr>>(
        mut self,
        prefix: impl IntoIterator<Item = A>,
    ) -> Self {
        self.before_keeper = prefix
            .into_iter()
            .map(|arg| arg.as_ref().to_owned())
            .collect();
        self
    }

    /// Runs to the end; each line of output goes to `log` and to `line`.
    pub(crate) fn run(self, log: &Path, cancel: &Cancel, line: &dyn Fn(&str)) -> Result<()> {
        cancel.check()?;
        let (mut command, program) = self.command();
        let (output, output_writer) = std::io::pipe().map_err(Error::io("open a pipe for", log))?;
        let error_writer = output_writer
            .try_clone()
            .map_err(Error::io("open a pipe for", log))?;
        command
            .stdin(Stdio::piped())
            .stdout(output_writer)
            .stderr(error_writer);
        let mut child = command
            .spawn()
            .map_err(|source| Error::Spawn { program, source })?;
        // The command holds the write ends of the output pipe; while it lives, reading never ends.
        drop(command);
        let lifeline = Arc::new(Mutex::new(child.stdin.take()));
        let guard = {
            let lifeline = Arc::clone(&lifeline);
            cancel.on_cancel(move || {
                drop(
                    lifeline
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .take(),
                )
            })
        };
        let tail = copy_lines(output, log, line)?;
        let status = child
            .wait()
            .map_err(Error::io("wait for a program of", log))?;
        drop(guard);
        cancel.check()?;
        if status.success() {
            return Ok(());
        }
        Err(explain(self.what, &status.to_string(), log, &tail))
    }

    fn command(&self) -> (Command, String) {
        let mut words = self.before_keeper.iter().cloned().chain(
            ["sh", "-c", KEEPER, "lab-keeper"]
                .into_iter()
                .map(OsString::from),
        );
        let mut command = Command::new(words.next().unwrap_or_else(|| "sh".into()));
        command.args(words).args(&self.argv).process_group(0);
        command.envs(self.envs.iter().map(|(key, value)| (key, value)));
        for key in &self.env_removed {
            command.env_remove(key);
        }
        if let Some(dir) = &self.dir {
            command.current_dir(dir);
        }
        (command, self.argv[0].to_string_lossy().into_owned())
    }
}

fn copy_lines(output: PipeReader, log: &Path, line: &dyn Fn(&str)) -> Result<VecDeque<String>> {
    let mut log_file = File::options()
        .append(true)
        .create(true)
        .open(log)
        .map_err(Error::io("write", log))?;
    let mut tail = VecDeque::new();
    let mut reader = BufReader::new(output);
    let mut bytes = Vec::new();
    loop {
        bytes.clear();
        let count = reader
            .read_until(b'\n', &mut bytes)
            .map_err(Error::io("read the output for", log))?;
        if count == 0 {
            return Ok(tail);
        }
        log_file
            .write_all(&bytes)
            .map_err(Error::io("write", log))?;
        let text = String::from_utf8_lossy(&bytes);
        let text = text.trim_end();
        if text.is_empty() {
            continue;
        }
        line(text);
        if tail.len() == TAIL_LINES {
            tail.pop_front();
        }
        tail.push_back(text.to_owned());
    }
}

/// Turns the ways in which apt fails into errors that say what to do.
fn explain(what: String, status: &str, log: &Path, tail: &VecDeque<String>) -> Error {
    let whole = std::fs::read(log)
        .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
        .unwrap_or_default();
    let find = |needles: &[&str]| {
        whole
            .lines()
            .find(|line| needles.iter().any(|needle| line.contains(needle)))
            .map(|line| line.trim().to_owned())
    };
    if let Some(reason) = find(&["No space left on device"]) {
        return Error::Unusable {
            what: "the cache's file system".to_owned(),
            reason: format!(
                "it is full ({reason}); free some space or set LAB_CACHE to a folder elsewhere"
            ),
        };
    }
    if let Some(reason) = find(&[
        "NO_PUBKEY",
        "EXPKEYSIG",
        "BADSIG",
        "is not signed",
        "signatures couldn't be verified",
    ]) {
        return Error::Signature { reason };
    }
    if let Some(reason) = find(&[
        "Could not resolve",
        "Temporary failure resolving",
        "Could not connect",
        "Unable to connect",
        "Connection failed",
        "Network is unreachable",
        "Failed to fetch",
    ]) {
        return Error::Network { reason };
    }
    Error::Command {
        what,
        status: status.to_owned(),
        log: log.to_owned(),
        tail: tail
            .iter()
            .map(|line| format!("  | {line}"))
            .collect::<Vec<_>>()
            .join("\n"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(job: Job, cancel: &Cancel, line: &dyn Fn(&str)) -> Result<()> {
        let dir = tempfile::tempdir().unwrap();
        job.run(&dir.path().join("log"), cancel, line)
    }

    fn shell(script: &str) -> Job {
        Job::new("the script", "sh").args(["-c", script])
    }

    #[test]
    fn lines_of_both_streams_are_heard() {
        let heard = Mutex::new(Vec::new());
        run(shell("echo out; echo err >&2"), &Cancel::new(), &|line| {
            heard.lock().unwrap().push(line.to_owned())
        })
        .unwrap();
        let mut heard = heard.into_inner().unwrap();
        heard.sort();
        assert_eq!(heard, ["err", "out"]);
    }

    #[test]
    fn a_failure_says_what_how_and_the_last_lines() {
        let error = run(shell("echo one; echo two; exit 3"), &Cancel::new(), &|_| {})
            .unwrap_err()
            .to_string();
        assert!(
            error.starts_with("the script failed (exit status: 3)"),
            "{error}"
        );
        assert!(error.ends_with("  | one\n  | two"), "{error}");
    }

    #[test]
    fn a_program_that_is_not_there_is_named() {
        let error = run(Job::new("it", "/no/such/program"), &Cancel::new(), &|_| {}).unwrap_err();
        assert!(error.to_string().contains("/no/such/program"), "{error}");
    }

    #[test]
    fn apts_failures_are_told_apart() {
        let check = |output: &str, expected: &str| {
            let error = run(
                shell(&format!("echo '{output}'; exit 1")),
                &Cancel::new(),
                &|_| {},
            )
            .unwrap_err()
            .to_string();
            assert!(
                error.contains(expected) && error.contains(output),
                "{error}"
            );
        };
        check(
            "Err:1 Temporary failure resolving (mirror)",
            "cannot reach the archive of packages",
        );
        check(
            "W: GPG error: NO_PUBKEY 0123",
            "could not verify the signature",
        );
        check("tar: cannot write: No space left on device", "LAB_CACHE");
    }

    #[test]
    fn cancelling_kills_the_program_and_its_children() {
        let cancel = Cancel::new();
        let stop = cancel.clone();
        // The output ends only when the last of them is gone.
        let job = shell("sh -c 'echo ready; sleep infinity' & sleep infinity");
        let result = run(job, &cancel, &move |_| stop.cancel());
        assert!(result.is_err_and(|error| error.is_cancelled()));
    }
}
