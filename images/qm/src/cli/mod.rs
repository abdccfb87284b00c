//! The command line, with Proxmox's habits: `-option` is `--option`, options stand anywhere, `--` ends them, errors go to
//! standard error as they are, and the exit status is 255 (2 where the VM does not exist).

mod options;

use std::{
    ffi::OsString,
    io::{self, Write},
    process::ExitCode,
    time::Duration,
};

use options::{Command, Parsed, UsageError, find, parse};

use crate::{
    config::{self, ConfigError},
    host::Host,
    json,
    kernel::{Kernel, RealKernel},
    run::{self, ExecOptions, MigrateOptions, RunError, StartOptions, StopOptions, Update},
    text::percent_encode,
};

const FAILED: u8 = 255;
const NO_SUCH_VM: u8 = 2;

/// Runs the program.
pub fn main(arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let arguments: Vec<String> = arguments
        .map(|argument| argument.to_string_lossy().into_owned())
        .collect();
    let mut errors = io::stderr();
    let mut output = io::stdout().lock();
    ExitCode::from(run(
        &Host::from_env(),
        &RealKernel,
        &arguments,
        &mut output,
        &mut errors,
    ))
}

/// Runs `pvenode`, of which the host has what its boot and its shutdown need.
pub fn pvenode(arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let words: Vec<String> = arguments
        .map(|argument| argument.to_string_lossy().into_owned())
        .collect();
    let mut errors = io::stderr();
    ExitCode::from(run_node(
        &Host::from_env(),
        &RealKernel,
        &words,
        &mut errors,
    ))
}

fn run_node(host: &Host, kernel: &dyn Kernel, words: &[String], errors: &mut dyn Write) -> u8 {
    // A line that cannot be shown is no reason to stop half-way.
    let mut log = |line: &str| drop(writeln!(errors, "{}", line.trim_end()));
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let result = match words.as_slice() {
        ["startall"] => run::start_all(host, kernel, &mut log),
        ["stopall"] => run::stop_all(host, kernel, &mut log),
        _ => Err(RunError::Rule(format!(
            "ERROR: unknown command 'pvenode {}'\nUSAGE: pvenode startall\nUSAGE: pvenode stopall",
            words.join(" ")
        ))),
    };
    match result {
        Ok(()) => 0,
        Err(error) => {
            log(&error.to_string());
            FAILED
        }
    }
}

/// Runs one command line on a host; gives its exit status.
pub fn run(
    host: &Host,
    kernel: &dyn Kernel,
    arguments: &[String],
    output: &mut dyn Write,
    errors: &mut dyn Write,
) -> u8 {
    let (code, message) = match dispatch(host, kernel, arguments, output, errors) {
        Ok(()) => return 0,
        Err(Failure::Usage(error)) => (FAILED, error.to_string()),
        Err(Failure::Run(error @ RunError::Config(ConfigError::Missing { .. }))) => {
            (NO_SUCH_VM, error.to_string())
        }
        Err(Failure::Run(error)) => (FAILED, error.to_string()),
        Err(Failure::Output(error)) => (FAILED, format!("can't write - {error}")),
    };
    // There is nobody left to tell if this fails.
    let _ = writeln!(errors, "{}", message.trim_end());
    code
}

enum Failure {
    Usage(UsageError),
    Run(RunError),
    Output(io::Error),
}

impl From<UsageError> for Failure {
    fn from(error: UsageError) -> Self {
        Self::Usage(error)
    }
}

impl<E: Into<RunError>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::Run(error.into())
    }
}

fn dispatch(
    host: &Host,
    kernel: &dyn Kernel,
    arguments: &[String],
    output: &mut dyn Write,
    errors: &mut dyn Write,
) -> Result<(), Failure> {
    let (command, rest) = find(arguments)?;
    let parsed = parse(command, rest)?;
    let mut warn = |line: &str| {
        // A warning that cannot be shown is no reason to stop half-way.
        let _ = writeln!(errors, "{}", line.trim_end());
    };
    let text = answer(host, kernel, command, &parsed, &mut warn)?;
    output
        .write_all(text.as_bytes())
        .and_then(|()| output.flush())
        .map_err(Failure::Output)
}

