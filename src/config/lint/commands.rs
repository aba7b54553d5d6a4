//! Lints of the firewall commands of doors.

use super::doors::Linted;
use crate::config::{Command, Diagnostic};

/// Characters that text processors and web pages put where a command wants `-`, `'`, `"` or a
/// blank.
const TYPESET: &str = "\u{2010}\u{2011}\u{2012}\u{2013}\u{2014}\u{2212}\u{2018}\u{2019}\u{201c}\u{201d}\u{a0}\u{202f}";

/// Warnings about the commands of a door; `only_ipv4`: none runs for an IPv6 address.
pub(super) fn doubts(one: Linted<'_>, only_ipv4: bool) -> Vec<Diagnostic> {
    let opening = &one.door.opening;
    let at = one.places.of("via");
    let commands = opening.commands();
    let typeset = |it: &Command| it.to_string().chars().find(|c| TYPESET.contains(*c));
    let mut warnings = Vec::new();
    if let Some(c) = opening.all_commands().find_map(typeset) {
        let number = u32::from(c);
        let message = format!(
            "a command has '{c}' (U+{number:04X}) in it, which no command takes for a hyphen, a quote or a blank"
        );
        warnings.push(at.warning(message).help("type it anew: web pages change such characters"));
    }
    let is_ipv4 = only_ipv4 || one.door.recognition.target.is_some_and(|target| target.is_ipv4());
    let open_6 = commands.and_then(|commands| commands.v6.open.as_ref()).filter(|_| !is_ipv4);
    let Some(text) = open_6.map(ToString::to_string) else { return warnings };
    let own = "write one for IPv6 too (start_command_6, in a template open_6); an empty one opens nothing";
    if let Some(program) = ipv4_only(&text) {
        let message = format!("{program} takes no IPv6 address, and a knock over IPv6 runs this");
        warnings.push(at.warning(message).help(own));
    }
    // A network that is one address, or a few, of IPv4 alone.
    let widths = text
        .split("%IP%/")
        .skip(1)
        .filter_map(|after| after.split(|c: char| !c.is_ascii_digit()).next()?.parse::<u32>().ok());
    if let Some(width) = widths.into_iter().find(|width| (1..=32).contains(width)) {
        let message = format!("%IP%/{width} opens 2^{} addresses over IPv6", 128 - width);
        warnings.push(at.warning(message).help(format!("write %IP% alone, or {own}")));
    }
    warnings
}

/// What a command that is given an IPv6 address calls that takes none.
fn ipv4_only(text: &str) -> Option<&'static str> {
    let has = |words: &[&str]| words.iter().any(|word| text.contains(word));
    if !has(&["%IP%", "KNOCK_IP", "%NET%", "KNOCK_NET"])
        || has(&["ip6tables", "%FAMILY%", "KNOCK_FAMILY"])
    {
        return None;
    }
    let mut words = text.split(|c: char| c.is_whitespace() || ";&|()'\"/".contains(c));
    let is_iptables = words.any(|it| matches!(it, "iptables" | "iptables-nft" | "iptables-legacy"));
    let is_nft = has(&["ip saddr %IP%", "ip saddr %NET%"]).then_some("'ip saddr' of nft");
    if is_iptables { Some("iptables") } else { is_nft }
}
