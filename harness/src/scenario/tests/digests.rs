//! What changes a digest, and what does not.

use std::collections::BTreeSet;

use super::super::load::parse;
use super::two_labs;

fn digest(step: &str) -> String {
    let source = format!(
        "summary = \"s\"\nlab = \"q35-ich9\"\n[[step]]\nstart = 100\n[[step]]\nrun = {{ command = \"a\", save = \"x\" }}\n[[step]]\n{step}\n"
    );
    match parse("x.toml".as_ref(), &source, &two_labs()) {
        Ok(scenario) => scenario.steps[2].action.digest(),
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn titles_order_and_notation_do_not_count() {
    let plain = digest("set = { file = \"/f\", key = \"K\", value = \"v\" }");
    for same in [
        "title = \"t\"\nset = { file = \"/f\", key = \"K\", value = \"v\" }",
        "set = { value = 'v', key = \"K\", file = \"/f\" }",
        "# a comment\n\n[step.set]\nfile = \"/f\"\nvalue = \"\"\"v\"\"\"\nkey = \"K\"",
    ] {
        assert_eq!(digest(same), plain, "{same}");
    }
    assert_eq!(
        digest("run = \"a\""),
        digest("run = { command = \"a\", on = \"pve\", exit = 0 }")
    );
    assert_eq!(plain.len(), 64);
}

#[test]
fn any_content_counts() {
    let steps = [
        "set = { file = \"/f\", key = \"K\", value = \"v\" }",
        "set = { file = \"/g\", key = \"K\", value = \"v\" }",
        "set = { file = \"/f\", key = \"L\", value = \"v\" }",
        "set = { file = \"/f\", key = \"K\", value = \"w\" }",
        "append = { file = \"/f\", lines = [\"a\", \"b\"] }",
        "append = { file = \"/f\", lines = [\"b\", \"a\"] }",
        "write = { file = \"/f\", content = \"a\" }",
        "write = { file = \"/f\", content = \"a\\n\" }",
        "run = \"a\"",
        "run = { command = \"a\", on = \"nas\" }",
        "run = { command = \"a\", exit = 1 }",
        "run = { command = \"a\", save = \"y\" }",
        "run = { command = \"a\", same-as = \"x\" }",
        "reboot = true",
        "config = { vm = 100, line = \"cores: 2\" }",
        "config = { vm = 101, line = \"cores: 2\" }",
        "config = { vm = 100, line = \"cores: 4\" }",
        "start = 100",
        "start = 101",
        "stop = 100",
        "swap-serials = [\"AAA\", \"BBB\"]",
        "swap-serials = [\"AAA\", \"CCC\"]",
        "probe = [\"iommu\"]\nas = \"x\"",
        "probe = [\"iommu\"]\nas = \"y\"",
        "probe = [\"iommu\", \"pci\"]\nas = \"x\"",
        "expect = { pve.iommu = \"intel\" }",
        "expect = { pve.iommu = \"none\" }",
        "expect = { pve.disks = [] }",
        "expect = { nas.disks = [] }",
    ];
    let digests: BTreeSet<String> = steps.iter().map(|step| digest(step)).collect();
    assert_eq!(digests.len(), steps.len());
}

#[test]
fn a_lab_is_its_machine_not_its_summary() {
    let labs = two_labs();
    let lab = labs.get("q35-ich9").unwrap();
    let mut other = lab.clone();
    other.summary = "something else".to_owned();
    assert_eq!(other.digest(), lab.digest());
    other.controllers[0].disks[0].serial = "DDD".to_owned();
    assert_ne!(other.digest(), lab.digest());
    other = lab.clone();
    other.interrupt_remapping = false;
    assert_ne!(other.digest(), lab.digest());
}

/// A change of this value makes every checkpoint and every remembered duration worthless: it must
/// not happen by accident.
#[test]
fn digests_are_the_same_on_every_machine() {
    insta::assert_snapshot!(digest("reboot = true"), @"ebda7e3fc2e82b20cd608a77cac1a260b2f6fc8db68a81efec2181480125c472");
}
