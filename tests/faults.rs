//! What ends a lab early, on the built program and a real machine: nothing is left running, the
//! evidence is there, the exit code and the words say what happened, and the next run works.

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::{Signal, kill_process};
use tempfile::TempDir;

use support::{Lab, cache, scenario, scenarios, signal, turn};

#[test]
fn a_request_to_stop_ends_everything_and_says_so() {
    for request in [Signal::INT, Signal::TERM] {
        let mut lab = Lab::start(&scenario("sleep 3000"));
        lab.until_under_way();
        kill_process(lab.pid(), request).unwrap();
        assert_eq!(lab.end().code(), Some(130), "{}", lab.words());
        lab.assert_nothing_left();
        lab.assert_evidence();
        assert!(lab.words().contains("INTERRUPTED"));
    }
}

#[test]
fn kill_9_leaves_nothing_running_and_the_next_run_tidies_up() {
    let mut lab = Lab::start(&scenario("sleep 3000"));
    lab.until_under_way();
    let folder = lab.run_folder();
    let sockets = PathBuf::from(fs::read_to_string(folder.join("sockets-at")).unwrap());
    kill_process(lab.pid(), Signal::KILL).unwrap();
    lab.end();
    lab.assert_nothing_left();
    lab.assert_evidence();
    assert!(folder.join("fault/disks").exists() && sockets.exists());
    drop(lab);

    let mut next = Lab::start(&scenario("uname -r"));
    assert_eq!(next.end().code(), Some(0), "{}", next.words());
    assert!(
        !folder.join("fault/disks").exists(),
        "the dead run's disks are still there"
    );
    assert!(!sockets.exists(), "the dead run's sockets are still there");
}

#[test]
fn a_qemu_that_dies_is_named() {
    let mut lab = Lab::start(&scenario("sleep 3000"));
    lab.until_under_way();
    for pid in lab.left_running() {
        signal(pid, Signal::KILL);
    }
    assert_eq!(lab.end().code(), Some(3));
    let words = lab.words();
    assert!(
        words.contains("QEMU ended") && words.contains("signal: 9"),
        "{words}"
    );
    lab.assert_evidence();
}

#[test]
fn a_host_that_panics_is_named_with_its_last_words() {
    let mut lab = Lab::start(&scenario(
        "echo 0 > /proc/sys/kernel/panic; echo 1 > /proc/sys/kernel/sysrq; echo c > /proc/sysrq-trigger",
    ));
    assert_eq!(lab.end().code(), Some(1));
    let words = lab.words();
    assert!(
        words.contains("Kernel panic - not syncing") && words.contains("crash"),
        "{words}"
    );
    assert!(
        words.contains("last lines of the console of pve"),
        "{words}"
    );
    // A host that is gone is asked for nothing more: it would be waited for in vain.
    let asked = fs::read_to_string(lab.run_folder().join("fault/agent.log")).unwrap();
    assert!(
        asked.contains("echo c >") && !asked.contains("nas-console.log"),
        "{asked}"
    );
    lab.assert_nothing_left();
}

#[test]
fn an_agent_that_stalls_is_a_timeout() {
    let mut lab = Lab::start(&scenario("kill -STOP $(pidof qemu-ga); sleep 3000"));
    assert_eq!(lab.end().code(), Some(1));
    let words = lab.words();
    assert!(words.contains("did not answer"), "{words}");
    let asked = fs::read_to_string(lab.run_folder().join("fault/agent.log")).unwrap();
    let given_up = asked.find("no answer in time").unwrap();
    assert!(!asked[given_up..].contains("->"), "asked again: {asked}");
    // QEMU is asked in its place, twice.
    let seen = fs::read_to_string(lab.run_folder().join("fault/pve-processors.txt")).unwrap();
    for (part, times) in [("\nCPU#1", 2), ("RIP=", 4), ("dumping local APIC state", 4)] {
        assert_eq!(seen.matches(part).count(), times, "{part}: {seen}");
    }
    lab.assert_nothing_left();
}

