//! The process that speaks to the fleet's store: no privileges, one connection.

use std::process::ExitCode;

/// Runs the courier: reaches the store, and carries what the keeper and the store say.
pub fn run() -> ExitCode {
    ExitCode::FAILURE
}
