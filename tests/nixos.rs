//! What the NixOS module makes is what systemd runs: the unit trees in `nixos/tests/units`, which a
//! Nix check compares with the module, laid out as NixOS does and booted.

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::activation::INTERNAL;
use crate::machine::{Machine, put};
use crate::redis_url::Tls;
use crate::support::{Client, Process, eventually};
use crate::systemd::backups;

/// A file of the repository.
fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// What NixOS makes of one host: unit files, drop-ins, links, and files in the store, by their paths.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Tree(pub(crate) BTreeMap<String, Entry>);

/// One path of a tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Entry {
    Text(String),
    Link(String),
}

impl Tree {
    /// Reads a golden tree, with the Redis that it starts.
    pub(crate) fn golden(host: &str) -> Self {
        let mut tree = Self(BTreeMap::new());
        tree.read(&format!("{host}.units"));
        for (redis, server) in [("abukiks", "local"), ("main", "server")] {
            if tree.text("abukiks@.service.d/overrides.conf").contains(&format!("After=redis-{redis}")) {
                tree.read(&format!("{server}.redis"));
            }
        }
        tree
    }

    fn read(&mut self, name: &str) {
        let file = repository("nixos/tests/units").join(name);
        let text = fs::read_to_string(&file).unwrap_or_else(|error| panic!("{name}: {error}"));
        let mut open = None;
        for line in text.lines() {
            let heading = line.strip_prefix("# ");
            match (heading.map(|path| path.split_once(" -> ").ok_or(path)), &open) {
                (Some(Ok((path, target))), _) => {
                    self.0.insert(path.to_owned(), Entry::Link(target.to_owned()));
                }
                (Some(Err(path)), _) => {
                    self.0.insert(path.to_owned(), Entry::Text(String::new()));
                    open = Some(path.to_owned());
                }
                (None, Some(path)) => match self.0.get_mut(path) {
                    Some(Entry::Text(text)) => *text += &format!("{line}\n"),
                    _ => unreachable!("it was opened as a file"),
                },
                (None, None) => panic!("{name} begins with a heading"),
            }
        }
    }

    /// The lines of one file; none where it is missing.
    pub(crate) fn text(&self, path: &str) -> &str {
        match self.0.get(path) {
            Some(Entry::Text(text)) => text,
            _ => "",
        }
    }

    /// The lines of all files.
    pub(crate) fn lines(&self) -> impl Iterator<Item = &str> {
        self.0.keys().flat_map(|path| self.text(path).lines())
    }

    /// What the host has beside units.
    fn besides(&self) -> Value {
        serde_json::from_str(self.text("besides.json")).expect("JSON")
    }

    /// The ports whose units are wanted by a target: in its drop-in, or by a link.
    pub(crate) fn ports(&self, target: &str, kind: &str) -> Vec<u16> {
        let wants = self.text(&format!("{target}.target.d/overrides.conf"));
        let units = wants.lines().filter_map(|line| line.strip_prefix("Wants="));
        let folder = format!("{target}.target.wants/");
        let links = self.0.keys().filter_map(|path| path.strip_prefix(&folder));
        units
            .flat_map(|units| units.split(' '))
            .chain(links)
            .filter_map(|unit| {
                let port = unit.strip_prefix("abukiks@")?.strip_suffix(kind)?;
                Some(port.strip_suffix('.')?.parse().expect("a port"))
            })
            .collect()
    }

    /// The last address of the sockets in these drop-ins, before `port`.
    fn listen_address(&self, drop_ins: &[&str], port: &str) -> Option<IpAddr> {
        let streams = drop_ins.iter().flat_map(|path| self.text(path).lines());
        let last = streams.filter_map(|line| line.strip_prefix("ListenStream=")).next_back()?;
        let address = last.strip_suffix(port)?.strip_suffix(':')?;
        Some(address.trim_matches(['[', ']']).parse().expect("an address"))
    }

    /// Where an instance listens, as seen from its own machine.
    pub(crate) fn address(&self, port: u16) -> SocketAddr {
        let own = format!("abukiks@{port}.socket.d/settings.conf");
        let address = self.listen_address(&["abukiks@.socket.d/overrides.conf", &own], "%i");
        SocketAddr::new(address.unwrap_or(Ipv4Addr::LOCALHOST.into()), port)
    }

    /// Where an instance is asked for health, metrics and version.
    pub(crate) fn monitor(&self, port: u16) -> SocketAddr {
        match self.listen_address(&["abukiks-monitor@.socket.d/overrides.conf"], "1%i") {
            Some(address) => SocketAddr::new(address, 10_000 + port),
            None => self.address(port),
        }
    }

