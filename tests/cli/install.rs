//! `make install`: everything in its place, and nobody's configuration touched.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::sync::Once;

/// Runs `make TARGET` for a tree below `destination`, with the programs that this test has.
fn make(target: &str, destination: &Path) -> String {
    let built = Path::new(env!("CARGO_BIN_EXE_knock")).parent().unwrap();
    #[expect(clippy::disallowed_methods, reason = "make is a program")]
    let mut make = Command::new("make");
    let output = make
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .args([target, "PREFIX=/usr"])
        .arg(format!("BUILT={}", built.display()))
        .arg(format!("DESTDIR={}", destination.display()))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    said
}

/// Installs below `destination`, and gives what that says.
fn install(destination: &Path) -> String {
    // Of the build, as the programs are.
    static NOTICES: Once = Once::new();
    NOTICES.call_once(|| drop(make("notices", destination)));
    make("install", destination)
}

fn installed() -> tempfile::TempDir {
    let tree = tempfile::tempdir().unwrap();
    install(tree.path());
    tree
}

fn mode(path: &Path) -> u32 {
    let metadata = fs::metadata(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    metadata.permissions().mode() & 0o7777
}

#[test]
fn everything_has_its_place_and_mode() {
    let tree = installed();
    for (path, expected) in [
        ("usr/bin/knock", 0o755),
        ("usr/sbin/knockd", 0o755),
        ("usr/sbin/knockctl", 0o755),
        // Beside knockd, which looks for it there.
        ("usr/sbin/knock-courier", 0o755),
        ("usr/share/man/man1/knock.1", 0o644),
        ("usr/share/man/man5/knock.d.5", 0o644),
        ("usr/share/man/man7/knock-spa.7", 0o644),
        ("usr/share/man/man8/knockd.8", 0o644),
        ("usr/share/man/man8/knockctl.8", 0o644),
        ("usr/share/man/man8/knock-courier.8", 0o644),
        ("usr/lib/systemd/system/knockd.service", 0o644),
        ("usr/lib/systemd/system/knockd-lock.service", 0o644),
        ("usr/lib/systemd/user/knock@.service", 0o644),
        ("usr/share/bash-completion/completions/knockctl", 0o644),
        ("usr/share/zsh/site-functions/_knockd", 0o644),
        // Where fish on Debian looks.
        ("usr/share/fish/vendor_completions.d/knock.fish", 0o644),
        ("etc/knock.d", 0o755),
        ("etc/knock.d/knockd.yaml", 0o644),
        ("etc/knock.d/doors.yaml", 0o600),
        ("usr/share/doc/knock/examples/guard.yaml", 0o644),
        ("usr/share/doc/knock/docs/SECURITY.md", 0o644),
        ("usr/share/doc/knock/third-party-notices.txt", 0o644),
        ("usr/share/doc/knock/docs/clients/knock_spa.py", 0o755),
    ] {
        assert_eq!(mode(&tree.path().join(path)), expected, "{path}");
    }
}

#[test]
fn what_the_installed_pages_link_to_is_installed() {
    let tree = installed();
    let pages = tree.path().join("usr/share/doc/knock");
    let mut links = 0;
    for page in ["README.md", "CONTRIBUTING.md", "docs/SECURITY.md", "docs/moving-from-fwknop.md"] {
        let page = pages.join(page);
        let text = fs::read_to_string(&page).unwrap();
        // [text](target), and [text](target#place).
        for link in text.split("](").skip(1).filter_map(|rest| rest.split([')', '#']).next()) {
            if !link.is_empty() && !link.contains(':') {
                links += 1;
                assert!(page.with_file_name(link).exists(), "{}: {link}", page.display());
            }
        }
    }
    assert!(links > 5);
}

#[test]
fn the_notices_name_what_is_linked_in_and_nothing_else() {
    let tree = installed();
    let notices = tree.path().join("usr/share/doc/knock/third-party-notices.txt");
    let notices = fs::read_to_string(notices).unwrap();
    let crates: Vec<(&str, &str)> = notices
        .lines()
        .skip_while(|line| !line.starts_with("* "))
        .take_while(|line| !line.is_empty())
        .map(|line| line.split_once(": ").unwrap())
        .collect();
    let marks = |name: &str| {
        let crates = crates.iter().map(|(it, _)| it.rsplit_once(' ').unwrap().0);
        crates.filter_map(|it| it.strip_suffix(name)).collect::<Vec<_>>()
    };
    // Of all programs; of the daemon's; of the courier alone; of tests; of macros; of build scripts; of fuzzing.
    assert_eq!(marks(" snow"), ["*"]);
    assert_eq!([marks(" rusqlite"), marks(" ring")], [[" "], [" "]]);
    assert_eq!([marks(" redis"), marks(" rustls")], [["+"], ["+"]]);
    for unused in [" knock", " proptest", " syn", " cc", " libfuzzer-sys"] {
        assert!(marks(unused).is_empty(), "{unused}");
    }
    // Whose licence asks for it above all.
    for text in [
        "Copyright (c) 2016-2021 isis agora lovecruft",
        "Copyright (c) 2014 The rusqlite developers",
        "The Rust Standard Library is dual-licensed",
    ] {
        assert!(notices.contains(text), "{text}");
    }
    assert!(crates.iter().all(|(_, licence)| !licence.is_empty()), "{crates:?}");
}

#[test]
fn the_units_run_the_installed_programs() {
    let tree = installed();
    for (unit, line) in [
        ("system/knockd.service", "ExecStart=/usr/sbin/knockd"),
        ("system/knockd.service", "ExecReload=/usr/sbin/knockctl reload"),
        ("system/knockd-lock.service", "ExecStart=/usr/sbin/knockd --lock-only"),
        ("user/knock@.service", "ExecStart=/usr/bin/knock --stay -- %i"),
    ] {
        let unit = tree.path().join("usr/lib/systemd").join(unit);
        let text = fs::read_to_string(unit).unwrap();
        assert!(text.lines().any(|it| it == line), "{line}: {text}");
    }
}

/// `systemd-analyze`, where it is of this version or a later one.
fn systemd_analyze(oldest: u32) -> Option<Command> {
    #[expect(clippy::disallowed_methods, reason = "systemd-analyze is a program")]
    let analyze = || Command::new("/usr/bin/systemd-analyze");
    let said = analyze().arg("--version").output().ok();
    let said = said.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    // systemd 252 (252.39-1~deb12u2)
    let version = said.as_deref().and_then(|it| it.split_whitespace().nth(1)?.parse::<u32>().ok());
    if version.is_some_and(|it| it >= oldest) {
        return Some(analyze());
    }
    // Not eprintln!, which the test harness swallows.
    let _ = writeln!(std::io::stderr(), "SKIPPED: units: no systemd-analyze of systemd {oldest}");
    None
}

#[test]
fn systemd_has_nothing_to_say_about_the_units() {
    let Some(mut analyze) = systemd_analyze(0) else { return };
    let tree = installed();
    let units = tree.path().join("usr/lib/systemd/system");
    let output = analyze
        .args(["verify", "--man=no"])
        .args(["knockd.service", "knockd-lock.service"].map(|unit| units.join(unit)))
        // Its own, and those of this machine that they are ordered by.
        .env("SYSTEMD_UNIT_PATH", format!("{}:", units.display()))
        .output()
        .unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    // The programs are in the tree.
    let is_missing = |line: &&str| line.contains(" is not executable: No such file");
    let said: Vec<&str> = said.lines().filter(|line| !is_missing(line)).collect();
    assert!(said.is_empty(), "{said:?}");
}

#[test]
fn the_units_are_exposed_by_3_4_of_10_at_most() {
    let Some(mut analyze) = systemd_analyze(250) else { return };
    let tree = installed();
    let units = tree.path().join("usr/lib/systemd/system");
    let output = analyze
        .args(["security", "--no-pager", "--offline=true", "--threshold=34"])
        .args(["knockd.service", "knockd-lock.service"].map(|unit| units.join(unit)))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

#[test]
fn a_configuration_that_is_there_is_left_as_it_is() {
    let tree = tempfile::tempdir().unwrap();
    let directory = tree.path().join("etc/knock.d");
    fs::create_dir_all(&directory).unwrap();
    fs::write(directory.join("mine.yaml"), "doors: {}\n").unwrap();

    let said = install(tree.path());

    assert!(said.contains("left as it is"), "{said}");
    let files: Vec<_> =
        fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(files, ["mine.yaml"]);
    assert_eq!(fs::read_to_string(directory.join("mine.yaml")).unwrap(), "doors: {}\n");
}

#[test]
fn uninstalling_leaves_the_configuration_and_nothing_else() {
    let tree = installed();
    let said = make("uninstall", tree.path());
    let config = format!("Left: {}/etc/knock.d\n", tree.path().display());
    assert!(said.contains(&config), "{said}");
    let mut left = Vec::new();
    let mut folders = vec![tree.path().to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { folders.push(path) } else { left.push(path) }
        }
    }
    assert!(!left.is_empty());
    assert!(left.iter().all(|path| path.starts_with(tree.path().join("etc/knock.d"))), "{left:?}");
}

#[expect(clippy::disallowed_methods, reason = "scripts are programs")]
fn script(name: &str) -> Command {
    let mut script = Command::new(format!("tools/{name}"));
    script.current_dir(env!("CARGO_MANIFEST_DIR"));
    script
}

#[test]
fn a_program_that_runs_is_not_taken_away() {
    let tree = tempfile::tempdir().unwrap();
    let program = tree.path().join("knockd");
    fs::copy("/bin/sleep", &program).unwrap();
    let stopped = || script("stopped").arg(&program).output().unwrap();
    // The table of another test may stand meanwhile.
    let said = |output: std::process::Output| String::from_utf8(output.stderr).unwrap();
    assert!(!said(stopped()).contains("knockd runs"));
    #[expect(clippy::disallowed_methods, reason = "something has to run")]
    let mut runs = Command::new(&program).arg("60").spawn().unwrap();
    let output = stopped();
    assert_eq!(output.status.code(), Some(1));
    let wanted = format!("knockd runs (process {}). Stop it first", runs.id());
    let said = said(output);
    runs.kill().unwrap();
    runs.wait().unwrap();
    assert!(said.contains(&wanted), "{said}");
}

#[test]
fn a_toolchain_that_is_too_old_is_told_which_one_would_do_before_anything_is_fetched() {
    let tree = tempfile::tempdir().unwrap();
    for (name, says) in [("cargo", "cargo 1.63.0"), ("rustc", "rustc 1.63.0 (Debian)")] {
        let path = tree.path().join(name);
        fs::write(&path, format!("#!/bin/sh\necho '{says}'\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let path = format!("{}:/usr/bin:/bin", tree.path().display());
    for task in ["build", "test", "demo"] {
        let output = script("need").arg(task).env("PATH", &path).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{task}");
        let said = String::from_utf8(output.stderr).unwrap();
        let wanted = concat!("takes Rust ", env!("CARGO_PKG_RUST_VERSION"), " or newer");
        assert!(said.contains(wanted) && said.contains("of Rust 1.63.0"), "{task}: {said}");
        assert!(output.stdout.is_empty(), "{task}");
    }
}
