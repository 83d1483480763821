//! `make run`: one command from a clone to a counted visit, and nothing stays behind.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use rustix::process::{Pid, Signal};
use tempfile::TempDir;

use crate::support::{Process, Redis, Service, eventually, held_socket};

/// A clone, as far as `make run` needs one, in a folder with a name that breaks careless scripts:
/// too long for a unix socket, with what a shell, a URL and make take for something special.
struct Clone {
    folder: PathBuf,
    _parent: TempDir,
}

impl Clone {
    fn new() -> Self {
        let parent = tempfile::tempdir().expect("a folder");
        let folder = parent.path().join("it's $5 & 20% = #1; ".repeat(6));
        fs::create_dir_all(folder.join("dev")).expect("a folder");
        for file in ["Makefile", "dev/needs.sh", "dev/run.sh"] {
            let original = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
            fs::copy(original, folder.join(file)).expect("a copy");
        }
        Self { folder, _parent: parent }
    }

    /// `make run` on a free port, as a terminal starts it: at the head of a process group, and heeding
    /// Ctrl-C, also where the tests do not.
    fn make_run(&self, settings: &[(&str, &str)]) -> Command {
        let mut make = Command::new("env");
        make.args(["--default-signal=INT", "make", "run"]).current_dir(&self.folder).env_clear();
        for name in ["PATH", "HOME", "CARGO_HOME", "RUSTUP_HOME"] {
            make.envs(std::env::var_os(name).map(|value| (name, value)));
        }
        make.env("ABUKIKS_PROGRAM", env!("CARGO_BIN_EXE_abukiks"))
            .env("PORT", "0")
            .envs(settings.iter().copied())
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0);
        make
    }

    /// Starts it, and waits until it says where to look.
    fn run(&self, settings: &[(&str, &str)]) -> Running {
        let mut service = Service::from_command(self.make_run(settings));
        let said = service.log_line("Abukiks answers at ");
        assert!(said.contains(&format!("http://{}/", service.address)), "not where it listens: {said}");
        Running(service)
    }

    /// Runs it to an end that is expected to come by itself.
    fn fail(&self, settings: &[(&str, &str)]) -> Output {
        let mut make = self.make_run(settings);
        make.stderr(Stdio::piped()).output().expect("make")
    }

    /// The environment that the service would get, and what is said of `.env`.
    fn settings(&self) -> (String, String) {
        // In place of the service: writes its environment down, and refuses to start.
        self.write("stub", "#!/bin/sh\nenv -0 >environment\nexit 78\n");
        let stub = self.folder.join("stub");
        fs::set_permissions(&stub, fs::Permissions::from_mode(0o755)).expect("a mode");
        let output = self.fail(&[("ABUKIKS_PROGRAM", stub.to_str().expect("text"))]);
        let environment = fs::read_to_string(self.folder.join("environment")).expect("written");
        (environment, text(&output))
    }

    fn write(&self, file: &str, content: &str) {
        fs::write(self.folder.join(file), content).expect("a file");
    }

    fn has(&self, file: &str) -> bool {
        self.folder.join(file).exists()
    }
}

/// A `make run` at work; its process is make.
struct Running(Service);

impl Running {
    fn visit(&self) -> i64 {
        self.0.get("/").number()
    }

    /// What an admin process says that is started as `make run` shows.
    fn admin(&mut self, words: &str) -> String {
        let shown = self.0.log_line("show-count");
        let command = shown.replace("show-count", words);
        let output = Command::new("bash").args(["-c", &command]).output();
        String::from_utf8(output.expect("a shell").stdout).expect("text")
    }

    /// Every process that it consists of.
    fn processes(&self) -> Vec<Pid> {
        let mut found = vec![self.0.process.pid()];
        let mut next = 0;
        while let Some(parent) = found.get(next).copied() {
            let parent = parent.as_raw_nonzero();
            let children = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children"));
            let children = children.unwrap_or_default();
            found.extend(children.split_whitespace().filter_map(|pid| Pid::from_raw(pid.parse().ok()?)));
            next += 1;
        }
        found
    }

    fn process(&self, name: &str) -> Option<Pid> {
        // The kernel keeps 15 bytes of it.
        let name = &name[..name.len().min(15)];
        self.processes().into_iter().find(|pid| {
            let comm = fs::read_to_string(format!("/proc/{}/comm", pid.as_raw_nonzero()));
            comm.is_ok_and(|comm| comm.trim_end() == name)
        })
    }

