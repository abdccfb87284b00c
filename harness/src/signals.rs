//! Ctrl-C and SIGTERM: the first asks a run to stop, the second ends the program at once.

use std::io;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// Exit code of a program that a person stopped: 128 and the number of SIGINT.
pub const INTERRUPTED: u8 = 130;

/// Becomes `true` when somebody asks the program to stop. Has to be called inside a tokio runtime.
///
/// The second request ends the program: the kernel then kills what it had started.
///
/// # Errors
/// When the signals cannot be caught.
pub fn stop_on_signals() -> io::Result<watch::Receiver<bool>> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hang_up = signal(SignalKind::hangup())?;
    let (sender, stop) = watch::channel(false);
    tokio::spawn(async move {
        for last in [false, true] {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
                _ = hang_up.recv() => {}
            }
            sender.send_replace(true);
            if last {
                std::process::exit(i32::from(INTERRUPTED));
            }
        }
    });
    Ok(stop)
}
