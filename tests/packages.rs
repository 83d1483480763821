//! Packages for those who build nothing: installed by the tools of the distribution in machines that have
//! just booted, upgraded under load, and gone without a trace.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use serde_json::Value;

use crate::load::{self, Load, Wrk};
use crate::machine::Machine;
use crate::podman::Podman;
use crate::systemd::backups::attached;
use crate::systemd::{NEXT, next_release};

pub(crate) const NAMES: [&str; 5] = ["abukiks", "reset-count", "show-count", "check-redis", "top"];

/// Those of admin/attached.
const ATTACHED: [&str; 3] = ["backup-count", "restore-count", "mail-report"];

/// What dev/package.sh packs: the service, and beside it what other attached resources need.
const PARTS: [&str; 2] = ["service", "attached"];

/// All that dev/package.sh makes of the programs for one machine.
const FORMATS: [&str; 6] = ["deb", "rpm", "tar", "image", "sbom", "image-sbom"];

const DEBIANS: [&str; 2] = ["bookworm", "trixie"];

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("dev").join(name)
}

fn succeed(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {output:?}");
    String::from_utf8(output.stdout).expect("text")
}

/// Static programs, as those of a release are, but built in less time.
fn programs() -> &'static Path {
    static PROGRAMS: OnceLock<PathBuf> = OnceLock::new();
    PROGRAMS.get_or_init(|| {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("static");
        succeed(Command::new(script("static-for-test.sh")).arg(&folder));
        folder
    })
}

/// Packs programs into a folder.
fn pack(programs: &Path, version: &str, folder: &Path, format: &str) -> PathBuf {
    pack_part("service", programs, version, folder, format)
}

fn pack_part(part: &str, programs: &Path, version: &str, folder: &Path, format: &str) -> PathBuf {
    let mut command = Command::new(script("package.sh"));
    command.arg(programs).arg(folder).arg(format).envs([("VERSION", version), ("PART", part)]);
    // Programs of a debug build are large: in less time, to more bytes.
    succeed(command.env("DPKG_DEB_COMPRESSOR_LEVEL", "1"));
    let mut files = fs::read_dir(folder).expect("a folder").flatten().map(|file| file.path());
    let end = format!(".{format}");
    let made = files.find(|file| {
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        name.contains(version) && name.ends_with(&end)
    });
    made.expect("it makes a package")
}

/// This release and the next as packages.
#[derive(Debug)]
pub(crate) struct Releases {
    pub(crate) folder: PathBuf,
    pub(crate) names: [String; 2],
}

/// Debian's packages, which most tests are about.
pub(crate) fn debs() -> &'static Releases {
    static DEBS: OnceLock<Releases> = OnceLock::new();
    DEBS.get_or_init(|| Releases::pack("deb"))
}

pub(crate) const VERSIONS: [&str; 2] = [env!("CARGO_PKG_VERSION"), NEXT];

impl Releases {
    fn pack(format: &str) -> Self {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format);
        let next = next_release(programs());
        let [this, next] = [(programs(), VERSIONS[0]), (next.path(), VERSIONS[1])]
            .map(|(programs, version)| pack(programs, version, &folder, format));
        let name = |path: PathBuf| path.file_name().expect("a name").to_string_lossy().into_owned();
        Self { folder, names: [name(this), name(next)] }
    }

    /// Boots a machine that has the packages in /srv.
    pub(crate) fn boot(&self, suite: &str) -> Option<Machine> {
        Machine::boot_plain(suite, |changes| {
            let place = changes.join("srv");
            fs::create_dir_all(&place).expect("a folder");
            for name in &self.names {
                fs::copy(self.folder.join(name), place.join(name)).expect("a copy");
            }
        })
    }

    fn place(&self, index: usize) -> String {
        format!("/srv/{}", self.names[index])
    }
}

