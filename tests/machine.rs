//! Boots a real systemd for a test: a container with an init, a journal and a Redis of its own,
//! with Abukiks installed by `systemd/install.sh`. Each test gets a machine of its own, a thin layer
//! over a root folder that is made once and kept in the user's cache, and speaks to it by its
//! network namespace. Needs root, mmdebstrap and systemd-nspawn.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::AsFd as _;
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use rustix::process::Pid;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tempfile::TempDir;

use crate::root_folder;
use crate::support::{Client, Process, eventually};

/// The distribution inside: its systemd is 257.
const SUITE: &str = "trixie";
const PACKAGES: &str = "systemd,systemd-sysv,dbus,redis-server,valkey-server,procps,nginx-light,haproxy,\
    prometheus,curl,openssl,systemd-journal-remote,rsyslog,rsyslog-elasticsearch";
/// syslog-ng takes the place of rsyslog: Debian lets no machine have both.
const SYSLOG_NG_PACKAGES: &str =
    "systemd,systemd-sysv,dbus,redis-server,procps,syslog-ng-core,syslog-ng-mod-http";
/// What a machine has where Abukiks comes as a package.
const PLAIN_PACKAGES: &str = "systemd,systemd-sysv,dbus,redis-server,procps,rpm,openssh-server,sudo,curl";

/// What must be on the machine that tests.
const TOOLS: [&str; 7] =
    ["mmdebstrap", "nsenter", "setpriv", "strip", "systemd-analyze", "systemd-nspawn", "wrk"];

const CGROUPS: [&str; 2] = ["/sys/fs/cgroup/systemd", "/sys/fs/cgroup/unified"];

/// What machines are made of, or why none can be made here.
static PARTS: OnceLock<Result<Parts, String>> = OnceLock::new();

#[derive(Debug)]
struct Parts {
    /// The root folder that all share and none writes to.
    root: PathBuf,
    /// The programs under test, without debug symbols: a machine's copy of them is small.
    programs: PathBuf,
    cache: PathBuf,
}

/// A booted machine. The thread that booted it is in the machine's network, with all that it
/// starts, until this is dropped.
#[derive(Debug)]
pub(crate) struct Machine {
    init: Pid,
    name: String,
    network_outside: File,
    _container: Process,
    /// What this machine has changed.
    layer: TempDir,
}

impl Machine {
    /// Boots one as an administrator of Debian sets it up; `None`, after a line that says why, where
    /// that cannot be. On CI that is a failure.
    pub(crate) fn boot() -> Option<Self> {
        Self::boot_with(configure)
    }

    /// Boots one that `set_up` prepares, given the folder of its changes and the root folder below.
    pub(crate) fn boot_with(set_up: impl FnOnce(&Path, &Path)) -> Option<Self> {
        let parts = parts()?;
        Some(Self::boot_installed(parts, &parts.root, set_up))
    }

    /// Boots one with syslog-ng in the place of rsyslog. A test starts it.
    pub(crate) fn boot_with_syslog_ng() -> Option<Self> {
        let parts = parts()?;
        let hook = "--customize-hook=chroot \"$1\" systemctl --quiet disable syslog-ng";
        let root =
            root_folder::make(&parts.cache, SUITE, SYSLOG_NG_PACKAGES, Some(hook)).expect("a root folder");
        Some(Self::boot_installed(parts, &root, configure))
    }

    fn boot_installed(parts: &Parts, root: &Path, set_up: impl FnOnce(&Path, &Path)) -> Self {
        let set_up = |changes: &Path, root: &Path| {
            install(changes, "/usr/local", &parts.programs);
            set_up(changes, root);
        };
        Self::boot_from(&parts.cache, root, set_up)
    }

    /// Boots a Debian with its Redis as it is after installation, and without Abukiks.
    pub(crate) fn boot_plain(suite: &str, set_up: impl FnOnce(&Path)) -> Option<Self> {
        let cache = &parts()?.cache;
        let root = root_folder::make(cache, suite, PLAIN_PACKAGES, None).expect("a root folder");
        Some(Self::boot_from(cache, &root, |changes, _| set_up(changes)))
    }

