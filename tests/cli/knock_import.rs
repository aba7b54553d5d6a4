//! `knock import`: a link becomes an entry of the hosts file and a file with its secret.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use assert_cmd::Command;
use libknock::proto::Secret;
use libknock::proto::fwknop::Hash;
use libknock::proto::link::{FWKNOP_KEYS, FwknopWay, Link, LinkEntry, Way};
use libknock::proto::totp::{Digits, Scheme, TotpMode};

use crate::client::{Said, knock_in, misused};

/// A home without anything.
struct Home(tempfile::TempDir);

impl Home {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    /// One with such a hosts file.
    fn with(hosts: &str) -> Self {
        let home = Self::new();
        fs::create_dir(home.path("")).unwrap();
        home.write("hosts.yaml", hosts);
        home
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join("knock").join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
        fs::set_permissions(self.path(name), fs::Permissions::from_mode(0o644)).unwrap();
    }

    fn text(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }

    fn mode(&self, name: &str) -> u32 {
        fs::metadata(self.path(name)).unwrap().permissions().mode() & 0o777
    }

    /// Imports what is read, with these options; there is no terminal.
    fn import(&self, read: &str, options: &[&str]) -> Said {
        let mut setsid = Command::new("setsid");
        setsid.args(["-w", env!("CARGO_BIN_EXE_knock"), "import", "-"]).args(options);
        let output =
            setsid.env("XDG_CONFIG_HOME", self.0.path()).write_stdin(read).output().unwrap();
        Said {
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
            status: output.status.code().unwrap(),
        }
    }

    fn imports(&self, read: &str, options: &[&str]) -> String {
        let said = self.import(read, options);
        assert_eq!((said.status, said.err.as_str()), (0, ""), "{}", said.out);
        said.out
    }

    fn refuses(&self, read: &str, options: &[&str]) -> String {
        let before = self.all();
        let said = self.import(read, options);
        assert_eq!((said.status, said.out.as_str()), (1, ""), "{}", said.err);
        assert_eq!(self.all(), before, "nothing has changed");
        said.err
    }

    /// All files.
    fn all(&self) -> Vec<(PathBuf, String)> {
        let Ok(entries) = fs::read_dir(self.path("")) else { return Vec::new() };
        let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
        paths.sort();
        paths.into_iter().map(|path| (path.clone(), fs::read_to_string(path).unwrap())).collect()
    }
}

const SECRET: &str = "JBSWY3DPEHPK3PXPJBSWY3DPEHPK3PXP";

fn totp() -> Link {
    let mode = TotpMode::Code { base: 7000, digits: Digits::Six };
    let scheme = Scheme::new(mode, 30, 1).unwrap();
    Link {
        host: "192.0.2.1".to_owned(),
        label: "gw".parse().unwrap(),
        secret: Some(Secret::new(b"Hello!\xde\xad\xbe\xefHello!\xde\xad\xbe\xef".to_vec())),
        key: None,
        server: None,
        entries: vec![LinkEntry {
            door: "ssh".parse().unwrap(),
            way: Way::Totp(scheme),
            wait: 22.try_into().ok(),
        }],
    }
}

fn spa() -> Link {
    let key = "4BbmHjtWeVM7bEaAdK2cj0F9oCf/oNUue5BUuSUn6kA=";
    let mut link = Link { secret: None, key: Some([7; 32].into()), ..totp() };
    link.server = Some((key.parse().unwrap(), None));
    link.entries[0].way = Way::Spa;
    link
}

fn asked(keys: Option<Secret>) -> FwknopWay {
    let ports = ["22/tcp", "4500/udp"].map(|port| port.parse().unwrap()).to_vec();
    FwknopWay { keys, hash: Hash::Sha256, port: None, ports, nat: None }
}

/// A link with this for its only way.
fn asks(way: FwknopWay) -> Link {
    let mut link = Link { secret: None, ..totp() };
    link.entries[0].way = Way::Fwknop(way);
    link
}

fn fwknop() -> Link {
    asks(asked(Some(Secret::from([8; FWKNOP_KEYS]))))
}

fn text(link: &Link) -> String {
    link.encode().unwrap().to_string()
}

