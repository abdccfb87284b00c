//! Makes a fact book fit to be posted: serial numbers, World Wide Names, UUIDs, addresses of network
//! cards and hosts, and the host's name are replaced, each by the same placeholder everywhere, so that
//! what was equal stays equal and the findings are the same.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::ops::Range;

use serde_json::Value;

use super::book::{BookError, FactBook};
use super::model::Severity;
use super::rules::derive;

/// A copy of a book that names nobody.
///
/// # Errors
/// [`BookError`], were the masked document no book any more.
pub fn mask(book: &FactBook) -> Result<FactBook, BookError> {
    let document = serde_json::to_value(book).map_err(BookError::Json)?;
    let mut names = Names::default();
    names.collect(&document, "");
    let expected = findings(book);
    // A host may be called `intel` or `root`: a name that is also a word of the facts' own stays there.
    for host in std::mem::take(&mut names.hosts) {
        let mut trial = names.clone();
        trial.know(host.clone());
        if masked(trial, &document).is_ok_and(|masked| findings(&masked) == expected) {
            names.know(host);
        }
    }
    masked(names, &document)
}

fn masked(mut names: Names, document: &Value) -> Result<FactBook, BookError> {
    let mut document = document.clone();
    names.replace(&mut document, "");
    serde_json::from_value(document).map_err(BookError::Json)
}

fn findings(book: &FactBook) -> Vec<(Severity, &'static str)> {
    let found = derive(book).into_iter();
    found.map(|one| (one.severity, one.id)).collect()
}

/// A shorter serial number is replaced in its own field only: as a part of other texts it would be
/// found where it is not.
const TELLING: usize = 6;

/// The same for a host's name, which stands for itself only as a whole word.
const TELLING_HOST: usize = 4;

/// Names that the installers give, and that name nobody.
const COMMON_HOSTS: [&str; 4] = ["pve", "proxmox", "debian", "localhost"];

/// What stands for the domain of a host.
const DOMAIN: &str = "DOMAIN";

/// What is replaced.
#[derive(Clone, Default)]
struct Names {
    /// Contents of fields that are replaced in such fields.
    fields: BTreeMap<String, String>,
    /// Texts that are replaced wherever they stand, the longest first: one may be part of another.
    known: Vec<(String, String)>,
    /// The same of hosts, which have to be tried.
    hosts: Vec<(String, String)>,
    /// What was recognised by its form.
    shapes: BTreeMap<String, String>,
    counts: BTreeMap<&'static str, usize>,
}

/// What a field of this name holds, if that names a disk or a host.
fn kind_of(key: &str) -> Option<&'static str> {
    match key {
        "serial" | "wwn" | "lunid" => Some(SERIAL),
        "host-name" | "node" | "nodes" => Some(HOST),
        _ => None,
    }
}

const SERIAL: &str = "SERIAL";
const HOST: &str = "HOST";
const UUID: &str = "UUID";

impl Names {
    /// Notes what certain fields and names of disks hold.
    fn collect(&mut self, value: &Value, key: &str) {
        match value {
            Value::String(text) => {
                match kind_of(key) {
                    Some(HOST) => self.note_host(text),
                    Some(_) => self.note_serial(text),
                    None => {}
                }
                for own in disks_by_id(text) {
                    self.note_serial(&text[own]);
                }
            }
            Value::Array(list) => list.iter().for_each(|item| self.collect(item, key)),
            Value::Object(map) => map.iter().for_each(|(key, item)| self.collect(item, key)),
            _ => {}
        }
    }

    fn note_serial(&mut self, text: &str) {
        // QEMU's own disks are numbered alike on every host.
        if text.is_empty() || text.starts_with("drive-") || self.is_noted(SERIAL, text) {
            return;
        }
        // The middleware writes a World Wide Name without the 0x that it begins with elsewhere.
        let hex = text.chars().all(|c| c.is_ascii_hexdigit()) && text.len().is_multiple_of(16);
        let twin = match text.strip_prefix("0x") {
            Some(bare) => Some(bare.to_owned()),
            None => hex.then(|| format!("0x{text}")),
        };
        let placeholder = self.next(SERIAL);
        for text in std::iter::once(text.to_owned()).chain(twin) {
            self.fields.insert(text.clone(), placeholder.clone());
            if text.len() >= TELLING {
                self.know((text, placeholder.clone()));
            }
        }
    }

    fn note_host(&mut self, text: &str) {
        let (label, domain) = match text.split_once('.') {
            Some((label, domain)) => (label, Some(domain)),
            None => (text, None),
        };
        if !label.is_empty() && !COMMON_HOSTS.contains(&label) && !self.is_noted(HOST, label) {
            let placeholder = self.next(HOST);
            self.hosts.extend(host_in_texts(label, &placeholder));
            self.fields.insert(label.to_owned(), placeholder);
        }
        let named = domain.is_some_and(|domain| domain != DOMAIN);
        if named && !self.fields.contains_key(text) {
            let label = self.fields.get(label).map_or(label, String::as_str);
            let placeholder = format!("{label}.{DOMAIN}");
            self.hosts.push((text.to_owned(), placeholder.clone()));
            self.fields.insert(text.to_owned(), placeholder);
        }
    }

    /// Whether a text needs no placeholder of this kind, for it has one or is one.
    fn is_noted(&self, kind: &str, text: &str) -> bool {
        let number = text
            .strip_prefix(kind)
            .and_then(|rest| rest.strip_prefix('-'));
        self.fields.contains_key(text) || number.is_some_and(is_number)
    }