    /// Ctrl-C: SIGINT to each process of the group.
    fn ctrl_c(&self) {
        rustix::process::kill_process_group(self.0.process.pid(), Signal::INT).expect("a group");
    }

    /// Ctrl-C, then waits until everything has ended.
    fn end(self) {
        let processes = self.processes();
        self.ctrl_c();
        drop(self.0.whole_log());
        wait_for_the_end_of(&processes);
    }
}

fn kill(processes: &[Pid]) {
    for &pid in processes {
        // It may have ended because another one did.
        let _ = rustix::process::kill_process(pid, Signal::KILL);
    }
}

/// A process that stands still, until this is dropped.
struct Stopped(Pid);

impl Stopped {
    fn new(pid: Pid) -> Self {
        rustix::process::kill_process(pid, Signal::STOP).expect("it runs");
        Self(pid)
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        // It has been told to end meanwhile, and does so now.
        let _ = rustix::process::kill_process(self.0, Signal::CONT);
    }
}

fn wait_for_the_end_of(processes: &[Pid]) {
    for pid in processes {
        eventually(&format!("process {pid:?} ends"), || {
            let stat = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero()));
            // Gone, or waiting for its parent to take notice.
            (!stat.is_ok_and(|stat| !stat.contains(") Z "))).then_some(())
        });
    }
}

fn text(output: &Output) -> String {
    let all = [&output.stdout[..], &output.stderr].concat();
    String::from_utf8(all).expect("text")
}

#[test]
fn make_run_answers_with_a_real_count_and_keeps_it_for_the_next_time() {
    let clone = Clone::new();
    let mut run = clone.run(&[]);
    assert_eq!([run.visit(), run.visit()], [1, 2]);
    assert_eq!(run.admin("show-count"), "2\n");
    run.end();
    let run = clone.run(&[]);
    assert_eq!(run.visit(), 3);
    run.end();
}

/// Factor X: what counts on a laptop is what counts in the tests, kept as production keeps it.
#[test]
fn the_redis_of_make_run_is_that_of_the_tests_and_as_durable_as_production_wants() {
    let executable =
        |pid: Pid| fs::read_link(format!("/proc/{}/exe", pid.as_raw_nonzero())).expect("a program");
    let clone = Clone::new();
    let mut run = clone.run(&[]);
    let redis = run.process("redis-server").expect("a Redis of its own");
    let of_the_tests = Redis::start();
    assert_eq!(executable(redis), executable(of_the_tests.process().pid()));
    let checked = run.admin("check-redis --json");
    assert!(checked.contains("\"durable\":true"), "{checked}");
    run.end();
}

#[test]
fn ctrl_c_drains_the_service_before_redis_stops() {
    let clone = Clone::new();
    let mut run = clone.run(&[("DRAIN_TIMEOUT", "1m"), ("HEADER_TIMEOUT", "1m")]);
    let processes = run.processes();
    assert!(run.process("redis-server").is_some());
    let mut late = run.0.connect();
    late.send("GET / HTTP/1.1\r\nHost: te").expect("a socket");
    // What was sent is read before the signal that comes after it.
    run.visit();
    run.ctrl_c();
    run.0.log_line("\"draining\"");
    let answer = late.exchange("st\r\n\r\n").expect("an answer");
    assert_eq!(answer.number(), 2);
    let log = run.0.whole_log();
    let place = |text: &str| log.iter().position(|line| line.contains(text));
    assert!(place("\"drained\"") < place("Redis has stopped"), "{log:#?}");
    assert!(!log.iter().any(|line| line.contains("at once")), "{log:#?}");
    wait_for_the_end_of(&processes);
    assert!(!clone.has(".run/redis.sock"));
}

#[test]
fn sigterm_ends_it_as_ctrl_c_does() {
    let clone = Clone::new();
    let run = clone.run(&[]);
    let processes = run.processes();
    run.0.process.signal(Signal::TERM);
    let log = run.0.whole_log();
    assert!(log.iter().any(|line| line.contains("\"drained\"")));
    wait_for_the_end_of(&processes);
}

#[test]
fn whichever_process_is_killed_the_others_end_too() {
    // The first bash is the script itself.
    for name in ["make", "bash", "abukiks", "redis-server"] {
        let clone = Clone::new();
        let run = clone.run(&[]);
        let processes = run.processes();
        kill(&[run.process(name).expect("one of them")]);
        wait_for_the_end_of(&processes);
    }
}

