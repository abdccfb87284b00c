//! The tree's shape and cost, and what is in a key and what is not.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

use super::*;
use crate::accel::Accelerator;
use crate::lab::{
    Card, Controller, ControllerModel, Disk, Drive, Firmware, HostSystem, Iommu, Lab, Slot, Wwn,
};
use crate::probe::Probe;
use crate::scenario::{
    Action, Expect, ExpectPve, Flushes, GuestName, PowerCuts, Rewire, Run, Scenario, Step,
};

fn lab(iommu: Iommu) -> Lab {
    let disk = |serial: &str| Disk {
        drive: Drive::ExosX14,
        serial: serial.to_owned(),
        wwn: Some(Wwn(0x5000_c500_0000_0001)),
    };
    Lab {
        summary: "A machine".to_owned(),
        iommu,
        interrupt_remapping: true,
        firmware: Firmware::Bios,
        host: HostSystem::default(),
        cards: Vec::new(),
        cpus: 2,
        memory_mib: 3072,
        controllers: vec![Controller {
            model: ControllerModel::Ich9Ahci,
            slot: Slot::RootPort,
            second_function: None,
            boots_host: false,
            disks: vec![disk("ONE"), disk("TWO")],
        }],
    }
}

fn run(command: &str) -> Action {
    Action::Run(Run {
        command: command.to_owned(),
        on: GuestName::Pve,
        exit: 0,
        save: None,
        same_as: None,
    })
}

fn look() -> Action {
    Action::Probe {
        name: "now".to_owned(),
        probes: vec![Probe::Iommu],
    }
}

fn scenario(name: &str, actions: Vec<Action>) -> Scenario {
    let step = |(number, action): (usize, Action)| Step {
        title: action.title(),
        action,
        line: number,
    };
    Scenario {
        name: name.to_owned(),
        path: Path::new("x.toml").to_owned(),
        summary: "x".to_owned(),
        draft: None,
        lab_name: "x".to_owned(),
        lab: lab(Iommu::Intel),
        steps: actions.into_iter().enumerate().map(step).collect(),
        expect: Expect::default(),
        findings: None,
        failure: None,
    }
}

fn setting() -> Setting {
    Setting {
        host_image: "host".to_owned(),
        nas_image: "nas".to_owned(),
        qemu: "11.1".to_owned(),
        accelerator: Accelerator::Tcg,
        cpu: "max".to_owned(),
        processor: None,
        vm_config: "cores: 1".to_owned(),
        format: FORMAT,
    }
}

fn plan(scenarios: &[Scenario]) -> Plan {
    Plan::new(scenarios, |_| setting())
}

/// The key of the state that a scenario ends in.
fn end(scenario: &Scenario, setting: &Setting) -> Key {
    let plan = Plan::new([scenario], |_| setting.clone());
    plan.nodes()[plan.routes()[0].nodes().last().unwrap()].key
}

fn moves(plan: &Plan, route: usize) -> Vec<String> {
    plan.routes()[route]
        .nodes()
        .map(|node| plan.nodes()[node].arrival.title())
        .collect()
}

#[test]
fn a_scenario_begins_with_power_and_looking_is_no_move() {
    let plan = plan(&[scenario("a", vec![look(), run("one"), look(), run("two")])]);
    assert_eq!(
        moves(&plan, 0),
        [
            "switch on a machine with iommu intel and 2 disks",
            "run one",
            "run two"
        ]
    );
    let legs = &plan.routes()[0].legs;
    let looks: Vec<bool> = legs.iter().map(|leg| leg.looks).collect();
    assert_eq!(looks, [true, false, true, false]);
    assert_eq!((legs[0].nodes.len(), legs[2].nodes.len()), (1, 0));
    assert_eq!(legs[2].at, legs[1].at);
}

#[test]
fn other_hardware_is_met_by_power_off_and_on() {
    let rewire = |iommu| {
        Action::Rewire(Box::new(Rewire {
            name: "other".to_owned(),
            lab: lab(iommu),
        }))
    };
    let swap = || Action::SwapSerials(["ONE".to_owned(), "TWO".to_owned()]);
    let plan = plan(&[
        scenario("a", vec![run("one"), rewire(Iommu::None), run("two")]),
        scenario("b", vec![run("one"), rewire(Iommu::Amd)]),
        scenario("c", vec![run("one"), swap()]),
        scenario("d", vec![swap(), run("one")]),
    ]);
    assert_eq!(
        moves(&plan, 0),
        [
            "switch on a machine with iommu intel and 2 disks",
            "run one",
            "shut the host down",
            "switch on a machine with iommu none and 2 disks",
            "run two",
        ]
    );
    // All three share the machine that is off.
    assert_eq!(plan.nodes().len(), 3 + 2 + 1 + 1 + 2);
    let off = plan
        .nodes()
        .iter()
        .position(|node| node.arrival.leaves_off())
        .unwrap();
    assert_eq!(plan.wish(off), Wish::Branch);
    // A machine that was never on need not be switched off.
    assert_eq!(moves(&plan, 3).len(), 2);
}

