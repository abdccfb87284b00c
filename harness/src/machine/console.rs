//! A guest's serial console: its last lines, and the lines after which nothing good can come.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anstream::adapter::StripBytes;
use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;
use tokio::sync::watch;

/// How many of the last lines are kept for a failure's report.
const KEPT_LINES: usize = 40;

/// How many lines are kept for it up to the fatal one, however much comes after: a panic's trace is longer than
/// what is kept of the last lines, and what went wrong stands before it.
const CAUSE_LINES: usize = 10;

/// What a console shows when a boot has come to an end that nobody wanted.
const FATAL: [&str; 7] = [
    "Kernel panic - not syncing",
    "Unable to mount root",
    "No root device specified",
    "Dropping to a shell!",
    "You are in emergency mode",
    "Boot failed: not a bootable disk",
    "No bootable device",
];

/// The same without a line's end: whoever shows it waits for a person.
const PROMPTS: [&str; 4] = ["(initramfs)", "grub rescue>", "grub>", "Shell>"];

/// A console that is being read.
#[derive(Debug, Clone)]
pub struct Console {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    lines: Mutex<Lines>,
    fatal: watch::Sender<Option<String>>,
}

#[derive(Debug, Default)]
struct Lines {
    /// Knows of a terminal's sequence whose end is still to come: UEFI writes them letter by letter.
    escapes: StripBytes,
    done: VecDeque<String>,
    /// What has come since the last line end; a prompt has none.
    open: String,
    /// How many lines are done, with those that are not kept any more.
    count: usize,
    cause: Option<Cause>,
}

/// The fatal line, and those before it.
#[derive(Debug)]
struct Cause {
    /// How many lines were done before the first of these.
    start: usize,
    lines: Vec<String>,
}

impl Default for Console {
    fn default() -> Self {
        Console {
            shared: Arc::new(Shared {
                lines: Mutex::default(),
                fatal: watch::Sender::new(None),
            }),
        }
    }
}

impl Shared {
    /// The first such line is the cause, and what comes after it, even in the same breath, its consequence.
    fn tell_fatal(&self, line: String, lines: &mut Lines) {
        self.fatal.send_if_modified(|fatal| {
            let first = fatal.is_none();
            if first {
                lines.keep_cause(&line);
            }
            fatal.get_or_insert(line);
            first
        });
    }
}

impl Console {
    /// The console of a machine that goes on from a checkpoint: these lines were its last ones.
    pub fn after(lines: &[String]) -> Self {
        let console = Console::default();
        for line in lines {
            console.lines().finish(line.clone());
        }
        console
    }

    /// Reads the console at `socket` until the machine closes it.
    ///
    /// # Errors
    /// When the socket cannot be connected to.
    pub async fn connect(&self, socket: &Path) -> std::io::Result<()> {
        let mut stream = UnixStream::connect(socket).await?;
        let reader = self.clone();
        tokio::spawn(async move {
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = stream.read(&mut buffer).await {
                reader.feed(&buffer[..count]);
            }
        });
        Ok(())
    }

    /// Takes what has come from the guest.
    pub fn feed(&self, bytes: &[u8]) {
        let mut lines = self.lines();
        let text = lines.printable(bytes);
        for (index, part) in text.split('\n').enumerate() {
            if index > 0 {
                let done = std::mem::take(&mut lines.open);
                // What a line says after its mark is the cause.
                if let Some(line) = marked(&done, &FATAL) {
                    self.shared.tell_fatal(line, &mut lines);
                }
                lines.finish(done);
            }
            lines.open.push_str(part);
            if let Some(line) = marked(&lines.open, &PROMPTS) {
                self.shared.tell_fatal(line, &mut lines);
            }
        }
    }

    /// The last lines, oldest first; before them the fatal one and what led to it, if those are not among them.
    pub fn tail(&self) -> Vec<String> {
        let lines = self.lines();
        let open = Some(lines.open.clone()).filter(|open| !open.trim().is_empty());
        let done = lines.done.iter().cloned();
        lines.fallen().into_iter().chain(done).chain(open).collect()
    }

    /// Waits for a line after which the guest will not come up, and gives it.
    pub async fn fatal(&self) -> String {
        let mut fatal = self.shared.fatal.subscribe();
        match fatal.wait_for(Option::is_some).await {
            Ok(line) => line.clone().unwrap_or_default(),
            // The sender lives in `self`.
            Err(_) => std::future::pending().await,
        }
    }

    /// Forgets a fatal line: the machine starts anew, and a prompt that stands open is of the time before.
    pub fn forget_fatal(&self) {
        let mut lines = self.lines();
        let open = std::mem::take(&mut lines.open);
        lines.finish(open);
        lines.cause = None;
        self.shared.fatal.send_replace(None);
    }

