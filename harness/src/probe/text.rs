//! What the probes' parsers share: their error, and the line format of the probes' own scripts.

/// Why a probe's output is not what was asked for.
#[derive(Debug, thiserror::Error)]
pub enum ParseError {
    /// Nothing was printed.
    #[error("there is no output")]
    Empty,
    /// The script did not come to its last line.
    #[error("the output breaks off: its last line is `{last}`, not `end`")]
    Truncated {
        /// The last line there is.
        last: String,
    },
    /// A line that does not have the shape it should have.
    #[error("line {line}, `{text}`: {why}")]
    Line {
        /// Its number, from 1.
        line: usize,
        /// The line.
        text: String,
        /// What is wrong with it.
        why: String,
    },
    /// Something that has to be there is not.
    #[error("{what} is missing")]
    Missing {
        /// What is missing.
        what: String,
    },
    /// Not JSON, or JSON of another shape.
    #[error("the output is not the JSON that was asked for")]
    Json(#[source] serde_json::Error),
    /// Well-formed, but not a state that can be.
    #[error("{what}: {why}")]
    Shape {
        /// What it is about.
        what: String,
        /// What is wrong with it.
        why: String,
    },
}

impl ParseError {
    /// Something that has to be there is not.
    pub(crate) fn missing(what: impl Into<String>) -> Self {
        ParseError::Missing { what: what.into() }
    }

    /// A state that cannot be.
    pub(crate) fn shape(what: impl Into<String>, why: impl Into<String>) -> Self {
        ParseError::Shape {
            what: what.into(),
            why: why.into(),
        }
    }
}

/// A line of a probe's own script: a keyword and fields, with a tab between them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Record<'a> {
    /// The line's number, from 1.
    pub number: usize,
    /// The whole line.
    pub text: &'a str,
    /// Its first word.
    pub keyword: &'a str,
    /// What follows, `None` where the line is only a keyword.
    pub rest: Option<&'a str>,
}

impl<'a> Record<'a> {
    /// Exactly this many fields.
    pub fn fields<const N: usize>(&self) -> Result<[&'a str; N], ParseError> {
        let fields: Vec<&str> = self.rest.map_or_else(Vec::new, |r| r.split('\t').collect());
        let found = fields.len();
        fields
            .try_into()
            .map_err(|_| self.refuse(format!("{N} fields were expected and {found} are there")))
    }

    /// Exactly this many fields, of which the last one may have tabs itself.
    pub fn fields_and_rest<const N: usize>(&self) -> Result<[&'a str; N], ParseError> {
        let rest = self.rest.unwrap_or_default();
        let fields: Vec<&str> = rest.splitn(N, '\t').collect();
        let found = fields.len();
        let wrong = format!("{N} fields were expected and {found} are there");
        fields.try_into().map_err(|_| self.refuse(wrong))
    }

    /// The one field, tabs and all.
    pub fn one(&self) -> Result<&'a str, ParseError> {
        self.rest
            .ok_or_else(|| self.refuse("the line ends after its keyword"))
    }

    /// An error that names this line.
    pub fn refuse(&self, why: impl Into<String>) -> ParseError {
        ParseError::Line {
            line: self.number,
            text: self.text.to_owned(),
            why: why.into(),
        }
    }

    /// The error for a keyword that no script prints.
    pub fn unknown(&self) -> ParseError {
        self.refuse(format!("the keyword `{}` is not known", self.keyword))
    }
}

/// The lines of a probe's own script, whose last line is `end`. A carriage return in them is one of the file that
/// was read, and stays.
pub(crate) fn records(output: &str) -> Result<Vec<Record<'_>>, ParseError> {
    if output.trim().is_empty() {
        return Err(ParseError::Empty);
    }
    let mut records: Vec<Record<'_>> = output
        .split_terminator('\n')
        .enumerate()
        .map(|(index, text)| {
            let (keyword, rest) = match text.split_once('\t') {
                Some((keyword, rest)) => (keyword, Some(rest)),
                None => (text, None),
            };
            Record {
                number: index + 1,
                text,
                keyword,
                rest,
            }
        })
        .collect();
    match records.pop() {
        Some(last) if last.text == "end" => Ok(records),
        last => Err(ParseError::Truncated {
            last: last.map_or_else(String::new, |record| record.text.to_owned()),
        }),
    }
}

/// A field that `-` stands in for where there is nothing.
pub(crate) fn optional(field: &str) -> Option<String> {
    (field != "-").then(|| field.to_owned())
}

/// A probe's script with another folder in place of `/`, where it looks below `/etc`, `/run` and `/sys`;
/// programs in its `bin` come first.
#[cfg(test)]
pub(super) fn on_a_fake_root(
    shell: &str,
    script: &str,
    root: &std::path::Path,
) -> std::process::Command {
    // The folder may itself be below one of them.
    let marked = ["/etc/", "/run/", "/sys/"]
        .into_iter()
        .fold(script.to_owned(), |script, folder| {
            script.replace(folder, &format!("\0{folder}"))
        });
    let script = marked.replace('\0', &root.display().to_string());
    let path = format!("{}/bin:{}", root.display(), std::env::var("PATH").unwrap());
    let mut command = std::process::Command::new(shell);
    command.args(["-c", &script]).env("PATH", path);
    command
}

/// What such a script prints.
#[cfg(test)]
pub(super) fn run_on_a_fake_root(shell: &str, script: &str, root: &std::path::Path) -> String {
    let output = on_a_fake_root(shell, script, root).output().unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_without_its_last_line_is_refused() {
        for (output, says) in [
            ("", "no output"),
            (" \n", "no output"),
            ("unit\tdmar0\tintel\n", "breaks off"),
            ("unit\tdmar0\tintel\nen", "breaks off"),
        ] {
            let error = records(output).unwrap_err().to_string();
            assert!(error.contains(says), "{output:?}: {error}");
        }
    }

    #[test]
    fn a_files_carriage_returns_stay() {
        let records = records("rule\tblacklist\tahci\r\nend\n").unwrap();
        assert_eq!(records[0].fields().unwrap(), ["blacklist", "ahci\r"]);
    }

    #[test]
    fn fields_are_counted() {
        let records = records("unit\ta\tb\nbare\nend\n").unwrap();
        assert_eq!(records[0].fields::<2>().unwrap(), ["a", "b"]);
        assert!(records[0].fields::<3>().is_err());
        assert!(records[1].one().is_err());
        assert_eq!(records[0].fields_and_rest::<1>().unwrap(), ["a\tb"]);
        assert!(records[0].fields_and_rest::<3>().is_err());
    }
}