const ENTRY: &str = "  gw:
    host: 192.0.2.1
    mode: totp
    door: ssh
    base: 7000
    digits: 6
    step: 30s
    secret_file: gw.totp
    wait: 22
";

#[test]
fn a_link_is_all_that_it_takes_to_knock() {
    let home = Home::new();
    assert_eq!(home.imports(&text(&totp()), &[]), "now it is: knock gw (at 192.0.2.1)\n");
    assert_eq!(home.text("hosts.yaml"), format!("hosts:\n{ENTRY}"));
    assert_eq!(home.text("gw.totp"), format!("{SECRET}\n"));
    assert_eq!(["", "hosts.yaml", "gw.totp"].map(|name| home.mode(name)), [0o700, 0o600, 0o600]);
    let said = knock_in(home.0.path(), &["-n", "gw"]);
    assert_eq!((said.status, said.out.lines().count()), (0, 3), "{}", said.err);
    assert!(said.out.lines().all(|line| line.starts_with("tcp 192.0.2.1:70")), "{}", said.out);
}

const FWKNOP_ENTRY: &str = "  gw:
    host: 192.0.2.1
    mode: fwknop
    door: ssh
    ports: [22/tcp, 4500/udp]
    key_file: gw.fwknop
    hmac_digest_type: sha256
    wait: 22
";

#[test]
fn a_link_with_keys_of_fwknops_is_all_that_it_takes_to_ask() {
    let home = Home::new();
    assert_eq!(home.imports(&text(&fwknop()), &[]), "now it is: knock gw (at 192.0.2.1)\n");
    assert_eq!(home.text("hosts.yaml"), format!("hosts:\n{FWKNOP_ENTRY}"));
    assert_eq!(home.mode("gw.fwknop"), 0o600);
    let keys = home.text("gw.fwknop");
    let lines: Vec<&str> = keys.lines().collect();
    assert_eq!(lines[0], "KEY_BASE64: CAgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAg=");
    assert_eq!(lines[1], format!("HMAC_KEY_BASE64: {}CA==", "CAgI".repeat(21)));
    let said = knock_in(home.0.path(), &["-n", "gw"]);
    assert_eq!(said.status, 0, "{}", said.err);
    assert!(said.out.starts_with("udp 192.0.2.1:62201 "), "{}", said.out);
    let again = home.imports(&text(&fwknop()), &[]);
    assert_eq!(again, "all of this is there already\nnow it is: knock gw (at 192.0.2.1)\n");
}

#[test]
fn what_is_unusual_about_a_server_of_fwknops_requests_stands_in_the_entry() {
    let home = Home::new();
    let unusual = FwknopWay {
        hash: Hash::Sha3_512,
        port: 7777.try_into().ok(),
        ports: vec!["2222/tcp".parse().unwrap()],
        nat: "192.168.1.10:22".parse().ok(),
        ..asked(None)
    };
    let link = asks(unusual);
    let said = home.import(&text(&link), &[]);
    let path = home.path("gw.fwknop").display().to_string();
    let lacks = format!("the link has no fwknop key: yours belongs in {path}");
    assert!(said.err.contains(&lacks), "{}", said.err);
    assert_eq!(
        home.text("hosts.yaml"),
        "hosts:
  gw:
    host: 192.0.2.1
    mode: fwknop
    door: ssh
    ports: [2222/tcp]
    nat_access: '192.168.1.10:22'
    key_file: gw.fwknop
    hmac_digest_type: sha3_512
    spa_port: 7777
    wait: 22
"
    );
    fs::write(home.path("gw.fwknop"), "any\n").unwrap();
    fs::set_permissions(home.path("gw.fwknop"), fs::Permissions::from_mode(0o600)).unwrap();
    assert!(knock_in(home.0.path(), &["-n", "gw"]).out.starts_with("udp 192.0.2.1:7777 "));
}

#[test]
fn each_way_of_a_link_has_its_own_name_and_file() {
    let home = Home::new();
    let [mut link, spa, fwknop] = [totp(), spa(), fwknop()];
    link.entries.extend([spa.entries, fwknop.entries].concat());
    let link = Link { key: spa.key, server: spa.server, ..link };
    let names = ["gw-totp", "gw-spa", "gw-fwknop"];
    assert_eq!(
        home.imports(&text(&link), &[]),
        names.map(|it| format!("now it is: knock {it} (at 192.0.2.1)\n")).concat()
    );
    assert_eq!(home.all().len(), 4, "{:?}", home.all());
    for name in names {
        let said = knock_in(home.0.path(), &["-n", name]);
        assert_eq!(said.status, 0, "{}", said.err);
    }
}

