//! This very machine, for a doctor that is run on a Proxmox host itself. It only reads.

use std::process::Stdio;

use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use super::exec::{Exec, Exit, Guest, GuestError, Output};

const NAME: &str = "this host";

/// The machine that this program runs on.
#[derive(Debug, Clone, Copy, Default)]
pub struct Local;

impl Guest for Local {
    fn name(&self) -> &'static str {
        NAME
    }

    async fn exec(&self, exec: Exec) -> Result<Output, GuestError> {
        let mut command = Command::new(&exec.program);
        command.args(&exec.args).env("LC_ALL", "C");
        run(NAME, command, exec).await
    }

    async fn read_file(&self, path: &str) -> Result<Vec<u8>, GuestError> {
        tokio::fs::read(path)
            .await
            .map_err(|error| GuestError::Refused {
                guest: NAME,
                request: format!("reading {path}"),
                message: error.to_string(),
            })
    }

    async fn write_file(&self, path: &str, _: &[u8]) -> Result<(), GuestError> {
        Err(only_read(NAME, path))
    }
}

/// The error for writing where nothing may be changed.
pub(super) fn only_read(guest: &'static str, path: &str) -> GuestError {
    GuestError::Refused {
        guest,
        request: format!("writing {path}"),
        message: "nothing is changed on a real host".to_owned(),
    }
}

/// Runs a program of this machine to its end; it does not outlive the wait for it.
pub(super) async fn run(
    guest: &'static str,
    mut command: Command,
    exec: Exec,
) -> Result<Output, GuestError> {
    let request = exec.command_line();
    let refused = |error: std::io::Error| GuestError::Refused {
        guest,
        request: request.clone(),
        message: error.to_string(),
    };
    let input = if exec.input.is_some() {
        Stdio::piped()
    } else {
        Stdio::null()
    };
    command
        .stdin(input)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    let mut child = command.spawn().map_err(refused)?;
    let finished = async {
        if let (Some(input), Some(mut stdin)) = (exec.input, child.stdin.take()) {
            // A program that does not read its input to the end may still do its work.
            let _ = stdin.write_all(&input).await;
        }
        child.wait_with_output().await
    };
    let Ok(output) = tokio::time::timeout(exec.limit, finished).await else {
        return Err(GuestError::Timeout {
            guest,
            request,
            limit: exec.limit,
        });
    };
    let output = output.map_err(refused)?;
    let exit = match output.status.code() {
        Some(code) => Exit::Code(code),
        None => {
            use std::os::unix::process::ExitStatusExt;
            Exit::Signal(output.status.signal().unwrap_or_default())
        }
    };
    Ok(Output {
        exit,
        stdout: output.stdout,
        stderr: output.stderr,
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(20);

    #[tokio::test]
    async fn a_command_leaves_its_streams_and_its_exit() {
        let output = Local
            .exec(Exec::shell("cat; echo two >&2; exit 3", LIMIT))
            .await
            .unwrap();
        assert_eq!(
            (output.exit, output.stdout_text().as_str()),
            (Exit::Code(3), "")
        );
        assert_eq!(output.stderr_text(), "two\n");

        let mut exec = Exec::new("cat", ["-"], LIMIT);
        exec.input = Some(b"one".to_vec());
        assert_eq!(Local.exec(exec).await.unwrap().stdout_text(), "one");

        let killed = Local.exec(Exec::shell("kill -9 $$", LIMIT)).await.unwrap();
        assert_eq!(killed.exit, Exit::Signal(9));
    }

    #[tokio::test]
    async fn what_cannot_be_is_an_error() {
        let none = Exec::new("no-such-program", ["x"], LIMIT);
        assert!(matches!(
            Local.exec(none).await,
            Err(GuestError::Refused { .. })
        ));
        let slow = Exec::shell("exec tail -f /dev/null", Duration::from_millis(50));
        assert!(matches!(
            Local.exec(slow).await,
            Err(GuestError::Timeout { .. })
        ));
        assert!(Local.read_file("/no/such/file").await.is_err());
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new");
        assert!(
            Local
                .write_file(path.to_str().unwrap(), b"x")
                .await
                .is_err()
        );
        assert!(!path.exists());
    }
}
