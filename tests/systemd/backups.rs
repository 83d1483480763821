//! `backup-count` and `restore-count` in their sandbox, by the timer and by hand, with a folder and with a real S3
//! server.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

use crate::machine::Machine;
use crate::support::{Process, cargo, eventually};

/// The folder where Cargo has built admin/attached, whose programs are none of this crate.
fn built() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("the target folder");
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let built = cargo()
            .args(["build", "--quiet", "--locked", "--bins", "--example", "s3", "--manifest-path"])
            .arg(root.join("admin/attached/Cargo.toml"))
            .arg("--target-dir")
            .arg(target)
            .status();
        assert!(built.expect("cargo").success());
        target.join("debug")
    })
}

/// The programs of `make attached`, without debug symbols.
pub(crate) fn attached() -> &'static Path {
    static PROGRAMS: OnceLock<PathBuf> = OnceLock::new();
    PROGRAMS.get_or_init(|| {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("attached");
        fs::create_dir_all(&folder).expect("a folder");
        for task in ["backup-count", "restore-count", "mail-report"] {
            let (built, stripped) = (built().join(task), folder.join(task));
            let status = Command::new("strip").arg("-o").args([stripped, built]).status();
            assert!(status.expect("strip").success());
        }
        folder
    })
}

/// `make install` of what `make attached` has built, below a root folder.
pub(crate) fn install(destination: &Path) {
    let status = Command::new("systemd/install.sh")
        .arg("install")
        .env("DESTDIR", destination)
        .env("BUILD", attached())
        .env("PART", "attached")
        .status();
    assert!(status.expect("a shell").success());
}

pub(super) fn boot() -> Option<Machine> {
    let machine = Machine::boot()?;
    install(&machine.file("/"));
    machine.systemctl(&["daemon-reload"]);
    Some(machine)
}

/// An S3 server in the network of the machine.
struct S3 {
    settings: String,
    folder: PathBuf,
    process: Child,
}

impl S3 {
    fn start() -> Self {
        let mut command = Command::new(built().join("examples/s3"));
        let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("it was built");
        let stdout = process.stdout.take().expect("a pipe");
        let mut lines = BufReader::new(stdout).lines().map(|line| line.expect("text"));
        let mut settings = String::new();
        let folder = loop {
            let line = lines.next().expect("it tells its folder");
            match line.strip_prefix("FOLDER=") {
                Some(folder) => break folder.into(),
                None => settings += &format!("{line}\n"),
            }
        };
        Self { settings, folder, process }
    }

    /// The objects of the counter.
    fn backups(&self) -> usize {
        fs::read_dir(self.folder.join("bucket/a/prefix/visitorCount")).map_or(0, Iterator::count)
    }
}

impl Drop for S3 {
    fn drop(&mut self) {
        // It removes its folder then.
        drop(self.process.stdin.take());
        let _ = self.process.wait();
    }
}

const TASK: &str = "abukiks-admin@backup-count.service";

#[test]
fn the_timer_backs_up_into_a_folder_from_where_the_count_comes_back() {
    let Some(machine) = boot() else {
        return;
    };
    machine.redis(&["SET", "visitorCount", "48213"]);
    let off = machine.try_run(&["systemctl", "is-enabled", "abukiks-backup.timer"]);
    assert_eq!(off.stdout, b"disabled\n");
    machine.write("/etc/abukiks/backup.env", "BACKUP_URL=file:///var/lib/abukiks-backups\n");
    machine.drop_in(
        "abukiks-backup.timer",
        "[Timer]\nOnCalendar=\nOnCalendar=*:*:0/5\nRandomizedDelaySec=0\nAccuracySec=1us\n",
    );
    machine.systemctl(&["enable", "--now", "abukiks-backup.timer"]);
    machine.logged(&["--unit", TASK], "the count 48213 is backed up in file:///var/lib/abukiks-backups/");
    machine.systemctl(&["disable", "--now", "abukiks-backup.timer"]);
    eventually("the last run ends", || (machine.show(TASK, "ActiveState") == "inactive").then_some(()));
    // What the machine knows of the last time, when it was off at the next.
    assert!(machine.file("/var/lib/systemd/timers/stamp-abukiks-backup.timer").exists());

    machine.redis(&["SET", "visitorCount", "7"]);
    let restored = machine.run(&["abukiks-admin", "restore-count"]);
    assert!(restored.ends_with("\nthe count was 7 and is now 48213\n"), "{restored}");
    assert_eq!(machine.systemctl(&["--failed", "--plain", "--no-legend"]), "");
    let errors = machine.journal(&["--priority=warning", "--grep=abukiks@backup"]);
    assert_eq!(errors, "", "an instance without a socket is nothing to complain of");
}