#[test]
fn of_several_ways_into_one_door_the_hosts_own_name_takes_the_one_of_one_packet() {
    let home = Home::new();
    let mut link = spa();
    link.entries.extend(fwknop().entries);
    home.imports(&text(&link), &[]);
    let said = knock_in(home.0.path(), &["-n", "192.0.2.1"]);
    assert!(said.out.contains(" 192 bytes"), "{} {}", said.out, said.err);
    let said = knock_in(home.0.path(), &["-n", "gw-fwknop", "--door", "web"]);
    assert!(said.err.contains("--door"), "an option without effect: {} {}", said.out, said.err);
}

#[test]
fn a_link_to_ports_that_cannot_be_asked_for_is_not_taken() {
    let home = Home::new();
    let nowhere = "192.168.1.10:0".parse().ok();
    for way in
        [FwknopWay { ports: vec![], ..asked(None) }, FwknopWay { nat: nowhere, ..asked(None) }]
    {
        let said = home.import(&text(&asks(way)), &[]);
        assert!(said.status == 1 && said.err.contains("the link:"), "{}", said.err);
        assert_eq!(home.all(), []);
    }
}

#[test]
fn the_link_is_found_in_all_that_knockctl_prints_and_may_be_broken_into_lines() {
    let home = Home::new();
    let link = text(&spa());
    let (one, other) = link.split_at(50);
    let printed =
        format!("For knock: 'knock import -' ...\n\n{one}\r\n  {other}\n\nFor others: ...\n");
    home.imports(&printed, &[]);
    assert!(home.text("hosts.yaml").contains("    mode: spa\n"), "{}", home.text("hosts.yaml"));
    assert!(knock_in(home.0.path(), &["-n", "gw"]).out.contains("62201"));
}

#[test]
fn the_link_is_found_in_lines_of_any_system_and_in_a_sentence() {
    let home = Home::new();
    let printed = format!("For knock: ...\n\n{}\n\nFor others: ...\n", text(&totp()));
    home.imports(&printed.replace('\n', "\r\n"), &[]);
    for sentence in [
        format!("Take <{}>, please.", text(&totp())),
        format!("\x1b[1m{}\x1b[0m", text(&totp())),
        format!("What begins with knock:// is a link: {}", text(&totp())),
    ] {
        assert!(home.imports(&sentence, &[]).starts_with("all of this is there already"));
    }
}

#[test]
fn what_is_around_the_link_may_be_in_any_encoding() {
    let home = Home::new();
    let mail = [b"F\xfcr dich:\n\n", text(&totp()).as_bytes(), b"\n\nGr\xfc\xdfe\n"].concat();
    let mut knock = Command::new(env!("CARGO_BIN_EXE_knock"));
    knock.args(["import", "-"]).env("XDG_CONFIG_HOME", home.0.path());
    knock.write_stdin(mail).assert().success();
    assert_eq!(home.text("gw.totp"), format!("{SECRET}\n"));
}

#[test]
fn a_file_with_the_secret_that_others_can_read_is_closed_to_them() {
    let home = Home::with("");
    home.write("gw.totp", &format!("{SECRET}\n"));
    home.imports(&text(&totp()), &[]);
    assert_eq!(home.mode("gw.totp"), 0o600);
}

#[test]
fn a_link_among_the_arguments_is_taken_with_a_warning() {
    let home = Home::new();
    let link = text(&totp());
    let (one, other) = link.split_at(30);
    let said = knock_in(home.0.path(), &["import", one, other]);
    assert_eq!(said.status, 0, "{}", said.err);
    assert!(said.err.contains("warning: others may see the link in ps"), "{}", said.err);
    assert!(said.err.contains("'knock import -'") && !said.err.contains(one), "{}", said.err);
    assert_eq!(home.text("gw.totp"), format!("{SECRET}\n"));
}

