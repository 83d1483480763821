//! Streams to a Redis server, by TCP or a unix socket.

use std::io::{self, Read as _, Write as _};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::Path;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::{TcpStream, UnixStream, lookup_host};
use tokio::task::JoinSet;

use crate::event_loop::register;

/// How long the kernel keeps trying to deliver to a peer that does not acknowledge (tcp(7)), in
/// milliseconds. Only Linux can be told so.
#[cfg(target_os = "linux")]
const USER_TIMEOUT_MS: u32 = 60_000;

/// What leads to a Redis server and back.
pub trait AsyncStream: AsyncRead + AsyncWrite {}

impl<S: AsyncRead + AsyncWrite> AsyncStream for S {}

/// An open stream to a Redis server.
pub type Stream = Pin<Box<dyn AsyncStream + Send>>;

/// Connects to whichever of the host's addresses answers first.
pub(crate) async fn tcp(host: &str, port: u16) -> io::Result<TcpStream> {
    let mut attempts = JoinSet::new();
    for address in lookup_host((host, port)).await? {
        attempts.spawn(TcpStream::connect(address));
    }
    let mut trouble = io::Error::new(io::ErrorKind::NotFound, "the host has no address");
    while let Some(attempt) = attempts.join_next().await {
        match attempt? {
            Ok(stream) => {
                stream.set_nodelay(true)?;
                #[cfg(target_os = "linux")]
                rustix::net::sockopt::set_tcp_user_timeout(&stream, USER_TIMEOUT_MS)?;
                return Ok(stream);
            }
            Err(error) => trouble = error,
        }
    }
    Err(trouble)
}

/// Connects to the unix socket at `path`.
pub(crate) async fn unix(path: &Path) -> io::Result<Unix> {
    Unix::new(UnixStream::connect(path).await?.into_std()?)
}

/// A unix socket that wakes its task when there is something to read, and not when there is room to
/// write.
///
/// The kernel tells of new room whenever the other side has read something. tokio's own stream hears
/// of it: so the event loop would be woken once when Redis has read a command, for nothing, and then
/// again for the answer.
#[derive(Debug)]
pub(crate) struct Unix {
    readable: AsyncFd<StdUnixStream>,
    /// While there is no room.
    writable: Option<AsyncFd<StdUnixStream>>,
}

impl Unix {
    fn new(stream: StdUnixStream) -> io::Result<Self> {
        Ok(Self {
            readable: register(stream, Interest::READABLE)?,
            writable: None,
        })
    }
}

impl AsyncRead for Unix {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            let mut readable = ready!(self.readable.poll_read_ready(context))?;
            let room = buffer.initialize_unfilled();
            let size = room.len();
            match readable.try_io(|stream| stream.get_ref().read(room)) {
                Ok(Ok(count)) => {
                    buffer.advance(count);
                    // There was no more: the kernel tells when there is.
                    if 0 < count && count < size {
                        readable.clear_ready();
                    }
                    return Poll::Ready(Ok(()));
                }
                Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(Err(error)) => return Poll::Ready(Err(error)),
                Err(_would_block) => {}
            }
        }
    }
}

impl AsyncWrite for Unix {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        loop {
            match self.readable.get_ref().write(bytes) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let writable = match self.writable.take() {
                        Some(writable) => writable,
                        None => register(self.readable.get_ref().try_clone()?, Interest::WRITABLE)?,
                    };
                    let writable = self.writable.insert(writable);
                    ready!(writable.poll_write_ready(context))?.clear_ready();
                }
                written => {
                    self.writable = None;
                    return Poll::Ready(written);
                }
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let shut_down = self.readable.get_ref().shutdown(std::net::Shutdown::Write);
        Poll::Ready(shut_down)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::Unix;

    /// As much as no socket takes at once, there and back.
    #[test]
    fn a_unix_socket_without_room_is_written_to_as_it_is_read() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .build()
            .expect("a runtime");
        runtime.block_on(async {
            let (here, there) = UnixStream::pair().expect("sockets");
            let [mut here, mut there] = [here, there].map(|stream| {
                stream.set_nonblocking(true).expect("a socket");
                Unix::new(stream).expect("a stream")
            });
            let sent: Vec<u8> = (0..4_000_000_u32).map(|number| number as u8).collect();
            let echo = async {
                let mut received = vec![0; sent.len()];
                there.read_exact(&mut received).await.expect("all of it");
                there.write_all(&received).await.expect("room");
                there.shutdown().await.expect("an end");
            };
            let ask = async {
                here.write_all(&sent).await.expect("room");
                let mut back = Vec::new();
                here.read_to_end(&mut back).await.expect("an answer");
                back
            };
            let ((), back) = tokio::join!(echo, ask);
            assert!(back == sent);
            assert!(here.writable.is_none() && there.writable.is_none());
        });
    }
}
