//! What a cluster would get of kubernetes/: rendered by kubectl, held against the service's own settings and
//! the strictest standard for pods, and run by podman. No cluster runs here. So is compose.yaml.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write as _};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use base64::prelude::{BASE64_STANDARD, Engine as _};
use serde_json::{Value, json};

use crate::contract::run_tool;
use crate::load::{Load, Tally};
use crate::podman::{ClusterService, IMAGE, Pod, Podman};
use crate::support::{Client, Redis, eventually, last_for, program};
use crate::systemd::backups::attached;

const FOLDERS: [&str; 5] = ["staging", "production", "reset-count", "backup-count", "mail-report"];

/// The version whose schemas they are held against.
const KUBERNETES: &str = "1.37.0";

/// The objects of a folder; `None`, after a line that says why, without kubectl. On CI that is a failure.
fn render(folder: &str) -> Option<Vec<Value>> {
    render_at(&Path::new("kubernetes").join(folder))
}

fn render_at(folder: &Path) -> Option<Vec<Value>> {
    let place = folder.display();
    let Ok(output) = Command::new("kubectl").arg("kustomize").arg(folder).output() else {
        let on_ci = std::env::var("CI").is_ok_and(|ci| ci == "true");
        assert!(!on_ci, "kubectl is missing");
        let _ = writeln!(io::stderr(), "skipped: kubectl is not here to render {place}");
        return None;
    };
    assert!(output.status.success(), "{place}: {}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).expect("text");
    let objects = serde_norway::Deserializer::from_str(&text)
        .map(|document| serde::Deserialize::deserialize(document).expect("YAML"));
    Some(objects.collect())
}

/// Production with the component for monitoring, as docs/kubernetes.md says it is named.
fn render_monitored() -> Option<Vec<Value>> {
    let folder = tempfile::tempdir().expect("a folder");
    let copied = Command::new("cp").args(["-R", "kubernetes/."]).arg(folder.path()).status();
    assert!(copied.expect("cp").success());
    let overlay = folder.path().join("production/kustomization.yaml");
    let production = fs::read_to_string(&overlay).expect("text");
    fs::write(&overlay, format!("{production}components: [../monitoring]\n")).expect("a file");
    render_at(overlay.parent().expect("a folder"))
}

fn find<'a>(objects: &'a [Value], kind: &str) -> &'a Value {
    objects.iter().find(|object| object["kind"] == kind).unwrap_or_else(|| panic!("there is no {kind}"))
}

/// The pod that an object asks for, if it does.
fn pod(object: &Value) -> &Value {
    let mut spec = &object["spec"];
    if object["kind"] == "CronJob" {
        spec = &spec["jobTemplate"]["spec"];
    }
    &spec["template"]["spec"]
}

/// What is set for the service in so many words.
fn environment(deployment: &Value) -> BTreeMap<String, String> {
    let listed = deployment["spec"]["template"]["spec"]["containers"][0]["env"].as_array().expect("a list");
    let text = |value: &Value| value.as_str().map(str::to_owned);
    listed.iter().filter_map(|entry| Some((text(&entry["name"])?, text(&entry["value"])?))).collect()
}

fn seconds(text: &str) -> Duration {
    Duration::from_secs(text.strip_suffix('s').expect("seconds").parse().expect("a number"))
}

#[test]
fn the_settings_are_accepted_and_the_times_fit_each_other() {
    for folder in ["staging", "production"] {
        let Some(objects) = render(folder) else { return };
        let deployment = find(&objects, "Deployment");
        let mut environment = environment(deployment);
        let secret = tempfile::tempdir().expect("a folder");
        let file = secret.path().join("redis-url");
        fs::write(&file, "redis://redis:6379/").expect("a file");
        environment.insert("REDIS_URL_FILE".to_owned(), file.display().to_string());
        let checked = program("abukiks", &[]).arg("--check-config").envs(&environment).output();
        let checked = checked.expect("it runs");
        assert!(checked.status.success(), "{checked:?}");
        let shown = String::from_utf8_lossy(&checked.stdout).into_owned();
        for name in environment.keys() {
            assert!(shown.contains(name.as_str()), "there is no setting {name}: {shown}");
        }

        let pod = &deployment["spec"]["template"]["spec"];
        let grace = pod["terminationGracePeriodSeconds"].as_u64().expect("seconds");
        let drain = seconds(&environment["DRAIN_TIMEOUT"]);
        assert!(Duration::from_secs(grace) > drain, "it is not killed while it drains");
        let probe = &pod["containers"][0]["readinessProbe"];
        let number = |name: &str| probe[name].as_u64().expect("a number");
        let noticed = Duration::from_secs(number("periodSeconds") * number("failureThreshold"));
        let lame_duck = seconds(&environment["DRAIN_LAME_DUCK"]);
        assert!(noticed < lame_duck && lame_duck < drain, "{noticed:?} {lame_duck:?} {drain:?}");
        assert_eq!(deployment["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"], 0);
        assert_eq!(find(&objects, "PodDisruptionBudget")["spec"]["maxUnavailable"], 1);
    }
}

