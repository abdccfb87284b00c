//! A program that takes split locks: atomic additions to a number that lies across two cache lines.
//!
//! A processor stops all others for each, and so does QEMU's software emulation: it asks every virtual processor to leave its
//! loop. Whatever else runs must not notice.

use std::arch::asm;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// Two cache lines, the second of which begins in the middle of the number.
#[repr(align(64))]
struct Lines([u8; 128]);

const ACROSS: usize = 62;
/// Others run in between.
const LOCKS_AT_ONCE: u64 = 10;
const PAUSE: Duration = Duration::from_millis(1);

fn main() -> ExitCode {
    let seconds = std::env::args().nth(1).and_then(|text| text.parse().ok());
    let Some(seconds) = seconds else {
        let _ = std::io::Write::write_all(&mut std::io::stderr(), b"usage: split-lock SECONDS\n");
        return ExitCode::FAILURE;
    };
    let until = Instant::now() + Duration::from_secs(seconds);
    let mut lines = Lines([0; 128]);
    let number = lines.0[ACROSS..].as_mut_ptr();
    let mut taken = 0;
    while Instant::now() < until {
        for _ in 0..LOCKS_AT_ONCE {
            add_one(number);
        }
        taken += LOCKS_AT_ONCE;
        std::thread::sleep(PAUSE);
    }
    let counted = lines.0[ACROSS..]
        .first_chunk()
        .map(|bytes| u32::from_le_bytes(*bytes));
    let text = format!("{taken} split locks taken\n");
    let _ = std::io::Write::write_all(&mut std::io::stdout(), text.as_bytes());
    if counted.map(u64::from) == Some(taken) {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

#[expect(
    unsafe_code,
    reason = "Rust's own atomics refuse a number that is not aligned"
)]
fn add_one(number: *mut u8) {
    // SAFETY: the four bytes from here are within `Lines`, which nobody else looks at meanwhile.
    unsafe { asm!("lock add dword ptr [{}], 1", in(reg) number, options(nostack)) }
}
