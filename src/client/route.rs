//! Routes to a host: where packets go, and where they leave this machine.

use std::io;
use std::net::SocketAddr;
use std::num::NonZeroU16;

use socket2::{Domain, Socket, Type};

use super::platform;
use super::settings::RouteOptions;
use crate::proto::Family;

/// A route to a host: its address, and how packets go there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Route {
    /// Its port is of no meaning.
    pub host: SocketAddr,
    pub options: RouteOptions,
}

impl Route {
    /// A port of the host.
    pub(super) fn to(&self, port: NonZeroU16) -> SocketAddr {
        let mut to = self.host;
        to.set_port(port.get());
        to
    }

    /// A socket that sends on this route, from this port if one is given.
    ///
    /// # Errors
    /// What the kernel says, above all where the interface or the address is not there.
    pub(super) fn socket(&self, kind: Type, port: Option<NonZeroU16>) -> io::Result<Socket> {
        let socket = Socket::new(Domain::for_address(self.host), kind, None)?;
        if let Some(interface) = &self.options.interface {
            platform::bind_device(&socket, interface)?;
        }
        let any = Family::of(self.host.ip()).unspecified();
        let source = self.options.source.unwrap_or(any);
        if source != any || port.is_some() {
            socket.set_reuse_address(kind == Type::STREAM && port.is_some())?;
            socket.bind(&SocketAddr::from((source, port.map_or(0, NonZeroU16::get))).into())?;
        }
        Ok(socket)
    }
}
