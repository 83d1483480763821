//! What the event loop waits for: descriptors, and time.
//!
//! tokio's own timers belong to the event loop: with them, each time that it waits it looks at the
//! clock, and has the kernel set a timer and take it back. For a visit that comes alone, which has it
//! wait twice, that is a twelfth of all instructions. Here a timer is a descriptor (`timerfd_create(2)`):
//! set once, and silent until it rings. So the service's event loops have none of tokio's, and what
//! would start one panics; clippy.toml says so before.

use std::future::poll_fn;
use std::io;
use std::os::fd::AsRawFd;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::runtime::{Builder, Runtime};
use tokio::task::coop;
use tokio::time::{Instant, Sleep};

/// How many host names may be looked up at one time, each by a thread of its own. One that hangs goes
/// on when nobody waits for it any more.
const MOST_LOOKUPS: usize = 24;

/// An event loop for one thread.
///
/// # Errors
/// When the system gives no descriptors.
pub fn build() -> io::Result<Runtime> {
    let mut builder = Builder::new_current_thread();
    builder.enable_io().max_blocking_threads(MOST_LOOKUPS);
    if Clock::SYSTEM == Clock::Tokio {
        builder.enable_time();
    }
    builder.build()
}

/// Has the event loop wait for a descriptor, for as long as that is open.
#[expect(
    deprecated,
    reason = "its successor is unsafe; a descriptor that is owned or borrowed stays open"
)]
pub(crate) fn register<D: AsRawFd>(descriptor: D, interest: Interest) -> io::Result<AsyncFd<D>> {
    AsyncFd::with_interest(descriptor, interest)
}

/// By what time is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Clock {
    #[cfg(target_os = "linux")]
    Kernel,
    /// Where the kernel has no such timers, and where a simulation lets time pass.
    Tokio,
}

impl Clock {
    #[cfg(target_os = "linux")]
    pub(crate) const SYSTEM: Self = Self::Kernel;
    #[cfg(not(target_os = "linux"))]
    pub(crate) const SYSTEM: Self = Self::Tokio;

    /// A timer for whoever runs on this event loop. Fails for want of descriptors.
    pub(crate) fn timer(self) -> io::Result<Timer> {
        Ok(Timer {
            source: match self {
                #[cfg(target_os = "linux")]
                Self::Kernel => Source::Kernel(kernel::timer()?),
                Self::Tokio => Source::Tokio(Box::pin(tokio_sleep(Duration::ZERO))),
            },
            set: None,
            wakes: false,
        })
    }

    /// Waits for `task`, but not longer than `limit`: then the error is [`io::ErrorKind::TimedOut`].
    pub(crate) async fn limit<T>(
        self,
        limit: Duration,
        task: impl Future<Output = T>,
    ) -> io::Result<T> {
        let mut timer = self.timer()?;
        tokio::select! {
            biased;
            done = pin!(task) => Ok(done),
            () = timer.sleep(limit) => Err(io::ErrorKind::TimedOut.into()),
        }
    }
}

/// Rings when its time has come.
#[derive(Debug)]
pub(crate) struct Timer {
    source: Source,
    /// It has been set, to this, and has not rung yet, as far as anybody has waited for it. It does not
    /// before then.
    set: Option<(Duration, Instant)>,
    /// It will wake the task that has waited for it last.
    wakes: bool,
}

#[derive(Debug)]
enum Source {
    #[cfg(target_os = "linux")]
    Kernel(kernel::Timer),
    Tokio(Pin<Box<Sleep>>),
}

impl Timer {
    /// Waits for as long as `time`.
    pub(crate) async fn sleep(&mut self, time: Duration) {
        self.set(time);
        poll_fn(|context| self.poll_ring(context)).await;
    }

    /// Waits for a moment of at most `time`. Whoever waits for many of them, and for none to its end,
    /// pays for setting the timer once in `time`.
    pub(crate) fn poll_moment(&mut self, context: &mut Context<'_>, time: Duration) -> Poll<()> {
        if self.set.is_none_or(|(set, _)| set != time) {
            self.set(time);
        }
        self.poll_ring(context)
    }