    fn lines(&self) -> MutexGuard<'_, Lines> {
        self.shared
            .lines
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lines {
    /// Keeps a line that has come to its end.
    fn finish(&mut self, line: String) {
        if line.trim().is_empty() {
            return;
        }
        self.done.push_back(line);
        self.count += 1;
        if self.done.len() > KEPT_LINES {
            self.done.pop_front();
        }
    }

    /// Keeps the fatal line, which is the next to be done, and the ones before it.
    fn keep_cause(&mut self, fatal: &str) {
        let before = self.done.len().min(CAUSE_LINES - 1);
        let skipped = self.done.len() - before;
        let mut lines: Vec<String> = self.done.iter().skip(skipped).cloned().collect();
        lines.push(fatal.to_owned());
        self.cause = Some(Cause {
            start: self.count - before,
            lines,
        });
    }

    /// What is not among the last lines any more of the fatal one and those before it, and how many more are not.
    fn fallen(&self) -> Vec<String> {
        let Some(cause) = &self.cause else {
            return Vec::new();
        };
        let fallen = (self.count - self.done.len()).saturating_sub(cause.start);
        let shown = fallen.min(cause.lines.len());
        let left = fallen - shown;
        let gap = (left > 0).then(|| format!("[{left} lines are left out here]"));
        cause.lines[..shown].iter().cloned().chain(gap).collect()
    }

    /// Text without carriage returns and terminal escapes.
    fn printable(&mut self, bytes: &[u8]) -> String {
        let bytes: Vec<u8> = self.escapes.strip_next(bytes).flatten().copied().collect();
        String::from_utf8_lossy(&bytes)
            .chars()
            .filter(|c| *c == '\n' || *c == '\t' || !c.is_control())
            .collect()
    }
}

fn marked(line: &str, marks: &[&str]) -> Option<String> {
    marks
        .iter()
        .any(|mark| line.contains(mark))
        .then(|| line.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_prompt_without_a_line_end_is_fatal() {
        let console = Console::default();
        console.feed(b"Begin: Running /scripts/local-block ... done.\r\nBusyBox v1.37\r\n(initra");
        console.feed(b"mfs) ");
        assert_eq!(console.fatal().await, "(initramfs)");
    }

    #[tokio::test]
    async fn the_first_of_several_fatal_lines_is_the_cause() {
        let console = Console::default();
        console.feed(b"ALERT!  UUID=1 does not exist.  Dropping to a shell!\r\n(initramfs) ");
        assert!(console.fatal().await.starts_with("ALERT!"));
        console.forget_fatal();
        console.feed(b"\r\ngrub> ");
        assert_eq!(console.fatal().await, "grub>");
    }

    #[tokio::test]
    async fn a_panic_is_told_with_its_cause() {
        let console = Console::default();
        console.feed(b"[ 0.1] Kernel panic - not syncing");
        let early = tokio::time::timeout(std::time::Duration::ZERO, console.fatal()).await;
        assert!(early.is_err(), "{early:?}");
        console.feed(b": IO-APIC + timer doesn't work!\r\n");
        assert!(console.fatal().await.ends_with("timer doesn't work!"));
    }

    #[test]
    fn the_tail_is_bounded_and_clean() {
        let console = Console::default();
        for number in 0..100 {
            console.feed(format!("\x1b[0mline {number}\r\n").as_bytes());
        }
        let tail = console.tail();
        assert_eq!(tail.len(), KEPT_LINES);
        assert_eq!(tail.last().unwrap(), "line 99");
    }

    #[test]
    fn what_led_to_a_panic_is_kept_however_long_its_trace() {
        let console = Console::default();
        for number in 0..100 {
            console.feed(format!("[ 1.0] before {number}\r\n").as_bytes());
        }
        console.feed(b"[ 9.1] Kernel panic - not syncing: sysrq triggered crash\r\n");
        let trace = |count: usize| {
            for number in 0..count {
                console.feed(format!("[ 9.2] trace {number}\r\n").as_bytes());
            }
            console.tail()
        };
        // Nothing is there twice while the panic is among the last lines.
        let short = trace(KEPT_LINES - 1);
        assert_eq!(short.len(), KEPT_LINES + CAUSE_LINES - 1);
        assert_eq!(short[0], "[ 1.0] before 91");
        assert!(short[CAUSE_LINES - 1].contains("Kernel panic"), "{short:?}");
        assert_eq!(short[CAUSE_LINES], "[ 9.2] trace 0");

        let long = trace(KEPT_LINES);
        assert!(long[CAUSE_LINES - 1].contains("Kernel panic"), "{long:?}");
        assert_eq!(long[CAUSE_LINES], "[39 lines are left out here]");
        assert_eq!(long.len(), CAUSE_LINES + 1 + KEPT_LINES);

        console.forget_fatal();
        assert_eq!(console.tail().len(), KEPT_LINES);
    }

    #[test]
    fn an_escape_that_comes_letter_by_letter_is_one() {
        let console = Console::default();
        for letter in b"\x1b[2J\x1b[01;01H\x1b[=3hBdsDxe: \x1b[1mloading\r\n" {
            console.feed(&[*letter]);
        }
        assert_eq!(console.tail(), ["BdsDxe: loading"]);
    }

    #[test]
    fn what_was_said_before_a_checkpoint_is_remembered_and_not_judged_again() {
        let before = ["Kernel panic - not syncing: of a boot that is over".to_owned()];
        let console = Console::after(&before);
        assert_eq!(console.tail(), before);
        console.feed(b"[ 9.0] a word\r\n");
        assert_eq!(console.tail().len(), 2);
        assert!(console.shared.fatal.borrow().is_none());
    }

    #[test]
    fn ordinary_boot_lines_are_not_fatal() {
        for line in [
            "[    0.0] Command line: quiet",
            "GNU GRUB  version 2.12",
            "panic=5 is set",
        ] {
            assert_eq!(marked(line, &FATAL), None, "{line}");
        }
        assert!(
            marked(
                "[ 1.2] Kernel panic - not syncing: VFS: Unable to mount root",
                &FATAL
            )
            .is_some()
        );
    }
}
