//! `knockctl completions`: what a shell needs to complete the three programs' command lines.

use std::io::{self, Write};

use clap::ValueEnum;
use clap_complete::Shell;

use super::error::Error;
use super::status;
use super::target::Target;
use crate::{client, keeper};

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
        Script::Doors => return print(&doors(target)?),
        Script::Clients => return print(&clients(target)?),
    };
    let programs = Program::value_variants().iter().copied();
    let wanted = programs.filter(|program| args.program.is_none_or(|only| only == *program));
    let scripts: String = wanted.map(|program| script(shell, program)).collect();
    Ok(io::stdout().write_all(scripts.as_bytes())?)
}

fn print(names: &[String]) -> Result<(), Error> {
    let lines: String = names.iter().map(|name| format!("{name}\n")).collect();
    Ok(io::stdout().write_all(lines.as_bytes())?)
}

fn clients(target: &Target) -> Result<Vec<String>, Error> {
    Ok(target.load()?.config.clients.iter().map(|client| client.name.to_string()).collect())
}

/// The doors of the running daemon; where none answers, those of the configuration.
fn doors(target: &Target) -> Result<Vec<String>, Error> {
    if let Ok(status) = target.daemon().and_then(|mut daemon| status::ask(&mut daemon)) {
        return Ok(status.doors.iter().map(|door| door.door.to_string()).collect());
    }
    Ok(target.load()?.config.doors.iter().map(|door| door.name().to_string()).collect())
}

fn script(shell: Shell, program: Program) -> String {
    let (name, mut command) = match program {
        Program::Knock => ("knock", client::cli::command()),
        Program::Knockd => ("knockd", keeper::cli::command()),
        Program::Knockctl => ("knockctl", super::command()),
    };
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command, name, &mut script);
    let script = String::from_utf8_lossy(&script);
    match (program, shell) {
        (Program::Knockctl, Shell::Bash) => format!("{script}{NAMES_BASH}"),
        (Program::Knockctl, Shell::Fish) => format!("{script}{NAMES_FISH}"),
        (Program::Knockctl, Shell::Zsh) => with_names_zsh(&script),
        _ => script.into_owned(),
    }
}

const NAMES_BASH: &str = r#"
_knockctl_names() {
    local at config=() names of
    case "$3" in
        open|close|sequence|--door) of=doors ;;
        enroll|revoke|reset) of=clients ;;
        *) [[ ${COMP_WORDS[COMP_CWORD - 2]} == sequence ]] || return 1
            of=clients ;;
    esac
    [[ $2 == -* ]] && return 1
    for ((at = 1; at + 1 < COMP_CWORD; at++)); do
        case "${COMP_WORDS[at]}" in
            -c|--config) config=(-c "${COMP_WORDS[at + 1]}") ;;
        esac
    done
    names=$("$1" "${config[@]}" completions "$of" 2>/dev/null) || return 1
    COMPREPLY=($(compgen -W "$names" -- "$2"))
}

_knockctl_and_names() {
    _knockctl_names "$@" || _knockctl "$@"
}

complete -F _knockctl_and_names -o bashdefault -o default knockctl
"#;

const NAMES_FISH: &str = r#"
function __fish_knockctl_names
    set -l words (commandline -opc)
    set -l config
    if set -l at (contains -i -- -c $words; or contains -i -- --config $words)
        set config -c $words[(math $at + 1)]
    end
    knockctl $config completions $argv[1] 2>/dev/null
end
function __fish_knockctl_wants_door
    contains -- (commandline -opc)[-1] open close sequence
end
function __fish_knockctl_wants_client
    set -l words (commandline -opc)
    contains -- $words[-1] enroll revoke reset; or contains -- $words[-2] sequence
end
complete -c knockctl -n "__fish_knockctl_wants_door" -f -a "(__fish_knockctl_names doors)"
complete -c knockctl -n "__fish_knockctl_wants_client" -f -a "(__fish_knockctl_names clients)"
complete -c knockctl -n "__fish_knockctl_using_subcommand history" -l door -r -f -a "(__fish_knockctl_names doors)"
complete -c knockctl -n "__fish_knockctl_using_subcommand enroll" -l door -r -f -a "(__fish_knockctl_names doors)"
"#;

const NAMES_ZSH: &str = r#"
(( $+functions[_knockctl_names] )) ||
_knockctl_names() {
    local -a line=(${(z)BUFFER}) config names
    local at=${line[(I)(-c|--config)]}
    (( at > 0 && at < ${#line} )) && config=(-c "${(Q)line[at + 1]}")
    names=(${(f)"$(_call_program $1 knockctl ${(q)config} completions $1 2>/dev/null)"})
    compadd -a names
}
(( $+functions[_knockctl_doors] )) || _knockctl_doors() { _knockctl_names doors }
(( $+functions[_knockctl_clients] )) || _knockctl_clients() { _knockctl_names clients }
"#;

/// Where the script would complete the name of a door or a client as a file, it asks for those.
fn with_names_zsh(script: &str) -> String {
    let mut lines = script.lines();
    // `#compdef` has to stay the first line.
    let mut with = format!("{}\n{NAMES_ZSH}", lines.next().unwrap_or_default());
    let doors = ["':door -- ", "'::door -- ", "'--door=[", "'*--door=["];
    let clients = ["':client -- ", "'::client -- "];
    for line in lines {
        let is = |starts: &[&str]| starts.iter().any(|start| line.trim_start().starts_with(start));
        with.push_str(&if is(&doors) {
            line.replace(":_default'", ":_knockctl_doors'")
        } else if is(&clients) {
            line.replace(":_default'", ":_knockctl_clients'")
        } else {
            line.to_owned()
        });
        with.push('\n');
    }
    with
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zsh_asks_for_names_wherever_one_is_wanted() {
        let script = script(Shell::Zsh, Program::Knockctl);
        assert!(script.starts_with("#compdef knockctl\n"));
        // open, close, history --door, enroll --door, sequence.
        assert_eq!(script.matches(":_knockctl_doors'").count(), 5);
        // enroll, revoke, client reset, sequence.
        assert_eq!(script.matches(":_knockctl_clients'").count(), 4);
    }

    #[test]
    fn the_functions_that_are_leant_on_exist() {
        assert!(script(Shell::Bash, Program::Knockctl).contains("_knockctl() {"));
        let fish = script(Shell::Fish, Program::Knockctl);
        assert!(fish.contains("function __fish_knockctl_using_subcommand"));
    }
}