fn apt_install(machine: &Machine, package: &str) {
    let apt = ["env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "install", "--quiet", "--yes"];
    machine.run(&[&apt[..], &["--allow-downgrades", package]].concat());
}

fn rpm_install(machine: &Machine, package: &str) {
    // The machine is Debian's: what a package depends on is there, and rpm does not know of it.
    machine.run(&["rpm", "--upgrade", "--oldpackage", "--nodeps", package]);
}

pub(crate) const SETTINGS: &str = "/etc/abukiks/abukiks.env";

pub(crate) fn version(machine: &Machine) -> Value {
    let answer = machine.connect(5001).get("/version");
    let version: Value = serde_json::from_str(&answer.body).expect("JSON");
    version["version"].clone()
}

/// Upgrades to the next release and back again, while visitors come.
fn upgrade_and_go_back(machine: &Machine, releases: &Releases, install: fn(&Machine, &str)) {
    machine.write(SETTINGS, "COUNTER_KEY=own\n");
    machine.systemctl(&["enable", "--now", "abukiks@5001.socket"]);
    assert_eq!(machine.connect(5001).get("/").number(), 1);
    let socket = machine.show("abukiks@5001.socket", "InvocationID");
    let load = Load::start(&[5001], 4);
    let foreign = [true, false].map(|keep_alive| Wrk::start(5001, keep_alive));
    for index in [1, 0] {
        load.wait_for(100);
        install(machine, &releases.place(index));
        assert_eq!(version(machine), VERSIONS[index], "what runs is what is installed");
        assert_eq!(machine.run(&["cat", SETTINGS]), "COUNTER_KEY=own\n");
    }
    load.wait_for(100);
    let foreign = foreign.map(Wrk::stop);
    let tally = load.stop();
    assert!(tally.is_flawless(), "{tally}");
    assert!(tally.is_unique());
    for wrk in &foreign {
        assert!(load::is_flawless(wrk), "{wrk}");
    }
    assert_eq!(machine.show("abukiks@5001.socket", "InvocationID"), socket, "the port was never closed");
    // An instance that does not run is left alone.
    assert_eq!(machine.show("abukiks@5002", "ActiveState"), "inactive");
}

#[test]
fn a_debian_package_counts_after_one_line_of_configuration() {
    let releases = debs();
    for suite in DEBIANS {
        let Some(machine) = releases.boot(suite) else {
            return;
        };
        apt_install(&machine, &releases.place(0));
        assert_eq!(machine.show("abukiks@5001", "ActiveState"), "inactive", "nothing starts by itself");
        machine.run(&["sh", "-c", "echo REDIS_URL=redis://127.0.0.1/ >>/etc/abukiks/abukiks.env"]);
        machine.systemctl(&["start", "abukiks@5001"]);
        assert_eq!(machine.connect(5001).get("/").number(), 1, "{suite}");
        assert_eq!(machine.run(&["abukiks-admin", "show-count"]), "1\n");
        assert!(machine.exposure("abukiks@5001.service") <= 1.2);
    }
}

#[test]
fn upgrades_of_the_debian_package_lose_nothing_and_keep_the_settings() {
    let releases = debs();
    for suite in DEBIANS {
        let Some(machine) = releases.boot(suite) else {
            return;
        };
        apt_install(&machine, &releases.place(0));
        upgrade_and_go_back(&machine, releases, apt_install);
    }
}

/// All paths of the machine, but for what its tools write about what they have done.
fn paths(machine: &Machine) -> BTreeSet<String> {
    let paths = machine.run(&["find", "/etc", "/opt", "/root", "/srv", "/usr", "/var"]);
    let logs = ["/var/log/", "/var/cache/", "/var/lib/dpkg/", "/var/lib/apt/", "/var/lib/redis/"];
    let counts = |path: &&str| !logs.iter().any(|log| path.starts_with(log));
    paths.lines().filter(counts).map(str::to_owned).collect()
}

#[test]
fn purge_leaves_nothing_of_the_debian_package() {
    let releases = debs();
    for suite in DEBIANS {
        let Some(machine) = releases.boot(suite) else {
            return;
        };
        machine.run(&["mkdir", "-p", "/etc/credstore"]);
        let before = paths(&machine);
        apt_install(&machine, &releases.place(0));
        machine.systemctl(&["enable", "abukiks-monitor@5001.socket", "abukiks.target"]);
        machine.systemctl(&["enable", "--now", "abukiks@5001.socket", "abukiks@5001.service"]);
        machine.write("/etc/abukiks/5001.env", "COUNTER_KEY=own\n");
        machine.write("/etc/credstore/abukiks.redis-url", "redis://127.0.0.1/");
        machine.drop_in("abukiks@.service", "[Service]\nMemoryMax=100M\n");
        assert_eq!(machine.connect(5001).get("/").number(), 1);
        assert_eq!(machine.connect(15001).get("/healthz").status, 200);

        machine.run(&["apt-get", "remove", "--quiet", "--yes", "abukiks"]);
        assert!(std::net::TcpStream::connect(("127.0.0.1", 5001)).is_err(), "its port is closed");
        assert_eq!(machine.run(&["cat", "/etc/abukiks/5001.env"]), "COUNTER_KEY=own\n");
        machine.run(&["apt-get", "purge", "--quiet", "--yes", "abukiks"]);
        let left: Vec<_> = paths(&machine).difference(&before).cloned().collect();
        assert_eq!(left, Vec::<String>::new(), "{suite}");
        let units = machine.run(&["systemctl", "list-units", "--all", "--plain", "--no-legend", "*abukiks*"]);
        assert_eq!(units, "", "{suite}");
    }
}

#[test]
fn lintian_finds_nothing_in_the_debian_packages() {
    let folder = tempfile::tempdir().expect("a folder");
    // What is static, as in a release; that it is another program is nothing to lintian.
    for name in ATTACHED {
        fs::copy(programs().join("top"), folder.path().join(name)).expect("a copy");
    }
    let attached = pack_part("attached", folder.path(), VERSIONS[0], folder.path(), "deb");
    let service = debs().folder.join(&debs().names[0]);
    let output =
        Command::new("lintian").args(["--fail-on", "error,warning"]).args([service, attached]).output();
    let output = output.expect("lintian is there");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    assert!(output.stdout.is_empty(), "{}", String::from_utf8_lossy(&output.stdout));
}

#[test]
fn the_package_for_other_attached_resources_backs_up_beside_the_service_and_goes() {
    let (releases, folder) = (debs(), tempfile::tempdir().expect("a folder"));
    let package = pack_part("attached", attached(), VERSIONS[0], folder.path(), "deb");
    let Some(machine) = releases.boot("trixie") else {
        return;
    };
    fs::copy(&package, machine.file("/srv/attached.deb")).expect("a copy");
    apt_install(&machine, &releases.place(0));
    assert!(!machine.run(&["dpkg", "--listfiles", "abukiks"]).contains("backup"), "the service is as it was");
    machine.write(SETTINGS, "REDIS_URL=redis://127.0.0.1/\n");
    machine.run(&["redis-cli", "SET", "visitorCount", "42"]);
    let before = paths(&machine);
    apt_install(&machine, "/srv/attached.deb");
    let off = machine.try_run(&["systemctl", "is-enabled", "abukiks-backup.timer", "abukiks-report.timer"]);
    assert_eq!(off.stdout, b"disabled\ndisabled\n");
    machine.write("/etc/abukiks/backup.env", "BACKUP_URL=file:///var/lib/abukiks-backups\n");
    machine.systemctl(&["enable", "--now", "abukiks-backup.timer"]);
    machine.systemctl(&["start", "abukiks-admin@backup-count"]);
    assert!(machine.run(&["abukiks-admin", "restore-count"]).ends_with("the count is 42 already\n"));

    machine.run(&["apt-get", "purge", "--quiet", "--yes", "abukiks-attached"]);
    assert_eq!(machine.show("abukiks-backup.timer", "ActiveState"), "inactive");
    let left: Vec<_> = paths(&machine).difference(&before).cloned().collect();
    let known = ["/abukiks-backups", "/etc/abukiks/backup.env", "/systemd/timers", "/var/lib/private"];
    let unknown: Vec<_> =
        left.iter().filter(|path| !known.iter().any(|known| path.contains(known))).collect();
    assert_eq!(unknown, Vec::<&String>::new());
    assert!(left.iter().any(|path| path.ends_with(".json")), "the backup is kept: {left:?}");
}

#[test]
fn the_rpm_package_for_other_attached_resources_needs_the_service_and_holds_nothing_of_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let programs = folder.path().join("programs");
    write_heads(&programs, X86_64);
    let package = pack_part("attached", &programs, VERSIONS[0], folder.path(), "rpm");
    let asked =
        |question: &str| succeed(Command::new("rpm").args(["--query", question, "--package"]).arg(&package));
    assert!(asked("--requires").contains(&format!("abukiks >= {}\n", VERSIONS[0])));
    let files = asked("--list");
    for file in [
        "/usr/libexec/abukiks/backup-count",
        "/usr/libexec/abukiks/mail-report",
        "/usr/lib/systemd/system/abukiks-backup.timer",
        "/usr/lib/systemd/system/abukiks-report.timer",
    ] {
        assert!(files.lines().any(|other| other == file), "{files}");
    }
    for other in ["/etc", "/bin/", "abukiks@.service"] {
        assert!(!files.contains(other), "{files}");
    }
}