#[test]
fn the_same_link_again_changes_nothing() {
    let home = Home::new();
    home.imports(&text(&totp()), &[]);
    let before = home.all();
    let out = home.imports(&text(&totp()), &[]);
    assert_eq!(out, "all of this is there already\nnow it is: knock gw (at 192.0.2.1)\n");
    assert_eq!(home.all(), before);
}

#[test]
fn what_is_in_the_hosts_file_stays_as_it_is() {
    let before = "# mine\nhosts:\n    # of old\n    work: {ports: [7000]} # daily\n";
    let home = Home::with(before);
    home.imports(&text(&spa()), &[]);
    let after = home.text("hosts.yaml");
    assert!(after.starts_with(&format!("{before}    gw:\n      host: 192.0.2.1\n")), "{after}");
    assert_eq!(home.mode("hosts.yaml"), 0o644, "as before");
    assert_eq!(home.mode("gw.key"), 0o600);
    assert_eq!(knock_in(home.0.path(), &["-n", "work"]).status, 1, "no such host, and an entry");
}

#[test]
fn a_hosts_file_that_is_a_symbolic_link_stays_one() {
    let home = Home::with("hosts:\n");
    fs::rename(home.path("hosts.yaml"), home.path("managed")).unwrap();
    std::os::unix::fs::symlink("managed", home.path("hosts.yaml")).unwrap();
    home.imports(&text(&totp()), &[]);
    assert!(fs::symlink_metadata(home.path("hosts.yaml")).unwrap().is_symlink());
    assert_eq!(home.text("managed"), format!("hosts:\n{ENTRY}"));
}

#[test]
fn what_a_symbolic_link_leads_to_is_made_where_it_is_not_there_yet() {
    let home = Home::with("");
    fs::remove_file(home.path("hosts.yaml")).unwrap();
    fs::create_dir(home.path("dotfiles")).unwrap();
    for (from, to) in
        [("hosts.yaml", "other"), ("other", "dotfiles/hosts"), ("gw.totp", "dotfiles/gw")]
    {
        std::os::unix::fs::symlink(to, home.path(from)).unwrap();
    }
    home.imports(&text(&totp()), &[]);
    for name in ["hosts.yaml", "other", "gw.totp"] {
        assert!(fs::symlink_metadata(home.path(name)).unwrap().is_symlink(), "{name}");
    }
    assert_eq!(home.text("dotfiles/hosts"), format!("hosts:\n{ENTRY}"));
    assert_eq!(home.text("dotfiles/gw"), format!("{SECRET}\n"));
    assert_eq!(home.mode("dotfiles/gw"), 0o600);
}

#[test]
fn a_symbolic_link_into_what_is_not_there_stays_one() {
    let home = Home::with("");
    fs::remove_file(home.path("hosts.yaml")).unwrap();
    std::os::unix::fs::symlink("nowhere/hosts", home.path("hosts.yaml")).unwrap();
    let said = home.import(&text(&totp()), &[]);
    assert!(said.status == 1 && said.err.contains("hosts.yaml"), "{}", said.err);
    assert!(fs::symlink_metadata(home.path("hosts.yaml")).unwrap().is_symlink());
}

#[test]
fn nothing_is_overwritten_without_being_asked_for() {
    let others =
        "hosts:\n  # two\n  gw:\n    ports: [7113, 9218]\n\n  # three\n  b: {ports: [1]}\n";
    let home = Home::with(others);
    home.write("gw.totp", "MZXW6YTBOJRGC6TBMZXW6YTBOJRGC6TB\n");
    let error = home.refuses(&text(&totp()), &[]);
    assert!(error.contains("hosts.yaml:3:3: 'gw' says something else than"), "{error}");
    assert!(error.contains("gw.totp holds another secret"), "{error}");
    assert!(error.contains("--force overwrites, and --name"), "{error}");
    for secret in ["7113", "MZXW", "JBSW"] {
        assert!(!error.contains(secret), "{error}");
    }
    home.imports(&text(&totp()), &["--name", "gate"]);
    assert!(home.text("hosts.yaml").starts_with(others));
    assert_eq!(home.text("gate.totp"), format!("{SECRET}\n"));
    assert!(home.text("gw.totp").starts_with("MZXW"));
    home.write("hosts.yaml", others);
    home.imports(&text(&totp()), &["--force"]);
    let after = format!("hosts:\n  # two\n{ENTRY}\n  # three\n  b: {{ports: [1]}}\n");
    assert_eq!(home.text("hosts.yaml"), after);
    assert_eq!(home.text("gw.totp"), format!("{SECRET}\n"));
    assert_eq!(home.mode("gw.totp"), 0o600);
}

