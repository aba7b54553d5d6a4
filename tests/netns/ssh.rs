//! ssh through a door that one datagram opens: `knock` as its ProxyCommand, as knock(1) says.
//!
//! Needs root and OpenSSH; says loudly what it skips where it cannot run. The server runs in a
//! namespace with a host key of its own, on no port of the machine.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::Duration;

use libknock::proto::spa::PrivateKey;

use crate::stay::Staying;
use crate::support::{CLIENT, Knockd, Net, PATIENCE, SERVER, command, eventually, must, needs};

/// sshd behind a guarded door, a client with keys for both, and the hosts file.
struct Scene {
    net: Net,
    knockd: Knockd,
    sshd: Child,
    directory: tempfile::TempDir,
}

impl Scene {
    fn new(hosts_entry: &str) -> Self {
        let net = Net::new();
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        let shown = |name: &str| path(name).display().to_string();
        for key in ["host", "user"] {
            must("ssh-keygen", &["-q", "-t", "ed25519", "-N", "", "-f", &shown(key)]);
        }
        fs::copy(path("user.pub"), path("authorized")).unwrap();
        let sshd_config = format!(
            "Port 22\nHostKey {}\nAuthorizedKeysFile {}\nPidFile none\nStrictModes no\n\
             UsePAM no\nPermitRootLogin yes\nPasswordAuthentication no\n\
             Subsystem sftp internal-sftp\n",
            shown("host"),
            shown("authorized")
        );
        fs::write(path("sshd_config"), sshd_config).unwrap();
        // Where sshd puts its unprivileged half; an installed service makes it.
        fs::create_dir_all("/run/sshd").unwrap();
        let sshd = net
            .server
            .command("/usr/sbin/sshd")
            .args(["-D", "-e", "-f", &shown("sshd_config")])
            .stdin(Stdio::null())
            .stderr(fs::File::create(path("sshd.log")).unwrap())
            .spawn()
            .unwrap();
        let listens = eventually(PATIENCE, || net.client.can_connect(SERVER, 22));
        assert!(listens, "{}", fs::read_to_string(path("sshd.log")).unwrap());

        let public = must(env!("CARGO_BIN_EXE_knock"), &["--keygen", &shown("laptop.key")]);
        let knockd = Knockd::start(&net.server, &configuration(public.trim()));
        assert!(!net.client.can_connect(SERVER, 22), "the guard does not lock the port");
        let server_key = server_key(knockd.directory.path());
        write_private(
            &path("hosts.yaml"),
            &format!(
                "hosts:\n  gateway: {{host: {SERVER}, mode: spa, door: ssh, key_file: laptop.key,\n\
                 \x20   server_key: {server_key}{hosts_entry}}}\n"
            ),
        );
        Self { net, knockd, sshd, directory }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Runs ssh with a command for the other side, and this input for it.
    fn ssh(&self, remote: &str, input: &[u8]) -> Output {
        self.ssh_with(&[&self.proxy(&[])], remote, input).output().unwrap()
    }

    /// The option that has `knock` be, or hand over, the connection.
    fn proxy(&self, options: &[&str]) -> String {
        format!("ProxyCommand={} --proxy %h %p", self.knock(options))
    }

    /// The command that knocks with the hosts file.
    fn knock(&self, options: &[&str]) -> String {
        let hosts = self.path("hosts.yaml").display().to_string();
        [&[env!("CARGO_BIN_EXE_knock"), "--hosts", &hosts], options].concat().join(" ")
    }

    /// A command line for ssh with these options.
    fn ssh_with(&self, options: &[&str], remote: &str, input: &[u8]) -> Command {
        fs::write(self.path("input"), input).unwrap();
        let mut command = self.net.client.command("ssh");
        command
            .args(["-F", "none"])
            .args(options.iter().flat_map(|option| ["-o", option]))
            .args(self.always().iter().flat_map(|option| ["-o", option]))
            .args(["-l", "root", SERVER, remote])
            .stdin(fs::File::open(self.path("input")).unwrap());
        command
    }

    /// What every ssh is told here.
    fn always(&self) -> [String; 5] {
        [
            "StrictHostKeyChecking=no".to_owned(),
            "UserKnownHostsFile=/dev/null".to_owned(),
            "BatchMode=yes".to_owned(),
            "LogLevel=ERROR".to_owned(),
            format!("IdentityFile={}", self.path("user").display()),
        ]
    }

    /// The programs that run in the client's namespace.
    fn programs(&self) -> Vec<String> {
        let pids = must("ip", &["netns", "pids", &self.net.client.name]);
        let name = |pid| fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        pids.split_whitespace().map(|pid| name(pid).trim().to_owned()).collect()
    }

    fn what_was_said(&self) -> String {
        fs::read_to_string(self.path("sshd.log")).unwrap_or_default()
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        let _ = self.sshd.kill();
        let _ = self.sshd.wait();
    }
}

fn configuration(public_key: &str) -> String {
    format!(
        "knockd: {{interfaces: [eth0], run_dir: DIR/run, state_dir: DIR/state, user: nobody,\n\
         \x20 spa: {{key_file: DIR/keys/server.key}}}}\n\
         clients:\n  laptop: {{doors: [ssh], spa: {{public_key: {public_key}}}}}\n\
         doors:\n  ssh: {{spa: true, open: [22], open_for: 2s}}\n"
    )
}

fn server_key(directory: &Path) -> String {
    let key: PrivateKey =
        fs::read_to_string(directory.join("keys/server.key")).unwrap().parse().unwrap();
    key.public().to_string()
}

fn write_private(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}

#[test]
fn ssh_gets_in_through_knock_and_what_it_carries_is_whole() {
    needs!("ssh", "nft", "sshd", "ssh", "ssh-keygen");
    let scene = Scene::new("");
    let sent: Vec<u8> = (0..1_000_000u32).map(|number| (number % 251) as u8).collect();
    let output = scene.ssh("cat", &sent);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{said}\n{}", scene.what_was_said());
    assert!(output.stdout == sent, "{} of {} bytes came back", output.stdout.len(), sent.len());
    assert_eq!(scene.knockd.count("OPEN SESAME"), 1);
    // It lasts longer than the door is open for whoever is not in yet.
    let output = scene.ssh("sleep 4; echo still here", b"");
    assert_eq!(output.stdout, b"still here\n");
    let shut = eventually(PATIENCE, || !scene.net.client.can_connect(SERVER, 22));
    assert!(shut, "the port stays open");
    let output = scene.ssh("exit 7", b"");
    assert_eq!(output.status.code(), Some(7));
}

#[test]
fn a_session_goes_on_when_the_door_has_closed_until_its_client_is_revoked_and_cut() {
    needs!("ssh cut", "nft", "sshd", "ssh", "ssh-keygen");
    let scene = Scene::new("");
    let revoke = |more: &[&str]| {
        let mut knockctl = command(env!("CARGO_BIN_EXE_knockctl"));
        let knockctl = knockctl.arg("-c").arg(&scene.knockd.config).args(["revoke", "laptop"]);
        // The client is written by hand, and stays: what it has open ends.
        let output = knockctl.args(more).output().unwrap();
        String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap()
    };
    let is_in = scene.path("in");
    let remote = format!("touch {} && sleep 60", is_in.display());
    thread::scope(|scope| {
        let session = scope.spawn(|| scene.ssh(&remote, b""));
        assert!(eventually(PATIENCE, || is_in.exists()), "{}", scene.what_was_said());
        scene.knockd.wait_for("ssh: command timeout");
        let said = revoke(&[]);
        assert!(!said.contains("cut") && !session.is_finished(), "{said}");
        let said = revoke(&["--cut"]);
        assert!(said.contains("1 connection cut"), "{said}");
        let output = session.join().unwrap();
        assert_eq!(output.status.code(), Some(255));
    });
}

#[test]
fn ssh_from_a_port_of_its_own_is_all_that_gets_in() {
    needs!("ssh source port", "nft", "sshd", "ssh", "ssh-keygen");
    let scene = Scene::new(", source_port: 40022");
    let output = scene.ssh("sleep 1; echo $SSH_CLIENT", b"");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{said}\n{}", scene.what_was_said());
    let seen = String::from_utf8(output.stdout).unwrap();
    assert_eq!(seen.split_whitespace().nth(1), Some("40022"), "{seen}");
    assert!(!scene.net.client.can_connect(SERVER, 22), "another port gets in too");
}

#[test]
fn ssh_gets_in_from_each_address_of_a_client_that_stays() {
    needs!("ssh stay", "nft", "sshd", "ssh", "ssh-keygen");
    let scene = Scene::new(", every: 1s");
    let mut knock = scene.net.client.command(env!("CARGO_BIN_EXE_knock"));
    knock.arg("--hosts").arg(scene.path("hosts.yaml")).args(["-v", "--stay", "gateway"]);
    let _staying = Staying::run(knock);
    for address in [CLIENT, "192.0.2.3", "192.0.2.4"] {
        scene.net.client.must("ip", &["addr", "flush", "dev", "eth0", "scope", "global"]);
        let address = format!("{address}/24");
        scene.net.client.must("ip", &["addr", "add", &address, "dev", "eth0"]);
        let mut seen = String::new();
        let gets_in = eventually(PATIENCE, || {
            let output =
                scene.ssh_with(&["ConnectTimeout=1"], "echo $SSH_CLIENT", b"").output().unwrap();
            seen = String::from_utf8(output.stdout).unwrap();
            output.status.success()
        });
        assert!(gets_in, "{address}: {}", scene.what_was_said());
        assert_eq!(seen.split(' ').next(), address.strip_suffix("/24"));
    }
}

#[test]
fn a_server_that_does_not_know_the_key_is_an_error_that_ssh_shows() {
    needs!("ssh refused", "nft", "sshd", "ssh", "ssh-keygen");
    let scene = Scene::new(", retry: 0");
    let key = PrivateKey::from([9; 32]);
    write_private(&scene.path("laptop.key"), &format!("{}\n", key.encode().as_str()));
    let output = scene.ssh("true", b"");
    assert_eq!(output.status.code(), Some(255));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("knock: "), "{said}");
    assert!(eventually(Duration::from_secs(5), || {
        scene.knockd.count("no client has this public key") == 1
    }));
}

