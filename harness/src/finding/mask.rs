//! Makes a fact book fit to be posted: serial numbers, World Wide Names, UUIDs, addresses of network
//! cards and hosts, and the host's name are replaced, each by the same placeholder everywhere, so that
//! what was equal stays equal and the findings are the same.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde_json::Value;

use super::book::{BookError, FactBook};

/// A copy of a book that names nobody.
///
/// # Errors
/// [`BookError`], were the masked document no book any more.
pub fn mask(book: &FactBook) -> Result<FactBook, BookError> {
    let mut document = serde_json::to_value(book).map_err(BookError::Json)?;
    let mut names = Names::default();
    names.collect(&document, "");
    names.replace(&mut document, "");
    serde_json::from_value(document).map_err(BookError::Json)
}

/// A shorter serial number is replaced in its own field only: as a part of other texts it would be
/// found where it is not.
const TELLING: usize = 6;

/// Names that the installers give, and that name nobody.
const COMMON_HOSTS: [&str; 4] = ["pve", "proxmox", "debian", "localhost"];

/// What is replaced.
#[derive(Default)]
struct Names {
    /// Contents of fields that are replaced in such fields.
    fields: BTreeMap<String, String>,
    /// Texts that are replaced wherever they stand, the longest first: one may be part of another.
    known: Vec<(String, String)>,
    /// What was recognised by its form.
    shapes: BTreeMap<String, String>,
    counts: BTreeMap<&'static str, usize>,
}

/// What a field of this name holds, if that names a disk or a host.
fn kind_of(key: &str) -> Option<&'static str> {
    match key {
        "serial" | "wwn" | "lunid" => Some("SERIAL"),
        "host-name" | "node" => Some("HOST"),
        _ => None,
    }
}

impl Names {
    /// Notes what certain fields hold.
    fn collect(&mut self, value: &Value, key: &str) {
        match value {
            Value::String(text) => {
                if let Some(kind) = kind_of(key) {
                    self.note(kind, text, key);
                }
            }
            Value::Array(list) => list.iter().for_each(|item| self.collect(item, key)),
            Value::Object(map) => map.iter().for_each(|(key, item)| self.collect(item, key)),
            _ => {}
        }
    }

    fn note(&mut self, kind: &'static str, text: &str, key: &str) {
        // QEMU's own disks are numbered alike on every host.
        let common = text.starts_with("drive-") || COMMON_HOSTS.contains(&text);
        if common || text.is_empty() || self.fields.contains_key(text) {
            return;
        }
        // The middleware writes a World Wide Name without the 0x that it begins with elsewhere.
        let twin = match key {
            "wwn" => text.strip_prefix("0x").map(str::to_owned),
            "lunid" => Some(format!("0x{text}")),
            _ => None,
        };
        let placeholder = self.next(kind);
        for text in std::iter::once(text.to_owned()).chain(twin) {
            self.fields.insert(text.clone(), placeholder.clone());
            if kind == "SERIAL" && text.len() >= TELLING {
                self.known.push((text, placeholder.clone()));
            }
        }
        self.known
            .sort_by_key(|(name, _)| std::cmp::Reverse(name.len()));
    }

    fn next(&mut self, kind: &'static str) -> String {
        let count = self.counts.entry(kind).or_default();
        *count += 1;
        format!("{kind}-{count}")
    }

    fn replace(&mut self, value: &mut Value, key: &str) {
        match value {
            Value::String(text) => {
                let field = kind_of(key).and_then(|_| self.fields.get(text.as_str()).cloned());
                *text = field.unwrap_or_else(|| self.text(text));
            }
            Value::Array(list) => list.iter_mut().for_each(|item| self.replace(item, key)),
            Value::Object(map) => {
                for (key, mut item) in std::mem::take(map) {
                    self.replace(&mut item, &key);
                    map.insert(self.text(&key), item);
                }
            }
            _ => {}
        }
    }

    fn text(&mut self, text: &str) -> String {
        let mut masked = text.to_owned();
        for (name, placeholder) in &self.known {
            masked = replace_whole(&masked, name, placeholder);
        }
        let masked = self.by_id(&masked);
        self.shapes(&masked)
    }

    /// The name of a disk that no probe saw: in `/dev/disk/by-id` the serial number is its last part.
    fn by_id(&mut self, text: &str) -> String {
        const FOLDER: &str = "/dev/disk/by-id/";
        let Some(start) = text.find(FOLDER).map(|at| at + FOLDER.len()) else {
            return text.to_owned();
        };
        let end = text[start..]
            .find([',', ' '])
            .map_or(text.len(), |at| start + at);
        match text[start..end].rsplit_once('_') {
            Some((model, serial)) if !serial.starts_with("SERIAL-") => {
                self.note("SERIAL", serial, "serial");
                let placeholder = self.fields.get(serial).map_or(serial, String::as_str);
                format!("{}{model}_{placeholder}{}", &text[..start], &text[end..])
            }
            _ => text.to_owned(),
        }
    }

    /// Replaces what is known by its form: UUIDs, addresses of network cards, addresses of hosts.
    fn shapes(&mut self, text: &str) -> String {
        let part = |c: char| c.is_ascii_hexdigit() || matches!(c, '-' | ':' | '.');
        let mut out = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(start) = rest.find(part) {
            let end = rest[start..]
                .find(|c| !part(c))
                .map_or(rest.len(), |at| start + at);
            let (before, word) = (&rest[..start], &rest[start..end]);
            // A letter before or after makes it part of a longer word.
            let inside = before.ends_with(char::is_alphabetic)
                || rest[end..].starts_with(char::is_alphabetic);
            let core = word.trim_matches(['-', ':', '.']);
            out.push_str(before);
            match shape(core).filter(|_| !inside) {
                Some(kind) => {
                    let known = self.shapes.get(core).cloned();
                    let placeholder = known.unwrap_or_else(|| self.next(kind));
                    out.push_str(&word.replacen(core, &placeholder, 1));
                    self.shapes.insert(core.to_owned(), placeholder);
                }
                None => out.push_str(word),
            }
            rest = &rest[end..];
        }
        out.push_str(rest);
        out
    }
}

fn shape(word: &str) -> Option<&'static str> {
    let lengths = |separator: char| word.split(separator).map(str::len).collect::<Vec<_>>();
    if lengths('-') == [8, 4, 4, 4, 12] {
        return Some("UUID");
    }
    if lengths(':') == [2; 6] && !word.contains('-') {
        return Some("MAC");
    }
    // A version of four numbers passes for an address; nothing is lost by that.
    let address = word.parse::<IpAddr>().ok()?;
    (!address.is_unspecified() && !address.is_loopback()).then_some("IP")
}

/// Replaces a name where it is not part of a longer word.
fn replace_whole(text: &str, name: &str, placeholder: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(name) {
        let (before, found) = rest.split_at(at);
        let after = &found[name.len()..];
        out.push_str(before);
        let whole =
            !out.ends_with(char::is_alphanumeric) && !after.starts_with(char::is_alphanumeric);
        out.push_str(if whole { placeholder } else { name });
        rest = after;
    }
    out.push_str(rest);
    out
}