#[test]
fn an_rpm_package_verifies_counts_upgrades_and_goes() {
    let releases = Releases::pack("rpm");
    let Some(machine) = releases.boot("bookworm") else {
        return;
    };
    let package = releases.place(0);
    machine.run(&["rpm", "--checksig", &package]);
    assert_eq!(
        machine.run(&["rpm", "--query", "--configfiles", "--package", &package]),
        format!("{SETTINGS}\n")
    );
    rpm_install(&machine, &package);
    assert_eq!(machine.run(&["rpm", "--verify", "--nodeps", "abukiks"]), "", "as the package says");
    upgrade_and_go_back(&machine, &releases, rpm_install);
    assert_eq!(machine.run(&["abukiks-admin", "show-count"]), machine.run(&["redis-cli", "GET", "own"]));

    machine.systemctl(&["enable", "abukiks-monitor@5001.socket"]);
    machine.run(&["rpm", "--erase", "abukiks"]);
    assert!(std::net::TcpStream::connect(("127.0.0.1", 5001)).is_err(), "its port is closed");
    let find = ["find", "/etc", "/usr", "-name", "*abukiks*"];
    // What the administrator wrote is kept.
    assert_eq!(machine.run(&find), "/etc/abukiks\n/etc/abukiks/abukiks.env.rpmsave\n");
}

