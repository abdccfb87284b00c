//! A VM that answers no more: how long it has been silent, what its processor does meanwhile, and how that is said.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::guest::{Agent, Exec, Guest};
use crate::scenario::Vmid;

/// What a VM's processor does, twice, so that one sees whether it moves: QEMU's `info registers` and `info lapic`, what
/// KVM counted, how its threads were scheduled, the host's interrupts; and in between, for a moment, why KVM leaves the
/// guest and what it injects. Empty when nothing is said.
pub(super) async fn processor(pve: &Agent, vm: Vmid, limit: Duration) -> String {
    let monitor = |command| {
        json!({
            "execute": "human-monitor-command",
            "arguments": { "command-line": command },
        })
    };
    let ask = [
        json!({ "execute": "qmp_capabilities" }),
        monitor("info registers"),
        monitor("info lapic"),
    ];
    let ask = ask.map(|one| one.to_string()).join("\n");
    let script = format!(
        "mountpoint -q /sys/kernel/debug || mount -t debugfs debugfs /sys/kernel/debug\n\
         trace=/sys/kernel/debug/tracing\n\
         for look in 1 2; do\n\
         printf '%s\\n' \"$1\" | socat -t 1 - UNIX-CONNECT:/var/run/qemu-server/{vm}.qmp\n\
         grep -s . /sys/kernel/debug/kvm/*-*/vcpu*/*\n\
         for task in /proc/$(cat /var/run/qemu-server/{vm}.pid)/task/*; do\n\
         echo $(cat $task/comm $task/wchan $task/stat $task/schedstat)\n\
         done\n\
         cat /proc/interrupts\n\
         test $look = 2 || echo 1 >$trace/events/kvm/enable\n\
         sleep 0.1\n\
         done\n\
         echo 0 >$trace/tracing_on\n\
         grep -s . /sys/module/kvm_amd/sections/.noinstr.text\n\
         tail -n 400 $trace/trace\n\
         echo 0 >$trace/events/kvm/enable\n\
         echo 1 >$trace/tracing_on"
    );
    let words = ["-c".to_owned(), script, "sh".to_owned(), ask];
    let looks = pve.exec(Exec::new("/bin/sh", words, limit)).await;
    looks.map_or_else(|_| String::new(), |output| output.stdout_text())
}

/// The instruction pointer and the flags in each answer of QEMU's that is a text.
fn places(processor: &str) -> Vec<String> {
    let answers = processor.lines().filter_map(|line| {
        let answer: Value = serde_json::from_str(line).ok()?;
        Some(answer["return"].as_str()?.to_owned())
    });
    let named = |word: &&str| {
        let names = ["RIP=", "EIP=", "RFL=", "EFL="];
        names.iter().any(|name| word.starts_with(name))
    };
    answers
        .flat_map(|text| {
            let words = text.split_whitespace().filter(named);
            words.map(str::to_owned).collect::<Vec<_>>()
        })
        .collect()
}

/// How many of the console's last lines the message of a hang quotes.
const QUOTED_LINES: usize = 3;

/// The message of a VM that hangs.
pub(super) fn hangs(vm: Vmid, silent: Duration, lines: &[String], processor: &str) -> String {
    let shown = match &lines[lines.len().saturating_sub(QUOTED_LINES)..] {
        [] => "it has shown nothing at all".to_owned(),
        last => format!("its last lines are `{}`", last.join("` `")),
    };
    let at = match &places(processor)[..] {
        [] => String::new(),
        places => format!(
            "; twice within a second its processor was at {}",
            places.join(" ")
        ),
    };
    format!(
        "VM {vm} hangs: its agent does not answer, and its console has been silent for {} s; {shown}{at}",
        silent.as_secs()
    )
}

/// Since when a console has not grown.
#[derive(Debug, Clone, Copy)]
pub(super) struct Silence {
    length: usize,
    since: Instant,
}

impl Silence {
    pub(super) fn new(now: Instant) -> Self {
        Silence {
            length: 0,
            since: now,
        }
    }

    /// How long the silence lasts, now that the console is as long as this.
    pub(super) fn lasts(&mut self, length: usize, now: Instant) -> Duration {
        if length != self.length {
            *self = Silence { length, since: now };
        }
        now - self.since
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_silence_lasts_until_the_console_grows_or_begins_anew() {
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        let mut silence = Silence::new(start);
        for (length, at, lasts) in [(0, 5, 5), (80, 6, 0), (80, 30, 24), (95, 31, 0), (7, 40, 0)] {
            let lasted = silence.lasts(length, after(at));
            assert_eq!(lasted.as_secs(), lasts, "{length} bytes after {at} s");
        }
    }

    #[test]
    fn the_message_of_a_hang_quotes_the_console() {
        let silent = Duration::from_secs(150);
        let lines = ["Booting", "[ 0.1] one", "[ 0.2] two", "[ 0.3] three"].map(str::to_owned);
        let registers = concat!(
            "{\"return\": {}}\r\n",
            "{\"return\": \"\\r\\nCPU#0\\r\\nRIP=ffff RFL=00000246 [---Z-P-] HLT=0\\r\\n\"}\r\n",
        );
        let message = hangs(100, silent, &lines, "");
        assert!(message.contains("silent for 150 s"), "{message}");
        assert!(
            message.ends_with("`[ 0.1] one` `[ 0.2] two` `[ 0.3] three`"),
            "{message}"
        );
        let message = hangs(100, silent, &[], &registers.repeat(2));
        let (shown, at) = message.rsplit_once("; ").unwrap();
        assert!(shown.ends_with("it has shown nothing at all"), "{message}");
        assert!(
            at.ends_with("at RIP=ffff RFL=00000246 RIP=ffff RFL=00000246"),
            "{message}"
        );
    }
}
