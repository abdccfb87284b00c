//! How the steps `set`, `append` and `config` change a file: pure functions of its content.

use std::ops::Range;

/// Sets `key` in a file of shell assignments, such as `/etc/default/grub`.
///
/// The last active assignment is replaced where it stands, with its way of quoting, its indentation,
/// its `export` and what follows it on the line; a file without one gets a new line at its end. A
/// commented-out assignment is a comment. The shell reads back exactly `value`.
pub fn set_key(content: &str, key: &str, value: &str) -> String {
    match last_assignment(content, key) {
        Some(word) => {
            let mut text = content[..word.start].to_owned();
            text.push_str(&quote_as(&content[word.clone()], value));
            text.push_str(&content[word.end..]);
            text
        }
        None => append_lines(content, &[format!("{key}={}", double_quoted(value))]),
    }
}

/// Appends lines, after a line end if the file's last line has none.
pub fn append_lines(content: &str, lines: &[String]) -> String {
    let mut text = content.to_owned();
    if !text.is_empty() && !text.ends_with('\n') {
        text.push('\n');
    }
    for line in lines {
        text.push_str(line);
        text.push('\n');
    }
    text
}

/// Puts `key: value` into a VM's configuration.
///
/// Only the lines before the first `[section]` are the VM's present configuration: snapshots and
/// pending changes come after it. The last line with the same key is replaced; without one, the line
/// is added after the last that says something.
pub fn set_vm_line(conf: &str, line: &str) -> String {
    let mut lines: Vec<&str> = conf.lines().collect();
    let main = lines
        .iter()
        .position(|line| line.starts_with('['))
        .unwrap_or(lines.len());
    let key = vm_key(line);
    match lines[..main]
        .iter()
        .rposition(|line| vm_key(line).is_some() && vm_key(line) == key)
    {
        Some(at) => lines[at] = line,
        None => {
            let end = lines[..main]
                .iter()
                .rposition(|line| !line.trim().is_empty());
            lines.insert(end.map_or(0, |at| at + 1), line);
        }
    }
    let mut text = lines.join("\n");
    text.push('\n');
    text
}

/// The key of a `key: value` line by Proxmox's rule: small letters, `-` and `_`, then digits.
pub(super) fn vm_key(line: &str) -> Option<&str> {
    let (key, value) = line.split_once(':')?;
    let name = key.trim_end_matches(|c: char| c.is_ascii_digit());
    let well_formed = name.starts_with(|c: char| c.is_ascii_lowercase())
        && name
            .chars()
            .all(|c| c.is_ascii_lowercase() || c == '-' || c == '_');
    (well_formed && !value.trim().is_empty()).then_some(key)
}

/// All assignments of a file, in their order: names, and values as they are written, quotes and all.
pub(crate) fn assignments(content: &str) -> Vec<(&str, &str)> {
    let places = assignment_places(content).into_iter();
    places.map(|(name, word)| (name, &content[word])).collect()
}

/// Where the value of the last assignment to `key` stands.
fn last_assignment(content: &str, key: &str) -> Option<Range<usize>> {
    let mut places = assignment_places(content).into_iter().rev();
    places.find(|(name, _)| *name == key).map(|(_, word)| word)
}

fn assignment_places(content: &str) -> Vec<(&str, Range<usize>)> {
    let mut found = Vec::new();
    let mut at = 0;
    while at < content.len() {
        // A value may go on over several lines, so the next line begins after the value's end.
        let mut seen = at;
        if let Some((name, value)) = assignment(content, at) {
            seen = value.end;
            found.push((name, value));
        }
        at = line_end(content, seen) + 1;
    }
    found
}