    /// Whether a moment of `time` is under way that cannot be over `now`. The task that waited for it
    /// last will be woken when it is, and need not wait for it again before.
    pub(crate) fn is_silent(&self, time: Duration, now: Instant) -> bool {
        let silent = |(set, rings)| set == time && now < rings;
        self.wakes && self.set.is_some_and(silent)
    }

    fn set(&mut self, time: Duration) {
        let now = Instant::now();
        match &mut self.source {
            #[cfg(target_os = "linux")]
            Source::Kernel(timer) => kernel::set(timer, time),
            Source::Tokio(sleep) => sleep.as_mut().reset(now + time),
        }
        self.set = Some((time, now + time));
        self.wakes = false;
    }

    fn poll_ring(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let rung = match &mut self.source {
            #[cfg(target_os = "linux")]
            Source::Kernel(timer) => kernel::poll_ring(timer, context),
            Source::Tokio(sleep) => sleep.as_mut().poll(context),
        };
        // A task that has nothing left has been sent away unheard, to be polled again at once.
        self.wakes = coop::has_budget_remaining();
        ready!(rung);
        self.set = None;
        Poll::Ready(())
    }
}

#[expect(clippy::disallowed_methods, reason = "this is where it may be")]
fn tokio_sleep(time: Duration) -> Sleep {
    tokio::time::sleep(time)
}

#[cfg(target_os = "linux")]
mod kernel {
    use std::io;
    use std::os::fd::OwnedFd;
    use std::task::{Context, Poll, ready};
    use std::time::Duration;

    use rustix::time::{
        Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
        timerfd_settime,
    };
    use tokio::io::Interest;
    use tokio::io::unix::AsyncFd;

    pub(super) type Timer = AsyncFd<OwnedFd>;

    pub(super) fn timer() -> io::Result<Timer> {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let timer = timerfd_create(TimerfdClockId::Monotonic, flags)?;
        super::register(timer, Interest::READABLE)
    }

    pub(super) fn set(timer: &Timer, time: Duration) {
        let time = Itimerspec {
            it_interval: Timespec::default(),
            // Nothing would be no time but an end to it.
            it_value: Timespec::try_from(time.max(Duration::from_nanos(1))).unwrap_or(Timespec {
                tv_sec: i64::MAX,
                tv_nsec: 0,
            }),
        };
        // Fails for what is no timer and for what is no time.
        let _ = timerfd_settime(timer, TimerfdTimerFlags::empty(), &time);
    }

