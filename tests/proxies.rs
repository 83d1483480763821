//! Behind the shipped settings of nginx and `HAProxy` a visit is passed on once, whatever happens to
//! its answer: a visit is not idempotent, and proxies ask again where they are let.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use rustix::process::Signal;
use tempfile::TempDir;

use crate::activation::admin_address;
use crate::load::Load;
use crate::machine::Machine;
use crate::support::{
    Client, Process, Redis, Response, Service, SetAtEnd, activated, eventually, held_socket,
};
use crate::systemd::{NEXT, next_release, report};

/// An instance that takes a visit and is gone before it answers.
fn instance_that_dies_with_each_visit() -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = held_socket();
    let address = listener.local_addr().expect("an address");
    let visits = Arc::new(AtomicUsize::new(0));
    let taken = visits.clone();
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            // HAProxy looks whether it is ready.
            let mut head = [0; 4096];
            let length = stream.read(&mut head).unwrap_or(0);
            if head[..length].starts_with(b"GET / ") {
                taken.fetch_add(1, Ordering::SeqCst);
            } else if length > 0 {
                let _ =
                    stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
            }
        }
    });
    (address, visits)
}

/// What the proxies must keep from visitors.
const INTERNAL: [&str; 4] = ["/healthz", "/readyz", "/metrics", "/status"];

/// A port that is free now. The proxies cannot be handed a socket, nor say which one they took.
pub(crate) fn free_port() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    listener.local_addr().expect("an address")
}

/// A shipped file, with this test's addresses in the place of the three that it has.
fn shipped(name: &str, instances: &[SocketAddr], own: SocketAddr) -> String {
    let proxies = Path::new(env!("CARGO_MANIFEST_DIR")).join("proxies");
    let text = fs::read_to_string(proxies.join(name)).expect("a shipped file");
    let mut settings = String::new();
    for line in text.lines() {
        // The line of the first instance stands for all of them.
        let instances = match line {
            line if line.contains("127.0.0.1:5000") => instances,
            line if line.contains("127.0.0.1:500") || line.contains("listen [::]:80;") => &[],
            _ => &[own],
        };
        for (number, instance) in instances.iter().enumerate() {
            settings += &line
                .replace("abukiks-5000", &format!("abukiks-{number}"))
                .replace("127.0.0.1:5000", &instance.to_string())
                .replace("listen 80;", &format!("listen {own};"))
                .replace("bind :::80 v4v6", &format!("bind {own}"))
                .replace(":80 {", &format!("{{\n\tadmin off\n}}\n:{} {{\n\tbind {}", own.port(), own.ip()))
                .replace("<VirtualHost *:80>", &format!("Listen {own}\n<VirtualHost {own}>"))
                .replace("/etc/nginx/abukiks", &proxies.display().to_string());
            settings.push('\n');
        }
    }
    settings
}

fn nginx(folder: &TempDir, instances: &[SocketAddr]) -> (Process, SocketAddr) {
    let own = free_port();
    nginx_with(folder, &shipped("nginx.conf", instances, own), own)
}

/// nginx with this `site`, which listens at `own`.
pub(crate) fn nginx_with(folder: &TempDir, site: &str, own: SocketAddr) -> (Process, SocketAddr) {
    let at = folder.path().display();
    let settings = format!(
        "daemon off;\nmaster_process off;\npid {at}/pid;\nerror_log stderr;\nevents {{}}\nhttp {{
         access_log off;\nclient_body_temp_path {at}/body;\nproxy_temp_path {at}/proxy;
         fastcgi_temp_path {at}/fastcgi;\nuwsgi_temp_path {at}/uwsgi;\nscgi_temp_path {at}/scgi;\n{site}}}"
    );
    start("nginx", &["-e", "stderr", "-c"], folder, &settings, own)
}

fn haproxy(folder: &TempDir, instances: &[SocketAddr]) -> (Process, SocketAddr) {
    let own = free_port();
    let settings = shipped("haproxy.cfg", instances, own);
    start("haproxy", &["-db", "-f"], folder, &settings, own)
}

