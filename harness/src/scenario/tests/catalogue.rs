//! The files that are really there.

use super::super::load::parse;
use super::super::{
    Action, ExpectedFindings, FailureKind, Labs, Scenario, Step, load_dir, schemas, template,
};
use super::{catalogue, two_labs};

#[test]
fn every_scenario_of_the_catalogue_is_well_formed() {
    let scenarios = load_dir(catalogue()).unwrap();
    let names: Vec<&str> = scenarios.iter().map(|one| one.name.as_str()).collect();
    for name in [
        "procedure",
        "procedure-isolated",
        "swap-serials",
        "initramfs-stale",
        "no-vtd",
    ] {
        assert!(names.contains(&name), "{name} is not among {names:?}");
    }
    assert!(names.is_sorted());
}

#[test]
fn the_procedure_has_every_command_of_the_write_up_in_its_order() {
    let scenarios = load_dir(catalogue()).unwrap();
    let procedure = scenarios
        .iter()
        .find(|one| one.name == "procedure")
        .unwrap();
    let deeds: Vec<String> = procedure
        .steps
        .iter()
        .filter(|step| !matches!(step.action, Action::Probe { .. } | Action::Expect(_)))
        .map(|step| step.action.title())
        .take(9)
        .collect();
    assert_eq!(
        deeds,
        [
            "set GRUB_CMDLINE_LINUX_DEFAULT in /etc/default/grub",
            "run update-grub",
            "reboot",
            "append 4 lines to /etc/modules",
            "append 2 lines to /etc/modprobe.d/blacklist.conf",
            "run update-initramfs -u -k all",
            "reboot",
            "configure VM 100: hostpci0: 0000:00:1f.2,pcie=1",
            "start VM 100",
        ]
    );
    assert!(procedure.failure.is_none());
    let serials: Vec<&str> = procedure
        .lab
        .disks()
        .map(|disk| disk.serial.as_str())
        .collect();
    assert_eq!(serials, ["ZTM09FD7", "ZLM2BF4E", "ZTM093QT"]);
}

#[test]
fn steps_know_their_lines() {
    let source = "summary = \"s\"\nlab = \"q35-ich9\"\n\n[[step]]\nreboot = true\n\n# why\n[[step]]\ntitle = \"t\"\nrun = \"a\"\n";
    let scenario = parse("x.toml".as_ref(), source, &two_labs()).unwrap();
    let lines: Vec<usize> = scenario.steps.iter().map(|step| step.line).collect();
    assert_eq!(lines, [4, 8]);
    let titles: Vec<&str> = scenario
        .steps
        .iter()
        .map(|step| step.title.as_str())
        .collect();
    assert_eq!(titles, ["reboot", "t"]);
}

#[test]
fn the_template_is_a_scenario() {
    let labs = Labs::load(&catalogue().join("labs")).unwrap();
    let scenario = parse("first-one.toml".as_ref(), &template("first-one"), &labs).unwrap();
    assert!(scenario.summary.starts_with("first one"));
    let probes = |scenario: &Scenario| {
        let is_probe = |step: &&Step| matches!(step.action, Action::Probe { .. });
        scenario.steps.iter().filter(is_probe).count()
    };
    // Its first run would fail for want of a snapshot, and the test of the rules for want of findings.
    assert_eq!(probes(&scenario), 0);
    assert_eq!(scenario.findings, Some(ExpectedFindings::default()));

    // What is commented out is right as well.
    let keys = ["[", "probe =", "as =", "kind =", "contains ="];
    let whole = template("first-one")
        .lines()
        .map(|line| match line.strip_prefix("# ") {
            Some(bare) if keys.iter().any(|key| bare.starts_with(key)) => bare,
            _ => line,
        })
        .collect::<Vec<_>>()
        .join("\n");
    let scenario = parse("first-one.toml".as_ref(), &whole, &labs).unwrap();
    assert_eq!(probes(&scenario), 1);
    assert_eq!(scenario.failure.unwrap().kind, FailureKind::Start);
}

#[test]
fn the_committed_schemas_are_current() {
    for (name, text) in schemas() {
        let committed = std::fs::read_to_string(catalogue().join(name)).unwrap_or_default();
        assert!(committed == text, "{name} is old: run `cargo xtask schema`");
    }
}

/// Every problem of every file is reported, those of labs and those of scenarios, each file once.
#[test]
fn a_folder_reports_all_mistakes_of_all_files() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    };
    let good = "summary = \"s\"\nlab = \"q35\"\n[[step]]\nreboot = true\n";
    write("Cargo.toml", "[package]\n");
    write("snapshots/x.toml", "not TOML");
    write("labs/q35.toml", "summary = \"s\"\niommu = \"intle\"\n");
    write("a.toml", &good.replace("reboot", "rebot"));
    write(
        "deep/b.toml",
        &good.replace("lab", "lba").replace("true", "1"),
    );
    write("c.toml", good);
    write("deep/c.toml", good);
    write("Bad_Name.toml", good);
    let error = load_dir(dir.path()).unwrap_err();
    let seen: Vec<String> = error
        .problems()
        .iter()
        .map(|one| {
            let path = one.path().strip_prefix(dir.path()).unwrap().display();
            format!("{path} {:?}", one.position())
        })
        .collect();
    assert_eq!(
        seen,
        [
            "Bad_Name.toml None",
            "a.toml Some((4, 1))",
            "deep/b.toml Some((2, 1))",
            "deep/b.toml Some((4, 10))",
            "deep/c.toml None",
            "labs/q35.toml Some((2, 9))",
        ],
        "{error}"
    );

    write(
        "labs/q35.toml",
        "summary = \"s\"\niommu = \"intel\"\n[[controller]]\nmodel = \"ich9-ahci\"\nslot = \"root-port\"\n",
    );
    for wrong in ["a.toml", "deep/b.toml", "deep/c.toml", "Bad_Name.toml"] {
        std::fs::remove_file(dir.path().join(wrong)).unwrap();
    }
    assert_eq!(load_dir(dir.path()).unwrap().len(), 1);
}
