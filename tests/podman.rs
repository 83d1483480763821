//! Runs images by podman: containers, and pods as the node of a cluster runs them, each with an address
//! of its own, behind a Service.

use std::fs;
use std::io::{self, Write as _};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::machine::{OwnNetwork, keep_namespace};
use crate::support::{Client, Process, eventually};

pub(crate) const IMAGE: &str = "localhost/abukiks:test";

/// The network of containers and pods.
pub(crate) const NETWORK: &str = "pods";

/// podman with a storage of the test's own.
#[derive(Debug)]
pub(crate) struct Podman {
    folder: TempDir,
    /// A network of its own, and a process that sees a folder of its own in the place of [`NETWORKS`].
    own: Option<(Process, OwnNetwork)>,
}

/// Where all podmans of root keep which addresses are taken, and how to reach the server of names, though
/// their networks may have nothing to do with each other.
const NETWORKS: &str = "/run/containers/networks";

impl Podman {
    pub(crate) fn new() -> Self {
        let folder = tempfile::Builder::new().prefix("podman").tempdir().expect("a folder");
        let podman = Self { folder, own: None };
        // Limits that a restricted system allows too, and a network with a server of names.
        let settings = format!(
            "[containers]\ndefault_ulimits = [\"nofile=8000:8000\", \"nproc=1000:1000\"]\n\
             [network]\nnetwork_backend = \"netavark\"\nnetwork_config_dir = {:?}\n",
            podman.file("networks")
        );
        fs::write(podman.file("containers.conf"), settings).expect("a file");
        podman
    }

    pub(crate) fn with_the_image() -> Self {
        let podman = Self::new();
        let image = podman.file("image.tar");
        let script = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("dev/image-for-test.sh");
        let made = Command::new(script).arg(&image).output().expect("the script runs");
        assert!(made.status.success(), "{made:?}");
        podman.run(&["load", "--quiet", "--input", &image.display().to_string()]);
        podman
    }

