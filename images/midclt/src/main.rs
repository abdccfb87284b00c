//! The `midclt` of the truenas-like guest.

use std::process::ExitCode;

fn main() -> ExitCode {
    midclt::cli::main(std::env::args_os().skip(1))
}
