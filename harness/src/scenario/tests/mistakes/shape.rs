//! What is no TOML, unknown keys, wrong types and values, and how all that is printed.

use super::{HEAD, check, mistakes};
use crate::scenario::load::parse;
use crate::scenario::tests::two_labs;

#[test]
fn what_is_not_toml() {
    check(
        "reboot = ",
        &["4:10 string values must be quoted, expected literal string"],
    );
    check("reboot = true\nreboot = true", &["5:1 duplicate key"]);
    check(
        "title = \"open",
        &["4:14 invalid basic string, expected `\"`"],
    );
}

#[test]
fn unknown_keys() {
    check(
        "rebot = true",
        &["4:1 unknown key `rebot` in `step` (did you mean `reboot`?)"],
    );
    check(
        "swap_serials = [\"AAA\", \"BBB\"]",
        &["4:1 unknown key `swap_serials` in `step` (did you mean `swap-serials`?)"],
    );
    check(
        "set = { fiel = \"/f\", key = \"K\", value = \"v\" }",
        &["4:9 unknown key `fiel` in `set` (did you mean `file`?)"],
    );
    check(
        "run = { command = \"a\", same_as = \"x\" }",
        &["4:24 unknown key `same_as` in `run` (did you mean `same-as`?)"],
    );
    check(
        "run = \"a\"\nexit = 1",
        &[
            "5:1 unknown key `exit` in `step` (it belongs inside `run`: run = { command = \"…\", exit = … })",
        ],
    );
    check(
        "config = { vm = 100, line = \"a: b\", colour = 1 }",
        &["4:37 unknown key `colour` in `config` (known here: `line`, `vm`)"],
    );
    check(
        "[step.expect]\npve.iomu = \"intel\"\nnas.disk = []",
        &[
            "5:5 unknown key `iomu` in `pve` (did you mean `iommu`?)",
            "6:5 unknown key `disk` in `nas` (did you mean `disks`?)",
        ],
    );
    check(
        "reboot = true\n[expect]\npve.disks = []\nnas.pool = { nmae = \"tank\", state = \"ONLINE\" }",
        &["7:14 unknown key `nmae` in `pool` (did you mean `name`?)"],
    );
    assert_eq!(
        mistakes("sumary = \"s\"\nlab = \"q35-ich9\"\n[[steps]]\nreboot = true\n"),
        [
            "1:1 unknown key `sumary` (did you mean `summary`?)",
            "3:3 unknown key `steps` (did you mean `step`?)",
        ]
    );
    assert_eq!(
        mistakes(&format!("reboot = true\n{HEAD}reboot = true\n")),
        ["1:1 unknown key `reboot` (it belongs in a `[[step]]`)"]
    );
}