/// All but the `ServiceMonitor`, whose kind the Prometheus Operator adds to a cluster.
#[test]
fn the_objects_are_valid_by_the_schemas_of_kubernetes() {
    let folder = tempfile::tempdir().expect("a folder");
    // How many objects it says this of; it may also know no schema.
    let count = |verdict: &str, objects: &[Value]| {
        let file = folder.path().join("objects.yaml");
        let documents: Vec<_> = objects.iter().map(Value::to_string).collect();
        fs::write(&file, documents.join("\n---\n")).expect("a file");
        let file = file.display().to_string();
        let output = run_tool("kubernetes-validate", &["--strict", "-k", KUBERNETES, &file]);
        let said = String::from_utf8([output.stdout, output.stderr].concat()).expect("text");
        (said.lines().filter(|line| line.contains(verdict)).count(), said)
    };
    let rendered =
        FOLDERS.iter().map(|name| (*name, render(name))).chain([("monitoring", render_monitored())]);
    for (name, objects) in rendered {
        let Some(mut objects) = objects else { return };
        objects.retain(|object| object["kind"] != "ServiceMonitor");
        let (passed, said) = count(" passed for ", &objects);
        assert_eq!(passed, objects.len(), "{name}: {said}");
        for object in &mut objects {
            object["spec"]["mistyped"] = json!(1);
        }
        let (refused, said) = count(" did not validate ", &objects);
        assert_eq!(refused, objects.len(), "{name}: {said}");
    }
}

/// Whether labels have all that a selector names.
fn selects(selector: &Value, labels: &Value) -> bool {
    let wanted = selector.as_object().expect("a map");
    !wanted.is_empty() && wanted.iter().all(|(name, value)| labels[name] == *value)
}

fn named<'a>(list: &'a Value, name: &Value) -> &'a Value {
    let wanted = |entry: &&Value| entry["name"] == *name;
    list.as_array().expect("a list").iter().find(wanted).unwrap_or_else(|| panic!("no {name} in {list}"))
}

#[test]
fn the_service_monitor_finds_each_pod_ready_or_not_at_its_monitoring_port() {
    let Some(objects) = render_monitored() else { return };
    let monitor = &find(&objects, "ServiceMonitor")["spec"];
    let services: Vec<_> = objects
        .iter()
        .filter(|object| object["kind"] == "Service")
        .filter(|service| selects(&monitor["selector"]["matchLabels"], &service["metadata"]["labels"]))
        .collect();
    assert_eq!(services.len(), 1, "each pod is scraped once: {services:?}");
    let (labels, service) = (&services[0]["metadata"]["labels"], &services[0]["spec"]);
    // An address for each pod, not one for all, and one for a pod without Redis too.
    assert_eq!(service["clusterIP"], "None");
    assert_eq!(service["publishNotReadyAddresses"], true);
    let deployment = find(&objects, "Deployment");
    assert!(selects(&service["selector"], &deployment["spec"]["template"]["metadata"]["labels"]));

    assert_eq!(monitor["endpoints"].as_array().expect("a list").len(), 1);
    let endpoint = &monitor["endpoints"][0];
    assert_eq!(endpoint["path"], "/metrics");
    let port = named(&service["ports"], &endpoint["port"]);
    let target = named(&container(deployment)["ports"], &port["targetPort"]);
    assert_eq!(target["containerPort"].to_string(), environment(deployment)["ADMIN_PORT"]);
    let visitors = &find_named(&objects, "Service", "abukiks")["spec"]["ports"];
    let public = visitors.as_array().expect("a list").iter().map(|port| &port["targetPort"]);
    assert!(public.eq([&json!("http")]), "visitors reach no metrics: {visitors}");
    let admitted = find(&objects, "NetworkPolicy")["spec"]["ingress"].as_array().expect("a list");
    let opened = admitted.iter().find(|rule| rule["ports"][0]["port"] == target["name"]).expect("a rule");
    assert_eq!(
        opened["from"],
        json!([{ "namespaceSelector": { "matchLabels": { "kubernetes.io/metadata.name": "monitoring" } } }])
    );

    let job = labels[monitor["jobLabel"].as_str().expect("a label")].as_str().expect("a name");
    let rules = fs::read_to_string("monitoring/abukiks.rules.yml").expect("text");
    assert!(rules.contains(&format!("up{{job=\"{job}\"}}")), "alerts look for another job than {job}");
}

