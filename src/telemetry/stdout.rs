//! Log lines on their way to stdout.
//!
//! Factor XI: the service writes to stdout and does not know where it leads. It must not depend on it
//! either. A reader that stalls fills the buffer, after which lines are dropped and counted. The same
//! happens to lines that cannot be written, because the reader is gone or the disk full. Each write(2)
//! wakes the reader, which costs more than the write: so the lines of requests are gathered first.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustix::event::{PollFd, PollFlags, Timespec};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::Notify;
use tokio::time::sleep;

use crate::telemetry::metrics::Metrics;

/// Lines that may wait for a reader, in bytes.
const MAX_WAITING_BYTES: usize = 1024 * 1024;

/// How long lines may be gathered before they are written. Twenty milliseconds cost as much.
const FLUSH_INTERVAL: Duration = Duration::from_millis(5);

/// What a pipe holds, in bytes (pipe(7)). Lines that fill one are written at once, even in the middle of a batch.
const PIPE_BYTES: usize = 64 * 1024;

/// Lines of so many bytes are not gathered any longer.
const FLUSH_BYTES: usize = PIPE_BYTES / 2;

/// How long the end of the process waits for a reader that takes nothing.
const MAX_STALL: Duration = Duration::from_secs(1);

/// How long the end of the process waits for a reader that takes the last lines slowly.
const MAX_FINISH: Duration = Duration::from_secs(10);

/// What poll(2) calls writable takes as much without blocking (`PIPE_BUF` in pipe(7)).
const MIN_ROOM: usize = 4096;

/// Where log lines go. Cheap to share.
#[derive(Debug)]
pub struct Output {
    lines: Mutex<Lines>,
    /// The first line has been added.
    nonempty: Notify,
    /// The lines are to be written now.
    flush: Notify,
    sink: Sink,
    metrics: Arc<Metrics>,
}

#[derive(Debug, Default)]
struct Lines {
    bytes: Vec<u8>,
    dropped: u64,
    /// What was written last does not end a line.
    mid_line: bool,
}

/// stdout. Its file description may be shared with other processes, whose writes must stay blocking, so it
/// is never set to non-blocking itself.
#[derive(Debug)]
struct Sink {
    file: File,
    /// A write takes what there is room for. Else it is asked first whether there is some.
    nonblocking: bool,
}

impl Sink {
    fn stdout() -> io::Result<Self> {
        let file = File::from(io::stdout().as_fd().try_clone_to_owned()?);
        // A file does not block.
        if file.metadata()?.is_file() {
            return Ok(Self { file, nonblocking: true });
        }
        // A pipe or a terminal can be opened anew, unless it is another user's. A socket cannot.
        let flags = i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).unwrap_or_default();
        let reopened = OpenOptions::new().write(true).custom_flags(flags).open("/proc/self/fd/1");
        Ok(match reopened {
            Ok(file) => Self { file, nonblocking: true },
            Err(_) => Self { file, nonblocking: false },
        })
    }

    fn write(&self, mut bytes: &[u8]) -> io::Result<usize> {
        if !self.nonblocking {
            let mut stdout = [PollFd::new(&self.file, PollFlags::OUT)];
            if rustix::event::poll(&mut stdout, Some(&Timespec::default()))? == 0 {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            bytes = &bytes[..bytes.len().min(MIN_ROOM)];
        }
        (&self.file).write(bytes)
    }
}

impl Output {
    /// Takes stdout over. Fails when there is none.
    pub(crate) fn stdout(metrics: Arc<Metrics>) -> io::Result<Self> {
        Ok(Self::new(Sink::stdout()?, metrics))
    }

    fn new(sink: Sink, metrics: Arc<Metrics>) -> Self {
        Self { lines: Mutex::default(), nonempty: Notify::new(), flush: Notify::new(), sink, metrics }
    }

    /// Adds what `write` writes, one whole line, to the stream: soon, with those that come meanwhile.
    pub(crate) fn line(&self, write: impl FnOnce(&mut Vec<u8>)) {
        let mut lines = self.lines.lock();
        if lines.bytes.len() >= MAX_WAITING_BYTES {
            // The reader may have taken some before the pump has its turn, as when a batch is answered.
            drop(lines);
            let _ = self.write_lines();
            lines = self.lines.lock();
        }
        if lines.bytes.len() >= MAX_WAITING_BYTES {
            lines.dropped += 1;
            self.metrics.log_lines_dropped.inc();
            return;
        }
        let before = lines.bytes.len();
        if before == 0 && lines.mid_line {
            // The rest of a line has been dropped.
            lines.bytes.push(b'\n');
        }
        write(&mut lines.bytes);
        let after = lines.bytes.len();
        drop(lines);
        if before == 0 {
            self.nonempty.notify_one();
        }
        let passes = |bytes| before / bytes < after / bytes;
        if passes(PIPE_BYTES) {
            // A batch of many is answered before the pump has its turn. If the reader takes nothing, the pump waits
            // for it.
            let _ = self.write_lines();
        } else if passes(FLUSH_BYTES) {
            // The pump has its turn after the batch. A reader that is woken before can take the only core, and the
            // other visitors of the batch wait.
            self.flush_now();
        }
    }

