//! The waiting room: where visits wait for their numbers, and the task that counts for visits.
//!
//! A visitor takes a seat and joins a queue. The task that counts takes the whole queue for a batch, and
//! answers each seat in it. Whoever leaves before says so by being dropped. So a seat is held by two: by
//! whoever sits there until there is an answer, and by the queue or the batch until it has given one. It
//! is free when both have let go of it, and whoever comes next takes it: waiting allocates nothing.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};

use parking_lot::{Mutex, MutexGuard};
use slab::Slab;
use tokio::time::Instant;

use crate::counter::Refusal;

/// What is heard in a seat: the number of a visit. Who only probes is told of some number.
pub(crate) type Answer = Result<i64, Refusal>;

/// What a queue or a batch holds of a seat until it has answered.
#[derive(Debug)]
pub(crate) struct Place(usize);

/// Those who are to be answered, in their order; `None` for who has been.
pub(crate) type Queue = Vec<Option<Place>>;

/// Where everybody waits.
#[derive(Debug, Default)]
pub(crate) struct WaitingRoom(Mutex<Waiting>);

/// Those who wait.
#[derive(Debug, Default)]
pub(crate) struct Waiting {
    pub(crate) seats: Seats,
    /// The queue of those who belong to no batch yet, oldest first.
    pub(crate) visits: Queue,
    /// The queue of those who want to know whether Redis answers, and count nothing.
    pub(crate) probes: Queue,
    /// Nobody will come any more.
    closed: bool,
    /// The task that counts, while it waits for somebody to come.
    idle: Option<Waker>,
}

/// All seats, also of those who wait for the answer to a batch that has been sent.
#[derive(Debug, Default)]
pub(crate) struct Seats(Slab<Seat>);

#[derive(Debug)]
struct Seat {
    deadline: Instant,
    /// `None` when there is an answer, or nobody to hear it.
    who: Option<Waker>,
    answer: Option<Answer>,
}

impl WaitingRoom {
    pub(crate) fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.0.lock()
    }

    /// Waits in a queue for an answer.
    pub(crate) async fn wait(
        &self,
        deadline: Instant,
        queue: impl Fn(&mut Waiting) -> &mut Queue,
    ) -> Answer {
        let mut visitor = Visitor {
            room: self,
            seat: None,
        };
        poll_fn(|context| {
            let Some(seat) = visitor.seat else {
                let mut waiting = self.lock();
                let seat = waiting.seats.take(deadline, context);
                queue(&mut waiting).push(Some(Place(seat)));
                visitor.seat = Some(seat);
                // The first one wakes the task that counts; all who come until it runs join.
                wake(waiting.idle.take(), waiting);
                return Poll::Pending;
            };
            let answer = ready!(self.lock().seats.poll_answer(seat, context));
            visitor.seat = None;
            Poll::Ready(answer)
        })
        .await
    }

    /// Waits until somebody is there: `true`. `false` when nobody will come any more.
    pub(crate) fn poll_somebody(&self, context: &Context<'_>) -> Poll<bool> {
        let mut waiting = self.lock();
        if !waiting.is_nobody() {
            return Poll::Ready(true);
        }
        if waiting.closed {
            return Poll::Ready(false);
        }
        waiting.idle = Some(context.waker().clone());
        Poll::Pending
    }

    /// Says that nobody will come any more.
    pub(crate) fn close(&self) {
        let mut waiting = self.lock();
        waiting.closed = true;
        wake(waiting.idle.take(), waiting);
    }
}

impl Waiting {
    pub(crate) fn is_nobody(&self) -> bool {
        self.visits.is_empty() && self.probes.is_empty()
    }

    /// Nobody is there, and nobody will come.
    pub(crate) fn is_over(&self) -> bool {
        self.closed && self.is_nobody()
    }

    /// Those who left are forgotten, and those who have been answered.
    pub(crate) fn forget_who_left(&mut self) {
        self.visits.retain_mut(|place| self.seats.keep(place));
        self.probes.retain_mut(|place| self.seats.keep(place));
    }
}

/// Leaves the room, and then wakes them: to wake a task of another thread takes a system call.
pub(crate) fn wake(who: impl IntoIterator<Item = Waker>, waiting: MutexGuard<'_, Waiting>) {
    drop(waiting);
    who.into_iter().for_each(Waker::wake);
}

/// Somebody who sits there, and leaves when dropped without an answer.
struct Visitor<'a> {
    room: &'a WaitingRoom,
    seat: Option<usize>,
}

impl Drop for Visitor<'_> {
    fn drop(&mut self) {
        if let Some(seat) = self.seat {
            self.room.lock().seats.leave(seat);
        }
    }
}

impl Seats {
    fn take(&mut self, deadline: Instant, context: &Context<'_>) -> usize {
        self.0.insert(Seat {
            deadline,
            who: Some(context.waker().clone()),
            answer: None,
        })
    }

    /// With the answer, the seat is free.
    fn poll_answer(&mut self, seat: usize, context: &Context<'_>) -> Poll<Answer> {
        let Seat { who, answer, .. } = &mut self.0[seat];
        if let Some(answer) = answer.take() {
            self.0.remove(seat);
            return Poll::Ready(answer);
        }
        if let Some(who) = who {
            who.clone_from(context.waker());
        }
        Poll::Pending
    }

    /// Nobody is there any more to hear the answer. If there has been one, the seat is free.
    fn leave(&mut self, seat: usize) {
        let Seat { who, answer, .. } = &mut self.0[seat];
        *who = None;
        if answer.is_some() {
            self.0.remove(seat);
        }
    }