    fn boot_from(cache: &Path, root: &Path, set_up: impl FnOnce(&Path, &Path)) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("abukiks-{}-{}", std::process::id(), COUNT.fetch_add(1, Relaxed));
        let layer = tempfile::Builder::new().prefix(&format!("{name}-")).tempdir_in(cache).expect("a folder");
        let folder = |name: &str| {
            let folder = layer.path().join(name);
            fs::create_dir(&folder).expect("a folder");
            folder
        };
        let (changes, _work, _whole) = (folder("changes"), folder("work"), folder("whole"));
        set_up(&changes, root);
        // What the journal lets pass by default grows with the disk. Little enough to be reached here.
        put(
            &changes,
            "etc/systemd/journald.conf.d/strict.conf",
            "[Journal]\nRateLimitIntervalSec=30s\nRateLimitBurst=500\n",
        );
        // A journal in /var holds what a test writes; one in /run would soon be full.
        fs::create_dir_all(changes.join("var/log/journal")).expect("a folder");

        let console = File::create(layer.path().join("console")).expect("a file");
        let mut container = Process::spawn(
            Command::new("setpriv")
                .args(["--pdeathsig", "TERM", "unshare", "--mount"])
                .args(["--propagation", "private", "sh", "-euc", BOOT, &name])
                .arg(layer.path())
                .arg(root)
                .stdin(Stdio::null())
                .stdout(console.try_clone().expect("a second handle"))
                .stderr(console),
        );
        let init = eventually("the machine's init starts", || {
            if container.has_ended() {
                let console = fs::read_to_string(layer.path().join("console"));
                panic!("no machine: {}", console.unwrap_or_default());
            }
            let pid = container.pid().as_raw_nonzero();
            let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
            children.split_whitespace().find_map(|child| {
                let name = fs::read_to_string(format!("/proc/{child}/comm")).ok()?;
                (name == "systemd\n").then(|| Pid::from_raw(child.parse().ok()?))?
            })
        });
        let own = |kind: &str| File::open(format!("/proc/thread-self/ns/{kind}"));
        let machine = Self {
            init,
            name,
            network_outside: own("net").expect("a network"),
            _container: container,
            layer,
        };
        let inside = File::open(machine.proc("ns/net")).expect("a network");
        enter(&inside).expect("root may");
        eventually("the machine is up", || {
            let state = machine.try_run(&["systemctl", "is-system-running", "--wait"]);
            let state = String::from_utf8_lossy(&state.stdout).into_owned();
            matches!(state.trim(), "running" | "degraded").then_some(())
        });
        machine
    }

    fn proc(&self, entry: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/{entry}", self.init.as_raw_nonzero()))
    }

    /// A command inside the machine.
    pub(crate) fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new("nsenter");
        command
            .arg("--all")
            .arg(format!("--target={}", self.init.as_raw_nonzero()))
            .args(words)
            .env_clear()
            .env("PATH", "/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
            .stdin(Stdio::null());
        command
    }

    /// Runs a command, whatever comes of it.
    pub(crate) fn try_run(&self, words: &[&str]) -> Output {
        self.command(words).output().expect("nsenter is there")
    }

    /// Runs a command that must succeed, and returns what it prints.
    pub(crate) fn run(&self, words: &[&str]) -> String {
        let output = self.try_run(words);
        assert!(
            output.status.success(),
            "{words:?} ended with {}: {}\n{}",
            output.status,
            String::from_utf8_lossy(&output.stderr),
            self.journal(&["--lines=30", "--output=short"]),
        );
        String::from_utf8(output.stdout).expect("text")
    }

    pub(crate) fn systemctl(&self, words: &[&str]) -> String {
        self.run(&[&["systemctl"], words].concat())
    }

    /// A property of a unit.
    pub(crate) fn show(&self, unit: &str, property: &str) -> String {
        let property = format!("--property={property}");
        let value = self.systemctl(&["show", unit, &property, "--value"]);
        value.trim_end().to_owned()
    }

    /// What the journal holds of this, by default one message a line.
    pub(crate) fn journal(&self, words: &[&str]) -> String {
        let base = &["journalctl", "--no-pager", "--quiet", "--output=cat"];
        let output = self.try_run(&[base, words].concat());
        String::from_utf8(output.stdout).expect("text")
    }

    /// Waits until the journal holds `text` among this.
    pub(crate) fn logged(&self, words: &[&str], text: &str) -> String {
        eventually(text, || {
            let journal = self.journal(words);
            journal.contains(text).then_some(journal)
        })
    }

    /// A file inside the machine, as others see it from outside.
    pub(crate) fn file(&self, path: &str) -> PathBuf {
        self.proc("root").join(path.trim_start_matches('/'))
    }

    /// Writes a file inside the machine.
    pub(crate) fn write(&self, path: &str, text: &str) {
        put(&self.file("/"), path, text);
    }

    /// Puts a drop-in for a unit into force.
    pub(crate) fn drop_in(&self, unit: &str, text: &str) {
        self.write(&format!("/etc/systemd/system/{unit}.d/test.conf"), text);
        self.systemctl(&["daemon-reload"]);
    }

    /// A connection to an instance.
    pub(crate) fn connect(&self, port: u16) -> Client {
        Client::connect(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port))
    }

    /// The count as it stands in Redis.
    pub(crate) fn count(&self) -> i64 {
        let count = self.redis(&["GET", "visitorCount"]);
        count.parse().unwrap_or(0)
    }

    /// Runs a Redis command.
    pub(crate) fn redis(&self, words: &[&str]) -> String {
        let cli = &["redis-cli", "-s", "/run/redis/redis-server.sock"];
        self.run(&[cli, words].concat()).trim_end().to_owned()
    }

    /// Lays a cable to another machine. Each end gets an address.
    pub(crate) fn wire(&self, own: &str, other: &Self, others: &str) {
        let network = |machine: &Self| machine.init.as_raw_nonzero();
        let (here, there) = (network(self), network(other));
        host(&format!("ip link add cable netns {here} type veth peer name cable netns {there}"));
        for (machine, address) in [(self, own), (other, others)] {
            let inside = format!("nsenter --net={} ip", machine.proc("ns/net").display());
            host(&format!("{inside} address add {address}/24 dev cable"));
            host(&format!("{inside} link set cable up"));
        }
    }

    /// What `systemd-analyze security` makes of a unit, from 0 to 10.
    pub(crate) fn exposure(&self, unit: &str) -> f64 {
        let report = self.run(&["systemd-analyze", "security", "--no-pager", unit]);
        let (_, level) = report.split_once(&format!("level for {unit}: ")).expect("a level");
        let (level, _) = level.split_once(' ').expect("a word for it");
        level.parse().expect("a number")
    }

    /// The process of an instance.
    pub(crate) fn main_pid(&self, port: u16) -> u32 {
        let pid = self.show(&format!("abukiks@{port}"), "MainPID");
        pid.parse().expect("a number")
    }

    /// Installs the programs in this folder over those that are there.
    pub(crate) fn install(&self, programs: &Path) {
        install(&self.file("/"), "/usr/local", programs);
    }

    /// Installs the programs in this folder and their units below another prefix.
    pub(crate) fn install_below(&self, prefix: &str, programs: &Path) {
        install(&self.file("/"), prefix, programs);
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if enter(&self.network_outside).is_err() {
            // The thread ends with the test; only one that ran on would notice.
            eprintln!("the test's thread stays in the network of a machine that is gone");
        }
        // Its init dies with the container, and all others with the init. Only then can what they
        // have used be taken away.
        let _ = rustix::process::kill_process(self.init, rustix::process::Signal::KILL);
        let gone = self.proc("");
        eventually("the machine is off", || (!gone.exists()).then_some(()));
        for cgroup in CGROUPS {
            let cgroup = Path::new(cgroup).join(&self.name);
            if cgroup.exists() {
                eventually("its control groups can go", || remove_cgroup(&cgroup).ok());
            }
        }
        // Only root may read the folder that overlayfs works in.
        let _ = fs::remove_dir_all(self.layer.path());
    }
}

