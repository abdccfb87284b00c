//! Letting somebody into a guest: starts an ssh server there whose client stands in a door.
//!
//! Nothing on the guest's disk is changed: the keys are in `/run`, and every setting is on the command line.

use super::keys::Keys;
use crate::engine::NAS;
use crate::guest::{Exec, Guest, GuestError, Nested};
use crate::machine::{Doors, port_name};
use crate::poll::{Pace, TimedOut, poll};
use crate::scenario::GuestName;

/// Why nobody is let in.
#[derive(Debug, thiserror::Error)]
pub(super) enum EntryError {
    #[error("VM {NAS} is not running on pve; start it there with `qm start {NAS}`")]
    NoNas,
    /// In the guest's own words; the script that says them has a key in it.
    #[error("nobody can be let into {guest}: {}", words.trim())]
    Refused { guest: &'static str, words: String },
    #[error(transparent)]
    Guest(GuestError),
    #[error(transparent)]
    TimedOut(#[from] TimedOut),
}

impl From<GuestError> for EntryError {
    fn from(error: GuestError) -> Self {
        match error {
            GuestError::Failed { guest, stderr, .. } => EntryError::Refused {
                guest,
                words: stderr,
            },
            other => EntryError::Guest(other),
        }
    }
}

/// Whether there is a guest to be let into.
pub(super) async fn is_there(doors: &Doors, guest: GuestName) -> Result<(), EntryError> {
    if guest == GuestName::Pve {
        return Ok(());
    }
    let pve = doors.agent();
    let status = pve.patient_qm(["status", &NAS.to_string()], doors.command_limit());
    match pve.exec(status).await? {
        output if output.stdout_text().contains("running") => Ok(()),
        _ => Err(EntryError::NoNas),
    }
}

/// Starts an ssh server in a guest, at the door where somebody stands.
pub(super) async fn open(
    doors: &Doors,
    number: usize,
    guest: GuestName,
    keys: &Keys,
) -> Result<(), EntryError> {
    let limit = doors.command_limit();
    let server = Exec::shell(&server(number, keys), limit);
    let pve = doors.agent();
    if guest == GuestName::Pve {
        pve.run(server).await?;
        return Ok(());
    }
    is_there(doors, guest).await?;
    pve.run(Exec::shell(&passage(number), limit)).await?;
    // A server that looks before the passage is open sees a hang-up.
    // Owned by the closure: one that borrows cannot be proven `Send`.
    let (agent, look) = (pve.clone(), Exec::shell(&passage_is_open(number), limit));
    let open = async move || {
        let looked = agent.exec(look.clone()).await?;
        Ok::<_, EntryError>(looked.success().then_some(()))
    };
    poll("the way to the NAS", limit, Pace::QUICK, open).await?;
    Nested::new(pve.clone(), NAS).run(server).await?;
    Ok(())
}

/// Ends what holds the host's end of a door whose visitor has left. It sees the hang-up by itself, unless it stands in a
/// write: the kernel keeps that waiting until somebody comes to the door again, who would be given what was meant for the
/// one before. So does an ssh server whose visitor left before its first word, and what carries a NAS's bytes.
pub(super) async fn leave(doors: &Doors, number: usize) -> Result<(), EntryError> {
    let end = Exec::shell(&let_go(number), doors.command_limit());
    doors.agent().run(end).await?;
    Ok(())
}

/// A guest's end of a door.
fn port(number: usize) -> String {
    format!("/dev/virtio-ports/{}", port_name(number))
}

/// The command that ends whoever has a door open.
fn let_go(number: usize) -> String {
    let port = port(number);
    format!(
        "find /proc/[0-9]*/fd -lname \"$(readlink -f {port})\" | cut -d/ -f3 | xargs -r kill -KILL"
    )
}

/// Opens a guest's end of a door as file 3. What was there before may need a moment to go; then it is ended, for nobody
/// is outside of it any more.
fn take_port(number: usize) -> String {
    let (port, let_go) = (port(number), let_go(number));
    format!(
        "for try in 1 2 3 4 5 6 7 8 9; do
    command exec 3<>{port} && break
    test -e {port} || exit 1
    sleep 0.3
    {let_go}
done 2>/run/lab-door/refusal
test -e /proc/$$/fd/3 || {{ tail -n 1 /run/lab-door/refusal >&2; exit 1; }}
"
    )
}

/// The script that starts an ssh server at a door and leaves it there.
fn server(number: usize, keys: &Keys) -> String {
    let (host_key, authorized) = (keys.host_key.trim(), keys.authorized.trim());
    let take_port = take_port(number);
    format!(
        "test -x /usr/sbin/sshd || {{ echo 'this guest has no sshd' >&2; exit 1; }}
(
umask 077
mkdir -p /run/lab-door /run/sshd
cat >/run/lab-door/host-key.$$ <<'END'
{host_key}
END
cat >/run/lab-door/authorized.$$ <<'END'
{authorized}
END
mv /run/lab-door/host-key.$$ /run/lab-door/host-key
mv /run/lab-door/authorized.$$ /run/lab-door/authorized
) || exit
{take_port}setsid -f /usr/sbin/sshd -i -f /dev/null -E /run/lab-door/sshd.log \
-o HostKey=/run/lab-door/host-key -o AuthorizedKeysFile=/run/lab-door/authorized \
-o UsePAM=no -o PermitRootLogin=prohibit-password -o Subsystem='sftp internal-sftp' \
-o LoginGraceTime=600 -o PrintMotd=no -o PrintLastLog=no -o UseDNS=no \
<&3 >&3 2>/dev/null 3>&-
"
    )
}

/// Where the VM's QEMU listens for its door.
fn nas_socket(number: usize) -> String {
    format!("/run/nas-door.{number}")
}

/// The script that leads from the host's door to the VM's.
fn passage(number: usize) -> String {
    let socket = nas_socket(number);
    let take_port = take_port(number);
    format!(
        "mkdir -p -m 700 /run/lab-door
test -S {socket} || {{ echo 'VM {NAS} was started without the lab'\\''s doors' >&2; exit 1; }}
{take_port}setsid -f socat FD:3 UNIX-CONNECT:{socket} </dev/null >/dev/null 2>&1
"
    )
}

/// Succeeds when somebody is connected to the VM's door.
fn passage_is_open(number: usize) -> String {
    format!("grep -q ' 03 .* {}$' /proc/net/unix", nas_socket(number))
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::process::Command;

    use super::*;
    use crate::machine::DOORS;

    fn keys() -> Keys {
        Keys {
            host_key: "-----BEGIN-----\nhost\n-----END-----\n".to_owned(),
            authorized: "ssh-ed25519 AAAA lab".to_owned(),
            ssh: PathBuf::new(),
            scp: Vec::new(),
        }
    }

    #[test]
    fn the_scripts_are_ones_that_a_shell_can_read() {
        for script in [
            server(0, &keys()),
            passage(1),
            passage_is_open(1),
            let_go(1),
        ] {
            let checked = Command::new("sh")
                .args(["-n", "-c", &script])
                .output()
                .unwrap();
            assert!(checked.status.success(), "{checked:?}\n{script}");
        }
    }

    #[test]
    fn a_vm_begins_with_the_doors_that_the_host_has() {
        for number in 0..DOORS {
            let config = crate::engine::NAS_CONFIG;
            for part in [format!("path={},", nas_socket(number)), port_name(number)] {
                assert!(config.contains(&part), "{part}\n{config}");
            }
        }
    }
}
