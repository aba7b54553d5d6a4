//! The only reader of clocks.

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

use crate::time::{Monotonic, Now, Wall};

/// What time it is: `CLOCK_BOOTTIME` and `CLOCK_REALTIME`.
#[must_use]
pub fn now() -> Now {
    Now {
        monotonic: Monotonic::from_nanos(read(ClockId::CLOCK_BOOTTIME)),
        wall: Wall::from_nanos(read(ClockId::CLOCK_REALTIME)),
    }
}

#[expect(clippy::disallowed_methods, reason = "this is where clocks are read")]
fn read(clock: ClockId) -> u64 {
    // Both clocks exist on every kernel that has network namespaces; a clock before 1970 is 0.
    clock_gettime(clock)
        .map(Duration::from)
        .map_or(0, |time| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX))
}
