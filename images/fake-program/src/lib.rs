//! Shell scripts that stand for a program in a unit test.
//!
//! Linux refuses to run a file that anyone holds open for writing (`ETXTBSY`). A test that writes a
//! script itself and runs it is refused now and then: another thread forks at that moment, and its
//! child keeps the descriptor until it executes something. Here a process of its own writes the
//! script, so that the test never holds such a descriptor.

use std::{
    fs,
    io::Write,
    path::Path,
    process::{Command, Stdio},
};

/// Writes an executable script. Missing folders are made; a script that is there is replaced.
///
/// # Panics
///
/// When the folder cannot be made, or `install` of the system cannot be run or fails.
pub fn write(path: &Path, script: &str) {
    fs::create_dir_all(path.parent().expect("a file is in a folder")).expect("make the folder");
    let mut install = Command::new("install")
        .args(["-m", "755", "/dev/stdin"])
        .arg(path)
        .stdin(Stdio::piped())
        .spawn()
        .expect("run install");
    let mut input = install.stdin.take().expect("a pipe was asked for");
    input
        .write_all(script.as_bytes())
        .expect("write the script");
    drop(input);
    let status = install.wait().expect("wait for install");
    assert!(status.success(), "install {}: {status}", path.display());
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn a_script_runs_while_other_threads_start_processes() {
        let folder = tempfile::tempdir().unwrap();
        thread::scope(|scope| {
            for worker in 0..8 {
                let path = folder.path().join(format!("bin/{worker}"));
                scope.spawn(move || {
                    for round in 0..25 {
                        write(&path, &format!("#!/bin/sh\necho {round}\n"));
                        let output = Command::new(&path).output().unwrap();
                        assert_eq!(output.stdout, format!("{round}\n").into_bytes());
                    }
                });
            }
        });
    }
}
