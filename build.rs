//! Links `knock` with no shared library but C's. The standard library asks for the shared unwinder,
//! and to find and load that takes a tenth of the time until a packet leaves.

use std::path::Path;
use std::{env, fs};

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    if env::var("TARGET").is_ok_and(|target| target.ends_with("-linux-gnu")) {
        let directory = env::var("OUT_DIR").expect("cargo names it");
        // Found before the shared library of that name, and read as a script of the linker's.
        let script = Path::new(&directory).join("libgcc_s.so");
        fs::write(script, "GROUP ( -lgcc_eh -lgcc )\n").expect("the directory is there");
        println!("cargo:rustc-link-arg-bin=knock=-L{directory}");
    }
}