fn caddy(folder: &TempDir, instances: &[SocketAddr]) -> (Process, SocketAddr) {
    let own = free_port();
    let listed: Vec<_> = instances.iter().map(ToString::to_string).collect();
    // They stand in one line.
    let all = "127.0.0.1:5000 127.0.0.1:5001 127.0.0.1:5002";
    let settings = shipped("Caddyfile", &instances[..1], own);
    let first = all.replace("127.0.0.1:5000", &listed[0]);
    let settings = settings.replace(&first, &listed.join(" "));
    start("caddy", &["run", "--adapter", "caddyfile", "--config"], folder, &settings, own)
}

fn apache(folder: &TempDir, instances: &[SocketAddr]) -> (Process, SocketAddr) {
    let own = free_port();
    let modules = ["mpm_event", "authz_core", "slotmem_shm", "alias", "headers", "proxy"];
    let of_proxy = ["proxy_http", "proxy_balancer", "lbmethod_byrequests"];
    let modules = modules
        .iter()
        .chain(&of_proxy)
        .map(|module| format!("LoadModule {module}_module /usr/lib/apache2/modules/mod_{module}.so\n"));
    let at = folder.path().display();
    let settings = format!(
        "{}ServerRoot {at}\nDefaultRuntimeDir {at}\nPidFile {at}/pid\nServerName test\nErrorLog /dev/stderr\n{}",
        modules.collect::<String>(),
        shipped("apache.conf", instances, own)
    );
    start("apache2", &["-DFOREGROUND", "-f"], folder, &settings, own)
}

/// Starts a proxy and waits until it listens.
fn start(
    program: &str,
    arguments: &[&str],
    folder: &TempDir,
    settings: &str,
    own: SocketAddr,
) -> (Process, SocketAddr) {
    let file = folder.path().join("settings");
    fs::write(&file, settings).expect("a file");
    let log = fs::File::create(folder.path().join("log")).expect("a file");
    let mut process = Process::spawn(
        Command::new(program)
            // Where Debian has what only root needs, whichever user runs the tests.
            .env("PATH", format!("{}:/usr/sbin", env!("PATH")))
            // Caddy keeps what it knows there.
            .env("HOME", folder.path())
            .args(arguments)
            .arg(file)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a second handle"))
            .stderr(log),
    );
    eventually("the proxy listens", || {
        let log = fs::read_to_string(folder.path().join("log")).unwrap_or_default();
        assert!(!process.has_ended(), "{program} has ended:\n{log}");
        TcpStream::connect(own).ok()
    });
    (process, own)
}

/// Starts a proxy in front of instances.
type Start = fn(&TempDir, &[SocketAddr]) -> (Process, SocketAddr);

/// What all visitors are promised, with an instance in between that loses answers.
fn each_visit_is_passed_on_once(start: Start) {
    let redis = Redis::start();
    let service = Service::start(&redis);
    let (dying, taken) = instance_that_dies_with_each_visit();
    let folder = tempfile::tempdir().expect("a folder");
    let (_proxy, address) = start(&folder, &[service.address, dying]);

    let visits = 20;
    let answers: Vec<_> = (0..visits).map(|_| Client::connect(address).get("/")).collect();
    let mut numbers: Vec<i64> =
        answers.iter().filter(|answer| answer.status == 200).map(Response::number).collect();
    numbers.sort_unstable();
    let counted = redis.count();
    assert_eq!(numbers, (1..=counted).collect::<Vec<_>>());
    let lost = taken.load(Ordering::SeqCst);
    assert!(lost > 0, "nothing was lost, so nothing is proved");
    assert_eq!(usize::try_from(counted).expect("a count") + lost, visits, "a visit was passed on twice");
    assert!(answers.iter().all(|answer| [200, 502].contains(&answer.status)));

    for path in INTERNAL {
        assert_eq!(Client::connect(address).get(path).status, 404, "{path}");
    }
}

/// A browser with a cookie, which knows nothing of instances.
struct Browser {
    number: i64,
    cookie: String,
}

impl Browser {
    /// Comes for the first time.
    fn come(proxy: SocketAddr) -> Self {
        let answer = Client::connect(proxy).get("/");
        Self { number: answer.number(), cookie: answer.cookie().expect("a cookie") }
    }

    /// Comes back, once more when an instance crashed under the request.
    fn come_back(&self, proxy: SocketAddr) {
        eventually("an answer", || {
            let request = format!("GET / HTTP/1.1\r\nHost: test\r\nCookie: {}\r\n\r\n", self.cookie);
            let answer =
                Client::connect(proxy).exchange(request).ok().filter(|answer| answer.status == 200)?;
            assert_eq!(answer.number(), self.number, "a visitor who came back has another number");
            Some(())
        });
    }
}