    fn know(&mut self, (text, placeholder): (String, String)) {
        self.known.push((text, placeholder));
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
                    // Keys are names of fields and parameters, but for paths.
                    let key = if key.contains('/') {
                        self.text(&key)
                    } else {
                        key
                    };
                    map.insert(key, item);
                }
            }
            _ => {}
        }
    }

    fn text(&mut self, text: &str) -> String {
        let mut masked = text.to_owned();
        for own in disks_by_id(text).into_iter().rev() {
            if let Some(placeholder) = self.fields.get(&text[own.clone()]) {
                masked.replace_range(own, placeholder);
            }
        }
        for (name, placeholder) in &self.known {
            masked = replace_whole(&masked, name, placeholder);
        }
        self.shapes(&masked)
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
            let core = word.trim_matches(['-', ':', '.']);
            // The device mapper doubles the `-` of a volume group that is called by a UUID.
            let plain = core.replace("--", "-");
            // A letter before or after makes it part of a longer word, but for what follows a UUID and a `-`.
            let inside = |kind: &str| {
                let ends = word.ends_with(core) || kind != UUID;
                (word.starts_with(core) && before.ends_with(char::is_alphabetic))
                    || (ends && rest[end..].starts_with(char::is_alphabetic))
            };
            out.push_str(before);
            match shape(&plain).filter(|kind| !inside(kind)) {
                Some(kind) => {
                    let known = self.shapes.get(&plain).cloned();
                    let placeholder = known.unwrap_or_else(|| self.next(kind));
                    let shown = match plain == core {
                        true => placeholder.clone(),
                        false => placeholder.replace('-', "--"),
                    };
                    out.push_str(&word.replacen(core, &shown, 1));
                    self.shapes.insert(plain, placeholder);
                }
                None => out.push_str(word),
            }
            rest = &rest[end..];
        }
        out.push_str(rest);
        out
    }
}

/// How a host's name stands in other texts, and what it is replaced by there. The device mapper doubles
/// the `-` of a volume group, for which Debian's installer takes the host's name with `-vg`.
fn host_in_texts(host: &str, placeholder: &str) -> Vec<(String, String)> {
    let doubled = host.replace('-', "--");
    let [plain, mapped] = if host.len() < TELLING_HOST {
        ["-vg", "--vg"]
    } else {
        ["", ""]
    };
    let mut texts = vec![
        (format!("{host}{plain}"), format!("{placeholder}{plain}")),
        (
            format!("{doubled}{mapped}"),
            format!("{placeholder}{mapped}"),
        ),
    ];
    texts.dedup();
    texts
}

/// Where a text has names of `/dev/disk/by-id`, the parts of them that are of one disk only.
fn disks_by_id(text: &str) -> Vec<Range<usize>> {
    const FOLDER: &str = "disk/by-id/";
    let ends = |c: char| c.is_whitespace() || "/,;'\"`()[]|".contains(c);
    let names = text.match_indices(FOLDER).map(|(at, _)| at + FOLDER.len());
    let own = names.filter_map(|start| {
        let name = text[start..].split(ends).next()?;
        let own = own_part(name)?;
        Some(start + own.start..start + own.end)
    });
    own.collect()
}

/// Kinds of names that are an identifier and nothing else.
const IDENTIFIERS: [&str; 5] = ["wwn-", "scsi-3", "lvm-pv-uuid-", "md-uuid-", "dm-uuid-"];

/// The identifier in a name such as `wwn-0x5000c500c2f5886b-part1`, or the serial number, which is the
/// last part of a name such as `ata-ST12000NM0008-2H3101_ZTM09FD7`.
fn own_part(name: &str) -> Option<Range<usize>> {
    let mut name = name.trim_end_matches([':', '.']);
    name = without_end(name, "-part", is_number);
    if name.starts_with("dm-name-") || name.starts_with("md-name-") {
        return None;
    }
    if let Some(kind) = IDENTIFIERS.iter().find(|kind| name.starts_with(**kind)) {
        return Some(kind.len()..name.len()).filter(|own| !own.is_empty());
    }
    if let Some(rest) = name.strip_prefix("nvme-") {
        if ["eui.", "nvme.", "uuid."]
            .iter()
            .any(|kind| rest.starts_with(kind))
        {
            return Some("nvme-".len()..name.len());
        }
        // The number of the namespace, after model and serial number.
        let one = without_end(name, "_", |end| end.len() < 3 && is_number(end));
        name = if one.contains('_') { one } else { name };
    }
    if name.starts_with("usb-") {
        let unit = |end: &str| end.split(':').count() == 2 && end.split(':').all(is_number);
        name = without_end(name, "-", unit);
    }
    let start = name.rfind('_')? + 1;
    Some(start..name.len()).filter(|own| !own.is_empty())
}

/// A text without a separator and what follows it last, if that is so.
fn without_end<'t>(text: &'t str, separator: &str, is: impl Fn(&str) -> bool) -> &'t str {
    match text.rsplit_once(separator) {
        Some((head, end)) if is(end) => head,
        _ => text,
    }
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

fn shape(word: &str) -> Option<&'static str> {
    let lengths = |separator: char| word.split(separator).map(str::len).collect::<Vec<_>>();
    if lengths('-') == [8, 4, 4, 4, 12] {
        return Some(UUID);
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
