//! The courier between a stand-in for its keeper and a real store.

use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use command_fds::{CommandFdExt, FdMapping};
use libknock::config::{SandboxMode, Store, StoreAddress};
use libknock::ipc::courier::{FromCourier, SharedProof, ToCourier};
use libknock::ipc::{Channel, Received};
use libknock::proto::Secret;
use libknock::proto::fleet::ItemId;
use libknock::sys::{clock, descriptors, process};
use libknock::time::Wall;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;
use tempfile::TempDir;

use crate::support::{Beside, Host, PATIENCE, command, eventually, must, needs};

/// All that a gateway has to be allowed.
const ACL: &str = "user gw1 on >secret ~knockd:* &knockd:* -@all +hello +role +time +subscribe \
    +publish +multi +exec +eval +set +hset +hgetall +hlen +hdel +zadd +zcard +zrem \
    +zrangebyscore";

/// A store of the test's, or a Sentinel; ends with it.
struct Server {
    child: Child,
    directory: TempDir,
}

impl Server {
    /// One in a namespace, with these lines of a configuration besides what all have.
    fn start(host: &Host, lines: &str) -> Self {
        Self::start_in(host, tempfile::tempdir().unwrap(), lines, &[])
    }

    fn start_in(host: &Host, directory: TempDir, lines: &str, arguments: &[&str]) -> Self {
        let path = directory.path().display();
        let mut text = format!("dir {path}\nlogfile {path}/log\n");
        if arguments.is_empty() {
            // Nobody but root, who the test is, may connect.
            writeln!(text, "save ''\nunixsocket {path}/socket\nunixsocketperm 700").unwrap();
        }
        text.push_str(&lines.replace("DIR", &path.to_string()));
        let config = directory.path().join("redis.conf");
        fs::write(&config, text).unwrap();
        let child = host
            .command("redis-server")
            .arg(&config)
            .args(arguments)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let server = Self { child, directory };
        if arguments.is_empty() {
            assert!(eventually(PATIENCE, || server.client().is_ok()), "{}", server.log());
        }
        server
    }

    fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("socket")
    }

    fn client(&self) -> redis::RedisResult<redis::Connection> {
        redis::Client::open(format!("unix://{}", self.socket().display()))?.get_connection()
    }

    /// Does this, by the words of redis-cli.
    fn does<T: redis::FromRedisValue>(&self, line: &str) -> T {
        let words: Vec<&str> = line.split(' ').collect();
        let mut command = redis::cmd(words[0]);
        command.arg(&words[1..]).query(&mut self.client().unwrap()).unwrap()
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().try_into().unwrap()), signal).unwrap();
    }

    /// It as a store without TLS, by its socket.
    fn local(&self) -> Store {
        Store {
            addresses: vec![StoreAddress::Unix(self.socket())],
            password: None,
            authorities: None,
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn store(address: &str) -> Store {
    Store { addresses: vec![address.parse().unwrap()], password: None, authorities: None }
}

/// A courier, and the keeper's end of its channel.
struct Courier {
    channel: Channel,
    child: Child,
    said: Arc<Mutex<Vec<String>>>,
}

impl Courier {
    fn start(host: &Host, store: Store) -> Self {
        let (channel, theirs) = descriptors::frame_channel().unwrap();
        let nobody = json!({"User": {"name": "nobody", "uid": 65534, "gid": 65534}});
        let sandbox = SandboxMode::Enforce;
        let assignment = json!({"store": store, "identity": nobody, "sandbox": sandbox});
        let sealed = descriptors::sealed("test", assignment.to_string().as_bytes()).unwrap();
        let program = Path::new(env!("CARGO_BIN_EXE_knock-courier"));
        // By its name, which it looks at.
        let mut command = host.command("knock-courier");
        let descriptors = vec![
            FdMapping { parent_fd: theirs, child_fd: process::WATCHER_CHANNEL },
            FdMapping { parent_fd: sealed, child_fd: process::WATCHER_CONFIG },
        ];
        command.fd_mappings(descriptors).unwrap();
        let path = format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", program.parent().unwrap().display());
        let mut child = command.env("PATH", path).stderr(Stdio::piped()).spawn().unwrap();
        // What of it is in the command is the courier's alone.
        drop(command);
        let said = Arc::new(Mutex::new(Vec::new()));
        let (lines, into) = (BufReader::new(child.stderr.take().unwrap()).lines(), said.clone());
        thread::spawn(move || {
            lines.map_while(Result::ok).for_each(|it| into.lock().unwrap().push(it))
        });
        Self { channel: Channel(channel), child, said }
    }

    /// One that has joined, and has told this of what is kept.
    fn join(host: &Host, store: Store) -> (Self, Vec<Vec<u8>>) {
        let mut courier = Self::start(host, store);
        assert!(matches!(courier.next(), FromCourier::Sandbox { .. }));
        let FromCourier::Joined { clock: theirs } = courier.next() else { panic!("not joined") };
        let here = clock::now().wall;
        let apart = here.since(theirs).max(theirs.since(here));
        assert!(apart < PATIENCE, "{apart:?}");
        let mut kept = Vec::new();
        loop {
            match courier.next() {
                FromCourier::Entry { sealed } => kept.push(sealed),
                FromCourier::Live => return (courier, kept),
                other => panic!("{other:?}"),
            }
        }
    }

    fn next(&mut self) -> FromCourier {
        loop {
            match self.channel.receive_message() {
                Received::Frame(message) => return message,
                Received::Nothing => {
                    let is_ready =
                        descriptors::wait(&[self.channel.as_fd()], Some(PATIENCE)).unwrap();
                    assert_eq!(is_ready, [true], "it says nothing: {}", self.said());
                }
                other => {
                    // Its words are still on their way.
                    thread::sleep(Duration::from_millis(200));
                    panic!("{other:?}: {}", self.said());
                }
            }
        }
    }

    fn order(&self, order: ToCourier) {
        let sent = || self.channel.send_message(&order).is_ok();
        assert!(eventually(PATIENCE, sent), "it takes nothing: {}", self.said());
    }

    fn take(&mut self, number: u64, proof: SharedProof) -> bool {
        self.order(ToCourier::Take { ask: Some(number), proof });
        match self.next() {
            FromCourier::Taken { ask, is_new } if ask == number => is_new,
            other => panic!("{other:?}"),
        }
    }

    /// Tells something, and waits until that is done and has come back.
    fn tell(&mut self, number: u64, sealed: &[u8], keep: Option<(ItemId, Wall)>) {
        self.order(ToCourier::Tell { number, sealed: sealed.to_vec(), keep });
        let mut both = [self.next(), self.next()];
        both.sort_by_key(|it| matches!(it, FromCourier::Told { .. }));
        let sealed = sealed.to_vec();
        assert_eq!(both, [FromCourier::Entry { sealed }, FromCourier::Told { number }]);
    }

    fn said(&self) -> String {
        self.said.lock().unwrap().join("\n")
    }

    fn wait_for(&self, words: &str) {
        let said = eventually(PATIENCE, || self.said().contains(words));
        assert!(said, "not said: {words}: {}", self.said());
    }

    /// Waits until it has ended, whatever it still tells.
    fn ended(&mut self) -> ExitStatus {
        let mut status = None;
        let has_ended = eventually(PATIENCE, || {
            while let Received::Frame(_) = self.channel.receive_message::<FromCourier>() {}
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        assert!(has_ended, "{}", self.said());
        status.unwrap()
    }
}

impl Drop for Courier {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn in_a_minute() -> Wall {
    clock::now().wall + Duration::from_secs(60)
}

#[test]
fn what_is_good_once_is_taken_once_by_whichever_gateway() {
    needs!("taking proofs", "redis-server");
    let host = Host::new("store");
    let server = Server::start(&host, "port 0\n");
    let (mut one, _) = Courier::join(&host, server.local());
    let (mut other, _) = Courier::join(&host, server.local());
    let line = SharedProof::Once { id: [1; 16], until: None };
    let step = SharedProof::Once { id: [2; 16], until: Some(in_a_minute()) };
    let over = SharedProof::Once { id: [3; 16], until: Some(Wall::ZERO) };
    for (number, proof) in [(1, line), (2, step)] {
        assert!(one.take(number, proof));
        assert!(!other.take(number, proof));
        assert!(!one.take(number + 10, proof));
    }
    assert!(one.take(3, over));
    assert!(eventually(PATIENCE, || server.does::<i64>("DBSIZE") == 2));
    let key = "knockd:once:02020202020202020202020202020202";
    assert!((1..=60_000).contains(&server.does::<i64>(&format!("PTTL {key}"))));
}

#[test]
fn a_stamp_is_taken_where_it_is_later_than_all_and_can_be_lowered() {
    needs!("taking stamps", "redis-server");
    let host = Host::new("store");
    let server = Server::start(&host, "port 0\n");
    let (mut courier, _) = Courier::join(&host, server.local());
    let now = clock::now().wall;
    let at = |later: u64| now + Duration::from_micros(later);
    let stamp = |later| SharedProof::Highest { id: [1; 16], stamp: at(later) };
    let taken = [1, 1, 0, 2, 1].map(|later| courier.take(later, stamp(later)));
    assert_eq!(taken, [true, false, false, true, false]);
    courier.order(ToCourier::Lower { id: [1; 16], stamp: at(0) });
    courier.order(ToCourier::Lower { id: [2; 16], stamp: at(0) });
    assert!(!courier.take(8, stamp(0)));
    assert!(courier.take(9, stamp(1)));
    // What was never taken is not lowered.
    assert_eq!(server.does::<i64>("ZCARD knockd:marks"), 1);
}

#[test]
fn what_is_kept_is_told_to_whoever_joins_and_takes_the_place_of_what_was() {
    needs!("joining", "redis-server");
    let host = Host::new("store");
    let server = Server::start(&host, "port 0\n");
    let (mut one, kept) = Courier::join(&host, server.local());
    assert!(kept.is_empty());
    one.tell(1, b"first", Some(([1; 16], in_a_minute())));
    one.tell(2, b"second", Some(([2; 16], in_a_minute())));
    one.tell(3, b"instead of the first", Some(([1; 16], in_a_minute())));
    one.tell(4, b"told and forgotten", None);
    let (_other, mut kept) = Courier::join(&host, server.local());
    kept.sort();
    assert_eq!(kept, [b"instead of the first".as_slice(), b"second"]);
}

#[test]
fn all_hear_what_is_told_in_its_order_however_fast() {
    needs!("order", "redis-server");
    const ALL: u64 = 20_000;
    let host = Host::new("store");
    let server = Server::start(&host, "port 0\n");
    let (mut one, _) = Courier::join(&host, server.local());
    let (mut other, _) = Courier::join(&host, server.local());
    let channel = one.channel.try_clone().map(Channel).unwrap();
    let teller = thread::spawn(move || {
        for number in 0..ALL {
            let id = [(number % 7) as u8; 16];
            let keep = (number % 2 == 0).then(|| (id, in_a_minute()));
            let order = ToCourier::Tell { number, sealed: number.to_be_bytes().into(), keep };
            while channel.send_message(&order).is_err() {
                thread::sleep(Duration::from_millis(1));
            }
        }
    });
    let (mut entries, mut told) = (0, 0);
    while entries < ALL || told < ALL {
        match one.next() {
            FromCourier::Entry { sealed } if sealed == entries.to_be_bytes() => entries += 1,
            FromCourier::Told { number } if number == told => told += 1,
            message => panic!("{message:?} after {entries} and {told}"),
        }
    }
    teller.join().unwrap();
    // This one has not listened so far.
    for number in 0..ALL {
        let sealed = number.to_be_bytes().into();
        assert_eq!(other.next(), FromCourier::Entry { sealed });
    }
}

#[test]
fn one_that_joins_hears_all_of_much_and_then_what_comes() {
    needs!("much that is kept", "redis-server");
    let host = Host::new("store");
    let server = Server::start(&host, "port 0\n");
    let fill =
        "for i = 1, 20000 do redis.call('HSET', 'knockd:live', i, string.rep('x', 300) .. i) end";
    let mut client = server.client().unwrap();
    redis::cmd("EVAL").arg(fill).arg(0).exec(&mut client).unwrap();
    let (mut courier, kept) = Courier::join(&host, server.local());
    assert_eq!(kept.len(), 20_000);
    courier.tell(1, b"now", None);
}

#[test]
fn a_beat_is_answered_by_those_of_all_and_tidies_what_has_ended() {
    needs!("beats", "redis-server");
    let host = Host::new("store");
    let server = Server::start(&host, "port 0\n");
    let (mut courier, _) = Courier::join(&host, server.local());
    let long_ago = clock::now().wall - Duration::from_secs(100_000);
    courier.tell(0, b"over", Some(([8; 16], long_ago)));
    let proof = SharedProof::Highest { id: [8; 16], stamp: long_ago };
    courier.order(ToCourier::Take { ask: None, proof });
    // As much again as is tidied at once.
    let fill = "for i = 1, 4000 do redis.call('HSET', 'knockd:live', i, 'over') \
        redis.call('ZADD', 'knockd:ends', 1, i) redis.call('ZADD', 'knockd:marks', 1, i) end";
    redis::cmd("EVAL").arg(fill).arg(0).exec(&mut server.client().unwrap()).unwrap();
    courier.tell(1, b"live", Some(([9; 16], in_a_minute())));
    assert!(courier.take(2, SharedProof::Highest { id: [9; 16], stamp: clock::now().wall }));
    let beat = |courier: &mut Courier, id: u8| {
        courier.order(ToCourier::Beat { id: [id; 16], sealed: vec![id] });
        let mut beats = Vec::new();
        loop {
            match courier.next() {
                FromCourier::Beat { sealed } => beats.push(sealed),
                FromCourier::Store { kept, stamps, .. } => {
                    beats.sort();
                    return (beats, kept, stamps);
                }
                other => panic!("{other:?}"),
            }
        }
    };
    // What was said before.
    assert_eq!(beat(&mut courier, 1), (vec![], 2, 2));
    assert_eq!(beat(&mut courier, 2), (vec![vec![1]], 1, 1));
    assert_eq!(server.does::<i64>("ZCARD knockd:ends"), 1);
}

/// Makes certificates in a directory: of one who vouches, of a store that is vouched for.
fn certify(directory: &Path) {
    let script = "set -e; cd \"$1\"; key='-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes'; \
        openssl req -x509 $key -keyout ca.key -out ca.pem -subj /CN=ca -days 2; \
        openssl req $key -keyout key.pem -out request -subj /CN=store; \
        echo subjectAltName=IP:127.0.0.1,DNS:localhost >names; \
        openssl x509 -req -in request -CA ca.pem -CAkey ca.key -CAcreateserial -out cert.pem \
        -days 2 -extfile names";
    must("sh", &["-c", script, "sh", directory.to_str().unwrap()]);
}

/// What has a store speak TLS alone.
const TLS: &str = "tls-port 6379\nport 0\ntls-cert-file DIR/cert.pem\ntls-key-file DIR/key.pem\n\
    tls-ca-cert-file DIR/ca.pem\ntls-auth-clients no\n";

/// A store that speaks TLS, with one user who may do what a gateway has to; and it as a gateway's.
fn with_tls(host: &Host) -> (Server, Store) {
    let directory = tempfile::tempdir().unwrap();
    certify(directory.path());
    let server = Server::start_in(host, directory, &format!("{TLS}{ACL}\n"), &[]);
    let authorities = fs::read_to_string(server.directory.path().join("ca.pem")).ok();
    let password = Some(Secret::new(b"secret".into()));
    (server, Store { password, authorities, ..store("rediss://gw1@localhost:6379") })
}

#[test]
fn by_tls_a_user_with_few_rights_does_all_of_it() {
    needs!("TLS", "redis-server", "openssl");
    let host = Host::new("store");
    let (_server, store) = with_tls(&host);
    let (mut courier, _) = Courier::join(&host, store.clone());
    assert!(courier.take(1, SharedProof::Once { id: [1; 16], until: Some(in_a_minute()) }));
    assert!(courier.take(2, SharedProof::Highest { id: [1; 16], stamp: in_a_minute() }));
    courier.order(ToCourier::Lower { id: [1; 16], stamp: Wall::ZERO });
    courier.tell(3, b"kept", Some(([1; 16], clock::now().wall - Duration::from_secs(100))));
    courier.tell(4, &[4; 16_000], Some(([2; 16], in_a_minute())));
    courier.order(ToCourier::Beat { id: [1; 16], sealed: b"beat".into() });
    assert!(matches!(courier.next(), FromCourier::Store { kept: 1, stamps: 0, .. }));
    let (_other, kept) = Courier::join(&host, store);
    assert_eq!(kept, [[4; 16_000]]);
    assert_eq!(courier.said(), "");
}

#[test]
fn what_keeps_it_out_is_said_once_with_what_helps_and_no_secret() {
    needs!("being kept out", "redis-server", "openssl");
    let host = Host::new("store");
    let (server, right) = with_tls(&host);
    let user = |name: &str| format!("rediss://{name}@127.0.0.1:6379").parse().unwrap();
    let other = Some(Secret::new(b"hunter2".into()));
    let wrong = [
        (
            Store { password: other, ..right.clone() },
            "the store at localhost port 6379: it says: WRONGPASS",
            "check the user in 'store', and what 'password_file' holds",
        ),
        (
            Store { addresses: vec![user("gw2")], ..right.clone() },
            "it says: WRONGPASS",
            "check the user in 'store'",
        ),
        (
            Store { authorities: None, ..right.clone() },
            "invalid peer certificate: UnknownIssuer",
            "name who has signed it as 'ca_file'",
        ),
        (
            Store { authorities: Some("none".into()), ..right.clone() },
            "ca_file",
            "'ca_file' has no certificate",
        ),
        (
            Store { ..store("rediss://192.0.2.1:6379") },
            "cannot be reached: Network is unreachable",
            "",
        ),
        (
            store("redis://127.0.0.1:9"),
            "127.0.0.1 port 9: cannot be reached: Connection refused",
            "",
        ),
        (store("redis://127.0.0.1:6379"), "the connection ended", ""),
        (store("redis://nowhere.invalid:6379"), "nowhere.invalid port 6379: cannot be reached", ""),
    ];
    let started: Vec<_> = wrong
        .into_iter()
        .map(|(store, said, help)| (Courier::start(&host, store), said, help))
        .collect();
    for (courier, said, help) in &started {
        courier.wait_for(said);
        courier.wait_for(help);
    }
    thread::sleep(Duration::from_secs(3));
    for (mut courier, ..) in started {
        let said = courier.said();
        assert_eq!(said.lines().count(), 1, "{said}");
        assert!(!said.contains("hunter2") && !said.contains("secret"), "{said}");
        assert_eq!(courier.child.try_wait().unwrap(), None, "{said}");
    }
    // Where somebody helps, those who wait come in.
    let set = ["ACL", "SETUSER", "gw1", ">new"];
    let new = Store { password: Some(Secret::new(b"new".into())), ..right };
    let mut waiting = Courier::start(&host, new);
    waiting.wait_for("WRONGPASS");
    server.does::<()>(&set.join(" "));
    assert!(matches!(waiting.next(), FromCourier::Sandbox { .. }));
}

#[test]
fn a_replica_is_no_store_until_it_is_the_primary() {
    needs!("a replica", "redis-server");
    let host = Host::new("store");
    let primary = Server::start(&host, "port 7001\n");
    let replica = Server::start(&host, "port 7002\nreplicaof 127.0.0.1 7001\n");
    let mut courier = Courier::start(&host, store("redis://127.0.0.1:7002"));
    courier.wait_for("127.0.0.1 port 7002: it is a replica");
    let (mut on_primary, _) = Courier::join(&host, store("redis://127.0.0.1:7001"));
    replica.does::<()>("REPLICAOF NO ONE");
    assert!(matches!(courier.next(), FromCourier::Sandbox { .. }));
    // A primary that becomes a replica takes nothing more.
    primary.does::<()>("REPLICAOF 127.0.0.1 7002");
    on_primary.order(ToCourier::Tell { number: 1, sealed: b"x".into(), keep: None });
    on_primary.order(ToCourier::Beat { id: [1; 16], sealed: b"x".into() });
    assert!(!on_primary.ended().success());
    on_primary.wait_for("the store is lost: ");
}

#[test]
fn sentinels_say_where_the_store_is_now() {
    needs!("Sentinels", "redis-server");
    let host = Host::new("store");
    let primary = Server::start(&host, "port 7001\n");
    let replica = Server::start(&host, "port 7002\nreplicaof 127.0.0.1 7001\n");
    let lines = "port 26379\nsentinel monitor knock 127.0.0.1 7001 1\n\
        sentinel down-after-milliseconds knock 500\nsentinel failover-timeout knock 2000\n";
    let sentinel = Server::start_in(&host, tempfile::tempdir().unwrap(), lines, &["--sentinel"]);
    // The first of them is not there.
    let addresses = ["redis://127.0.0.1:26380/knock", "redis://127.0.0.1:26379/knock"];
    let addresses = addresses.map(|it| it.parse().unwrap()).to_vec();
    let all = Store { addresses, ..primary.local() };
    let (mut courier, _) = Courier::join(&host, all.clone());
    courier.tell(1, b"kept", Some(([1; 16], in_a_minute())));
    assert!(eventually(PATIENCE, || replica.does::<i64>("HLEN knockd:live") == 1));
    assert!(eventually(PATIENCE, || sentinel.log().contains("+slave")), "{}", sentinel.log());
    primary.signal(Signal::SIGKILL);
    assert!(!courier.ended().success());
    courier.wait_for("the store is lost: the connection ended");
    let mut next = Courier::start(&host, all.clone());
    assert!(
        eventually(PATIENCE, || sentinel.log().contains("+switch-master")),
        "{}",
        sentinel.log()
    );
    assert!(matches!(next.next(), FromCourier::Sandbox { .. }));
    assert!(matches!(next.next(), FromCourier::Joined { .. }));
    assert_eq!(next.next(), FromCourier::Entry { sealed: b"kept".into() });
    let other = Store { addresses: vec!["redis://127.0.0.1:26379/other".parse().unwrap()], ..all };
    Courier::start(&host, other).wait_for("the Sentinel knows no primary 'other'");
}

#[test]
fn a_store_that_is_killed_or_stands_still_is_lost_and_found_again() {
    needs!("a lost store", "redis-server");
    let host = Host::new("store");
    let server = Server::start(&host, "port 0\n");
    let take = |id: u8| ToCourier::Take {
        ask: Some(1),
        proof: SharedProof::Once { id: [id; 16], until: None },
    };
    let (mut still, _) = Courier::join(&host, server.local());
    server.signal(Signal::SIGSTOP);
    still.order(take(1));
    assert!(!still.ended().success());
    still.wait_for("the store is lost: it has not answered for 3 s");
    // Nobody is there who lets it in either.
    let stuck = Courier::start(&host, server.local());
    stuck.wait_for("it has not answered for 3 s");
    server.signal(Signal::SIGCONT);
    let (mut killed, _) = Courier::join(&host, server.local());
    server.signal(Signal::SIGKILL);
    assert!(!killed.ended().success());
    killed.wait_for("the store is lost: the connection ended");
    let mut waiting = Courier::start(&host, server.local());
    waiting.wait_for("socket: cannot be reached: Connection refused");
    let Server { .. } = &server;
    let file = server.directory.path().join("redis.conf");
    let again = Beside::start(host.command("redis-server").arg(file));
    assert!(matches!(waiting.next(), FromCourier::Sandbox { .. }));
    drop(again);
    assert!(!waiting.ended().success());
}

#[test]
fn a_store_without_memory_is_lost_with_its_own_words() {
    needs!("a full store", "redis-server");
    let host = Host::new("store");
    let server = Server::start(&host, "port 0\n");
    let (mut courier, _) = Courier::join(&host, server.local());
    server.does::<()>("CONFIG SET maxmemory 1");
    let keep = Some(([1; 16], in_a_minute()));
    courier.order(ToCourier::Tell { number: 1, sealed: b"x".into(), keep });
    assert!(!courier.ended().success());
    courier.wait_for("it says: OOM command not allowed");
    courier.wait_for("> 'maxmemory': give the store more memory ('maxmemory')");
}

#[test]
fn rubbish_in_the_store_is_left_out_and_said_once() {
    needs!("rubbish", "redis-server");
    let host = Host::new("store");
    let server = Server::start(&host, "port 0\n");
    let long = "x".repeat(20_000);
    server.does::<i64>(&format!("HSET knockd:live a {long} b fit c {long}"));
    server.does::<i64>(&format!("HSET knockd:gateways a {long} b {long}"));
    let (mut courier, kept) = Courier::join(&host, server.local());
    assert_eq!(kept, [b"fit"]);
    server.does::<i64>(&format!("PUBLISH knockd:news {long}"));
    courier.tell(1, b"fit", None);
    courier.order(ToCourier::Beat { id: [1; 16], sealed: b"beat".into() });
    assert!(matches!(courier.next(), FromCourier::Store { kept: 3, .. }));
    courier.wait_for("what no gateway has put there");
    assert_eq!(courier.said().lines().count(), 1, "{}", courier.said());
    server.does::<i64>("DEL knockd:marks");
    server.does::<()>("SET knockd:marks text");
    let proof = SharedProof::Highest { id: [1; 16], stamp: in_a_minute() };
    courier.order(ToCourier::Take { ask: Some(1), proof });
    assert!(!courier.ended().success());
    courier.wait_for("it says: WRONGTYPE");
}

#[test]
fn it_has_no_rights_and_ends_with_its_keeper() {
    needs!("a courier's rights", "redis-server");
    let host = Host::new("store");
    let server = Server::start(&host, "port 0\n");
    let mut courier = Courier::start(&host, server.local());
    let FromCourier::Sandbox { report } = courier.next() else { panic!("{}", courier.said()) };
    let report = format!("{report:?}");
    assert!(report.contains("seccomp: Enforced, memory: Locked"), "{report}");
    assert!(report.contains("no_network: true, scoped: true"), "{report}");
    let process = format!("/proc/{}", courier.child.id());
    let status = fs::read_to_string(format!("{process}/status")).unwrap();
    for holds in [
        "Name:\tknock-courier",
        "Uid:\t65534\t65534",
        "CapPrm:\t0000000000000000",
        "NoNewPrivs:\t1",
        "Seccomp:\t2",
        "Threads:\t1",
    ] {
        assert!(status.contains(holds), "{holds}: {status}");
    }
    let mut open: Vec<String> = fs::read_dir(format!("{process}/fd"))
        .unwrap()
        .map(|entry| fs::read_link(entry.unwrap().path()).unwrap().display().to_string())
        .map(|link| link.split(':').next().unwrap().to_owned())
        .collect();
    open.sort();
    assert_eq!(open.iter().filter(|it| *it == "socket").count(), 2, "{open:?}");
    let (keeper, _) = descriptors::frame_channel().unwrap();
    drop(std::mem::replace(&mut courier.channel, Channel(keeper)));
    let mut status = None;
    assert!(eventually(PATIENCE, || {
        status = courier.child.try_wait().unwrap();
        status.is_some()
    }));
    assert!(status.unwrap().success(), "{}", courier.said());
    assert_eq!(courier.said(), "");
    // One that waits for a store too.
    let mut waiting = Courier::start(&host, store("redis://127.0.0.1:9"));
    waiting.wait_for("cannot be reached");
    drop(std::mem::replace(&mut waiting.channel, Channel(descriptors::frame_channel().unwrap().0)));
    assert!(eventually(PATIENCE, || waiting.child.try_wait().unwrap().is_some()));
}

#[test]
fn a_person_who_types_its_name_is_told_whose_it_is() {
    let program = env!("CARGO_BIN_EXE_knock-courier");
    let typed = command(program).output().unwrap();
    let said = String::from_utf8_lossy(&typed.stderr).into_owned();
    assert!(!typed.status.success() && said.contains("this is for knockd to start"), "{said}");
    assert!(must(program, &["--version"]).starts_with("knock-courier "));
    assert!(must(program, &["--help"]).contains("knockd(8) starts it"));
}