    pub(super) fn poll_ring(timer: &Timer, context: &mut Context<'_>) -> Poll<()> {
        // An error: the event loop has ended, and nobody is polled any more.
        while let Ok(mut rung) = ready!(timer.poll_read_ready(context)) {
            let read = rustix::io::read(timer, &mut [0; 8]);
            // Whatever it was, nothing is left to read before it rings again.
            rung.clear_ready();
            // Nothing at all: it has been set anew since it rang.
            if read.is_ok() {
                return Poll::Ready(());
            }
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::task::Poll;
    use std::time::Duration;

    use tokio::task::coop;
    use tokio::time::Instant;

    use super::{Clock, Timer, build};

    async fn moment(timer: &mut Timer, time: Duration) {
        poll_fn(|context| timer.poll_moment(context, time)).await;
    }

    #[test]
    fn a_timer_rings_in_time_and_never_for_what_it_was_set_to_before() {
        build().expect("an event loop").block_on(async {
            let mut timer = Clock::SYSTEM.timer().expect("a timer");
            let short = Duration::from_millis(1);
            let long = Duration::from_millis(50);
            for _ in 0..3 {
                // Called off before it has rung, or after it has and nobody has waited.
                for linger in [Duration::ZERO, 2 * short] {
                    tokio::select! {
                        biased;
                        () = moment(&mut timer, short) => unreachable!("it was set just now"),
                        () = std::future::ready(()) => {}
                    }
                    let begun = Instant::now();
                    while begun.elapsed() < linger {
                        tokio::task::yield_now().await;
                    }
                    let begun = Instant::now();
                    timer.sleep(long).await;
                    assert!(begun.elapsed() >= long);
                }
            }
        });
    }

    #[test]
    fn moments_that_are_not_waited_for_are_one() {
        build().expect("an event loop").block_on(async {
            let mut timer = Clock::SYSTEM.timer().expect("a timer");
            let time = Duration::from_millis(50);
            let begun = Instant::now();
            let mut moments = 0;
            // Set anew for each of them, it would never ring.
            while begun.elapsed() < Duration::from_secs(10) {
                moments += 1;
                tokio::select! {
                    biased;
                    () = moment(&mut timer, time) => break,
                    () = tokio::task::yield_now() => {}
                }
            }
            let waited = begun.elapsed();
            assert!(waited >= time && waited < Duration::from_secs(10) && moments > 1);
        });
    }

    #[test]
    fn a_silent_timer_wakes_whoever_has_waited_for_it_before() {
        build().expect("an event loop").block_on(async {
            let mut timer = Clock::SYSTEM.timer().expect("a timer");
            let time = Duration::from_millis(50);
            assert!(!timer.is_silent(time, Instant::now()));
            let mut polls = 0;
            poll_fn(|context| {
                polls += 1;
                match polls {
                    1 => timer.poll_moment(context, time),
                    // As by something else that the task waits for.
                    2 => {
                        context.waker().wake_by_ref();
                        Poll::Pending
                    }
                    _ if timer.is_silent(time, Instant::now()) => Poll::Pending,
                    _ => timer.poll_moment(context, time),
                }
            })
            .await;
            assert!(!timer.is_silent(time, Instant::now()));
        });
    }

    #[test]
    fn a_timer_that_did_not_hear_of_a_task_is_not_silent() {
        build().expect("an event loop").block_on(async {
            let mut timer = Clock::SYSTEM.timer().expect("a timer");
            let time = Duration::from_secs(60);
            tokio::spawn(poll_fn(move |context| {
                while let Poll::Ready(progress) = coop::poll_proceed(context) {
                    progress.made_progress();
                }
                assert!(timer.poll_moment(context, time).is_pending());
                assert!(!timer.is_silent(time, Instant::now()));
                Poll::Ready(())
            }))
            .await
            .expect("it is not silent");
        });
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_timer_that_had_just_enough_left_for_a_ring_of_before_is_not_silent() {
        build().expect("an event loop").block_on(async {
            let mut timer = Clock::SYSTEM.timer().expect("a timer");
            let (short, long) = (Duration::from_millis(1), Duration::from_secs(60));
            let mut polls = 0;
            tokio::spawn(poll_fn(move |context| {
                polls += 1;
                if polls == 1 {
                    return timer.poll_moment(context, short);
                }
                // tokio gives each task 128.
                for _ in 1..128 {
                    if let Poll::Ready(progress) = coop::poll_proceed(context) {
                        progress.made_progress();
                    }
                }
                assert!(coop::has_budget_remaining());
                assert!(timer.poll_moment(context, long).is_pending());
                assert!(!timer.is_silent(long, Instant::now()));
                Poll::Ready(())
            }))
            .await
            .expect("it is not silent");
        });
    }

    #[test]
    fn what_takes_too_long_is_not_waited_for() {
        build().expect("an event loop").block_on(async {
            let limit = Duration::from_millis(1);
            let late = Clock::SYSTEM
                .limit(limit, std::future::pending::<()>())
                .await;
            assert_eq!(
                late.expect_err("it never ends").kind(),
                std::io::ErrorKind::TimedOut
            );
            let done = Clock::SYSTEM.limit(limit, async { 5 }).await;
            assert_eq!(done.expect("no time passes"), 5);
        });
    }
}