    /// The same, in a network of the test's own, which this thread enters; `None`, after a line that says
    /// so, without root.
    pub(crate) fn in_own_network() -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            let _ = writeln!(io::stderr(), "skipped: a network of containers, which needs root");
            return None;
        }
        let mut podman = Self::with_the_image();
        let mount = format!("mkdir -p {NETWORKS}; mount -t tmpfs tmpfs {NETWORKS}");
        podman.own = Some((keep_namespace("--mount", &mount), OwnNetwork::enter()));
        podman.run(&["network", "create", "--ipv6", NETWORK]);
        Some(podman)
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn command(&self) -> Command {
        let mut podman = Command::new("podman");
        if let Some((keeper, _)) = &self.own {
            podman = Command::new("nsenter");
            podman.arg(format!("--mount=/proc/{}/ns/mnt", keeper.pid().as_raw_nonzero())).arg("podman");
        }
        podman.env("CONTAINERS_CONF", self.file("containers.conf"));
        for (option, name) in [("--root", "storage"), ("--runroot", "run"), ("--tmpdir", "tmp")] {
            podman.arg(option).arg(self.file(name));
        }
        // These work on systems that restrict a container engine, too.
        podman.args(["--storage-driver", "vfs", "--cgroup-manager", "cgroupfs"]);
        podman.args(["--runtime", "runc", "--events-backend", "file"]);
        podman.stdin(Stdio::null());
        podman
    }

    fn try_run(&self, arguments: &[&str]) -> Output {
        self.command().args(arguments).output().expect("podman runs")
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Output {
        let output = self.try_run(arguments);
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        output
    }

    /// What a command prints, or a container's log with both of its streams.
    pub(crate) fn said(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        String::from_utf8([output.stdout, output.stderr].concat()).expect("text").trim_end().to_owned()
    }

    /// A property of a container.
    pub(crate) fn inspect(&self, container: &str, what: &str) -> String {
        self.said(&["container", "inspect", "--format", &format!("{{{{{what}}}}}"), container])
    }

    /// A program that runs podman with this storage, for callers that take a program without arguments.
    pub(crate) fn wrapper(&self) -> PathBuf {
        let file = self.file("podman");
        let command = self.command();
        let words = std::iter::once(command.get_program()).chain(command.get_args());
        let words: Vec<_> = words.map(|word| word.to_string_lossy()).collect();
        fs::write(&file, format!("#!/bin/sh\nexec {} \"$@\"\n", words.join(" "))).expect("a file");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).expect("a file");
        file
    }

    /// Makes an image of the Redis of this machine, under the name of another.
    pub(crate) fn import_redis(&self, name: &str) {
        let script = ["-euc", REDIS_IMAGE, "sh"];
        let mut import = Command::new("sh");
        import.args(script).arg(self.file("redis")).arg(self.wrapper()).arg(name);
        let output = import.env("CONTAINERS_CONF", self.file("containers.conf")).output().expect("a shell");
        assert!(output.status.success(), "{output:?}");
    }

    /// Lays out a Secret as a node does: for the group of the pod (`fsGroup`) alone.
    pub(crate) fn keep_secret(&self, secret: &str, key: &str, value: &str, group: u32) {
        let folder = self.secret(secret);
        fs::create_dir_all(&folder).expect("a folder");
        let file = folder.join(key);
        fs::write(&file, value).expect("a file");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o440)).expect("a file");
        chown(&file, None, Some(group)).expect("root may");
    }

    fn secret(&self, name: &str) -> PathBuf {
        self.file("secrets").join(name)
    }

    /// Plays a pod of a Deployment, a `StatefulSet` or a Job, under this name and with these labels. In
    /// the network it has the name `alias`, too.
    pub(crate) fn play(&self, object: &Value, name: &str, alias: &str, labels: &[(&str, &str)]) -> Pod<'_> {
        let template = &object["spec"]["template"];
        let mut pod = json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": { "name": name, "labels": template["metadata"]["labels"] },
            "spec": template["spec"],
        });
        for (label, value) in labels {
            pod["metadata"]["labels"][label] = json!(value);
        }
        let mut documents = Vec::new();
        let mut volumes = pod["spec"]["volumes"].as_array().cloned().unwrap_or_default();
        for volume in &mut volumes {
            // podman 4 knows no volume of a Secret.
            if let Some(secret) = volume["secret"]["secretName"].as_str() {
                *volume = json!({ "name": volume["name"], "hostPath": { "path": self.secret(secret) } });
            }
        }
        for claim in object["spec"]["volumeClaimTemplates"].as_array().into_iter().flatten() {
            let volume = &claim["metadata"]["name"];
            let claimed = format!("{}-{name}", volume.as_str().expect("a name"));
            volumes.push(json!({ "name": volume, "persistentVolumeClaim": { "claimName": claimed } }));
            if self.try_run(&["volume", "exists", &claimed]).status.success() {
                continue;
            }
            documents.push(json!({
                "apiVersion": "v1",
                "kind": "PersistentVolumeClaim",
                "metadata": { "name": claimed },
                "spec": claim["spec"],
            }));
        }
        pod["spec"]["volumes"] = json!(volumes);
        let container = pod["spec"]["containers"][0].as_object_mut().expect("a container");
        let described = Value::Object(container.clone());
        // podman would publish the ports on the node, and ask with programs that the image does not have.
        for part in ["ports", "readinessProbe", "livenessProbe"] {
            container.remove(part);
        }
        documents.push(pod);
        let file = self.file("pod.yaml");
        let documents: Vec<_> = documents.iter().map(Value::to_string).collect();
        fs::write(&file, documents.join("\n---\n")).expect("a file");
        let network = format!("{NETWORK}:alias={alias}");
        self.run(&["kube", "play", "--network", &network, &file.display().to_string()]);

        let container = format!("{name}-{}", described["name"].as_str().expect("a name"));
        let address = format!("(index .NetworkSettings.Networks \"{NETWORK}\").IPAddress");
        let address = self.inspect(&container, &address);
        Pod {
            address: address.parse().unwrap_or_else(|_| panic!("{address} is no address")),
            podman: self,
            grace: template["spec"]["terminationGracePeriodSeconds"].as_u64().unwrap_or(30),
            container,
            described,
        }
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        // A test that failed may have left its containers.
        for kind in ["pod", "container"] {
            self.try_run(&[kind, "rm", "--all", "--force", "--time", "0"]);
        }
    }
}

/// A pod that runs, or has ended.
#[derive(Debug)]
pub(crate) struct Pod<'a> {
    podman: &'a Podman,
    /// The name of its only container.
    pub(crate) container: String,
    pub(crate) address: Ipv4Addr,
    /// Its container as the manifest describes it.
    described: Value,
    /// `terminationGracePeriodSeconds`.
    grace: u64,
}

