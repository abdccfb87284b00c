//! What one machine leaves in a scenario's folder of evidence. A scenario can have several, one after the other.

use std::io;
use std::path::Path;

/// QEMU's command line.
pub(super) const ARGV: &str = "qemu-argv.txt";
/// What went over QMP.
pub(super) const QMP_LOG: &str = "qmp.log";
/// What went over the guest agent's channel.
pub(super) const AGENT_LOG: &str = "agent.log";
/// What QEMU itself printed.
pub(super) const STDERR_LOG: &str = "qemu-stderr.log";
/// What the host wrote to its serial console.
pub(crate) const CONSOLE_LOG: &str = "pve-console.log";

/// Moves what an earlier machine of the same scenario has written into a folder of its own.
pub(super) fn set_aside(evidence: &Path) -> io::Result<()> {
    if !evidence.join(ARGV).exists() {
        return Ok(());
    }
    let places = (1..).map(|number| evidence.join(format!("machine-{number}")));
    for place in places.take(usize::from(u16::MAX)) {
        match std::fs::create_dir(&place) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
            made => made?,
        }
        for name in [ARGV, QMP_LOG, AGENT_LOG, STDERR_LOG, CONSOLE_LOG] {
            match std::fs::rename(evidence.join(name), place.join(name)) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                moved => moved?,
            }
        }
        break;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_earlier_machine_wrote_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        set_aside(folder.path()).unwrap();
        for number in [1, 2] {
            std::fs::write(folder.path().join(ARGV), number.to_string()).unwrap();
            std::fs::write(folder.path().join(CONSOLE_LOG), number.to_string()).unwrap();
            set_aside(folder.path()).unwrap();
        }
        for number in [1, 2] {
            let kept = folder.path().join(format!("machine-{number}"));
            let said = std::fs::read_to_string(kept.join(CONSOLE_LOG)).unwrap();
            assert_eq!(said, number.to_string());
        }
        assert!(!folder.path().join(CONSOLE_LOG).exists());
    }
}