/// Machines, as the head of an ELF file names them.
const X86_64: u8 = 0x3e;
const AARCH64: u8 = 0xb7;

/// As much of all programs as tells their machine.
fn write_heads(folder: &Path, machine: u8) -> Vec<PathBuf> {
    let head = [&b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x03\0"[..], &[machine, 0]].concat();
    fs::create_dir_all(folder).expect("a folder");
    let programs: Vec<_> = NAMES.into_iter().chain(ATTACHED).map(|name| folder.join(name)).collect();
    for program in &programs {
        fs::write(program, &head).expect("a file");
        succeed(Command::new("chmod").arg("755").arg(program));
    }
    programs
}

/// What is made of programs with these surroundings, by its name.
fn made(umask: &str, zone: &str, mtime: &str) -> BTreeMap<OsString, Vec<u8>> {
    let folder = tempfile::Builder::new().prefix(zone.split('/').next().expect("a word")).tempdir();
    let folder = folder.expect("a folder");
    let (programs, made) = (folder.path().join("programs"), folder.path().join("made"));
    for machine in [X86_64, AARCH64] {
        succeed(Command::new("touch").args(["--date", mtime]).args(write_heads(&programs, machine)));
        for part in PARTS {
            let command = format!("umask {umask} && exec \"$@\"");
            succeed(
                Command::new("sh")
                    .args(["-c", &command, "sh"])
                    .arg(script("package.sh"))
                    .args([&programs, &made])
                    .args(FORMATS)
                    .envs([("TZ", zone), ("LOGNAME", zone), ("PART", part)])
                    .env("SOURCE_DATE_EPOCH", "1700000000"),
            );
        }
    }
    succeed(Command::new("packages/index.py").arg(&made));
    let files = fs::read_dir(&made).expect("a folder").flatten();
    files.map(|file| (file.file_name(), fs::read(file.path()).expect("a file"))).collect()
}

fn only_file(folder: &Path) -> PathBuf {
    let files: Vec<_> = fs::read_dir(folder).expect("a folder").flatten().collect();
    assert_eq!(files.len(), 1, "{files:?}");
    files[0].path()
}

#[test]
fn the_same_programs_give_the_same_bytes_wherever_they_are_packed() {
    let [first, second] = [("0022", "UTC", "2001-01-01"), ("0077", "Pacific/Kiritimati", "2026-02-03")]
        .map(|(umask, zone, mtime)| made(umask, zone, mtime));
    let each = 2 * FORMATS.len() + 1;
    assert_eq!(first.len(), PARTS.len() * each, "for two machines, and the index of images");
    assert!(first.keys().eq(second.keys()), "{:?}", second.keys());
    for (name, bytes) in first {
        assert!(second[&name] == bytes, "{} differs", name.display());
    }
}

#[test]
fn the_archive_of_programs_installs_itself() {
    let folder = tempfile::tempdir().expect("a folder");
    succeed(Command::new(script("package.sh")).arg(programs()).arg(folder.path()).arg("tar"));
    let archive = only_file(folder.path());
    succeed(
        Command::new("tar").args(["--extract", "--file"]).arg(&archive).arg("--directory").arg(folder.path()),
    );
    let name = archive.file_name().expect("a name").to_string_lossy().replace(".tar.gz", "");
    let unpacked = folder.path().join(name);
    let root = folder.path().join("root");
    succeed(
        Command::new("systemd/install.sh")
            .arg("install")
            .current_dir(&unpacked)
            .envs([("BUILD", "bin"), ("PREFIX", "/usr/local")])
            .env("DESTDIR", &root),
    );
    let said = succeed(Command::new(root.join("usr/local/bin/abukiks")).arg("--version"));
    assert!(said.starts_with(&format!("abukiks {} ", VERSIONS[0])), "{said}");
    // A static program asks for no loader.
    let headers = succeed(Command::new("readelf").arg("--program-headers").arg(unpacked.join("bin/abukiks")));
    assert!(!headers.contains("INTERP"), "{headers}");
}

#[test]
fn the_bill_of_materials_has_what_is_linked_with_the_checksums_of_cargo_lock() {
    let sbom =
        Command::new("packages/sbom.py").args(["x86_64-unknown-linux-musl", "."]).output().expect("python");
    assert!(sbom.status.success(), "{sbom:?}");
    let sbom: Value = serde_json::from_slice(&sbom.stdout).expect("JSON");
    assert_eq!(sbom["bomFormat"], "CycloneDX");
    assert_eq!(sbom["metadata"]["component"]["version"], VERSIONS[0]);
    let components = sbom["components"].as_array().expect("a list");
    let lock = fs::read_to_string("Cargo.lock").expect("Cargo.lock");
    for component in components {
        let text = |name: &str| component[name].as_str().expect("text");
        let checksum = component["hashes"][0]["content"].as_str().expect("text");
        let locked = lock.split("[[package]]").find(|package| {
            package.contains(&format!("\nname = \"{}\"\nversion = \"{}\"\n", text("name"), text("version")))
        });
        let locked = locked.expect("no crate but those of Cargo.lock");
        assert!(locked.contains(&format!("\nchecksum = \"{checksum}\"\n")), "{component}");
    }
    let has = |name: &str| components.iter().any(|component| component["name"] == name);
    for linked in ["hyper", "redis", "ring", "rustls", "tokio"] {
        assert!(has(linked), "{linked}");
    }
    // Of tests, of another system, and of the compiler alone.
    for other in ["proptest", "windows-sys", "serde_derive", "cc"] {
        assert!(!has(other), "{other}");
    }
}

#[test]
fn the_bill_of_materials_names_the_compiler_for_the_other_machine() {
    let tools = tempfile::tempdir().expect("a folder");
    let other = if cfg!(target_arch = "aarch64") { "x86_64" } else { "aarch64" };
    let compiler = tools.path().join(format!("{other}-linux-gnu-gcc"));
    fs::write(&compiler, "#!/bin/sh\necho cross 12.2\n").expect("a file");
    succeed(Command::new("chmod").arg("755").arg(&compiler));
    let path = format!("{}:{}", tools.path().display(), std::env::var("PATH").expect("a path"));
    for (machine, is_cross) in [(other, true), (std::env::consts::ARCH, false)] {
        let target = format!("{machine}-unknown-linux-musl");
        let sbom = succeed(Command::new("packages/sbom.py").args([&target, "."]).env("PATH", &path));
        assert_eq!(sbom.contains("\"value\": \"cross 12.2\""), is_cross, "{machine}");
    }
}

/// The schema of `CycloneDX` 1.5 judges it, where nothing may stand that it does not know.
const VALIDATE: &str = "\
import sys
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
sys.exit(JsonStrictValidator(SchemaVersion.V1_5).validate_str(sys.stdin.read()) and 1)
";

#[test]
fn bills_of_materials_are_cyclonedx_and_that_of_the_image_lists_its_files() {
    for (part, programs, name, program, linked) in [
        ("service", programs(), "abukiks", "abukiks", "hyper"),
        ("attached", attached(), "abukiks-attached", "mail-report", "lettre"),
    ] {
        let folder = tempfile::tempdir().expect("a folder");
        let formats = ["sbom", "image", "image-sbom"];
        let mut pack = Command::new(script("package.sh"));
        succeed(pack.arg(programs).arg(folder.path()).args(formats).env("PART", part));
        let files = fs::read_dir(folder.path()).expect("a folder").flatten().map(|file| file.path());
        let bills: Vec<_> = files.filter(|path| path.to_string_lossy().ends_with(".cdx.json")).collect();
        assert_eq!(bills.len(), 2, "{bills:?}");
        for path in &bills {
            let bill = fs::File::open(path).expect("a file");
            let mut python =
                Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join(".run/tools/bin/python"));
            succeed(python.args(["-c", VALIDATE]).stdin(bill));
        }
        let image =
            bills.iter().find(|path| path.to_string_lossy().contains("-image-")).expect("one of the image");
        let image: Value = serde_json::from_slice(&fs::read(image).expect("a file")).expect("JSON");
        let described = &image["metadata"]["component"];
        assert_eq!((&described["type"], &described["name"]), (&"container".into(), &name.into()));
        let sum = succeed(Command::new("sha256sum").arg(programs.join(program)));
        let components = image["components"].as_array().expect("a list");
        let path = format!("/bin/{program}");
        let listed = components.iter().find(|component| component["name"] == path).expect("its program");
        assert!(sum.starts_with(listed["hashes"][0]["content"].as_str().expect("text")), "{listed}");
        assert!(components.iter().any(|component| component["name"] == linked), "and what that is made of");
    }
}

