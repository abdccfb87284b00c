//! What a step is called where its file gives no title.

use super::step::Action;

impl Action {
    /// A title made from the action.
    pub fn title(&self) -> String {
        match self {
            Action::Set { file, key, .. } => format!("set {key} in {file}"),
            Action::Append { file, lines } => match lines.as_slice() {
                [line] => format!("append `{line}` to {file}"),
                lines => format!("append {} lines to {file}", lines.len()),
            },
            Action::Write { file, .. } => format!("write {file}"),
            Action::Run(run) => match run.on {
                super::GuestName::Pve => format!("run {}", first_line(&run.command)),
                super::GuestName::Nas => format!("run {} in the NAS", first_line(&run.command)),
            },
            Action::Reboot => "reboot".to_owned(),
            Action::VmConfig { vm, line } => format!("configure VM {vm}: {line}"),
            Action::Start(vm) => format!("start VM {vm}"),
            Action::Stop(vm) => format!("stop VM {vm}"),
            Action::SwapSerials([one, other]) => format!("swap the serials {one} and {other}"),
            Action::Probe { name, probes } => {
                let names: Vec<String> = probes.iter().map(ToString::to_string).collect();
                format!("probe {} ({name})", names.join(", "))
            }
            Action::Expect(expect) => format!("expect {}", expect.checks().join(", ")),
        }
    }
}

/// The first line of a command, shortened.
fn first_line(command: &str) -> String {
    const MOST: usize = 60;
    let line = command.trim().lines().next().unwrap_or_default();
    let short: String = line.chars().take(MOST).collect();
    if short.len() < command.trim().len() {
        format!("{short}…")
    } else {
        short
    }
}
