//! Corrections of faults that the archive's programs are known to have, made in the unpacked program itself.
//!
//! A program built anew from its source would be the better way. That takes four minutes on two cores, a compiler with QEMU's
//! build tools, and the source of this very version, which not every mirror of the archive holds; and it is no faster: with
//! `-O3`, optimization at link time and without checked casts the procedure took as long as with the archive's (164.1 and
//! 164.0 s). What is done here is found by what the code does, not by where it stands, and a program that looks otherwise is
//! left as it is, which the manifest and the build say.

use std::fs::{self, File};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;

use iced_x86::{
    Code, Decoder, DecoderOptions, Instruction, InstructionInfoFactory, OpAccess, OpKind, Register,
};
use object::{Object, ObjectSegment, ObjectSymbol};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// A fault that can be corrected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, strum::Display)]
#[serde(rename_all = "kebab-case")]
#[strum(serialize_all = "kebab-case")]
pub(crate) enum Correction {
    /// QEMU's software emulation of AMD's `VMRUN` can deliver an injected interrupt twice.
    ///
    /// `helper_vmrun` notes the interrupt's vector as a pending exception and delivers it at once, and the note stays. Should
    /// the virtual processor be asked to leave its loop before anything else clears the note, the vector is delivered
    /// a second time, whether the guest has masked interrupts or not. A guest of a guest then waits for a lock that it holds
    /// itself, or ends in a triple fault. An interrupt needs no note, so the instruction that writes it is taken out.
    SvmInterruptTwice,
    /// QEMU's software emulation lets any virtual processor overwrite flags of the first one.
    ///
    /// `cpu_clear_ignne`, called by whichever processor loads the state of its FPU (`FXRSTOR` and the like: at each switch from
    /// task to task), clears a flag of the *first* processor, and not atomically: it reads and writes a word in which that
    /// processor itself, on another thread, changes whether its interrupts are let through and whether its page tables are
    /// those of a nested guest. One change of the two is lost. The first processor then takes itself for one that runs its
    /// nested guest and stores its own state as the guest's, or lets no interrupt through any more. `cpu_set_ignne` has the same
    /// fault. Both are made atomic.
    FpuFlagRace,
}

impl Correction {
    /// Makes the correction below `root`, and says what was done or why nothing could be.
    pub(crate) fn apply(self, root: &Path) -> Result<Outcome> {
        let path = root.join("usr/bin/qemu-system-x86_64");
        let program = fs::read(&path).map_err(Error::io("read", &path))?;
        let patches = match self.patches(&program) {
            Ok(patches) => patches,
            Err(reason) => return Ok(Outcome::Left(reason)),
        };
        let file = File::options()
            .write(true)
            .open(&path)
            .map_err(Error::io("open", &path))?;
        for patch in &patches {
            file.write_all_at(&patch.code, patch.at as u64)
                .map_err(Error::io("write", &path))?;
        }
        let places: Vec<String> = patches
            .iter()
            .map(|patch| format!("{} bytes at {:#x}", patch.code.len(), patch.at))
            .collect();
        let what = match self {
            Self::SvmInterruptTwice => "do nothing now",
            Self::FpuFlagRace => "are atomic now",
        };
        Ok(Outcome::Made(format!(
            "qemu-system-x86_64: {} {what}",
            places.join(" and ")
        )))
    }

    fn patches(self, program: &[u8]) -> Result<Vec<Patch>, String> {
        let file = object::File::parse(program).map_err(|error| error.to_string())?;
        match self {
            Self::SvmInterruptTwice => {
                let vmrun = Function::find(&file, program, "helper_vmrun")?;
                let deliver = address_of(&file, "do_interrupt_x86_hardirq")?.start;
                let note = note_in(vmrun.code, vmrun.address, deliver)?;
                Ok(vec![Patch {
                    at: vmrun.offset + note.start,
                    code: vec![NOP; note.len()],
                }])
            }
            Self::FpuFlagRace => ["cpu_clear_ignne", "cpu_set_ignne"]
                .into_iter()
                .map(|name| {
                    let function = Function::find(&file, program, name)?;
                    let patch = atomic_flag(function.code, function.address)
                        .map_err(|reason| format!("{name} {reason}"))?;
                    Ok(Patch {
                        at: function.offset + patch.at,
                        code: patch.code,
                    })
                })
                .collect(),
        }
    }
}

/// Other code in place of some.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Patch {
    /// Where.
    at: usize,
    /// As many bytes as were there.
    code: Vec<u8>,
}

/// What became of a correction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It was made, and so.
    Made(String),
    /// The program is as it came, for this reason.
    Left(String),
}

const NOP: u8 = 0x90;
/// The number of the non-maskable interrupt among the exceptions.
const NMI: u32 = 2;

/// The flag among a processor's by which an FPU's error goes unheard.
const IGNNE: u32 = 0x80;

/// A function that a program exports.
struct Function<'a> {
    /// Where the file holds it.
    offset: usize,
    /// Where it is loaded.
    address: u64,
    code: &'a [u8],
}

