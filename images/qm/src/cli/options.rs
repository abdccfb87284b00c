//! Commands, their options, and how a command line is read (pve-common: CLIHandler.pm, JSONSchema.pm `get_options`).

use crate::config::{parse_boolean, setting};

/// A command.
#[derive(Debug)]
pub struct Command {
    /// Its words.
    pub name: &'static [&'static str],
    /// Arguments that must be there.
    pub positional: &'static [&'static str],
    /// Whether more arguments may follow.
    pub open: bool,
    /// Options, flags with a trailing `?`.
    pub options: &'static [&'static str],
}

const VMID: &[&str] = &["vmid"];

const fn simple(name: &'static [&'static str], options: &'static [&'static str]) -> Command {
    Command {
        name,
        positional: VMID,
        open: false,
        options,
    }
}

const COMMANDS: &[Command] = &[
    simple(&["start"], &["skiplock?", "timeout"]),
    simple(
        &["stop"],
        &["skiplock?", "timeout", "keepActive?", "overrule-shutdown?"],
    ),
    simple(
        &["shutdown"],
        &["skiplock?", "timeout", "forceStop?", "keepActive?"],
    ),
    simple(&["reboot"], &["timeout"]),
    Command {
        name: &["migrate"],
        positional: &["vmid", "target"],
        open: false,
        options: &[
            "online?",
            "force?",
            "with-local-disks?",
            "targetstorage",
            "migration_type",
            "migration_network",
            "bwlimit",
        ],
    },
    simple(&["reset"], &["skiplock?"]),
    simple(&["suspend"], &["skiplock?"]),
    simple(&["resume"], &["skiplock?", "nocheck?"]),
    simple(&["status"], &["verbose?"]),
    Command {
        name: &["list"],
        positional: &[],
        open: false,
        options: &["full?"],
    },
    simple(&["config"], &["current?", "snapshot"]),
    simple(
        &["set"],
        &["delete", "revert", "digest", "force?", "skiplock?"],
    ),
    simple(&["showcmd"], &["pretty?", "snapshot"]),
    simple(&["wait"], &["timeout"]),
    simple(&["unlock"], &[]),
    Command {
        name: &["guest", "cmd"],
        positional: &["vmid", "command"],
        open: false,
        options: &[],
    },
    Command {
        name: &["guest", "exec"],
        positional: VMID,
        open: true,
        options: &["timeout", "synchronous?", "pass-stdin?"],
    },
    Command {
        name: &["guest", "exec-status"],
        positional: &["vmid", "pid"],
        open: false,
        options: &[],
    },
];

/// A command line that cannot be understood.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct UsageError(String);

impl UsageError {
    fn with_usage(message: &str, command: &Command) -> Self {
        Self(format!("{message}\n{}", usage(command)))
    }

    /// A parameter that the schema refuses.
    pub fn parameter(name: &str, message: &str, command: &Command) -> Self {
        Self::with_usage(
            &format!("400 Parameter verification failed.\n{name}: {message}"),
            command,
        )
    }

    /// No such command.
    pub fn unknown(words: &[&str]) -> Self {
        let commands: Vec<String> = COMMANDS.iter().map(usage).collect();
        Self(format!(
            "ERROR: unknown command 'qm {}'\n{}",
            words.join(" "),
            commands.join("\n")
        ))
    }
}

fn usage(command: &Command) -> String {
    let positional: String = command
        .positional
        .iter()
        .map(|name| format!(" <{name}>"))
        .collect();
    let more = if command.open { " [<extra-args>]" } else { "" };
    let options = if command.options.is_empty() {
        ""
    } else {
        " [OPTIONS]"
    };
    format!(
        "USAGE: qm {}{positional}{more}{options}",
        command.name.join(" ")
    )
}

/// A command line that was understood.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Parsed {
    /// Arguments that are no options.
    pub positional: Vec<String>,
    /// Options with their values, in order.
    pub options: Vec<(String, String)>,
}

impl Parsed {
    /// An option's value; the last counts.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.options
            .iter()
            .rev()
            .find(|(known, _)| known == name)
            .map(|(_, value)| value.as_str())
    }

    /// A boolean option.
    pub fn boolean(&self, name: &str) -> Option<bool> {
        parse_boolean(self.text(name)?)
    }

    /// A boolean option that is off unless given.
    pub fn flag(&self, name: &str) -> bool {
        self.boolean(name).unwrap_or(false)
    }

    /// A number of seconds.
    pub fn number(&self, name: &str) -> Result<Option<u64>, UsageError> {
        self.text(name)
            .map(|text| {
                text.parse().map_err(|_| {
                    let message = format!("{name}: type check ('integer') failed - got '{text}'");
                    UsageError(format!("400 Parameter verification failed.\n{message}"))
                })
            })
            .transpose()
    }

    /// An argument that [`parse`] has made sure of.
    pub fn positional(&self, index: usize) -> &str {
        self.positional.get(index).map_or("", String::as_str)
    }

    /// The arguments from `index` on.
    pub fn rest(&self, index: usize) -> &[String] {
        self.positional.get(index..).unwrap_or_default()
    }

    /// The VM.
    pub fn vmid(&self, command: &Command) -> Result<u32, UsageError> {
        let text = self.positional(0);
        let number = text.parse::<u32>().map_err(|_| {
            UsageError::parameter(
                "vmid",
                &format!("type check ('integer') failed - got '{text}'"),
                command,
            )
        })?;
        if (100..1_000_000_000).contains(&number) {
            return Ok(number);
        }
        Err(UsageError::parameter(
            "vmid",
            "invalid format - value does not look like a valid VM ID\n",
            command,
        ))
    }
}

