//! The way to a store: its address, or Sentinels that know it, TLS, and being let in.

use std::fs;
use std::io;
use std::net::ToSocketAddrs;
use std::sync::Arc;
use std::time::Duration;

use derive_more::Display;
use redis::{Value, cmd};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore};
use socket2::{Domain, SockAddr, Socket, Type};

use super::connection::{Connection, StoreError};
use super::talk::{LIVE, clock_of};
use crate::config::{Store, StoreAddress};
use crate::time::Wall;

/// How long one address of a host is tried.
const CONNECT: Duration = Duration::from_millis(500);
/// Where systems keep the certificates of those whom they trust.
const BUNDLES: [&str; 2] =
    ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt"];

/// The reason why the way did not lead there, this time.
#[derive(Debug, Display)]
#[display("the store at {place}: {error}")]
pub(super) struct Failure {
    place: String,
    pub error: StoreError,
    /// This process cannot try again: another can, which is still root.
    pub is_for_good: bool,
}

pub(super) struct Way {
    store: Store,
    /// The certificates of those who vouch for the store, in PEM.
    authorities: Option<Vec<u8>>,
    /// A connection to the store on this host.
    opened: Option<Socket>,
}

impl Way {
    /// To be called while all files can be read.
    pub(super) fn new(mut store: Store) -> Self {
        let authorities = store.authorities.take().map(String::into_bytes);
        let is_tls = |it: &StoreAddress| matches!(it, StoreAddress::Tcp { tls: true, .. });
        let wants_them = store.addresses.iter().any(is_tls);
        let read = || BUNDLES.iter().filter(|_| wants_them).find_map(|path| fs::read(path).ok());
        Self { authorities: authorities.or_else(read), store, opened: None }
    }

    /// Connects where the store is a socket of this host's, which owner and group may keep for
    /// themselves: to be called as root. Nothing is read from it.
    pub(super) fn open_socket(&mut self) -> Result<(), Failure> {
        let [address @ StoreAddress::Unix(path)] = &*self.store.addresses else { return Ok(()) };
        let connect = || {
            let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
            socket.connect_timeout(&SockAddr::unix(path)?, CONNECT)?;
            Ok(socket)
        };
        self.opened = Some(connect().map_err(|error| {
            let error = StoreError::Unreachable(error);
            Failure { place: place(address), error, is_for_good: false }
        })?);
        Ok(())
    }

    /// A connection to the store, which has let us in and no longer waits, and what its clock says.
    pub(super) fn reach(&mut self) -> Result<(Connection, Wall), Failure> {
        let mut opened = self.opened.take();
        let mut failure = None;
        for address in &self.store.addresses {
            let is_for_good = matches!(address, StoreAddress::Unix(_));
            match self.reach_by(address, opened.take()) {
                Ok(reached) => return Ok(reached),
                Err(error) => {
                    failure = Some(Failure { place: place(address), error, is_for_good });
                }
            }
        }
        Err(failure.expect("a store has an address"))
    }

    fn reach_by(
        &self,
        address: &StoreAddress,
        opened: Option<Socket>,
    ) -> Result<(Connection, Wall), StoreError> {
        match address {
            StoreAddress::Unix(_) => {
                let gone = || io::Error::from(io::ErrorKind::NotConnected);
                let socket = opened.ok_or_else(gone).map_err(StoreError::Unreachable)?;
                let connection = Connection::new(socket, None).map_err(StoreError::Unreachable)?;
                self.enter(connection, None)
            }
            StoreAddress::Tcp { user, host, port, tls, service } => {
                let mut connection = self.connect(host, *port, *tls)?;
                if let Some(service) = service {
                    let (host, port) = self.ask_sentinel(&mut connection, user, service)?;
                    connection = self.connect(&host, port, *tls)?;
                }
                self.enter(connection, user.as_deref())
            }
        }
    }

