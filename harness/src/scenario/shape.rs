//! Holds a document against the JSON Schema of its type, so that all unknown keys and wrong values of
//! a file are found in one pass, each with its place and the nearest right name.
//!
//! It knows the part of JSON Schema that `schemars` writes for our types, no more; the types' own
//! `Deserialize` has the last word.

use serde_json::Value;
use toml::de::DeValue;

use super::document::{Document, Node};
use super::nearest::{advice, nearest};
use crate::lab::{PciAddress, Wwn};

/// Notes in `document` where it does not have the shape of `schema`.
pub(super) fn check(document: &Document<'_>, schema: &Value) {
    let checker = Checker {
        document,
        definitions: &schema["$defs"],
    };
    checker.value(schema, &document.root(), "");
}

struct Checker<'a> {
    document: &'a Document<'a>,
    definitions: &'a Value,
}

impl<'a> Checker<'a> {
    fn value(&self, schema: &'a Value, node: &Node<'_>, name: &str) {
        let Some(value) = node.value else { return };
        let about = schema["description"].as_str();
        let choices = self.choices(schema);
        let words: Vec<&str> = choices
            .iter()
            .flat_map(|choice| constants(choice))
            .collect();
        if !words.is_empty() {
            self.word(&words, value, node, name, about);
            return;
        }
        let Some(choice) = choices.iter().find(|choice| accepts(choice, value)) else {
            let expected: Vec<&str> = choices
                .iter()
                .flat_map(|choice| types(choice))
                .map(in_words)
                .collect();
            self.wrong(node, name, &expected.join(" or "), about);
            return;
        };
        match value {
            DeValue::Table(_) => self.table(choice, node, name),
            DeValue::Array(items) => {
                for index in 0..items.len() {
                    self.value(&choice["items"], &node.item(index), name);
                }
            }
            DeValue::Integer(number) => {
                let number = i64::from_str_radix(number.as_str(), number.radix()).ok();
                let least = choice["minimum"].as_i64().unwrap_or(i64::MIN);
                let most = choice["maximum"].as_i64().unwrap_or(i64::MAX);
                if number.is_none_or(|number| number < least || number > most) {
                    let range = match choice["maximum"].is_null() {
                        true => format!("a number from {least} up"),
                        false => format!("a number from {least} to {most}"),
                    };
                    self.wrong(node, name, &range, about);
                }
            }
            DeValue::String(text) => {
                if let Err(message) = well_formed(choice["format"].as_str(), text) {
                    self.document
                        .note(self.document.problem(node.span.clone(), message));
                }
            }
            _ => {}
        }
    }

