//! Cases of what is wrong with disks, a pool, or a machine as a whole.

use super::*;
use crate::finding::Incident;

fn pool(book: &mut FactBook) -> &mut crate::probe::pool::Pool {
    &mut book.facts.pool.as_mut().unwrap().pools[0]
}

fn smart(book: &mut FactBook) -> &mut crate::probe::smart::SmartDisk {
    let disks = &mut book.facts.smart.as_mut().unwrap().disks;
    disks
        .iter_mut()
        .find(|disk| !disk.attributes.is_empty())
        .unwrap()
}

pub(super) fn cases() -> Vec<Case> {
    vec![
        error("disk-failing", |book| smart(book).passed = Some(false)),
        error("disk-failing", |book| {
            smart(book).critical_warning = Some(4)
        }),
        error("disk-failing", |book| {
            smart(book).attributes[0].failed = Some("now".to_owned())
        }),
        warning("disk-has-defects", |book| {
            let attributes = &mut smart(book).attributes;
            attributes.iter_mut().find(|one| one.id == 5).unwrap().raw = 8;
        }),
        error("pool-suspended", |book| {
            pool(book).state = "SUSPENDED".to_owned()
        }),
        error("pool-unavailable", |book| {
            pool(book).state = "FAULTED".to_owned()
        }),
        error("pool-unavailable", |book| {
            let missing = include_str!("../../probe/samples/zpool-import-missing.txt");
            let text = format!("no pools available\n\non disks:\n{missing}");
            book.facts.pool = Some(crate::probe::pool::parse(&text).unwrap());
        }),
        Case {
            besides: &["pool-has-errors"],
            ..error("pool-lost-data", |book| pool(book).data_errors = Some(5))
        },
        warning("pool-degraded", |book| {
            let degraded = include_str!("../../probe/samples/zpool-degraded.json");
            book.facts.pool = Some(crate::probe::pool::parse(degraded).unwrap());
        }),
        warning("pool-has-errors", |book| {
            pool(book).vdevs[0].vdevs[1].read_errors = 3
        }),
        error("guest-panicked", |book| {
            let line = "[   93.1] Kernel panic - not syncing: sysrq triggered crash";
            run(book).nas_console.push(line.to_owned());
        }),
        error("guest-reset", |book| {
            run(book).incidents.push(Incident::NasReset);
        }),
        error("host-panicked", |book| {
            run(book).incidents.push(Incident::Panicked {
                action: "pause".to_owned(),
            });
        }),
    ]
}

#[test]
fn health() {
    silent("disk-failing", |book| {
        smart(book).attributes[0].failed = Some("past".to_owned())
    });
    silent("disk-failing", |book| {
        smart(book).critical_warning = Some(0)
    });
    silent("disk-failing", |book| smart(book).passed = None);
    silent("disk-has-defects", |book| {
        let attributes = &mut smart(book).attributes;
        attributes.iter_mut().find(|one| one.id == 9).unwrap().raw = 99_999;
    });
    silent("pool-has-errors", |_| {});
    silent("pool-has-errors", |book| {
        let degraded = include_str!("../../probe/samples/zpool-degraded.json");
        book.facts.pool = Some(crate::probe::pool::parse(degraded).unwrap());
        pool(book).data_errors = Some(2);
    });
    silent("pool-lost-data", |book| pool(book).data_errors = Some(0));
    // What it cannot reach is not lost.
    silent("pool-lost-data", |book| {
        pool(book).state = "SUSPENDED".to_owned();
        pool(book).data_errors = Some(7);
    });
    silent("pool-degraded", |book| {
        pool(book).state = "FAULTED".to_owned()
    });
    silent("pool-suspended", |book| {
        pool(book).state = "DEGRADED".to_owned()
    });
    silent("pool-unavailable", |book| {
        pool(book).state = "SUSPENDED".to_owned()
    });
    silent("guest-panicked", |book| {
        run(book).nas_console.push("panic=10".to_owned())
    });
    silent("guest-reset", |book| {
        run(book).incidents.push(Incident::Reset {
            reason: "guest-reset".to_owned(),
        });
    });
    silent("host-panicked", |book| {
        let line = "Kernel panic - not syncing: VFS: Unable to mount root fs";
        run(book).console.push(line.to_owned());
    });
}
