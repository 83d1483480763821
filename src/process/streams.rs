//! A check that runs before `main`.
//!
//! Where stdin, stdout or stderr is closed, Rust's runtime opens `/dev/null` in its place before it calls `main`.
//! Where that cannot be opened, the runtime aborts without a word.

use rustix::fs::{Mode, OFlags, open};
use rustix::io::{fcntl_getfd, write};
use rustix::stdio::{stderr, stdin, stdout};

/// The system refused something (`sysexits.h`).
const EX_OSERR: i32 = 71;

ctor::declarative::ctor! {
    #[ctor(unsafe)]
    fn check_standard_streams() {
        let streams = [("stdin", stdin()), ("stdout", stdout()), ("stderr", stderr())];
        if let Some((name, _)) = streams.iter().find(|(_, stream)| fcntl_getfd(stream).is_err())
            && let Err(error) = open("/dev/null", OFlags::RDWR, Mode::empty())
        {
            let text = format!("{name} is closed, and /dev/null cannot be opened in its place: {error}\n");
            // It may be stderr that is closed.
            let _ = write(stderr(), text.as_bytes());
            std::process::exit(EX_OSERR);
        }
    }
}
