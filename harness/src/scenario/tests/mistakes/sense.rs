//! What is well written and cannot be meant.

use super::{HEAD, check, fine, mistakes};

#[test]
fn a_step_is_one_action() {
    check(
        "title = \"t\"",
        &[
            "3:1 this step does nothing (give it one of `set`, `append`, `write`, `run`, `reboot`, `config`, `start`, `stop`, `swap-serials`, `rewire`, `power-cut`, `reset`, `panic`, `unplug`, `disk-error`, `disk-lost`, `nvme-warning`, `reallocated-sectors`, `wait-for`, `cut-during`, `power-cuts`, `measure`, `probe`, `expect`)",
        ],
    );
    check(
        "run = \"a\"\nreboot = true",
        &["5:1 this step does two things, `run` and `reboot` (make a [[step]] of each)"],
    );
    check(
        "reboot = false",
        &["4:10 `reboot = false` is no action (leave the step out)"],
    );
    check("run = \" \"", &["4:7 there is no command to run"]);
    check(
        "append = { file = \"/f\", lines = [] }",
        &["4:33 no lines to append"],
    );
    check("expect = {}", &["4:10 this expects nothing"]);
    check(
        "title = \"\"\nreboot = true",
        &["4:9 this title says nothing"],
    );
    assert_eq!(
        mistakes("summary = \"\"\nlab = \"q35-ich9\"\n"),
        [
            "1:1 this scenario has no steps (a step begins with the line [[step]])",
            "1:11 the summary says nothing",
        ]
    );
    assert_eq!(
        mistakes("summary = \"x\"\ndraft = \" \"\nlab = \"q35-ich9\"\n[[step]]\nreboot = true\n"),
        ["2:9 a draft needs a reason (say why it is none of a run's, or leave the key out)"]
    );
}

#[test]
fn labs_and_serials() {
    let with_lab = |lab: &str| HEAD.replace("q35-ich9", lab) + "reboot = true\n";
    assert_eq!(
        mistakes(&with_lab("q35-ihc9")),
        ["2:7 there is no lab `q35-ihc9` (did you mean `q35-ich9`?)"]
    );
    assert_eq!(
        mistakes(&with_lab("pi")),
        ["2:7 there is no lab `pi` (known here: `no-iommu`, `q35-ich9`)"]
    );
    check(
        "swap-serials = [\"AAA\", \"BBD\"]",
        &["4:24 no disk of this lab has the serial `BBD` (did you mean `BBB`?)"],
    );
    check(
        "swap-serials = [\"AAA\", \"123456789012345678901\"]",
        &["4:24 `123456789012345678901` has 21 characters; a disk's serial number has at most 20"],
    );
    check(
        "swap-serials = [\"AAA\", \"A,drive=x\"]",
        &["4:24 `A,drive=x` is not a serial number: use letters, digits and hyphens"],
    );
    check(
        "swap-serials = [\"AAA\"]",
        &["4:16 `swap-serials` takes two different serials"],
    );
    check(
        "swap-serials = [\"AAA\", \"AAA\"]",
        &[
            "4:16 `swap-serials` takes two different serials",
            "4:24 `AAA` is in this list already",
        ],
    );
    check(
        "expect = { pve.disks = [\"CCD\"] }",
        &["4:25 no disk of this lab has the serial `CCD` (did you mean `CCC`?)"],
    );
    check(
        "start = 100\n[expect]\nnas.disks = [\"AAA\", \"ZZZ\"]",
        &["6:21 no disk of this lab has the serial `ZZZ` (known here: `AAA`, `BBB`, `CCC`)"],
    );
}

