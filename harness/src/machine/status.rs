//! What a machine's QMP events say of it, folded into one value.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use serde_json::Value;
use tokio::sync::{broadcast, watch};

use super::argv::AGENT_PORT;
use super::power::MachineError;
use super::qmp::QmpEvent;
use crate::guest::Agent;

/// What a machine's events have said so far.
#[derive(Debug, Clone, Default)]
pub(super) struct Status {
    /// Resets so far.
    pub(super) resets: u32,
    /// How often the CPUs were stopped.
    stops: u32,
    /// Whether the guest agent listens at its port.
    pub(super) agent_open: bool,
    /// How often the host's watchdog has fired.
    pub(super) watchdogs: u32,
    /// Ports other than the agent's.
    pub(super) doors: Ports,
    /// The first thing that nobody asked for.
    pub(super) incident: Option<Incident>,
    /// Whether the monitor is closed, so that no further event is heard of.
    closed: bool,
    /// Migrations that have ended.
    pub(super) migrations: u32,
    /// How the last of them ended, as QEMU calls it: `completed`, `failed`, `cancelled`.
    pub(super) migration: String,
}

/// How often the guest has closed its ends of ports, by their ids.
///
/// QEMU tells at most one change of a port in a second, the last one: an opening may never be told, so every
/// word of a closed port is a closing.
#[derive(Debug, Clone, Default)]
pub(super) struct Ports(BTreeMap<String, u32>);

impl Ports {
    /// How often the guest has closed a port.
    pub(super) fn closings(&self, id: &str) -> u32 {
        self.0.get(id).copied().unwrap_or_default()
    }

    fn changed(&mut self, id: &str, open: bool) {
        *self.0.entry(id.to_owned()).or_default() += u32::from(!open);
    }

    /// A reset is told by one event, not by one for each port.
    fn all_closed(&mut self) {
        for closings in self.0.values_mut() {
            *closings += 1;
        }
    }
}

/// Something that nobody asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Incident {
    /// It happened to the host.
    Guest(String),
    /// It happened to L0, which says nothing about the procedure.
    Lab(String),
}

impl Incident {
    pub(super) fn error(self, what: &str) -> MachineError {
        match self {
            Incident::Guest(incident) => MachineError::Incident {
                what: what.to_owned(),
                incident,
            },
            Incident::Lab(trouble) => MachineError::Lab {
                what: what.to_owned(),
                trouble,
            },
        }
    }
}

/// How long after its monitor a QEMU that ends may take to end.
const END_COMES_WITHIN: Duration = Duration::from_secs(2);

/// Waits for something that nobody asked for.
pub(super) async fn incident(status: &mut watch::Receiver<Status>) -> Incident {
    let told = |status: &Status| status.incident.is_some() || status.closed;
    if let Ok(status) = status.wait_for(told).await
        && let Some(incident) = status.incident.clone()
    {
        return incident;
    }
    // Most often it is closed because QEMU ends, which is watched too and says more.
    tokio::time::sleep(END_COMES_WITHIN).await;
    Incident::Lab(
        "QEMU's monitor is closed, and QEMU runs on unwatched; qmp.log has why".to_owned(),
    )
}

/// What the harness itself has asked of a machine, so that the rest is what nobody asked for.
#[derive(Debug, Default)]
pub(super) struct Asked {
    /// Whether it is to go off or to be reset.
    pub(super) off: AtomicBool,
    /// How often its CPUs were to stop.
    pub(super) stops: AtomicU32,
}

/// Folds QMP's events into a [`Status`] for as long as QMP lives.
pub(super) fn follow(
    mut events: broadcast::Receiver<QmpEvent>,
    agent: Agent,
    asked: Arc<Asked>,
) -> watch::Receiver<Status> {
    let (sender, status) = watch::channel(Status::default());
    tokio::spawn(async move {
        loop {
            match events.recv().await {
                Ok(event) => {
                    sender.send_modify(|status| note(status, &event, &asked));
                    agent.port_changed(sender.borrow().agent_open);
                }
                Err(broadcast::error::RecvError::Lagged(_)) => {}
                Err(broadcast::error::RecvError::Closed) => break,
            }
        }
        sender.send_modify(|status| status.closed = true);
        // Keeps the last status readable for whoever asks after QMP's end.
        sender.closed().await;
    });
    status
}