/// The command that the first words name, and what follows them.
pub fn find(arguments: &[String]) -> Result<(&'static Command, &[String]), UsageError> {
    let words: Vec<&str> = arguments.iter().take(2).map(String::as_str).collect();
    if words.is_empty() {
        return Err(UsageError(
            "ERROR: no command specified\nUSAGE: qm <COMMAND> [ARGS] [OPTIONS]".to_owned(),
        ));
    }
    // `qm agent` is an old name of `qm guest cmd`.
    if words[0] == "agent" {
        let command = COMMANDS
            .iter()
            .find(|command| command.name == ["guest", "cmd"]);
        return command
            .map(|command| (command, &arguments[1..]))
            .ok_or_else(|| UsageError::unknown(&words));
    }
    COMMANDS
        .iter()
        .find(|command| words.starts_with(command.name))
        .map(|command| (command, &arguments[command.name.len()..]))
        .ok_or_else(|| UsageError::unknown(&words[..1]))
}

/// Tells options from arguments.
pub fn parse(command: &Command, arguments: &[String]) -> Result<Parsed, UsageError> {
    let mut parsed = Parsed::default();
    let mut words = arguments.iter().peekable();
    while let Some(word) = words.next() {
        if word == "--" {
            parsed.positional.extend(words.cloned());
            break;
        }
        let Some(option) = word.strip_prefix('-').filter(|rest| !rest.is_empty()) else {
            parsed.positional.push(word.clone());
            continue;
        };
        let option = option.strip_prefix('-').unwrap_or(option);
        let (name, given) = match option.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (option, None),
        };
        let value = match (kind(command, name), given) {
            (OptionKind::Unknown, _) => {
                let message = format!("Unknown option: {name}\n400 unable to parse option");
                return Err(UsageError::with_usage(&message, command));
            }
            (_, Some(value)) => value,
            (OptionKind::Flag, None) => match words.next_if(|next| parse_boolean(next).is_some()) {
                Some(value) => value.clone(),
                None => "1".to_owned(),
            },
            (OptionKind::Value, None) => match words.next() {
                Some(value) => value.clone(),
                None => {
                    let message =
                        format!("Option {name} requires an argument\n400 unable to parse option");
                    return Err(UsageError::with_usage(&message, command));
                }
            },
        };
        parsed.options.push((name.to_owned(), value));
    }
    match parsed.positional.len() {
        count if count < command.positional.len() => {
            Err(UsageError::with_usage("400 not enough arguments", command))
        }
        count if count > command.positional.len() && !command.open => {
            Err(UsageError::with_usage("400 too many arguments", command))
        }
        _ => Ok(parsed),
    }
}

enum OptionKind {
    Flag,
    Value,
    Unknown,
}

fn kind(command: &Command, name: &str) -> OptionKind {
    let known = |option: &&&str| option.trim_end_matches('?') == name;
    match command.options.iter().find(known) {
        Some(option) if option.ends_with('?') => OptionKind::Flag,
        Some(_) => OptionKind::Value,
        None if command.name == ["set"] && setting(name).is_some() => OptionKind::Value,
        None => OptionKind::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(line: &str, expected: &str) {
        let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
        let shown = match find(&words).and_then(|(command, rest)| parse(command, rest)) {
            Ok(parsed) => {
                let options: String = parsed
                    .options
                    .iter()
                    .map(|(name, value)| format!(" {name}={value}"))
                    .collect();
                format!("{}{options}", parsed.positional.join(" "))
            }
            Err(error) => error.to_string(),
        };
        assert_eq!(shown, expected, "{line}");
    }

    #[test]
    fn lines() {
        check("start 100", "100");
        check(
            "start -timeout 5 100 --skiplock",
            "100 timeout=5 skiplock=1",
        );
        check("status 100 --verbose", "100 verbose=1");
        check("status --verbose 100", "100 verbose=1");
        check("agent 100 ping", "100 ping");
        check(
            "guest exec 100 --timeout=0 --synchronous 0 -- ls -l --",
            "100 ls -l -- timeout=0 synchronous=0",
        );
        check(
            "set 100 --hostpci0 0000:00:1f.2,pcie=1 -delete net0",
            "100 hostpci0=0000:00:1f.2,pcie=1 delete=net0",
        );
    }

    #[test]
    fn mistakes() {
        check(
            "start",
            "400 not enough arguments\nUSAGE: qm start <vmid> [OPTIONS]",
        );
        check(
            "start 100 101",
            "400 too many arguments\nUSAGE: qm start <vmid> [OPTIONS]",
        );
        check(
            "set 100 --hostpci16 x",
            "Unknown option: hostpci16\n400 unable to parse option\nUSAGE: qm set <vmid> [OPTIONS]",
        );
        check(
            "guest exec 100 ls -l",
            "Unknown option: l\n400 unable to parse option\nUSAGE: qm guest exec <vmid> [<extra-args>] [OPTIONS]",
        );
        assert!(
            find(&["fly".to_owned()])
                .unwrap_err()
                .to_string()
                .starts_with("ERROR: unknown command 'qm fly'\n")
        );
    }
}
