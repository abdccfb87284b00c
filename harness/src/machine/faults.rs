//! What happens to a running machine that nobody in it asked for: resets, cards pulled out, disks that
//! fail. Disks fail by filters that are put between a device and its block node while it runs.

use qapi::qmp;
use serde_json::{Value, json};
use tokio::sync::broadcast::error::RecvError;

use super::argv::Bay;
use super::power::{Machine, MachineError};

/// The block that errors come in, in bytes.
pub const BLOCK: u64 = 4096;
/// The unit that `blkdebug` counts in.
const SECTOR: u64 = 512;
/// The filter that makes accesses fail.
const FAULTS: &str = "blkdebug";
/// `EIO`.
const INPUT_OUTPUT_ERROR: u32 = 5;

impl Machine {
    /// Presses the reset button and waits until the host is up again.
    ///
    /// # Errors
    /// When QEMU does not answer, or the host does not come up.
    pub async fn reset(&mut self) -> Result<(), MachineError> {
        let resets = self.status.borrow().resets;
        self.expect_off(true);
        let limit = self.deadlines.qmp;
        let pressed = self.qmp.execute(qmp::system_reset {}, limit).await;
        let up = match pressed {
            Ok(_) => self.up_after("the host's reset", resets + 1).await,
            Err(error) => Err(error.into()),
        };
        self.expect_off(false);
        up
    }

    /// Waits until the host's watchdog fires and the host is up again.
    ///
    /// # Errors
    /// When it does not fire, or the host does not come up.
    pub async fn watchdog_reset(&mut self) -> Result<(), MachineError> {
        let resets = self.status.borrow().resets;
        self.expect_off(true);
        let what = "the watchdog to fire";
        let limit = self.deadlines.boot;
        let mut status = self.status.clone();
        let fired = async {
            if status.wait_for(|now| now.watchdogs > 0).await.is_err() {
                // QEMU closed its monitor; the watch reports its end.
                std::future::pending::<()>().await;
            }
            Ok::<_, MachineError>(())
        };
        let fired = self.watched(what, limit, fired).await;
        let up = match fired {
            Ok(()) => self.up_after("the watchdog's reset", resets + 1).await,
            Err(error) => Err(error),
        };
        self.expect_off(false);
        up
    }

    /// Pulls out a device and waits until the host has let it go.
    ///
    /// # Errors
    /// When the device cannot be pulled out, or is not let go.
    pub async fn unplug(&self, device: &str) -> Result<(), MachineError> {
        let mut events = self.qmp.events();
        let what = format!("the device {device} to be let go");
        self.watched(&what, self.deadlines.command, async {
            self.monitor("device_del", json!({ "id": device })).await?;
            loop {
                match events.recv().await {
                    Ok(event)
                        if event.name == "DEVICE_DELETED" && event.data["device"] == device =>
                    {
                        return Ok::<_, MachineError>(());
                    }
                    Ok(_) | Err(RecvError::Lagged(_)) => {}
                    // QEMU's end is watched beside this.
                    Err(RecvError::Closed) => std::future::pending().await,
                }
            }
        })
        .await
    }

    /// Makes an access fail at these offsets, each a block of 4 KiB; everywhere if none is given. `access`
    /// is `read` or `write`; none of them means any, flushing too.
    ///
    /// # Errors
    /// When QEMU refuses or does not answer.
    pub async fn fail_disk(
        &mut self,
        bay: &Bay,
        access: Option<&str>,
        offsets: &[u64],
    ) -> Result<(), MachineError> {
        let rule = |sector: Option<u64>| {
            let mut rule = json!({ "event": "none", "errno": INPUT_OUTPUT_ERROR, "once": false });
            if let Some(access) = access {
                rule["iotype"] = access.into();
            }
            if let Some(sector) = sector {
                rule["sector"] = sector.into();
            }
            rule
        };
        let rules: Vec<Value> = match offsets {
            [] => vec![rule(None)],
            // A rule is about one sector; a block has eight, and no access has fewer than one of them.
            some => some
                .iter()
                .flat_map(|offset| (0..BLOCK / SECTOR).map(move |part| offset / SECTOR + part))
                .map(|sector| rule(Some(sector)))
                .collect(),
        };
        self.put_over(
            bay,
            "image",
            json!({ "driver": FAULTS, "inject-error": rules }),
        )
        .await
        .map(drop)
    }

    /// Whether a disk was made to fail.
    pub fn is_faulty(&self, bay: &Bay) -> bool {
        self.nodes[bay.number].contains(FAULTS)
    }

    /// Sets the critical warning in an NVMe drive's SMART log.
    ///
    /// # Errors
    /// When QEMU refuses or does not answer.
    pub async fn warn(&self, bay: &Bay, bits: u8) -> Result<(), MachineError> {
        self.set(&bay.device, "smart_critical_warning", bits.into())
            .await
    }

    /// Puts a filter between a drive and its block node, which becomes the filter's `child`. Gives the
    /// filter's name.
    pub(super) async fn put_over(
        &mut self,
        bay: &Bay,
        child: &str,
        mut filter: Value,
    ) -> Result<String, MachineError> {
        let below = &self.nodes[bay.number];
        let name = format!("{below}-{}", filter["driver"].as_str().unwrap_or("filter"));
        filter["node-name"] = name.as_str().into();
        filter[child] = below.as_str().into();
        self.monitor("blockdev-add", filter).await?;
        self.attach(bay, &name).await?;
        Ok(name)
    }

    /// Has a drive use another block node from now on.
    pub(super) async fn attach(&mut self, bay: &Bay, node: &str) -> Result<(), MachineError> {
        self.set(&bay.device, "drive", node.into()).await?;
        node.clone_into(&mut self.nodes[bay.number]);
        Ok(())
    }

    async fn set(&self, device: &str, property: &str, value: Value) -> Result<(), MachineError> {
        let path = format!("/machine/peripheral/{device}");
        let arguments = json!({ "path": path, "property": property, "value": value });
        self.monitor("qom-set", arguments).await?;
        Ok(())
    }
}