/// `$0` is the machine's name, `$1` its folder, `$2` the root folder under it. The mount is seen by
/// this process alone and goes with it. Without a systemd outside, which would do so, the machine
/// gets control groups of its own: two that shared them would end each other's processes.
const BOOT: &str = r#"
mount -t overlay overlay -o "lowerdir=$2,upperdir=$1/changes,workdir=$1/work" "$1/whole"
if [ -d /run/systemd/system ]; then
    own=
else
    own=--keep-unit
    for hierarchy in /sys/fs/cgroup/systemd /sys/fs/cgroup/unified; do
        if [ -d "$hierarchy" ]; then
            mkdir "$hierarchy/$0"
            echo $$ >"$hierarchy/$0/cgroup.procs"
        fi
    done
fi
exec systemd-nspawn --quiet -D "$1/whole" -M "$0" --boot --private-network --register=no $own
"#;

/// Runs a command beside the machines that must succeed.
fn host(command: &str) {
    let mut words = command.split(' ');
    let status = Command::new(words.next().expect("a program")).args(words).status();
    assert!(status.expect("it is installed").success(), "{command}");
}

/// Moves this thread into a network.
pub(crate) fn enter(network: &File) -> rustix::io::Result<()> {
    move_into_link_name_space(network.as_fd(), Some(LinkNameSpaceType::Network))
}