/// <https://kubernetes.io/docs/concepts/security/pod-security-standards/#restricted>
#[test]
fn each_pod_keeps_to_the_restricted_standard() {
    for folder in FOLDERS {
        let Some(objects) = render(folder) else { return };
        let pods = objects.iter().map(pod).filter(|pod| !pod.is_null());
        let mut count = 0;
        for pod in pods {
            count += 1;
            assert_eq!(pod["securityContext"]["runAsNonRoot"], true, "{folder}");
            assert_eq!(pod["securityContext"]["seccompProfile"]["type"], "RuntimeDefault", "{folder}");
            assert_eq!(pod["automountServiceAccountToken"], false, "{folder}");
            for container in pod["containers"].as_array().expect("a list") {
                let context = &container["securityContext"];
                assert_eq!(context["allowPrivilegeEscalation"], false, "{folder}");
                assert_eq!(context["capabilities"]["drop"], json!(["ALL"]), "{folder}");
                assert_eq!(context["readOnlyRootFilesystem"], true, "{folder}");
                assert!(container["resources"]["limits"]["memory"].is_string(), "{folder}");
            }
        }
        assert!(count >= 1, "{folder} has a pod");
    }
}

#[test]
fn production_holds_no_secret() {
    let Some(objects) = render("production") else { return };
    assert!(objects.iter().all(|object| object["kind"] != "Secret"));
}

#[test]
fn all_that_names_an_image_names_that_of_this_version() {
    let version = format!("v{}", env!("CARGO_PKG_VERSION"));
    let image = format!("ghcr.io/abukiks/abukiks:{version}");
    for path in ["compose.yaml", "quadlet/abukiks.container", "README.md"] {
        let text = fs::read_to_string(path).expect("text");
        assert!(text.contains(&image), "{path}");
    }
    for folder in FOLDERS {
        let Some(objects) = render(folder) else { return };
        let is_attached = objects.iter().any(|object| object["kind"] == "CronJob");
        let image = if is_attached { image.replace("abukiks:", "abukiks-attached:") } else { image.clone() };
        assert!(
            objects.iter().any(|object| object.to_string().contains(&format!("\"{image}\""))),
            "{folder}"
        );
    }
}