#[test]
fn a_tree_branches_where_scenarios_part() {
    let plan = plan(&[
        scenario("long", vec![run("a"), run("b"), run("c"), run("d")]),
        scenario("other", vec![run("a"), run("b"), run("x")]),
        scenario("short", vec![run("a"), run("b"), look()]),
    ]);
    let wishes: Vec<(String, Wish)> = plan
        .nodes()
        .iter()
        .enumerate()
        .map(|(id, node)| (node.arrival.title(), plan.wish(id)))
        .collect();
    let wish = |title: &str| wishes.iter().find(|(name, _)| name == title).unwrap().1;
    assert_eq!(wish("run a"), Wish::ForTheNextRun);
    assert_eq!(wish("run b"), Wish::Branch);
    assert_eq!(wish("run c"), Wish::ForTheNextRun);
    assert_eq!(wish("run d"), Wish::ForTheNextRun);
    assert_eq!(wishes[0].1, Wish::IfDear);
    assert_eq!(plan.nodes().len(), 6);
    let [long, other, short] = [0, 1, 2].map(|route| &plan.routes()[route]);
    let shared = plan.shared(long, other).unwrap();
    assert_eq!(plan.nodes()[shared].arrival.title(), "run b");
    assert_eq!(plan.shared(long, short), Some(shared));
}

#[test]
fn what_has_most_in_common_is_run_one_after_the_other() {
    let plan = plan(&[
        scenario("a1", vec![run("a"), run("1")]),
        scenario("b1", vec![run("b"), run("1")]),
        scenario("a2", vec![run("a"), run("2")]),
        scenario("a", vec![run("a")]),
    ]);
    assert_eq!(plan.in_order(), [3, 0, 2, 1]);
}

#[test]
fn who_looks_on_the_way_goes_before_those_who_pass_by() {
    let plan = plan(&[
        scenario("short", vec![run("a"), run("b"), run("1")]),
        scenario("other", vec![run("a"), run("c")]),
        scenario("looks", vec![run("a"), look(), run("b"), run("2")]),
    ]);
    assert_eq!(plan.in_order(), [2, 0, 1]);
}

#[test]
fn everything_that_can_change_a_state_changes_its_key() {
    let base = scenario("a", vec![run("one"), run("two")]);
    let mut seen = BTreeSet::from([end(&base, &setting())]);
    let mut settings = Vec::new();
    let changes: [fn(&mut Setting); 7] = [
        |setting| setting.host_image = "other".to_owned(),
        |setting| setting.nas_image = "other".to_owned(),
        |setting| setting.qemu = "10.0".to_owned(),
        |setting| setting.accelerator = Accelerator::Kvm,
        |setting| setting.cpu = "EPYC".to_owned(),
        |setting| setting.processor = Some("another".to_owned()),
        |setting| setting.vm_config = "cores: 2".to_owned(),
    ];
    for change in changes {
        let mut setting = setting();
        change(&mut setting);
        settings.push(setting);
    }
    settings.push(Setting {
        format: FORMAT + 1,
        ..setting()
    });
    for setting in &settings {
        assert!(seen.insert(end(&base, setting)), "{setting:?}");
    }

    let labs: [fn(&mut Lab); 13] = [
        |lab| lab.iommu = Iommu::None,
        |lab| lab.interrupt_remapping = false,
        |lab| lab.firmware = Firmware::Uefi,
        |lab| lab.cpus = 1,
        |lab| lab.memory_mib = 4096,
        |lab| lab.controllers[0].slot = Slot::ChipsetSata,
        |lab| lab.controllers[0].disks[0].serial = "THREE".to_owned(),
        |lab| lab.controllers[0].disks[0].wwn = Some(Wwn(0x5000_c500_0000_0002)),
        |lab| lab.controllers[0].disks.swap(0, 1),
        |lab| lab.controllers[0].second_function = Some(Card::E1000e),
        |lab| lab.controllers[0].boots_host = true,
        |lab| lab.controllers[0].model = ControllerModel::MegasasGen2,
        |lab| lab.cards = vec![Card::E1000e],
    ];
    for change in labs {
        let mut other = base.clone();
        change(&mut other.lab);
        assert!(seen.insert(end(&other, &setting())), "{:?}", other.lab);
    }

    let file = |content: &str| Action::Write {
        file: "/etc/modules".to_owned(),
        content: content.to_owned(),
    };
    for actions in [
        vec![run("one"), run("three")],
        vec![run("two"), run("one")],
        vec![run("one"), file("vfio"), run("two")],
        vec![run("one"), file("vfio_pci"), run("two")],
        vec![run("one")],
        vec![run("one"), Action::Reboot],
        vec![run("one"), Action::Reset],
        vec![run("one"), Action::PowerCut],
        vec![
            run("one"),
            Action::SwapSerials(["ONE".to_owned(), "TWO".to_owned()]),
        ],
    ] {
        let other = scenario("a", actions);
        assert!(seen.insert(end(&other, &setting())), "{:?}", other.steps);
    }
}