#[test]
fn a_host_that_cannot_be_built_is_the_trouble_of_its_own_scenarios() {
    let lacking = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(cache()).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name();
        let own = ["runs", "tmp", "proxmox-8-tree", "proxmox-8-like"];
        if !own.iter().any(|own| name == *own) {
            std::os::unix::fs::symlink(entry.path(), lacking.path().join(name)).unwrap();
        }
    }
    let folder = scenarios("fault", &scenario("true"));
    let old = "summary = \"The older host\"\niommu = \"none\"\nhost = \"debian-12\"\n";
    fs::write(folder.path().join("labs/old.toml"), old).unwrap();
    for name in ["older", "oldest"] {
        let older = scenario("true").replace("bare", "old");
        fs::write(folder.path().join(format!("{name}.toml")), older).unwrap();
    }
    let _turn = turn();
    let output = Command::new(env!("CARGO_BIN_EXE_xtask"))
        .args(["lab", "--cache"])
        .arg(lacking.path())
        .arg("--scenarios")
        .arg(folder.path())
        // Nobody listens there.
        .env("LAB_DEBIAN_MIRROR", "http://127.0.0.1:9/debian")
        .env("INSTA_UPDATE", "always")
        .env_remove("CI")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(3), "{said}");
    assert!(said.contains("1 held, 2 failed"), "{said}");
    assert_eq!(
        said.matches("cannot reach the archive of packages").count(),
        2,
        "{said}"
    );
    assert_eq!(
        said.matches("proxmox-8-tree: building").count(),
        1,
        "{said}"
    );
}

/// A cache on a file system of its own that is all but full, with the images of the real one.
struct SmallDisk {
    folder: TempDir,
}

impl SmallDisk {
    /// The program in a mount namespace of its own where `folder` is a file system of `mib` MiB.
    fn program(&self, mib: u32) -> Command {
        let images = cache();
        let script = format!(
            "mount -t tmpfs -o size={mib}m tmpfs \"$0\" && for entry in '{}'/*; do \
             case \"$entry\" in */runs|*/tmp|*/checkpoints|*/facts) ;; *) ln -s \"$entry\" \"$0\";; esac; done && exec \"$@\"",
            images.display()
        );
        let mut command = Command::new("unshare");
        if !rustix::process::geteuid().is_root() {
            command.args(["--user", "--map-root-user"]);
        }
        command.args(["--mount", "sh", "-c", &script]);
        command
            .arg(self.folder.path())
            .arg(env!("CARGO_BIN_EXE_xtask"));
        command
    }
}

#[test]
fn a_disk_with_too_little_room_is_told_before_anything_starts() {
    let small = SmallDisk {
        folder: tempfile::tempdir().unwrap(),
    };
    for (deny_skips, code) in [("0", 4), ("1", 1)] {
        let mut program = small.program(64);
        program.env("LAB_DENY_SKIPS", deny_skips);
        let mut lab = Lab::start_with(&scenario("true"), small.folder.path().to_owned(), program);
        assert_eq!(lab.end().code(), Some(code));
        let words = lab.words();
        assert!(
            words.contains("skipped") && words.contains("disk"),
            "{words}"
        );
    }
}

#[test]
fn a_disk_that_fills_during_a_run_is_the_labs_trouble_and_not_the_procedures() {
    let small = SmallDisk {
        folder: tempfile::tempdir().unwrap(),
    };
    let write = "dd if=/dev/urandom of=/root/fill bs=1M count=512 conv=fsync && sync";
    let mut lab = Lab::start_with(
        &scenario(&format!("sleep 5; {write}")),
        small.folder.path().to_owned(),
        small.program(3400),
    );
    // From outside, the program's file system is seen through its own root.
    let inside = Path::new("/proc")
        .join(lab.pid().to_string())
        .join("root")
        .join(small.folder.path().strip_prefix("/").unwrap());
    lab.cache = inside.clone();
    lab.until_under_way();
    let filler = fs::File::create(inside.join("filler")).unwrap();
    let room = rustix::fs::statvfs(&inside).unwrap();
    let free = room.f_bavail * room.f_frsize;
    rustix::fs::fallocate(
        &filler,
        rustix::fs::FallocateFlags::empty(),
        0,
        free - (64 << 20),
    )
    .unwrap();
    assert_eq!(lab.end().code(), Some(3));
    let words = lab.words();
    assert!(
        words.contains("No space left") || words.contains("full"),
        "{words}"
    );
}
