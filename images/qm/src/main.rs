//! The `qm` of the proxmox-like host, and, called by that name, its `pvenode`.

use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let mut arguments = std::env::args_os();
    let called = arguments.next().unwrap_or_default();
    if Path::new(&called)
        .file_name()
        .is_some_and(|name| name == "pvenode")
    {
        qm::cli::pvenode(arguments)
    } else {
        qm::cli::main(arguments)
    }
}
