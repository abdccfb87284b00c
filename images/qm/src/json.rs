//! JSON as Proxmox's command line prints it: sorted keys, three spaces, `"key" : value` (Perl's JSON, pretty and
//! canonical).

use std::io;

use serde_json::{
    Value,
    ser::{Formatter, PrettyFormatter, Serializer},
};

/// Prints a value with a line feed at its end.
pub fn pretty(value: &Value) -> String {
    let mut out = Vec::new();
    let mut serializer = Serializer::with_formatter(
        &mut out,
        PerlFormatter(PrettyFormatter::with_indent(b"   ")),
    );
    let written = serde::Serialize::serialize(value, &mut serializer);
    debug_assert!(written.is_ok(), "a Value always serializes");
    out.push(b'\n');
    String::from_utf8_lossy(&out).into_owned()
}

struct PerlFormatter(PrettyFormatter<'static>);

impl Formatter for PerlFormatter {
    fn begin_array<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.begin_array(writer)
    }

    fn end_array<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.end_array(writer)
    }

    fn begin_array_value<W: ?Sized + io::Write>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> io::Result<()> {
        self.0.begin_array_value(writer, first)
    }

    fn end_array_value<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.end_array_value(writer)
    }

    fn begin_object<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.begin_object(writer)
    }

    fn end_object<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.end_object(writer)
    }

    fn begin_object_key<W: ?Sized + io::Write>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> io::Result<()> {
        self.0.begin_object_key(writer, first)
    }

    fn begin_object_value<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        writer.write_all(b" : ")
    }

    fn end_object_value<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.end_object_value(writer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looks_like_perls_pretty_canonical_output() {
        let value = serde_json::json!({"out-data": "a\n\u{e9}", "exitcode": 0, "exited": 1, "list": [1, {}], "none": []});
        let expected = "{\n   \"exitcode\" : 0,\n   \"exited\" : 1,\n   \"list\" : [\n      1,\n      {}\n   ],\n   \
                        \"none\" : [],\n   \"out-data\" : \"a\\n\u{e9}\"\n}\n";
        assert_eq!(pretty(&value), expected);
    }
}
