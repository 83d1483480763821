//! Streams to a Redis server.

use std::io;
use std::pin::Pin;
#[cfg(target_os = "linux")]
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, lookup_host};
use tokio::task::JoinSet;

use crate::config::AddressFamily;

/// How long the kernel keeps trying to deliver to a peer that does not acknowledge (tcp(7)). Only Linux can
/// be told so.
#[cfg(target_os = "linux")]
const USER_TIMEOUT: Duration = Duration::from_secs(60);

/// What leads to a Redis server and back.
pub trait AsyncStream: AsyncRead + AsyncWrite {}

impl<S: AsyncRead + AsyncWrite> AsyncStream for S {}

/// An open stream to a Redis server: TCP, a unix socket or TLS.
pub type Stream = Pin<Box<dyn AsyncStream + Send>>;

/// Connects to whichever of the host's addresses of this family answers first.
pub(super) async fn connect_tcp(host: &str, port: u16, family: AddressFamily) -> io::Result<TcpStream> {
    let mut attempts = JoinSet::new();
    for address in lookup_host((host, port)).await?.filter(|address| family.has(*address)) {
        attempts.spawn(TcpStream::connect(address));
    }
    let none = match family {
        AddressFamily::Any => "the host has no address",
        AddressFamily::V4 => "the host has no IPv4 address (family=4)",
        AddressFamily::V6 => "the host has no IPv6 address (family=6)",
    };
    let mut last_error = io::Error::new(io::ErrorKind::NotFound, none);
    while let Some(attempt) = attempts.join_next().await {
        match attempt? {
            Ok(stream) => {
                stream.set_nodelay(true)?;
                #[cfg(target_os = "linux")]
                socket2::SockRef::from(&stream).set_tcp_user_timeout(Some(USER_TIMEOUT))?;
                return Ok(stream);
            }
            Err(error) => last_error = error,
        }
    }
    Err(last_error)
}