fn address_of(file: &object::File<'_>, name: &str) -> Result<Range<u64>, String> {
    file.dynamic_symbols()
        .find(|symbol| symbol.name() == Ok(name))
        .map(|symbol| symbol.address()..symbol.address() + symbol.size())
        .ok_or_else(|| format!("it exports no {name}"))
}

impl<'a> Function<'a> {
    fn find(file: &object::File<'_>, program: &'a [u8], name: &str) -> Result<Self, String> {
        let place = address_of(file, name)?;
        let missing = || format!("{name} is not in the file");
        let offset = file
            .segments()
            .find(|segment| {
                let held = segment.address()..segment.address() + segment.file_range().1;
                held.contains(&place.start) && place.end <= held.end
            })
            .map(|segment| segment.file_range().0 + (place.start - segment.address()))
            .and_then(|offset| usize::try_from(offset).ok())
            .ok_or_else(missing)?;
        let length = usize::try_from(place.end - place.start).map_err(|error| error.to_string())?;
        Ok(Function {
            offset,
            address: place.start,
            code: program.get(offset..offset + length).ok_or_else(missing)?,
        })
    }
}

fn instructions(code: &[u8], address: u64) -> Vec<Instruction> {
    Decoder::with_ip(64, code, address, DecoderOptions::NONE)
        .into_iter()
        .collect()
}

/// A flag is changed in a word of 32 bits. The same on the one byte that holds it, and atomic, is two bytes shorter.
fn atomic_flag(code: &[u8], address: u64) -> Result<Patch, String> {
    let instructions = instructions(code, address);
    let mut changes = instructions.iter().filter(|one| {
        let flag = match one.code() {
            Code::And_rm32_imm32 => one.immediate32() == !IGNNE,
            Code::Or_rm32_imm32 => one.immediate32() == IGNNE,
            _ => false,
        };
        // An address relative to the instruction's end would be another one's.
        flag && one.op0_kind() == OpKind::Memory && !one.is_ip_rel_memory_operand()
    });
    let (Some(change), None) = (changes.next(), changes.next()) else {
        return Err("changes no flag in one place".to_owned());
    };
    let at = usize::try_from(change.ip() - address).map_err(|error| error.to_string())?;
    let old = &code[at..at + change.len()];
    let opcode = old.iter().position(|byte| *byte == WORD_BY_WORD);
    let opcode = opcode.ok_or("has an instruction that is not understood")?;
    let (operands, number) = old[opcode + 1..].split_at(old.len() - opcode - 1 - 4);
    let mut new = vec![LOCK];
    new.extend(&old[..opcode]);
    new.push(BYTE_BY_BYTE);
    new.extend(operands);
    new.push(number[0]);
    new.resize(old.len(), NOP);
    Ok(Patch { at, code: new })
}

const LOCK: u8 = 0xf0;
/// The opcode of arithmetic on a word in memory with a number of four bytes.
const WORD_BY_WORD: u8 = 0x81;
/// The same on a byte with a number of one.
const BYTE_BY_BYTE: u8 = 0x80;

/// The instruction by which `helper_vmrun`, which is loaded at `address` and calls `deliver`, notes the vector of an interrupt
/// that it injects.
fn note_in(code: &[u8], address: u64, deliver: u64) -> Result<Range<usize>, String> {
    let instructions = instructions(code, address);
    let mut calls = instructions
        .iter()
        .enumerate()
        .filter(|(_, one)| one.is_call_near() && one.near_branch_target() == deliver)
        .map(|(index, _)| index);
    let (Some(call), None) = (calls.next(), calls.next()) else {
        return Err("helper_vmrun does not deliver an interrupt in one place".to_owned());
    };
    // The vector is the call's second argument. From where it is loaded, it is stored once, if it is noted at all.
    let mut info = InstructionInfoFactory::new();
    let loaded = instructions[..call]
        .iter()
        .rposition(|one| {
            info.info(one).used_registers().iter().any(|used| {
                used.register().full_register() == Register::RSI
                    && !matches!(used.access(), OpAccess::Read | OpAccess::CondRead)
            })
        })
        .ok_or("the vector's origin was not found")?;
    let stores = |one: &Instruction| {
        one.op0_kind() == OpKind::Memory
            && one.op_count() == 2
            && one.op1_kind() == OpKind::Register
            && one.op1_register() == Register::ESI
            && one.memory_base() != Register::RSP
    };
    let mut notes = instructions[loaded..call].iter().filter(|one| stores(one));
    let (Some(note), None) = (notes.next(), notes.next()) else {
        return Err("helper_vmrun notes no vector before it delivers it".to_owned());
    };
    // That this is the note of a pending exception is seen by the number of the NMI, which goes to the same place.
    let same_place = |one: &Instruction| {
        one.op0_kind() == OpKind::Memory
            && one.memory_base() == note.memory_base()
            && one.memory_index() == Register::None
            && one.memory_displacement64() == note.memory_displacement64()
    };
    let is_nmi = |one: &Instruction| {
        one.op_count() == 2 && one.op1_kind() == OpKind::Immediate32 && one.immediate32() == NMI
    };
    if note.memory_index() != Register::None
        || !instructions
            .iter()
            .any(|one| same_place(one) && is_nmi(one))
    {
        return Err("what helper_vmrun notes is not a pending exception".to_owned());
    }
    let start = usize::try_from(note.ip() - address).map_err(|error| error.to_string())?;
    Ok(start..start + note.len())
}

