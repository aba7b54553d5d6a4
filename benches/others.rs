//! Servers of others, set up to open port 22 for whoever knocks.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::{Net, eventually};

/// The key of a user of letmein, in hexadecimal digits.
#[allow(dead_code, reason = "what one benchmark needs")]
pub(crate) const LETMEIN_KEY: &str =
    "6e6f7468696e67206f70656e7320776974686f75742061206b6e6f636b206f6e";

/// A server at work, of one program or of several; ended when it goes out of scope.
pub(crate) struct OtherServer(Vec<Child>);

impl OtherServer {
    /// Classic knockd, which takes three SYNs.
    pub(crate) fn knockd(net: &Net, directory: &Path) -> Self {
        let config = directory.join("knockd.conf");
        let text = "[options]\n[ssh]\nsequence = 7000,8000,9000\nseq_timeout = 5\ntcpflags = syn\n\
             command = /usr/sbin/iptables -I INPUT -p tcp --dport 22 -s %IP% -j ACCEPT\n";
        fs::write(&config, text).unwrap();
        let mut command = net.server.command("/usr/sbin/knockd");
        command.args(["-i", "eth0", "-c"]).arg(config);
        Self(vec![silent(command)])
    }

    /// fwknopd with these keys, by capture or with a socket of its own.
    pub(crate) fn fwknopd(
        net: &Net,
        directory: &Path,
        (key, hmac_key): (&str, &str),
        udp: bool,
    ) -> Self {
        let path = |name: &str| directory.join(name).display().to_string();
        let run = path("run");
        fs::create_dir(&run).unwrap();
        let udp = if udp { 'Y' } else { 'N' };
        let text = format!(
            "PCAP_INTF eth0;\nFWKNOP_RUN_DIR {run};\nENABLE_DIGEST_PERSISTENCE N;\n\
             ENABLE_UDP_SERVER {udp};\n"
        );
        fs::write(path("fwknopd.conf"), text).unwrap();
        let text = format!(
            "SOURCE ANY\nKEY_BASE64 {key}\nHMAC_KEY_BASE64 {hmac_key}\nFW_ACCESS_TIMEOUT 3600\n"
        );
        fs::write(path("access.conf"), text).unwrap();
        let mut command = net.server.command("/usr/sbin/fwknopd");
        command.args(["-f", "-c", &path("fwknopd.conf"), "-a", &path("access.conf")]);
        command.args(["-r", &run, "-d", &format!("{run}/digests")]);
        Self(vec![silent(command)])
    }

    /// letmeind and letmeinfwd, with [`LETMEIN_KEY`] for user 1 and a table of nftables in which
    /// port 22 is shut.
    #[allow(dead_code, reason = "what one benchmark needs")]
    pub(crate) fn letmein(net: &Net, directory: &Path) -> Self {
        let path = |name: &str| directory.join(name).display().to_string();
        // letmeind has a user of its own, who has to come this far.
        fs::set_permissions(directory, Permissions::from_mode(0o755)).unwrap();
        let table = "table inet filter {\n chain LETMEIN-INPUT { }\n chain input {\n\
             type filter hook input priority 0; policy accept;\n\
             jump LETMEIN-INPUT\n tcp dport 22 drop\n }\n}\n";
        fs::write(path("table"), table).unwrap();
        net.server.must("nft", &["-f", &path("table")]);
        let text = format!(
            "[GENERAL]\nport = 5800\nseccomp = off\n[NFTABLES]\nexe = nft\nfamily = inet\n\
             table = filter\nchain-input = LETMEIN-INPUT\ntimeout = 3600\nmax-nr-rules = 1000\n\
             [KEYS]\n00000001 = {LETMEIN_KEY}\n[RESOURCES]\n0000000A = port: 22\n"
        );
        fs::write(path("letmeind.conf"), text).unwrap();
        for (file, line) in
            [("passwd", "letmeind:x:64999:64999::/:/bin/false"), ("group", "letmeind:x:64999:")]
        {
            let all = fs::read_to_string(format!("/etc/{file}")).unwrap();
            fs::write(path(file), format!("{all}{line}\n")).unwrap();
        }
        // `ip netns exec` gives each a mount namespace of its own.
        let script = "cd \"$1\" && shift && mount --bind passwd /etc/passwd \
             && mount --bind group /etc/group && mkdir -p run/letmeind \
             && chown letmeind run/letmeind && exec \"$@\"";
        let start = |program: &[&str]| {
            let mut command = net.server.command("sh");
            command.args(["-c", script, "sh"]).arg(directory).args(program);
            command.args(["--config", "letmeind.conf", "--rundir", "run", "--no-systemd"]);
            silent(command)
        };
        let firewall = start(&["letmeinfwd"]);
        std::thread::sleep(Duration::from_millis(500));
        let user = ["setpriv", "--reuid", "letmeind", "--regid", "letmeind", "--clear-groups"];
        Self(vec![start(&[&user[..], &["letmeind"]].concat()), firewall])
    }
}

fn silent(mut command: Command) -> Child {
    command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

impl Drop for OtherServer {
    fn drop(&mut self) {
        for child in &mut self.0 {
            let pid = Pid::from_raw(i32::try_from(child.id()).unwrap());
            let _ = kill(pid, Signal::SIGTERM);
            if !eventually(Duration::from_secs(5), || !matches!(child.try_wait(), Ok(None))) {
                let _ = child.kill();
                let _ = child.wait();
            }
        }
    }
}
