//! Property strings, the `host=…,pcie=1` values of a configuration (pve-common, JSONSchema.pm, `parse_property_string`).

use std::collections::BTreeMap;

/// The properties of one value, aliases resolved, booleans as `0` and `1`.
pub type Properties = BTreeMap<String, String>;

/// One property that a format knows.
#[derive(Debug, Clone, Copy)]
pub struct Key {
    /// Its name.
    pub name: &'static str,
    /// What its value must be.
    pub kind: Kind,
}

/// What a property's value must be.
#[derive(Debug, Clone, Copy)]
pub enum Kind {
    /// Anything.
    Text,
    /// `0`, `1`, `on`, `off`, `yes`, `no`, `true`, `false`.
    Boolean,
    /// A whole number, at least this.
    Integer(i64),
    /// A number.
    Number,
    /// One of these.
    Enum(&'static [&'static str]),
    /// Text of which this holds; the failure is reported as a mismatch of the pattern.
    Pattern(fn(&str) -> bool),
    /// Text with a named format; the failure is reported with this message and the value.
    Named(fn(&str) -> bool, &'static str),
    /// Another name of a property; its value is kept under that name.
    Alias(&'static str),
    /// Another name of a property that is also the value of a third one (`virtio=AA:…` is `model=virtio,macaddr=AA:…`).
    KeyAlias(&'static str, &'static str),
}

/// The properties of a format.
#[derive(Debug, Clone, Copy)]
pub struct Format {
    /// The property that a value without a key belongs to.
    pub default_key: Option<&'static str>,
    /// Properties without which the value is wrong.
    pub required: &'static [&'static str],
    /// All properties.
    pub keys: &'static [&'static [Key]],
}

impl Format {
    fn key(&self, name: &str) -> Option<&'static Key> {
        self.keys
            .iter()
            .copied()
            .flatten()
            .find(|key| key.name == name)
    }
}

/// Why a property string is wrong, in JSONSchema.pm's words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// A property stands twice.
    #[error("duplicate key in comma-separated list property: {0}")]
    Duplicate(String),
    /// A property that the format does not know.
    #[error("invalid key in comma-separated list property: {0}")]
    Invalid(String),
    /// The alias is taken.
    #[error("key alias '{0}' is already defined")]
    AliasTaken(String),
    /// A value stands alone and there is no default key.
    #[error("value without key, but schema does not define a default key")]
    NoDefaultKey,
    /// `=value`.
    #[error("missing key in comma-separated list property")]
    MissingKey,
    /// Values that the schema refuses, by property.
    #[error("format error\n{}", .0.iter().map(|(key, message)| format!("{key}: {message}")).collect::<Vec<_>>().join("\n"))]
    Values(Vec<(String, String)>),
    /// A failure that the format's own validator names.
    #[error("{0}")]
    Other(String),
}

/// `1`, `on`, `yes`, `true` and their opposites, in any case.
pub fn parse_boolean(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "1" | "on" | "yes" | "true" => Some(true),
        "0" | "off" | "no" | "false" => Some(false),
        _ => None,
    }
}

/// Parses a property string by its format.
pub fn parse_properties(format: &Format, text: &str) -> Result<Properties, FormatError> {
    let mut found = Properties::new();
    let mut default_seen = false;
    for part in text.split(',').filter(|part| !part.trim().is_empty()) {
        match part.split_once('=') {
            Some((key, value)) if !key.is_empty() && !value.is_empty() => {
                insert(format, &mut found, key, value)?
            }
            Some(_) => return Err(FormatError::MissingKey),
            None => {
                let Some(key) = format.default_key else {
                    return Err(FormatError::NoDefaultKey);
                };
                if default_seen || found.contains_key(key) {
                    return Err(FormatError::Duplicate(key.to_owned()));
                }
                default_seen = true;
                found.insert(key.to_owned(), part.to_owned());
            }
        }
    }
    let mut errors = Vec::new();
    for name in format
        .required
        .iter()
        .filter(|name| !found.contains_key(**name))
    {
        errors.push((
            (*name).to_owned(),
            "property is missing and it is not optional".to_owned(),
        ));
    }
    for (name, value) in &found {
        if let Some(message) = format.key(name).and_then(|key| refuse(key.kind, value)) {
            errors.push((name.clone(), message));
        }
    }
    if errors.is_empty() {
        Ok(found)
    } else {
        Err(FormatError::Values(errors))
    }
}

