//! L2, through `qm guest exec` in L1: the one way that a real Proxmox VE host offers, and the one
//! that survives L0 letting go of its channels.

use std::time::Duration;

use base64::prelude::{BASE64_STANDARD, Engine as _};
use serde::Deserialize;
use serde_json::Value;

use super::agent::Agent;
use super::exec::{Exec, Exit, Guest, GuestError, Output};
use crate::scenario::Vmid;

const NAME: &str = "nas";

/// What Proxmox VE lets pass from standard input (`--pass-stdin`).
const STDIN_LIMIT: usize = 1 << 20;

/// What a file is written by at a time; in base64 it is two thirds of what standard input takes.
const PIECE: usize = 512 * 1024;

/// A guest of L1, reached through L1's own `qm`.
///
/// Its agent has as long for an answer as the host's own: an emulated guest that loses a disk answers nothing for
/// longer than `qm` would wait, and is not dead.
///
/// Standard input of a command is limited to 1 MiB, as Proxmox VE limits it. Outputs come as text:
/// bytes that are not UTF-8 are `qm`'s to mangle, so files are read and written in base64.
#[derive(Debug, Clone)]
pub struct Nested {
    host: Agent,
    vmid: Vmid,
}

impl Nested {
    /// The VM `vmid` of the host behind `host`.
    pub fn new(host: Agent, vmid: Vmid) -> Self {
        Nested { host, vmid }
    }
}

impl Guest for Nested {
    fn name(&self) -> &'static str {
        NAME
    }

    async fn exec(&self, exec: Exec) -> Result<Output, GuestError> {
        let request = exec.command_line();
        let limit = exec.limit;
        if exec
            .input
            .as_ref()
            .is_some_and(|input| input.len() > STDIN_LIMIT)
        {
            return Err(GuestError::Refused {
                guest: NAME,
                request,
                message: "qm passes at most 1 MiB of standard input".to_owned(),
            });
        }
        // qm is given whole seconds of its own and somewhat more to start and to report in.
        let seconds = (limit.as_secs() + u64::from(limit.subsec_nanos() > 0)).max(1);
        let words = qm_arguments(self.vmid, seconds, &exec);
        // The agent is asked whether it is there, to run the command and, at the end, how it went.
        let all = Duration::from_secs(seconds) + 3 * self.host.answer_limit();
        let mut outer = self.host.patient_qm(words, all);
        outer.input = exec.input;
        let output = self.host.exec(outer).await?;
        if !output.success() {
            return Err(qm_failure(request, &output));
        }
        match reported(&output.stdout_text()) {
            Ok(Some(output)) => Ok(output),
            Ok(None) => Err(GuestError::Timeout {
                guest: NAME,
                request,
                limit,
            }),
            Err(message) => Err(GuestError::Refused {
                guest: NAME,
                request,
                message,
            }),
        }
    }

    async fn read_file(&self, path: &str) -> Result<Vec<u8>, GuestError> {
        let limit = self.host.answer_limit();
        let exec = Exec::new("base64", ["-w0", "--", path], limit);
        let output = self.run(exec).await?;
        let text = output.stdout.trim_ascii();
        BASE64_STANDARD
            .decode(text)
            .map_err(|error| GuestError::Refused {
                guest: NAME,
                request: format!("reading {path}"),
                message: format!("what came is not base64: {error}"),
            })
    }

    async fn write_file(&self, path: &str, content: &[u8]) -> Result<(), GuestError> {
        let limit = self.host.answer_limit();
        // The first piece replaces the file, also when it is empty; the others are appended.
        let (first, rest) = content.split_at(content.len().min(PIECE));
        let pieces = std::iter::once((">", first)).chain(rest.chunks(PIECE).map(|p| (">>", p)));
        for (operator, piece) in pieces {
            let script = format!("base64 -d {operator}\"$1\"");
            let mut exec = Exec::new("/bin/sh", ["-c", &script, "sh", path], limit);
            exec.input = Some(BASE64_STANDARD.encode(piece).into_bytes());
            self.run(exec).await?;
        }
        Ok(())
    }
}

fn qm_arguments(vmid: Vmid, seconds: u64, exec: &Exec) -> Vec<String> {
    let mut args = vec!["guest".to_owned(), "exec".to_owned(), vmid.to_string()];
    args.extend(["--timeout".to_owned(), seconds.to_string()]);
    if exec.input.is_some() {
        args.extend(["--pass-stdin".to_owned(), "1".to_owned()]);
    }
    args.extend(["--".to_owned(), exec.program.clone()]);
    args.extend(exec.args.iter().cloned());
    args
}

/// qm's own failure. An agent that does not run may do so later or have gone away with its guest,
/// as any broken channel; all else is a refusal.
fn qm_failure(request: String, output: &Output) -> GuestError {
    let stderr = output.stderr_text();
    let said = stderr.trim();
    let message = match said {
        "" => format!("qm ended with {}", output.exit),
        said => said.to_owned(),
    };
    let guest = NAME;
    if said.contains("guest agent is not running") || said.contains("got timeout") {
        return GuestError::Broken {
            guest,
            request,
            message,
        };
    }
    GuestError::Refused {
        guest,
        request,
        message,
    }
}

/// What `qm guest exec` prints.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Report {
    #[serde(default)]
    exited: Value,
    exitcode: Option<i32>,
    signal: Option<i32>,
    #[serde(default)]
    out_data: String,
    #[serde(default)]
    err_data: String,
    #[serde(default)]
    out_truncated: Value,
    #[serde(default)]
    err_truncated: Value,
}

/// Perl knows no truth values: they come as `1`, `"1"` or `true`.
fn is_true(value: &Value) -> bool {
    matches!(value, Value::Bool(true)) || value.as_i64() == Some(1) || value.as_str() == Some("1")
}

/// What a command printed: `qm` gives each byte as the character of that number.
fn bytes(text: &str) -> Vec<u8> {
    text.chars()
        // A character of more than one byte is none of `qm`'s; it stands for itself.
        .flat_map(|one| match u8::try_from(u32::from(one)) {
            Ok(byte) => vec![byte],
            Err(_) => one.to_string().into_bytes(),
        })
        .collect()
}

/// Reads what `qm guest exec` printed; `None` when the command had not ended in time.
pub(crate) fn reported(text: &str) -> Result<Option<Output>, String> {
    let report: Report = serde_json::from_str(text)
        .map_err(|error| format!("qm printed what is not its JSON ({error}): {}", text.trim()))?;
    if !is_true(&report.exited) {
        return Ok(None);
    }
    if is_true(&report.out_truncated) || is_true(&report.err_truncated) {
        return Err("its output was cut short".to_owned());
    }
    let exit = match (report.signal, report.exitcode) {
        (Some(signal), _) => Exit::Signal(signal),
        (None, Some(code)) => Exit::Code(code),
        (None, None) => return Err("it ended with neither exit code nor signal".to_owned()),
    };
    Ok(Some(Output {
        exit,
        stdout: bytes(&report.out_data),
        stderr: bytes(&report.err_data),
    }))
}