/// A network of a test's own that this thread is in, with all that it starts, until this is dropped.
#[derive(Debug)]
pub(crate) struct OwnNetwork {
    outside: File,
    _keeper: Process,
}

impl OwnNetwork {
    /// Moves this thread into a new network, which has nothing but a loopback interface.
    pub(crate) fn enter() -> Self {
        let outside = File::open("/proc/thread-self/ns/net").expect("a network");
        let keeper = keep_namespace("--net", "ip link set lo up");
        let inside = format!("/proc/{}/ns/net", keeper.pid().as_raw_nonzero());
        enter(&File::open(inside).expect("a network")).expect("root may");
        Self { outside, _keeper: keeper }
    }
}

impl Drop for OwnNetwork {
    fn drop(&mut self) {
        if enter(&self.outside).is_err() {
            // The thread ends with the test; only one that ran on would notice.
            eprintln!("the test's thread stays in a network of its own");
        }
    }
}

/// A process that keeps a new namespace, which `unshare` has an option for, and which a script has set up.
pub(crate) fn keep_namespace(option: &str, script: &str) -> Process {
    let script = format!("set -e; {script}; exec sleep infinity");
    let mut keeper = Process::spawn(
        Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "unshare", option, "sh", "-c", &script])
            .stdin(Stdio::null())
            .stdout(Stdio::null()),
    );
    let name = format!("/proc/{}/comm", keeper.pid().as_raw_nonzero());
    eventually("the namespace is there", || {
        assert!(!keeper.has_ended(), "no namespace: {script}");
        (fs::read_to_string(&name).ok()? == "sleep\n").then_some(())
    });
    keeper
}

fn remove_cgroup(cgroup: &Path) -> io::Result<()> {
    for entry in fs::read_dir(cgroup)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_cgroup(&entry.path())?;
        }
    }
    fs::remove_dir(cgroup)
}

/// Says once, past the capture of test output, that machines are left out.
fn skip(why: &str) {
    let _ = writeln!(io::stderr(), "skipped: the tests on a booted systemd, and with its Redis: {why}");
}

/// `make install` as a packager does it.
fn install(destination: &Path, prefix: &str, programs: &Path) {
    let status = Command::new("systemd/install.sh")
        .arg("install")
        .env("DESTDIR", destination)
        .env("PREFIX", prefix)
        .env("BUILD", programs)
        .status();
    assert!(status.expect("a shell").success());
}

/// Writes a file below a folder.
pub(crate) fn put(below: &Path, path: &str, text: &str) {
    let path = below.join(path.trim_start_matches('/'));
    fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
    fs::write(path, text).expect("a file");
}