#[test]
fn the_cron_job_backs_the_count_up_in_the_other_image() {
    let Some(objects) = render("backup-count") else { return };
    let container = &pod(find(&objects, "CronJob"))["containers"][0];
    let (redis, folder) =
        (Redis::start_with(&["--unixsocketperm", "777"]), tempfile::tempdir().expect("a folder"));
    redis.run::<()>(&["SET", "visitorCount", "42"]);
    let [backups, secret, images] = ["backups", "secret", "images"].map(|name| folder.path().join(name));
    for place in [&backups, &secret] {
        fs::create_dir(place).expect("a folder");
        fs::set_permissions(place, fs::Permissions::from_mode(0o777)).expect("it is ours");
    }
    fs::write(secret.join("redis-url"), "unix:///redis.sock").expect("a file");
    let packed = Command::new("dev/package.sh")
        .args([attached(), &images])
        .arg("image")
        .envs([("PART", "attached"), ("VERSION", "test")])
        .output();
    let packed = packed.expect("the script runs");
    assert!(packed.status.success(), "{packed:?}");
    let image = fs::read_dir(&images).expect("a folder").flatten().next().expect("an image").path();
    let podman = Podman::new();
    podman.run(&["load", "--quiet", "--input", &image.display().to_string()]);

    let mut command = podman.command();
    command.args(["run", "--rm", "--network", "host", "--read-only", "--cap-drop", "all", "--user", "65532"]);
    for (here, there) in [
        (redis.socket(), "/redis.sock"),
        (backups.clone(), "/backups"),
        (secret, container["volumeMounts"][0]["mountPath"].as_str().expect("a path")),
    ] {
        command.arg("--volume").arg(format!("{}:{there}", here.display()));
    }
    for variable in container["env"].as_array().expect("a list") {
        let text = |name: &str| variable[name].as_str().expect("text");
        command.arg("--env").arg(format!("{}={}", text("name"), text("value")));
    }
    command.args(["--env", "BACKUP_URL=file:///backups", "localhost/abukiks-attached:test"]);
    let task = container["command"][0].as_str().expect("a program");
    let backed_up = command.arg(task).output().expect("podman runs");
    let said = String::from_utf8_lossy(&backed_up.stdout);
    assert!(said.starts_with("the count 42 is backed up in file:///backups/visitorCount/"), "{backed_up:?}");
    assert_eq!(fs::read_dir(backups.join("visitorCount")).expect("a folder").count(), 1);
}

/// The overlay for staging, played by podman: its Redis, and pods behind its Service.
struct Staging {
    objects: Vec<Value>,
    podman: Podman,
}

impl Staging {
    fn start() -> Option<Self> {
        let objects = render("staging")?;
        let podman = Podman::in_own_network()?;
        podman.run(&["tag", IMAGE, &image(find(&objects, "Deployment"))]);
        podman.import_redis(&image(find(&objects, "StatefulSet")));
        let secret = find(&objects, "Secret");
        let name = secret["metadata"]["name"].as_str().expect("a name");
        let url = secret["data"]["redis-url"].as_str().and_then(|url| BASE64_STANDARD.decode(url).ok());
        let url = url.and_then(|url| String::from_utf8(url).ok()).expect("text in base64");
        podman.keep_secret(name, "redis-url", &url, group(find(&objects, "Deployment")));
        Some(Self { objects, podman })
    }

    /// Plays the pod of Redis, under the name that staging has for it.
    fn redis(&self) -> Pod<'_> {
        self.podman.play(find(&self.objects, "StatefulSet"), "redis-0", "redis", &[])
    }

    /// Plays a pod of this Deployment, which is ready then, and which Redis may let wait: it is not the
    /// speed of this machine that is tested.
    fn pod(&self, deployment: &Value, name: &str, release: &str) -> Pod<'_> {
        let patient = with_setting(deployment, "REDIS_TIMEOUT", "60s");
        let pod = self.podman.play(&patient, name, name, &[("pod-template-hash", release)]);
        pod.wait_until_ready();
        pod
    }

    /// Replaces pods under load, as a Deployment does with `maxSurge: 1` and `maxUnavailable: 0`, and a
    /// Service that still leads to an old pod for [`LAG`] after that has begun to end.
    fn roll_out(&self, deployment: &Value, replicas: usize) -> Tally {
        let pod =
            |release: &str, index| self.pod(deployment, &format!("{release}-{replicas}-{index}"), release);
        let mut old: Vec<_> = (0..replicas).map(|index| pod("old", index)).collect();
        let service = ClusterService::new(&self.podman, find_named(&self.objects, "Service", "abukiks"));
        let mut new = Vec::new();
        let mut ending = Vec::new();
        let lead =
            |old: &[Pod<'_>], new: &[Pod<'_>]| service.lead_to(&old.iter().chain(new).collect::<Vec<_>>());
        lead(&old, &new);
        let load = Load::at(&[service.address], 4);
        load.wait_for(100);
        while !old.is_empty() {
            new.push(pod("new", new.len()));
            lead(&old, &new);
            let stop = old[0].begin_to_end();
            last_for(LAG);
            ending.push((old.remove(0), stop));
            lead(&old, &new);
        }
        load.wait_for(100);
        for (pod, mut stop) in ending {
            assert!(stop.wait().success());
            assert_eq!(pod.status(), "0", "it was killed: {}", pod.log());
            assert!(pod.log().contains("\"message\":\"drained\""), "{}", pod.log());
        }
        let tally = load.stop();
        for pod in new {
            let log = pod.log();
            let visit = |line: &str| {
                ["\"http_path\":\"/\"", "\"release\":\"new\""].iter().all(|part| line.contains(part))
            };
            assert!(log.lines().any(visit), "no visit came to {}: {log}", pod.container);
        }
        tally
    }
}