    /// Gives the answer to whoever waits for it, who is then to be woken. If there is nobody, the seat is
    /// free.
    #[must_use]
    pub(crate) fn answer(&mut self, Place(seat): Place, answer: Answer) -> Option<Waker> {
        let who = self.0[seat].who.take();
        if who.is_some() {
            self.0[seat].answer = Some(answer);
        } else {
            self.0.remove(seat);
        }
        who
    }

    /// Refuses whoever waits there and would not get an answer by the deadline.
    #[must_use]
    pub(crate) fn refuse_if_late(
        &mut self,
        place: &mut Option<Place>,
        soon: Instant,
        reason: &Arc<str>,
    ) -> Option<Waker> {
        let late = place.take_if(|Place(seat)| {
            let Seat { deadline, who, .. } = &self.0[*seat];
            who.is_some() && *deadline <= soon
        });
        self.answer(late?, Err(Refusal::Unreachable(reason.clone())))
    }

    /// Whether nobody waits there for an answer.
    pub(crate) fn has_left(&self, place: &Option<Place>) -> bool {
        let left = |Place(seat): &Place| self.0[*seat].who.is_none();
        place.as_ref().is_none_or(left)
    }

    /// Whether somebody waits there. If it was left, the seat is free.
    pub(crate) fn keep(&mut self, place: &mut Option<Place>) -> bool {
        let left = self.has_left(place);
        if left && let Some(Place(seat)) = place.take() {
            self.0.remove(seat);
        }
        !left
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::pin::Pin;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
    use std::task::{Context, Poll, Wake, Waker};
    use std::time::Duration;

    use proptest::prelude::{Strategy, any, proptest};
    use tokio::time::Instant;

    use super::{Answer, Place, Queue, WaitingRoom};

    #[derive(Debug, Clone, Copy)]
    enum Event {
        Comes,
        Leaves(usize),
        Gather,
        Answer,
        /// The earliest so many of all who came.
        Refuse(usize),
        GiveUp,
    }

    fn events() -> impl Strategy<Value = Vec<Event>> {
        let event = (0..10, any::<usize>()).prop_map(|(kind, which)| match kind {
            0..=2 => Event::Comes,
            3..=4 => Event::Leaves(which),
            5..=6 => Event::Gather,
            7 => Event::Answer,
            8 => Event::Refuse(which),
            _ => Event::GiveUp,
        });
        proptest::collection::vec(event, 0..200)
    }

    #[derive(Default)]
    struct Woken(AtomicBool);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.store(true, Relaxed);
        }
    }

    struct Visitor<'a> {
        number: usize,
        woken: Arc<Woken>,
        wait: Pin<Box<dyn Future<Output = Answer> + 'a>>,
    }

    impl Visitor<'_> {
        fn poll(&mut self) -> Poll<Answer> {
            let waker = self.woken.clone().into();
            self.wait.as_mut().poll(&mut Context::from_waker(&waker))
        }
    }

    proptest! {
        #[test]
        fn everybody_hears_one_answer_and_it_is_their_own(events in events()) {
            let room = WaitingRoom::default();
            let start = Instant::now();
            let deadline = |number: usize| start + Duration::from_secs(number as u64);
            let mut visitors: Vec<Visitor<'_>> = Vec::new();
            let mut sits_at = HashMap::new();
            let mut batch = Queue::new();
            let (mut come, mut heard, mut left) = (0, 0, 0);
            // In the end, all are counted.
            for event in events.into_iter().chain([Event::Answer, Event::Gather, Event::Answer]) {
                match event {
                    Event::Comes => {
                        let wait = room.wait(deadline(come), |waiting| &mut waiting.visits);
                        let wait = Box::pin(wait);
                        let mut visitor = Visitor { number: come, woken: Arc::default(), wait };
                        assert!(visitor.poll().is_pending());
                        let waiting = room.lock();
                        let Some(Some(Place(seat))) = waiting.visits.last() else {
                            panic!("nobody sits there");
                        };
                        sits_at.insert(*seat, come);
                        visitors.push(visitor);
                        come += 1;
                    }
                    Event::Leaves(which) if !visitors.is_empty() => {
                        visitors.swap_remove(which % visitors.len());
                        left += 1;
                    }
                    Event::Gather if batch.is_empty() => {
                        let mut waiting = room.lock();
                        waiting.forget_who_left();
                        batch = std::mem::take(&mut waiting.visits);
                        assert!(batch.iter().all(|place| !waiting.seats.has_left(place)));
                    }
                    Event::Answer => {
                        let seats = &mut room.lock().seats;
                        for place in batch.drain(..).flatten() {
                            let number = sits_at[&place.0] as i64;
                            seats.answer(place, Ok(number)).into_iter().for_each(Waker::wake);
                        }
                    }
                    Event::Refuse(which) => {
                        let waiting = &mut *room.lock();
                        let soon = deadline(which % (come + 1));
                        for place in batch.iter_mut().chain(&mut waiting.visits) {
                            let late = waiting.seats.refuse_if_late(place, soon, &"late".into());
                            late.into_iter().for_each(Waker::wake);
                        }
                    }
                    Event::GiveUp => {
                        let seats = &mut room.lock().seats;
                        if batch.iter().all(|place| seats.has_left(place)) {
                            for mut place in batch.drain(..) {
                                seats.keep(&mut place);
                            }
                        }
                    }
                    Event::Leaves(_) | Event::Gather => {}
                }
                visitors.retain_mut(|visitor| {
                    if !visitor.woken.0.load(Relaxed) {
                        return true;
                    }
                    let Poll::Ready(answer) = visitor.poll() else {
                        panic!("woken for nothing");
                    };
                    assert!(answer.is_err() || answer.is_ok_and(|own| own == visitor.number as i64));
                    heard += 1;
                    false
                });
            }
            assert_eq!(come, heard + left);
            assert!(room.lock().seats.0.is_empty(), "a seat is not free again");
        }
    }
}