    /// Writes the tree below a root folder, as NixOS does: its units to `folder`, for
    /// `/etc/systemd/system` to lead to. `package` has the units of the package.
    pub(crate) fn lay_out(&self, root: &Path, folder: &str, package: &Path) {
        let units = root.join(folder.trim_start_matches('/'));
        fs::create_dir_all(&units).expect("a folder");
        for unit in fs::read_dir(package).expect("units").flatten() {
            let place = units.join(unit.file_name());
            let kind = unit.file_type().expect("a kind");
            if kind.is_symlink() {
                symlink(fs::read_link(unit.path()).expect("a link"), place).expect("a link");
            } else if kind.is_file() {
                fs::copy(unit.path(), place).expect("a unit");
            }
            // Drop-ins, which are in a folder, are a part of the tree.
        }
        for (path, entry) in &self.0 {
            let place = match path.strip_prefix('/') {
                Some(path) => root.join(path),
                None => units.join(path),
            };
            fs::create_dir_all(place.parent().expect("a folder")).expect("a folder");
            match entry {
                Entry::Text(text) => fs::write(&place, text).expect("a file"),
                Entry::Link(target) => symlink(target, &place).expect("a link"),
            }
            if path.ends_with("prep-conf") {
                let status = Command::new("chmod").arg("755").arg(&place).status();
                assert!(status.expect("chmod").success());
            }
        }
    }
}

/// What the units of a NixOS host find on it: programs and files in the store, users, and no
/// `/etc/systemd/system` but the tree. Secrets are there at boot, as from a secrets manager.
fn nixos(tree: &Tree, changes: &Path, root: &Path, secrets: &[(&str, &str)]) {
    let package = changes.join("usr/local/lib/systemd/system");
    tree.lay_out(changes, "nix/store/units", &package);
    let link = |target: &str, place: &str| {
        let place = changes.join(place);
        fs::create_dir_all(place.parent().expect("a folder")).expect("a folder");
        symlink(target, place).expect("a link");
    };
    link("/nix/store/units", "etc/systemd/system");
    link("/usr/bin/redis-server", "nix/store/redis/bin/redis-server");
    link("/bin/bash", "nix/store/bash/bin/bash");
    link("/bin/true", "nix/store/coreutils/bin/true");
    let proxy = fs::read_to_string(repository("proxies/proxy.conf")).expect("a shipped file");
    put(changes, "nix/store/proxy.conf", &proxy);
    for (name, id) in [("redis-abukiks", 901), ("keeper", 902)] {
        for (file, line) in [
            ("passwd", format!("{name}:x:{id}:{id}::/:/usr/sbin/nologin\n")),
            ("group", format!("{name}:x:{id}:\n")),
        ] {
            let path = format!("etc/{file}");
            let known = fs::read_to_string(changes.join(&path))
                .or_else(|_| fs::read_to_string(root.join(&path)))
                .expect("a list");
            put(changes, &path, &(known + &line));
        }
    }
    let lines: String = secrets
        .iter()
        .map(|(name, text)| format!("f+ \"/run/secrets/{name}\" 0400 root root - {text}\n"))
        .collect();
    put(changes, "etc/tmpfiles.d/secrets.conf", &lines);
}

/// Boots a golden tree.
pub(crate) fn boot(tree: &Tree, secrets: &[(&str, &str)]) -> Option<Machine> {
    Machine::boot_with(|changes, root| nixos(tree, changes, root, secrets))
}

/// Each declared instance runs or waits as it is to, tells its release, and has what all have.
/// Returns the numbers that one visit to each got.
fn declared_instances_count(machine: &Machine, tree: &Tree) -> Vec<i64> {
    let (sockets, eager) = (tree.ports("sockets", "socket"), tree.ports("multi-user", "service"));
    assert!(!sockets.is_empty());
    let mut numbers = Vec::new();
    for port in sockets {
        let unit = format!("abukiks@{port}.service");
        let state = machine.show(&unit, "ActiveState");
        assert_eq!(state == "active", eager.contains(&port), "{unit}: {state}");
        let address = tree.address(port);
        let answer = Client::connect(address).get("/");
        assert_eq!(answer.status, 200, "{unit}: {answer:?}");
        numbers.push(answer.number());

        let environment = machine.show(&unit, "Environment");
        let release = Client::connect(tree.monitor(port)).get("/version").body;
        let release: Value = serde_json::from_str(&release).expect("JSON");
        let release = release["release"].as_str().expect("text").to_owned();
        assert!(environment.contains(&format!("RELEASE={release}")), "{environment}");

        // One of all, one of its own: neither hides the other.
        let drop_ins = machine.show(&unit, "DropInPaths");
        for file in ["abukiks@.service.d/overrides.conf", &format!("{unit}.d/settings.conf")] {
            assert!(drop_ins.contains(&format!("/{file}")), "{drop_ins}");
        }
    }
    numbers
}