/// Factor VI: four instances, by turns, no affinity, while they are restarted and killed.
fn any_instance_continues_a_session(start: Start) {
    let redis = Redis::start();
    let settings = [("REDIS_URL", &*redis.url()), ("SESSION_LIFETIME", "1h")];
    let sockets = [(); 4].map(|()| held_socket());
    let run = |socket: &TcpListener| Service::from_command(activated(&[socket.as_fd()], &settings));
    let mut instances = sockets.each_ref().map(run);
    let addresses = sockets.each_ref().map(|socket| socket.local_addr().expect("an address"));
    let folder = tempfile::tempdir().expect("a folder");
    let (_proxy, proxy) = start(&folder, &addresses);

    let (threads, each, visits) = (8, 25, 50);
    let browsers: Vec<Vec<_>> =
        (0..threads).map(|_| (0..each).map(|_| Browser::come(proxy)).collect()).collect();
    let served = |instance: &Service| instance.metric("abukiks_visits_total{visitor=\"new\"}");
    assert!(instances.iter().all(|instance| served(instance) > 0.0), "all have their share");
    let over = AtomicBool::new(false);
    let mut ends = 0;
    thread::scope(|scope| {
        let coming = browsers.iter().map(|browsers| {
            scope.spawn(|| {
                for _ in 1..visits {
                    browsers.iter().for_each(|browser| browser.come_back(proxy));
                }
            })
        });
        let coming: Vec<_> = coming.collect();
        let over = &over;
        scope.spawn(move || {
            let _told = SetAtEnd(over);
            coming.into_iter().for_each(|thread| thread.join().expect("no browser has failed"));
        });
        for turn in (0..4).cycle() {
            if over.load(Ordering::Relaxed) {
                break;
            }
            let signal = if ends % 2 == 0 { Signal::TERM } else { Signal::KILL };
            instances[turn].process.signal(signal);
            instances[turn].process.wait();
            instances[turn] = run(&sockets[turn]);
            ends += 1;
        }
    });
    assert!(ends >= 4, "{ends} instances ended: too few to prove anything");
    assert_eq!(redis.count(), 200);
    let kept: Vec<String> = redis.run(&["KEYS", "{visitorCount}:session:*"]);
    assert_eq!(kept.len(), 200);
}

/// Whom the log of an instance names behind a proxy that is trusted.
fn the_visitor_is_known(start: Start) {
    let redis = Redis::start();
    let mut service = redis.service(&[("TRUSTED_PROXIES", "127.0.0.1"), ("SESSION_LIFETIME", "1h")]);
    let folder = tempfile::tempdir().expect("a folder");
    let (_proxy, proxy) = start(&folder, &[service.address]);
    // From another address of this machine than that of the proxy.
    let visitor = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
    visitor.bind(&SocketAddr::from(([127, 1, 2, 3], 0)).into()).expect("an address");
    visitor.connect(&proxy.into()).expect("the proxy listens");
    let mut visitor = Client { stream: std::io::BufReader::new(visitor.into()) };
    let forged = "X-Forwarded-For: 192.0.2.66\r\nX-Forwarded-Proto: https\r\nX-Request-Id: visitor\r\n";
    let answer = visitor.get_with("/", forged);
    assert_eq!(answer.status, 200, "{answer:?}");
    let cookie = answer.header("set-cookie").expect("a cookie");
    assert!(cookie.starts_with("abukiks_session="), "the proxy was asked without HTTPS: {cookie}");
    let line = service.log_line("\"request_id\":\"visitor\"");
    assert!(line.contains("\"client\":\"127.1.2.3\""), "{line}");
}

#[test]
fn the_visitor_is_known_behind_nginx_haproxy_caddy_and_apache() {
    [nginx, haproxy, caddy, apache].into_iter().for_each(the_visitor_is_known);
}

#[test]
fn behind_caddy_and_apache_a_visit_is_passed_on_once() {
    [caddy as Start, apache].into_iter().for_each(each_visit_is_passed_on_once);
}

#[test]
fn behind_nginx_any_instance_continues_a_session() {
    any_instance_continues_a_session(nginx);
}