/// Does what is asked; gives what is to be printed.
fn answer(
    host: &Host,
    kernel: &dyn Kernel,
    command: &Command,
    parsed: &Parsed,
    warn: &mut dyn FnMut(&str),
) -> Result<String, Failure> {
    let skip_lock = parsed.flag("skiplock");
    if command.name == ["list"] {
        return Ok(run::print_list(&run::list(host, warn)?));
    }
    let vmid = parsed.vmid(command)?;
    let stop = StopOptions {
        timeout: parsed.number("timeout")?,
        skip_lock,
        force: parsed.flag("forceStop"),
    };
    match command.name {
        ["start"] => {
            let options = StartOptions {
                timeout: parsed.number("timeout")?,
                skip_lock,
            };
            run::start(host, kernel, vmid, options, warn)?;
        }
        ["stop"] => run::stop(host, kernel, vmid, stop, warn)?,
        ["shutdown"] => run::shutdown(host, kernel, vmid, stop, warn)?,
        ["reboot"] => run::reboot(host, kernel, vmid, parsed.number("timeout")?, warn)?,
        ["migrate"] => {
            let options = MigrateOptions {
                online: parsed.flag("online"),
                force: parsed.flag("force"),
            };
            run::migrate(host, vmid, parsed.positional(1), options, warn)?;
        }
        ["reset"] => run::reset(host, vmid, skip_lock, warn)?,
        ["suspend"] => run::suspend(host, vmid, skip_lock, warn)?,
        ["resume"] => run::resume(host, vmid, skip_lock, warn)?,
        ["wait"] => wait(host, vmid, parsed.number("timeout")?)?,
        ["unlock"] => {
            let update = Update {
                delete: vec!["lock".to_owned()],
                skip_lock: true,
                ..Update::default()
            };
            run::update(host, vmid, &update, &mut |_| {})?;
        }
        ["status"] if parsed.flag("verbose") => {
            let facts = run::status_verbose(host, vmid, warn)?;
            return Ok(facts
                .iter()
                .map(|(name, value)| format!("{name}: {value}\n"))
                .collect());
        }
        ["status"] => return Ok(format!("status: {}\n", run::status(host, vmid, warn)?)),
        ["config"] => return show_config(host, vmid, parsed, warn),
        ["showcmd"] => {
            let line = run::show_command(host, vmid, parsed.text("snapshot"), warn)?;
            let line = if parsed.flag("pretty") {
                line.replace(" -", " \\\n  -")
            } else {
                line
            };
            return Ok(format!("{line}\n"));
        }
        ["set"] => return set(host, vmid, parsed, warn),
        ["guest", "cmd"] => return guest_command(host, vmid, parsed, warn),
        ["guest", "exec"] => return guest_exec(host, vmid, parsed, warn),
        ["guest", "exec-status"] => {
            let word = parsed.positional(1);
            let pid = word.parse().map_err(|_| {
                UsageError::parameter(
                    "pid",
                    &format!("type check ('integer') failed - got '{word}'"),
                    command,
                )
            })?;
            return Ok(json::pretty(&run::exec_status(host, vmid, pid, warn)?));
        }
        _ => return Err(UsageError::unknown(command.name).into()),
    }
    Ok(String::new())
}

fn wait(host: &Host, vmid: u32, timeout: Option<u64>) -> Result<(), Failure> {
    config::load(host, vmid, &mut |_| {})?;
    let limit = timeout.map_or(Duration::MAX, Duration::from_secs);
    match run::wait_stopped(host, vmid, limit) {
        true => Ok(()),
        false => Err(Failure::Run(RunError::Rule(
            "wait failed - got timeout".to_owned(),
        ))),
    }
}