fn insert(
    format: &Format,
    found: &mut Properties,
    key: &str,
    value: &str,
) -> Result<(), FormatError> {
    if found.contains_key(key) {
        return Err(FormatError::Duplicate(key.to_owned()));
    }
    let known = format
        .key(key)
        .ok_or_else(|| FormatError::Invalid(key.to_owned()))?;
    let name = match known.kind {
        Kind::Alias(name) => name,
        Kind::KeyAlias(name, holder) => {
            if found.insert(holder.to_owned(), key.to_owned()).is_some() {
                return Err(FormatError::AliasTaken(holder.to_owned()));
            }
            name
        }
        _ => key,
    };
    let value = match format.key(name).map(|key| key.kind) {
        Some(Kind::Boolean) => match parse_boolean(value) {
            Some(true) => "1",
            Some(false) => "0",
            None => value,
        },
        _ => value,
    };
    found.insert(name.to_owned(), value.to_owned());
    Ok(())
}

fn refuse(kind: Kind, value: &str) -> Option<String> {
    let wrong_type = |name: &str| Some(format!("type check ('{name}') failed - got '{value}'"));
    match kind {
        Kind::Text | Kind::Alias(_) | Kind::KeyAlias(..) => None,
        Kind::Boolean if parse_boolean(value).is_none() => wrong_type("boolean"),
        Kind::Integer(minimum) => match value.parse::<i64>() {
            Err(_) => wrong_type("integer"),
            Ok(number) if number < minimum => {
                Some(format!("value must have a minimum value of {minimum}"))
            }
            Ok(_) => None,
        },
        Kind::Number if value.parse::<f64>().is_err() => wrong_type("number"),
        Kind::Enum(names) if !names.contains(&value) => Some(format!(
            "value '{value}' does not have a value in the enumeration '{}'",
            names.join(", ")
        )),
        Kind::Pattern(matches) if !matches(value) => {
            Some("value does not match the regex pattern".to_owned())
        }
        Kind::Named(matches, message) if !matches(value) => {
            Some(format!("invalid format - {message}: {value}\n"))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FORMAT: Format = Format {
        default_key: Some("host"),
        required: &[],
        keys: &[&[
            Key {
                name: "host",
                kind: Kind::Pattern(|text| text.chars().all(|c| c.is_ascii_digit())),
            },
            Key {
                name: "pcie",
                kind: Kind::Boolean,
            },
            Key {
                name: "mode",
                kind: Kind::Enum(&["a", "b"]),
            },
            Key {
                name: "count",
                kind: Kind::Integer(2),
            },
            Key {
                name: "address",
                kind: Kind::Alias("host"),
            },
            Key {
                name: "red",
                kind: Kind::KeyAlias("host", "colour"),
            },
            Key {
                name: "colour",
                kind: Kind::Text,
            },
        ]],
    };

    fn check(text: &str, expected: &str) {
        let shown = match parse_properties(&FORMAT, text) {
            Ok(found) => found
                .iter()
                .map(|(key, value)| format!("{key}={value}"))
                .collect::<Vec<_>>()
                .join(" "),
            Err(error) => error.to_string(),
        };
        assert_eq!(shown, expected, "{text}");
    }

    #[test]
    fn good_values() {
        check("12,pcie=on", "host=12 pcie=1");
        check("pcie=off,host=1,", "host=1 pcie=0");
        check("address=7", "host=7");
        check("red=5", "colour=red host=5");
        check("", "");
    }

    #[test]
    fn wrong_values_in_proxmoxs_words() {
        check(
            "1,2",
            "duplicate key in comma-separated list property: host",
        );
        check(
            "host=1,2",
            "duplicate key in comma-separated list property: host",
        );
        check(
            "pice=1",
            "invalid key in comma-separated list property: pice",
        );
        check("=1", "missing key in comma-separated list property");
        check(
            "x1",
            "format error\nhost: value does not match the regex pattern",
        );
        check(
            "1,pcie=2",
            "format error\npcie: type check ('boolean') failed - got '2'",
        );
        check(
            "mode=c",
            "format error\nmode: value 'c' does not have a value in the enumeration 'a, b'",
        );
        check(
            "count=1",
            "format error\ncount: value must have a minimum value of 2",
        );
        check("colour=x,red=5", "key alias 'colour' is already defined");
    }
}