#[test]
fn behind_haproxy_any_instance_continues_a_session() {
    any_instance_continues_a_session(haproxy);
}

#[test]
fn behind_nginx_a_visit_is_passed_on_once() {
    each_visit_is_passed_on_once(nginx);
}

#[test]
fn behind_haproxy_a_visit_is_passed_on_once() {
    each_visit_is_passed_on_once(haproxy);
}

/// A proxy in front of the instances that the shipped files name, as an administrator sets it up.
/// `files` are the shipped ones, each with its place.
fn instances_restart_and_crash_behind(proxy: &str, files: &[(&str, &str)]) {
    let Some(machine) = Machine::boot() else {
        return;
    };
    let ports = [5000, 5001, 5002];
    for port in ports {
        machine.systemctl(&["start", &format!("abukiks@{port}.socket")]);
    }
    for (shipped, place) in files {
        let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join(shipped);
        let text = fs::read_to_string(shipped).expect("a shipped file");
        machine.write(place, &text);
    }
    machine.systemctl(&["start", proxy]);

    // The first visitors start the instances, and each gets its share of them.
    let clients = 8;
    let load = Load::start(&[80], clients / 2);
    let served = |port| {
        let metrics = machine.connect(port).get("/metrics").body;
        let visits = "abukiks_http_requests_total{route=\"/\",status=\"200\"} ";
        metrics.lines().any(|line| line.starts_with(visits))
    };
    eventually("all instances serve", || ports.into_iter().all(served).then_some(()));

    // 200 restarts and 50 crashes were seen to fail no more; fewer are enough to notice a change.
    let repeated = |usual: usize| {
        let factor = std::env::var("PROXY_ROUNDS").ok().and_then(|rounds| rounds.parse().ok());
        usual * factor.unwrap_or(1)
    };
    let next = next_release(machine.programs());
    let releases = [(machine.programs(), env!("CARGO_PKG_VERSION")), (next.path(), NEXT)];
    let mut current = 0;
    let rounds = repeated(4);
    for round in 0..rounds {
        // By turns an upgrade, a rollback, and a restart between them.
        if round % 2 == 0 {
            current = 1 - current;
            machine.install(releases[current].0);
        }
        load.wait_for(20);
        // All at once, or one after the other: then visitors meet both releases.
        match round % 3 {
            1 => drop(machine.systemctl(&["restart", "abukiks@*.service"])),
            _ => ports.iter().for_each(|port| {
                load.wait_for(20);
                machine.systemctl(&["restart", &format!("abukiks@{port}")]);
            }),
        }
        for _ in ports {
            let version = machine.connect(80).get("/version").body;
            assert!(version.contains(releases[current].1), "round {round}: {version}");
        }
    }
    for path in INTERNAL {
        assert_eq!(machine.connect(80).get(path).status, 404, "{path}");
        assert_eq!(machine.connect(5000).get(path).status, 200, "{path}");
    }
    load.wait_for(20);
    let tally = load.stop();
    report(&format!("{} restarts behind {proxy}, every other round another release: {tally}", 3 * rounds));
    assert!(tally.is_flawless(), "restarts and releases behind {proxy}: {tally}");
    assert!(tally.is_unique());
    assert_eq!(machine.count(), tally.numbers().len() as i64);

    let before = tally.numbers().len();
    let crashes = repeated(10);
    let load = Load::start(&[80], clients / 2);
    for _ in 0..crashes {
        load.wait_for(20);
        machine.systemctl(&["kill", "--signal=KILL", "abukiks@5000"]);
    }
    load.wait_for(20);
    let tally = load.stop();
    assert!(tally.unconnected.is_empty(), "{tally}");
    assert!(tally.refusals.iter().all(|status| *status == 502), "{:?}", tally.refusals);
    // On a connection that has had an answer before, HAProxy says nothing and closes.
    report(&format!("{crashes} crashes behind {proxy}: {tally}"));
    let lost = tally.refusals.len() + tally.unanswered.len();
    assert!(lost <= clients * crashes, "{tally}");
    assert!(tally.is_unique(), "a number was given twice");
    // Those may have been counted or not; none of them was twice.
    let least = before + tally.numbers().len();
    let count = machine.count();
    assert!((least as i64..=(least + lost) as i64).contains(&count), "{count}: {tally}");

    machine.systemctl(&["kill", "--signal=KILL", "abukiks@*.service"]);
    eventually("it is over", || (machine.connect(80).get("/").status == 200).then_some(()));
}

