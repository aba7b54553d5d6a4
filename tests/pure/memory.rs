//! How much memory a door of the configuration takes: there may be thousands.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::fmt::Write;

use libknock::config::Config;
use libknock::config::diagnostic::SourceText;
use libknock::config::load::parse;

/// The system's allocator, which counts for each thread what it has in use: the other tests of this
/// program allocate as they always do, and are not counted.
struct Counting;

thread_local! {
    static IN_USE: Cell<isize> = const { Cell::new(0) };
}

fn count(bytes: isize) {
    // A thread that ends may free more than it can count.
    let _ = IN_USE.try_with(|in_use| in_use.set(in_use.get() + bytes));
}

// SAFETY: all is left to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size().cast_signed());
        // SAFETY: the caller sees to it.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(-layout.size().cast_signed());
        // SAFETY: the caller sees to it.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size.cast_signed() - layout.size().cast_signed());
        // SAFETY: the caller sees to it.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// What `make` leaves in use for each of a thousand doors, in bytes.
fn bytes_a_door<T>(make: impl FnOnce() -> T) -> isize {
    let before = IN_USE.get();
    let made = make();
    let after = IN_USE.get();
    drop(made);
    (after - before) / 1000
}

/// A thousand doors, each of these lines and three knocks that share no trip-wires.
fn config(lines: &str) -> Config {
    let long = "echo %IP% ".repeat(100);
    let mut text = format!("templates: {{long: {{open: '{long}', close: '{long}'}}}}\ndoors:\n");
    for door in 0..1000 {
        let port = 1000 + 60 * door;
        let knocks = format!("[{port}, {}, {}/udp]", port + 20, port + 40);
        writeln!(text, "  door{door:04}:\n    sequence: {knocks}\n    {lines}").unwrap();
    }
    let loaded = parse(&SourceText::new("text", text)).unwrap_or_else(|report| panic!("{report}"));
    loaded.config
}

#[test]
fn a_door_takes_less_than_a_kilobyte_whatever_the_commands_of_its_template() {
    let door = bytes_a_door(|| config("open: [22/tcp]\n    via: long"));
    assert!(door < 1024, "{door}");
}

#[test]
fn a_door_with_commands_of_its_own_holds_each_of_them_once() {
    let short = bytes_a_door(|| config("start_command: a\n    stop_command: b"));
    let long = "x".repeat(1000);
    let long = bytes_a_door(|| config(&format!("start_command: {long}\n    stop_command: {long}")));
    assert!((1900..2100).contains(&(long - short)), "{short} {long}");
}