/// The name and the place of the value, if an assignment begins in the line that starts at `start`.
fn assignment(content: &str, start: usize) -> Option<(&str, Range<usize>)> {
    let line = &content[start..line_end(content, start)];
    let bare = line.trim_start();
    let bare = match bare.strip_prefix("export") {
        Some(rest) if rest.starts_with([' ', '\t']) => rest.trim_start(),
        _ => bare,
    };
    let (name, _) = bare.split_once('=')?;
    let is_name = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    let value = start + (line.len() - bare.len()) + name.len() + 1;
    is_name.then(|| (name, value..word_end(content, value)))
}

/// Where the shell word that begins at `start` ends. A quote that is never closed ends with its line.
fn word_end(content: &str, start: usize) -> usize {
    let mut quote = None;
    let mut characters = content[start..].char_indices();
    while let Some((offset, c)) = characters.next() {
        match (quote, c) {
            (Some('\''), '\'') | (Some('"'), '"') => quote = None,
            (Some('\''), _) => {}
            (_, '\\') => {
                characters.next();
            }
            (None, '\'' | '"') => quote = Some(c),
            (None, c) if c.is_whitespace() || ";&|".contains(c) => return start + offset,
            _ => {}
        }
    }
    match quote {
        Some(_) => line_end(content, start),
        None => content.len(),
    }
}

fn line_end(content: &str, from: usize) -> usize {
    content[from..]
        .find('\n')
        .map_or(content.len(), |at| from + at)
}

/// Quotes `value` the way `old` is quoted, where that way can hold it.
fn quote_as(old: &str, value: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-./:,+@%=".contains(c);
    if old.starts_with('\'') && !value.contains('\'') {
        format!("'{value}'")
    } else if !old.is_empty()
        && !old.contains(['"', '\''])
        && !value.is_empty()
        && value.chars().all(plain)
    {
        value.to_owned()
    } else {
        double_quoted(value)
    }
}

