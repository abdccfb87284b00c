//! The `qm` of the proxmox-like host.

use std::process::ExitCode;

fn main() -> ExitCode {
    qm::cli::main(std::env::args_os().skip(1))
}
