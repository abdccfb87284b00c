//! A recipe that is like another one: what it leaves out, and what it says otherwise.

use toml::{Table, Value};

/// The recipe `own`, which says only in what it differs from `base`: without what its `without` names,
/// such as `disk.mask` or, an item of a list, `tree.packages.dbus`, with the items of lists that its `with` names in
/// the same way, and with its own values in place of the other's.
pub(super) fn derived(mut base: Table, mut own: Table) -> Result<Table, String> {
    own.remove("like");
    for path in paths(&mut own, "without")? {
        if !remove(&mut base, &path) {
            return Err(format!("`{path}`, which it is without, is not there"));
        }
    }
    for path in paths(&mut own, "with")? {
        if !add(&mut base, &path) {
            return Err(format!(
                "`{path}`, which it is with, names no item of a list"
            ));
        }
    }
    merge(&mut base, own);
    Ok(base)
}

fn paths(own: &mut Table, key: &str) -> Result<Vec<String>, String> {
    let paths = own.remove(key).map(Value::try_into).transpose();
    Ok(paths
        .map_err(|error| error.to_string())?
        .unwrap_or_default())
}

/// Adds an item to a list; says whether there is such a list.
fn add(table: &mut Table, path: &str) -> bool {
    let Some((first, rest)) = path.split_once('.') else {
        return false;
    };
    match table.get_mut(first) {
        Some(Value::Table(inner)) => add(inner, rest),
        Some(Value::Array(items)) => {
            items.push(rest.into());
            true
        }
        _ => false,
    }
}

/// Removes a key, or an item of a list; says whether it was there.
fn remove(table: &mut Table, path: &str) -> bool {
    let Some((first, rest)) = path.split_once('.') else {
        return table.remove(path).is_some();
    };
    match table.get_mut(first) {
        Some(Value::Table(inner)) => remove(inner, rest),
        Some(Value::Array(items)) => {
            let before = items.len();
            items.retain(|item| item.as_str() != Some(rest));
            items.len() < before
        }
        _ => false,
    }
}

fn merge(base: &mut Table, own: Table) {
    for (key, value) in own {
        match (base.get_mut(&key), value) {
            (Some(Value::Table(base)), Value::Table(own)) => merge(base, own),
            (_, value) => drop(base.insert(key, value)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BASE: &str = r#"
        summary = "base"
        [tree]
        suite = "trixie"
        packages = ["dbus", "python3.13", "udev"]
        [disk]
        modules-from = "zfs-module"
        programs = { qm = "usr/sbin/qm" }
    "#;

    fn check(own: &str, expected: Result<&str, &str>) {
        let base = toml::from_str(BASE).unwrap();
        let found = derived(base, toml::from_str(own).unwrap());
        let expected = expected
            .map(|text| toml::from_str::<Table>(text).unwrap())
            .map_err(str::to_owned);
        assert_eq!(found, expected, "{own}");
    }

    #[test]
    fn what_is_not_said_is_the_others() {
        check(r#"like = "base""#, Ok(BASE));
        check(
            r#"
            like = "base"
            summary = "own"
            without = ["disk.modules-from", "tree.packages.python3.13"]
            [tree]
            suite = "bookworm"
            "#,
            Ok(r#"
            summary = "own"
            [tree]
            suite = "bookworm"
            packages = ["dbus", "udev"]
            [disk]
            programs = { qm = "usr/sbin/qm" }
            "#),
        );
    }

    #[test]
    fn what_was_not_there_cannot_be_left_out() {
        for path in ["tree.packages.perl", "tree.sweet", "mask", "summary.x"] {
            check(
                &format!("without = [\"{path}\"]"),
                Err(&format!("`{path}`, which it is without, is not there")),
            );
        }
    }

    #[test]
    fn an_item_is_added_to_a_list_that_is_there() {
        check(
            "with = [\"tree.packages.seabios/bookworm-backports\"]",
            Ok(&BASE.replace("\"udev\"]", "\"udev\", \"seabios/bookworm-backports\"]")),
        );
        for path in ["tree.sweet.a", "tree.suite.a", "summary"] {
            check(
                &format!("with = [\"{path}\"]"),
                Err(&format!(
                    "`{path}`, which it is with, names no item of a list"
                )),
            );
        }
    }
}
