//! The doctor of real hosts, on the built program. The host is a folder with what the probes read, behind
//! a program called `ssh` that runs their commands there.
#![expect(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use assert_cmd::Command;
use predicates::prelude::*;
use predicates::str::contains;
use tempfile::TempDir;

/// Takes the options that the doctor gives, keeps count of connections, and runs the command with the
/// paths of the folder in place of the machine's own; what it prints has the host's paths again.
const SSH: &str = r#"#!/bin/sh
check= master=
while [ $# -gt 0 ]; do
    case $1 in
    -S) socket=$2; shift 2 ;;
    -O) check=$2; shift 2 ;;
    -o) shift 2 ;;
    -M) master=1; shift ;;
    --) shift; break ;;
    *) exit 64 ;;
    esac
done
[ "$1" = root@pve1 ] || { echo "ssh: Could not resolve hostname $1" >&2; exit 255; }
if [ "$check" ]; then [ -e "$socket" ]; exit; fi
if [ "$master" ]; then echo connection >>"LOG"; : >"$socket"; exec "$2"; fi
[ -e "$socket" ] || exit 255
echo command >>"LOG"
command=$(printf '%s' "$2" | sed -E "s#([ \"'<])/(etc|boot|sys|run|usr/lib/modprobe.d|lib/modprobe.d|lib/modules|proc/(cmdline|modules|stat|cpuinfo|sys|net|self/mounts))#\1ROOT/\2#g")
printed=$(PATH=ROOT/bin:$PATH sh -c "$command" 2>&1; echo "exit $?")
code=${printed##*exit }
printf '%s' "${printed%exit *}" | sed 's#ROOT##g'
exit "$code"
"#;

struct Host {
    folder: TempDir,
}

impl Host {
    /// A Proxmox VE host with an edited `/etc/default/grub`, no update-grub, and a VM of the wrong machine.
    fn new() -> Self {
        let host = Host {
            folder: tempfile::tempdir().unwrap(),
        };
        let kernel = "6.14.8-2-pve";
        for (path, content) in [
            (
                "proc/cmdline",
                "BOOT_IMAGE=/boot/vmlinuz-6.14.8-2-pve root=UUID=0b9a4f1e-2d3c-4b5a-8f6e-7a8b9c0d1e2f ro quiet\n",
            ),
            (
                "proc/modules",
                "vfio_pci 16384 0 - Live 0x0\nahci 49152 3 - Live 0x0\n",
            ),
            ("proc/stat", "cpu 1 2 3\nbtime 1753000000\n"),
            ("proc/cpuinfo", "processor : 0\nvendor_id\t: GenuineIntel\n"),
            ("proc/sys/kernel/osrelease", "6.14.8-2-pve\n"),
            ("proc/sys/kernel/hostname", "basement\n"),
            (
                "proc/net/route",
                "Iface\tDestination\tGateway\nvmbr0\t00000000\t0101A8C0\n",
            ),
            ("proc/self/mounts", "/dev/sda1 / ext4 rw 0 0\n"),
            (
                "lib/modules/6.14.8-2-pve/modules.builtin",
                "kernel/fs/ext4/ext4.ko\n",
            ),
            ("etc/modules", "vfio\n"),
            (
                "etc/default/grub",
                "GRUB_CMDLINE_LINUX_DEFAULT=\"quiet intel_iommu=on iommu=pt\"\nGRUB_CMDLINE_LINUX=\"\"\n",
            ),
            (
                "boot/grub/grub.cfg",
                "menuentry 'Proxmox VE' {\n\tlinux\t/boot/vmlinuz-6.14.8-2-pve root=UUID=0b9a4f1e-2d3c-4b5a-8f6e-7a8b9c0d1e2f ro  quiet\n}\n",
            ),
            (
                "etc/modprobe.d/vfio.conf",
                "options vfio-pci ids=8086:2922\n",
            ),
            (
                "etc/pve/qemu-server/100.conf",
                "# mine\nboot: order=scsi0\nhostpci0: 0000:00:1f.2,pcie=1\nname: nas\nscsi0: local-lvm:vm-100-disk-0\nscsi1: /dev/disk/by-id/ata-ST12000NM0008_ZTM09FD7\n",
            ),
            ("sys/class/iommu/dmar0/intel-iommu/ecap", "f00f4a\n"),
            ("sys/firmware/acpi/tables/DMAR", ""),
            ("sys/kernel/iommu_groups/6/type", "DMA-FQ\n"),
        ] {
            host.write(path, content);
        }
        for (address, class, id, group) in [
            ("0000:00:02.0", "0x020000", "0x15bc", "1"),
            ("0000:00:1f.2", "0x010601", "0x2922", "6"),
        ] {
            let device = format!("sys/bus/pci/devices/{address}");
            for (name, text) in [
                ("class", class),
                ("vendor", "0x8086"),
                ("device", id),
                ("subsystem_vendor", "0x1af4"),
                ("subsystem_device", "0x1100"),
            ] {
                host.write(&format!("{device}/{name}"), &format!("{text}\n"));
            }
            let groups = host.path(&format!("sys/kernel/iommu_groups/{group}/devices"));
            fs::create_dir_all(&groups).unwrap();
            symlink(host.path(&device), groups.join(address)).unwrap();
            symlink(
                groups.parent().unwrap(),
                host.path(&device).join("iommu_group"),
            )
            .unwrap();
        }
        let lsblk = r#"{"blockdevices": [{"name":"sda","type":"disk","size":1000,"model":"WDC","serial":"WD-WCC7K0000001",
            "fstype":null,"mountpoints":[null],"children":[{"name":"sda1","type":"part","size":900,"model":null,
            "serial":null,"fstype":"ext4","mountpoints":["/"]}]}]}"#;
        for (name, text) in [
            ("id", "0"),
            ("lsblk", lsblk),
            ("systemctl", "ActiveState=active"),
            ("journalctl", ""),
            ("dmesg", "[    0.1] DMAR: IOMMU enabled"),
            (
                "lspci",
                "0000:00:02.0 Ethernet controller [0200]: Intel [8086:15bc]\n0000:00:1f.2 SATA controller [0106]: Intel [8086:2922]",
            ),
            (
                "pveversion",
                &format!("pve-manager/9.0.3/025864202ebb6109 (running kernel: {kernel})"),
            ),
        ] {
            host.program(
                &format!("root/bin/{name}"),
                &format!("#!/bin/sh\ncat <<'END'\n{text}\nEND\n"),
            );
        }
        let (root, log) = (host.path(""), host.folder.path().join("log"));
        let root = root.display().to_string();
        let ssh = SSH
            .replace("ROOT", root.trim_end_matches('/'))
            .replace("LOG", &log.display().to_string());
        host.program("bin/ssh", &ssh);
        host
    }

    fn path(&self, path: &str) -> PathBuf {
        self.folder.path().join("root").join(path)
    }

    fn write(&self, path: &str, content: &str) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    fn program(&self, path: &str, content: &str) {
        fake_program::write(&self.folder.path().join(path), content);
    }

    fn doctor(&self) -> Command {
        let mut command = doctor();
        let path = std::env::var("PATH").unwrap();
        command.env(
            "PATH",
            format!("{}:{path}", self.folder.path().join("bin").display()),
        );
        command
    }

    /// Every file of the host, with its content and the time of its last change.
    fn state(&self) -> BTreeMap<PathBuf, (Vec<u8>, std::time::SystemTime)> {
        fn walk(folder: &Path, found: &mut BTreeMap<PathBuf, (Vec<u8>, std::time::SystemTime)>) {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                let about = fs::symlink_metadata(&path).unwrap();
                if about.is_dir() {
                    walk(&path, found);
                }
                let content = if about.is_file() {
                    fs::read(&path).unwrap()
                } else {
                    Vec::new()
                };
                found.insert(path, (content, about.modified().unwrap()));
            }
        }
        let mut found = BTreeMap::new();
        walk(&self.path(""), &mut found);
        found
    }

    /// How often ssh connected, and how many commands it ran.
    fn log(&self) -> (usize, usize) {
        let log = fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
        let count = |word: &str| log.lines().filter(|line| *line == word).count();
        (count("connection"), count("command"))
    }
}