fn note(status: &mut Status, event: &QmpEvent, asked: &Asked) {
    let expected_off = asked.off.load(Ordering::SeqCst);
    let word = |key: &str| {
        event
            .data
            .get(key)
            .and_then(|value| value.as_str())
            .unwrap_or("")
    };
    let incident = match event.name.as_str() {
        "VSERPORT_CHANGE" => {
            let open = event.data.get("open").and_then(|open| open.as_bool()) == Some(true);
            match word("id") {
                AGENT_PORT => status.agent_open = open,
                other => status.doors.changed(other, open),
            }
            None
        }
        "RESET" => {
            status.resets += 1;
            status.agent_open = false;
            status.doors.all_closed();
            (!expected_off)
                .then(|| Incident::Guest(format!("the host was reset ({})", word("reason"))))
        }
        "SHUTDOWN" if !expected_off => Some(Incident::Guest(format!(
            "the host shut down ({})",
            word("reason")
        ))),
        "MIGRATION" => {
            let state = word("status");
            if matches!(state, "completed" | "failed" | "cancelled") {
                status.migrations += 1;
                state.clone_into(&mut status.migration);
            }
            None
        }
        "GUEST_PANICKED" => Some(Incident::Guest("the host's kernel panicked".to_owned())),
        "WATCHDOG" => {
            status.watchdogs += 1;
            (!expected_off).then(|| {
                Incident::Guest(format!(
                    "the host's watchdog fired (action {})",
                    word("action")
                ))
            })
        }
        // A KVM that cannot enter the guest any more, say: QEMU stands there and goes on answering.
        "STOP" => {
            status.stops += 1;
            (status.stops > asked.stops.load(Ordering::SeqCst)).then(|| {
                Incident::Lab(
                    "QEMU stopped the host's processors by itself; what it said is in qemu-stderr.log"
                        .to_owned(),
                )
            })
        }
        // QEMU stops the machine when L0 cannot take a write; an error that a lab injects into one of
        // its disks is reported to the guest instead.
        "BLOCK_IO_ERROR" if word("action") == "stop" => {
            let room = if event.data.get("nospace").and_then(Value::as_bool) == Some(true) {
                ": No space left on device; free some, or choose another folder with LAB_CACHE"
            } else {
                ""
            };
            let node = word("node-name");
            Some(Incident::Lab(format!(
                "this machine could not write the disk `{node}`{room}"
            )))
        }
        _ => None,
    };
    // The first incident is the cause; what follows are its consequences.
    if status.incident.is_none() {
        status.incident = incident;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn event(name: &str, data: serde_json::Value) -> QmpEvent {
        QmpEvent {
            name: name.to_owned(),
            data,
            seconds: 0.0,
        }
    }

    fn nothing_asked() -> Asked {
        Asked::default()
    }

    fn asked_off() -> Asked {
        Asked {
            off: true.into(),
            ..Asked::default()
        }
    }

    #[test]
    fn a_stop_that_nobody_asked_for_is_the_labs_trouble_and_one_for_a_checkpoint_is_not() {
        let asked = Asked {
            stops: 1.into(),
            ..Asked::default()
        };
        let mut status = Status::default();
        note(&mut status, &event("STOP", json!({})), &asked);
        note(&mut status, &event("RESUME", json!({})), &asked);
        assert_eq!(status.incident, None);
        note(&mut status, &event("STOP", json!({})), &asked);
        let Some(Incident::Lab(words)) = status.incident else {
            panic!("{status:?}")
        };
        assert!(words.contains("qemu-stderr.log"), "{words}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_monitor_that_closes_while_qemu_runs_is_the_labs_trouble() {
        let (events, listener) = broadcast::channel(1);
        let agent = Agent::new("/no/agent".into(), None);
        let mut status = follow(listener, agent, Arc::new(nothing_asked()));
        drop(events);
        let Incident::Lab(words) = incident(&mut status).await else {
            panic!("{status:?}")
        };
        assert!(words.contains("monitor is closed"), "{words}");
    }

    #[test]
    fn a_reset_that_nobody_asked_for_is_an_incident_and_a_watchdog_names_itself_first() {
        let mut status = Status::default();
        note(
            &mut status,
            &event("VSERPORT_CHANGE", json!({"id": "agent", "open": true})),
            &nothing_asked(),
        );
        assert!(status.agent_open);
        note(
            &mut status,
            &event("WATCHDOG", json!({"action": "reset"})),
            &nothing_asked(),
        );
        note(
            &mut status,
            &event("RESET", json!({"reason": "guest-reset"})),
            &nothing_asked(),
        );
        assert!(!status.agent_open);
        let watchdog = "the host's watchdog fired (action reset)".to_owned();
        assert_eq!(status.incident, Some(Incident::Guest(watchdog)));
    }

    #[test]
    fn a_reset_that_was_asked_for_is_counted_only() {
        let mut status = Status::default();
        note(
            &mut status,
            &event("SHUTDOWN", json!({"reason": "guest-reset"})),
            &asked_off(),
        );
        note(
            &mut status,
            &event("RESET", json!({"reason": "guest-reset"})),
            &asked_off(),
        );
        assert_eq!((status.resets, status.incident), (1, None));
    }

    #[test]
    fn a_watchdog_that_was_waited_for_is_counted_only() {
        let mut status = Status::default();
        note(
            &mut status,
            &event("WATCHDOG", json!({"action": "reset"})),
            &asked_off(),
        );
        assert_eq!((status.watchdogs, status.incident), (1, None));
    }

    #[test]
    fn a_full_disk_is_the_labs_trouble() {
        let mut status = Status::default();
        let data = json!({"node-name": "root", "action": "stop", "nospace": true});
        note(
            &mut status,
            &event("BLOCK_IO_ERROR", data),
            &nothing_asked(),
        );
        let Some(Incident::Lab(words)) = status.incident else {
            panic!("{status:?}")
        };
        assert!(words.contains("No space left"), "{words}");
        let mut status = Status::default();
        let data = json!({"node-name": "disk0-0", "action": "report", "nospace": false});
        note(
            &mut status,
            &event("BLOCK_IO_ERROR", data),
            &nothing_asked(),
        );
        assert_eq!(status.incident, None);
    }

    #[test]
    fn a_migration_counts_when_it_has_ended() {
        let mut status = Status::default();
        for state in ["setup", "active", "device", "completed"] {
            note(
                &mut status,
                &event("MIGRATION", json!({ "status": state })),
                &nothing_asked(),
            );
        }
        assert_eq!(
            (status.migrations, status.migration.as_str()),
            (1, "completed")
        );
        assert_eq!(status.incident, None);
    }

    #[test]
    fn another_port_is_not_the_agent() {
        let mut status = Status::default();
        note(
            &mut status,
            &event("VSERPORT_CHANGE", json!({"id": "other", "open": true})),
            &nothing_asked(),
        );
        assert!(!status.agent_open);
    }

    #[test]
    fn a_door_counts_as_closed_whether_its_opening_was_told_or_not_and_when_the_host_is_reset() {
        let mut status = Status::default();
        let mut happens = |name: &str, data: serde_json::Value| {
            note(&mut status, &event(name, data), &asked_off());
            status.doors.closings("door0")
        };
        let port = |open: bool| json!({"id": "door0", "open": open});
        assert_eq!(happens("VSERPORT_CHANGE", port(true)), 0);
        assert_eq!(happens("VSERPORT_CHANGE", port(false)), 1);
        assert_eq!(happens("VSERPORT_CHANGE", port(false)), 2);
        assert_eq!(happens("VSERPORT_CHANGE", port(true)), 2);
        assert_eq!(happens("RESET", json!({"reason": "guest-reset"})), 3);
    }
}
