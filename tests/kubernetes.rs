//! What a cluster would get of kubernetes/: rendered by kubectl, held against the service's own settings and
//! the strictest standard for pods, and run by podman. No cluster runs here. So is compose.yaml.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write as _};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use crate::image::{IMAGE, Podman};
use crate::support::{Client, Redis, eventually, program};

const FOLDERS: [&str; 5] = ["staging", "production", "reset-count", "backup-count", "mail-report"];

/// The objects of a folder; `None`, after a line that says why, without kubectl.
fn render(folder: &str) -> Option<Vec<Value>> {
    let Ok(output) = Command::new("kubectl").args(["kustomize", &format!("kubernetes/{folder}")]).output()
    else {
        let _ = writeln!(io::stderr(), "skipped: kubectl is not here to render kubernetes/{folder}");
        return None;
    };
    assert!(output.status.success(), "{folder}: {}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).expect("text");
    let objects = serde_norway::Deserializer::from_str(&text)
        .map(|document| serde::Deserialize::deserialize(document).expect("YAML"));
    Some(objects.collect())
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
        .args([crate::systemd::backups::attached(), &images, Path::new("image")])
        .envs([("PART", "attached"), ("VERSION", "test")])
        .output();
    let packed = packed.expect("the script runs");
    assert!(packed.status.success(), "{packed:?}");
    let image = fs::read_dir(&images).expect("a folder").flatten().next().expect("an image").path();
    let podman = Podman::new();
    podman.run(&["load", "--quiet", "--input", &image.display().to_string()]);

    let mut command = podman.command();
    command.args(["run", "--rm", "--network", "host", "--read-only", "--cap-drop", "all", "--user", "65532"]);
    command.args(["--ulimit", "nofile=1000:1000", "--ulimit", "nproc=1000:1000"]);
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

/// Settings for what podman starts by itself: limits that a container engine may lend here, and a network
/// that knows names.
fn limits(folder: &Path) -> PathBuf {
    let file = folder.join("containers.conf");
    let limits = "default_ulimits = [\"nofile=1000:1000\", \"nproc=1000:1000\"]";
    let text = format!("[containers]\n{limits}\n[network]\nnetwork_backend = \"netavark\"\n");
    fs::write(&file, text).expect("a file");
    file
}

/// As far as podman and this machine can: with the network of the host, and without the cluster's probes.
#[test]
fn a_pod_serves_as_it_is_rendered() {
    let Some(objects) = render("production") else { return };
    let redis = Redis::start_with(&["--unixsocketperm", "777"]);
    let folder = tempfile::tempdir().expect("a folder");
    let secret = folder.path().join("secret");
    fs::create_dir(&secret).expect("a folder");
    fs::write(secret.join("redis-url"), "unix:///run/redis/redis.sock").expect("a file");
    for readable in [folder.path(), &secret, redis.folder()] {
        assert!(Command::new("chmod").arg("a+rx").arg(readable).status().expect("chmod").success());
    }
    let mut deployment = find(&objects, "Deployment").clone();
    deployment["spec"]["replicas"] = json!(1);
    let pod = &mut deployment["spec"]["template"]["spec"];
    pod["hostNetwork"] = json!(true);
    pod["volumes"] = json!([
        { "name": "redis-url", "hostPath": { "path": secret } },
        { "name": "redis", "hostPath": { "path": redis.folder() } },
    ]);
    let container = pod["containers"][0].as_object_mut().expect("a container");
    for part in ["ports", "readinessProbe", "livenessProbe"] {
        container.remove(part);
    }
    container["image"] = json!(IMAGE);
    let mounts = container["volumeMounts"].as_array_mut().expect("a list");
    mounts.push(json!({ "name": "redis", "mountPath": "/run/redis" }));
    let environment = container["env"].as_array_mut().expect("a list");
    environment.retain(|entry| entry["name"] != "ADMIN_PORT");
    environment.push(json!({ "name": "PORT", "value": "0" }));
    let file = folder.path().join("pod.yaml");
    fs::write(&file, deployment.to_string()).expect("a file");
    let limits = limits(folder.path());
    let podman = Podman::with_the_image();
    let mut play = podman.command();
    play.args(["kube", "play", "--network", "host"]).arg(&file).env("CONTAINERS_CONF", &limits);
    let played = play.output().expect("podman runs");
    assert!(played.status.success(), "{played:?}");
    let port: u16 = eventually("it listens", || {
        let log = podman.run(&["logs", "abukiks-pod-0-abukiks"]);
        let log = String::from_utf8_lossy(&[log.stdout, log.stderr].concat()).into_owned();
        let (_, rest) = log.split_once("\"listening\":\"http://")?;
        rest.split_once('/')?.0.rsplit_once(':')?.1.parse().ok()
    });
    let address = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port);
    assert_eq!(Client::connect(address).get("/").number(), 1);
    assert_eq!(redis.count(), 1);
}

/// An image of the Redis of this machine, under the name of another.
const REDIS_IMAGE: &str = r#"
cd "$1"
mkdir -p root/data root/usr/bin
cp "$(command -v redis-server)" root/usr/bin/
ldd root/usr/bin/redis-server | grep --only-matching '/[^ ]*' | while read -r library; do
    install -D "$library" "root$library"
done
tar --create --directory root . | "$2" import --quiet --change 'ENV PATH=/usr/bin' --change 'WORKDIR /data' - "$3"
"#;

#[test]
fn compose_starts_the_service_and_its_redis() {
    let podman = Podman::with_the_image();
    let folder = tempfile::Builder::new().prefix("compose").tempdir().expect("a folder");
    let limits = limits(folder.path());
    // podman-compose is told of a program, not of arguments.
    let wrapper = folder.path().join("podman");
    let command = podman.command();
    let words: Vec<_> = command.get_args().map(|word| word.to_string_lossy()).collect();
    fs::write(&wrapper, format!("#!/bin/sh\nexec podman {} \"$@\"\n", words.join(" "))).expect("a file");
    fs::set_permissions(&wrapper, fs::Permissions::from_mode(0o755)).expect("a file");

    let text = fs::read_to_string("compose.yaml").expect("text");
    let compose: Value = serde_norway::from_str(&text).expect("YAML");
    let image = |service: &str| compose["services"][service]["image"].as_str().expect("a name").to_owned();
    podman.run(&["tag", IMAGE, &image("abukiks")]);
    let imported = Command::new("sh")
        .args(["-euc", REDIS_IMAGE, "sh"])
        .args([folder.path(), &wrapper])
        .arg(image("redis"))
        .env("CONTAINERS_CONF", &limits)
        .output()
        .expect("a shell");
    assert!(imported.status.success(), "{imported:?}");
    // Port 5000 of this machine is not the test's.
    let file = folder.path().join("compose.yaml");
    fs::write(&file, text.replace("127.0.0.1:5000:5000", "127.0.0.1::5000")).expect("a file");

    let run = |words: &[&str]| {
        let mut command = Command::new("podman-compose");
        command.arg("--podman-path").arg(&wrapper).arg("--file").arg(&file).args(words);
        let output = command.env("CONTAINERS_CONF", &limits).output().expect("podman-compose is there");
        assert!(output.status.success(), "{output:?}");
    };
    run(&["up", "--detach"]);
    let project = folder.path().file_name().expect("a name").to_string_lossy().into_owned();
    let published = podman.run(&["ps", "--format", "{{.Ports}}"]);
    let published = String::from_utf8(published.stdout).expect("text");
    let (_, port) = published.split_once("127.0.0.1:").expect("a port");
    let port = port.split('-').next().and_then(|port| port.parse().ok()).expect("a number");
    let address = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port);
    let counted = eventually("it counts", || {
        let answer = Client::connect(address).get("/");
        (answer.status == 200).then(|| answer.number())
    });
    assert_eq!(counted, 1);
    run(&["down", "--volumes"]);
    podman.command().args(["network", "rm", &format!("{project}_default")]).output().expect("podman runs");
}