#[test]
fn files_keys_and_lines() {
    let set = |file: &str| format!("set = {{ file = \"{file}\", key = \"K\", value = \"v\" }}");
    check(
        &set("etc/default/grub"),
        &[
            "4:16 `etc/default/grub` is not an absolute path (paths are paths on the host and absolute: \"/etc/default/grub\"?)",
        ],
    );
    check(
        &set("/etc/../root/f"),
        &["4:16 `/etc/../root/f` goes up by `..` (write where it leads)"],
    );
    check(&set("/etc/"), &["4:16 `/etc/` is a folder, not a file"]);
    check(
        &set("/f\\u0000"),
        &["4:16 a NUL character cannot be in here"],
    );
    fine(&set("/etc/a..b"));
    check(
        "write = { file = \"f\", content = \"\" }",
        &["4:18 `f` is not an absolute path (paths are paths on the host and absolute: \"/f\"?)"],
    );
    check(
        "append = { file = \"/f\", lines = [\"a\\nb\"] }",
        &["4:34 this is more than one line"],
    );
    check(
        "set = { file = \"/f\", key = \"A-B\", value = \"v\" }",
        &["4:28 `A-B` is not the name of a shell variable"],
    );
    for line in ["hostpci0", "hostpci0=1", ": x", "Name: x"] {
        check(
            &format!("config = {{ vm = 100, line = \"{line}\" }}"),
            &[
                "4:29 this is not a `key: value` line of a VM's configuration (write it as in the file: \"hostpci0: 0000:01:00.0,pcie=1\")",
            ],
        );
    }
    fine("start = 999999999");
}

#[test]
fn saved_outputs() {
    check(
        "run = { command = \"a\", same-as = \"sum\" }",
        &["4:34 no earlier step keeps an output as `sum` (give an earlier step save = \"sum\")"],
    );
    check(
        "run = { command = \"a\", save = \"checksum\" }\n[[step]]\nrun = { command = \"a\", same-as = \"chekcsum\" }",
        &["6:34 no earlier step keeps an output as `chekcsum` (did you mean `checksum`?)"],
    );
    check(
        "run = { command = \"a\", save = \"x\", same-as = \"x\" }",
        &["4:46 no earlier step keeps an output as `x` (give an earlier step save = \"x\")"],
    );
    check(
        "run = { command = \"a\", save = \"x\" }\n[[step]]\nrun = { command = \"a\", save = \"x\" }",
        &["6:31 an earlier step keeps an output as `x` already"],
    );
    check(
        "run = { command = \"a\", save = \"A b\" }",
        &[
            "4:31 `A b` cannot be a name here (use small letters, digits and single hyphens, such as `after-reboot`)",
        ],
    );
}

#[test]
fn probes_and_their_snapshots() {
    check(
        "probe = [\"iommu\"]",
        &[
            "4:1 this probe's snapshots need a name (add as = \"after-reboot\", or whatever says which moment it is)",
        ],
    );
    check(
        "reboot = true\nas = \"x\"",
        &["5:6 `as` names the snapshots of a `probe`, and this step has none"],
    );
    check("probe = []\nas = \"x\"", &["4:9 no facts to read"]);
    check(
        "probe = [\"iommu\", \"iommu\"]\nas = \"x\"",
        &["4:19 `iommu` is in this list already"],
    );
    check(
        "probe = [\"iommu\"]\nas = \"After_reboot\"",
        &[
            "5:6 `After_reboot` cannot be a name here (use small letters, digits and single hyphens, such as `after-reboot`)",
        ],
    );
    check(
        "probe = [\"iommu\"]\nas = \"../x\"",
        &[
            "5:6 `../x` cannot be a name here (use small letters, digits and single hyphens, such as `after-reboot`)",
        ],
    );
    check(
        "probe = [\"iommu\"]\nas = \"x\"\n[[step]]\nprobe = [\"pci\"]\nas = \"x\"",
        &["8:6 the step on line 3 names its snapshots `x` already"],
    );
}

#[test]
fn the_nas_has_to_run() {
    const ADVICE: &str = "which does not run at this point (it runs after `start = 100`, until `stop`, `reboot` or whatever else ends it or the host)";
    let said = |place: &str, what: &str| format!("{place} {what}, {ADVICE}");
    let probe = "probe = [\"pci\", \"smart\"]\nas = \"x\"";
    check(probe, &[&said("4:17", "`smart` is read in the NAS guest")]);
    for ending in [
        "stop = 100",
        "reboot = true",
        "swap-serials = [\"AAA\", \"BBB\"]",
    ] {
        check(
            &format!("start = 100\n[[step]]\n{ending}\n[[step]]\n{probe}"),
            &[&said("8:17", "`smart` is read in the NAS guest")],
        );
    }
    check(
        "run = { command = \"a\", on = \"nas\" }",
        &[&said("4:29", "this runs in the NAS guest")],
    );
    check(
        "[step.expect]\nnas.disks = []",
        &[&said("5:1", "this is read in the NAS guest")],
    );
    check(
        "reboot = true\n[expect]\nnas.smart = \"passed\"",
        &[&said("6:1", "this is read in the NAS guest")],
    );
    fine(&format!(
        "start = 100\n[[step]]\n{probe}\n[expect]\nnas.smart = \"passed\""
    ));
}