/// What an administrator sets up: a Redis on a unix socket for its group, and who is in the group.
fn configure(changes: &Path, root: &Path) {
    let redis = fs::read_to_string(root.join("etc/redis/redis.conf")).expect("redis is there");
    let socket = "unixsocket /run/redis/redis-server.sock\nunixsocketperm 770\n";
    put(changes, "etc/redis/redis.conf", &format!("{redis}\n{socket}"));
    put(changes, "etc/abukiks/abukiks.env", "REDIS_URL=unix:///run/redis/redis-server.sock\n");
    put(
        changes,
        "etc/systemd/system/abukiks@.service.d/redis-group.conf",
        "[Service]\nSupplementaryGroups=redis\n",
    );
    // There for its program alone (see `server`): as a service it would want the port of Redis.
    let masked = changes.join("etc/systemd/system/valkey-server.service");
    symlink("/dev/null", masked).expect("a folder");
}

/// How to run a program of the machines without one: by their loader, with their libraries. `None`,
/// after a line that says why, where that cannot be.
pub(crate) fn server(name: &str) -> Option<Vec<String>> {
    let parts = parts()?;
    let libraries = fs::read_dir(parts.root.join("usr/lib")).expect("a root folder");
    let libraries = libraries.filter_map(|entry| Some(entry.ok()?.path()));
    let loader = libraries.filter_map(|folder| {
        let mut files = fs::read_dir(folder).ok()?.flatten();
        files.find(|file| file.file_name().as_encoded_bytes().starts_with(b"ld-linux"))
    });
    // Beside the libraries of its architecture.
    let loader = loader
        .map(|file| file.path())
        .find(|path| path.parent().is_some_and(|folder| folder.join("libc.so.6").exists()))
        .expect("the loader is part of the C library");
    let folder = loader.parent().expect("a folder");
    let program = parts.root.join("usr/bin").join(name);
    let words = [&loader, Path::new("--library-path"), folder, &program];
    Some(words.map(|word| word.display().to_string()).to_vec())
}

fn parts() -> Option<&'static Parts> {
    match PARTS.get_or_init(|| Parts::obtain().inspect_err(|why| skip(why))) {
        Ok(parts) => Some(parts),
        Err(why) => {
            let on_ci = std::env::var("CI").is_ok_and(|ci| ci == "true");
            assert!(!on_ci, "cannot test systemd here: {why}");
            None
        }
    }
}

impl Parts {
    fn obtain() -> Result<Self, String> {
        let cache = root_folder::cache(&TOOLS)?;
        // Only the tests that want a proxy start it.
        let hook =
            "--customize-hook=chroot \"$1\" systemctl --quiet disable nginx haproxy prometheus rsyslog";
        let root = root_folder::make(&cache, SUITE, PACKAGES, Some(hook))
            .map_err(|error| format!("no {SUITE} root: {error}"))?;
        let programs = strip().map_err(|error| format!("no programs: {error}"))?;
        Ok(Self { root, programs, cache })
    }
}

/// Copies the programs under test without their debug symbols.
fn strip() -> io::Result<PathBuf> {
    let programs = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("stripped");
    fs::create_dir_all(&programs)?;
    for program in [
        env!("CARGO_BIN_EXE_abukiks"),
        env!("CARGO_BIN_EXE_reset-count"),
        env!("CARGO_BIN_EXE_show-count"),
        env!("CARGO_BIN_EXE_check-redis"),
        env!("CARGO_BIN_EXE_top"),
    ] {
        let program = Path::new(program);
        let stripped = programs.join(program.file_name().unwrap_or_default());
        let newer = |file: &Path| fs::metadata(file).map(|file| (file.mtime(), file.mtime_nsec()));
        if newer(&stripped).is_ok_and(|stripped| newer(program).is_ok_and(|made| stripped > made)) {
            continue;
        }
        let status = Command::new("strip").arg("-o").arg(&stripped).arg(program).status()?;
        if !status.success() {
            return Err(io::Error::other(format!("strip: {status}")));
        }
    }
    Ok(programs)
}

impl Machine {
    /// The programs under test, as they were installed.
    pub(crate) fn programs(&self) -> &Path {
        match PARTS.get() {
            Some(Ok(parts)) => &parts.programs,
            _ => unreachable!("this machine was made of them"),
        }
    }
}