#[cfg(test)]
mod tests {
    use iced_x86::code_asm::*;

    use super::*;

    const ADDRESS: u64 = 0x8c_8d00;
    const DELIVER: u64 = 0x94_1650;
    const EXCEPTION: i32 = -0x3db0;

    /// A `helper_vmrun` in small: the NMI's case, and the interrupt's, with the note or without.
    fn vmrun(noted: bool, nmi: u32, calls: usize) -> Vec<u8> {
        let mut code = CodeAssembler::new(64).unwrap();
        let mut log = code.create_label();
        code.mov(dword_ptr(rbx + EXCEPTION), nmi).unwrap();
        code.movzx(esi, r12b).unwrap();
        code.mov(dword_ptr(rbx + 0x3480), r13d).unwrap();
        if noted {
            code.mov(dword_ptr(rbx + EXCEPTION), esi).unwrap();
        }
        code.mov(dword_ptr(rbx + 0x3484), 0).unwrap();
        code.jne(log).unwrap();
        code.mov(edx, 1).unwrap();
        code.mov(rdi, rbx).unwrap();
        for _ in 0..calls {
            code.call(DELIVER).unwrap();
        }
        code.ret().unwrap();
        code.set_label(&mut log).unwrap();
        code.mov(dword_ptr(rsp + 12), esi).unwrap();
        code.ret().unwrap();
        code.assemble(ADDRESS).unwrap()
    }

    #[test]
    fn the_note_is_found_by_what_it_does() {
        let code = vmrun(true, 2, 1);
        let found = note_in(&code, ADDRESS, DELIVER).unwrap();
        assert_eq!(
            code[found],
            [0x89, 0xb3, 0x50, 0xc2, 0xff, 0xff],
            "mov [rbx-0x3db0], esi"
        );
    }

    #[test]
    fn a_flag_is_changed_atomically() {
        const FLAGS: i32 = 0x41a4;
        let assemble = |write: &dyn Fn(&mut CodeAssembler)| {
            let mut code = CodeAssembler::new(64).unwrap();
            code.sub(rsp, 8).unwrap();
            write(&mut code);
            code.add(rsp, 8).unwrap();
            code.ret().unwrap();
            code.assemble(ADDRESS).unwrap()
        };
        let clear = assemble(&|code| code.and(dword_ptr(rax + FLAGS), !0x80).unwrap());
        let set = assemble(&|code| code.or(dword_ptr(r11 + FLAGS), 0x80).unwrap());
        for (code, instruction) in [
            (&clear, "lock and byte ptr [rax+41A4h],7Fh"),
            (&set, "lock or byte ptr [r11+41A4h],80h"),
        ] {
            let patch = atomic_flag(code, ADDRESS).unwrap();
            let mut corrected = code.clone();
            corrected.splice(patch.at..patch.at + patch.code.len(), patch.code);
            assert_eq!(corrected.len(), code.len());
            let said: Vec<String> = instructions(&corrected, ADDRESS)
                .iter()
                .map(ToString::to_string)
                .collect();
            assert_eq!(said[1], instruction);
            assert_eq!(said[2..], ["nop", "nop", "add rsp,8", "ret"]);
            let again = atomic_flag(&corrected, ADDRESS).unwrap_err();
            assert!(again.contains("no flag"), "{again}");
        }
        let twice = assemble(&|code| {
            for _ in 0..2 {
                code.and(dword_ptr(rax + FLAGS), !0x80).unwrap();
            }
        });
        let other = assemble(&|code| code.and(dword_ptr(rax + FLAGS), !0x40).unwrap());
        for code in [twice, other] {
            assert!(atomic_flag(&code, ADDRESS).is_err());
        }
    }

    #[test]
    fn a_program_that_looks_otherwise_is_left() {
        for (code, reason) in [
            (vmrun(false, 2, 1), "notes no vector"),
            (vmrun(true, 3, 1), "not a pending exception"),
            (vmrun(true, 2, 0), "in one place"),
            (vmrun(true, 2, 2), "in one place"),
        ] {
            let said = note_in(&code, ADDRESS, DELIVER).unwrap_err();
            assert!(said.contains(reason), "{said}");
        }
        let dir = tempfile::tempdir().unwrap();
        let bin = dir.path().join("usr/bin");
        fs::create_dir_all(&bin).unwrap();
        fs::write(bin.join("qemu-system-x86_64"), "#!/bin/sh\n").unwrap();
        for correction in [Correction::SvmInterruptTwice, Correction::FpuFlagRace] {
            let outcome = correction.apply(dir.path()).unwrap();
            assert!(matches!(outcome, Outcome::Left(_)), "{outcome:?}");
        }
    }
}
