//! `mail-report` in its sandbox, by the timer and by hand, with a real mail server in the network of the machine.

use std::fs;

use super::backups;
use crate::machine::Machine;
use crate::support::eventually;

#[path = "../../admin/attached/tests/smtp/mod.rs"]
#[allow(dead_code, reason = "admin/attached has more tests of it")]
mod smtp;

pub(super) use smtp::{PASSWORD, Port, Smtp};

/// A machine with a count, and a mail server whose certificate it trusts.
pub(super) fn boot() -> Option<(Machine, Smtp)> {
    let machine = backups::boot()?;
    let [server, _] = smtp::both()?;
    machine.redis(&["SET", "visitorCount", "48213"]);
    let authority = fs::read_to_string(server.certificate()).expect("a certificate");
    machine.write("/etc/abukiks/mail.pem", &authority);
    // Days end while tests run.
    machine.drop_in(
        "abukiks@report.service",
        "[Service]\nEnvironment=MAIL_CA_FILE=/etc/abukiks/mail.pem MAIL_EVERY=1year\n",
    );
    Some((machine, server))
}

pub(super) const TASK: &str = "abukiks-admin@mail-report.service";

pub(super) fn has_failed(machine: &Machine) -> bool {
    machine.systemctl(&["--failed", "--plain", "--no-legend"]).contains(TASK)
}

#[test]
fn the_timer_mails_one_report_in_each_period_and_makes_up_for_a_server_that_was_away() {
    let Some((machine, mut server)) = boot() else {
        return;
    };
    let off = machine.try_run(&["systemctl", "is-enabled", "abukiks-report.timer"]);
    assert_eq!(off.stdout, b"disabled\n");
    machine.write("/etc/abukiks/report.env", "MAIL_FROM=visits@example.org\nMAIL_TO=count@example.org\n");
    machine.write("/etc/credstore/abukiks.mail-url", &server.url(Port::Submission, "visits"));
    machine.write("/etc/credstore/abukiks.mail-password", PASSWORD);
    machine.drop_in(
        "abukiks-report.timer",
        "[Timer]\nOnCalendar=\nOnCalendar=*:*:0/5\nRandomizedDelaySec=0\nAccuracySec=1us\n",
    );
    server.stop();
    machine.systemctl(&["enable", "--now", "abukiks-report.timer"]);
    let logged = |text: &str| machine.logged(&["--unit", TASK], text);
    let said = logged("cannot be used: Connection refused");
    assert!(said.contains("the mail server (MAIL_URL) at ") && !said.contains(PASSWORD), "{said}");
    eventually("its unit has failed", || has_failed(&machine).then_some(()));

    server.resume();
    logged("the report with the count 48213 was sent to count@example.org");
    logged("the report of this period was sent at ");
    machine.systemctl(&["disable", "--now", "abukiks-report.timer"]);
    eventually("the last run ends", || (machine.show(TASK, "ActiveState") == "inactive").then_some(()));
    assert!(!has_failed(&machine));
    assert_eq!(server.taken(), 1);
    let mail = String::from_utf8(server.mails().remove(0)).expect("text");
    assert!(mail.lines().any(|line| line == "Subject: visitorCount: 48213"), "{mail}");
    // What the machine knows of the last time, when it was off at the next.
    assert!(machine.file("/var/lib/systemd/timers/stamp-abukiks-report.timer").exists());

    // An instance has neither the way nor the secrets.
    machine.systemctl(&["start", "abukiks@5001"]);
    assert_eq!(machine.show("abukiks@5001", "PrivateNetwork"), "yes");
    assert!(!machine.show("abukiks@5001", "LoadCredential").contains("mail-"));
    let none = machine.try_run(&["abukiks-admin", "--instance", "5001", "mail-report"]);
    assert_eq!(none.status.code(), Some(78), "{none:?}");
}
