//! `knock --stay`: what it goes with, and what is said where it does not.

use crate::client::{configuration, knock, knock_in, misused};

#[test]
fn ports_that_do_not_rotate_are_shown_again_and_again_only_to_whoever_asks_twice() {
    let said = misused(&["--stay", "192.0.2.1", "7000", "8000"]);
    assert_eq!(
        said,
        "knock: error: --stay shows the ports again and again to whoever watches the way: \
         give it twice, --stay --stay, if they may be seen\n"
    );
    let said = knock(&["-n", "--stay", "--stay", "192.0.2.1", "7000", "8000"]);
    assert_eq!(said.out, "tcp 192.0.2.1:7000\ntcp 192.0.2.1:8000\n");
    assert_eq!((said.status, said.err.as_str()), (0, ""));
    let directory = configuration("hosts: {gw: {host: 192.0.2.1, ports: [7000]}}");
    assert_eq!(knock_in(directory.path(), &["-n", "--stay", "gw"]).status, 2);
    assert_eq!(knock_in(directory.path(), &["-n", "--stay", "--stay", "gw"]).status, 0);
}

#[test]
fn what_would_be_pointless_with_it_is_refused_and_says_why() {
    for (arguments, why) in [
        (&["--spa", "--close", "gw"][..], "--stay and --close do not go together: nothing opens"),
        (&["--spa", "--wait", "22", "gw"], "--stay and --wait do not go together"),
        (&["--spa", "--proxy", "gw", "22"], "--stay and --proxy do not go together"),
        (&["--code", "493817", "--base", "7000", "gw"], "--stay and --code do not go together"),
        (&["--every", "500ms", "--spa", "gw"], "'500ms' is not valid here: write whole seconds"),
    ] {
        let said = misused(&[&["--stay"], arguments].concat());
        assert!(said.contains(why), "{arguments:?}: {said}");
    }
    let said = misused(&["--every", "30s", "--spa", "gw"]);
    assert!(said.contains("--stay"), "{said}");
}

#[test]
fn a_hosts_file_that_closes_leaves_nothing_to_stay_for() {
    let directory = configuration(
        "hosts: {gw: {mode: spa, server_key: 4BbmHjtWeVM7bEaAdK2cj0F9oCf/oNUue5BUuSUn6kA=, \
         key_file: gw.key, close: true}}",
    );
    let key = directory.path().join("knock/gw.key");
    assert_eq!(knock(&["--keygen", key.to_str().unwrap()]).status, 0);
    let said = knock_in(directory.path(), &["-n", "--stay", "gw"]);
    assert_eq!(
        said.err,
        "knock: error: --stay has no meaning beside 'close' in the hosts file: nothing opens\n"
    );
    assert_eq!((said.status, said.out.as_str()), (2, ""));
}

#[test]
fn a_list_of_sequences_that_open_once_is_not_used_up() {
    let list = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(list.path(), " 7000,8000\n").unwrap();
    let list = list.path().to_str().unwrap();
    let why = "--stay and --one-time do not go together: it would use up the list";
    assert!(misused(&["--stay", "--stay", "--one-time", list, "gw"]).contains(why));
    let directory = configuration(&format!("hosts: {{gw: {{host: 192.0.2.1, one_time: {list}}}}}"));
    let said = knock_in(directory.path(), &["--stay", "--stay", "gw"]);
    assert!(said.err.contains("it would use up the list"), "{}", said.err);
}

#[test]
fn the_hosts_file_says_how_often_and_what_it_says_of_waiting_does_not_count() {
    let entry = |every| {
        let every = format!("hosts: {{gw: {{host: 192.0.2.1, ports: [7000], wait: 22{every}}}}}");
        knock_in(configuration(&every).path(), &["-n", "--stay", "--stay", "gw"])
    };
    assert_eq!(entry(", every: 10m").status, 0);
    let said = entry(", every: often").err;
    assert!(said.contains("'often' is not valid here: write whole seconds, as in 30s"), "{said}");
    let directory = configuration("hosts: {gw: {host: 192.0.2.1, ports: [7000], wait: 22}}");
    let said = knock_in(directory.path(), &["--stay", "--stay", "--retry", "1", "gw"]);
    assert!(said.err.contains("--retry belongs to --wait"), "{}", said.err);
}