/// For how long the nodes of a cluster do not know that a pod ends. Much less than `DRAIN_LAME_DUCK`.
const LAG: Duration = Duration::from_secs(2);

/// The Deployment with another setting.
fn with_setting(deployment: &Value, name: &str, value: &str) -> Value {
    let mut deployment = deployment.clone();
    let environment = &mut deployment["spec"]["template"]["spec"]["containers"][0]["env"];
    let environment = environment.as_array_mut().expect("a list");
    environment.retain(|entry| entry["name"] != name);
    environment.push(json!({ "name": name, "value": value }));
    deployment
}

fn find_named<'a>(objects: &'a [Value], kind: &str, name: &str) -> &'a Value {
    let wanted = |object: &&Value| object["kind"] == kind && object["metadata"]["name"] == name;
    objects.iter().find(wanted).unwrap_or_else(|| panic!("there is no {kind} {name}"))
}

fn container(object: &Value) -> &Value {
    &object["spec"]["template"]["spec"]["containers"][0]
}

fn image(object: &Value) -> String {
    container(object)["image"].as_str().expect("a name").to_owned()
}

/// The group that secrets are for.
fn group(object: &Value) -> u32 {
    let group = object["spec"]["template"]["spec"]["securityContext"]["fsGroup"].as_u64();
    group.and_then(|group| group.try_into().ok()).expect("a number")
}

fn count_at(redis: &Pod<'_>) -> i64 {
    let client = redis::Client::open(format!("redis://{}/", redis.address)).expect("a URL");
    let mut connection = eventually("Redis answers", || client.get_connection().ok());
    redis::cmd("GET").arg("visitorCount").query(&mut connection).expect("a number")
}

/// Asks a service, which may just be coming like its Redis, until it counts.
fn visit(address: SocketAddr) -> i64 {
    eventually("a visit is counted", || {
        let answer = Client::try_get(address, "/").ok()?;
        (answer.status == 200).then(|| answer.number())
    })
}

/// No request fails, no number is given twice, and none is missing: it is the lame duck that sees to it.
#[test]
fn a_rolling_update_under_load_loses_no_visit() {
    let Some(staging) = Staging::start() else { return };
    let redis = staging.redis();
    let deployment = find(&staging.objects, "Deployment");
    let replicas = deployment["spec"]["replicas"].as_u64().expect("a number");
    let tally = staging.roll_out(deployment, usize::try_from(replicas).expect("a few"));
    assert!(tally.is_flawless(), "{tally}");
    assert!(tally.is_unique(), "a number was given twice");
    assert_eq!(count_at(&redis), i64::try_from(tally.numbers().len()).expect("a number"));
}

#[test]
fn a_rolling_update_without_a_lame_duck_refuses_connections() {
    let Some(staging) = Staging::start() else { return };
    let redis = staging.redis();
    let deployment = with_setting(find(&staging.objects, "Deployment"), "DRAIN_LAME_DUCK", "0s");
    let tally = staging.roll_out(&deployment, 1);
    assert!(!tally.unconnected.is_empty(), "{tally}");
    // What was connected was answered all the same.
    assert!(tally.unanswered.is_empty() && tally.refusals.is_empty(), "{tally}");
    assert_eq!(count_at(&redis), i64::try_from(tally.numbers().len()).expect("a number"));
}

