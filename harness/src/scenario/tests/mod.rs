//! Tests of the scenario format as a whole.

mod catalogue;
mod digests;
mod mistakes;
mod readme;
mod vocabulary;

use std::path::Path;

use super::Labs;
use super::labs;

/// The catalogue's folder.
fn catalogue() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../scenarios"))
}

/// One lab, `q35-ich9`, with the disks AAA, BBB and CCC, and another, `no-iommu`, with none.
fn two_labs() -> Labs {
    let source = r#"
        summary = "for tests"
        iommu = "intel"
        [[controller]]
        model = "ich9-ahci"
        slot = "chipset-sata"
        disk = [
            { drive = "exos-x14", serial = "AAA", wwn = "0x5000c50000000001" },
            { drive = "exos-x14", serial = "BBB", wwn = "0x5000c50000000002" },
            { drive = "exos-x14", serial = "CCC", wwn = "0x5000c50000000003" },
        ]
    "#;
    let lab = labs::parse(Path::new("labs/q35-ich9.toml"), source).unwrap();
    let mut none = lab.clone();
    none.controllers.clear();
    [("q35-ich9".to_owned(), lab), ("no-iommu".to_owned(), none)]
        .into_iter()
        .collect()
}
