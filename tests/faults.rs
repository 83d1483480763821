//! The fault suite: whatever breaks, a visit that got a number is counted exactly once and no other visitor
//! else ever gets that number, and a visit that got an error is counted at most once. Each fault
//! strikes a scene of a real Redis and two processes that serve one counter to visitors who come
//! without a pause; docs/faults.md is the table of what came of it.

use std::collections::BTreeSet;
use std::fmt;
use std::io::{self, Write as _};
use std::process::Command;

mod scene;
mod table;

use crate::crowd::{Visit, assert_exact};
use scene::{Scene, Stage};

/// A test for each fault, and all of them for the table.
macro_rules! faults {
    ($($test:ident = $fault:expr),* $(,)?) => {
        pub(super) const FAULTS: &[Fault] = &[$($fault),*];
        $(
            #[test]
            fn $test() {
                const FAULT: Fault = $fault;
                FAULT.prove();
            }
        )*
    };
}

mod clients;
mod network;
mod redis;
mod service;

/// The headings of the table, and what stands under each.
const GROUPS: [(&str, &[Fault]); 4] = [
    ("The service", service::FAULTS),
    ("Redis", redis::FAULTS),
    ("The network between the service and Redis", network::FAULTS),
    ("Clients", clients::FAULTS),
];

/// Something that breaks, and what visitors may see of it.
struct Fault {
    name: &'static str,
    how: &'static str,
    /// What the visitors see beside numbers, exactly.
    visitors_see: &'static [Seen],
    /// What those see who are the fault.
    faulty_see: &'static [Seen],
    /// Each process logs an outage of Redis with one of these words; none when it has none to log.
    logs: &'static [&'static str],
    /// A command that succeeds where this fault can be made.
    needs: &'static [&'static str],
    stage: fn() -> Stage,
    inject: fn(&mut Scene),
}

/// Redis is there again within the visits' time budget.
const WITHIN_BUDGET: Fault = Fault {
    name: "",
    how: "",
    visitors_see: &[],
    faulty_see: &[],
    logs: &[],
    needs: &["true"],
    stage: Stage::patient,
    inject: |_| {},
};

/// Redis stays away for longer than that.
const OUTAGE: Fault = Fault { visitors_see: &[Seen::Unavailable], stage: Stage::hasty, ..WITHIN_BUDGET };

/// What may become of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Seen {
    Number,
    /// 503 with `Retry-After`.
    Unavailable,
    /// Another answer without a number.
    Status(u16),
    /// The connection ended before the answer.
    Cut,
    /// The connection could not be made.
    Unconnected,
    /// No answer within the patience of a test.
    Silence,
}

impl Seen {
    fn of(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Self::Silence,
            _ => Self::Cut,
        }
    }
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number => f.write_str("numbers"),
            Self::Unavailable => f.write_str("503 with `Retry-After`"),
            Self::Status(status) => write!(f, "{status}"),
            Self::Cut => f.write_str("a closed connection"),
            Self::Unconnected => f.write_str("a refused connection"),
            Self::Silence => f.write_str("no answer"),
        }
    }
}

/// The count fell, and whatever was counted beyond `to` is forgotten.
struct Loss {
    from: i64,
    to: i64,
}

/// What came of a fault.
struct Outcome {
    visitors_saw: BTreeSet<Seen>,
    faulty_saw: BTreeSet<Seen>,
    /// Every request that may have been counted.
    visits: Vec<Visit>,
    /// The counter at the end; it began at zero.
    count: i64,
    /// What Redis has lost on the way.
    losses: Vec<Loss>,
}

impl Outcome {
    /// Checks that the counter is what the visits allow, and says what it is.
    fn check(&self) -> &'static str {
        if !self.losses.is_empty() {
            self.check_with_losses();
            return "it fell to what Redis had kept, and numbers above that are given out once \
                    more, which each process logs as an error; else exact";
        }
        assert_exact(&self.visits, self.count);
        if self.visits.iter().all(|visit| visit.number.is_some()) {
            "exactly the numbers given out"
        } else {
            "the numbers given out, and at most one more for each visit that got none"
        }
    }

    /// Every visit that got a number was counted once when it got it, and every other one at most
    /// once; of what was counted, only what was lost can be given out again.
    fn check_with_losses(&self) {
        let lost: i64 = self.losses.iter().map(|loss| loss.from - loss.to).sum();
        let mut numbers: Vec<_> = self.visits.iter().filter_map(|visit| visit.number).collect();
        numbers.sort_unstable();
        let doubles = numbers.windows(2).filter(|pair| pair[0] == pair[1]);
        let doubles = doubles.count() as i64;
        assert!(doubles <= lost, "{doubles} given twice, {lost} lost");
        let counted = self.count + lost;
        let gaps = counted - numbers.len() as i64;
        let errors = (self.visits.len() - numbers.len()) as i64;
        assert!((0..=errors).contains(&gaps), "{gaps} gaps after {errors} errors");
        let reached = self.losses.iter().map(|loss| loss.from);
        let highest = reached.chain([self.count]).max();
        assert!(numbers.first() >= Some(&1) && numbers.last() <= highest.as_ref());
    }

    fn what_was_seen(&self) -> String {
        let beside: Vec<_> =
            self.visitors_saw.iter().filter(|seen| **seen != Seen::Number).map(ToString::to_string).collect();
        let visitors = match &beside[..] {
            [] => "numbers, no error".to_owned(),
            _ if self.visitors_saw.contains(&Seen::Unavailable) => {
                format!("{} until it is over, then numbers", beside.join("; "))
            }
            _ => format!("numbers; for requests under way, {}", beside.join(", ")),
        };
        let faulty: Vec<_> = self.faulty_saw.iter().map(ToString::to_string).collect();
        if faulty.is_empty() { visitors } else { format!("{visitors}. The faulty: {}", faulty.join(", ")) }
    }
}

impl Fault {
    fn prove(&self) {
        if !self.is_possible() {
            return;
        }
        for lifetime in ["off", "1h"] {
            let mut scene = Scene::open((self.stage)().set("SESSION_LIFETIME", lifetime));
            (self.inject)(&mut scene);
            let outcome = scene.close(self.logs);
            let expected = |seen: &[Seen]| seen.iter().copied().collect::<BTreeSet<_>>();
            let mut visitors_see = expected(self.visitors_see);
            visitors_see.insert(Seen::Number);
            assert_eq!(outcome.visitors_saw, visitors_see, "what visitors saw");
            assert_eq!(outcome.faulty_saw, expected(self.faulty_see));
            let count = outcome.check();
            table::hold(self, &outcome.what_was_seen(), count);
        }
    }

    /// Whether this machine lets the fault be made. On CI it must.
    fn is_possible(&self) -> bool {
        let output = Command::new(self.needs[0]).args(&self.needs[1..]).output();
        let possible = output.is_ok_and(|output| output.status.success());
        if !possible {
            let on_ci = std::env::var("CI").is_ok_and(|ci| ci == "true");
            assert!(!on_ci, "cannot be tested here: {}", self.name);
            let _ = writeln!(io::stderr(), "skipped: {}", self.name);
        }
        possible
    }
}