impl Pod<'_> {
    /// The address of the port with this name.
    pub(crate) fn port(&self, name: &Value) -> SocketAddr {
        let ports = self.described["ports"].as_array().expect("ports");
        let port = ports.iter().find(|port| port["name"] == *name).expect("a port of this name");
        let number = port["containerPort"].as_u64().and_then(|port| port.try_into().ok());
        SocketAddr::new(self.address.into(), number.expect("a number"))
    }

    /// Where it listens for visitors.
    pub(crate) fn http(&self) -> SocketAddr {
        self.port(&json!("http"))
    }

    /// What the cluster's probe for readiness is answered, if it is.
    fn probe(&self) -> Option<u16> {
        let probe = &self.described["readinessProbe"]["httpGet"];
        let address = self.port(&probe["port"]);
        Client::try_get(address, probe["path"].as_str().expect("a path")).ok().map(|answer| answer.status)
    }

    pub(crate) fn wait_until_ready(&self) {
        eventually("the pod is ready", || (self.probe() == Some(200)).then_some(()));
    }

    /// Ends it as a cluster does. Returns when it is not ready any more, long before it has ended.
    pub(crate) fn begin_to_end(&self) -> Process {
        let mut stop = self.podman.command();
        stop.args(["stop", "--time", &self.grace.to_string(), &self.container]).stdout(Stdio::null());
        let stop = Process::spawn(&mut stop);
        eventually("the pod is not ready", || (self.probe() != Some(200)).then_some(()));
        stop
    }

    pub(crate) fn log(&self) -> String {
        self.podman.said(&["logs", &self.container])
    }

    /// Waits for its end, and returns the exit status.
    pub(crate) fn status(&self) -> String {
        self.podman.said(&["wait", &self.container])
    }

    /// The folder of its process in /proc.
    pub(crate) fn proc(&self) -> PathBuf {
        Path::new("/proc").join(self.podman.inspect(&self.container, ".State.Pid"))
    }
}

/// A Service as kube-proxy makes it of packet filter rules: a new connection goes to one of the
/// endpoints at random, and stays with it.
#[derive(Debug)]
pub(crate) struct ClusterService {
    pub(crate) address: SocketAddr,
    target: Value,
}

impl ClusterService {
    /// Makes the rules of this Service, in a network that has pods.
    pub(crate) fn new(podman: &Podman, service: &Value) -> Self {
        let port = &service["spec"]["ports"][0];
        let number = port["port"].as_u64().and_then(|port| port.try_into().ok()).expect("a number");
        let address = Ipv4Addr::new(10, 96, 0, 10);
        let interface = podman.said(&["network", "inspect", "--format", "{{.NetworkInterface}}", NETWORK]);
        network(&format!("ip route add {address} dev {interface}"), "");
        // A bridge takes the lowest address of its ports, which may go with a pod, unless it was given one.
        let keep = format!("ip -o link show {interface} | grep -o 'link/ether [^ ]*' | cut -d' ' -f2");
        network(&format!("ip link set {interface} address $({keep})"), "");
        // A visitor gives a pod that is gone up after seven seconds, not after two minutes.
        network("echo 2 >/proc/sys/net/ipv4/tcp_syn_retries", "");
        network("iptables --wait -t nat -N SERVICE", "");
        network("iptables --wait -t nat -A OUTPUT -j SERVICE", "");
        Self { address: SocketAddr::new(address.into(), number), target: port["targetPort"].clone() }
    }

    /// Makes these pods its endpoints, all at once.
    pub(crate) fn lead_to(&self, pods: &[&Pod<'_>]) {
        let rules: String = (0..pods.len())
            .map(|index| {
                format!(
                    "-A SERVICE -d {} -p tcp --dport {} -m statistic --mode random --probability {} \
                     -j DNAT --to-destination {}\n",
                    self.address.ip(),
                    self.address.port(),
                    1.0 / (pods.len() - index) as f64,
                    pods[index].port(&self.target),
                )
            })
            .collect();
        // The declaration of the chain empties it.
        network("iptables-restore --wait --noflush", &format!("*nat\n:SERVICE - [0:0]\n{rules}COMMIT\n"));
    }
}

/// Changes the network of this thread.
fn network(command: &str, input: &str) {
    let script = format!("PATH=$PATH:/usr/sbin; {command} <<'END'\n{input}END\n");
    let output = Command::new("sh").args(["-c", &script]).output().expect("a shell");
    assert!(output.status.success(), "{script}{output:?}");
}

/// Like the official image it has a user 999, who owns the data.
const REDIS_IMAGE: &str = r#"
mkdir -p "$1/data" "$1/usr/bin"
cp "$(command -v redis-server)" "$1/usr/bin/"
ldd "$1/usr/bin/redis-server" | grep --only-matching '/[^ ]*' | while read -r library; do
    install -D "$library" "$1$library"
done
chown 999:999 "$1/data"
tar --create --directory "$1" . |
    "$2" import --quiet --change 'ENV PATH=/usr/bin' --change 'WORKDIR /data' --change 'VOLUME /data' - "$3"
"#;
