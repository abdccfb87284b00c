//! Holds facts against their snapshots, with insta, from a test and from the command line alike.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Once;

thread_local! {
    static QUIET: Cell<bool> = const { Cell::new(false) };
}

/// Why facts are not those of their snapshot. Both name it.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Unlike {
    /// There is none yet; its file.
    Missing(PathBuf),
    /// They differ; what to do about it.
    Different(String),
}

/// What to do about snapshots that are not there yet.
pub(super) fn missing(files: &[PathBuf]) -> String {
    let files: Vec<String> = files
        .iter()
        .map(|file| file.display().to_string())
        .collect();
    format!(
        "there is no snapshot {} yet; `cargo insta review` shows the facts and keeps them as one \
         (`cargo install cargo-insta` if there is no such command)",
        files.join(", ")
    )
}

/// Compares `text` with the snapshot `name` in `folder`.
///
/// insta prints the difference, and writes what it saw beside the snapshot, so that
/// `cargo insta review` can take it over.
///
/// # Errors
/// When they differ or there is none yet.
pub(super) fn compare(folder: &Path, name: &str, about: &str, text: &str) -> Result<(), Unlike> {
    silence_expected_panics();
    let file = file(folder, name);
    let is_new = !file.exists();
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path(folder);
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.set_description(about);
    QUIET.set(true);
    let result = catch_unwind(AssertUnwindSafe(|| {
        settings.bind(|| insta::assert_snapshot!(name, text));
    }));
    QUIET.set(false);
    result.map_err(|_| match is_new {
        true => Unlike::Missing(file),
        false => Unlike::Different(format!(
            "the facts differ from their snapshot {}; `cargo insta review` shows both and takes over the new ones",
            file.display()
        )),
    })
}

/// The file of a snapshot.
pub(super) fn file(folder: &Path, name: &str) -> PathBuf {
    folder.join(format!("{name}.snap"))
}

/// insta reports a difference by panicking; that panic is caught, and need not be printed.
fn silence_expected_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let others = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if !QUIET.get() {
                others(info);
            }
        }));
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_is_an_error_that_names_the_snapshot() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(
            file(dir.path(), "facts"),
            "---\nsource: harness/src/engine/snapshot.rs\n---\nthree disks\n",
        )
        .unwrap();
        compare(dir.path(), "facts", "about", "three disks").unwrap();
        let unlike = compare(dir.path(), "facts", "about", "two disks").unwrap_err();
        let Unlike::Different(error) = unlike else {
            panic!("{unlike:?}");
        };
        assert!(error.contains("facts.snap"), "{error}");
        assert!(error.starts_with("the facts differ from"), "{error}");
    }

    #[test]
    fn a_snapshot_that_is_missing_is_an_error_that_says_how_to_accept_it() {
        let dir = tempfile::tempdir().unwrap();
        let unlike = compare(dir.path(), "facts", "about", "three disks").unwrap_err();
        let file = file(dir.path(), "facts");
        assert_eq!(unlike, Unlike::Missing(file.clone()));
        assert!(!file.exists());
        let says = missing(&[file.clone(), "other.snap".into()]);
        assert!(says.contains(&format!("no snapshot {}, other.snap yet", file.display())));
    }
}