#[test]
fn wrong_types_and_values() {
    check(
        "reboot = \"yes\"",
        &[
            "4:10 `reboot` takes true or false, not a string (Reboots the host and waits until it is up again)",
        ],
    );
    check(
        "run = 5",
        &[
            "4:7 `run` takes a string or a table, not 5 (Runs a command on the host or in the NAS guest: a line for `sh -c`, or a table that says more)",
        ],
    );
    check(
        "append = { file = \"/f\", lines = \"a\" }",
        &["4:33 `lines` takes a list, not a string (The lines, in this order)"],
    );
    check(
        "append = { file = \"/f\", lines = [\"a\", 1] }",
        &["4:39 `lines` takes a string, not 1"],
    );
    check(
        "start = 99",
        &[
            "4:9 `start` takes a number from 100 to 999999999, not 99 (`qm start` of this VM, then waits until its guest agent answers)",
        ],
    );
    check(
        "start = 1_000_000_000",
        &[
            "4:9 `start` takes a number from 100 to 999999999, not 1000000000 (`qm start` of this VM, then waits until its guest agent answers)",
        ],
    );
    check(
        "start = 99999999999999999999",
        &[
            "4:9 `start` takes a number from 100 to 999999999, not 99999999999999999999 (`qm start` of this VM, then waits until its guest agent answers)",
        ],
    );
    check(
        "stop = -1",
        &[
            "4:8 `stop` takes a number from 100 to 999999999, not -1 (`qm shutdown` of this VM, then waits until it is stopped)",
        ],
    );
    check(
        "config = { vm = 5, line = \"a: b\" }",
        &["4:17 `vm` takes a number from 100 to 999999999, not 5 (The VM)"],
    );
    check(
        "run = { command = \"a\", exit = 256 }",
        &[
            "4:31 `exit` takes a number from 0 to 255, not 256 (The exit code that it must have; 0 when left out)",
        ],
    );
    check(
        "run = { command = \"a\", on = \"nsa\" }",
        &["4:29 `nsa` is not a value of `on` (did you mean `nas`?)"],
    );
    check(
        "run = { command = \"a\", on = \"localhost\" }",
        &["4:29 `localhost` is not a value of `on` (known here: `pve`, `nas`)"],
    );
    check(
        "probe = [\"iommu\", \"moduls\"]\nas = \"x\"",
        &["4:19 `moduls` is not a value of `probe` (did you mean `modules`?)"],
    );
    check(
        "expect = { pve.iommu = \"amd-vi\" }",
        &["4:24 `amd-vi` is not a value of `iommu` (known here: `intel`, `amd`, `virtio`, `none`)"],
    );
    check(
        "expect = { pve.module = { ahci = \"no\" } }",
        &["4:34 `ahci` takes true or false, not a string"],
    );
    check(
        "expect = { pve.driver = { \"0:1f.2\" = \"none\" } }",
        &[
            "4:27 `0:1f.2` is not a PCI address: write domain:bus:device.function, such as 0000:00:1f.2",
        ],
    );
    check(
        "expect = { pve.iommu-group = { \"00:1f.2\" = [\"00:1f.2\", \"00:1f\"] } }",
        &[
            "4:56 `00:1f` is not a PCI address: write domain:bus:device.function, such as 0000:00:1f.2",
        ],
    );
    check(
        "set = { file = \"/f\" }",
        &[
            "4:1 `key` is missing in `set` (The variable, such as `GRUB_CMDLINE_LINUX_DEFAULT`)",
            "4:1 `value` is missing in `set` (Its new value, without the quotes that the shell needs: those are added)",
        ],
    );
    assert_eq!(
        mistakes("summary = \"s\"\n[[step]]\nreboot = true\n"),
        [
            "1:1 `lab` is missing (The machine it runs on: the name of a file in `labs/`, without `.toml`)"
        ]
    );
}

#[test]
fn all_mistakes_of_a_file_are_reported_with_an_excerpt() {
    let source = "summary = \"s\"\nlab = \"q35-ich9\"\n[[step]]\nrun = { comand = \"a\", on = \"nsa\" }\n[[step]]\nprobe = [\"iomu\"]\n";
    let error = parse("scenarios/x.toml".as_ref(), source, &two_labs()).unwrap_err();
    insta::assert_snapshot!(error, @r#"
    3 mistakes in the scenario files
      × unknown key `comand` in `run`
       ╭─[scenarios/x.toml:4:9]
     3 │ [[step]]
     4 │ run = { comand = "a", on = "nsa" }
       ·         ──────
     5 │ [[step]]
       ╰────
      help: did you mean `command`?
      × `nsa` is not a value of `on`
       ╭─[scenarios/x.toml:4:28]
     3 │ [[step]]
     4 │ run = { comand = "a", on = "nsa" }
       ·                            ─────
     5 │ [[step]]
       ╰────
      help: did you mean `nas`?
      × `iomu` is not a value of `probe`
       ╭─[scenarios/x.toml:6:10]
     5 │ [[step]]
     6 │ probe = ["iomu"]
       ·          ──────
       ╰────
      help: did you mean `iommu`?
    "#);
    assert_eq!(format!("{error:?}"), error.to_string());
}