#[test]
fn it_runs_again_after_everything_was_killed_and_counts_on() {
    let clone = Clone::new();
    let run = clone.run(&[]);
    assert_eq!(run.visit(), 1);
    let redis = run.process("redis-server");
    let mut all_but_redis = run.processes();
    all_but_redis.retain(|&pid| Some(pid) != redis);
    kill(&all_but_redis);

    let run = clone.run(&[]);
    assert_eq!(run.visit(), 2);
    kill(&run.processes());
    assert!(clone.has(".run/redis.sock"), "no process was left to remove it");

    let run = clone.run(&[]);
    assert_eq!(run.visit(), 3);
    run.end();
}

/// Two of them on the same data would spoil it.
#[test]
fn a_redis_of_an_earlier_run_has_ended_before_the_next_one_starts() {
    let clone = Clone::new();
    let mut run = clone.run(&[]);
    assert_eq!(run.visit(), 1);
    let mut rest = run.processes();
    let redis = run.process("redis-server").expect("a Redis of its own");
    rest.retain(|&pid| pid != redis);
    let stopped = Stopped::new(redis);
    kill(&rest);

    let output = clone.folder.join("output");
    let mut make = clone.make_run(&[]);
    let mut make = Process::spawn(make.stdout(fs::File::create(&output).expect("a file")));
    let says = |text: &str| {
        eventually(text, || {
            let said = fs::read_to_string(&output).expect("text");
            said.contains(text).then_some(())
        });
    };
    says("Waiting for the processes of an earlier make run");
    assert!(!make.has_ended());
    drop(stopped);
    says("Abukiks answers at ");
    assert_eq!(run.admin("show-count"), "1\n");
    make.signal(Signal::TERM);
    make.wait();
}

#[test]
fn a_port_that_is_taken_gives_one_clear_line_and_starts_nothing() {
    let taken = held_socket();
    let port = taken.local_addr().expect("an address").port().to_string();
    let clone = Clone::new();
    let output = clone.fail(&[("PORT", &port)]);
    assert!(!output.status.success());
    let said = text(&output);
    let said: Vec<_> = said.lines().filter(|line| !line.starts_with("make: ")).collect();
    assert_eq!(said.len(), 1, "{said:?}");
    assert!(said[0].contains(&format!("127.0.0.1:{port}")), "{said:?}");
    assert!(!clone.has(".run/redis.log"), "Redis was started");
}

#[test]
fn a_second_one_in_the_same_folder_gives_one_clear_line() {
    let clone = Clone::new();
    let run = clone.run(&[]);
    let output = clone.fail(&[]);
    assert!(!output.status.success());
    assert!(text(&output).contains("make run is already at work in this folder"));
    assert_eq!(run.visit(), 1, "the first one is undisturbed");
    run.end();
}

#[test]
fn a_wrong_setting_is_named_and_starts_nothing() {
    let clone = Clone::new();
    clone.write(".env", "LOG_LEVEL=loud\n");
    let output = clone.fail(&[]);
    assert!(!output.status.success());
    assert!(text(&output).contains("LOG_LEVEL=\"loud\""));
    assert!(!clone.has(".run/redis.log"), "Redis was started");
}

#[test]
fn settings_come_from_dot_env_and_the_environment_is_stronger() {
    let clone = Clone::new();
    clone.write(
        ".env",
        "# for me\nRELEASE=of the file\nUID=a variable of the shell\nCOUNTER_KEY='my $HOME, \"visits\" #1'\n",
    );
    let mut run = clone.run(&[("RELEASE", "of the environment")]);
    let version = run.0.get("/version").body;
    assert!(version.contains("of the environment"), "{version}");
    assert_eq!(run.visit(), 1);
    assert_eq!(run.admin("show-count"), "1\n");
    run.end();

    let run = clone.run(&[]);
    let version = run.0.get("/version").body;
    assert!(version.contains("of the file"), "{version}");
    run.end();
}

