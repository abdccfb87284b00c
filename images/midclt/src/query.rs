//! Filters and options of a query (middleware, `utils/filter_list.py`): the common ones; others are refused by name.

use std::cmp::Ordering;

use serde_json::{Value, json};

use crate::disk::Entry;

/// A query that cannot be understood, or whose one entry does not exist.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum QueryError {
    /// Not a list of filters, or not an object of options.
    #[error("[EINVAL] {0}")]
    Invalid(String),
    /// `get` found nothing.
    #[error("MatchNotFound()")]
    NotFound,
}

fn invalid<T>(message: impl Into<String>) -> Result<T, QueryError> {
    Err(QueryError::Invalid(message.into()))
}

/// What a query asks for.
#[derive(Debug, Default, PartialEq)]
pub struct Query {
    filters: Vec<(String, String, Value)>,
    select: Vec<String>,
    order_by: Vec<String>,
    offset: usize,
    limit: usize,
    get: bool,
    count: bool,
    /// Join the pool's name to each disk.
    pub pools: bool,
}

/// What a query gives.
#[derive(Debug, PartialEq, serde::Serialize)]
#[serde(untagged)]
pub enum Answer {
    /// Entries.
    List(Vec<Entry>),
    /// The first entry.
    One(Entry),
    /// How many there are.
    Count(usize),
}

impl Query {
    /// Reads filters and options, `null` standing for none.
    pub fn parse(filters: &Value, options: &Value) -> Result<Self, QueryError> {
        let mut query = Self::default();
        match filters {
            Value::Null => {}
            Value::Array(filters) => {
                for filter in filters {
                    query.filters.push(parse_filter(filter)?);
                }
            }
            other => return invalid(format!("query-filters: a list is expected, not {other}")),
        }
        match options {
            Value::Null => {}
            Value::Object(options) => {
                for (name, value) in options {
                    query.option(name, value)?;
                }
            }
            other => return invalid(format!("query-options: an object is expected, not {other}")),
        }
        Ok(query)
    }

    fn option(&mut self, name: &str, value: &Value) -> Result<(), QueryError> {
        let wrong = || {
            QueryError::Invalid(format!(
                "query-options.{name}: {value} is of the wrong kind"
            ))
        };
        let flag = || value.as_bool().ok_or_else(wrong);
        let number = || {
            value
                .as_u64()
                .and_then(|number| usize::try_from(number).ok())
                .ok_or_else(wrong)
        };
        let names = || -> Result<Vec<String>, QueryError> {
            let list = value.as_array().ok_or_else(wrong)?;
            list.iter()
                .map(|name| name.as_str().map(str::to_owned).ok_or_else(wrong))
                .collect()
        };
        match name {
            "select" => self.select = names()?,
            "order_by" => self.order_by = names()?,
            "offset" => self.offset = number()?,
            "limit" => self.limit = number()?,
            "get" => self.get = flag()?,
            "count" => self.count = flag()?,
            "extra" => {
                for (name, value) in value.as_object().ok_or_else(wrong)? {
                    match (name.as_str(), value) {
                        ("pools", Value::Bool(join)) => self.pools = *join,
                        // There are no expired disks and no passwords here.
                        ("include_expired" | "passwords", Value::Bool(_)) => {}
                        _ => {
                            return invalid(format!(
                                "query-options.extra.{name}: {value} is not supported"
                            ));
                        }
                    }
                }
            }
            _ => {
                return invalid(format!(
                    "query-options.{name}: this option is not supported"
                ));
            }
        }
        Ok(())
    }

    /// Answers the query from all entries.
    pub fn answer(&self, entries: Vec<Entry>) -> Result<Answer, QueryError> {
        let mut found = Vec::new();
        for entry in entries {
            if self.keeps(&entry)? {
                found.push(entry);
            }
        }
        for order in self.order_by.iter().rev() {
            let (field, reverse) = match order.strip_prefix('-') {
                Some(field) => (field, true),
                None => (order.as_str(), false),
            };
            found.sort_by(|a, b| {
                let ordering = compare(
                    a.get(field).unwrap_or(&Value::Null),
                    b.get(field).unwrap_or(&Value::Null),
                );
                let ordering = ordering.unwrap_or(Ordering::Equal);
                if reverse {
                    ordering.reverse()
                } else {
                    ordering
                }
            });
        }
        if self.count {
            return Ok(Answer::Count(found.len()));
        }
        if !self.select.is_empty() {
            for entry in &mut found {
                entry
                    .0
                    .retain(|(name, _)| self.select.iter().any(|wanted| wanted == name));
            }
        }
        if self.get {
            return found
                .into_iter()
                .next()
                .map(Answer::One)
                .ok_or(QueryError::NotFound);
        }
        let limit = if self.limit == 0 {
            usize::MAX
        } else {
            self.limit
        };
        Ok(Answer::List(
            found.into_iter().skip(self.offset).take(limit).collect(),
        ))
    }

