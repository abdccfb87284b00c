//! The smallest guest: a boot sector that says which virtualization it is offered, writes a marker
//! and switches its machine off. Where it does not run, no guest does.

use std::io::{self, Write};
use std::path::Path;
use std::time::Duration;

use super::qemu::QemuProgram;
use super::{Accelerator, Choice, Vendor};
use crate::machine::Process;

/// How long QEMU's start, its firmware and the boot sector may take together. 0.1 s were seen under
/// emulation and 3 s with a KVM that is itself nested; a KVM that is no use can hang for ever.
const LIMIT: Duration = Duration::from_secs(10);

const IMAGE_BYTES: u64 = 1 << 20;

/// What the guest writes after the letter that says which virtualization it sees.
const MARKER: &[u8] = b" a guest ran\n";

/// The guest's last word to `isa-debug-exit`; QEMU's exit code is twice that and one.
const FAREWELL: u8 = 0x10;
const EXIT_CODE: i32 = FAREWELL as i32 * 2 + 1;

/// How far a guest got.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Ran {
    /// To its end; which virtualization it was offered.
    ToItsEnd(Option<Vendor>),
    /// Not to its end, and QEMU ended with these words.
    Failed(String),
    /// It was still running at the deadline.
    Hung,
}

/// Runs the boot sector; files go into `folder`.
pub(super) async fn run(
    qemu: &QemuProgram,
    accelerator: Accelerator,
    folder: &Path,
) -> io::Result<Ran> {
    let image = folder.join("boot-sector.img");
    let output = folder.join("marker.txt");
    // SeaBIOS reads nothing from a disk of one sector.
    let mut disk = std::fs::File::create(&image)?;
    disk.write_all(&boot_sector())?;
    disk.set_len(IMAGE_BYTES)?;
    drop(disk);
    let choice = Choice {
        accelerator,
        nested_vendor: Vendor::Amd,
        reason: String::new(),
    };
    let mut command = qemu.command();
    for dir in qemu.data_dirs() {
        command.arg("-L").arg(dir);
    }
    command.args(["-no-user-config", "-nodefaults", "-display", "none"]);
    command.args([
        "-machine",
        accelerator.machine(),
        "-accel",
        &accelerator.to_string(),
    ]);
    command.args(["-cpu", choice.cpu_model(), "-m", "64", "-no-reboot"]);
    command.args(["-device", "isa-debug-exit,iobase=0xf4,iosize=0x4"]);
    command.arg("-drive");
    command.arg(format!(
        "if=virtio,format=raw,readonly=on,file={}",
        escaped(&image)
    ));
    command.arg("-debugcon");
    command.arg(format!("file:{}", output.display()));

    let process = Process::spawn(command, &folder.join("qemu.log")).map_err(io::Error::other)?;
    let Ok(status) = tokio::time::timeout(LIMIT, process.wait()).await else {
        let words = process.last_words();
        process.kill().await;
        // A KVM that cannot enter the guest says so and leaves QEMU standing.
        let complaint = words.lines().find(|line| line.starts_with("KVM"));
        return Ok(complaint.map_or(Ran::Hung, |line| Ran::Failed(line.to_owned())));
    };
    let written = std::fs::read(&output).unwrap_or_default();
    if status.code() == Some(EXIT_CODE)
        && let Some((offer, MARKER)) = written.split_first()
    {
        return Ok(Ran::ToItsEnd(match offer {
            b'S' => Some(Vendor::Amd),
            b'V' => Some(Vendor::Intel),
            _ => None,
        }));
    }
    let words = process.last_words();
    Ok(Ran::Failed(match words.lines().next() {
        Some(first) => first.to_owned(),
        None => format!("QEMU ended with {status}"),
    }))
}

/// A path inside a QEMU option, where a comma ends the value unless it is doubled.
fn escaped(path: &Path) -> String {
    path.to_string_lossy().replace(',', ",,")
}

