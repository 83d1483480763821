//! The sockets that clients come in by: handed over by systemd, or bound here.
//!
//! Factor VII: the service is complete in itself and exports HTTP by binding to a port. With socket
//! activation (`sd_listen_fds(3)`) systemd binds it, so it stays open while processes come and go.

use std::io;
use std::net::SocketAddr;

use listenfd::ListenFd;
use socket2::{Domain, Socket, Type};

/// Connections that may wait to be accepted from a socket that is bound here.
const BACKLOG: i32 = 4096;

/// Why there is nothing to listen on.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// The units have changed since systemd opened the socket, so it has none to hand over.
    #[error(
        "no socket was handed over (LISTEN_FDS), and --socket-activated forbids to bind HOST and \
         PORT; restart the socket unit"
    )]
    NoneHandedOver,
    /// The port is taken, or the address is not one of this machine.
    #[error("cannot listen on {address} (HOST and PORT): {error}")]
    Bind {
        /// What was asked for.
        address: SocketAddr,
        /// What the system said.
        error: io::Error,
    },
    /// What systemd handed over is not a socket that connections can be accepted from.
    #[error(
        "socket {index} of those handed over (LISTEN_FDS) cannot be used: {error}; accepted are \
         listening stream sockets, TCP or unix"
    )]
    WrongKind {
        /// Its place among them, from 0.
        index: usize,
        /// What is wrong with it.
        error: io::Error,
    },
}

/// All sockets to accept from.
#[derive(Debug)]
pub struct Listeners {
    /// At least one. Those of TCP get requests from clients, unix ones mostly from a proxy on the same machine.
    pub sockets: Vec<Socket>,
    /// systemd holds them too, so they stay open when this process ends.
    pub inherited: bool,
}

/// A listening socket's address, as the log shows it.
pub(crate) fn address_of(socket: &Socket) -> String {
    match socket.local_addr() {
        Ok(address) => match (address.as_socket(), address.as_pathname()) {
            (Some(address), _) => format!("http://{address}/"),
            (_, Some(path)) => format!("unix:{}", path.display()),
            _ => "a unix socket without a path".to_owned(),
        },
        Err(error) => format!("a socket of an unknown address ({error})"),
    }
}

impl Listeners {
    /// Takes over every socket that systemd handed to this process. When there is none it binds
    /// `address`; without an address there must be one.
    ///
    /// Call it before any other thread runs: taking over changes the environment.
    ///
    /// # Errors
    /// When the address cannot be bound, something else than a listening socket was handed over, or
    /// none was that must be.
    pub fn obtain(address: Option<SocketAddr>) -> Result<Self, ListenError> {
        let mut handed_over = ListenFd::from_env();
        if handed_over.len() == 0 {
            let address = address.ok_or(ListenError::NoneHandedOver)?;
            return Ok(Self { sockets: vec![bind(address)?], inherited: false });
        }
        let sockets =
            (0..handed_over.len()).map(|index| adopt(&mut handed_over, index)).collect::<Result<_, _>>()?;
        Ok(Self { sockets, inherited: true })
    }
}

/// Takes over one socket, if it is one that connections can be accepted from.
fn adopt(handed_over: &mut ListenFd, index: usize) -> Result<Socket, ListenError> {
    let wrong = |error: io::Error| ListenError::WrongKind { index, error };
    let socket: Socket = match handed_over.take_tcp_listener(index) {
        Ok(Some(socket)) => socket.into(),
        _ => match handed_over.take_unix_listener(index).map_err(wrong)? {
            Some(socket) => socket.into(),
            None => return Err(wrong(io::ErrorKind::NotFound.into())),
        },
    };
    // With Accept=yes systemd would hand over a connection. Apple's systems cannot tell.
    #[cfg(not(target_vendor = "apple"))]
    if !socket.is_listener().map_err(wrong)? {
        return Err(wrong(io::Error::other("the socket does not listen")));
    }
    // systemd leaves it blocking, and an accept that blocks would stop everything else.
    socket.set_nonblocking(true).map_err(wrong)?;
    Ok(socket)
}

fn bind(address: SocketAddr) -> Result<Socket, ListenError> {
    let listen = || {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
        // The connections of an earlier process may still linger at the port (TIME_WAIT).
        socket.set_reuse_address(true)?;
        socket.bind(&address.into())?;
        socket.set_nonblocking(true)?;
        // The kernel cuts it to net.core.somaxconn.
        socket.listen(BACKLOG)?;
        Ok(socket)
    };
    listen().map_err(|error| ListenError::Bind { address, error })
}
