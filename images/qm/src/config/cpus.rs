//! The CPU models that a configuration may name (qemu-server, CPUConfig.pm).

use super::property::{FormatError, Properties};

const INTEL: &str = "486 pentium pentium2 pentium3 coreduo core2duo Conroe Penryn Nehalem Nehalem-IBRS Westmere \
    Westmere-IBRS SandyBridge SandyBridge-IBRS IvyBridge IvyBridge-IBRS Haswell Haswell-IBRS Haswell-noTSX \
    Haswell-noTSX-IBRS Broadwell Broadwell-IBRS Broadwell-noTSX Broadwell-noTSX-IBRS Skylake-Client \
    Skylake-Client-IBRS Skylake-Client-noTSX-IBRS Skylake-Client-v4 Skylake-Server Skylake-Server-IBRS \
    Skylake-Server-noTSX-IBRS Skylake-Server-v4 Skylake-Server-v5 Cascadelake-Server Cascadelake-Server-v2 \
    Cascadelake-Server-noTSX Cascadelake-Server-v4 Cascadelake-Server-v5 Cooperlake Cooperlake-v2 KnightsMill \
    Icelake-Client Icelake-Client-noTSX Icelake-Server Icelake-Server-noTSX Icelake-Server-v3 Icelake-Server-v4 \
    Icelake-Server-v5 Icelake-Server-v6 Icelake-Server-v7 SapphireRapids SapphireRapids-v2 SapphireRapids-v3 \
    SapphireRapids-v4 GraniteRapids GraniteRapids-v2 GraniteRapids-v3 SierraForest SierraForest-v2 SierraForest-v3 \
    ClearwaterForest";
const AMD: &str = "athlon phenom Opteron_G1 Opteron_G2 Opteron_G3 Opteron_G4 Opteron_G5 EPYC EPYC-IBPB EPYC-v3 EPYC-v4 \
    EPYC-v5 EPYC-Rome EPYC-Rome-v2 EPYC-Rome-v3 EPYC-Rome-v4 EPYC-Rome-v5 EPYC-Milan EPYC-Milan-v2 EPYC-Milan-v3 \
    EPYC-Genoa EPYC-Genoa-v2 EPYC-Turin";
const GENERIC: &str = "host kvm32 kvm64 qemu32 qemu64 max";
const LEVELS: &str = "x86-64-v2 x86-64-v2-AES x86-64-v3 x86-64-v4";
const FLAGS: &str = "nested-virt, md-clear, pcid, spec-ctrl, ssbd, ibpb, virt-ssbd, amd-ssbd, amd-no-ssb, pdpe1gb, \
                     hv-tlbflush, hv-evmcs, aes";

/// The vendor that a model reports; `default` is the host's own.
pub fn cpu_vendor(model: &str) -> Option<&'static str> {
    let among = |names: &str| names.split_whitespace().any(|name| name == model);
    if among(GENERIC) {
        Some("default")
    } else if among(INTEL) {
        Some("GenuineIntel")
    } else if among(AMD) {
        Some("AuthenticAMD")
    } else {
        None
    }
}

/// The rules for `cpu` that its format cannot say.
pub fn check_cpu(cpu: &Properties) -> Result<(), FormatError> {
    let refuse = |message: String| Err(FormatError::Other(message));
    let Some(model) = cpu.get("cputype") else {
        return refuse("CPU is missing cputype".to_owned());
    };
    if cpu_vendor(model).is_none() && !LEVELS.split_whitespace().any(|level| level == model) {
        return refuse(format!(
            "Built-in cputype '{model}' is not defined (missing 'custom-' prefix?)"
        ));
    }
    let allowed = |flag: &str| {
        FLAGS
            .split(", ")
            .any(|name| name == flag.trim_start_matches(['+', '-']))
    };
    if cpu
        .get("flags")
        .is_some_and(|flags| !flags.split(';').all(allowed))
    {
        return refuse(format!(
            "VM-specific CPU flags must be a subset of: {FLAGS}"
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::check_type;

    #[test]
    fn unknown_models_and_flags_do_not_parse() {
        assert_eq!(
            check_type("cpu", "host,flags=+aes;-pcid").as_deref(),
            Ok("host,flags=+aes;-pcid")
        );
        assert_eq!(check_type("cpu", "x86-64-v3").as_deref(), Ok("x86-64-v3"));
        let error = check_type("cpu", "hots").unwrap_err();
        assert_eq!(
            error.to_string(),
            "Built-in cputype 'hots' is not defined (missing 'custom-' prefix?)"
        );
        let error = check_type("cpu", "host,flags=+svm").unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("VM-specific CPU flags must be a subset of: nested-virt, "),
            "{error}"
        );
    }
}
