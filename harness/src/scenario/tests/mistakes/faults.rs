//! Faults that this machine cannot have, or not now.

use super::{HEAD, check, fine, mistakes};

const START: &str = "start = 100\n[[step]]\n";

/// A step after the NAS was started. Its first line is line 6 of the file.
#[track_caller]
fn check_running(step: &str, said: &[&str]) {
    check(&format!("{START}{step}"), said);
}

#[test]
fn a_fault_that_is_not_wanted_is_left_out() {
    for name in ["power-cut", "reset"] {
        fine(&format!("{name} = true"));
        let message = format!(
            "4:{} `{name} = false` is no action (leave the step out)",
            name.len() + 4
        );
        check(&format!("{name} = false"), &[&message]);
    }
}

#[test]
fn only_what_is_behind_a_root_port_can_be_unplugged() {
    let help = "only a card or controller behind a root port can be pulled out";
    let message = format!("4:10 nothing in this lab can be unplugged at 0000:00:1f.2 ({help})");
    check("unplug = \"00:1f.2\"", &[&message]);
    check(
        "unplug = \"1f.2\"",
        &[
            "4:10 `1f.2` is not a PCI address: write domain:bus:device.function, such as 0000:00:1f.2",
        ],
    );
}

#[test]
fn faults_of_disks_name_disks_of_the_lab() {
    let unknown = "no disk of this lab has the serial `AAB` (did you mean `AAA`?)";
    fine("disk-lost = \"AAA\"");
    check("disk-lost = \"AAB\"", &[&format!("4:13 {unknown}")]);
    fine("disk-error = { serial = \"AAA\", on = \"read\", blocks = 3 }");
    check(
        "disk-error = { serial = \"AAB\", on = \"read\", blocks = 3 }",
        &[&format!("4:25 {unknown}")],
    );
    check(
        "disk-error = { serial = \"AAA\", on = \"rite\", blocks = 0 }",
        &[
            "4:37 `rite` is not a value of `on` (did you mean `write`?)",
            "4:54 `blocks` takes a number from 1 to 1000, not 0 (How many blocks of 4 KiB fail, spread evenly over what the guests have written to the disk so\nfar)",
        ],
    );
    check(
        "nvme-warning = { serial = \"AAA\", warnings = [\"spare\", \"spare\"] }",
        &[
            "4:27 `AAA` is no NVMe drive",
            "4:55 `spare` is in this list already",
        ],
    );
    fine("reallocated-sectors = 24");
}

#[test]
fn what_befalls_the_nas_needs_it_and_ends_it() {
    let runs = "(it runs after `start = 100`, until `stop`, `reboot` or whatever else ends it or the host)";
    let not =
        |at: &str, what: &str| format!("{at} {what}, which does not run at this point {runs}");
    check("panic = 100", &[&not("4:9", "this crashes the NAS guest")]);
    check(
        "power-cuts = { cuts = 1, pool = \"tank\" }",
        &[&not("4:14", "the NAS guest writes while the power goes")],
    );
    check(
        "measure = { device = \"/dev/sda\" }",
        &[&not("4:11", "this is measured in the NAS guest")],
    );
    for end in [
        "power-cut = true",
        "reset = true",
        "panic = 100",
        "wait-for = \"watchdog-reset\"",
    ] {
        let source =
            format!("{HEAD}{START}{end}\n[[step]]\nrun = {{ on = \"nas\", command = \"true\" }}\n");
        let said = not("8:14", "this runs in the NAS guest");
        assert_eq!(mistakes(&source), [said], "{end}");
    }
    fine("wait-for = \"nas\"\n[[step]]\npanic = 100");
}

#[test]
fn a_cut_needs_a_command_and_a_file_that_a_shell_takes_for_one() {
    fine("cut-during = { command = \"a\", when-exists = \"/boot/initrd.img-*.new\" }");
    check(
        "cut-during = { command = \" \", when-exists = \"/boot/$(a)\" }",
        &[
            "4:26 there is no command to run",
            "4:45 this cannot name a file here (use letters, digits and `/._-+`, and `*` and `?` for what is not known)",
        ],
    );
}

#[test]
fn names_of_pools_and_of_measurements_are_held_to() {
    check_running(
        "power-cuts = { cuts = 1, pool = \"tank; reboot\" }",
        &["6:33 `tank; reboot` cannot name a pool here (use letters, digits, `_` and `-`)"],
    );
    fine(&format!(
        "{START}measure = {{ device = \"/dev/sda\", save = \"one\" }}"
    ));
    check_running(
        "measure = { device = \"sda\", against = \"one\" }",
        &[
            "6:22 `sda` is not an absolute path (paths are paths on the host and absolute: \"/sda\"?)",
            "6:39 no earlier step keeps an output as `one` (give an earlier step save = \"one\")",
        ],
    );
}
