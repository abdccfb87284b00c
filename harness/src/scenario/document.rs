//! A TOML file with the place of everything in it.

use std::borrow::Cow;
use std::cell::RefCell;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::problem::{Problem, ScenarioError};
use super::shape;

/// A file that is TOML, and the problems that were found in it so far.
pub(super) struct Document<'a> {
    path: &'a Path,
    text: Arc<str>,
    root: Spanned<DeValue<'a>>,
    problems: RefCell<Vec<Problem>>,
}

impl<'a> Document<'a> {
    /// Reads `source` as TOML.
    pub(super) fn parse(path: &'a Path, source: &'a str) -> Result<Self, ScenarioError> {
        let text: Arc<str> = source.into();
        let (table, errors) = DeTable::parse_recoverable(source);
        if !errors.is_empty() {
            let problem = |error: toml::de::Error| {
                let span = error.span().unwrap_or_default();
                Problem::at(path, &text, span, error.message())
            };
            return Err(ScenarioError::new(
                errors.into_iter().map(problem).collect(),
            ));
        }
        let span = table.span();
        let root = Spanned::new(span, DeValue::Table(table.into_inner()));
        Ok(Document {
            path,
            text,
            root,
            problems: RefCell::default(),
        })
    }

    /// Reads the document as a `T`: unknown keys and wrong values are found by the schema of `T`,
    /// all at once; what a schema cannot say is left to `T`'s own reading.
    pub(super) fn read<T: DeserializeOwned + JsonSchema>(&self) -> Option<T> {
        shape::check(self, &schemars::schema_for!(T).to_value());
        if !self.problems.borrow().is_empty() {
            return None;
        }
        let deserializer = toml::de::ValueDeserializer::from(self.root.clone());
        match T::deserialize(deserializer) {
            Ok(value) => Some(value),
            Err(error) => {
                let span = error.span().unwrap_or_default();
                self.note(self.problem(span, error.message()));
                None
            }
        }
    }

    /// The whole document.
    pub(super) fn root(&self) -> Node<'_> {
        Node {
            key: 0..0,
            span: 0..0,
            value: Some(self.root.get_ref()),
        }
    }

    pub(super) fn path(&self) -> &Path {
        self.path
    }

    /// A problem at `span`.
    pub(super) fn problem(&self, span: Range<usize>, message: impl Into<String>) -> Problem {
        Problem::at(self.path, &self.text, span, message)
    }

    /// Keeps a problem.
    pub(super) fn note(&self, problem: Problem) {
        self.problems.borrow_mut().push(problem);
    }

    /// The line, from 1, on which `span` begins.
    pub(super) fn line(&self, span: &Range<usize>) -> usize {
        self.text.as_bytes()[..span.start]
            .iter()
            .filter(|byte| **byte == b'\n')
            .count()
            + 1
    }

    /// `value`, unless a problem was found.
    pub(super) fn finish<T>(self, value: Option<T>) -> Result<T, ScenarioError> {
        let problems = self.problems.into_inner();
        match value {
            Some(value) if problems.is_empty() => Ok(value),
            _ => Err(ScenarioError::new(problems)),
        }
    }
}

/// A value of the document and where it stands. Asked for something that is not there, it answers
/// with its own place, which is where something is missing.
#[derive(Clone)]
pub(super) struct Node<'d> {
    /// Where its key stands, or its header.
    pub(super) key: Range<usize>,
    /// Where its value stands.
    pub(super) span: Range<usize>,
    pub(super) value: Option<&'d DeValue<'d>>,
}

impl<'d> Node<'d> {
    /// The value of a key.
    pub(super) fn get(&self, name: &str) -> Node<'d> {
        self.entries()
            .find(|(key, _)| key == name)
            .map_or_else(|| self.absent(), |(_, node)| node)
    }

    /// An item of an array.
    pub(super) fn item(&self, index: usize) -> Node<'d> {
        match self.value {
            Some(DeValue::Array(items)) if index < items.len() => Node {
                key: items[index].span(),
                span: items[index].span(),
                value: Some(items[index].get_ref()),
            },
            _ => self.absent(),
        }
    }

    /// The keys and values of a table, in the order of the file.
    pub(super) fn entries(&self) -> impl Iterator<Item = (Cow<'d, str>, Node<'d>)> + use<'d> {
        let mut entries: Vec<_> = match self.value {
            Some(DeValue::Table(table)) => table
                .iter()
                .map(|(key, value)| {
                    let node = Node {
                        key: key.span(),
                        span: value.span(),
                        value: Some(value.get_ref()),
                    };
                    (Cow::Borrowed(key.get_ref().as_ref()), node)
                })
                .collect(),
            _ => Vec::new(),
        };
        entries.sort_by_key(|(_, node)| node.key.start);
        entries.into_iter()
    }

    fn absent(&self) -> Node<'d> {
        Node {
            value: None,
            ..self.clone()
        }
    }
}