#[test]
fn ssh_goes_on_with_the_connection_that_knock_hands_over_and_knock_is_gone() {
    needs!("ssh fdpass", "nft", "sshd", "ssh", "ssh-keygen");
    let scene = Scene::new(", source_port: auto");
    let proxy = scene.proxy(&["--fdpass"]);
    let options = ["ProxyUseFdpass=yes", &proxy];
    let sent: Vec<u8> = (0..1_000_000u32).map(|number| (number % 251) as u8).collect();
    let output = scene.ssh_with(&options, "cat", &sent).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{said}\n{}", scene.what_was_said());
    assert!(output.stdout == sent, "{} of {} bytes came back", output.stdout.len(), sent.len());

    let mut session = scene.ssh_with(&options, "echo in; sleep 4; echo still here", b"");
    let mut session = session.stdout(Stdio::piped()).spawn().unwrap();
    let mut heard = BufReader::new(session.stdout.take().unwrap());
    let mut line = String::new();
    heard.read_line(&mut line).unwrap();
    assert_eq!((line.as_str(), scene.programs()), ("in\n", vec!["ssh".to_owned()]));
    line.clear();
    heard.read_line(&mut line).unwrap();
    assert_eq!((line.as_str(), session.wait().unwrap().code()), ("still here\n", Some(0)));
}