    /// Has all lines written at once that there are.
    pub(crate) fn flush_now(&self) {
        self.flush.notify_one();
    }

    /// Writes lines as they come, for as long as the event loop runs.
    pub async fn pump(self: Arc<Self>) {
        loop {
            self.nonempty.notified().await;
            tokio::select! {
                () = self.flush.notified() => {}
                () = sleep(FLUSH_INTERVAL) => {}
            }
            while self.write_lines().is_err() {
                // Registered only now: else the event loop would wake whenever the reader takes something.
                match writable(&self.sink.file) {
                    Ok(ready) if ready.writable().await.is_err() => return,
                    Ok(_) => {}
                    // Files cannot be waited for, and need not be; or the system lacks something.
                    Err(_) => sleep(FLUSH_INTERVAL).await,
                }
            }
        }
    }

    /// Writes what is left, before the process ends or when there is no event loop.
    pub fn finish(&self) {
        let until = Instant::now() + MAX_FINISH;
        while self.write_lines().is_err() {
            let wait = until.saturating_duration_since(Instant::now()).min(MAX_STALL);
            let mut stdout = [PollFd::new(&self.sink.file, PollFlags::OUT)];
            if rustix::event::poll(&mut stdout, wait.try_into().ok().as_ref()) == Ok(0) {
                return;
            }
        }
    }

    /// Writes as much as the reader takes, and at the end of it whether lines are missing. Fails when the
    /// reader takes no more for now.
    fn write_lines(&self) -> Result<(), Blocked> {
        let mut written = false;
        loop {
            let mut lines = self.lines.lock();
            while !lines.bytes.is_empty() {
                match self.sink.write(&lines.bytes) {
                    Ok(count @ 1..) => {
                        let last = lines.bytes.drain(..count).next_back();
                        lines.mid_line = last.is_some_and(|last| last != b'\n');
                        written = true;
                    }
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Err(Blocked),
                    Ok(0) | Err(_) => {
                        let ends = lines.bytes.iter().filter(|byte| **byte == b'\n').count();
                        // That of a line which was counted before.
                        let again = usize::from(lines.mid_line && lines.bytes.starts_with(b"\n"));
                        let lost = (ends - again) as u64;
                        self.metrics.log_lines_dropped.inc_by(lost);
                        lines.dropped += lost;
                        lines.bytes.clear();
                        return Ok(());
                    }
                }
            }
            // A report that cannot be written either would be reported in its turn, without an end.
            if !written || lines.dropped == 0 {
                return Ok(());
            }
            let dropped = std::mem::take(&mut lines.dropped);
            drop(lines);
            tracing::warn!(dropped, "log lines were dropped because stdout was not read: {dropped}");
        }
    }
}

struct Blocked;

/// An event of the log, which comes as a whole line and is not held back.
impl io::Write for &Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.line(|lines| lines.extend_from_slice(bytes));
        self.flush_now();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The sink on the event loop, for as long as this is kept.
#[expect(deprecated, reason = "its successor is unsafe; a descriptor that is borrowed stays open")]
fn writable(sink: &File) -> io::Result<AsyncFd<BorrowedFd<'_>>> {
    AsyncFd::with_interest(sink.as_fd(), Interest::WRITABLE)
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{self, Read as _};
    use std::os::fd::OwnedFd;
    use std::sync::Arc;

    use rustix::event::{PollFd, PollFlags, Timespec};
    use tokio::task::yield_now;

    use super::{FLUSH_BYTES, Output, PIPE_BYTES, Sink};
    use crate::telemetry::metrics::Metrics;

    #[tokio::test]
    async fn half_a_pipe_of_lines_waits_for_the_pump_and_a_whole_one_does_not() {
        let (reader, writer) = io::pipe().expect("a pipe");
        let sink = Sink { file: File::from(OwnedFd::from(writer)), nonblocking: false };
        let output = Arc::new(Output::new(sink, Metrics::new("test", []).into()));
        let add = |bytes| output.line(|lines| lines.resize(lines.len() + bytes, b'\n'));
        let has_come = || {
            let mut stdout = [PollFd::new(&reader, PollFlags::IN)];
            rustix::event::poll(&mut stdout, Some(&Timespec::default())) == Ok(1)
        };
        add(FLUSH_BYTES);
        assert!(!has_come());
        tokio::spawn(output.clone().pump());
        yield_now().await;
        assert!(has_come());

        (&reader).read_exact(&mut [0; FLUSH_BYTES]).expect("the lines");
        assert!(!has_come());
        add(PIPE_BYTES);
        assert!(has_come());
    }
}