    /// The schemas that a value may have: the alternatives with references followed, `null` left out
    /// because TOML has none.
    fn choices(&self, schema: &'a Value) -> Vec<&'a Value> {
        if let Some(reference) = schema["$ref"].as_str() {
            let name = reference.trim_start_matches("#/$defs/");
            return self.choices(&self.definitions[name]);
        }
        let alternatives = match (&schema["anyOf"], &schema["oneOf"], &schema["properties"]) {
            (Value::Array(any), _, Value::Null) => any,
            (_, Value::Array(one), Value::Null) => one,
            _ => return vec![schema],
        };
        alternatives
            .iter()
            .filter(|schema| schema["type"] != "null")
            .flat_map(|schema| self.choices(schema))
            .collect()
    }

    fn word(
        &self,
        words: &[&str],
        value: &DeValue<'_>,
        node: &Node<'_>,
        name: &str,
        about: Option<&str>,
    ) {
        match value.as_str() {
            Some(word) if words.contains(&word) => {}
            Some(word) => {
                let problem = self.document.problem(
                    node.span.clone(),
                    format!("`{word}` is not a value of `{name}`"),
                );
                self.document
                    .note(problem.maybe_help(advice(word, words.iter().copied())));
            }
            None => self.wrong(node, name, "a string", about),
        }
    }

    fn table(&self, schema: &'a Value, node: &Node<'_>, name: &str) {
        let properties = schema["properties"].as_object();
        let known = properties
            .into_iter()
            .flat_map(|map| map.keys())
            .map(String::as_str);
        let others = match &schema["patternProperties"] {
            // The patterns are for editors: what a key may be is for its own type to say.
            Value::Object(patterns) => patterns.values().next(),
            _ => schema
                .get("additionalProperties")
                .filter(|schema| schema.is_object()),
        };
        for (key, child) in node.entries() {
            match (properties.and_then(|map| map.get(key.as_ref())), others) {
                (Some(schema), _) | (None, Some(schema)) => self.value(schema, &child, &key),
                (None, None) => {
                    let problem = self
                        .document
                        .problem(child.key, format!("unknown key `{key}`{}", inside(name)));
                    let help = self
                        .home(&key, known.clone())
                        .or_else(|| advice(&key, known.clone()));
                    self.document.note(problem.maybe_help(help));
                }
            }
        }
        let misspelled: Vec<_> = node
            .entries()
            .filter(|(key, _)| !known.clone().any(|known| known == key))
            .filter_map(|(key, _)| nearest(&key, known.clone()))
            .collect();
        for key in schema["required"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
        {
            if node.get(key).value.is_none() && !misspelled.contains(&key) {
                let problem = self.document.problem(
                    node.key.clone(),
                    format!("`{key}` is missing{}", inside(name)),
                );
                let about = properties.and_then(|map| map[key]["description"].as_str());
                self.document
                    .note(problem.maybe_help(about.map(|about| first_sentence(about).to_owned())));
            }
        }
    }

    /// Where a key that is unknown here belongs, if exactly one other table has it and no key known
    /// here is like it.
    fn home<'k>(&self, key: &str, known: impl Iterator<Item = &'k str>) -> Option<String> {
        if nearest(key, known).is_some() {
            return None;
        }
        let mut homes = self
            .definitions
            .as_object()?
            .iter()
            .filter_map(|(home, schema)| schema["properties"].get(key).map(|_| home));
        match (homes.next().map(String::as_str), homes.next()) {
            (Some("RunTable"), None) => Some(format!(
                "it belongs inside `run`: run = {{ command = \"…\", {key} = … }}"
            )),
            (Some("Closing"), None) => Some("it belongs in the closing `[expect]`".to_owned()),
            (Some("Step"), None) => Some("it belongs in a `[[step]]`".to_owned()),
            _ => None,
        }
    }

    fn wrong(&self, node: &Node<'_>, name: &str, expected: &str, about: Option<&str>) {
        let seen = match node.value {
            Some(DeValue::Integer(number)) => number.to_string(),
            Some(DeValue::Boolean(value)) => value.to_string(),
            Some(value) => in_words(value.type_str()).to_owned(),
            None => "nothing".to_owned(),
        };
        let message = match name {
            "" => format!("expected {expected}, found {seen}"),
            name => format!("`{name}` takes {expected}, not {seen}"),
        };
        let problem = self.document.problem(node.span.clone(), message);
        self.document
            .note(problem.maybe_help(about.map(|about| first_sentence(about).to_owned())));
    }
}

/// Whether a string can be read as what its schema's format says. The types that read themselves from
/// a string would say the same, but one mistake at a time and not always at its place.
fn well_formed(format: Option<&str>, text: &str) -> Result<(), String> {
    match format {
        Some("pci-address") => text.parse::<PciAddress>().map(drop),
        Some("wwn") => text.parse::<Wwn>().map(drop),
        _ => Ok(()),
    }
}

/// The strings that an enumeration allows.
fn constants(schema: &Value) -> Vec<&str> {
    match (&schema["const"], &schema["enum"]) {
        (Value::String(word), _) => vec![word],
        (_, Value::Array(words)) => words.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    }
}

/// The JSON types that a schema allows, `null` aside.
fn types(schema: &Value) -> Vec<&str> {
    match &schema["type"] {
        Value::String(one) => vec![one],
        Value::Array(several) => several
            .iter()
            .filter_map(Value::as_str)
            .filter(|one| *one != "null")
            .collect(),
        _ => Vec::new(),
    }
}

fn accepts(schema: &Value, value: &DeValue<'_>) -> bool {
    let types = types(schema);
    types.is_empty()
        || types.contains(&match value {
            DeValue::String(_) => "string",
            DeValue::Integer(_) => "integer",
            DeValue::Float(_) => "number",
            DeValue::Boolean(_) => "boolean",
            DeValue::Datetime(_) => "datetime",
            DeValue::Array(_) => "array",
            DeValue::Table(_) => "object",
        })
}

/// A type of JSON or TOML, for people.
fn in_words(name: &str) -> &str {
    match name {
        "string" => "a string",
        "integer" => "a whole number",
        "float" | "number" => "a number",
        "boolean" => "true or false",
        "array" => "a list",
        "object" | "table" => "a table",
        "datetime" => "a date",
        other => other,
    }
}

fn inside(name: &str) -> String {
    match name {
        "" => String::new(),
        name => format!(" in `{name}`"),
    }
}

fn first_sentence(text: &str) -> &str {
    let end = text
        .find(". ")
        .or_else(|| text.find(".\n"))
        .unwrap_or(text.len());
    text[..end].trim_end_matches('.')
}
