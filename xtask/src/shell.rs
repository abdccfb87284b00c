//! `cargo xtask lab shell` and `cp`: into and out of the guests of a lab that is up. The terminal and the
//! copying are OpenSSH's, whose exit codes become this program's.

use std::io::IsTerminal;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};
use clap::{Args, ValueEnum};
use harness::held::{self, Notice, Request};
use harness::scenario::GuestName;
use scenarios::CacheFolder;

use crate::exit::Exit;

/// A guest, as it is named on the command line.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum Guest {
    /// The Proxmox-like host.
    Pve,
    /// The TrueNAS-like guest inside it.
    Nas,
}

impl From<Guest> for GuestName {
    fn from(guest: Guest) -> Self {
        match guest {
            Guest::Pve => GuestName::Pve,
            Guest::Nas => GuestName::Nas,
        }
    }
}

#[derive(Debug, Args)]
pub struct ShellCommand {
    /// Where.
    guest: Guest,
    /// A command for the guest's shell, in place of a terminal; its words are joined, as ssh does it.
    #[arg(last = true)]
    command: Vec<String>,
    #[command(flatten)]
    cache: CacheFolder,
}

#[derive(Debug, Args)]
pub struct CopyCommand {
    /// A file or folder, here or in a guest.
    from: String,
    /// Where it goes; one of the two is `pve:PATH` or `nas:PATH`.
    to: String,
    #[command(flatten)]
    cache: CacheFolder,
}

#[derive(Debug, Args)]
pub struct WireCommand {
    /// The lab's control socket.
    control: PathBuf,
    /// Where to.
    guest: Guest,
}

pub fn shell(command: ShellCommand) -> anyhow::Result<Exit> {
    let (notice, guest) = knock(&command.cache, command.guest.into())?;
    let mut ssh = Command::new(&notice.ssh);
    // Ctrl-C is the guest's only where the terminal is passed on to it.
    if std::io::stdin().is_terminal() && std::io::stdout().is_terminal() {
        ssh.arg("-t");
    }
    ssh.arg(guest.to_string());
    if !command.command.is_empty() {
        ssh.arg("--").args(&command.command);
    }
    become_it(ssh)
}

pub fn copy(command: CopyCommand) -> anyhow::Result<Exit> {
    let guest = match (guest_of(&command.from), guest_of(&command.to)) {
        (Some(guest), None) | (None, Some(guest)) => guest,
        (None, None) => {
            bail!("neither path is in a guest: write pve:PATH or nas:PATH for one of them")
        }
        (Some(_), Some(_)) => bail!("both paths are in guests: copy to a file of yours first"),
    };
    let (notice, _) = knock(&command.cache, guest)?;
    let mut words = notice.scp.iter();
    let mut scp = Command::new(words.next().context("the lab names no scp")?);
    scp.args(words).args(["-r", "-p", "--"]);
    scp.args([here_or_there(&command.from), here_or_there(&command.to)]);
    become_it(scp)
}

/// Carries bytes between standard input and output and a guest, for ssh.
pub fn wire(command: WireCommand) -> anyhow::Result<Exit> {
    let (input, output) = (std::io::stdin(), std::io::stdout());
    held::wire(&command.control, command.guest.into(), input, output)?;
    Ok(Exit::Held)
}

/// Finds the lab, and asks whether somebody would be let in: what ssh would say of it is less clear.
fn knock(cache: &CacheFolder, guest: GuestName) -> anyhow::Result<(Notice, GuestName)> {
    let notice = Notice::find(cache.open()?.root())?;
    held::ask(&notice.control, Request::Knock { guest })?;
    Ok((notice, guest))
}

fn become_it(mut program: Command) -> anyhow::Result<Exit> {
    let error = program.exec();
    Err(error).with_context(|| format!("failed to run {}", program.get_program().display()))
}

/// The guest that a path is in; a path of the user's own can be written with `./` in front.
fn guest_of(path: &str) -> Option<GuestName> {
    match path.split_once(':')?.0 {
        "pve" => Some(GuestName::Pve),
        "nas" => Some(GuestName::Nas),
        _ => None,
    }
}

/// A path as scp understands it: with a colon, it would look for another machine.
fn here_or_there(path: &str) -> String {
    match guest_of(path).is_none() && path.contains(':') && !Path::new(path).is_absolute() {
        true => format!("./{path}"),
        false => path.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_in_a_guest_only_if_it_begins_with_the_guests_name() {
        for (path, guest, for_scp) in [
            ("pve:/etc/modules", Some(GuestName::Pve), "pve:/etc/modules"),
            ("nas:", Some(GuestName::Nas), "nas:"),
            ("./pve:x", None, "././pve:x"),
            ("12:30.log", None, "./12:30.log"),
            ("/tmp/a:b", None, "/tmp/a:b"),
            ("plain", None, "plain"),
        ] {
            assert_eq!(guest_of(path), guest, "{path}");
            assert_eq!(here_or_there(path), for_scp, "{path}");
        }
    }
}