#[test]
fn the_count_of_staging_outlives_the_pod_of_its_redis_until_the_job_resets_it() {
    let Some(staging) = Staging::start() else { return };
    let Some(admin) = render("reset-count") else { return };
    let podman = &staging.podman;
    let redis = staging.redis();
    let pod = staging.pod(find(&staging.objects, "Deployment"), "counter", "one");
    assert_eq!(visit(pod.http()), 1);
    assert_eq!(visit(pod.http()), 2);
    podman.run(&["kill", "--signal", "KILL", &redis.container]);
    podman.run(&["pod", "rm", "--force", "redis-0"]);
    let redis = staging.redis();
    assert_eq!(count_at(&redis), 2);
    assert_eq!(visit(pod.http()), 3);

    let job = podman.play(find(&admin, "Job"), "reset-count", "reset-count", &[]);
    assert_eq!(job.status(), "0", "{}", job.log());
    assert_eq!(job.log(), "the count was 3 and is now 0");
    assert_eq!(visit(pod.http()), 1);
}

#[test]
fn a_pod_has_no_rights_and_takes_the_password_from_its_secret() {
    let Some(objects) = render("production") else { return };
    let Some(staging) = Staging::start() else { return };
    let podman = &staging.podman;
    let mut redis = find(&staging.objects, "StatefulSet").clone();
    let arguments = redis["spec"]["template"]["spec"]["containers"][0]["args"].as_array_mut();
    arguments.expect("a list").extend([json!("--requirepass"), json!("let-me-in")]);
    podman.play(&redis, "redis-0", "redis", &[]);
    let deployment = find(&objects, "Deployment");
    // Production refers to a secret that is made by hand.
    let url = "redis://:let-me-in@redis:6379/\n";
    podman.keep_secret("abukiks-redis", "redis-url", url, group(deployment));
    let pod = staging.pod(deployment, "counter", "one");
    assert_eq!(visit(pod.http()), 1);
    let shown = podman.said(&["container", "inspect", &pod.container]) + &pod.log();
    assert!(!shown.contains("let-me-in"), "{shown}");

    let proc = pod.proc();
    let status = fs::read_to_string(proc.join("status")).expect("a process");
    let user = "65532\t65532\t65532\t65532";
    let none = "0000000000000000";
    for (name, value) in [
        ("Uid", user),
        ("Gid", user),
        ("CapPrm", none),
        ("CapEff", none),
        ("CapBnd", none),
        ("CapAmb", none),
        ("NoNewPrivs", "1"),
        // A filter of system calls is in force.
        ("Seccomp", "2"),
    ] {
        assert!(status.contains(&format!("\n{name}:\t{value}\n")), "{name}: {status}");
    }
    let written = fs::write(proc.join("root/written"), "by root itself").expect_err("nothing can be written");
    assert_eq!(written.kind(), io::ErrorKind::ReadOnlyFilesystem);
    let wanted = container(deployment)["resources"]["limits"]["memory"].as_str().expect("a limit");
    let limit: u64 = podman.inspect(&pod.container, ".HostConfig.Memory").parse().expect("bytes");
    assert_eq!(format!("{}Mi", limit >> 20), wanted);
}

#[test]
fn compose_counts_and_keeps_the_count() {
    let Some(podman) = Podman::in_own_network() else { return };
    let text = fs::read_to_string("compose.yaml").expect("text");
    let compose: Value = serde_norway::from_str(&text).expect("YAML");
    let image = |service: &str| compose["services"][service]["image"].as_str().expect("a name").to_owned();
    podman.run(&["tag", IMAGE, &image("abukiks")]);
    podman.import_redis(&image("redis"));
    let wrapper = podman.wrapper();
    let run = |words: &[&str]| {
        let mut compose = Command::new("podman-compose");
        compose.arg("--podman-path").arg(&wrapper).args(["--project-name", "compose"]).args(words);
        let output = compose.env("CONTAINERS_CONF", podman.file("containers.conf")).output();
        let output = output.expect("podman-compose is there");
        assert!(output.status.success(), "{output:?}");
    };
    // Where the file says that it listens, in the network of this test.
    let visit = || visit(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 5000));
    run(&["up", "--detach"]);
    let first = visit();
    run(&["restart"]);
    let second = visit();
    assert!(second > first, "{first}, then {second}");
    run(&["down"]);
    assert_eq!(podman.said(&["ps", "--all", "--quiet"]), "");
    run(&["up", "--detach"]);
    assert!(visit() > second, "the count is lost");
    run(&["down", "--volumes"]);
}