fn double_quoted(value: &str) -> String {
    let mut text = String::from("\"");
    for c in value.chars() {
        if "\"\\$`".contains(c) {
            text.push('\\');
        }
        text.push(c);
    }
    text.push('"');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_set_where_it_stands() {
        for (case, before, value, after) in [
            (
                "in place, neighbours untouched",
                "A=1\nKEY=\"quiet\"\nB=2\n",
                "quiet iommu=pt",
                "A=1\nKEY=\"quiet iommu=pt\"\nB=2\n",
            ),
            (
                "the last assignment is the one that counts",
                "KEY=a\nKEY=b\n",
                "c",
                "KEY=a\nKEY=c\n",
            ),
            (
                "a commented-out one is a comment",
                "#KEY=\"old\"\n",
                "new",
                "#KEY=\"old\"\nKEY=\"new\"\n",
            ),
            ("none yet", "A=1", "x", "A=1\nKEY=\"x\"\n"),
            ("no file yet", "", "x", "KEY=\"x\"\n"),
            ("single quotes stay", "KEY='a b'\n", "c $d", "KEY='c $d'\n"),
            (
                "unless they cannot hold the value",
                "KEY='a'\n",
                "it's",
                "KEY=\"it's\"\n",
            ),
            ("no quotes stay", "KEY=5\n", "10", "KEY=10\n"),
            (
                "unless they cannot hold the value",
                "KEY=5\n",
                "1 0",
                "KEY=\"1 0\"\n",
            ),
            ("an empty value", "KEY=\n", "x", "KEY=\"x\"\n"),
            ("to an empty value", "KEY=5\n", "", "KEY=\"\"\n"),
            (
                "what follows stays",
                "  export KEY=\"a\" # why\n",
                "b",
                "  export KEY=\"b\" # why\n",
            ),
            (
                "what the shell would expand is escaped",
                "KEY=\"\"\n",
                "a\"b$c`d\\e",
                "KEY=\"a\\\"b\\$c\\`d\\\\e\"\n",
            ),
            (
                "an escaped quote does not end a value",
                "KEY=\"a\\\"b\" # c\n",
                "x",
                "KEY=\"x\" # c\n",
            ),
            (
                "a value over two lines",
                "KEY=\"a\nKEY=b\"\nB=2\n",
                "x",
                "KEY=\"x\"\nB=2\n",
            ),
            (
                "an unclosed quote is repaired, the rest kept",
                "KEY=\"a\nB=2\n",
                "x",
                "KEY=\"x\"\nB=2\n",
            ),
            (
                "a longer name is another one",
                "KEY_2=1\nMYKEY=1\n",
                "x",
                "KEY_2=1\nMYKEY=1\nKEY=\"x\"\n",
            ),
            (
                "a use is not an assignment",
                "echo KEY=1\n",
                "x",
                "echo KEY=1\nKEY=\"x\"\n",
            ),
        ] {
            assert_eq!(set_key(before, "KEY", value), after, "{case}");
            assert_eq!(set_key(after, "KEY", value), after, "twice: {case}");
        }
    }

    #[test]
    fn a_shell_reads_back_what_was_set() {
        for value in [
            "quiet intel_iommu=on iommu=pt",
            "",
            "a\"b",
            "it's",
            "$HOME `id` \\",
            "two\nlines",
        ] {
            for before in ["", "KEY=5\n", "KEY='a'\n", "KEY=\"a\" # why\n"] {
                let script = format!("{}printf '%s' \"$KEY\"", set_key(before, "KEY", value));
                let output = std::process::Command::new("sh")
                    .args(["-c", &script])
                    .output()
                    .unwrap();
                assert_eq!(String::from_utf8(output.stdout).unwrap(), value, "{script}");
            }
        }
    }

    #[test]
    fn lines_are_appended_to_whole_lines() {
        let lines = ["vfio".to_owned(), "vfio_pci".to_owned()];
        for (before, after) in [
            ("", "vfio\nvfio_pci\n"),
            ("# modules\n", "# modules\nvfio\nvfio_pci\n"),
            ("loop", "loop\nvfio\nvfio_pci\n"),
        ] {
            assert_eq!(append_lines(before, &lines), after);
        }
    }

    #[test]
    fn a_vm_line_goes_into_the_main_section() {
        let line = "hostpci0: 0000:00:1f.2,pcie=1";
        for (case, before, after) in [
            ("no file", "", "hostpci0: 0000:00:1f.2,pcie=1\n"),
            (
                "at the end",
                "cores: 2\n",
                "cores: 2\nhostpci0: 0000:00:1f.2,pcie=1\n",
            ),
            (
                "in place",
                "hostpci0: 01:00.0\ncores: 2\n",
                "hostpci0: 0000:00:1f.2,pcie=1\ncores: 2\n",
            ),
            (
                "before the sections, which are left alone",
                "cores: 2\n\n[snap]\nhostpci0: 01:00.0\n",
                "cores: 2\nhostpci0: 0000:00:1f.2,pcie=1\n\n[snap]\nhostpci0: 01:00.0\n",
            ),
            (
                "another number is another key",
                "hostpci01: x\nhostpci1: y\n",
                "hostpci01: x\nhostpci1: y\nhostpci0: 0000:00:1f.2,pcie=1\n",
            ),
            (
                "a comment is no key",
                "#hostpci0: x\n",
                "#hostpci0: x\nhostpci0: 0000:00:1f.2,pcie=1\n",
            ),
        ] {
            assert_eq!(set_vm_line(before, line), after, "{case}");
        }
    }

    #[test]
    fn keys_of_vm_lines() {
        assert_eq!(vm_key("hostpci0: 0000:00:1f.2"), Some("hostpci0"));
        assert_eq!(vm_key("agent:1"), Some("agent"));
        for wrong in [
            "",
            "hostpci0",
            "hostpci0:",
            "hostpci0: ",
            ": x",
            "0000:00:1f.2",
            "[snap]",
        ] {
            assert_eq!(vm_key(wrong), None, "{wrong}");
        }
    }
}