fn show_config(
    host: &Host,
    vmid: u32,
    parsed: &Parsed,
    warn: &mut dyn FnMut(&str),
) -> Result<String, Failure> {
    let config = config::load(host, vmid, warn)?;
    let section = match parsed.text("snapshot") {
        Some(name) => config
            .snapshots
            .get(name)
            .cloned()
            .ok_or_else(|| RunError::Rule(format!("snapshot '{name}' does not exist")))?,
        None if parsed.flag("current") => config.main,
        None => config.with_pending(),
    };
    let description = section
        .description
        .map(|text| ("description".to_owned(), percent_encode(&text)));
    let mut settings = section.settings;
    settings.extend(description);
    Ok(settings
        .iter()
        .map(|(name, value)| format!("{name}: {value}\n"))
        .collect())
}

fn set(
    host: &Host,
    vmid: u32,
    parsed: &Parsed,
    warn: &mut dyn FnMut(&str),
) -> Result<String, Failure> {
    const OWN: &[&str] = &["delete", "revert", "digest", "force", "skiplock"];
    let names = |option: &str| -> Vec<String> {
        let text = parsed.text(option).unwrap_or_default();
        text.split([',', ';', ' '])
            .filter(|name| !name.is_empty())
            .map(str::to_owned)
            .collect()
    };
    let update = Update {
        set: parsed
            .options
            .iter()
            .filter(|(name, _)| !OWN.contains(&name.as_str()))
            .cloned()
            .collect(),
        delete: names("delete"),
        revert: names("revert"),
        skip_lock: parsed.flag("skiplock"),
    };
    if update.set.is_empty() && update.delete.is_empty() && update.revert.is_empty() {
        return Err(Failure::Run(RunError::Rule(
            "no options specified".to_owned(),
        )));
    }
    let lines = run::update(host, vmid, &update, warn)?;
    Ok(lines.iter().map(|line| format!("{line}\n")).collect())
}

fn guest_command(
    host: &Host,
    vmid: u32,
    parsed: &Parsed,
    warn: &mut dyn FnMut(&str),
) -> Result<String, Failure> {
    let name = parsed.positional(1);
    if !run::AGENT_COMMANDS.contains(&name) {
        let message = format!(
            "400 Parameter verification failed.\ncommand: value '{name}' does not have a value in the enumeration '{}'",
            run::AGENT_COMMANDS.join(", ")
        );
        return Err(Failure::Run(RunError::Rule(message)));
    }
    let answer = run::agent_command(host, vmid, name, warn)?.unwrap_or_default();
    Ok(match &answer {
        serde_json::Value::Null => String::new(),
        serde_json::Value::Object(fields) if fields.is_empty() => String::new(),
        serde_json::Value::String(text) => format!("{}\n", text.trim_end()),
        serde_json::Value::Number(number) => format!("{number}\n"),
        answer => json::pretty(answer),
    })
}

fn guest_exec(
    host: &Host,
    vmid: u32,
    parsed: &Parsed,
    warn: &mut dyn FnMut(&str),
) -> Result<String, Failure> {
    let synchronous = parsed.boolean("synchronous").unwrap_or(true);
    let timeout = parsed.number("timeout")?;
    if timeout.is_some() && !synchronous {
        let text = "400 Parameter verification failed.\nsynchronous: needs to be set for 'timeout'";
        return Err(Failure::Run(RunError::Rule(text.to_owned())));
    }
    let options = ExecOptions {
        synchronous,
        timeout: timeout.unwrap_or(30),
        pass_stdin: parsed.flag("pass-stdin"),
        command: parsed.rest(1).to_vec(),
    };
    let result = run::exec(host, vmid, &options, &mut io::stdin().lock(), warn)?;
    Ok(json::pretty(&result))
}

#[cfg(test)]
mod node_tests;
#[cfg(test)]
mod talk_tests;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
