//! World Wide Names.

use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::hexadecimal;

/// A World Wide Name, written `0x` and sixteen hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Wwn(pub u64);

impl fmt::Display for Wwn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#018x}", self.0)
    }
}

impl FromStr for Wwn {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.strip_prefix("0x")
            .and_then(|digits| hexadecimal(digits, 16))
            .map(Wwn)
            .ok_or_else(|| {
                format!("`{text}` is not a WWN: write 0x and sixteen hexadecimal digits")
            })
    }
}

impl Serialize for Wwn {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Wwn {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

impl JsonSchema for Wwn {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Wwn".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": "string",
            "format": "wwn",
            "pattern": "^0x[0-9a-fA-F]{16}$"
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wwn_has_sixteen_digits() {
        let wwn: Wwn = "0x5000c500a1b2c3d4".parse().unwrap();
        assert_eq!(wwn.to_string(), "0x5000c500a1b2c3d4");
        assert!("0x5000".parse::<Wwn>().is_err());
        assert!("5000c500a1b2c3d4".parse::<Wwn>().is_err());
        assert!("0x+000c500a1b2c3d".parse::<Wwn>().is_err());
    }
}
