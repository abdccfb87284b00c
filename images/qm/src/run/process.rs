//! Whether a VM runs: its pid file names a QEMU that was started with this pid file (qemu-server, Helpers.pm,
//! `vm_running_locally`).

use std::fs;

use crate::host::Host;

/// The process of a VM, if it runs.
pub fn running(host: &Host, vmid: u32) -> Option<u32> {
    let pid_file = host.run_file(vmid, "pid");
    let pid: u32 = fs::read_to_string(&pid_file).ok()?.trim().parse().ok()?;
    let line = fs::read(host.proc.join(format!("{pid}/cmdline"))).ok()?;
    let words: Vec<&[u8]> = line.split(|byte| *byte == 0).collect();
    let program = std::str::from_utf8(words.first()?).ok()?;
    let name = program.rsplit('/').next()?;
    let ours = words
        .windows(2)
        .any(|pair| pair[0] == b"-pidfile" && pair[1] == pid_file.as_os_str().as_encoded_bytes());
    (ours && (name.ends_with("kvm") || name.starts_with("qemu-system-"))).then_some(pid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_qemu_of_this_pid_file_counts() {
        let root = tempfile::tempdir().unwrap();
        let host = Host::under(root.path());
        let pid_file = host.run_file(100, "pid");
        let own = pid_file.display().to_string();
        fs::create_dir_all(&host.run).unwrap();
        fs::create_dir_all(host.proc.join("4711")).unwrap();
        assert_eq!(running(&host, 100), None);
        fs::write(&pid_file, "4711\n").unwrap();
        for (line, expected) in [
            (
                format!("/usr/bin/qemu-system-x86_64\0-id\x00100\0-pidfile\0{own}\0-daemonize\0"),
                Some(4711),
            ),
            (format!("/usr/bin/kvm\0-pidfile\0{own}\0"), Some(4711)),
            (format!("/usr/bin/less\0-pidfile\0{own}\0"), None),
            (
                "/usr/bin/qemu-system-x86_64\0-pidfile\0/run/other.pid\0".to_owned(),
                None,
            ),
            (String::new(), None),
        ] {
            fs::write(host.proc.join("4711/cmdline"), &line).unwrap();
            assert_eq!(running(&host, 100), expected, "{line:?}");
        }
    }
}
