//! What a connection reads from and writes to.

use std::io;
use std::task::Context;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_util::either::Either;

/// An accepted socket: TCP, or another one. That is a unix socket, or what the simulation and the fuzz
/// target bring.
pub(crate) type Socket = Either<TcpStream, Box<dyn ReadWrite>>;

/// Bytes in and out.
pub(crate) trait ReadWrite: AsyncRead + AsyncWrite + Unpin {}

impl<S: AsyncRead + AsyncWrite + Unpin> ReadWrite for S {}

/// Fails when the client has reset the connection, and wakes the task when it does so later.
/// A client that has only ended its own side still waits for its answer.
pub(crate) fn check_reset(socket: &Socket, context: &mut Context<'_>) -> io::Result<()> {
    // A unix socket knows no reset.
    let Either::Left(stream) = socket else {
        return Ok(());
    };
    // Nothing has happened on most sockets: then the kernel need not be asked.
    if stream.poll_read_ready(context).is_pending() {
        return Ok(());
    }
    stream.take_error()?.map_or(Ok(()), Err)
}
