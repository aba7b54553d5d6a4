//! The kernel's own check of a filter's program, made before the capture is.

use pcap::{BpfInstruction, BpfProgram};
use socket2::{Domain, SockFilter, Socket, Type};

/// Whether the kernel takes a program that libpcap has compiled.
///
/// What libpcap's optimiser leaves of some filters reads a cell of scratch memory that not every
/// way there has written. The kernel refuses that, and libpcap then has the filter run by the
/// process, to which every packet is copied.
pub(super) fn is_loadable(program: &BpfProgram) -> bool {
    is_taken(program.get_instructions().iter().map(read))
}

/// Code, jumps if true and if false, and operand.
type Instruction = [u32; 4];

/// The crate shows an instruction in no other way.
fn read(instruction: &BpfInstruction) -> Instruction {
    let text = instruction.to_string();
    let mut numbers = text.split(' ').map(|number| number.parse().unwrap_or(0));
    std::array::from_fn(|_| numbers.next().unwrap_or(0))
}

/// Tries it at a socket of its own, to which nothing comes.
fn is_taken(instructions: impl Iterator<Item = Instruction>) -> bool {
    let one = |[code, if_true, if_false, operand]: Instruction| {
        SockFilter::new(code as u16, if_true as u8, if_false as u8, operand)
    };
    let filter: Vec<SockFilter> = instructions.map(one).collect();
    let socket = Socket::new(Domain::UNIX, Type::DGRAM, None);
    u16::try_from(filter.len()).is_ok()
        && socket.and_then(|socket| socket.attach_filter(&filter)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const STORE_3: Instruction = [0x02, 0, 0, 3];
    const LOAD_3: Instruction = [0x60, 0, 0, 3];
    const IF_EQUAL: Instruction = [0x15, 1, 0, 0];
    const RETURN: Instruction = [0x06, 0, 0, 0];

    fn is_loadable(program: &[Instruction]) -> bool {
        is_taken(program.iter().copied())
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