#[test]
fn who_is_asked_at_the_terminal_decides_also_where_the_link_comes_through_a_pipe() {
    let home = Home::with("hosts:\n  gw: {ports: [7113]}\n");
    let before = home.all();
    for (answer, is_taken) in [("n", false), ("", false), ("y", true)] {
        // `script` gives its command a terminal.
        let line = format!("echo '{}' | '{}' import -", text(&totp()), env!("CARGO_BIN_EXE_knock"));
        let mut script = Command::new("script");
        script.args(["-qec", &line, "/dev/null"]).env("XDG_CONFIG_HOME", home.0.path());
        let output = script.write_stdin(format!("{answer}\n")).output().unwrap();
        let said = String::from_utf8(output.stdout).unwrap();
        assert!(said.contains("Overwrite? [y/N]"), "{said}");
        assert_eq!(home.all() != before, is_taken, "{answer:?}: {said}");
    }
}

#[test]
fn what_somebody_changes_while_the_question_stands_is_not_lost() {
    for name in ["hosts.yaml", "gw.totp"] {
        let home = Home::with("hosts:\n  gw: {ports: [7113]}\n");
        home.write("gw.totp", "MZXW6YTBOJRGC6TBMZXW6YTBOJRGC6TB\n");
        let line = format!("echo '{}' | '{}' import -", text(&totp()), env!("CARGO_BIN_EXE_knock"));
        let (log, file) = (home.0.path().join("log"), home.path(name));
        // It answers when it is asked, and not before.
        let answer = format!(
            "until grep -q 'Overwrite?' {0} 2>/dev/null; do sleep 0.05; done; echo '# mine' >>{1}",
            log.display(),
            file.display()
        );
        let script_line = format!("({answer}; echo y) | script -qefc \"{line}\" {}", log.display());
        let mut shell = Command::new("sh");
        let output =
            shell.args(["-c", &script_line]).env("XDG_CONFIG_HOME", home.0.path()).output();
        let said = String::from_utf8(output.unwrap().stdout).unwrap();
        let error = format!("{} has changed meanwhile", file.display());
        assert!(said.contains(&error) && said.contains("run it again"), "{said}");
        assert!(home.text(name).ends_with("\n# mine\n"), "{}", home.text(name));
        assert!(home.text("gw.totp").starts_with("MZXW"));
        assert!(home.text("hosts.yaml").contains("7113"));
    }
}

#[test]
fn who_is_asked_is_told_that_comments_would_go() {
    let home = Home::with("hosts:\n  gw: # mine\n    ports: [7113]\n  # next\n  b: {ports: [1]}\n");
    let error = home.refuses(&text(&totp()), &[]);
    assert!(error.contains("'gw' (its comments would go too) says something else"), "{error}");
    home.imports(&text(&totp()), &["--force"]);
    let after = format!("hosts:\n{ENTRY}  # next\n  b: {{ports: [1]}}\n");
    assert_eq!(home.text("hosts.yaml"), after);
}

#[test]
fn a_terminal_shows_what_is_typed_again_after_ctrl_c() {
    let knock = env!("CARGO_BIN_EXE_knock");
    // Each shell of these waits for its program, and is not ended with it.
    let line = format!("trap : INT; '{knock}' import -; echo ended by $?; stty -a");
    let script_line =
        format!("(sleep 1; printf '\\003'; sleep 1) | script -qec \"{line}\" /dev/null");
    let output = Command::new("sh").args(["-c", &script_line.replace("$?", "\\$?")]).output();
    let said = String::from_utf8(output.unwrap().stdout).unwrap();
    assert!(said.contains("Link: ") && said.contains("ended by 130"), "{said}");
    for kept in [" echo ", " icanon ", "isig "] {
        assert!(said.contains(kept), "{kept}: {said}");
    }
}

