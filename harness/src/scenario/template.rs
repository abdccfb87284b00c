//! The first scenario of somebody who writes one.

/// A scenario file to begin from.
pub fn template(name: &str) -> String {
    let title = name.replace('-', " ");
    TEMPLATE.replace("{name}", name).replace("{title}", &title)
}

const TEMPLATE: &str = r#"#:schema ./scenario.schema.json
# The file's name names the scenario. Run it:  cargo xtask lab --exact {name}
# All that a step can do and that can be expected, and the way into the catalogue:  scenarios/README.md

summary = "{title}: what this shows, in one sentence"
lab = "q35-ich9" # a file in labs/

[[step]]
title = "Enable the IOMMU on the kernel command line"
set = { file = "/etc/default/grub", key = "GRUB_CMDLINE_LINUX_DEFAULT", value = "quiet intel_iommu=on" }

[[step]]
run = "update-grub"

[[step]]
reboot = true

# A probe holds facts against snapshots. There are none before its first run, which fails for that:
# review them with `cargo insta review`.
# [[step]]
# probe = ["cmdline", "iommu"]
# as = "after-reboot"

[[step]]
config = { vm = 100, line = "hostpci0: 0000:00:1f.2,pcie=1" }

[[step]]
start = 100

# What must hold at the end. `pve` is the Proxmox host, `nas` the guest inside it.
[expect]
findings = [] # exactly these errors and warnings; `cargo xtask findings` lists them
pve.iommu = "intel"
pve.disks = []
nas.disks = ["ZTM09FD7", "ZLM2BF4E", "ZTM093QT"]
nas.smart = "passed"

# A scenario about something that goes wrong names the one failure it passes on:
# [expect.failure]
# kind = "start"
# contains = ["IOMMU not present"]
"#;