/// Whether a port is reached at an address.
fn listens(address: impl Into<IpAddr>, port: u16) -> bool {
    std::net::TcpStream::connect(SocketAddr::new(address.into(), port)).is_ok()
}

#[test]
fn with_a_local_redis_instances_join_its_group_and_have_no_network() {
    let tree = Tree::golden("local");
    let Some(machine) = boot(&tree, &[]) else {
        return;
    };
    assert_eq!(declared_instances_count(&machine, &tree), [1, 2]);
    for port in [5000, 5001] {
        let unit = format!("abukiks@{port}.service");
        assert_eq!(machine.show(&unit, "SupplementaryGroups"), "redis-abukiks");
        assert_eq!(machine.show(&unit, "PrivateNetwork"), "yes");
        assert!(machine.show(&unit, "After").contains("redis-abukiks.service"));
        // As README says.
        assert!(machine.exposure(&unit) <= 0.3);
    }
    // One that is started by hand has what all have.
    machine.systemctl(&["start", "abukiks@5009"]);
    assert_eq!(machine.connect(5009).get("/").number(), 3);
    assert_eq!(machine.run(&["abukiks-admin", "show-count"]), "3\n");
    machine.systemctl(&["start", "abukiks-admin@reset-count"]);
    assert_eq!(machine.connect(5000).get("/").number(), 1);
}

#[test]
fn a_redis_by_tcp_is_reached_with_the_credential_and_nothing_shows_it() {
    let tree = Tree::golden("tcp");
    let secrets = [("redis-url", "redis://:correct-horse@127.0.0.1:6379/")];
    let Some(machine) = boot(&tree, &secrets) else {
        return;
    };
    let _redis = redis_by_tcp(&machine, &["--requirepass", "correct-horse"]);
    assert_eq!(declared_instances_count(&machine, &tree), [1, 2]);
    assert_eq!(machine.run(&["abukiks-admin", "show-count"]), "2\n");
    for port in [5000, 5001] {
        let unit = format!("abukiks@{port}.service");
        assert!(machine.show(&unit, "Environment").contains("LOG_LEVEL=debug"));
        assert!(machine.exposure(&unit) <= 1.1);
        let environment = fs::read(machine.file(&format!("/proc/{}/environ", machine.main_pid(port))));
        assert!(!String::from_utf8_lossy(&environment.expect("it runs")).contains("horse"));
    }
    let units = machine.systemctl(&["cat", "abukiks@*"]);
    assert!(units.contains("LoadCredential=redis-url:/run/secrets/redis-url"));
    assert!(!units.contains("horse"));
    assert!(!machine.journal(&["--unit=abukiks@*"]).contains("horse"));
}

/// Another Redis of the machine, at the usual port.
fn redis_by_tcp(machine: &Machine, arguments: &[&str]) -> Process {
    let base = &["redis-server", "--port", "6379", "--save", ""];
    let mut command = machine.command(&[base, arguments].concat());
    let redis = Process::spawn(command.stdout(Stdio::null()));
    eventually("Redis listens", || listens(Ipv4Addr::LOCALHOST, 6379).then_some(()));
    redis
}

