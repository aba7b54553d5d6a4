//! `knockctl completions`: what a shell needs to complete the three programs' command lines.

use std::fmt::Display;
use std::io::{self, Write};

use clap::{CommandFactory, ValueEnum};
use clap_complete::Shell;

use super::{Error, Knockctl, Target, status};
use crate::client::cli::KnockArgs;
use crate::config::Name;
use crate::keeper::cli::KnockdCli;

#[derive(Clone, Debug, clap::Args)]
pub(super) struct CompletionsArgs {
    /// The shell that the script is for
    #[arg(value_name = "SHELL")]
    script: Script,
    /// Only for this program
    program: Option<Program>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Script {
    Bash,
    Zsh,
    Fish,
    /// No script, but what the scripts ask for: the names of the doors, a line each.
    #[value(hide = true)]
    Doors,
    /// The same of the clients.
    #[value(hide = true)]
    Clients,
    /// What `close` can close: a door and an address a line.
    #[value(hide = true)]
    Grants,
    /// The addresses that are locked out.
    #[value(hide = true)]
    Locked,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Program {
    Knock,
    Knockd,
    Knockctl,
}

pub(super) fn run(target: &Target, args: &CompletionsArgs) -> Result<(), Error> {
    let shell = match args.script {
        Script::Bash => Shell::Bash,
        Script::Zsh => Shell::Zsh,
        Script::Fish => Shell::Fish,
        Script::Doors => return print(doors(target)?),
        Script::Clients => {
            return print(target.load()?.config.clients.iter().map(|client| &client.name));
        }
        Script::Grants => {
            let open = status::ask(target)?.grants;
            return print(open.iter().map(|it| format!("{} {}", it.door, it.address)));
        }
        Script::Locked => {
            return print(status::ask(target)?.locked_out.iter().map(|it| it.address));
        }
    };
    let programs = Program::value_variants().iter().copied();
    let wanted = programs.filter(|program| args.program.is_none_or(|only| only == *program));
    let scripts: String = wanted.map(|program| script(shell, program)).collect();
    Ok(io::stdout().write_all(scripts.as_bytes())?)
}

fn print<T: Display>(names: impl IntoIterator<Item = T>) -> Result<(), Error> {
    let lines: String = names.into_iter().map(|name| format!("{name}\n")).collect();
    Ok(io::stdout().write_all(lines.as_bytes())?)
}

/// The doors of the running daemon; where none answers, those of the configuration.
fn doors(target: &Target) -> Result<Vec<Name>, Error> {
    if let Ok(status) = status::ask(target) {
        return Ok(status.doors.iter().map(|door| door.door.clone()).collect());
    }
    Ok(target.load()?.config.doors.iter().map(|door| door.name().clone()).collect())
}

fn script(shell: Shell, program: Program) -> String {
    let (name, mut command) = match program {
        Program::Knock => ("knock", KnockArgs::command()),
        Program::Knockd => ("knockd", KnockdCli::command()),
        Program::Knockctl => ("knockctl", Knockctl::command()),
    };
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command, name, &mut script);
    // What is hidden in help is hidden here too.
    let script = String::from_utf8_lossy(&script).replace(" doors clients grants locked ", " ");
    let names = match (program, shell) {
        (Program::Knockd, _) => return script,
        (Program::Knock, Shell::Bash) => include_str!("completions/knock.bash"),
        (Program::Knock, Shell::Fish) => include_str!("completions/knock.fish"),
        (Program::Knock, _) => include_str!("completions/knock.zsh"),
        (Program::Knockctl, Shell::Bash) => include_str!("completions/knockctl.bash"),
        (Program::Knockctl, Shell::Fish) => include_str!("completions/knockctl.fish"),
        (Program::Knockctl, _) => include_str!("completions/knockctl.zsh"),
    };
    if shell == Shell::Zsh { with_names_zsh(&script, names) } else { script + "\n" + names }
}

/// How lines of a script for zsh begin that take a name, and what knows those.
const ZSH: [(&str, &str); 11] = [
    ("'::host -- ", "knock_hosts"),
    ("'--proxy=[", "knock_hosts"),
    ("':door -- ", "knockctl_doors"),
    ("'::door -- ", "knockctl_doors"),
    ("'*::doors -- ", "knockctl_doors"),
    ("'--door=[Only what", "knockctl_doors"),
    ("'*--door=[", "knockctl_doors"),
    ("':client -- ", "knockctl_clients"),
    ("'::client -- ", "knockctl_clients"),
    ("'::ip -- The address or network to close it for", "knockctl_grants"),
    ("':ip -- The address to listen to again", "knockctl_locked"),
];

/// Where the script would complete a name as a file, it asks for those that there are.
fn with_names_zsh(script: &str, functions: &str) -> String {
    // `#compdef` has to stay the first line.
    let script = script.replacen('\n', &format!("\n{functions}"), 1);
    let with_names = script.split_inclusive('\n').map(|line| {
        let found = ZSH.iter().find(|(start, _)| line.trim_start().starts_with(start));
        found.map_or_else(
            || line.to_owned(),
            |(_, of)| line.replacen(":_default", &format!(":_{of}"), 1),
        )
    });
    with_names.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zsh_asks_for_names_wherever_one_is_wanted() {
        let script = script(Shell::Zsh, Program::Knockctl);
        assert!(script.starts_with("#compdef knockctl\n"));
        // open, close, lock, status, history --door, enroll --door, sequence.
        assert_eq!(script.matches(":_knockctl_doors'").count(), 7);
        // enroll, revoke, client reset, sequence.
        assert_eq!(script.matches(":_knockctl_clients'").count(), 4);
        assert_eq!(script.matches(":_knockctl_grants'").count(), 1);
        assert_eq!(script.matches(":_knockctl_locked'").count(), 1);
    }

    #[test]
    fn the_functions_that_are_leant_on_exist() {
        assert!(script(Shell::Bash, Program::Knockctl).contains("_knockctl() {"));
        let fish = script(Shell::Fish, Program::Knockctl);
        assert!(fish.contains("function __fish_knockctl_using_subcommand"));
    }
}
