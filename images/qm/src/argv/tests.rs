//! Command lines of whole configurations, word for word.

use super::*;
use crate::{
    config,
    pci::{Sysfs, choose, parse_all, testing::FakeHost},
};

fn facts() -> Facts {
    Facts {
        cpus: 8,
        character_devices: BTreeSet::from(["/dev/ttyS0".to_owned()]),
        block_devices: BTreeSet::from(["/dev/sdb".to_owned()]),
        bridges: BTreeSet::from(["vmbr0".to_owned()]),
        ..Facts::default()
    }
}

fn build(text: &str) -> Result<Vec<String>, String> {
    let (config, warnings) = config::parse(100, text);
    assert_eq!(warnings, [""; 0], "{text}");
    let fake = FakeHost::q35();
    let parsed = parse_all(
        &Host::under(fake.root()),
        &Sysfs::new(fake.root().join("sys")),
        &config.main,
        is_q35(&config.main),
        &mut |line| panic!("{line}"),
    );
    let hostpci = choose(parsed.map_err(|error| error.to_string())?, &mut |_| true)
        .map_err(|error| error.to_string())?;
    let facts = Facts { hostpci, ..facts() };
    command(&Host::under("/"), 100, &config.main, &facts).map_err(|error| error.to_string())
}

/// Compares the whole command; lines of `expected` are an option with its value.
fn check(text: &str, expected: &str) {
    let command = build(text).unwrap();
    let mut shown = String::new();
    for word in &command {
        let separator = if word.starts_with('-') || shown.is_empty() {
            "\n"
        } else {
            " "
        };
        shown.push_str(separator);
        shown.push_str(word);
    }
    let expected: Vec<&str> = expected.trim().lines().map(str::trim).collect();
    let shown: Vec<&str> = shown.trim().lines().collect();
    assert_eq!(shown, expected, "{text}");
}

/// Checks that the words stand somewhere in the command.
fn has(text: &str, words: &[&str]) {
    let command = build(text).unwrap();
    for word in words {
        assert!(
            command.iter().any(|found| found == word),
            "{word} is not in {command:#?}"
        );
    }
}

#[test]
fn a_nas_with_its_controller() {
    check(
        "agent: 1\nboot: order=scsi0\ncores: 2\ncpu: host\nhostpci0: 0000:00:1f.2,pcie=1\nmachine: q35\nmemory: 2048\n\
         name: nas\nostype: l26\nscsi0: /var/lib/vz/images/100/disk.raw,serial=boot%2C1,discard=on,ssd=1\n\
         scsihw: virtio-scsi-pci\nserial0: socket\nsmbios1: uuid=3dd750ce-d910-44d0-9493-525c0be4e687\nvga: serial0\n",
        r#"
        /usr/bin/qemu-system-x86_64
        -name nas,debug-threads=on
        -chardev socket,id=qmp,path=/var/run/qemu-server/100.qmp,server=on,wait=off
        -mon chardev=qmp,mode=control
        -pidfile /var/run/qemu-server/100.pid
        -daemonize
        -smbios type=1,uuid=3dd750ce-d910-44d0-9493-525c0be4e687
        -global ICH9-LPC.disable_s3=1
        -global ICH9-LPC.disable_s4=1
        -smp 2,sockets=1,cores=2,maxcpus=2
        -nodefaults
        -boot menu=on,strict=on,reboot-timeout=1000,splash-time=0
        -display none
        -cpu host,+kvm_pv_eoi,+kvm_pv_unhalt
        -m 2048
        -device pcie-root-port,id=ich9-pcie-port-1,x-speed=16,x-width=32,multifunction=on,bus=pcie.0,addr=1c.0,port=1,chassis=1
        -device pcie-root-port,id=ich9-pcie-port-2,x-speed=16,x-width=32,multifunction=on,bus=pcie.0,addr=1c.1,port=2,chassis=2
        -device pcie-root-port,id=ich9-pcie-port-3,x-speed=16,x-width=32,multifunction=on,bus=pcie.0,addr=1c.2,port=3,chassis=3
        -device pcie-root-port,id=ich9-pcie-port-4,x-speed=16,x-width=32,multifunction=on,bus=pcie.0,addr=1c.3,port=4,chassis=4
        -device i82801b11-bridge,id=pcidmi,bus=pcie.0,addr=1e.0
        -device pci-bridge,id=pci.0,bus=pcidmi,addr=1.0,chassis_nr=1
        -device pci-bridge,id=pci.1,bus=pcidmi,addr=2.0,chassis_nr=2
        -device pci-bridge,id=pci.2,bus=pcidmi,addr=3.0,chassis_nr=3
        -device pci-bridge,id=pci.3,bus=pcidmi,addr=4.0,chassis_nr=4
        -device vfio-pci,host=0000:00:1f.2,id=hostpci0,bus=ich9-pcie-port-1,addr=0x0
        -chardev socket,id=serial0,path=/var/run/qemu-server/100.serial0,server=on,wait=off
        -device isa-serial,chardev=serial0
        -chardev socket,path=/var/run/qemu-server/100.qga,server=on,wait=off,id=qga0
        -device virtio-serial,id=qga0,bus=pci.0,addr=0x8
        -device virtserialport,chardev=qga0,name=org.qemu.guest_agent.0
        -device virtio-balloon-pci,id=balloon0,bus=pci.0,addr=0x3,free-page-reporting=on
        -device virtio-scsi-pci,id=scsihw0,bus=pci.0,addr=0x5
        -blockdev {"cache":{"direct":true,"no-flush":false},"detect-zeroes":"unmap","discard":"unmap","driver":"raw","file":{"aio":"io_uring","cache":{"direct":true,"no-flush":false},"detect-zeroes":"unmap","discard":"unmap","driver":"file","filename":"/var/lib/vz/images/100/disk.raw","read-only":false},"node-name":"drive-scsi0","read-only":false}
        -device scsi-hd,bus=scsihw0.0,channel=0,scsi-id=0,lun=0,drive=drive-scsi0,id=scsi0,device_id=drive-scsi0,rotation_rate=1,bootindex=100,serial=boot,,1,write-cache=on
        -machine hpet=off,accel=kvm,smm=off,type=q35
        "#,
    );
}