#[test]
fn a_link_is_asked_for_at_a_terminal_and_shown_nowhere() {
    let home = Home::new();
    let line = format!("'{}' import -", env!("CARGO_BIN_EXE_knock"));
    let mut script = Command::new("script");
    script.args(["-qec", &line, "/dev/null"]).env("XDG_CONFIG_HOME", home.0.path());
    let link = text(&spa());
    let (one, other) = link.split_at(40);
    // What is typed before the program asks is echoed by the terminal.
    let typed = format!("sleep 1; echo {one}; sleep 0.3; echo {other}; sleep 0.3");
    let mut shell = Command::new("sh");
    let script_line = format!("({typed}) | script -qec \"{line}\" /dev/null");
    let output = shell.args(["-c", &script_line]).env("XDG_CONFIG_HOME", home.0.path()).output();
    let said = String::from_utf8(output.unwrap().stdout).unwrap();
    assert!(said.contains("Link: ") && said.contains("knock gw"), "{said}");
    assert!(!said.contains(&link[20..40]) && !said.contains(&other[..20]), "{said}");
    assert!(home.path("gw.key").exists());
}

#[test]
fn of_all_that_is_pasted_at_a_terminal_nothing_is_left_to_the_shell() {
    let home = Home::new();
    let link = text(&totp());
    let pasted =
        format!("For knock: a link\n\n{link}\n\nFor an app:\n\notpauth://x?secret={SECRET}\n");
    fs::write(home.0.path().join("pasted"), pasted).unwrap();
    // What comes next reads all that is left.
    let knock = env!("CARGO_BIN_EXE_knock");
    let line = format!(
        "'{knock}' import -; timeout --foreground 2 cat >{}",
        home.0.path().join("left").display()
    );
    let script_line = format!(
        "(sleep 1; cat {}; sleep 4) | script -qec \"{line}\" /dev/null",
        home.0.path().join("pasted").display()
    );
    let mut shell = Command::new("sh");
    let output = shell.args(["-c", &script_line]).env("XDG_CONFIG_HOME", home.0.path()).output();
    let said = String::from_utf8(output.unwrap().stdout).unwrap();
    assert!(said.contains("now it is: knock gw"), "{said}");
    assert!(!said.contains(SECRET) && !said.contains(&link[20..40]), "{said}");
    assert_eq!(fs::read_to_string(home.0.path().join("left")).unwrap(), "");
}

#[test]
fn a_file_that_only_a_person_can_add_to_is_left_and_the_entry_is_printed() {
    let home = Home::with("hosts: {work: {ports: [7000]}}\n");
    let said = home.import(&text(&totp()), &[]);
    assert_eq!((said.status, said.out.as_str()), (1, ""));
    let unindented: String = ENTRY.lines().map(|line| format!("{}\n", &line[2..])).collect();
    assert!(
        said.err.contains("add this below 'hosts:' yourself") && said.err.contains(&unindented)
    );
    assert_eq!(home.text("hosts.yaml"), "hosts: {work: {ports: [7000]}}\n");
    assert_eq!(home.text("gw.totp"), format!("{SECRET}\n"), "what the entry names is there");
}

#[test]
fn a_hosts_file_with_mistakes_or_of_somebody_else_is_left() {
    let home = Home::with("hosts:\n  a: {prots: [1]}\n");
    assert!(home.refuses(&text(&totp()), &[]).contains("did you mean 'ports'?"));
    home.write("hosts.yaml", "hosts:\n");
    fs::set_permissions(home.path("hosts.yaml"), fs::Permissions::from_mode(0o666)).unwrap();
    assert!(home.refuses(&text(&totp()), &[]).contains("others than its owner can write it"));
}

#[test]
fn a_link_without_a_private_key_says_where_that_belongs() {
    let home = Home::new();
    let said = home.import(&text(&Link { key: None, ..spa() }), &[]);
    let path = home.path("gw.key").display().to_string();
    assert!(said.err.contains(&format!("the link has no private key: yours belongs in {path}")));
    assert_eq!(said.status, 0, "{}", said.err);
    home.write("gw.key", "any\n");
    home.imports(&text(&Link { key: None, ..spa() }), &[]);
}

/// A link to a further door for a client that has its secret.
fn further(door: &str) -> Link {
    let mut link = Link { secret: None, ..totp() };
    link.entries[0].door = door.parse().unwrap();
    link
}

