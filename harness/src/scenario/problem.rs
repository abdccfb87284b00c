//! What is wrong with a scenario or lab file: where, why, and what was probably meant.

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use miette::{
    Diagnostic, GraphicalReportHandler, GraphicalTheme, LabeledSpan, NamedSource, SourceCode,
};

/// One thing that is wrong with one file.
#[derive(Debug, Clone)]
pub struct Problem {
    path: PathBuf,
    message: String,
    help: Option<String>,
    place: Option<Place>,
}

/// A place in a file.
#[derive(Debug, Clone)]
struct Place {
    source: NamedSource<Arc<str>>,
    span: Range<usize>,
    line: usize,
    column: usize,
}

impl Problem {
    /// Something wrong with the file as a whole.
    pub(super) fn of_file(path: &Path, message: impl Into<String>) -> Self {
        Problem {
            path: path.to_owned(),
            message: message.into(),
            help: None,
            place: None,
        }
    }

    /// Something wrong at `span` of the file's `text`.
    pub(super) fn at(
        path: &Path,
        text: &Arc<str>,
        span: Range<usize>,
        message: impl Into<String>,
    ) -> Self {
        let start = text.floor_char_boundary(span.start);
        let before = &text[..start];
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        let place = Place {
            source: NamedSource::new(path.display().to_string(), Arc::clone(text))
                .with_language("TOML"),
            line: before.matches('\n').count() + 1,
            column: before[line_start..].chars().count() + 1,
            span,
        };
        Problem {
            place: Some(place),
            ..Problem::of_file(path, message)
        }
    }

    /// Adds what to do about it.
    pub(super) fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// Adds what to do about it, if that is known.
    pub(super) fn maybe_help(mut self, help: Option<String>) -> Self {
        self.help = help.or(self.help);
        self
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Line and column, from 1, in characters; nothing for a file that could not be read.
    pub fn position(&self) -> Option<(usize, usize)> {
        self.place.as_ref().map(|place| (place.line, place.column))
    }

    /// What to do about it.
    pub fn advice(&self) -> Option<&str> {
        self.help.as_deref()
    }

    pub(super) fn order(&self) -> (PathBuf, usize) {
        let start = self.place.as_ref().map_or(0, |place| place.span.start);
        (self.path.clone(), start)
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Some(_) => f.write_str(&self.message),
            None => write!(f, "{}: {}", self.path.display(), self.message),
        }
    }
}

impl std::error::Error for Problem {}

impl Diagnostic for Problem {
    fn help<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        self.help.as_ref().map(|help| Box::new(help) as Box<_>)
    }

    fn source_code(&self) -> Option<&dyn SourceCode> {
        self.place
            .as_ref()
            .map(|place| &place.source as &dyn SourceCode)
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        let place = self.place.as_ref()?;
        let label = LabeledSpan::new_with_span(None, place.span.clone());
        Some(Box::new(std::iter::once(label)))
    }
}

/// Everything that is wrong with the files that were read.
///
/// It prints each problem with its file, line and column, an excerpt with a mark under the place,
/// and what to do about it.
#[derive(Clone)]
pub struct ScenarioError {
    problems: Vec<Problem>,
}

impl ScenarioError {
    pub(super) fn new(mut problems: Vec<Problem>) -> Self {
        problems.sort_by_key(Problem::order);
        ScenarioError { problems }
    }

    /// The problems, by file and place.
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }

    pub(super) fn into_problems(self) -> Vec<Problem> {
        self.problems
    }
}

impl fmt::Display for ScenarioError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let handler = GraphicalReportHandler::new_themed(GraphicalTheme::unicode_nocolor())
            .without_syntax_highlighting()
            .with_links(false)
            .with_width(100);
        match self.problems.as_slice() {
            [_] => writeln!(f, "one mistake in the scenario files")?,
            problems => writeln!(f, "{} mistakes in the scenario files", problems.len())?,
        }
        for problem in &self.problems {
            handler.render_report(f, problem)?;
        }
        Ok(())
    }
}

/// The same as [`fmt::Display`]: a `main` that returns this error prints it that way.
impl fmt::Debug for ScenarioError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::error::Error for ScenarioError {}

impl Diagnostic for ScenarioError {
    fn related<'a>(&'a self) -> Option<Box<dyn Iterator<Item = &'a dyn Diagnostic> + 'a>> {
        Some(Box::new(
            self.problems
                .iter()
                .map(|problem| problem as &dyn Diagnostic),
        ))
    }
}