#[test]
fn behind_nginx_instances_restart_and_crash_and_no_number_is_given_twice() {
    instances_restart_and_crash_behind(
        "nginx",
        &[
            // The place of Debian's own default site.
            ("proxies/nginx.conf", "/etc/nginx/sites-available/default"),
            ("proxies/proxy.conf", "/etc/nginx/abukiks/proxy.conf"),
        ],
    );
}

#[test]
fn behind_haproxy_instances_restart_and_crash_and_no_number_is_given_twice() {
    instances_restart_and_crash_behind("haproxy", &[("proxies/haproxy.cfg", "/etc/haproxy/haproxy.cfg")]);
}

/// What the shipped files have as a comment, taken in: one address can come ten times a second.
#[test]
fn the_rate_limits_that_are_offered_bound_how_often_one_address_comes() {
    let redis = Redis::start();
    let service = Service::start(&redis);
    for (file, program) in [("nginx.conf", "nginx"), ("haproxy.cfg", "haproxy")] {
        let folder = tempfile::tempdir().expect("a folder");
        let own = free_port();
        let settings = shipped(file, &[service.address], own);
        let settings = ["limit_req", "stick-table", "http-request"]
            .iter()
            .fold(settings, |settings, word| settings.replace(&format!("#{word}"), word));
        let (_proxy, proxy) = match program {
            "nginx" => nginx_with(&folder, &settings, own),
            _ => start("haproxy", &["-db", "-f"], &folder, &settings, own),
        };
        let answers: Vec<_> = (0..200).map(|_| Client::connect(proxy).get("/").status).collect();
        let served = answers.iter().filter(|status| **status == 200).count();
        assert!(answers.iter().all(|status| [200, 429].contains(status)), "{program}: {answers:?}");
        assert!((20..200).contains(&served), "{program}: {served} of 200");
    }
}

/// An instance with a port for monitoring tells its health there alone, so balancers must ask otherwise.
#[test]
fn the_lines_that_are_offered_find_an_instance_ready_that_has_a_port_for_monitoring() {
    let redis = Redis::start();
    let mut service = redis.service(&[("ADMIN_PORT", "0")]);
    let monitor = admin_address(&mut service);
    for (file, program, arguments, usual, asked) in [
        ("haproxy.cfg", "haproxy", &["-db", "-f"][..], "server abukiks-", "/readyz"),
        ("Caddyfile", "caddy", &["run", "--adapter", "caddyfile", "--config"], "health_uri ", "/count"),
    ] {
        let with = |is_offered: bool| {
            let own = free_port();
            let settings = shipped(file, &[service.address], own);
            // Caddy's instances stand in one line.
            let settings = settings.replace(" 127.0.0.1:5001 127.0.0.1:5002", "");
            let lines = settings.lines().filter(|line| !(is_offered && line.trim().starts_with(usual)));
            let lines: String = lines.map(|line| format!("{line}\n")).collect();
            let offered = lines.replace(&format!("#{usual}"), usual);
            let offered = offered.replace("port 15000", &format!("port {}", monitor.port()));
            let folder = tempfile::tempdir().expect("a folder");
            let settings = if is_offered { offered } else { lines };
            let (process, proxy) = start(program, arguments, &folder, &settings, own);
            (folder, process, proxy)
        };
        let (_folder, _proxy, address) = with(false);
        eventually("it is left out", || (Client::connect(address).get("/").status == 503).then_some(()));

        let (_folder, _proxy, address) = with(true);
        let checks = format!("abukiks_http_requests_total{{route=\"{asked}\",status=\"200\"}} ");
        let answered = || {
            let metrics = Client::connect(monitor).get("/metrics").body;
            let count = metrics.lines().find_map(|line| line.strip_prefix(&*checks)).map(str::parse);
            count.map_or(0, |count| count.expect("a number"))
        };
        let before = answered();
        // HAProxy leaves an instance out after three that failed.
        eventually("its health is asked", || (answered() >= before + 5).then_some(()));
        assert_eq!(Client::connect(address).get("/").status, 200, "{program}");
    }
}