    /// Connects to one of a host's addresses.
    fn connect(&self, host: &str, port: u16, tls: bool) -> Result<Connection, StoreError> {
        let mut result = Err(io::Error::other("its name has no address"));
        for address in (host, port).to_socket_addrs().map_err(StoreError::Unreachable)? {
            let address = SockAddr::from(address);
            result = Socket::new(address.domain(), Type::STREAM, None).and_then(|socket| {
                socket.connect_timeout(&address, CONNECT)?;
                socket.set_tcp_nodelay(true)?;
                Ok(socket)
            });
            if result.is_ok() {
                break;
            }
        }
        let socket = result.map_err(StoreError::Unreachable)?;
        let tls = if tls { Some(self.speak_tls(host)?) } else { None };
        Connection::new(socket, tls).map_err(StoreError::Unreachable)
    }

    fn speak_tls(&self, host: &str) -> Result<ClientConnection, StoreError> {
        let unfit = |why: String| StoreError::Authorities(why);
        let missing = || unfit("this system names nobody to trust: write 'ca_file'".into());
        let pem = self.authorities.as_deref().ok_or_else(missing)?;
        let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
        let certificates = certificates.map_err(|why| unfit(format!("'ca_file': {why}")))?;
        let mut roots = RootCertStore::empty();
        if let (0, _) = roots.add_parsable_certificates(certificates) {
            return Err(unfit("'ca_file' has no certificate".into()));
        }
        let settings = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        let name = ServerName::try_from(host.to_owned()).map_err(|why| unfit(why.to_string()))?;
        ClientConnection::new(Arc::new(settings), name).map_err(StoreError::Tls)
    }

    /// Asks a Sentinel where the store is. It may want no password where the store wants one.
    fn ask_sentinel(
        &self,
        sentinel: &mut Connection,
        user: &Option<String>,
        service: &str,
    ) -> Result<(String, u16), StoreError> {
        let mut question = cmd("SENTINEL");
        question.arg("GET-MASTER-ADDR-BY-NAME").arg(service);
        let answer = match sentinel.ask(&question) {
            Err(StoreError::Refusal { code, .. }) if code == "NOAUTH" => {
                self.say_hello(sentinel, user.as_deref())?;
                sentinel.ask(&question)
            }
            answer => answer,
        }?;
        let unknown = || StoreError::NoService(service.to_owned());
        redis::from_redis_value(answer).map_err(|_| unknown())
    }

    /// Says who we are, and makes sure that the store has its data and takes more.
    fn enter(
        &self,
        mut connection: Connection,
        user: Option<&str>,
    ) -> Result<(Connection, Wall), StoreError> {
        self.say_hello(&mut connection, user)?;
        match connection.ask(&cmd("ROLE"))? {
            Value::Array(role) if role.first() == Some(&Value::BulkString(b"master".into())) => {}
            _ => return Err(StoreError::Replica),
        }
        let _kept = connection.ask(cmd("HLEN").arg(LIVE))?;
        let clock = clock_of(&connection.ask(&cmd("TIME"))?);
        connection.set_nonblocking().map_err(StoreError::Unreachable)?;
        Ok((connection, clock.ok_or_else(|| StoreError::Nonsense("no time".into()))?))
    }

    fn say_hello(&self, to: &mut Connection, user: Option<&str>) -> Result<(), StoreError> {
        let mut hello = cmd("HELLO");
        hello.arg(3);
        if user.is_some() || self.store.password.is_some() {
            let password = self.store.password.as_ref().map_or(&[][..], |it| it.expose());
            hello.arg("AUTH").arg(user.unwrap_or("default")).arg(password);
        }
        to.ask(hello.arg("SETNAME").arg("knockd")).map(drop)
    }
}

fn place(address: &StoreAddress) -> String {
    match address {
        StoreAddress::Unix(path) => path.display().to_string(),
        StoreAddress::Tcp { host, port, .. } => format!("{host}, port {port}"),
    }
}
