//! What a step is called where its file gives no title.

use super::fault::{Access, Awaited};
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
            Action::Rewire(other) => format!("change the hardware to {}", other.name),
            Action::PowerCut => "cut the power".to_owned(),
            Action::Reset => "press the reset button".to_owned(),
            Action::Panic(vm) => format!("crash VM {vm}"),
            Action::Unplug(address) => format!("unplug {address}"),
            Action::DiskError(error) => format!(
                "make {} blocks of the disk {} fail when they are {}",
                error.blocks,
                error.serial,
                match error.on {
                    Access::Read => "read",
                    Access::Write => "written",
                }
            ),
            Action::DiskLost(serial) => format!("lose the disk {serial}"),
            Action::NvmeWarning(warning) => match warning.warnings.as_slice() {
                [] => format!("let the drive {} be well again", warning.serial),
                list => {
                    let words: Vec<String> = list.iter().map(ToString::to_string).collect();
                    format!(
                        "let the drive {} warn of {}",
                        warning.serial,
                        words.join(", ")
                    )
                }
            },
            Action::ReallocatedSectors(sectors) => {
                format!("let each disk have replaced {sectors} sectors")
            }
            Action::WaitFor(Awaited::WatchdogReset) => "wait for the watchdog's reset".to_owned(),
            Action::WaitFor(Awaited::Nas) => "wait for the NAS".to_owned(),
            Action::CutDuring(cut) => {
                format!("cut the power during {}", first_line(&cut.command))
            }
            Action::PowerCuts(cuts) => format!(
                "cut the power at {} moments, flushes {}",
                cuts.cuts, cuts.flushes
            ),
            Action::Measure(measure) => format!("measure {}", measure.device),
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

#[cfg(test)]
mod tests {
    use super::super::{
        CriticalWarning, CutDuring, DiskError, Expect, ExpectPve, Flushes, GuestName, NvmeWarning,
        PowerCuts, Run,
    };
    use super::*;
    use crate::probe::Probe;

    fn run(command: &str, on: GuestName) -> Action {
        Action::Run(Run {
            command: command.to_owned(),
            on,
            exit: 0,
            save: None,
            same_as: None,
        })
    }

    #[test]
    fn titles_say_what_is_done() {
        let file = || "/etc/modules".to_owned();
        let expect = Expect {
            pve: Some(ExpectPve {
                disks: Some(Vec::new()),
                ..ExpectPve::default()
            }),
            nas: None,
        };
        for (action, title) in [
            (
                Action::Set {
                    file: "/etc/default/grub".to_owned(),
                    key: "GRUB_TIMEOUT".to_owned(),
                    value: "0".to_owned(),
                },
                "set GRUB_TIMEOUT in /etc/default/grub",
            ),
            (
                Action::Append {
                    file: file(),
                    lines: vec!["vfio".to_owned()],
                },
                "append `vfio` to /etc/modules",
            ),
            (
                Action::Write {
                    file: file(),
                    content: String::new(),
                },
                "write /etc/modules",
            ),
            (run("update-grub", GuestName::Pve), "run update-grub"),
            (run("a &&\nb\n", GuestName::Pve), "run a &&…"),
            (
                run(&"é".repeat(60), GuestName::Nas),
                &format!("run {} in the NAS", "é".repeat(60)),
            ),
            (
                run(&"é".repeat(61), GuestName::Pve),
                &format!("run {}…", "é".repeat(60)),
            ),
            (Action::Reboot, "reboot"),
            (
                Action::VmConfig {
                    vm: 100,
                    line: "cores: 2".to_owned(),
                },
                "configure VM 100: cores: 2",
            ),
            (Action::Start(100), "start VM 100"),
            (Action::Stop(100), "stop VM 100"),
            (
                Action::SwapSerials(["A".to_owned(), "B".to_owned()]),
                "swap the serials A and B",
            ),
            (
                Action::Probe {
                    name: "nas".to_owned(),
                    probes: vec![Probe::NasDisks, Probe::Smart],
                },
                "probe nas-disks, smart (nas)",
            ),
            (Action::PowerCut, "cut the power"),
            (Action::Reset, "press the reset button"),
            (Action::Panic(100), "crash VM 100"),
            (
                Action::Unplug("01:00.0".parse().unwrap()),
                "unplug 0000:01:00.0",
            ),
            (
                Action::DiskError(DiskError {
                    serial: "A".to_owned(),
                    on: Access::Write,
                    blocks: 2,
                }),
                "make 2 blocks of the disk A fail when they are written",
            ),
            (Action::DiskLost("A".to_owned()), "lose the disk A"),
            (
                Action::NvmeWarning(NvmeWarning {
                    serial: "A".to_owned(),
                    warnings: vec![CriticalWarning::Spare, CriticalWarning::ReadOnly],
                }),
                "let the drive A warn of spare, read-only",
            ),
            (
                Action::ReallocatedSectors(24),
                "let each disk have replaced 24 sectors",
            ),
            (Action::WaitFor(Awaited::Nas), "wait for the NAS"),
            (
                Action::CutDuring(CutDuring {
                    command: "a".to_owned(),
                    when_exists: "/b".to_owned(),
                }),
                "cut the power during a",
            ),
            (
                Action::PowerCuts(PowerCuts {
                    cuts: 3,
                    pool: "tank".to_owned(),
                    seed: 0,
                    flushes: Flushes::Ignored,
                }),
                "cut the power at 3 moments, flushes ignored",
            ),
            (Action::Expect(Box::new(expect)), "expect pve.disks"),
        ] {
            assert_eq!(action.title(), title);
        }
    }
}