    fn keeps(&self, entry: &Entry) -> Result<bool, QueryError> {
        for (field, operation, wanted) in &self.filters {
            let Some(value) = entry.get(field) else {
                return invalid(format!("query-filters: there is no field '{field}'"));
            };
            if !holds(value, operation, wanted)? {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

fn parse_filter(filter: &Value) -> Result<(String, String, Value), QueryError> {
    match filter.as_array().map(Vec::as_slice) {
        Some([Value::String(field), Value::String(operation), wanted]) => {
            Ok((field.clone(), operation.clone(), wanted.clone()))
        }
        _ => invalid(format!(
            "query-filters: {filter} is not [field, operation, value]"
        )),
    }
}

fn holds(value: &Value, operation: &str, wanted: &Value) -> Result<bool, QueryError> {
    let ordered = |accept: fn(Ordering) -> bool| Ok(compare(value, wanted).is_some_and(accept));
    let among = || match wanted {
        Value::Array(list) => Ok(list.contains(value)),
        other => invalid(format!(
            "query-filters: '{operation}' needs a list, not {other}"
        )),
    };
    let texts = || {
        (
            value.as_str().unwrap_or_default(),
            wanted.as_str().unwrap_or_default(),
        )
    };
    match operation {
        "=" => Ok(value == wanted),
        "!=" => Ok(value != wanted),
        ">" => ordered(Ordering::is_gt),
        ">=" => ordered(Ordering::is_ge),
        "<" => ordered(Ordering::is_lt),
        "<=" => ordered(Ordering::is_le),
        "in" => among(),
        "nin" => among().map(|found| !found),
        "^" => Ok(texts().0.starts_with(texts().1)),
        "!^" => Ok(!texts().0.starts_with(texts().1)),
        "$" => Ok(texts().0.ends_with(texts().1)),
        "!$" => Ok(!texts().0.ends_with(texts().1)),
        _ => invalid(format!(
            "query-filters: the operation '{operation}' is not supported here"
        )),
    }
}

/// Numbers by value, texts by letter, `null` before everything; nothing else can be compared.
fn compare(a: &Value, b: &Value) -> Option<Ordering> {
    match (a, b) {
        (Value::Null, Value::Null) => Some(Ordering::Equal),
        (Value::Null, _) => Some(Ordering::Less),
        (_, Value::Null) => Some(Ordering::Greater),
        (Value::Number(a), Value::Number(b)) => a.as_f64()?.partial_cmp(&b.as_f64()?),
        (Value::String(a), Value::String(b)) => Some(a.cmp(b)),
        (Value::Bool(a), Value::Bool(b)) => Some(a.cmp(b)),
        _ => None,
    }
}

impl Answer {
    /// The answer as JSON.
    pub fn to_value(&self) -> Value {
        json!(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries() -> Vec<Entry> {
        [
            ("sda", "X", 4),
            ("sdb", "ZTM09FD7", 12),
            ("sdc", "ZLM2BF4E", 12),
        ]
        .into_iter()
        .map(|(name, serial, size)| {
            Entry(vec![
                ("name", json!(name)),
                ("serial", json!(serial)),
                ("size", json!(size)),
                ("pool", Value::Null),
            ])
        })
        .collect()
    }

    fn check(filters: Value, options: Value, expected: Result<Value, &str>) {
        let answer = Query::parse(&filters, &options).and_then(|query| query.answer(entries()));
        let answer = answer
            .map(|answer| answer.to_value())
            .map_err(|error| error.to_string());
        assert_eq!(
            answer,
            expected.map_err(str::to_owned),
            "{filters} {options}"
        );
    }

    fn names(filters: Value, options: Value, expected: &[&str]) {
        let query = Query::parse(&filters, &options).unwrap();
        let Ok(Answer::List(found)) = query.answer(entries()) else {
            panic!("{filters} {options}")
        };
        let found: Vec<&str> = found
            .iter()
            .filter_map(|entry| entry.get("name")?.as_str())
            .collect();
        assert_eq!(found, expected, "{filters} {options}");
    }

    #[test]
    fn filters() {
        names(Value::Null, Value::Null, &["sda", "sdb", "sdc"]);
        names(json!([["name", "=", "sda"]]), json!({}), &["sda"]);
        names(
            json!([["name", "!=", "sda"], ["size", ">=", 12]]),
            json!({}),
            &["sdb", "sdc"],
        );
        names(
            json!([["serial", "in", ["X", "ZLM2BF4E"]]]),
            json!({}),
            &["sda", "sdc"],
        );
        names(
            json!([["serial", "nin", ["X"]], ["serial", "^", "ZTM"]]),
            json!({}),
            &["sdb"],
        );
        names(
            json!([["pool", "=", null], ["size", "<", 5]]),
            json!({}),
            &["sda"],
        );
    }

    #[test]
    fn options() {
        names(
            json!([]),
            json!({"order_by": ["-size", "serial"]}),
            &["sdc", "sdb", "sda"],
        );
        names(
            json!([]),
            json!({"offset": 1, "limit": 1, "extra": {"pools": true}}),
            &["sdb"],
        );
        check(json!([]), json!({"count": true}), Ok(json!(3)));
        check(
            json!([["name", "=", "sdb"]]),
            json!({"get": true, "select": ["size", "name"]}),
            Ok(json!({"name": "sdb", "size": 12})),
        );
        check(
            json!([["name", "=", "sdz"]]),
            json!({"get": true}),
            Err("MatchNotFound()"),
        );
        assert!(
            Query::parse(&json!([]), &json!({"extra": {"pools": true}}))
                .unwrap()
                .pools
        );
    }

    #[test]
    fn what_is_not_supported_is_said() {
        check(
            json!([["name", "~", "sd."]]),
            json!({}),
            Err("[EINVAL] query-filters: the operation '~' is not supported here"),
        );
        check(
            json!([["nmae", "=", "sda"]]),
            json!({}),
            Err("[EINVAL] query-filters: there is no field 'nmae'"),
        );
        check(
            json!([["OR", []]]),
            json!({}),
            Err("[EINVAL] query-filters: [\"OR\",[]] is not [field, operation, value]"),
        );
        check(
            json!([]),
            json!({"relationships": true}),
            Err("[EINVAL] query-options.relationships: this option is not supported"),
        );
        check(
            json!([]),
            json!({"get": 1}),
            Err("[EINVAL] query-options.get: 1 is of the wrong kind"),
        );
        check(
            json!("sda"),
            json!({}),
            Err("[EINVAL] query-filters: a list is expected, not \"sda\""),
        );
    }
}