#[test]
fn a_redis_by_tls_is_shown_the_certificate_that_is_a_credential() {
    let tree = Tree::golden("tls");
    let mut tls = Tls::new();
    "127.0.0.1".clone_into(&mut tls.host);
    let server = tls.identity("127.0.0.1", |_| {});
    let client = tls.identity("client", |_| {});
    let Some(machine) = Machine::boot_with(|changes, root| {
        nixos(&tree, changes, root, &[]);
        for (name, file) in [
            ("ca.pem", &tls.file("ca.pem")),
            ("server.pem", &server.certificate),
            ("server.key", &server.key),
            ("client.pem", &client.certificate),
            ("client.key", &client.key),
        ] {
            let pem = fs::read_to_string(file).expect("a file");
            put(changes, &format!("etc/pki/redis/{name}"), &pem);
        }
    }) else {
        return;
    };
    // As a secrets manager leaves it.
    machine.run(&["chmod", "400", "/etc/pki/redis/client.key"]);
    let folder = "/etc/pki/redis";
    let _redis = redis_by_tcp(
        &machine,
        &[
            "--tls-port",
            "6390",
            "--tls-ca-cert-file",
            &format!("{folder}/ca.pem"),
            "--tls-cert-file",
            &format!("{folder}/server.pem"),
            "--tls-key-file",
            &format!("{folder}/server.key"),
            "--tls-auth-clients",
            "yes",
        ],
    );
    assert_eq!(declared_instances_count(&machine, &tree), [1]);
    assert_eq!(machine.run(&["abukiks-admin", "show-count"]), "1\n");
}

#[test]
fn settings_come_from_the_environment_files_and_the_later_one_wins() {
    let tree = Tree::golden("files");
    let secrets = [
        ("redis.env", "REDIS_URL=redis://127.0.0.1:6379/"),
        ("50% of all.env", "COUNTER_KEY=all"),
        ("5001.env", "COUNTER_KEY=own"),
    ];
    let escaped = secrets.map(|(name, text)| (name.replace('%', "%%"), text));
    let escaped: Vec<_> = escaped.iter().map(|(name, text)| (&**name, *text)).collect();
    let Some(machine) = boot(&tree, &escaped) else {
        return;
    };
    let _redis = redis_by_tcp(&machine, &[]);
    assert_eq!(declared_instances_count(&machine, &tree), [1, 1]);
    let get = |key: &str| machine.run(&["redis-cli", "GET", key]);
    assert_eq!(["all", "own", "settings"].map(get), ["1\n", "1\n", "\n"]);
    let files = machine.show("abukiks@5001", "EnvironmentFiles");
    assert!(files.contains("/run/secrets/5001.env"), "{files}");
    assert_eq!(
        machine.run(&["abukiks-admin", "--instance", "5001", "reset-count", "--to", "41"]),
        "the count was 1 and is now 41\n"
    );
}

#[test]
fn backups_and_reports_have_their_settings_secrets_and_times() {
    let tree = Tree::golden("tasks");
    let Some(machine) = Machine::boot_with(|changes, root| {
        backups::install(changes);
        nixos(&tree, changes, root, &[("mail-password", "correct-horse")]);
    }) else {
        return;
    };
    assert_eq!(declared_instances_count(&machine, &tree), [1]);
    for (timer, time) in
        [("abukiks-backup.timer", "*-*-* 03:00:00"), ("abukiks-report.timer", "*-*-* *:00:00")]
    {
        assert_eq!(machine.show(timer, "ActiveState"), "active");
        let times = machine.show(timer, "TimersCalendar");
        assert!(times.contains(&format!("OnCalendar={time} ")), "{times}");
        assert_eq!(times.matches("OnCalendar").count(), 1, "{times}");
    }
    machine.systemctl(&["start", "abukiks-admin@backup-count"]);
    let shown = machine.run(&["abukiks-admin", "restore-count"]);
    assert!(shown.starts_with("file:///var/lib/abukiks-backups/visitorCount/"), "{shown}");
    assert!(shown.ends_with("the count is 1 already\n"), "{shown}");

    // What the task would see.
    machine.write(
        "/usr/local/libexec/abukiks/see",
        "#!/bin/sh\nenv\ncat $CREDENTIALS_DIRECTORY/mail-password\ntrue\n",
    );
    machine.run(&["chmod", "755", "/usr/local/libexec/abukiks/see"]);
    let seen = |instance: &str| machine.run(&["abukiks-admin", "--instance", instance, "see"]);
    let report = seen("report");
    for line in [
        "REDIS_URL=unix:///run/redis-abukiks/redis.sock",
        "MAIL_URL=smtps://counter@mail.example.org",
        "MAIL_FROM=Abukiks <counter@example.org>",
        "MAIL_TO=owner@example.org, other@example.org",
        "correct-horse",
    ] {
        assert!(report.lines().any(|other| other == line), "{line}: {report}");
    }
    assert!(!seen("5000").contains("MAIL_"));
}

#[test]
fn an_instance_on_demand_starts_with_its_first_visitor() {
    let tree = Tree::golden("on-demand");
    let Some(machine) = boot(&tree, &[]) else {
        return;
    };
    assert_eq!(declared_instances_count(&machine, &tree), [1, 2]);
    assert!(machine.show("abukiks@5001", "Environment").contains("IDLE_EXIT=10m"));
    assert_eq!(machine.show("abukiks@5001", "ActiveState"), "active");
    assert!(!machine.show("abukiks@5000", "Environment").contains("IDLE_EXIT"));
}

