//! The sockets that clients come in by: handed over by systemd, or bound here.
//!
//! Factor VII: the service is complete in itself and exports HTTP by binding to a port. With socket
//! activation (`sd_listen_fds(3)`) systemd binds it, so it stays open while processes come and go.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use listenfd::ListenFd;
use rustix::io::Errno;
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
    #[error("cannot listen on {address} ({settings}): {error}")]
    Bind {
        /// What was asked for.
        address: SocketAddr,
        /// By which settings.
        settings: &'static str,
        /// What the system said.
        error: io::Error,
    },
    /// The path is taken, or cannot be written.
    #[error("cannot listen on {} (ADMIN_PORT): {error}", path.display())]
    BindPath {
        /// What was asked for.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// The variables that hand sockets over are not for this process.
    #[error(
        "LISTEN_PID={pid} hands sockets over to another process than this one, {own}; a wrapper must start \
         abukiks by exec"
    )]
    OtherProcess {
        /// The process that they are for.
        pid: String,
        /// This process.
        own: u32,
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
    /// Those for health, metrics and version alone, which the others then leave to them.
    pub admin: Vec<Socket>,
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

/// Where else to listen, for what is not for visitors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AdminAddress {
    /// Nowhere.
    Off,
    /// At a port of the same hosts; 0 takes a free one.
    Port(u16),
    /// At a unix socket.
    Path(PathBuf),
}

impl fmt::Display for AdminAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Off => f.write_str("off"),
            Self::Port(port) => port.fmt(f),
            Self::Path(path) => path.display().fmt(f),
        }
    }
}

/// What a process listens on when no socket is handed over to it.
#[derive(Debug)]
pub struct Addresses {
    /// Each at both ports.
    pub hosts: Vec<IpAddr>,
    /// The TCP port for clients.
    pub port: u16,
    /// Where health, metrics and version are.
    pub admin: AdminAddress,
}

impl Listeners {
    /// Takes over every socket that systemd handed to this process; one that it names `admin` is for health,
    /// metrics and version. When there is none it binds its `own` addresses; without them there must be one.
    ///
    /// Call it before any other thread runs: taking over changes the environment.
    ///
    /// # Errors
    /// When an address cannot be bound, something else than a listening socket was handed over, it was handed
    /// to another process, or none was that must be.
    pub fn obtain(own: Option<&Addresses>) -> Result<Self, ListenError> {
        let variable = |name| std::env::var(name).unwrap_or_default();
        let (pid, own_pid) = (variable("LISTEN_PID"), std::process::id());
        if !pid.is_empty() && pid != own_pid.to_string() && !matches!(&*variable("LISTEN_FDS"), "" | "0") {
            return Err(ListenError::OtherProcess { pid, own: own_pid });
        }
        let mut handed_over = ListenFd::from_env();
        if handed_over.len() == 0 {
            let own = own.ok_or(ListenError::NoneHandedOver)?;
            return Ok(Self {
                sockets: bind_all(&own.hosts, own.port, "HOST and PORT")?,
                admin: match &own.admin {
                    AdminAddress::Off => Vec::new(),
                    AdminAddress::Port(port) => bind_all(&own.hosts, *port, "HOST and ADMIN_PORT")?,
                    AdminAddress::Path(path) => vec![bind_path(path)?],
                },
                inherited: false,
            });
        }
        let names = variable("LISTEN_FDNAMES");
        let names: Vec<_> = names.split(':').collect();
        let mut listeners = Self { sockets: Vec::new(), admin: Vec::new(), inherited: true };
        for index in 0..handed_over.len() {
            let socket = adopt(&mut handed_over, index)?;
            match names.get(index) {
                Some(&"admin") => listeners.admin.push(socket),
                _ => listeners.sockets.push(socket),
            }
        }
        if listeners.sockets.is_empty() { Err(ListenError::NoneHandedOver) } else { Ok(listeners) }
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

/// Binds all addresses that this machine has, at least one, to one port, as the settings of these names want it.
fn bind_all(addresses: &[IpAddr], mut port: u16, settings: &'static str) -> Result<Vec<Socket>, ListenError> {
    let mut sockets: Vec<Socket> = Vec::new();
    for address in addresses {
        let address = SocketAddr::new(*address, port);
        match bind(address) {
            Err(error) if !sockets.is_empty() && is_missing(&error) => {}
            Err(error) => return Err(ListenError::Bind { address, settings, error }),
            Ok(socket) => sockets.push(socket),
        }
        // The same one for all, where the kernel has chosen it.
        let bound = sockets.last().and_then(|socket| socket.local_addr().ok()?.as_socket());
        port = bound.map_or(port, |bound| bound.port());
    }
    Ok(sockets)
}

/// Binds a unix socket, in the place of one that a process of before has left.
fn bind_path(path: &Path) -> Result<Socket, ListenError> {
    let is_left =
        UnixStream::connect(path).is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused);
    let listen = || {
        if is_left {
            std::fs::remove_file(path)?;
        }
        let socket = UnixListener::bind(path)?;
        socket.set_nonblocking(true)?;
        Ok(socket.into())
    };
    listen().map_err(|error| ListenError::BindPath { path: path.to_owned(), error })
}

/// Whether this machine does not have the address, or not even its family.
fn is_missing(error: &io::Error) -> bool {
    let missing = [Errno::AFNOSUPPORT, Errno::ADDRNOTAVAIL].map(Errno::raw_os_error);
    error.raw_os_error().is_some_and(|error| missing.contains(&error))
}

fn bind(address: SocketAddr) -> io::Result<Socket> {
    let every = SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), address.port());
    let listen = || {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
        if address == every {
            socket.set_only_v6(false)?;
        }
        // The connections of an earlier process may still linger at the port (TIME_WAIT).
        socket.set_reuse_address(true)?;
        socket.bind(&address.into())?;
        socket.set_nonblocking(true)?;
        // The kernel cuts it to net.core.somaxconn.
        socket.listen(BACKLOG)?;
        Ok(socket)
    };
    match listen() {
        // Where there is no IPv6, IPv4 is all there is.
        Err(error) if address == every && is_missing(&error) => {
            bind(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), address.port()))
        }
        bound => bound,
    }
}
