//! Single values: paths, names, lines.

use super::Checker;
use crate::scenario::document::Node;
use crate::scenario::load::is_kebab;

impl Checker<'_> {
    pub(super) fn host_file(&self, place: &Node<'_>, path: &str) {
        self.text(place, path);
        if !path.starts_with('/') {
            let help = format!("paths are paths on the host and absolute: \"/{path}\"?");
            self.note(
                place,
                format!("`{path}` is not an absolute path"),
                Some(help),
            );
        } else if path.split('/').any(|part| part == "..") {
            self.note(
                place,
                format!("`{path}` goes up by `..`"),
                Some("write where it leads".to_owned()),
            );
        } else if path.ends_with('/') {
            self.note(place, format!("`{path}` is a folder, not a file"), None);
        }
    }

    pub(super) fn shell_name(&self, place: &Node<'_>, name: &str) {
        let first = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
        if !first || !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
            self.note(
                place,
                format!("`{name}` is not the name of a shell variable"),
                None,
            );
        }
    }

    pub(super) fn line(&self, place: &Node<'_>, line: &str) {
        self.text(place, line);
        if line.contains(['\n', '\r']) {
            self.note(place, "this is more than one line", None);
        }
    }

    pub(super) fn text(&self, place: &Node<'_>, text: &str) {
        if text.contains('\0') {
            self.note(place, "a NUL character cannot be in here", None);
        }
    }

    pub(super) fn kebab(&self, place: &Node<'_>, name: &str) {
        if !is_kebab(name) {
            let help =
                "use small letters, digits and single hyphens, such as `after-reboot`".to_owned();
            self.note(place, format!("`{name}` cannot be a name here"), Some(help));
        }
    }
}