#[test]
fn hardly_any_configuration() {
    check(
        "kvm: 0\n",
        "
        /usr/bin/qemu-system-x86_64
        -name vm100,debug-threads=on
        -chardev socket,id=qmp,path=/var/run/qemu-server/100.qmp,server=on,wait=off
        -mon chardev=qmp,mode=control
        -pidfile /var/run/qemu-server/100.pid
        -daemonize
        -global PIIX4_PM.disable_s3=1
        -global PIIX4_PM.disable_s4=1
        -smp 1,sockets=1,cores=1,maxcpus=1
        -nodefaults
        -boot menu=on,strict=on,reboot-timeout=1000,splash-time=0
        -display none
        -cpu qemu64
        -m 512
        -device pci-bridge,id=pci.1,chassis_nr=1,bus=pci.0,addr=0x1e
        -device pci-bridge,id=pci.2,chassis_nr=2,bus=pci.0,addr=0x1f
        -device piix3-usb-uhci,id=uhci,bus=pci.0,addr=0x1.0x2
        -device usb-tablet,id=tablet,bus=uhci.0,port=1
        -device VGA,id=vga,bus=pci.0,addr=0x2
        -device virtio-balloon-pci,id=balloon0,bus=pci.0,addr=0x3,free-page-reporting=on
        -machine accel=tcg,type=pc
        ",
    );
}

#[test]
fn passthrough_options() {
    has(
        "hostpci0: 00:1f.2\n",
        &["vfio-pci,host=0000:00:1f.2,id=hostpci0,bus=pci.0,addr=0x10"],
    );
    has(
        "hostpci2: 00:1f.2\n",
        &["vfio-pci,host=0000:00:1f.2,id=hostpci2,bus=pci.0,addr=0x1b"],
    );
    has(
        "hostpci0: 00:1f\n",
        &[
            "vfio-pci,host=0000:00:1f.0,id=hostpci0.0,bus=pci.0,addr=0x10.0,multifunction=on",
            "vfio-pci,host=0000:00:1f.2,id=hostpci0.1,bus=pci.0,addr=0x10.1",
            "vfio-pci,host=0000:00:1f.3,id=hostpci0.2,bus=pci.0,addr=0x10.2",
        ],
    );
    has(
        "machine: q35\nhostpci4: 01:00.0,pcie=1,rombar=0,romfile=x.rom,device-id=0x1234,sub-vendor-id=0xabcd\n",
        &[
            "pcie-root-port,id=ich9-pcie-port-5,addr=10.0,x-speed=16,x-width=32,multifunction=on,bus=pcie.0,port=5,chassis=5",
            "vfio-pci,host=0000:01:00.0,id=hostpci4,bus=ich9-pcie-port-5,addr=0x0,rombar=0,romfile=/usr/share/kvm/x.rom,\
         x-pci-device-id=0x1234,x-pci-sub-vendor-id=0xabcd",
        ],
    );
    has(
        "machine: q35\nboot: order=hostpci0\nhostpci0: 01:00.0,pcie=1,x-vga=1\n",
        &[
            "vfio-pci,host=0000:01:00.0,id=hostpci0,bus=ich9-pcie-port-1,addr=0x0,x-vga=on,bootindex=100",
            "kvm64,enforce,kvm=off,+kvm_pv_eoi,+kvm_pv_unhalt,+lahf_lm,+sep",
            "accel=kvm,smm=off,type=q35",
        ],
    );
}