#[test]
fn what_an_instance_has_of_its_own_wins_and_what_the_host_adds_to_all_holds() {
    let tree = Tree::golden("own");
    let secrets = [("redis-url", "redis://127.0.0.1:6379/2")];
    let Some(machine) = boot(&tree, &secrets) else {
        return;
    };
    let _redis = redis_by_tcp(&machine, &[]);
    // Each in a key or a Redis of its own.
    assert_eq!(declared_instances_count(&machine, &tree), [1, 1, 1, 1]);
    let get = |database: &str, key: &str| machine.run(&["redis-cli", "-n", database, "GET", key]);
    assert_eq!(get("2", "all"), "1\n");
    assert_eq!(get("3", "all"), "1\n");
    let memory = |port: u16| machine.show(&format!("abukiks@{port}"), "MemoryMax");
    let megabytes = |count: u64| (count << 20).to_string();
    assert_eq!([5000, 5001, 5002].map(memory), [256, 128, 256].map(megabytes));
    assert_eq!(machine.show("abukiks@5001", "ProcSubset"), "all");
    assert_eq!(machine.show("abukiks@5001", "Description"), "Abukiks of its own");
    assert_eq!(machine.show("system-abukiks.slice", "MemoryMax"), megabytes(2048));
    assert!(!listens(Ipv4Addr::LOCALHOST, 5004), "it is not enabled");
    for (port, count) in [("5001", "1\n"), ("5002", "1\n"), ("5003", "1\n")] {
        assert_eq!(machine.run(&["abukiks-admin", "--instance", port, "show-count"]), count);
    }
}

#[test]
fn instances_listen_on_their_addresses_and_no_other() {
    let tree = Tree::golden("addresses");
    let Some(machine) = boot(&tree, &[]) else {
        return;
    };
    assert_eq!(declared_instances_count(&machine, &tree), [1, 2, 3]);
    let (four, six): (IpAddr, IpAddr) = ("127.0.0.1".parse().unwrap(), "::1".parse().unwrap());
    let other: IpAddr = "127.0.0.2".parse().unwrap();
    for (port, reached) in
        [(5000, [false, true, false]), (5001, [true, false, false]), (5002, [true, true, true])]
    {
        assert_eq!([four, six, other].map(|address| listens(address, port)), reached, "{port}");
    }
    machine.systemctl(&["start", "abukiks@5009.socket"]);
    assert_eq!([four, six].map(|address| listens(address, 5009)), [false, true]);
}

#[test]
fn values_arrive_as_they_are_written() {
    let tree = Tree::golden("odd");
    let Some(machine) = boot(&tree, &[]) else {
        return;
    };
    let _redis = redis_by_tcp(&machine, &["--requirepass", "x"]);
    let environment = fs::read(machine.file(&format!("/proc/{}/environ", machine.main_pid(5000))));
    let environment = String::from_utf8(environment.expect("it runs")).expect("text");
    let variables: Vec<_> = environment.split('\0').collect();
    for expected in [
        "REDIS_URL=redis://a%20b@127.0.0.1:6379/",
        r#"COUNTER_KEY=100% 'of' "$HOME" \n %i"#,
        "RELEASE=50% $x",
        "SSL_CERT_DIR=/etc/ssl/certs of %i",
    ] {
        assert!(variables.contains(&expected), "{expected}: {environment:?}");
    }
    let allowed = machine.show("abukiks@5000", "IPAddressAllow");
    assert!(allowed.contains("203.0.113.7"), "{allowed}");
    assert!(!allowed.contains("10.0.0.0/8"), "{allowed}");
    // An admin process gets the same.
    let effective = machine.run(&["abukiks-admin", "--instance", "5000", "check-redis", "--help"]);
    assert!(!effective.is_empty());
}

#[test]
fn a_redis_of_the_host_that_other_services_use_is_joined_by_its_group() {
    let tree = Tree::golden("server");
    let Some(machine) = boot(&tree, &[]) else {
        return;
    };
    assert_eq!(declared_instances_count(&machine, &tree), [1]);
    assert_eq!(machine.show("abukiks@5000", "SupplementaryGroups"), "keeper");
    assert!(machine.show("abukiks@5000", "After").contains("redis-main.service"));
}

