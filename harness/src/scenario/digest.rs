//! Digests of what is done and of what it is done to: equal content gives an equal digest, whatever
//! the order of keys in the file, and titles and summaries do not count.

use serde::Serialize;
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::step::Action;
use crate::lab::Lab;

impl Action {
    /// Digest of the action; its title and its place in the file are not part of it.
    pub fn digest(&self) -> String {
        of(self)
    }
}

impl Lab {
    /// Digest of the machine; its summary is not part of it.
    pub fn digest(&self) -> String {
        of(&Lab {
            summary: String::new(),
            ..self.clone()
        })
    }
}

/// Digest of a value's JSON.
pub(crate) fn of(value: &impl Serialize) -> String {
    // JSON can hold whatever these types can: all keys of their maps are strings.
    let value = serde_json::to_value(value).expect("labs and actions are JSON");
    let mut text = String::new();
    canonical(&value, &mut text);
    hex::encode(Sha256::digest(text))
}

/// JSON without spaces, with sorted keys.
fn canonical(value: &Value, text: &mut String) {
    match value {
        Value::Object(map) => {
            let mut entries: Vec<_> = map.iter().collect();
            entries.sort_unstable_by_key(|(key, _)| *key);
            text.push('{');
            for (number, (key, value)) in entries.into_iter().enumerate() {
                if number > 0 {
                    text.push(',');
                }
                text.push_str(&Value::from(key.as_str()).to_string());
                text.push(':');
                canonical(value, text);
            }
            text.push('}');
        }
        Value::Array(items) => {
            text.push('[');
            for (number, item) in items.iter().enumerate() {
                if number > 0 {
                    text.push(',');
                }
                canonical(item, text);
            }
            text.push(']');
        }
        scalar => text.push_str(&scalar.to_string()),
    }
}
