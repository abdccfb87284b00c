//! A whole host for tests: configuration, fake sysfs and kernel, and a QEMU that is a shell script.

use std::{
    fs,
    sync::{Arc, Mutex},
};

use serde_json::Value;

use crate::{
    host::Host,
    monitor::testing::{Script, serve_in},
    pci::testing::FakeHost,
};

/// What a command line did.
#[derive(Debug, PartialEq, Eq)]
pub struct Outcome {
    pub code: u8,
    pub output: String,
    pub errors: String,
}

/// The host.
pub struct Node {
    pub fake: FakeHost,
    pub host: Host,
}

/// Plays QEMU: leaves its pid file, its command line below `/proc`, and says which pid it has.
const QEMU: &str = r#"#!/bin/sh
root=ROOT
while [ $# -gt 0 ]; do
    [ "$1" = -pidfile ] && pidfile=$2
    printf '%s\n' "$1" >> $root/argv
    shift
done
[ -e $root/qemu-hangs ] && exec sleep 30
[ -e $root/qemu-fails ] && exit 1
echo 4711 > $pidfile
mkdir -p $root/proc/4711
printf 'qemu-system-x86_64\0-pidfile\0%s\0' $pidfile > $root/proc/4711/cmdline
"#;

impl Node {
    /// A node with these VMs.
    pub fn with(configs: &[(u32, &str)]) -> Self {
        let fake = FakeHost::q35();
        let host = Host::under(fake.root());
        for folder in [
            &host.config_root.join("qemu-server"),
            &host.proc.join("sys/kernel"),
            &host.dev,
            &host.run,
        ] {
            fs::create_dir_all(folder).unwrap();
        }
        fake_program::write(
            &host.qemu,
            &QEMU.replace("ROOT", &fake.root().display().to_string()),
        );
        fs::write(host.proc.join("sys/kernel/hostname"), "pve\n").unwrap();
        fs::write(
            host.proc.join("cpuinfo"),
            "processor : 0\nflags : fpu svm\nprocessor : 1\n",
        )
        .unwrap();
        fs::write(host.dev.join("kvm"), "").unwrap();
        for (vmid, text) in configs {
            fs::write(host.config_file(*vmid), text).unwrap();
        }
        Self { fake, host }
    }

    /// Runs `qm` with these words.
    pub fn qm(&self, words: &str) -> Outcome {
        let arguments: Vec<String> = words.split(' ').map(str::to_owned).collect();
        let (mut output, mut errors) = (Vec::new(), Vec::new());
        let code = super::run(&self.host, &self.fake, &arguments, &mut output, &mut errors);
        Outcome {
            code,
            output: String::from_utf8(output).unwrap(),
            errors: String::from_utf8(errors)
                .unwrap()
                .replace(&self.fake.root().display().to_string(), ""),
        }
    }

    /// Runs `pvenode` with one word; gives what it says.
    pub fn pvenode(&self, word: &str) -> String {
        let mut said = Vec::new();
        let code = super::run_node(&self.host, &self.fake, &[word.to_owned()], &mut said);
        assert_eq!(code, 0, "pvenode {word}");
        String::from_utf8(said).unwrap()
    }

    /// Checks a command line's exit status, output and errors.
    pub fn check(&self, words: &str, code: u8, output: &str, errors: &str) {
        let expected = Outcome {
            code,
            output: output.to_owned(),
            errors: errors.to_owned(),
        };
        assert_eq!(self.qm(words), expected, "qm {words}");
    }

    /// A configuration's text.
    pub fn config(&self, vmid: u32) -> String {
        fs::read_to_string(self.host.config_file(vmid)).unwrap()
    }

    /// Makes a VM look as if it ran.
    pub fn pretend_running(&self, vmid: u32, pid: u32) {
        let pid_file = self.host.run_file(vmid, "pid");
        fs::write(&pid_file, format!("{pid}\n")).unwrap();
        fs::create_dir_all(self.host.proc.join(pid.to_string())).unwrap();
        let line = format!("qemu-system-x86_64\0-pidfile\0{}\0", pid_file.display());
        fs::write(self.host.proc.join(format!("{pid}/cmdline")), line).unwrap();
    }

    /// Plays a socket of VM 100.
    pub fn serve(&self, extension: &str, script: Script) -> Arc<Mutex<Vec<(String, Value)>>> {
        let seen = Arc::default();
        serve_in(&self.host, extension, script, Arc::clone(&seen));
        seen
    }
}