fn doctor() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
    command.arg("doctor");
    command
}

fn findings_of(output: &[u8]) -> Vec<(String, String)> {
    let document: serde_json::Value = serde_json::from_slice(output).unwrap();
    let findings = document["findings"].as_array().unwrap();
    let text = |one: &serde_json::Value, key: &str| one[key].as_str().unwrap().to_owned();
    findings
        .iter()
        .map(|one| (text(one, "severity"), text(one, "id")))
        .collect()
}

#[test]
fn a_host_behind_ssh_is_read_and_not_changed() {
    let host = Host::new();
    let before = host.state();
    host.doctor()
        .args(["--ssh", "root@pve1"])
        .assert()
        .code(1)
        // Shown before they are run, in full.
        .stderr(
            contains("cat /proc/cmdline")
                .and(contains("zpool list -HPLv"))
                .and(contains("root@pve1")),
        )
        .stdout(
            contains("grub-not-updated")
                .and(contains("i440fx-with-pcie"))
                .and(contains("update-grub"))
                .and(contains("qm set 100 --machine q35"))
                .and(contains("100.conf: hostpci0: 0000:00:1f.2,pcie=1"))
                // There is no initramfs to be read.
                .and(contains("not readable: initramfs: exit code"))
                .and(contains("1 error, 2 warnings, ")),
        );
    assert_eq!(host.state(), before);
    let (connections, commands) = host.log();
    assert_eq!(connections, 1);
    assert_eq!(commands, 13);
}