#[test]
fn drives_of_every_kind() {
    let text = "ide2: none,media=cdrom\nide0: local:iso/a.iso,media=cdrom\nsata0: /dev/sdb,serial=ZTM09FD7,cache=writethrough\n\
                virtio0: local:100/vm-100-disk-0.qcow2,iothread=1\nscsi0: /a.raw\nscsi8: /b.qcow2,format=qcow2\n";
    has(
        text,
        &[
            "ide-cd,bus=ide.1,unit=0,id=ide2,bootindex=201",
            "ide-cd,bus=ide.0,unit=0,drive=drive-ide0,id=ide0,bootindex=200",
            "ahci,id=ahci0,multifunction=on,bus=pci.0,addr=0x7",
            "ide-hd,bus=ahci0.0,drive=drive-sata0,id=sata0,serial=ZTM09FD7,write-cache=off",
            "iothread,id=iothread-virtio0",
            "virtio-blk-pci,drive=drive-virtio0,id=virtio0,bus=pci.0,addr=0xa,iothread=iothread-virtio0,write-cache=on",
            "lsi,id=scsihw0,bus=pci.0,addr=0x5",
            "lsi,id=scsihw1,bus=pci.0,addr=0x6",
            "scsi-hd,bus=scsihw1.0,scsi-id=1,drive=drive-scsi8,id=scsi8,device_id=drive-scsi8,write-cache=on",
        ],
    );
    let command = build(text).unwrap().join(" ");
    for part in [
        r#""driver":"host_device","filename":"/dev/sdb""#,
        r#""driver":"qcow2","file":{"aio":"io_uring","cache":{"direct":true,"no-flush":false},"detect-zeroes":"on","discard":"ignore","driver":"file","filename":"/var/lib/vz/images/100/vm-100-disk-0.qcow2""#,
        r#""filename":"/var/lib/vz/template/iso/a.iso","read-only":true}"#,
        r#""filename":"/b.qcow2""#,
    ] {
        assert!(command.contains(part), "{part} is not in {command}");
    }
    has(
        "machine: q35\nide1: none,media=cdrom\n",
        &["ide-cd,bus=ide.2,unit=0,id=ide1,bootindex=200"],
    );
    has(
        "scsihw: virtio-scsi-single\nscsi0: /a,iothread=1\nscsi1: /b\n",
        &[
            "pci-bridge,id=pci.3,chassis_nr=3,bus=pci.0,addr=0x5",
            "virtio-scsi-pci,id=virtioscsi0,bus=pci.3,addr=0x1,iothread=iothread-virtioscsi0",
            "scsi-hd,bus=virtioscsi1.0,channel=0,scsi-id=0,lun=1,drive=drive-scsi1,id=scsi1,device_id=drive-scsi1,write-cache=on",
        ],
    );
}

#[test]
fn everything_else() {
    has(
        "net0: virtio=BC:24:11:00:00:01,bridge=vmbr0\nnet1: e1000\nserial1: /dev/ttyS0\nsockets: 2\nvcpus: 1\n",
        &[
            "hubport,id=net0,hubid=0",
            "virtio-net-pci,mac=BC:24:11:00:00:01,netdev=net0,bus=pci.0,addr=0x12,id=net0,bootindex=300,romfile=",
            "e1000,netdev=net1,bus=pci.0,addr=0x13,id=net1,bootindex=301,romfile=",
            "serial,id=serial1,path=/dev/ttyS0",
            "1,sockets=2,cores=1,maxcpus=2",
        ],
    );
    has(
        "args: -S -fw_cfg 'name=a b'\nagent: enabled=1,type=isa\nacpi: 0\nmachine: pc-q35-9.2+pve1,viommu=intel\n",
        &[
            "-S",
            "name=a b",
            "isa-serial,chardev=qga0",
            "acpi=off,accel=kvm,type=pc-q35-9.2,kernel-irqchip=split",
            "intel-iommu,intremap=on,caching-mode=on",
        ],
    );
    let coded =
        "smbios1: uuid=3dd750ce-d910-44d0-9493-525c0be4e687,base64=1,product=TkFTLCBvbmU=\n";
    has(
        coded,
        &["type=1,product=NAS,, one,uuid=3dd750ce-d910-44d0-9493-525c0be4e687"],
    );
    let command = build("agent: 0\nballoon: 0\nvga: none\ntablet: 0\n")
        .unwrap()
        .join(" ");
    for absent in ["qga", "balloon", "usb", "VGA"] {
        assert!(!command.contains(absent), "{absent} is in {command}");
    }
}

#[test]
fn refusals() {
    for (text, message) in [
        ("cores: 9\n", "MAX 8 vcpus allowed per VM on this node"),
        ("serial0: /dev/ttyS9\n", "no such serial device"),
        (
            "bios: ovmf\n",
            "EFI base image '/usr/share/OVMF/OVMF_CODE_4M.fd' not found",
        ),
        (
            "arch: aarch64\n",
            "don't know how to emulate architecture 'aarch64'",
        ),
        (
            "net0: virtio,bridge=vmbr7\n",
            "bridge 'vmbr7' does not exist",
        ),
        (
            "scsi0: local-lvm:vm-100-disk-0\n",
            "storage 'local-lvm' does not exist",
        ),
        (
            "hostpci0: 00:1f.2,pcie=1\n",
            "q35 machine model is not enabled",
        ),
    ] {
        assert_eq!(build(text).unwrap_err(), message, "{text}");
    }
}
