//! Corrections of faults that the archive's programs are known to have, made in the unpacked program itself.
//!
//! A program built anew from its source would be the better way and takes longer than all images together. What is done here
//! is found by what the code does, not by where it stands, and a program that looks otherwise is left as it is, which the
//! manifest and the build say.

use std::fs::{self, File};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;

use iced_x86::{
    Decoder, DecoderOptions, Instruction, InstructionInfoFactory, OpAccess, OpKind, Register,
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
}

impl Correction {
    /// Makes the correction below `root`, and says what was done or why nothing could be.
    pub(crate) fn apply(self, root: &Path) -> Result<Outcome> {
        match self {
            Self::SvmInterruptTwice => {
                let path = root.join("usr/bin/qemu-system-x86_64");
                let program = fs::read(&path).map_err(Error::io("read", &path))?;
                let note = match vector_note(&program) {
                    Ok(note) => note,
                    Err(reason) => return Ok(Outcome::Left(reason)),
                };
                let nothing = vec![NOP; note.len()];
                File::options()
                    .write(true)
                    .open(&path)
                    .and_then(|file| file.write_all_at(&nothing, note.start as u64))
                    .map_err(Error::io("write", &path))?;
                Ok(Outcome::Made(format!(
                    "qemu-system-x86_64: {} bytes at {:#x} do nothing now",
                    note.len(),
                    note.start
                )))
            }
        }
    }
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

/// Where QEMU's file holds the instruction by which `helper_vmrun` notes the vector of an interrupt that it injects.
fn vector_note(program: &[u8]) -> Result<Range<usize>, String> {
    let file = object::File::parse(program).map_err(|error| error.to_string())?;
    let symbol = |name: &str| {
        file.dynamic_symbols()
            .find(|symbol| symbol.name() == Ok(name))
            .map(|symbol| symbol.address()..symbol.address() + symbol.size())
            .ok_or_else(|| format!("it exports no {name}"))
    };
    let vmrun = symbol("helper_vmrun")?;
    let deliver = symbol("do_interrupt_x86_hardirq")?.start;
    let offset = file
        .segments()
        .find(|segment| {
            let held = segment.address()..segment.address() + segment.file_range().1;
            held.contains(&vmrun.start) && vmrun.end <= held.end
        })
        .map(|segment| segment.file_range().0 + (vmrun.start - segment.address()))
        .and_then(|offset| usize::try_from(offset).ok())
        .ok_or("helper_vmrun is not in the file")?;
    let length = usize::try_from(vmrun.end - vmrun.start).map_err(|error| error.to_string())?;
    let code = program
        .get(offset..offset + length)
        .ok_or("helper_vmrun is not in the file")?;
    let note = note_in(code, vmrun.start, deliver)?;
    let start = offset + note.start;
    Ok(start..start + note.len())
}

/// The same within the code of `helper_vmrun`, which is loaded at `address` and calls `deliver`.
fn note_in(code: &[u8], address: u64, deliver: u64) -> Result<Range<usize>, String> {
    let instructions: Vec<Instruction> = Decoder::with_ip(64, code, address, DecoderOptions::NONE)
        .into_iter()
        .collect();
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
        let outcome = Correction::SvmInterruptTwice.apply(dir.path()).unwrap();
        assert!(matches!(outcome, Outcome::Left(_)), "{outcome:?}");
    }
}
