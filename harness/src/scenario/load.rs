//! Reads scenario files.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::check::Checker;
use super::document::Document;
use super::file::ScenarioFile;
use super::labs::Labs;
use super::problem::{Problem, ScenarioError};
use super::step::Scenario;

/// Reads one scenario.
///
/// # Errors
/// Everything that is wrong with the file.
pub fn load_file(path: &Path, labs: &Labs) -> Result<Scenario, ScenarioError> {
    parse(path, &read(path)?, labs)
}

/// Reads every scenario in a folder and the folders below it, sorted by name.
///
/// `labs/` holds the machines that they run on; `snapshots/` and `tests/`, what is hidden and
/// `Cargo.toml` are no scenarios.
///
/// # Errors
/// Everything that is wrong with any of the files.
pub fn load_dir(dir: &Path) -> Result<Vec<Scenario>, ScenarioError> {
    let mut problems = Vec::new();
    let labs = Labs::load(&dir.join("labs")).unwrap_or_else(|error| {
        problems.extend(error.into_problems());
        Labs::default()
    });
    // A lab that cannot be read is reported once, not by every scenario that runs on it.
    let labs_are_whole = problems.is_empty();
    let mut scenarios = Vec::new();
    let mut names: BTreeMap<String, PathBuf> = BTreeMap::new();
    for path in files(dir, &mut problems) {
        let loaded = name(&path).and_then(|name| {
            if let Some(other) = names.insert(name, path.clone()) {
                let problem =
                    Problem::of_file(&path, format!("{} has the same name", other.display()));
                problems.push(problem.help("its file's name is the name of a scenario's test"));
            }
            let source = read(&path)?;
            match labs_are_whole {
                true => parse(&path, &source, &labs),
                false => parse(&path, &source, &Labs::unknown()),
            }
        });
        match loaded {
            Ok(scenario) => scenarios.push(scenario),
            Err(error) => problems.extend(error.into_problems()),
        }
    }
    if problems.is_empty() {
        scenarios.sort_by(|one: &Scenario, other| one.name.cmp(&other.name));
        Ok(scenarios)
    } else {
        Err(ScenarioError::new(problems))
    }
}

/// Reads a scenario from its text.
pub(super) fn parse(path: &Path, source: &str, labs: &Labs) -> Result<Scenario, ScenarioError> {
    let name = name(path)?;
    let document = Document::parse(path, source)?;
    let scenario = document
        .read::<ScenarioFile>()
        .and_then(|file| Checker::new(&document, labs).scenario(name, file));
    document.finish(scenario)
}

/// The text of a file.
pub(super) fn read(path: &Path) -> Result<String, ScenarioError> {
    std::fs::read_to_string(path).map_err(|error| {
        ScenarioError::new(vec![Problem::of_file(
            path,
            format!("failed to read it: {error}"),
        )])
    })
}

/// The name that a file gives to what is in it.
pub(super) fn name(path: &Path) -> Result<String, ScenarioError> {
    match path.file_stem().and_then(|stem| stem.to_str()) {
        Some(name) if is_kebab(name) => Ok(name.to_owned()),
        _ => Err(ScenarioError::new(vec![
            Problem::of_file(path, "its name cannot name a test or a lab")
                .help("use small letters, digits and single hyphens, such as `no-vtd.toml`"),
        ])),
    }
}

/// Where a scenario or something that takes its name is in a folder, or in one below it.
pub fn find(dir: &Path, name: &str) -> Option<PathBuf> {
    // What cannot be listed is reported where scenarios are read.
    files(dir, &mut Vec::new())
        .into_iter()
        .find(|path| path.file_stem().is_some_and(|stem| stem == name))
}

/// Whether `name` is small letters, digits and single hyphens between them, and so can name a scenario.
pub fn is_kebab(name: &str) -> bool {
    name.split('-').all(|part| {
        !part.is_empty()
            && part
                .chars()
                .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit())
    })
}

/// The TOML files in a folder.
pub(super) fn toml_files(dir: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        if path.extension().is_some_and(|ending| ending == "toml") && path.is_file() {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

fn files(dir: &Path, problems: &mut Vec<Problem>) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![dir.to_owned()];
    while let Some(folder) = folders.pop() {
        let read =
            toml_files(&folder).and_then(|files| Ok((files, subfolders(&folder, folder == dir)?)));
        match read {
            Ok((files, below)) => {
                let scenarios = files
                    .into_iter()
                    .filter(|path| !path.ends_with("Cargo.toml"));
                found.extend(scenarios);
                folders.extend(below);
            }
            Err(error) => problems.push(Problem::of_file(
                &folder,
                format!("failed to list it: {error}"),
            )),
        }
    }
    found.sort();
    found
}

fn subfolders(folder: &Path, top: bool) -> std::io::Result<Vec<PathBuf>> {
    let mut below = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let other = top && ["labs", "snapshots", "tests", "target"].contains(&name.as_ref());
        // A link is not followed: it could lead round in a circle.
        if entry.file_type()?.is_dir() && !name.starts_with('.') && !other {
            below.push(entry.path());
        }
    }
    Ok(below)
}