#[test]
fn only_the_task_reaches_the_store_and_a_failure_is_seen() {
    let Some(machine) = boot() else {
        return;
    };
    let store = S3::start();
    machine.write("/etc/hosts", "127.0.0.1 localhost\n");
    machine.redis(&["SET", "visitorCount", "48213"]);
    let (secrets, settings): (Vec<_>, Vec<_>) = store.settings.lines().partition(|line| line.contains("KEY"));
    machine.write("/etc/credstore/abukiks.backup-env", &secrets.join("\n"));
    let authority = fs::read_to_string(store.folder.join("ca.pem")).expect("a certificate");
    let other = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    machine.write("/etc/abukiks/ca.pem", &other.cert.pem());
    let settings = settings.join("\n") + "\nAWS_CA_BUNDLE=/etc/abukiks/ca.pem\n";
    machine.write("/etc/abukiks/backup.env", &settings);

    assert!(!machine.try_run(&["systemctl", "start", TASK]).status.success());
    let failed = machine.systemctl(&["--failed", "--plain", "--no-legend"]);
    assert!(failed.contains(TASK), "{failed}");
    let said = machine.journal(&["--unit", TASK, "--identifier=sh"]);
    assert!(said.contains("BACKUP_URL") && said.contains("certificate"), "{said}");
    assert_eq!(store.backups(), 0);

    machine.write("/etc/abukiks/ca.pem", &authority);
    machine.systemctl(&["start", TASK]);
    assert_eq!(store.backups(), 1);
    assert!(!machine.systemctl(&["--failed", "--plain", "--no-legend"]).contains(TASK));
    let shown = machine.run(&["abukiks-admin", "restore-count", "--dry-run"]);
    assert!(shown.ends_with("the count is 48213 already\n"), "{shown}");

    // An instance has neither the way nor the secrets.
    machine.systemctl(&["start", "abukiks@5001"]);
    assert_eq!(machine.show("abukiks@5001", "PrivateNetwork"), "yes");
    assert!(!machine.show("abukiks@5001", "LoadCredential").contains("backup-env"));
    let none = machine.try_run(&["abukiks-admin", "--instance", "5001", "backup-count"]);
    assert_eq!(none.status.code(), Some(78), "{none:?}");
    let instance = machine.try_run(&["systemctl", "start", "abukiks@backup"]);
    let said = String::from_utf8(instance.stderr).expect("text");
    assert!(said.contains("abukiks@backup.socket is masked"), "{said}");
}

#[test]
fn each_task_gets_the_network_its_folder_and_nothing_else() {
    let Some(machine) = boot() else {
        return;
    };
    machine.write("/usr/local/libexec/abukiks/probe", PROBE);
    machine.run(&["chmod", "755", "/usr/local/libexec/abukiks/probe"]);
    for (instance, found) in [("backup", "probed\n"), ("report", "it cannot write to its folder\nprobed\n")] {
        assert_eq!(machine.run(&["abukiks-admin", "--instance", instance, "probe"]), found, "{instance}");
    }
    for unit in ["abukiks-backup.timer", "abukiks-report.timer", TASK] {
        let verified = machine.try_run(&["systemd-analyze", "verify", unit]);
        assert!(verified.status.success() && verified.stderr.is_empty(), "{verified:?}");
    }

    // What is like the service's sandbox, and the network beside it.
    machine.write("/usr/local/libexec/abukiks/stay", "#!/bin/sh\nexec sleep infinity\n");
    machine.run(&["chmod", "755", "/usr/local/libexec/abukiks/stay"]);
    machine.drop_in("abukiks@backup.service", "[Service]\nIPAddressAllow=\nIPAddressAllow=203.0.113.7\n");
    let _task = Process::spawn(&mut machine.command(&["abukiks-admin", "--instance", "backup", "stay"]));
    let list =
        ["systemctl", "list-units", "--plain", "--no-legend", "--state=running", "abukiks-admin-stay-*"];
    let unit = eventually("the task runs", || Some(machine.run(&list).split_whitespace().next()?.to_owned()));
    let exposure = machine.exposure(&unit);
    assert!(exposure <= 1.6, "{exposure}");
    assert_eq!(machine.show(&unit, "IPAddressAllow"), "203.0.113.7/32", "as the drop-in says");
    machine.systemctl(&["stop", &unit]);
}

/// Tries what the task needs, and what the sandbox is to prevent.
const PROBE: &str = r#"#!/bin/bash
touch /var/lib/abukiks-backups/probe || echo 'it cannot write to its folder'
perl -MSocket -e 'exit !socket(my $s, AF_INET, SOCK_STREAM, 0)' || echo 'it has no IPv4 socket'
perl -MSocket -e 'exit !socket(my $s, AF_INET6, SOCK_STREAM, 0)' || echo 'it has no IPv6 socket'
for folder in / /etc /etc/abukiks /home /root /run /srv /tmp /usr /var /var/lib /var/lib/redis /var/tmp /dev/shm; do
    if [ -d "$folder" ] && touch "$folder/probe" 2>/dev/null; then echo "it wrote to $folder"; fi
done
perl -e 'exit !socket(my $s, 16, 3, 0)' && echo 'it has a netlink socket'
perl -e 'exit !socket(my $s, 17, 3, 0)' && echo 'it has a packet socket'
[ -r /etc/credstore/abukiks.redis-url ] && echo 'it reads the secrets of others'
[ "$(id -u)" = 0 ] && echo 'it is root'
echo probed
"#;