#[test]
fn one_image_is_for_all_architectures_and_each_takes_its_own() {
    let folder = tempfile::tempdir().expect("a folder");
    for (name, bytes) in made("0022", "UTC", "2001-01-01") {
        fs::write(folder.path().join(name), bytes).expect("a file");
    }
    for name in ["abukiks", "abukiks-attached"] {
        one_image_is_for_all(folder.path(), name);
    }
}

fn one_image_is_for_all(folder: &Path, name: &str) {
    let archive = folder.join(format!("{name}-{}-image.tar", VERSIONS[0]));
    let source = format!("oci-archive:{}", archive.display());
    let index = succeed(Command::new("skopeo").args(["inspect", "--raw", &source]));
    let index: Value = serde_json::from_str(&index).expect("JSON");
    let manifests = index["manifests"].as_array().expect("a list").iter();
    let platforms = manifests.map(|manifest| manifest["platform"]["architecture"].as_str().expect("text"));
    assert_eq!(platforms.collect::<Vec<_>>(), ["amd64", "arm64"]);
    // skopeo checks each digest while it copies, and a registry gets the digests of the release.
    let copy = folder.join(format!("{name}-copy"));
    let copied = format!("oci:{}", copy.display());
    succeed(Command::new("skopeo").args(["copy", "--all", "--preserve-digests", &source, &copied]));
    for architecture in ["amd64", "arm64"] {
        let of = ["--override-arch", architecture, "inspect", "--config", &copied];
        let config: Value = serde_json::from_str(&succeed(Command::new("skopeo").args(of))).expect("JSON");
        assert_eq!(config["architecture"], architecture);
        assert_eq!(config["config"]["User"], "65532:65532");
    }
    // Its name is its version: there is no `latest`.
    let podman = Podman::new();
    let loaded = podman.run(&["load", "--input", &archive.display().to_string()]);
    let loaded = String::from_utf8(loaded.stdout).expect("text");
    assert_eq!(loaded, format!("Loaded image: localhost/{name}:{}\n", VERSIONS[0]));
}

#[test]
fn the_release_has_all_that_the_document_lists() {
    let document = fs::read_to_string("docs/release.md").expect("text");
    for name in made("0022", "UTC", "2001-01-01").keys() {
        let mut listed = name.to_string_lossy().replace(VERSIONS[0], "VERSION");
        for (architecture, machine) in [("amd64", "x86_64"), ("arm64", "aarch64")] {
            listed = listed.replace(architecture, "ARCH").replace(machine, "MACHINE");
        }
        assert!(document.contains(&format!("| `{listed}` |")), "{listed}");
    }
    let makefile = fs::read_to_string("Makefile").expect("text");
    for made in [
        "RELEASE_FOR ?= x86_64 aarch64\n".to_owned(),
        format!("for part in {}; do", PARTS.join(" ")),
        FORMATS.join(" "),
    ] {
        assert!(makefile.contains(&made), "make release makes them all: {made}");
    }
}
