//! How the error that ends the program is shown.

/// What went wrong, and each cause below it. Where in this program that was is for a panic to say: an error of
/// the user's needs no stack trace, whatever `RUST_BACKTRACE` is set to.
pub fn show(error: &anyhow::Error) -> String {
    let mut shown = error.to_string();
    let causes: Vec<String> = error.chain().skip(1).map(ToString::to_string).collect();
    if !causes.is_empty() {
        shown.push_str("\n\nCaused by:");
    }
    for (number, cause) in causes.iter().enumerate() {
        let bullet = match causes.len() {
            1 => "    ".to_owned(),
            _ => format!("{number:>5}: "),
        };
        let indent = format!("\n{}", " ".repeat(bullet.len()));
        shown.push_str(&format!("\n{bullet}{}", cause.replace('\n', &indent)));
    }
    shown
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    use super::*;

    fn check(error: anyhow::Error, expected: &str) {
        assert_eq!(show(&error), expected);
    }

    #[test]
    fn an_error_with_its_causes() {
        check(anyhow!("no lab is up"), "no lab is up");
        check(
            anyhow!("no such file").context("failed to read it"),
            "failed to read it\n\nCaused by:\n    no such file",
        );
        check(
            anyhow!("one\ntwo").context("b").context("a\nb"),
            "a\nb\n\nCaused by:\n    0: b\n    1: one\n       two",
        );
    }
}
