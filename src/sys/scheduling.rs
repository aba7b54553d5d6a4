//! The slices of the processor that this process gets, and how exactly it wakes: short ones come
//! sooner.

use nix::errno::Errno;
use nix::libc;
use nix::sys::prctl;

/// The shortest slice that the kernel gives, in nanoseconds.
const SHORTEST: u64 = 100_000;
/// `SCHED_OTHER` and `SCHED_BATCH`: whoever chose another policy has chosen slices with it.
const FAIR: [u32; 2] = [0, 3];

/// Asks for the shortest slices there are, for this process and those that it starts: whoever takes
/// short ones need not wait until others have ended their long ones. Its share stays the same.
///
/// Linux 6.12 and later; earlier kernels give the same slices to all, and nothing changes. What it
/// gains on a busy machine is in docs/BENCHMARKS.md.
///
/// # Errors
/// When the kernel refuses; a daemon can do without.
pub fn request_short_slices() -> Result<(), Errno> {
    let mut attributes = read()?;
    if !FAIR.contains(&attributes.sched_policy) {
        return Ok(());
    }
    attributes.sched_runtime = SHORTEST;
    // SAFETY: the kernel reads as many bytes as `size` says, which the kernel has set to no more
    // than the structure has. 0 names the calling thread; no flags.
    Errno::result(unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0) })?;
    Ok(())
}

/// Asks for waits that end when they are meant to, and not up to 50 µs later, for this process.
///
/// # Errors
/// When the kernel refuses; waits are longer then.
pub fn request_exact_waits() -> Result<(), Errno> {
    prctl::set_timerslack(1)
}

fn read() -> Result<libc::sched_attr, Errno> {
    // SAFETY: plain integers, for which zero is a value.
    let mut attributes: libc::sched_attr = unsafe { std::mem::zeroed() };
    let size = size_of::<libc::sched_attr>();
    // SAFETY: the kernel writes at most `size` bytes, the size of the structure.
    let read = unsafe { libc::syscall(libc::SYS_sched_getattr, 0, &raw mut attributes, size, 0) };
    Errno::result(read)?;
    Ok(attributes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_are_short_where_the_kernel_knows_of_them_and_all_else_stays() {
        std::thread::spawn(|| {
            let before = read().unwrap();
            request_short_slices().unwrap();
            let after = read().unwrap();
            // Kernels before 6.12 neither take nor tell the length of a slice.
            assert!([SHORTEST, before.sched_runtime].contains(&after.sched_runtime));
            assert_eq!(after.sched_nice, before.sched_nice);
            assert_eq!(after.sched_policy, before.sched_policy);
        })
        .join()
        .unwrap();
    }
}