#[test]
fn ssh_without_fdpass_is_told_what_it_lacks() {
    needs!("ssh no fdpass", "nft", "sshd", "ssh", "ssh-keygen");
    let scene = Scene::new("");
    let output = scene.ssh_with(&[&scene.proxy(&["--fdpass"])], "true", b"").output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("write 'ProxyUseFdpass yes' for ssh"), "{said}");
    assert_eq!(output.status.code(), Some(255));
    assert_eq!(scene.knockd.count("OPEN SESAME"), 0);
}

#[test]
fn a_door_that_stays_shut_ends_ssh_where_a_connection_would_be_handed_over() {
    needs!("ssh fdpass refused", "nft", "sshd", "ssh", "ssh-keygen");
    let scene = Scene::new(", retry: 0");
    let proxy = scene.proxy(&["--fdpass"]);
    let key = PrivateKey::from([9; 32]);
    write_private(&scene.path("laptop.key"), &format!("{}\n", key.encode().as_str()));
    let output = scene.ssh_with(&["ProxyUseFdpass=yes", &proxy], "true", b"").output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("192.0.2.1:22 did not accept a connection: gave up"), "{said}");
    assert_eq!(output.status.code(), Some(255));
}

/// With `Match host ... exec`, as knock(1) shows it, ssh connects by itself, and so does whatever
/// uses it.
#[test]
fn programs_that_use_ssh_get_in_where_its_configuration_knocks_before() {
    needs!("ssh Match exec", "nft", "sshd", "ssh", "ssh-keygen", "rsync", "git", "scp");
    let scene = Scene::new(", wait: 22");
    let config = scene.path("ssh_config");
    let knock = scene.knock(&["%h"]);
    let mut text = format!("Match host {SERVER} exec \"{knock}\"\nHost *\nUser root\n");
    for option in scene.always() {
        text.push_str(&format!("{option}\n"));
    }
    fs::write(&config, text).unwrap();
    let ssh = format!("ssh -F {}", config.display());
    let (here, there) = (scene.path("input"), scene.path("there"));
    fs::write(&here, "whole").unwrap();
    let repository = scene.path("repository").display().to_string();
    must("git", &["init", "-q", "--bare", &repository]);
    let config = config.display().to_string();
    let (here, there) = (here.display().to_string(), there.display().to_string());
    let remote = |path: &str| format!("{SERVER}:{path}");
    for (number, line) in (1..).zip([
        &["ssh", "-F", &config, SERVER, "true"][..],
        &["scp", "-q", "-F", &config, &here, &remote(&there)],
        &["rsync", "-e", &ssh, &remote(&there), &scene.path("back").display().to_string()],
        &["git", "-c", &format!("core.sshCommand={ssh}"), "ls-remote", &remote(&repository)],
    ]) {
        assert!(eventually(PATIENCE, || !scene.net.client.can_connect(SERVER, 22)));
        scene.net.client.must(line[0], &line[1..]);
        assert_eq!(scene.knockd.count("OPEN SESAME"), number, "{line:?}");
    }
    assert_eq!(fs::read_to_string(scene.path("back")).unwrap(), "whole");
}
