//! A program that disturbs other processors than its own, which must not notice. Where QEMU emulates them, some did.
//!
//! - `split-locks`: atomic additions to a number that lies across two cache lines. A processor stops all others for each, and
//!   so does QEMU: it asks every virtual processor to leave its loop.
//! - `fpu-restores`: loads the state of its FPU again and again, as a kernel does at each switch from task to task. QEMU then
//!   changes a flag of the first processor, whichever processor it is that loads.

use std::arch::asm;
use std::io::Write;
use std::process::ExitCode;
use std::time::{Duration, Instant};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [how, seconds] = arguments.as_slice() else {
        return usage();
    };
    let Ok(seconds) = seconds.parse().map(Duration::from_secs) else {
        return usage();
    };
    let done = match how.as_str() {
        "split-locks" => split_locks(seconds),
        "fpu-restores" => Some(fpu_restores(seconds)),
        _ => return usage(),
    };
    match done {
        Some(count) => {
            let text = format!("{count} {how}\n");
            let _ = std::io::stdout().write_all(text.as_bytes());
            ExitCode::SUCCESS
        }
        None => ExitCode::FAILURE,
    }
}

fn usage() -> ExitCode {
    let _ = std::io::stderr().write_all(b"usage: disturb split-locks|fpu-restores SECONDS\n");
    ExitCode::FAILURE
}

/// Two cache lines, the second of which begins in the middle of the number.
#[repr(align(64))]
struct Lines([u8; 128]);

const ACROSS: usize = 62;
/// Others run in between.
const LOCKS_AT_ONCE: u64 = 10;
const PAUSE: Duration = Duration::from_millis(1);

/// How many locks were taken; none if one was lost.
fn split_locks(time: Duration) -> Option<u64> {
    let until = Instant::now() + time;
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
    (counted.map(u64::from) == Some(taken)).then_some(taken)
}

#[expect(
    unsafe_code,
    reason = "Rust's own atomics refuse a number that is not aligned"
)]
fn add_one(number: *mut u8) {
    // SAFETY: the four bytes from here are within `Lines`, which nobody else looks at meanwhile.
    unsafe { asm!("lock add dword ptr [{}], 1", in(reg) number, options(nostack)) }
}

/// What `FXSAVE` writes.
#[repr(align(16))]
struct FpuState([u8; 512]);

const RESTORES_AT_ONCE: u64 = 1000;

/// How many times the state was loaded.
fn fpu_restores(time: Duration) -> u64 {
    let until = Instant::now() + time;
    let mut state = FpuState([0; 512]);
    let mut done = 0;
    while Instant::now() < until {
        for _ in 0..RESTORES_AT_ONCE {
            save_and_restore(&mut state);
        }
        done += RESTORES_AT_ONCE;
    }
    done
}

#[expect(unsafe_code, reason = "no function of the standard library does this")]
fn save_and_restore(state: &mut FpuState) {
    // SAFETY: the area has the size and alignment that both ask for, and what is loaded is what was there.
    unsafe {
        asm!("fxsave [{0}]", "fxrstor [{0}]", in(reg) state.0.as_mut_ptr(), options(nostack));
    }
}