/// 512 bytes that a BIOS loads to 0x7c00 and jumps to.
fn boot_sector() -> [u8; 512] {
    const ORIGIN: u16 = 0x7c00;
    #[rustfmt::skip]
    let mut code = vec![
        0x31, 0xc0,                               // xor ax, ax
        0x8e, 0xd8,                               // mov ds, ax
        0xfc,                                     // cld
        0x66, 0xb8, 0x01, 0x00, 0x00, 0x80,       // mov eax, 0x80000001
        0x0f, 0xa2,                               // cpuid
        0xb0, b'S',                               // mov al, 'S'
        0xf6, 0xc1, 0x04,                         // test cl, SVM
        0x75, 0x11,                               // jnz say
        0x66, 0xb8, 0x01, 0x00, 0x00, 0x00,       // mov eax, 1
        0x0f, 0xa2,                               // cpuid
        0xb0, b'V',                               // mov al, 'V'
        0xf6, 0xc1, 0x20,                         // test cl, VMX
        0x75, 0x02,                               // jnz say
        0xb0, b'-',                               // mov al, '-'
        0xe6, 0xe9,                               // say: out 0xe9, al
        0xbe, 0x00, 0x00,                         // mov si, marker (filled in below)
        0xac,                                     // next: lodsb
        0x84, 0xc0,                               // test al, al
        0x74, 0x04,                               // jz end
        0xe6, 0xe9,                               // out 0xe9, al
        0xeb, 0xf7,                               // jmp next
        0xb0, FAREWELL,                           // end: mov al, FAREWELL
        0xe6, 0xf4,                               // out 0xf4, al
        0xf4,                                     // halt: hlt
        0xeb, 0xfd,                               // jmp halt
    ];
    let marker_operand = code.iter().position(|byte| *byte == 0xbe);
    let marker = ORIGIN + code.len() as u16;
    if let Some(at) = marker_operand {
        code[at + 1..at + 3].copy_from_slice(&marker.to_le_bytes());
    }
    let mut sector = [0; 512];
    sector[..code.len()].copy_from_slice(&code);
    sector[code.len()..code.len() + MARKER.len()].copy_from_slice(MARKER);
    sector[510..].copy_from_slice(&[0x55, 0xaa]);
    sector
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_boot_sector_ends_with_the_signature_and_points_at_its_marker() {
        let sector = boot_sector();
        assert_eq!(sector[510..], [0x55, 0xaa]);
        let at = sector.iter().position(|byte| *byte == 0xbe).unwrap();
        let marker = u16::from_le_bytes([sector[at + 1], sector[at + 2]]) - 0x7c00;
        assert!(sector[usize::from(marker)..].starts_with(MARKER));
    }

    /// An unpacked toolbox, named by `LAB_TEST_TOOLBOX`.
    fn toolbox() -> QemuProgram {
        let root = std::env::var("LAB_TEST_TOOLBOX").expect("LAB_TEST_TOOLBOX names a toolbox");
        let lib = format!("{root}/usr/lib/x86_64-linux-gnu");
        let prefix = [
            format!("{lib}/ld-linux-x86-64.so.2"),
            "--library-path".to_owned(),
            lib,
            format!("{root}/usr/bin/qemu-system-x86_64"),
        ];
        let data = ["qemu", "seabios"].map(|name| format!("{root}/usr/share/{name}").into());
        let prefix = prefix.map(Into::into).to_vec();
        QemuProgram::unpacked(prefix, data.to_vec(), "test".to_owned(), "test".to_owned())
    }

    #[tokio::test]
    #[ignore = "real machine: needs LAB_TEST_TOOLBOX"]
    async fn real_machine_emulation_runs_the_boot_sector_and_offers_svm() {
        let folder = tempfile::tempdir().unwrap();
        let ran = run(&toolbox(), Accelerator::Tcg, folder.path()).await;
        assert_eq!(ran.unwrap(), Ran::ToItsEnd(Some(Vendor::Amd)));
    }

    #[tokio::test]
    #[ignore = "real machine: needs LAB_TEST_TOOLBOX"]
    async fn real_machine_kvm_runs_the_boot_sector_or_says_what_is_wrong() {
        let folder = tempfile::tempdir().unwrap();
        let ran = run(&toolbox(), Accelerator::Kvm, folder.path())
            .await
            .unwrap();
        let promised = super::super::grade::promises();
        println!("promises: {promised:?}; guest: {ran:?}");
        assert_eq!(promised.is_ok(), matches!(ran, Ran::ToItsEnd(Some(_))));
    }
}