/// The lines and their meaning are those of systemd's `EnvironmentFile` (systemd.exec(5)).
#[test]
fn dot_env_means_what_it_means_to_systemd() {
    let cases = [
        ("A=plain", "plain"),
        ("B =  spaces within   and around \t", "spaces within   and around"),
        ("C=$HOME `id` $(id) * # stays", "$HOME `id` $(id) * # stays"),
        ("D=\"double $x \\\"quoted\\\" \\$ \\\\ \\n # \"", "double $x \"quoted\" $ \\ \\n # "),
        ("E='single $x \\ \" # '", "single $x \\ \" # "),
        ("F=joined \\\nlines", "joined lines"),
        ("G=\"two\nlines\"", "two\nlines"),
        ("H=it's", "it's"),
        ("I=\"x\"  'y'z", "xyz"),
        ("J=trailing\\ ", "trailing "),
        ("K=redis://user:p%40ss=w@host/?a=b", "redis://user:p%40ss=w@host/?a=b"),
        ("L=", ""),
        ("M=the first\nM=the last", "the last"),
        ("# N=no\n; N=no\n   #N=no\nN\nN=yes", "yes"),
        ("O=grüße", "grüße"),
        ("Z=no newline at the end", "no newline at the end"),
    ];
    let clone = Clone::new();
    clone.write(".env", &cases.map(|(line, _)| line).join("\n"));
    let (environment, _) = clone.settings();
    for (line, meaning) in cases {
        let name = line.trim_start_matches(['#', ';', ' ']).split(['=', ' ']).next();
        let expected = format!("{}={meaning}", name.expect("a name"));
        assert!(
            environment.split('\0').any(|entry| entry == expected),
            "{line:?} should mean {expected:?}:\n{environment}"
        );
    }
}

#[test]
fn dot_env_is_read_as_editors_save_it_and_shells_read_it() {
    let clone = Clone::new();
    let content = "\u{feff}RELEASE=mine\r\n# a comment\r\nexport BADGE_LABEL=me\r\nexport\tA = \"two\r\nlines\"\r\n\
        B=joined \\\r\nlines\r\nexported=C\r\n\r\nsecret words\r\nwhat secret=D\r\nLOG_LEVEL";
    clone.write(".env", content);
    let (environment, said) = clone.settings();
    let entries: Vec<_> = environment.split('\0').collect();
    for expected in ["RELEASE=mine", "BADGE_LABEL=me", "A=two\nlines", "B=joined lines", "exported=C"] {
        assert!(entries.contains(&expected), "{expected:?}:\n{environment}");
    }
    let warnings: Vec<_> = said.lines().filter(|line| line.starts_with(".env")).collect();
    assert_eq!(
        warnings,
        [
            ".env, line 10, has no = and is ignored",
            ".env, line 11, begins with no name of a variable and is ignored",
            ".env, line 12, has no = and is ignored",
        ]
    );
    assert!(!said.contains("secret"), "{said}");
}

#[test]
fn what_a_build_leaves_behind_is_not_taken_for_an_earlier_run() {
    let clone = Clone::new();
    // As cargo does that starts a compiler cache's server.
    let built = env!("CARGO_BIN_EXE_abukiks");
    clone.write(
        "cargo",
        &format!(
            "#!/bin/sh\nsetsid sleep 60 >&- 2>&- &\necho $! >server\necho '{{\"executable\":\"{built}\"}}'\n"
        ),
    );
    fs::set_permissions(clone.folder.join("cargo"), fs::Permissions::from_mode(0o755)).expect("a mode");
    let path = format!(".:{}", std::env::var("PATH").expect("a path"));
    let servers = [1, 2].map(|visit| {
        let run = clone.run(&[("ABUKIKS_PROGRAM", ""), ("PATH", &path)]);
        assert_eq!(run.visit(), visit);
        run.end();
        let server = fs::read_to_string(clone.folder.join("server")).expect("written");
        Pid::from_raw(server.trim().parse().expect("a number")).expect("a pid")
    });
    kill(&servers);
}

#[test]
fn with_a_redis_url_it_uses_that_redis_and_starts_none() {
    let redis = Redis::start();
    for in_file in [false, true] {
        let clone = Clone::new();
        let url = redis.url();
        let mut settings = vec![("REDIS_URL", &*url)];
        if in_file {
            settings.clear();
            clone.write(".env", &format!("REDIS_URL=\"{url}\""));
        }
        let run = clone.run(&settings);
        assert_eq!(run.visit(), redis.count());
        assert_eq!(run.process("redis-server"), None);
        run.end();
        assert!(!clone.has(".run/redis.log"), "Redis was started");
    }
    assert_eq!(redis.count(), 2);
}