#[test]
fn the_template_and_both_example_hosts_count_behind_nginx() {
    for host in ["template", "staging", "production"] {
        let tree = Tree::golden(host);
        let Some(machine) = boot(&tree, &[]) else {
            return;
        };
        let numbers = declared_instances_count(&machine, &tree);
        let next = numbers.len() as i64 + 1;
        assert_eq!(numbers, (1..next).collect::<Vec<_>>(), "{host}");
        start_nginx(&machine, &tree);
        assert_eq!(machine.connect(80).get("/").number(), next, "{host}");
    }
}

#[test]
fn twenty_instances_are_balanced_by_nginx_and_seen_by_prometheus() {
    let tree = Tree::golden("twenty");
    let Some(machine) = boot(&tree, &[]) else {
        return;
    };
    let numbers = declared_instances_count(&machine, &tree);
    assert_eq!(numbers, (1..=20).collect::<Vec<_>>());

    start_nginx(&machine, &tree);
    for number in 21..=60 {
        assert_eq!(machine.connect(80).get("/").number(), number);
    }
    for path in ["/healthz", "/readyz", "/metrics"] {
        assert_eq!(machine.connect(80).get(path).status, 404, "{path}");
    }
    prometheus_sees(&machine, &tree, "20");
}

#[test]
fn health_and_metrics_are_at_ports_of_their_own_for_prometheus_and_nowhere_else() {
    let tree = Tree::golden("monitor");
    let Some(machine) = boot(&tree, &[]) else {
        return;
    };
    machine.systemctl(&["start", "abukiks@5009"]);
    assert_eq!(declared_instances_count(&machine, &tree), [1, 2, 3]);
    for port in [5000, 5001, 5002, 5009] {
        for path in INTERNAL {
            assert_eq!(Client::connect(tree.monitor(port)).get(path).status, 200, "{port}{path}");
            assert_eq!(machine.connect(port).get(path).status, 404, "{port}{path}");
        }
        assert_eq!(Client::connect(tree.monitor(port)).get("/").status, 404, "{port}");
        assert!(!listens(Ipv4Addr::LOCALHOST, 10_000 + port), "the address of the package");
    }
    start_nginx(&machine, &tree);
    assert_eq!(machine.connect(80).get("/").number(), 4);
    for path in INTERNAL {
        assert_eq!(machine.connect(80).get(path).status, 404, "{path}");
    }
    // Not the one that starts with its first visitor.
    prometheus_sees(&machine, &tree, "2");
}

/// Starts the Prometheus of this host, and waits until it gets metrics from so many instances.
fn prometheus_sees(machine: &Machine, tree: &Tree, instances: &str) {
    let settings = serde_json::json!({
        "global": { "scrape_interval": "1s" },
        "scrape_configs": tree.besides()["scrape_configs"],
    });
    machine.write("/etc/prometheus/prometheus.yml", &settings.to_string());
    machine.systemctl(&["start", "prometheus"]);
    eventually("Prometheus sees all instances", || {
        listens(Ipv4Addr::LOCALHOST, 9090).then_some(())?;
        let found = machine.connect(9090).get("/api/v1/query?query=sum(up)").body;
        let found: Value = serde_json::from_str(&found).ok()?;
        (found["data"]["result"][0]["value"][1] == instances).then_some(())
    });
}

/// Starts nginx with the settings of this host.
fn start_nginx(machine: &Machine, tree: &Tree) {
    let site = nginx_site(&tree.besides()["nginx"]);
    machine.write("/etc/nginx/sites-available/default", &site);
    machine.systemctl(&["start", "nginx"]);
}

/// The part of nginx's settings that NixOS writes for the module's values.
fn nginx_site(nginx: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut site = format!("upstream abukiks {{\n{}\n", text(&nginx["upstream"]["extraConfig"]));
    for (server, options) in nginx["upstream"]["servers"].as_object().expect("servers") {
        site += &format!("server {server} fail_timeout={};\n", text(&options["fail_timeout"]));
    }
    site += "}\nserver {\nlisten 80;\n";
    for (place, location) in nginx["locations"].as_object().expect("locations") {
        site += &format!("location {place} {{\n");
        for (option, directive) in [("proxyPass", "proxy_pass"), ("return", "return")] {
            if let Some(value) = location[option].as_str() {
                site += &format!("{directive} {value};\n");
            }
        }
        site += &format!("{}\n}}\n", text(&location["extraConfig"]));
    }
    site + "}\n"
}