#[test]
fn nothing_else_changes_a_key() {
    let base = scenario("a", vec![run("one"), run("two")]);
    let key = end(&base, &setting());
    let mut renamed = base.clone();
    renamed.name = "b".to_owned();
    renamed.summary = "another".to_owned();
    renamed.lab.summary = "another".to_owned();
    renamed.steps[0].title = "another".to_owned();
    renamed.expect.pve = Some(ExpectPve {
        disks: Some(Vec::new()),
        ..ExpectPve::default()
    });
    assert_eq!(end(&renamed, &setting()), key);
    let expect = Action::Expect(Box::new(renamed.expect.clone()));
    let looking = scenario("c", vec![run("one"), look(), expect, run("two"), look()]);
    assert_eq!(end(&looking, &setting()), key);
    // What comes later changes nothing before.
    let longer = plan(&[scenario("d", vec![run("one"), run("two"), run("three")])]);
    assert!(longer.nodes().iter().any(|node| node.key == key));
}

#[test]
fn a_failed_step_leads_to_no_state_of_the_tree() {
    let reached = end(&scenario("a", vec![run("one")]), &setting());
    let other = end(&scenario("a", vec![run("two")]), &setting());
    let failed = ["refused", "timed out"].map(|words| reached.failed_with(words));
    let all = BTreeSet::from([
        reached,
        other,
        failed[0],
        failed[1],
        other.failed_with("refused"),
    ]);
    assert_eq!(all.len(), 5);
    assert_eq!(failed[0], reached.failed_with("refused"));
}

#[test]
fn the_trees_cost_is_that_of_distinct_steps() {
    // Ten thousand scenarios: a hundred ways to begin, a hundred to end, eighteen steps between.
    let scenarios: Vec<Scenario> = (0..10_000)
        .map(|number| {
            let mut actions = vec![run(&format!("begin {}", number % 100))];
            actions.extend((0..18).map(|step| run(&format!("step {step}"))));
            actions.push(run(&format!("end {}", number / 100)));
            scenario(&format!("s{number}"), actions)
        })
        .collect();
    let start = Instant::now();
    let plan = plan(&scenarios);
    let elapsed = start.elapsed();
    assert_eq!(plan.routes().len(), 10_000);
    assert_eq!(plan.nodes().len(), 1 + 100 * (1 + 18 + 100));
    let order = plan.in_order();
    assert_eq!(order.len(), 10_000);
    // A second is what it may take as it is released; without optimization it is some ten times slower.
    assert!(elapsed < Duration::from_secs(10), "planned in {elapsed:?}");
}

#[test]
fn a_plan_says_what_is_cached_and_what_a_run_would_cost() {
    struct Known<'a>(&'a Plan);
    impl Knowledge for Known<'_> {
        fn cached(&self, key: &Key) -> bool {
            self.0.nodes()[1].key == *key
        }
        fn seconds(&self, one: &Move) -> Option<f64> {
            match one {
                Move::PowerOn { .. } => Some(20.0),
                Move::PowerOff => None,
                Move::Act(_) => Some(3.0),
            }
        }
    }
    let plan = plan(&[
        scenario("first", vec![run("a"), run("b")]),
        scenario("second", vec![run("a"), run("c")]),
    ]);
    insta::assert_snapshot!(show(&plan, &Known(&plan)));
}

#[test]
fn every_scenario_is_in_exactly_one_part() {
    let mut scenarios = Vec::new();
    for trunk in 0..3 {
        for branch in 0..(trunk * 4 + 2) {
            let actions = vec![
                run(&format!("t{trunk}")),
                Action::Reboot,
                run(&branch.to_string()),
            ];
            scenarios.push(scenario(&format!("s{trunk}-{branch}"), actions));
        }
    }
    let plan = plan(&scenarios);
    for parts in 1..6 {
        let all: Vec<Vec<usize>> = (1..=parts).map(|part| plan.part(part, parts)).collect();
        let mut together: Vec<usize> = all.iter().flatten().copied().collect();
        together.sort_unstable();
        assert_eq!(together, (0..scenarios.len()).collect::<Vec<_>>());
        if parts <= 3 {
            assert!(all.iter().all(|part| !part.is_empty()), "{all:?}");
        }
    }
    assert!(plan.part(3, 2).is_empty());
}

#[test]
fn a_scenario_that_takes_as_long_as_many_is_weighed_as_such() {
    let cuts = Action::PowerCuts(PowerCuts {
        cuts: 50,
        pool: "tank".to_owned(),
        seed: 1,
        flushes: Flushes::Obeyed,
    });
    let mut scenarios = vec![scenario("cuts", vec![run("a"), cuts])];
    scenarios.extend((0..6).map(|number| {
        scenario(
            &format!("s{number}"),
            vec![run(&number.to_string()), Action::Reboot],
        )
    }));
    let plan = plan(&scenarios);
    let parts = [1, 2].map(|part| plan.part(part, 2));
    assert!(parts.contains(&vec![0]), "{parts:?}");
}