#[test]
fn a_further_door_gets_an_entry_of_its_own_beside_the_first() {
    let home = Home::new();
    home.imports(&text(&totp()), &[]);
    assert_eq!(
        home.imports(&text(&further("web")), &[]),
        "now it is: knock gw-web (at 192.0.2.1)\n"
    );
    assert!(home.text("hosts.yaml").starts_with(&format!("hosts:\n{ENTRY}  gw-web:\n")));
    let said = knock_in(home.0.path(), &["-n", "gw-web"]);
    assert_eq!((said.status, said.out.lines().count()), (0, 3), "{}", said.err);
    let again = home.imports(&text(&further("web")), &[]);
    assert_eq!(again, "all of this is there already\nnow it is: knock gw-web (at 192.0.2.1)\n");
}

#[test]
fn a_link_without_a_secret_says_where_that_belongs() {
    let home = Home::new();
    let said = home.import(&text(&further("web")), &["--name", "other"]);
    let path = home.path("other.totp").display().to_string();
    assert!(said.err.contains(&format!("the link has no TOTP secret: yours belongs in {path}")));
    assert_eq!(said.status, 0, "{}", said.err);
}

#[test]
fn nothing_that_is_for_one_host_goes_to_another_without_being_asked_for() {
    let home = Home::new();
    home.imports(&text(&totp()), &[]);
    let host = "evil.example".to_owned();
    // Codes of a secret that is there, and a name under which the host is known.
    let mut several = further("web");
    several.entries.push(further("mail").entries[0].clone());
    for link in [
        Link { host: host.clone(), ..several },
        Link { host, label: "192.0.2.1".parse().unwrap(), ..totp() },
    ] {
        let error = home.refuses(&text(&link), &[]);
        let at = "hosts.yaml:2:3: knocks that are for 192.0.2.1 would go to evil.example";
        assert!(error.contains(at), "{error}");
        home.imports(&text(&link), &["--force"]);
        home.write("hosts.yaml", &format!("hosts:\n{ENTRY}"));
    }
}

#[test]
fn requests_of_keys_that_are_there_go_to_no_other_host_without_being_asked_for() {
    let home = Home::new();
    home.imports(&text(&fwknop()), &[]);
    let mut link = Link { host: "evil.example".to_owned(), ..asks(asked(None)) };
    link.entries.extend(further("web").entries);
    let error = home.refuses(&text(&link), &[]);
    let at = "hosts.yaml:2:3: knocks that are for 192.0.2.1 would go to evil.example";
    assert!(error.contains(at), "{error}");
}

#[test]
fn a_key_of_ones_own_may_be_for_several_hosts() {
    let home = Home::new();
    let own = Link { key: None, ..spa() };
    home.import(&text(&own), &[]);
    home.write("gw.key", "any\n");
    let mut several = Link { host: "192.0.2.2".to_owned(), ..own };
    several.entries.extend([further("web"), further("mail")].map(|mut link| {
        link.entries[0].way = Way::Spa;
        link.entries.remove(0)
    }));
    let out = home.imports(&text(&several), &[]);
    assert!(out.contains("now it is: knock gw-web (at 192.0.2.2)\n"), "{out}");
}

#[test]
fn of_imports_at_once_none_undoes_another() {
    let home = Home::new();
    let doors = ["a", "b", "c", "d", "e", "f"];
    std::thread::scope(|scope| {
        for door in doors {
            let link = Link { label: door.parse().unwrap(), ..totp() };
            scope.spawn(|| home.imports(&text(&{ link }), &[]));
        }
    });
    let hosts = home.text("hosts.yaml");
    assert!(doors.iter().all(|door| hosts.contains(&format!("  {door}:\n"))), "{hosts}");
}

#[test]
fn what_is_wrong_with_a_link_is_said_without_showing_it() {
    let home = Home::new();
    let link = text(&totp());
    let wrong = link.replacen(&link[40..41], if &link[40..41] == "x" { "y" } else { "x" }, 1);
    for (link, said) in [
        (&link[..link.len() - 7], "cut off, and 7 characters of it are missing"),
        (&wrong, "a wrong character, or one too many"),
        ("knock://2/AAAA", "of a newer knockctl"),
        ("https://example.com", "no link of 'knockctl enroll': one begins with knock://1/"),
        ("", "no link of 'knockctl enroll'"),
    ] {
        let error = home.refuses(link, &[]);
        assert!(error.starts_with("knock: error: ") && error.contains(said), "{error}");
        assert!(link.len() < 60 || !error.contains(&link[20..40]), "{error}");
    }
}

