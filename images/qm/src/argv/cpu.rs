//! `-cpu` (qemu-server, CPUConfig.pm, `get_cpu_options`).

use std::collections::BTreeMap;

use super::{CommandError, Facts, value_error};
use crate::config::{CPU, Section, cpu_vendor, parse_properties};

/// Proxmox's own models: QEMU's qemu64 with these flags.
const LEVELS: &[(&str, &str)] = &[
    ("x86-64-v2", "popcnt pni sse4.1 sse4.2 ssse3"),
    ("x86-64-v2-AES", "aes popcnt pni sse4.1 sse4.2 ssse3"),
    (
        "x86-64-v3",
        "aes popcnt pni sse4.1 sse4.2 ssse3 avx avx2 bmi1 bmi2 f16c fma abm movbe xsave",
    ),
    (
        "x86-64-v4",
        "aes popcnt pni sse4.1 sse4.2 ssse3 avx avx2 bmi1 bmi2 f16c fma abm movbe xsave avx512f avx512bw avx512cd \
         avx512dq avx512vl",
    ),
];

/// The value of `-cpu`.
pub fn model(
    config: &Section,
    kvm: bool,
    hide_kvm: bool,
    facts: &Facts,
) -> Result<String, CommandError> {
    let cpu = match config.get("cpu") {
        Some(value) => parse_properties(&CPU, value).map_err(value_error("cpu"))?,
        None => Default::default(),
    };
    let default = if kvm { "kvm64" } else { "qemu64" };
    let asked = cpu.get("cputype").map_or(default, String::as_str);
    let level = LEVELS
        .iter()
        .find(|(name, _)| *name == asked)
        .map(|(_, flags)| *flags);
    let model = if level.is_some() { "qemu64" } else { asked };

    let mut flags: BTreeMap<&str, String> = BTreeMap::new();
    let mut set = |name, text: &str| drop(flags.insert(name, text.to_owned()));
    if model == "kvm64" {
        set("lahf_lm", "+lahf_lm");
    }
    if matches!(model, "kvm64" | "kvm32") {
        set("sep", "+sep");
    }
    if config.get("ostype") == Some("solaris") {
        set("x2apic", "-x2apic");
    }
    if kvm {
        set("kvm_pv_unhalt", "+kvm_pv_unhalt");
        set("kvm_pv_eoi", "+kvm_pv_eoi");
    }
    for flag in level.unwrap_or_default().split_whitespace() {
        set(flag, &format!("+{flag}"));
    }
    for flag in cpu
        .get("flags")
        .into_iter()
        .flat_map(|flags| flags.split(';'))
    {
        let (sign, name) = flag.split_at(1);
        match (name, facts.virtualization) {
            ("nested-virt", Some(name)) => set(name, &format!("{sign}{name}")),
            ("nested-virt", None) => {}
            _ => set(name, flag),
        }
    }
    if model != "host" && kvm {
        set("enforce", "enforce");
    }
    if cpu.get("hidden").map_or(hide_kvm, |hidden| hidden == "1") {
        set("kvm", "kvm=off");
    }
    let vendor = cpu_vendor(model)
        .filter(|vendor| *vendor != "default")
        .map(|vendor| format!("vendor={vendor}"));
    if let Some(vendor) = &vendor {
        set("vendor", vendor);
    }
    let mut text = model.to_owned();
    for flag in flags.values() {
        text.push(',');
        text.push_str(flag);
    }
    if let Some(bits) = cpu.get("guest-phys-bits") {
        text.push_str(&format!(",guest-phys-bits={bits}"));
    }
    match cpu.get("phys-bits").map(String::as_str) {
        Some("host") => text.push_str(",host-phys-bits=true"),
        Some(bits) => text.push_str(&format!(",phys-bits={bits}")),
        None => {}
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, kvm: bool, expected: &str) {
        let (config, warnings) = crate::config::parse(100, text);
        assert_eq!(warnings, [""; 0]);
        let facts = Facts {
            virtualization: Some("svm"),
            ..Facts::default()
        };
        assert_eq!(
            model(&config.main, kvm, false, &facts).unwrap(),
            expected,
            "{text}"
        );
    }

    #[test]
    fn models() {
        check(
            "",
            true,
            "kvm64,enforce,+kvm_pv_eoi,+kvm_pv_unhalt,+lahf_lm,+sep",
        );
        check("", false, "qemu64");
        check("cpu: host", true, "host,+kvm_pv_eoi,+kvm_pv_unhalt");
        check(
            "cpu: host,hidden=1,flags=+aes",
            true,
            "host,+aes,kvm=off,+kvm_pv_eoi,+kvm_pv_unhalt",
        );
        check(
            "cpu: x86-64-v2-AES",
            true,
            "qemu64,+aes,enforce,+kvm_pv_eoi,+kvm_pv_unhalt,+pni,+popcnt,+sse4.1,+sse4.2,+ssse3",
        );
        check(
            "cpu: EPYC,flags=+nested-virt",
            true,
            "EPYC,enforce,+kvm_pv_eoi,+kvm_pv_unhalt,+svm,vendor=AuthenticAMD",
        );
        check("cpu: max,phys-bits=host", false, "max,host-phys-bits=true");
    }
}
