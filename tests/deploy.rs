//! One build goes to each deploy: `make deploy` puts a release onto a host by ssh and checks it, and
//! `make rollback` takes it back.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;

use crate::load::Load;
use crate::machine::Machine;
use crate::packages::{self, Releases, SETTINGS, VERSIONS};

/// A machine that is reached by ssh, as root and as a user who may use sudo.
struct Host {
    machine: Machine,
    known: String,
    key: String,
    releases: &'static Releases,
}

const USER: &str = "deploy@127.0.0.1";
const ROOT: &str = "root@127.0.0.1";

impl Host {
    fn boot() -> Option<Self> {
        let releases = packages::debs();
        let machine = releases.boot("trixie")?;
        let folder = tempfile::tempdir().expect("a folder");
        let key = folder.path().join("key");
        let made =
            Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(&key).status();
        assert!(made.expect("ssh-keygen is there").success());
        let public = fs::read_to_string(key.with_extension("pub")).expect("a key");
        machine.run(&["useradd", "--create-home", "--shell", "/bin/sh", "deploy"]);
        machine.write("/etc/sudoers.d/deploy", "deploy ALL=(root) NOPASSWD: ALL\n");
        for home in ["/root", "/home/deploy"] {
            machine.write(&format!("{home}/.ssh/authorized_keys"), &public);
        }
        machine.run(&["chown", "--recursive", "deploy:", "/home/deploy/.ssh"]);
        let host_key = machine.run(&["cat", "/etc/ssh/ssh_host_ed25519_key.pub"]);
        let key = fs::read_to_string(key).expect("a key");
        Some(Self { machine, known: format!("127.0.0.1 {host_key}"), key, releases })
    }

    fn package(&self, index: usize) -> PathBuf {
        self.releases.folder.join(&self.releases.names[index])
    }

    /// From outside the machine, in its network.
    fn command(&self, words: &[&str]) -> Output {
        let mut command = Command::new(words[0]);
        command.args(&words[1..]).envs([("SSH_KEY", &self.key), ("SSH_KNOWN_HOSTS", &self.known)]);
        command.output().expect("it is there")
    }

    fn try_deploy(&self, package: &Path) -> Output {
        self.command(&["dev/deploy.sh", "deploy", &package.display().to_string(), USER])
    }

    /// `make` with these arguments, which must succeed. Returns what it prints.
    fn make(&self, arguments: &[&str]) -> String {
        let output = self.command(&[&["make", "--no-print-directory"], arguments].concat());
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8(output.stdout).expect("text")
    }

    fn installed(&self) -> String {
        self.machine.run(&["abukiks", "--version"])
    }
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn one_command_deploys_a_release_under_load_and_one_takes_it_back() {
    let Some(host) = Host::boot() else {
        return;
    };
    // The first deploy of a host: no instance listens yet, and the error says how to start one.
    let first = host.try_deploy(&host.package(0));
    assert_eq!(first.status.code(), Some(69), "{first:?}");
    assert!(said(&first).contains("systemctl enable --now abukiks@5001.socket"), "{first:?}");
    host.machine.write(SETTINGS, "COUNTER_KEY=own\n");
    // One that listens at all addresses, and one with a port for monitoring.
    host.machine.systemctl(&["enable", "--now", "abukiks@5001.socket", "abukiks@5002.socket"]);
    host.machine.systemctl(&["enable", "--now", "abukiks-monitor@5002.socket"]);

    let package = |index| format!("PACKAGE={}", host.package(index).display());
    let made = host.make(&["deploy", &package(0), &format!("HOST={USER}")]);
    for instance in ["abukiks@5001.socket: Welcome", "abukiks@5002.socket: Welcome"] {
        assert!(made.contains(instance), "{made}");
    }

    let load = Load::start(&[5001], 4);
    load.wait_for(100);
    let made = host.make(&["deploy", &package(1), &format!("HOST={USER}")]);
    assert!(made.contains(&format!("runs abukiks {}", VERSIONS[1])), "{made}");
    assert_eq!(packages::version(&host.machine), VERSIONS[1]);
    load.wait_for(100);
    host.make(&["rollback", &format!("HOST={ROOT}")]);
    assert_eq!(packages::version(&host.machine), VERSIONS[0]);
    load.wait_for(100);
    let tally = load.stop();
    assert!(tally.is_flawless(), "{tally}");
    assert!(tally.is_unique());
    assert_eq!(host.machine.run(&["cat", SETTINGS]), "COUNTER_KEY=own\n");

    let further = host.command(&["dev/deploy.sh", "rollback", ROOT]);
    assert_eq!(further.status.code(), Some(66), "{further:?}");
    assert!(said(&further).contains("no release before this one"), "{further:?}");
}

#[test]
fn a_failed_check_is_named_and_rollback_installs_the_last_release_that_passed() {
    let Some(host) = Host::boot() else {
        return;
    };
    assert_eq!(host.try_deploy(&host.package(0)).status.code(), Some(69), "no instance yet");
    host.machine.systemctl(&["enable", "--now", "abukiks@5001.socket"]);
    let good = host.try_deploy(&host.package(0));
    assert!(good.status.success(), "{good:?}");

    host.machine.systemctl(&["stop", "redis-server"]);
    let bad = host.try_deploy(&host.package(1));
    assert_eq!(bad.status.code(), Some(69), "{bad:?}");
    assert!(said(&bad).contains("abukiks@5001.socket: check-redis refuses"), "{bad:?}");
    assert!(host.installed().contains(VERSIONS[1]));
    host.machine.systemctl(&["start", "redis-server"]);
    host.make(&["rollback", &format!("HOST={USER}")]);
    assert!(host.installed().contains(VERSIONS[0]));
}

#[test]
fn nothing_is_deployed_but_files_of_the_release_and_to_hosts_that_are_known() {
    let Some(mut host) = Host::boot() else {
        return;
    };
    let release = TempDir::new().expect("a folder");
    let package = release.path().join(&host.releases.names[0]);
    fs::copy(host.package(0), &package).expect("a copy");
    let sum = "0".repeat(64);
    fs::write(release.path().join("SHA256SUMS"), format!("{sum}  {}\n", host.releases.names[0]))
        .expect("a file");
    let other = host.try_deploy(&package);
    assert_eq!(other.status.code(), Some(65), "{other:?}");
    assert!(said(&other).contains("does not have the sum"), "{other:?}");

    host.known = host.known.replace("AAAA", "AAAB");
    let unknown = host.try_deploy(&host.package(0));
    assert_eq!(unknown.status.code(), Some(255), "{unknown:?}");
    assert!(!host.machine.try_run(&["dpkg", "--status", "abukiks"]).status.success());
}