#[test]
fn who_is_not_root_is_told_what_that_costs() {
    let host = Host::new();
    let told = contains("This is not root");
    let examine = || host.doctor().args(["--ssh", "root@pve1"]).assert();
    examine().stderr(told.clone().not());
    host.program("root/bin/id", "#!/bin/sh\necho 1000\n");
    examine().stderr(told.and(contains("user 1000")));
}

#[test]
fn a_recording_names_nobody_and_proves_the_same() {
    let host = Host::new();
    let file = host.folder.path().join("facts.json");
    let live = host
        .doctor()
        .args(["--ssh", "root@pve1", "--json", "--record"])
        .arg(&file)
        .assert()
        .code(1);
    let recorded = fs::read_to_string(&file).unwrap();
    for name in ["basement", "WCC7K0000001", "ZTM09FD7", "0b9a4f1e", "# mine"] {
        assert!(!recorded.contains(name), "{name}");
    }
    let again = doctor()
        .arg("--facts")
        .arg(&file)
        .arg("--json")
        .assert()
        .code(1);
    let findings = findings_of(&live.get_output().stdout);
    assert_eq!(findings_of(&again.get_output().stdout), findings);
    assert!(findings.contains(&("warning".to_owned(), "disks-not-controller".to_owned())));

    // What was found is put right, in the recording.
    let mended = recorded
        .replace("\"machine\"", "\"was-machine\"")
        .replace("0000:00:1f.2,pcie=1", "0000:00:1f.2")
        .replace("quiet intel_iommu=on iommu=pt", "quiet");
    fs::write(&file, mended).unwrap();
    doctor()
        .arg("--facts")
        .arg(&file)
        .assert()
        .code(0)
        .stdout(contains("0 errors"));
}

#[test]
fn what_cannot_be_examined_is_no_verdict() {
    let host = Host::new();
    host.doctor()
        .args(["--ssh", "root@elsewhere"])
        .assert()
        .code(3)
        .stderr(
            contains("Could not resolve hostname")
                .and(contains("could not connect to root@elsewhere")),
        );
    host.doctor()
        .args(["--ssh=-oProxyCommand=id"])
        .assert()
        .code(3);
    assert_eq!(host.log(), (0, 0));

    let file = host.folder.path().join("facts.json");
    doctor()
        .arg("--facts")
        .arg(&file)
        .assert()
        .code(3)
        .stderr(contains("facts.json"));
    for (text, says) in [
        ("{\"format\": 7, \"facts\": {}}", "format 7"),
        ("[]", "not a record of facts"),
        ("{\"format\": 1, \"facts\": {}}", "nothing could be read"),
    ] {
        fs::write(&file, text).unwrap();
        doctor()
            .arg("--facts")
            .arg(&file)
            .assert()
            .code(3)
            .stderr(contains(says));
    }
}

#[test]
fn this_machine_is_read_by_the_same_probes() {
    // Whether anything is wrong with it is not this test's business.
    let output = doctor().args(["--host", "--json"]).output().unwrap();
    assert!(matches!(output.status.code(), Some(0 | 1)), "{output:?}");
    findings_of(&output.stdout);
}

#[test]
fn options_that_do_not_go_together_are_code_2() {
    for arguments in [
        &["--host", "--ssh", "root@pve1"][..],
        &["--record", "facts.json"],
        &["--yes"],
        &["--json"],
    ] {
        doctor().args(arguments).assert().code(2);
    }
}

#[test]
fn findings_are_listed_and_explained() {
    let findings = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
        command.arg("findings");
        command
    };
    findings()
        .assert()
        .success()
        .stdout(contains("initramfs-stale").and(contains("host-boots-from-controller")));
    let all = findings().arg("--json").output().unwrap().stdout;
    let all: serde_json::Value = serde_json::from_slice(&all).unwrap();
    assert!(all.as_array().unwrap().len() >= 25);
    findings()
        .arg("initramfs-stale")
        .assert()
        .success()
        .stdout(contains("update-initramfs").and(contains("https://")));
    findings()
        .arg("initramfs-stael")
        .assert()
        .code(4)
        .stderr(contains("did you mean `initramfs-stale`?"));
}
