//! `knockctl`.

use std::process::ExitCode;

fn main() -> ExitCode {
    libknock::ctl::main()
}
