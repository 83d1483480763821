//! `backup-count` and `restore-count` in the sandbox, with the drop-in of docs/admin.md.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::process::Command;
use std::thread;

use crate::machine::Machine;

/// Builds the programs of admin/attached, which are none of this crate, and copies them into the machine.
fn boot() -> Option<Machine> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("the target folder");
    let built = Command::new(env!("CARGO"))
        .args(["build", "--quiet", "--locked", "--manifest-path"])
        .arg(root.join("admin/attached/Cargo.toml"))
        .arg("--target-dir")
        .arg(target)
        .status();
    assert!(built.expect("cargo").success());
    let machine = Machine::boot()?;
    for task in ["backup-count", "restore-count"] {
        let installed = machine.file("/usr/local/libexec/abukiks").join(task);
        let copied =
            Command::new("strip").arg(target.join("debug").join(task)).arg("-o").arg(installed).status();
        assert!(copied.expect("strip").success());
    }
    Some(machine)
}

#[test]
fn the_count_is_backed_up_into_a_folder_and_restored() {
    let Some(machine) = boot() else {
        return;
    };
    machine.drop_in(
        "abukiks@9.service",
        "[Service]\nStateDirectory=abukiks-backups\nEnvironment=BACKUP_URL=file:///var/lib/abukiks-backups\n",
    );
    machine.redis(&["SET", "visitorCount", "48213"]);
    machine.run(&["abukiks-admin", "--instance", "9", "backup-count"]);
    machine.redis(&["SET", "visitorCount", "7"]);
    let restored = machine.run(&["abukiks-admin", "--instance", "9", "restore-count"]);
    assert!(restored.ends_with("\nthe count was 7 and is now 48213\n"), "{restored}");
}

#[test]
fn only_the_task_gets_the_network_and_the_credential() {
    let Some(machine) = boot() else {
        return;
    };
    let manual =
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/admin.md")).expect("the manual");
    let (_, drop_in) = manual.split_once("```ini\n").expect("a drop-in");
    let (drop_in, _) = drop_in.split_once("```").expect("its end");
    let place = drop_in.lines().next().and_then(|line| line.strip_prefix("# ")).expect("its place");
    machine.write(place, drop_in);
    // A store that refuses everything, in the network of the machine.
    let store = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let endpoint = format!("AWS_ENDPOINT_URL=http://{}", store.local_addr().expect("an address"));
    // This machine has no authorities of its own.
    let authority = rcgen::generate_simple_self_signed(["store".to_owned()]).expect("a certificate");
    machine.write("/etc/store.pem", &authority.cert.pem());
    let settings =
        format!("{endpoint}\nAWS_ALLOW_HTTP=true\nAWS_REGION=here\nAWS_CA_BUNDLE=/etc/store.pem\n");
    machine.write("/etc/abukiks/9.env", &settings);
    machine.write(
        "/etc/credstore/abukiks.backup-env",
        "AWS_ACCESS_KEY_ID=fromTheCredential\nAWS_SECRET_ACCESS_KEY=secret\n",
    );
    machine.systemctl(&["daemon-reload"]);
    let request = thread::spawn(move || {
        let (stream, _) = store.accept().expect("the task connects");
        let mut lines = BufReader::new(&stream).lines().map(|line| line.expect("text"));
        let request: Vec<_> = lines.by_ref().take_while(|line| !line.is_empty()).collect();
        let content = "<Error><Code>AccessDenied</Code><Message>Not you</Message></Error>";
        let head = format!("HTTP/1.1 403 Forbidden\r\nContent-Length: {}\r\n\r\n", content.len());
        (&stream).write_all((head + content).as_bytes()).expect("the task reads");
        request.join("\n")
    });
    let refused = machine.try_run(&["abukiks-admin", "--instance", "9", "backup-count"]);
    let said = String::from_utf8(refused.stderr).expect("text");
    assert_eq!(refused.status.code(), Some(69), "{said}");
    assert!(said.contains("AccessDenied: Not you"), "{said}");
    let request = request.join().expect("a request");
    assert!(request.contains("Credential=fromTheCredential/"), "{request}");

    // Other instances, and the tasks without one, are as they were.
    let other = machine.try_run(&["abukiks-admin", "backup-count"]);
    assert_eq!(other.status.code(), Some(78), "{other:?}");
    machine.systemctl(&["start", "abukiks@5001"]);
    assert_eq!(machine.show("abukiks@5001", "PrivateNetwork"), "yes");
    assert!(!machine.show("abukiks@5001", "LoadCredential").contains("backup-env"));
}
