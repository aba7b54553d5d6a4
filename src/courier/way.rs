//! The way to a store: its address, or Sentinels that know it, TLS, and being let in.

use std::fs;
use std::io;
use std::net::{TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::time::Duration;

use redis::{Value, cmd};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore};
use socket2::{Domain, SockAddr, Socket, Type};

use super::connection::{Connection, StoreError};
use super::talk::{LIVE, wall};
use crate::config::{Store, StoreAddress};
use crate::time::Wall;

/// How long one address of a host is tried.
const CONNECT: Duration = Duration::from_millis(500);
/// Where systems keep the certificates of those whom they trust.
const BUNDLES: [&str; 2] =
    ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt"];

/// The way to a store, for as long as it has not been reached.
pub(super) struct Way {
    pub store: Store,
    /// The certificates of those who vouch for the store, in PEM.
    authorities: Option<Vec<u8>>,
}

/// A connection to the store, which has let us in and no longer waits, and what its clock says.
pub(super) type Reached = (Connection, Wall);

impl Way {
    /// To be called while all files can be read.
    pub(super) fn new(mut store: Store) -> Self {
        let authorities = store.authorities.take().map(String::into_bytes);
        let read = || BUNDLES.iter().find_map(|path| fs::read(path).ok());
        Self { authorities: authorities.or_else(read), store }
    }

    /// A connection where the store is a socket of this host's, which owner and group may keep for
    /// themselves: to be called as root. Nothing is read from it.
    pub(super) fn open_socket(&self) -> Result<Option<Socket>, StoreError> {
        let [StoreAddress::Unix(path)] = &*self.store.addresses else { return Ok(None) };
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
        socket.connect_timeout(&SockAddr::unix(path)?, CONNECT)?;
        Ok(Some(socket))
    }

    /// Goes all of it, by the socket that was opened where the store is one.
    pub(super) fn reach(&self, mut opened: Option<Socket>) -> Result<Reached, StoreError> {
        let mut reach_by = |address: &StoreAddress| match address {
            StoreAddress::Unix(_) => {
                let socket = opened.take().ok_or(StoreError::Spent)?;
                self.enter(Connection::new(socket, None)?, None)
            }
            StoreAddress::Tcp { user, host, port, tls, service } => {
                let (user, mut connection) = (user.as_deref(), self.connect(host, *port, *tls)?);
                if let Some(service) = service {
                    let (host, port) = self.ask_sentinel(&mut connection, user, service)?;
                    connection = self.connect(&host, port, *tls)?;
                }
                self.enter(connection, user)
            }
        };
        let none = Err(StoreError::Spent);
        self.store.addresses.iter().fold(none, |reached, it| reached.or_else(|_| reach_by(it)))
    }

    /// Connects to one of a host's addresses.
    fn connect(&self, host: &str, port: u16, tls: bool) -> Result<Connection, StoreError> {
        let none = Err(io::Error::other("its name has no address"));
        let stream = (host, port).to_socket_addrs()?.fold(none, |reached, address| {
            reached.or_else(|_| TcpStream::connect_timeout(&address, CONNECT))
        });
        let tls = tls.then(|| self.speak_tls(host)).transpose()?;
        let stream = stream?;
        stream.set_nodelay(true)?;
        Ok(Connection::new(stream.into(), tls)?)
    }

    fn speak_tls(&self, host: &str) -> Result<ClientConnection, StoreError> {
        let unfit = |why: &str| StoreError::Unfit(why.to_owned());
        let missing = || unfit("this system names nobody who vouches for it: write 'ca_file'");
        let pem = self.authorities.as_deref().ok_or_else(missing)?;
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(CertificateDer::pem_slice_iter(pem).flatten());
        if roots.is_empty() {
            return Err(unfit("'ca_file' has no certificate"));
        }
        let settings = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        let name = ServerName::try_from(host.to_owned()).map_err(|why| unfit(&why.to_string()))?;
        Ok(ClientConnection::new(Arc::new(settings), name)?)
    }

    /// Asks a Sentinel where the store is. It may want no password where the store wants one.
    fn ask_sentinel(
        &self,
        sentinel: &mut Connection,
        user: Option<&str>,
        service: &str,
    ) -> Result<(String, u16), StoreError> {
        let mut question = cmd("SENTINEL");
        question.arg("GET-MASTER-ADDR-BY-NAME").arg(service);
        let answer = match sentinel.ask(&question) {
            Err(StoreError::Refusal { code, .. }) if code == "NOAUTH" => {
                self.say_hello(sentinel, user)?;
                sentinel.ask(&question)?
            }
            answer => answer?,
        };
        let unknown = || StoreError::Unfit(format!("the Sentinel knows no primary '{service}'"));
        Option::ok_or_else(answer, unknown)
    }

    /// Says who we are, and makes sure that the store has its data and takes more.
    fn enter(&self, mut connection: Connection, user: Option<&str>) -> Result<Reached, StoreError> {
        self.say_hello(&mut connection, user)?;
        let role: Vec<Value> = connection.ask(&cmd("ROLE"))?;
        if role.first() != Some(&Value::BulkString(b"master".into())) {
            return Err(StoreError::Replica);
        }
        // While it loads what it had it refuses this.
        connection.ask::<u64>(cmd("HLEN").arg(LIVE))?;
        let clock = connection.ask(&cmd("TIME"))?;
        connection.wait_no_more();
        Ok((connection, wall(clock)))
    }

    fn say_hello(&self, to: &mut Connection, user: Option<&str>) -> Result<(), StoreError> {
        let mut hello = cmd("HELLO");
        hello.arg(3);
        if user.is_some() || self.store.password.is_some() {
            let password = self.store.password.as_ref().map_or(&[][..], |it| it.expose());
            hello.arg("AUTH").arg(user.unwrap_or("default")).arg(password);
        }
        to.ask(hello.arg("SETNAME").arg("knockd"))
    }
}
