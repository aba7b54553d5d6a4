//! The kernel's own check of a filter's program, made before the kernel does.

use pcap::{BpfInstruction, BpfProgram};

/// How many instructions the kernel takes.
const MOST: usize = 4_096;
/// Loads from and stores to a cell of scratch memory; a jump that is always taken.
const LOADS: [u32; 2] = [0x60, 0x61];
const STORES: [u32; 2] = [0x02, 0x03];
const ALWAYS: u32 = 0x05;
const JUMP: u32 = 0x05;
const CLASS: u32 = 0x07;

/// Whether the kernel takes a program that libpcap has compiled.
///
/// What libpcap's optimiser leaves of some filters reads a cell of scratch memory that not every
/// way there has written. The kernel refuses that, and libpcap then has the filter run by the
/// process, to which every packet is copied.
pub(super) fn is_loadable(program: &BpfProgram) -> bool {
    let instructions = program.get_instructions();
    instructions.len() <= MOST && is_written_before_it_is_read(instructions.iter().map(read))
}

/// Code, jumps if true and if false, and operand.
type Instruction = [u32; 4];

/// The crate shows an instruction in no other way.
fn read(instruction: &BpfInstruction) -> Instruction {
    let text = instruction.to_string();
    let mut numbers = text.split(' ').map(|number| number.parse().unwrap_or(0));
    std::array::from_fn(|_| numbers.next().unwrap_or(0))
}

/// The kernel's own rule. All jumps lead forward.
fn is_written_before_it_is_read(instructions: impl ExactSizeIterator<Item = Instruction>) -> bool {
    // Which cells every way to an instruction has written.
    let mut written = vec![u32::MAX; instructions.len()];
    let mut so_far = 0;
    for (at, [code, if_true, if_false, operand]) in instructions.enumerate() {
        so_far &= written[at];
        let cell = 1u32.checked_shl(operand).unwrap_or(0);
        if STORES.contains(&code) {
            so_far |= cell;
        } else if LOADS.contains(&code) && so_far & cell == 0 {
            return false;
        } else if code & CLASS == JUMP {
            let steps = if code == ALWAYS { [operand, operand] } else { [if_true, if_false] };
            for step in steps {
                let to = usize::try_from(step).ok().and_then(|step| (at + 1).checked_add(step));
                if let Some(cells) = to.and_then(|to| written.get_mut(to)) {
                    *cells &= so_far;
                }
            }
            so_far = u32::MAX;
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    const STORE_3: Instruction = [0x02, 0, 0, 3];
    const LOAD_3: Instruction = [0x60, 0, 0, 3];
    const IF_EQUAL: Instruction = [0x15, 1, 0, 0];
    const RETURN: Instruction = [0x06, 0, 0, 0];

    fn is_loadable(program: &[Instruction]) -> bool {
        is_written_before_it_is_read(program.iter().copied())
    }

    #[test]
    fn what_is_read_has_to_be_written_on_every_way_there() {
        assert!(is_loadable(&[RETURN]));
        assert!(is_loadable(&[STORE_3, LOAD_3, RETURN]));
        assert!(!is_loadable(&[LOAD_3, RETURN]));
        // One of two ways leads around the store.
        assert!(!is_loadable(&[IF_EQUAL, STORE_3, LOAD_3, RETURN]));
        assert!(is_loadable(&[STORE_3, IF_EQUAL, RETURN, LOAD_3, RETURN]));
    }

    #[test]
    fn a_jump_that_leads_nowhere_does_not_make_it_panic() {
        assert!(!is_loadable(&[[0x05, 0, 0, u32::MAX], [0x15, 255, 255, 0], [0x60, 0, 0, 99]]));
    }
}
