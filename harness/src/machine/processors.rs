//! What the host's processors do, by QEMU's own word: for a host that says nothing any more.

use serde_json::json;

use super::power::Machine;
use super::qmp::QmpError;

impl Machine {
    /// Registers and local APICs of the host's processors, twice, so that one sees which of them move.
    ///
    /// # Errors
    /// When QEMU does not answer.
    pub async fn processors(&self, count: u8) -> Result<String, QmpError> {
        let lapics = (0..count).map(|number| format!("info lapic {number}"));
        let look: Vec<String> = std::iter::once("info registers -a".to_owned())
            .chain(lapics)
            .collect();
        let mut text = String::new();
        for command in look.iter().chain(&look) {
            let arguments = json!({ "command-line": command });
            let answer =
                self.qmp
                    .execute_untyped("human-monitor-command", arguments, self.deadlines.qmp);
            let answer = answer.await?;
            let answer = answer.as_str().unwrap_or_default().replace('\r', "");
            text.push_str(&format!("{command}\n{answer}\n"));
        }
        Ok(text)
    }
}