#[test]
fn expected_findings() {
    let findings = |list: &str| format!("reboot = true\n[expect]\nfindings = {list}");
    fine(&findings("[]"));
    fine(&findings("[\"initramfs-stale\", \"vfio-virqfd-gone\"]"));
    check(
        &findings("[\"initramfs-stale\", \"grub-not-updatd\"]"),
        &["6:32 `grub-not-updatd` is not a value of `findings` (did you mean `grub-not-updated`?)"],
    );
    check(
        &findings("[\"vt-d-off\", \"vt-d-off\"]"),
        &["6:25 `vt-d-off` is in this list already"],
    );
    let possible = |list: &str| findings(&format!("[\"vt-d-off\"]\npossible-findings = {list}"));
    fine(&possible("[\"pool-has-errors\"]"));
    check(
        &possible("[\"vt-d-off\"]"),
        &["7:22 `vt-d-off` has to be there by `findings`"],
    );
    check(
        &possible("[\"vt-d-of\"]"),
        &["7:22 `vt-d-of` is not a value of `possible-findings` (did you mean `vt-d-off`?)"],
    );
    check(
        "reboot = true\n[expect]\npossible-findings = [\"vt-d-off\"]",
        &[
            "6:21 no `findings` that these could come besides (add findings = [], or those that have to be there)",
        ],
    );
    check(
        "expect = { findings = [] }",
        &["4:12 unknown key `findings` in `expect` (it belongs in the closing `[expect]`)"],
    );
}

#[test]
fn expected_failures() {
    let failure = |text: &str| {
        format!("expect = {{ pve.driver.\"00:1f.2\" = \"none\" }}\n[expect.failure]\n{text}")
    };
    fine(&failure(
        "kind = \"check\"\ncheck = \"pve.driver\"\ncontains = [\"ahci\"]",
    ));
    check(
        &failure("kind = \"check\"\ncheck = \"pve.drivers\"\ncontains = [\"ahci\"]"),
        &["7:9 there is no check `pve.drivers` (did you mean `pve.driver`?)"],
    );
    check(
        &failure("kind = \"check\"\ncheck = \"nas.disks\"\ncontains = [\"ahci\"]"),
        &["7:9 nothing in this scenario expects `nas.disks`, so it cannot fail"],
    );
    check(
        &failure("kind = \"boot\"\ncheck = \"pve.driver\"\ncontains = [\"ahci\"]"),
        &[
            "7:9 only a failure of kind `check` has a check (leave it out, or make the kind `check` instead of `boot`)",
        ],
    );
    check(
        &failure("kind = \"check\"\ncontains = [\"ahci\"]"),
        &["6:8 which check fails is missing (add check = \"pve.driver\", or whichever it is)"],
    );
    check(
        &failure("kind = \"start\"\ncontains = [\"ahci\"]"),
        &["6:8 no step starts a VM, so no start can fail"],
    );
    check(
        &failure("kind = \"chekc\"\ncontains = [\"ahci\"]"),
        &["6:8 `chekc` is not a value of `kind` (did you mean `check`?)"],
    );
    for nothing in ["[]", "[\"\"]"] {
        check(
            &failure(&format!("kind = \"boot\"\ncontains = {nothing}")),
            &[
                "7:12 any failure would do (name what its message must say, so that no other failure passes for it)",
            ],
        );
    }
    check(
        &failure("kind = \"boot\""),
        &[
            "5:9 `contains` is missing in `failure` (The failure's message must contain each of these)",
        ],
    );
}
