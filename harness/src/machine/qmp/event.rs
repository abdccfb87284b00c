//! What QEMU tells unasked.

use serde::Serialize;
use serde_json::Value;

/// Something that happened in QEMU.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct QmpEvent {
    /// Its name, such as `SHUTDOWN`.
    pub name: String,
    /// Its members; null if it has none.
    pub data: Value,
    /// When, by QEMU's clock, in seconds since 1970.
    pub seconds: f64,
}

/// The events that the harness acts on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum QmpSignal {
    /// The machine is going down.
    Shutdown {
        /// Whether the guest did it.
        guest: bool,
        /// Such as `guest-reset`, `guest-shutdown`, `host-qmp-quit`, `guest-panic`.
        reason: String,
    },
    /// The machine was reset.
    Reset {
        /// Whether the guest did it.
        guest: bool,
        /// Such as `guest-reset` or `host-qmp-system-reset`.
        reason: String,
    },
    /// The guest's kernel told QEMU that it panicked.
    GuestPanicked {
        /// What QEMU did about it, such as `pause`.
        action: String,
    },
    /// A watchdog ran out.
    Watchdog {
        /// What QEMU did about it, such as `reset`.
        action: String,
    },
    /// The guest opened or closed its end of a virtio-serial port.
    PortChanged {
        /// The port's device id.
        id: String,
        /// Whether it is open now.
        open: bool,
    },
    /// The virtual CPUs stopped.
    Stop,
    /// The virtual CPUs go on.
    Resume,
    /// The power button was pressed.
    Powerdown,
}

impl QmpEvent {
    /// The event as one the harness acts on, if it is one.
    pub fn signal(&self) -> Option<QmpSignal> {
        let text = |key: &str| self.data[key].as_str().unwrap_or("unknown").to_owned();
        let flag = |key: &str| self.data[key].as_bool().unwrap_or(false);
        let (guest, reason) = (flag("guest"), text("reason"));
        Some(match self.name.as_str() {
            "SHUTDOWN" => QmpSignal::Shutdown { guest, reason },
            "RESET" => QmpSignal::Reset { guest, reason },
            "GUEST_PANICKED" => QmpSignal::GuestPanicked {
                action: text("action"),
            },
            "WATCHDOG" => QmpSignal::Watchdog {
                action: text("action"),
            },
            "VSERPORT_CHANGE" => QmpSignal::PortChanged {
                id: text("id"),
                open: flag("open"),
            },
            "STOP" => QmpSignal::Stop,
            "RESUME" => QmpSignal::Resume,
            "POWERDOWN" => QmpSignal::Powerdown,
            _ => return None,
        })
    }
}