#[test]
fn several_ways_have_a_name_each_and_share_their_files() {
    let home = Home::new();
    let mut link = spa();
    link.entries.push(LinkEntry { door: "web".parse().unwrap(), ..link.entries[0].clone() });
    let out = home.imports(&text(&link), &["--name", "home"]);
    assert_eq!(
        out,
        "now it is: knock home-ssh (at 192.0.2.1)\nnow it is: knock home-web (at 192.0.2.1)\n"
    );
    assert_eq!(home.text("hosts.yaml").matches("key_file: home.key").count(), 2);
    assert_eq!(home.all().len(), 2);
}

#[test]
fn another_way_into_a_door_gets_an_entry_beside_the_first_and_a_new_link_takes_its_own_place() {
    let home = Home::new();
    let now = |link: &Link, arguments: &[&str]| home.imports(&text(link), arguments);
    assert_eq!(now(&totp(), &[]), "now it is: knock gw (at 192.0.2.1)\n");
    assert_eq!(now(&spa(), &[]), "now it is: knock gw-spa (at 192.0.2.1)\n");
    // With other secrets.
    let secret = Some(Secret::new(vec![9; 20]));
    assert_eq!(
        now(&Link { secret, ..totp() }, &["--force"]),
        "now it is: knock gw (at 192.0.2.1)\n"
    );
    let key = Some([9; 32].into());
    let again = now(&Link { key, ..spa() }, &["--force"]);
    assert_eq!(again, "now it is: knock gw-spa (at 192.0.2.1)\n");
    assert_eq!(home.text("hosts.yaml").matches("host: ").count(), 2);
    // Whoever wants another name gets another entry.
    let out = now(&totp(), &["--name", "g"]);
    assert_eq!(out, "now it is: knock g (at 192.0.2.1)\n");
    assert_eq!(home.text("hosts.yaml").matches("host: ").count(), 3);
}

#[test]
fn a_host_may_be_called_import() {
    let home = Home::with("hosts:\n  import: {host: 192.0.2.9, ports: [7000]}\n");
    let said = knock_in(home.0.path(), &["-n", "import"]);
    assert_eq!((said.status, said.out.as_str()), (0, "tcp 192.0.2.9:7000\n"), "{}", said.err);
    let said = knock_in(home.0.path(), &["import", "-n", "7000", "--hosts", "x"]);
    assert!(said.err.contains("--hosts has no meaning"), "{}", said.err);
    let said = knock_in(Path::new("/nonexistent"), &["import"]);
    assert!(said.err.contains("'knock import -' takes up a link"), "{}", said.err);
    assert_eq!(said.status, 2);
}

#[test]
fn a_link_that_is_given_without_the_word_import_is_no_host_and_stands_in_no_error() {
    let home = Home::new();
    let link = text(&totp());
    for arguments in
        [&[&link[..]][..], &[&link, "7000"], &["imprt", &link], &["-v", "--totp", &link]]
    {
        let said = knock_in(home.0.path(), arguments);
        assert_eq!(said.status, 2, "{}", said.err);
        assert!(said.err.contains("'knock import -' takes up a link"), "{}", said.err);
        assert!(!said.err.contains(&link[20..40]), "{}", said.err);
    }
    assert!(home.all().is_empty());
}

#[test]
fn its_options_are_its_own() {
    let said = knock_in(Path::new("/nonexistent"), &["import", "--help"]);
    assert!(
        said.out.contains("Usage: knock import") && said.out.contains("--force"),
        "{}",
        said.out
    );
    assert!(misused(&["import", "-", "--nmae", "x"]).contains("--nmae"));
    assert!(
        misused(&["import", "--nmae", "-"])
            .contains("--nmae' found\n\n  tip: a similar argument exists: '--name'")
    );
    assert!(misused(&["import", "-", "--name", "a/b"]).contains("a name is 1 to 32"));
}
